//! Taking mounts down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cvs_store::ProcessId;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::table::{MountEntry, MountState, hidden_by, models_of, shows, shows_models};
use super::{MountsError, users};

/// Between two looks at a mount that is busy, or a daemon that ends.
const POLL: Duration = Duration::from_millis(50);
/// Somebody who cannot be seen is told of after this long: who merely looks, as another cvs does, is gone by then.
const A_LOOK: Duration = Duration::from_millis(500);
/// A daemon has this long to end after its mount is gone.
const DAEMON_ENDS: Duration = Duration::from_secs(20);
/// By force, it has this long before it is killed.
const DAEMON_IS_LET_END: Duration = Duration::from_secs(5);

/// How a mount is taken down that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Wait until nobody uses it.
    Wait,
    /// Take it out of sight; it ends when the last file is closed.
    Lazy,
    /// End it now; whoever uses it gets errors.
    Force,
}

/// Takes a mount down and waits until its daemon has ended, so that its overlay is free. Waits for busy files up to
/// `patience`; `waiting` hears once who uses them.
pub(crate) fn take_down(
    entry: &MountEntry,
    how: How,
    patience: Duration,
    cancel: &AtomicBool,
    waiting: &mut dyn FnMut(&str),
) -> Result<(), MountsError> {
    let path = entry.mountpoint();
    let is_shown = || shows(path, &entry.version, entry.info.device.as_deref());
    let check_reached = || match hidden_by(path, &entry.version, entry.info.device.as_deref()) {
        Some(what) => Err(MountsError::Hidden { path: path.to_owned(), what }),
        None => Ok(()),
    };
    if entry.state == MountState::Dead {
        // Somebody else may have cleared it. What can be seen in its place is not ours to take down.
        return match is_shown() {
            true => detach(path).or_else(|error| if is_shown() { Err(error) } else { Ok(()) }),
            false => check_reached(),
        };
    }
    let begun = Instant::now();
    let deadline = begun + patience;
    let mut told = false;
    let flags = match how {
        How::Wait => MntFlags::empty(),
        How::Lazy => MntFlags::MNT_DETACH,
        How::Force => MntFlags::MNT_FORCE | MntFlags::MNT_DETACH,
    };
    // It may go by itself, or was detached before; what can be seen there then is not ours to take down.
    while is_shown() {
        match both(path, flags) {
            Ok(()) => break,
            Err(_) if !is_shown() => break,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                let users = users::of(path);
                let may_be_a_look = users.is_empty() && begun.elapsed() < A_LOOK.min(patience);
                let users = users::describe(&users);
                // Who is to wait hears of it, however slowly it went until here.
                if !told && !patience.is_zero() && !may_be_a_look {
                    waiting(&users);
                    told = true;
                }
                if Instant::now() >= deadline || cancel.load(Ordering::Relaxed) {
                    return Err(MountsError::InUse { path: path.to_owned(), users });
                }
                thread::sleep(POLL);
            }
            Err(error) => return Err(MountsError::io("unmount", path)(error)),
        }
    }
    check_reached()?;
    match (how, entry.pid) {
        // Its daemon serves open files, for as long as they are.
        (How::Lazy, _) | (_, None) => Ok(()),
        (How::Wait, Some(pid)) => wait_for_end(path, pid, DAEMON_ENDS),
        (How::Force, Some(pid)) => wait_for_end(path, pid, DAEMON_IS_LET_END).or_else(|_| {
            // It is stopped, or waits for a disk. All that was written is below it already.
            if let Some(process) = &entry.process {
                tracing::warn!(pid, "the process that served the mount does not end: it is killed");
                kill(process);
            }
            wait_for_end(path, pid, DAEMON_ENDS)
        }),
    }
}

/// Kills a process, and no other that has its number by now.
fn kill(process: &ProcessId) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    // Whatever it was when the handle was made, it is that for good.
    if process.is_alive() {
        let _ = rustix::process::pidfd_send_signal(handle, rustix::process::Signal::KILL);
    }
}

fn wait_for_end(path: &Path, pid: u32, patience: Duration) -> Result<(), MountsError> {
    let deadline = Instant::now() + patience;
    while is_running(pid) {
        if Instant::now() >= deadline {
            return Err(MountsError::StillThere { path: path.to_owned(), pid });
        }
        thread::sleep(POLL / 10);
    }
    Ok(())
}

/// False as soon as all threads of a process have ended, however long its parent leaves it a zombie.
fn is_running(pid: u32) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    // The name stands in parentheses and may hold some itself; the state follows it.
    let is_zombie = fs::read_to_string(process.join("stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])));
    // Of a zombie with further threads only the first has ended, and files are still open.
    let threads = || fs::read_dir(process.join("task")).map_or(0, Iterator::count);
    process.exists() && !(is_zombie && threads() <= 1)
}

/// Takes a mount out of sight, whatever state it is in.
pub(super) fn detach(path: &Path) -> Result<(), MountsError> {
    unmount(path, MntFlags::MNT_DETACH).map_err(MountsError::io("unmount", path))
}

/// Unmounts a version: its models connection first, where it has one, and the tree connection then. Unless it is told
/// to detach them, it leaves both when somebody is seen to use either.
///
/// Who cannot be seen may still hold the second when the first is gone. Then nothing is lost: the tree connection shows
/// `models/` by itself.
pub(super) fn both(path: &Path, flags: MntFlags) -> io::Result<()> {
    let models = models_of(path);
    if shows_models(path) {
        if !flags.contains(MntFlags::MNT_DETACH) && !users::of(path).is_empty() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // Detaching the one above takes it along, but does not end it.
        if flags.contains(MntFlags::MNT_FORCE) || !flags.contains(MntFlags::MNT_DETACH) {
            match unmount(&models, flags) {
                Err(_) if !shows_models(path) => {}
                done => done?,
            }
        }
    }
    unmount(path, flags)
}

/// Unmounts by the system call where we may, else by fusermount3.
pub(super) fn unmount(path: &Path, flags: MntFlags) -> io::Result<()> {
    match umount2(path, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_fusermount(path, flags),
        Err(errno) => Err(errno.into()),
    }
}

fn by_fusermount(path: &Path, flags: MntFlags) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if flags.contains(MntFlags::MNT_DETACH) {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    match text.contains("busy") {
        true => Err(io::ErrorKind::ResourceBusy.into()),
        false => Err(io::Error::other(text.trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_has_ended() {
        assert!(is_running(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // Nobody has waited for it yet.
        while is_running(child.id()) {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }
}
