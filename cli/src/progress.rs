//! Progress on stderr: bars on a terminal, a line now and then elsewhere, and neither for what is done within a second.
//!
//! A [`Task`] is told from any thread, at any rate, by atomics alone; one thread of the display looks at all tasks ten
//! times a second and draws. It runs only while there are tasks.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{format, output};

/// What takes no longer than this shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at the tasks.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines about one task, where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Nothing,
    Lines,
    Bars,
}

/// What a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Items,
}

/// The display. Clones are the same display.
#[derive(Clone)]
pub(crate) struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    show: Show,
    bars: MultiProgress,
    // Taken before a task's `drawn`.
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    running: Vec<Arc<State>>,
    drawer: Option<JoinHandle<()>>,
}

struct State {
    label: Mutex<String>,
    unit: Unit,
    position: AtomicU64,
    /// Zero while it is not known.
    total: AtomicU64,
    begun: Instant,
    ended: AtomicBool,
    drawn: Mutex<Drawn>,
}

#[derive(Default)]
struct Drawn {
    bar: Option<ProgressBar>,
    /// When the last line was written, and the position that it told.
    line: Option<(Instant, u64)>,
}

/// Something that takes time. Dropping it ends it.
pub(crate) struct Task {
    state: Arc<State>,
    progress: Progress,
}

impl Progress {
    pub(crate) fn new(show: Show) -> Self {
        let bars = MultiProgress::with_draw_target(match show {
            Show::Bars => ProgressDrawTarget::stderr(),
            Show::Lines | Show::Nothing => ProgressDrawTarget::hidden(),
        });
        Self { inner: Arc::new(Inner { show, bars, tasks: Mutex::default() }) }
    }

    /// Begins a task.
    pub(crate) fn task(&self, label: impl Into<String>, unit: Unit) -> Task {
        let state = Arc::new(State {
            label: Mutex::new(label.into()),
            unit,
            position: AtomicU64::new(0),
            total: AtomicU64::new(0),
            begun: Instant::now(),
            ended: AtomicBool::new(false),
            drawn: Mutex::default(),
        });
        if self.inner.show != Show::Nothing {
            let mut tasks = lock(&self.inner.tasks);
            tasks.running.push(Arc::clone(&state));
            if tasks.drawer.as_ref().is_none_or(JoinHandle::is_finished) {
                let progress = self.clone();
                let drawer = thread::Builder::new().name("progress".to_owned());
                // Without the thread there is no progress to be seen, and nothing else is lost.
                tasks.drawer = drawer.spawn(move || progress.draw_until_done()).ok();
            }
        }
        Task { state, progress: self.clone() }
    }

    /// Does something that writes to the terminal, with the bars out of its way.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.inner.show == Show::Bars { self.inner.bars.suspend(write) } else { write() }
    }

    /// Ends every task and takes all bars away.
    pub(crate) fn stop(&self) {
        let drawer = {
            let mut tasks = lock(&self.inner.tasks);
            for state in tasks.running.drain(..) {
                state.end();
            }
            tasks.drawer.take()
        };
        if let Some(drawer) = drawer {
            drawer.thread().unpark();
            // It does nothing but draw.
            let _ = drawer.join();
        }
        let _ = self.inner.bars.clear();
    }

    fn draw_until_done(&self) {
        loop {
            {
                let mut tasks = lock(&self.inner.tasks);
                tasks.running.retain(|state| !state.ended.load(Ordering::Acquire));
                if tasks.running.is_empty() {
                    // Under the lock, so that whoever adds a task sees that a new thread is needed.
                    tasks.drawer = None;
                    return;
                }
                for state in &tasks.running {
                    self.draw(state);
                }
            }
            thread::park_timeout(TICK);
        }
    }

    fn draw(&self, state: &State) {
        let now = Instant::now();
        if now - state.begun < PATIENCE {
            return;
        }
        let (position, total) = (state.position.load(Ordering::Relaxed), state.total.load(Ordering::Relaxed));
        let label = output::clean(&lock(&state.label));
        let mut drawn = lock(&state.drawn);
        if self.inner.show == Show::Lines {
            let due = drawn.line.is_none_or(|(then, told)| now - then >= LINE_EVERY && told != position);
            if due {
                drawn.line = Some((now, position));
                let line = format!("{}\n", line(&label, state.unit, position, total));
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
            }
            return;
        }
        if state.ended.load(Ordering::Acquire) {
            return;
        }
        let bar = drawn.bar.get_or_insert_with(|| {
            // The bar is younger than its task, and would take what was done before for done at once.
            let bar = ProgressBar::no_length().with_position(position).with_elapsed(now - state.begun);
            bar.set_style(style(state.unit, total > 0));
            self.inner.bars.add(bar)
        });
        if bar.length() != Some(total).filter(|&total| total > 0) {
            bar.set_style(style(state.unit, total > 0));
            match total {
                0 => bar.unset_length(),
                _ => bar.set_length(total),
            }
        }
        bar.set_message(label);
        bar.set_position(position);
        bar.tick();
    }
}

