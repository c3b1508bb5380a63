//! One child process and its group, from spawn to the end of the last of them.
//!
//! Each child has a thread that spawns it, waits for its end, and only then ends itself, because the kernel kills the
//! child when the thread that spawned it is gone (see `sys.rs`). When the child has ended, what is left of its group is
//! killed before it is reaped: until then the group's number cannot be anybody else's.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::error::RunError;
use super::log;
use super::sys;

/// How long a process may take to go after SIGKILL.
const KILLED: Duration = Duration::from_secs(20);

/// A child that leads a process group.
pub(super) struct Process {
    pid: Pid,
    status: Mutex<Option<ExitStatus>>,
    ended: Condvar,
}

/// What is read of a child.
pub(super) struct Pipes {
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// How an end begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kill {
    /// As Ctrl-C does, and by force after the grace.
    Gently,
    /// By force.
    Now,
}

impl Process {
    /// Starts `command`; `program` is what an error names.
    pub(super) fn spawn(mut command: Command, program: &Path) -> Result<(Arc<Process>, Pipes), RunError> {
        command.process_group(0);
        sys::die_with_parent(&mut command);
        let (sender, spawned) = mpsc::sync_channel(1);
        let keep = move || match command.spawn() {
            Err(error) => drop(sender.send(Err(error))),
            Ok(mut child) => {
                let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { return };
                let pipes = Pipes { stdout: child.stdout.take(), stderr: child.stderr.take() };
                let process = Arc::new(Process { pid, status: Mutex::new(None), ended: Condvar::new() });
                let _ = sender.send(Ok((Arc::clone(&process), pipes)));
                while let Err(rustix::io::Errno::INTR) =
                    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
                {}
                let mut status = process.lock();
                // Nobody may be left, which is the usual case.
                let _ = kill_process_group(pid, Signal::KILL);
                *status = child.wait().ok().or(Some(ExitStatus::default()));
                process.ended.notify_all();
            }
        };
        let keeper = std::thread::Builder::new().name("cvs-comfyui".to_owned()).spawn(keep);
        keeper.map_err(RunError::io("start a thread for", program))?;
        let spawned = spawned.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        spawned.map_err(RunError::io("start", program))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    pub(super) fn status(&self) -> Option<ExitStatus> {
        *self.lock()
    }

    /// Waits for the end, at most so long.
    pub(super) fn wait_for(&self, length: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + length;
        let mut status = self.lock();
        while status.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            status = self.ended.wait_timeout(status, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *status
    }

    /// Signals the whole group, if the child has not ended.
    pub(super) fn signal(&self, signal: Signal) {
        let status = self.lock();
        if status.is_none() {
            // The only failure is that nobody is there any more.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Ends the child and its group.
    pub(super) fn end(&self, grace: Duration, how: Kill) -> Result<ExitStatus, RunError> {
        if how == Kill::Gently {
            self.signal(Signal::INT);
            if let Some(status) = self.wait_for(grace) {
                return Ok(status);
            }
        }
        self.signal(Signal::KILL);
        self.wait_for(KILLED).ok_or(RunError::Unkillable { pid: self.pid() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running ComfyUI that answers. Dropped, it is killed.
pub struct Server {
    pub(super) process: Arc<Process>,
    pub(super) base_url: String,
    pub(super) log: PathBuf,
    /// Where in the log this run begins.
    pub(super) log_start: u64,
}

impl Server {
    /// Its process, which leads the group of all that it starts.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it answers, as `http://127.0.0.1:8188`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Its log, and where in it this run begins.
    pub fn log(&self) -> (&Path, u64) {
        (&self.log, self.log_start)
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, RunError> {
        Ok(self.process.status())
    }

    /// Waits for its end, at most so long.
    pub fn wait_timeout(&self, length: Duration) -> Option<ExitStatus> {
        self.process.wait_for(length)
    }

    /// What other threads look at it with.
    pub fn watch(&self) -> Watch {
        Watch { process: Arc::clone(&self.process), log: self.log.clone(), log_start: self.log_start }
    }

    /// Ends it as Ctrl-C does, by force after `grace`. When this returns, nothing of its group is left.
    pub fn stop(self, grace: Duration) -> Result<ExitStatus, RunError> {
        self.process.end(grace, Kill::Gently)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.status().is_none() {
            // It cannot be reported here; `stop` is for those who want to know.
            let _ = self.process.end(Duration::ZERO, Kill::Now);
        }
    }
}

/// Whether a server still runs, for other threads than its owner's.
#[derive(Clone)]
pub struct Watch {
    process: Arc<Process>,
    log: PathBuf,
    log_start: u64,
}

impl Watch {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.process.status()
    }

    /// If it has ended, the error that says so, with the reason and the log's last lines.
    pub fn ended(&self) -> Option<RunError> {
        self.status().map(|status| log::crash(status, &self.log, self.log_start))
    }
}
