//! Several jobs at once, each on a thread of its own: they wait for the network and for disks rather than for a
//! processor, and must not occupy rayon's pool, which hashes for them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often the caller's flag is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Who was cancelled and has not ended by then is waiting for something.
const PROMPT: Duration = Duration::from_secs(1);

/// Runs `job` on every item, on so many threads; the results stand in the order of the items.
pub(crate) fn run<T: Sync, R: Send>(items: &[T], workers: usize, job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            let (next, results, job) = (&next, &results, &job);
            scope.spawn(move || {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = job(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs `work` with a flag of its own, which is set as soon as `cancel` is: jobs stop for the caller, and for each
/// other, and only the caller ever sets the caller's flag. `late` is called once when that does not end them soon: a
/// library that waits for a server looks at no flag.
pub(super) fn with_stop<R>(
    cancel: &AtomicBool,
    late: impl FnOnce() + Send,
    work: impl FnOnce(&AtomicBool) -> R,
) -> R {
    let stop = AtomicBool::new(cancel.load(Ordering::Relaxed));
    std::thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let stop = &stop;
        scope.spawn(move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if cancel.load(Ordering::Relaxed) {
                    stop.store(true, Ordering::Relaxed);
                    if ended.recv_timeout(PROMPT) == Err(RecvTimeoutError::Timeout) {
                        late();
                    }
                    return;
                }
            }
        });
        let result = work(stop);
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(run(&items, 3, |item| item * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        assert_eq!(run(&[] as &[usize], 3, |item| *item), [] as [usize; 0]);
    }

    #[test]
    fn the_callers_flag_reaches_the_jobs() {
        let cancel = AtomicBool::new(false);
        assert!(!with_stop(&cancel, || panic!("late"), |stop| stop.load(Ordering::Relaxed)));
        let stopped = with_stop(
            &cancel,
            || (),
            |stop| {
                cancel.store(true, Ordering::Relaxed);
                let deadline = std::time::Instant::now() + Duration::from_secs(10);
                while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < deadline {
                    std::thread::yield_now();
                }
                stop.load(Ordering::Relaxed)
            },
        );
        assert!(stopped);
        let told = AtomicBool::new(false);
        with_stop(
            &cancel,
            || told.store(true, Ordering::Relaxed),
            |_| {
                let deadline = std::time::Instant::now() + Duration::from_secs(10);
                while !told.load(Ordering::Relaxed) && std::time::Instant::now() < deadline {
                    std::thread::yield_now();
                }
            },
        );
        assert!(told.into_inner());
    }
}
