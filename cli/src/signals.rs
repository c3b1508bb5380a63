//! Ctrl-C and SIGTERM: the first asks to stop, and whatever runs ends at its next safe point; the second ends the
//! process at once, unless it has something to take down ([`outlive`]). The store keeps its promises either way.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use crate::error::CliError;

/// The exit code of a process that was interrupted: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// What ends the process at the second signal.
static ENDINGS: Mutex<Vec<SigId>> = Mutex::new(Vec::new());

/// Installs the handlers and returns the flag that they set.
pub(crate) fn install() -> Result<Arc<AtomicBool>, CliError> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the flag is not set yet when the first signal asks whether it is.
        let ending = flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&cancel))
            .map_err(CliError::Signals)?;
        ENDINGS.lock().unwrap_or_else(PoisonError::into_inner).push(ending);
        flag::register(signal, Arc::clone(&cancel)).map_err(CliError::Signals)?;
    }
    Ok(cancel)
}

/// From now on no signal of these ends the process, however many come: whoever calls this listens for himself.
pub(crate) fn outlive() {
    for ending in ENDINGS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        low_level::unregister(ending);
    }
}
