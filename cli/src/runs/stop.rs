//! Ending runs: by asking their supervisors, by force, and by doing what a dead supervisor cannot do any more.

use std::thread;
use std::time::{Duration, Instant};

use cvs_store::ProcessId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::RunsError;
use super::record::{Found, Phase, Record, Records};
use super::supervise::{GRACE, clear_away};
use crate::context::Context;
use crate::error::CliError;

/// Between two looks at a run that ends.
const POLL: Duration = Duration::from_millis(20);
/// What a supervisor may take beyond ComfyUI's own grace: to unmount, and to find out who is left.
const CLEARING: Duration = Duration::from_secs(20);

/// What ending a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Its supervisor did it.
    Asked,
    /// What a dead supervisor left was cleared away.
    Cleared,
    /// It had ended by itself; only the record of that was there.
    Forgotten,
}

/// Ends a run and waits until everything of it is gone.
pub(crate) fn stop(context: &Context, name: &str) -> Result<Stopped, CliError> {
    let records = Records::of(context.store()?);
    let begun = Instant::now();
    let (mut sent, mut supervisor, mut was_live) = (0, None, false);
    loop {
        match records.find(name)? {
            Found::Nothing if was_live => {
                // It has nothing left to do but to end.
                while supervisor.as_ref().is_some_and(ProcessId::is_alive)
                    && begun.elapsed() < GRACE + CLEARING
                {
                    thread::sleep(POLL / 10);
                }
                return Ok(Stopped::Asked);
            }
            Found::Nothing => return Err(RunsError::NotRunning { version: name.to_owned() }.into()),
            Found::Left(record) => {
                let Some(held) = records.hold(name)? else { continue };
                let ended = |record: &Record| matches!(record.phase, Phase::Ended { .. });
                let had_ended = record.as_deref().is_some_and(ended);
                if let Some(record) = record {
                    clear_away(context, &record)?;
                }
                held.clear()?;
                return Ok(if had_ended { Stopped::Forgotten } else { Stopped::Cleared });
            }
            Found::Live(record) => {
                was_live = true;
                context.check_cancel()?;
                let waited = begun.elapsed();
                if waited > GRACE + 3 * CLEARING {
                    let version = name.to_owned();
                    return Err(match record.map(|record| record.supervisor).filter(ProcessId::is_alive) {
                        Some(ProcessId { pid, .. }) => RunsError::StillThere { version, pid },
                        // Nobody is to be told to kill a number that is not known, or another's.
                        None => {
                            let how = "is still being started or cleared away by another process".to_owned();
                            RunsError::AlreadyRuns { version, how }
                        }
                    }
                    .into());
                }
                // Asked, told to hurry, killed.
                let due = 1 + u32::from(waited > GRACE + CLEARING) + u32::from(waited > GRACE + 2 * CLEARING);
                if let Some(record) = record
                    && sent < due
                {
                    let signal = if due == 3 { Signal::SIGKILL } else { Signal::SIGTERM };
                    // Else the lock is held by who clears away after it, and its number may be anybody's by now.
                    if tell(&record.supervisor, signal) {
                        sent = due;
                        supervisor = Some(record.supervisor);
                    }
                }
                thread::sleep(POLL);
            }
        }
    }
}

/// Sends a signal to a process; false when it is gone, whoever has its number now.
fn tell(process: &ProcessId, signal: Signal) -> bool {
    process.is_alive() && kill(Pid::from_raw(process.pid.cast_signed()), signal).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_number_that_was_given_again_gets_no_signal() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let own = ProcessId::of(child.id()).unwrap();
        let earlier = ProcessId { start_time: own.start_time - 1, ..own.clone() };
        let other_boot = ProcessId { boot_id: "another".to_owned(), ..own.clone() };
        for gone in [earlier, other_boot] {
            assert!(!tell(&gone, Signal::SIGKILL), "{gone:?}");
        }
        assert!(child.try_wait().unwrap().is_none());
        assert!(tell(&own, Signal::SIGKILL));
        child.wait().unwrap();
        assert!(!tell(&own, Signal::SIGKILL));
    }
}