impl State {
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        if let Some(bar) = lock(&self.drawn).bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Task {
    /// What the task is about now.
    pub(crate) fn set_label(&self, label: impl Into<String>) {
        *lock(&self.state.label) = label.into();
    }

    /// How much there is in all; zero when nobody knows.
    pub(crate) fn set_total(&self, total: u64) {
        self.state.total.store(total, Ordering::Relaxed);
    }

    /// How much is done.
    pub(crate) fn set(&self, position: u64) {
        self.state.position.store(position, Ordering::Relaxed);
    }

    /// So much more is done.
    pub(crate) fn add(&self, more: u64) {
        self.state.position.fetch_add(more, Ordering::Relaxed);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.state.end();
        let mut tasks = lock(&self.progress.inner.tasks);
        tasks.running.retain(|state| !Arc::ptr_eq(state, &self.state));
    }
}

/// Progress in words: `fsck: 1.50 GiB of 3.00 GiB, 50 %`.
fn line(label: &str, unit: Unit, position: u64, total: u64) -> String {
    let figure = |number| match unit {
        Unit::Bytes => format::bytes(number),
        Unit::Items => format::count(number),
    };
    match (position, total) {
        (0, 0) => label.to_owned(),
        (_, 0) => format!("{label}: {}", figure(position)),
        _ => {
            let percent = u128::from(position.min(total)) * 100 / u128::from(total);
            format!("{label}: {} of {}, {percent} %", figure(position), figure(total))
        }
    }
}

fn style(unit: Unit, known: bool) -> ProgressStyle {
    let template = match (unit, known) {
        (Unit::Bytes, true) => {
            "{spinner} {wide_msg}  {bar:20} {binary_bytes:>11} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}"
        }
        (Unit::Bytes, false) => "{spinner} {wide_msg}  {binary_bytes:>11}  {binary_bytes_per_sec}",
        (Unit::Items, true) => "{spinner} {wide_msg}  {bar:20} {human_pos:>11} of {human_len}  {eta}",
        (Unit::Items, false) => "{spinner} {wide_msg}  {human_pos:>11}",
    };
    // The templates are constants; a wrong one would show as the default style.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .tick_chars("-\\|/ ")
        .progress_chars("=> ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_is_known() {
        for (unit, position, total, expected) in [
            (Unit::Bytes, 0, 0, "x"),
            (Unit::Bytes, 2048, 0, "x: 2.00 KiB"),
            (Unit::Bytes, 1 << 29, 1 << 30, "x: 512 MiB of 1.00 GiB, 50 %"),
            (Unit::Items, 999, 1000, "x: 999 of 1,000, 99 %"),
            (Unit::Items, 1001, 1000, "x: 1,001 of 1,000, 100 %"),
            (Unit::Items, 0, 1000, "x: 0 of 1,000, 0 %"),
        ] {
            assert_eq!(line("x", unit, position, total), expected);
        }
    }

    #[test]
    fn the_drawing_thread_ends_with_its_tasks() {
        let progress = Progress::new(Show::Lines);
        let task = progress.task("x", Unit::Items);
        assert!(lock(&progress.inner.tasks).drawer.is_some());
        drop(task);
        progress.stop();
        assert!(lock(&progress.inner.tasks).running.is_empty());
        for unit in [Unit::Bytes, Unit::Items] {
            for known in [true, false] {
                drop(style(unit, known));
            }
        }
    }
}
