//! What the work on an environment tells while it goes on, and what every step of it is given.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::PythonError;

/// One step. Events may come from several threads at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PythonEvent<'a> {
    /// Exact versions are being looked for.
    Resolving {
        /// Lists of requirements that have to agree.
        sources: usize,
    },
    /// The requirements do not agree; the ones that do not are being searched for.
    Narrowing {
        /// Lists that are still suspected.
        suspects: usize,
    },
    /// An interpreter is being downloaded.
    Python {
        /// What was asked for.
        request: &'a str,
    },
    /// Packages are being downloaded, built where there is no wheel, and installed.
    Installing {
        /// How many.
        packages: usize,
    },
    /// A line that uv printed.
    Uv {
        /// The line.
        line: &'a str,
    },
    /// Files are being stored.
    Storing {
        /// Files done.
        done: usize,
        /// All files.
        total: usize,
    },
    /// Sources are being compiled.
    Compiling {
        /// Files done.
        done: usize,
        /// Those that no earlier work compiled.
        total: usize,
    },
}

static NEVER: AtomicBool = AtomicBool::new(false);

/// What every step is given by its caller.
#[derive(Clone, Copy)]
pub struct PythonOptions<'a> {
    /// Uses no network: what uv has in its cache, and directories of wheels, have to do.
    pub offline: bool,
    /// Hears of progress.
    pub events: &'a (dyn Fn(PythonEvent<'_>) + Sync),
    /// Set to true, by anyone at any time, to stop with [`PythonError::Cancelled`].
    pub cancel: &'a AtomicBool,
}

impl Default for PythonOptions<'_> {
    fn default() -> Self {
        Self { offline: false, events: &|_| {}, cancel: &NEVER }
    }
}

impl PythonOptions<'_> {
    pub(super) fn event(&self, event: PythonEvent<'_>) {
        (self.events)(event);
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    pub(super) fn check_cancel(&self) -> Result<(), PythonError> {
        if self.cancelled() { Err(PythonError::Cancelled) } else { Ok(()) }
    }
}
