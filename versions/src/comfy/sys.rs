//! The one thing that must happen in the child between fork and exec.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Lets the kernel kill what `command` starts when the *thread* that spawns it ends: that thread must live as long as
/// the child is wanted.
pub(super) fn die_with_parent(command: &mut Command) {
    let parent: Pid = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the call above would never be noticed.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure makes two system calls and touches no memory that another thread may have locked or changed:
    // no allocation, no lock. (An error of a fixed kind does not allocate.)
    unsafe {
        command.pre_exec(prepare);
    }
}
