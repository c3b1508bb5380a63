//! Ctrl-C and SIGTERM while something runs that has to be taken down: the first asks to stop, the second to stop at
//! once. Neither ends this process, which has to clear away what it made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::error::CliError;
use crate::signals;

/// Listens until it is dropped.
pub(crate) struct Interrupts {
    stop: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
    handle: Handle,
    watcher: Option<JoinHandle<()>>,
}

impl Interrupts {
    /// Listens from now on. `cancel` is the program's own flag, which is left as if nothing had come: what clears away
    /// must not be cancelled.
    pub(crate) fn watch(cancel: &Arc<AtomicBool>) -> Result<Self, CliError> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(CliError::Signals)?;
        let handle = signals.handle();
        signals::outlive();
        let [stop, at_once] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let watcher = thread::spawn({
            let (cancel, stop, at_once) = (Arc::clone(cancel), Arc::clone(&stop), Arc::clone(&at_once));
            move || {
                for _ in signals.forever() {
                    cancel.store(false, Ordering::Relaxed);
                    if stop.swap(true, Ordering::Relaxed) {
                        at_once.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        // One that came before we listened.
        if cancel.swap(false, Ordering::Relaxed) {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(Self { stop, at_once, handle, watcher: Some(watcher) })
    }

    /// Set by the first signal, and by whoever else wants an end.
    pub(crate) fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Whether an end was asked for.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether it was asked for twice.
    pub(crate) fn is_urgent(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
