//! Steering: who answers a program that asks one thing after another does so on that program's processor.
//!
//! A round trip is two wake-ups. Across processors each of them may have to rouse an idle one, which takes tens of
//! microseconds on a virtual machine; on the same one it is a change of task. The scheduler cannot know that the asker
//! sleeps until it is answered, and would rather use the idle processor. So the threads that serve follow an asker that
//! has asked a few times in a row, look again now and then where it runs, and are free as soon as another one asks or
//! large pieces are moved, which is better done beside the asker. Where others want that processor too, a thread that
//! follows must wait for it, and finds that out from the kernel's account of its waiting: then none follows for a while.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Requests in a row after which an asker is followed.
const ROW: u32 = 8;
/// Requests after which is looked again where it runs.
const LOOK: u32 = 64;
/// A larger transfer is not worth waiting for on the same processor.
const LARGE: usize = 64 << 10;
/// What a thread that follows may wait for its turn, on average, in nanoseconds. Where nobody else wants the processor,
/// it waits until the asker sleeps, which after a close that nobody waits for is the next question: 15 to 30 us.
const CROWDED: u64 = 100_000;
/// Looks for which no asker is followed after that.
const REST: u32 = 32;
/// No processor: a thread may run on all that the process may run on.
const FREE: u32 = u32::MAX;

thread_local! {
    static BOUND: Cell<u32> = const { Cell::new(FREE) };
    /// Requests that this thread has answered, and the nanoseconds for which it had waited to run, when it last looked.
    static WAITED: Cell<(u32, Option<u64>)> = const { Cell::new((0, None)) };
}

pub(crate) struct Steer {
    /// Where the process may run; none where there is no choice.
    all: Option<CpuSet>,
    /// The thread that asked last, and how often in a row.
    asker: AtomicU32,
    row: AtomicU32,
    /// Where the asker runs.
    processor: AtomicU32,
    /// Looks until an asker is followed again.
    rest: AtomicU32,
}

impl Steer {
    pub(crate) fn new() -> Self {
        let all = rustix::thread::sched_getaffinity(None).ok().filter(|all| all.count() > 1);
        let [asker, row, processor, rest] = [0, 0, FREE, 0].map(AtomicU32::new);
        Self { all, asker, row, processor, rest }
    }

    /// Hears of a request by the thread `asker` that moves `bytes`, before it is answered by this thread. All that is
    /// shared is a guess: threads that mix it up cost time and nothing else.
    pub(crate) fn follow(&self, asker: u32, bytes: usize) {
        let Some(all) = &self.all else { return };
        // The kernel asks by itself, too, and for programs whose number means nothing here.
        if asker == 0 {
            return;
        }
        let row = if bytes > LARGE || self.asker.swap(asker, Ordering::Relaxed) != asker {
            self.processor.store(FREE, Ordering::Relaxed);
            self.row.store(0, Ordering::Relaxed);
            0
        } else {
            self.row.fetch_add(1, Ordering::Relaxed) + 1
        };
        WAITED.with(|waited| waited.set((waited.get().0.saturating_add(1), waited.get().1)));
        if row % LOOK == ROW {
            self.processor.store(self.look(asker), Ordering::Relaxed);
        }
        let wanted = self.processor.load(Ordering::Relaxed);
        BOUND.with(|bound| {
            if bound.replace(wanted) != wanted {
                let mut set = *all;
                if wanted != FREE && all.is_set(wanted as usize) {
                    set = CpuSet::new();
                    set.set(wanted as usize);
                }
                // Where it fails, the thread stays where it is.
                let _ = sched_setaffinity(None, &set);
            }
        });
    }

    /// The processor to follow to.
    fn look(&self, asker: u32) -> u32 {
        let now = waited();
        let (answered, then) = WAITED.replace((0, now));
        let crowded = BOUND.get() != FREE && is_crowded(answered, then.zip(now));
        let rest = if crowded { REST } else { self.rest.load(Ordering::Relaxed).saturating_sub(1) };
        self.rest.store(rest, Ordering::Relaxed);
        if rest > 0 { FREE } else { runs_on(asker).unwrap_or(FREE) }
    }
}

/// Whether a thread that answered so many requests while its waiting grew so has others on its processor.
fn is_crowded(answered: u32, waited: Option<(u64, u64)>) -> bool {
    waited.is_some_and(|(then, now)| now.saturating_sub(then) > CROWDED * u64::from(answered.max(1)))
}

/// The nanoseconds for which this thread was ready and did not run, where the kernel counts them.
fn waited() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').nth(1)?.parse().ok()
}

/// The processor on which a thread ran last (the 39th field of proc_pid_stat(5)).
fn runs_on(thread: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    processor(&stat)
}

fn processor(stat: &str) -> Option<u32> {
    // The name, in parentheses, is the second field and may hold anything; the third follows it.
    stat.rsplit_once(") ")?
        .1
        .split(' ')
        .nth(36)?
        .parse()
        .ok()
        .filter(|number| *number < CpuSet::MAX_CPU as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 9 0 0 0 0 0 0 0 20 0 1 0 5 1 2 3 1 1 1 0 0 0 0 0 0 0 0 0 17 3 0 0";
        assert_eq!(processor(&format!("12 (a) b) {rest}")), Some(3));
        assert_eq!(processor("12 (short) S 1 1"), None);
        assert_eq!(processor(&format!("12 (many) {}", rest.replace(" 3 0 0", " 99999 0 0"))), None);
    }

    #[test]
    fn a_processor_is_crowded_where_a_turn_is_long_in_coming() {
        assert!(!is_crowded(64, None), "the kernel does not count");
        assert!(!is_crowded(64, Some((5, 64 * 30_000))));
        assert!(is_crowded(64, Some((5, 64 * 101_000))));
        assert!(is_crowded(0, Some((0, 101_000))));
        assert!(!is_crowded(64, Some((9, 3))));
    }

    #[test]
    fn after_a_crowd_nobody_is_followed_for_a_while() {
        let steer = Steer::new();
        let asker = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        assert_ne!(steer.look(asker), FREE);
        steer.rest.store(3, Ordering::Relaxed);
        assert_eq!([(); 3].map(|()| steer.look(asker) != FREE), [false, false, true]);
    }

    #[test]
    fn an_asker_is_followed_until_another_asks() {
        let steer = Steer::new();
        let Some(all) = steer.all else { return };
        let only = |set: &CpuSet| (0..CpuSet::MAX_CPU).filter(|n| set.is_set(*n)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // An asker that stays on one processor: this very thread, bound to it.
                let last = *only(&all).last().unwrap();
                let mut one = CpuSet::new();
                one.set(last);
                sched_setaffinity(None, &one).unwrap();
                let asker = rustix::thread::gettid().as_raw_nonzero().get() as u32;
                let serving = |steps: &[(u32, usize)]| {
                    std::thread::scope(|scope| {
                        let served = scope.spawn(|| {
                            sched_setaffinity(None, &all).unwrap();
                            steps.iter().for_each(|(asker, bytes)| steer.follow(*asker, *bytes));
                            only(&rustix::thread::sched_getaffinity(None).unwrap())
                        });
                        served.join().unwrap()
                    })
                };
                let row = vec![(asker, 0); ROW as usize + 1];
                assert_eq!(serving(&row), [last]);
                assert_eq!(serving(&[row.clone(), vec![(asker + 1, 0)]].concat()), only(&all));
                assert_eq!(serving(&[row.clone(), vec![(asker, 1 << 20)]].concat()), only(&all));
                assert_eq!(serving(&[row, vec![(0, 0)]].concat()), [last]);
            });
        });
    }
}
