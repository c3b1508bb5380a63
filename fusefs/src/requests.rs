//! What the kernel has asked for: how much of each kind was answered, with what success, and what is being worked on.
//!
//! Counted for the process, which serves one mount, be it through one connection or two. Each thread counts for itself
//! and nobody waits for anybody: a request costs a look at the clock and two additions.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The kinds, what comes most first.
const KINDS: [&str; 29] = [
    "lookup",
    "getattr",
    "read",
    "write",
    "forget",
    "readdirplus",
    "readdir",
    "make",
    "open",
    "release",
    "setattr",
    "unlink",
    "rename",
    "readlink",
    "rmdir",
    "link",
    "fsync",
    "fsyncdir",
    "statfs",
    "getxattr",
    "listxattr",
    "setxattr",
    "removexattr",
    "fallocate",
    "lseek",
    "copy_file_range",
    "flush",
    "ioctl",
    "other",
];

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    /// What they ask for.
    pub kind: &'static str,
    /// Answers.
    pub answered: u64,
    /// Those of them that were errors.
    pub failed: u64,
}

/// What the threads of this process have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// What was answered, without the kinds that never came.
    pub requests: Vec<Requests>,
    /// Requests being worked on.
    pub waiting: usize,
    /// The one of them that came first, and how long ago.
    pub oldest: Option<(&'static str, Duration)>,
}

/// What one thread has done, and does.
struct Desk {
    answered: [AtomicU64; KINDS.len()],
    failed: [AtomicU64; KINDS.len()],
    kind: AtomicUsize,
    /// Since when it works on a request, in nanoseconds of [`now`]; 0 when it waits for one.
    since: AtomicU64,
}

/// All of them, and those of threads that have ended.
static DESKS: Mutex<Vec<Arc<Desk>>> = Mutex::new(Vec::new());
static FREE: Mutex<Vec<Arc<Desk>>> = Mutex::new(Vec::new());

/// The desk of a thread, which another takes when it has ended.
struct Seat(Arc<Desk>);

impl Seat {
    fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(free.unwrap_or_else(|| {
            let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
            let desk = Arc::new(Desk {
                answered: zeros(),
                failed: zeros(),
                kind: AtomicUsize::new(0),
                since: AtomicU64::new(0),
            });
            DESKS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&desk));
            desk
        }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.0));
    }
}

thread_local! {
    static SEAT: OnceCell<Seat> = const { OnceCell::new() };
}

/// Nanoseconds since the first question, and one.
fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX) + 1
}

/// Works on a request; `failed` says of what it gives whether it is an error.
pub(crate) fn count<T>(kind: &str, work: impl FnOnce() -> T, failed: impl FnOnce(&T) -> bool) -> T {
    let index = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1);
    let desk = SEAT.with(|seat| Arc::clone(&seat.get_or_init(Seat::take).0));
    desk.kind.store(index, Ordering::Relaxed);
    desk.since.store(now(), Ordering::Relaxed);
    let done = work();
    desk.since.store(0, Ordering::Relaxed);
    let add = |counters: &[AtomicU64]| {
        if let Some(counter) = counters.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    add(&desk.answered);
    if failed(&done) {
        add(&desk.failed);
    }
    done
}

/// What was done up to now.
pub(crate) fn work() -> Work {
    let desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
    let now = now();
    let sum = |of: fn(&Desk) -> &[AtomicU64; KINDS.len()], index: usize| -> u64 {
        desks.iter().filter_map(|desk| of(desk).get(index)).map(|n| n.load(Ordering::Relaxed)).sum()
    };
    let requests = KINDS.iter().enumerate().map(|(index, kind)| Requests {
        kind,
        answered: sum(|desk| &desk.answered, index),
        failed: sum(|desk| &desk.failed, index),
    });
    let busy = desks.iter().filter_map(|desk| match desk.since.load(Ordering::Relaxed) {
        0 => None,
        since => Some((since, desk.kind.load(Ordering::Relaxed))),
    });
    let busy: Vec<(u64, usize)> = busy.collect();
    let oldest = busy.iter().min().map(|&(since, kind)| {
        (KINDS.get(kind).copied().unwrap_or("other"), Duration::from_nanos(now.saturating_sub(since)))
    });
    Work { requests: requests.filter(|of| of.answered > 0).collect(), waiting: busy.len(), oldest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind_and_seen_while_they_last() {
        let of = |work: &Work, kind| {
            let of = work.requests.iter().find(|of| of.kind == kind);
            of.map_or((0, 0), |of| (of.answered, of.failed))
        };
        // No other test of this process asks for these kinds.
        assert_eq!(of(&work(), "ioctl"), (0, 0));
        count("ioctl", || (), |()| true);
        let during = std::thread::spawn(|| count("ioctl", work, |_| false)).join().unwrap();
        assert!(during.waiting >= 1 && during.oldest.is_some(), "{during:?}");
        assert_eq!((of(&during, "ioctl"), of(&work(), "ioctl")), ((1, 1), (2, 1)));
        count("something new", || (), |()| false);
        assert_eq!(of(&work(), "other"), (1, 0));
    }
}
