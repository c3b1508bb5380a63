//! Which process is meant: its id, and what tells it from a later process that has been given the same id.

use std::fs;

use serde::{Deserialize, Serialize};

/// One process of one boot of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// The boot in which the number has a meaning.
    pub boot_id: String,
    /// Its start in clock ticks since that boot.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that asks.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, boot_id: boot_id(), start_time: start_time(pid).unwrap_or(0) }
    }

    /// A process that runs now; none when it is gone or a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, boot_id: boot_id(), start_time: start_time(pid)? })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.boot_id == boot_id() && start_time(self.pid).is_some_and(|start| start == self.start_time)
    }
}

pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The start of a process in clock ticks since boot; none when it is gone or a zombie. Field 22 of proc_pid_stat(5).
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name stands in parentheses and may hold anything, a `)` included.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_process_of_the_same_number_is_another() {
        let own = ProcessId::current();
        assert!(own.is_alive());
        assert_eq!(ProcessId::of(own.pid), Some(own.clone()));
        assert!(!ProcessId { start_time: own.start_time + 1, ..own.clone() }.is_alive());
        assert!(!ProcessId { boot_id: String::new(), ..own }.is_alive());
    }

    #[test]
    fn a_process_that_nobody_waited_for_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while ProcessId::of(child.id()).is_some() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
