//! The processes of a run: which they are, what memory they take, and ending them when nobody else does.
//!
//! They are ComfyUI, its process group, and whatever has the run's tag in its environment, which a program keeps that
//! leaves the group.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use cvs_store::ProcessId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable that marks the processes of a run.
pub(crate) const TAG: &str = "CVS_RUN";

/// How long killed processes may take to go: one that waits for a device, or belongs to another user, may never.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at processes that end.
const POLL: Duration = Duration::from_millis(20);

/// A tag that no other run has.
pub(crate) fn new_tag() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", std::process::id(), now.as_nanos())
}

/// One line of /proc/PID/stat, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    group: u32,
    start_time: u64,
    /// Resident memory in pages.
    pages: u64,
}

fn parse(pid: u32, stat: &str) -> Option<Stat> {
    // The name stands in parentheses and may hold anything. Behind it: state, parent, group, …
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { pid, group: number(2)? as u32, start_time: number(19)?, pages: number(21)? })
}

fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            parse(pid, &fs::read_to_string(entry.path().join("stat")).ok()?)
        })
        .collect()
}

fn is_tagged(pid: u32, tag: &str) -> bool {
    let wanted = format!("{TAG}={tag}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes()))
}

/// Whether a process belongs to the group that `comfy` led. Its number is not given to another process while somebody
/// is in the group; so whoever has it now, and started at another time, has a group of his own.
fn is_of_group(stat: &Stat, comfy: &ProcessId, processes: &[Stat]) -> bool {
    stat.group == comfy.pid
        && stat.start_time >= comfy.start_time
        && ProcessId::of(std::process::id()).is_some_and(|own| own.boot_id == comfy.boot_id)
        && !processes.iter().any(|other| other.pid == comfy.pid && other.start_time != comfy.start_time)
}

/// The processes of a run.
pub(crate) fn of_run(comfy: Option<&ProcessId>, tag: &str) -> Vec<u32> {
    let processes = all();
    let own = std::process::id();
    processes
        .iter()
        .filter(|stat| {
            stat.pid != own
                && (comfy.is_some_and(|comfy| is_of_group(stat, comfy, &processes))
                    || is_tagged(stat.pid, tag))
        })
        .map(|stat| stat.pid)
        .collect()
}

/// The resident memory of a run in bytes.
pub(crate) fn memory(comfy: &ProcessId) -> u64 {
    let processes = all();
    let group = processes.iter().filter(|stat| is_of_group(stat, comfy, &processes));
    group.map(|stat| stat.pages).sum::<u64>() * rustix::param::page_size() as u64
}

/// Ends what is left of a run: asks ComfyUI, and kills what is there after `grace`. How many had to be killed. What
/// cannot be killed is left behind: it keeps nothing from being taken down.
pub(crate) fn end(comfy: Option<&ProcessId>, tag: &str, grace: Duration) -> usize {
    let mut left = of_run(comfy, tag);
    let signal = |pid: u32, signal| {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    };
    if !left.is_empty() && !grace.is_zero() {
        match comfy.filter(|comfy| comfy.is_alive()) {
            Some(comfy) => signal(comfy.pid, Signal::SIGINT),
            None => left.iter().for_each(|&pid| signal(pid, Signal::SIGTERM)),
        }
        let deadline = Instant::now() + grace;
        while !left.is_empty() && Instant::now() < deadline {
            thread::sleep(POLL);
            left = of_run(comfy, tag);
        }
    }
    let killed = left.len();
    let deadline = Instant::now() + PATIENCE;
    // Those that are killed may have started others meanwhile.
    while !left.is_empty() {
        if Instant::now() > deadline {
            tracing::warn!(?left, "processes of a run cannot be ended");
            break;
        }
        left.iter().for_each(|&pid| signal(pid, Signal::SIGKILL));
        thread::sleep(POLL);
        left = of_run(comfy, tag);
    }
    killed
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name() {
        let line =
            "7 (a) b) c) S 1 5 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123 4096 9 18446744073709551615";
        assert_eq!(parse(7, line), Some(Stat { pid: 7, group: 5, start_time: 123, pages: 9 }));
        assert_eq!(parse(7, &line.replace(" S ", " Z ")), None);
        assert_eq!(parse(7, ""), None);
    }

    #[test]
    fn a_run_ends_with_all_its_processes() {
        let tag = new_tag();
        // One that leaves the group keeps the tag; one in the group may have lost it.
        let script = "setsid sleep 600 & env -u CVS_RUN sleep 600 & sleep 600";
        let mut shell = Command::new("sh");
        let mut child = shell.args(["-c", script]).env(TAG, &tag).process_group(0).spawn().unwrap();
        let comfy = ProcessId::of(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while of_run(Some(&comfy), &tag).len() < 4 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert!(memory(&comfy) > 0);
        // The leader dies alone, as a crashed ComfyUI does.
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of_run(Some(&comfy), &tag).len(), 3);
        end(Some(&comfy), &tag, Duration::from_secs(10));
        assert_eq!(of_run(Some(&comfy), &tag), Vec::<u32>::new());
    }
}
