//! Answers to the kernel, and the guard that every handler runs behind.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fuser::{Errno, Generation, ReplyEmpty, ReplyXattr};

use crate::error::FsError;
use crate::requests::count;
use crate::sys;

/// Names and attributes change through the kernel only, which then knows: what it has is good for ever.
pub(crate) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
pub(crate) const GENERATION: Generation = Generation(0);

thread_local! {
    /// The umasks of callers count, so a thread that serves has none: one of its own, as the program around it may start
    /// other programs and make files meanwhile. Where that is not allowed, it is the whole process's.
    static UMASK: () = {
        if let Err(error) = sys::own_umask() {
            tracing::debug!(%error, "the umask of the whole process is 0");
        }
        rustix::process::umask(rustix::fs::Mode::empty());
    };
}

/// Runs a handler and counts the request. A panic, damage, and a refusal that comes from the machine go to the log.
pub(crate) fn guard<T>(
    operation: &'static str,
    ino: u64,
    handler: impl FnOnce() -> Result<T, FsError>,
) -> Result<T, Errno> {
    count(operation, || guard_part(operation, ino, handler), Result::is_err)
}

/// [`guard`] for one of several steps of a request, which is counted elsewhere.
pub(crate) fn guard_part<T>(
    operation: &'static str,
    ino: u64,
    handler: impl FnOnce() -> Result<T, FsError>,
) -> Result<T, Errno> {
    UMASK.with(|_| ());
    let done = catch_unwind(AssertUnwindSafe(handler)).unwrap_or(Err(FsError::Panicked));
    done.map_err(|error| {
        match &error {
            FsError::Panicked | FsError::BadView => tracing::error!(operation, ino, %error),
            FsError::Upper { errno, .. } | FsError::Object { errno } if is_of_machine(*errno) => {
                tell(*errno, || tracing::error!(operation, ino, %error));
            }
            _ => tracing::trace!(operation, ino, %error),
        }
        Errno::from_i32(error.errno())
    })
}

/// True for errors that are nobody's mistake: somebody has to do something about disks or limits.
fn is_of_machine(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno as E;
    [E::IO, E::NOSPC, E::DQUOT, E::ROFS, E::MFILE, E::NFILE, E::NOMEM, E::STALE, E::NOTCONN].contains(&errno)
}

/// Says something of an error once in a while: a program that meets a full disk meets it again and again.
fn tell(errno: rustix::io::Errno, say: impl FnOnce()) {
    const PAUSE: Duration = Duration::from_secs(10);
    static TOLD: Mutex<BTreeMap<i32, (Instant, u64)>> = Mutex::new(BTreeMap::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let number = errno.raw_os_error();
    match told.get_mut(&number) {
        Some((last, more)) if last.elapsed() < PAUSE => *more += 1,
        known => {
            let kept_back = known.map_or(0, |(_, more)| *more);
            told.insert(number, (Instant::now(), 0));
            drop(told);
            say();
            if kept_back > 0 {
                tracing::error!(%errno, times = kept_back, "and more of that kind, not told");
            }
        }
    }
}

pub(crate) fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(crate) fn xattr(done: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match done {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
