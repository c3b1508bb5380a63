//! Ctrl-C and SIGTERM: the first asks to stop, and whatever runs ends at its next safe point; the second ends the
//! process at once. The store keeps its promises either way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::CliError;

/// The exit code of a process that was interrupted: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Installs the handlers and returns the flag that they set.
pub(crate) fn install() -> Result<Arc<AtomicBool>, CliError> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the flag is not set yet when the first signal asks whether it is.
        flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&cancel))
            .and_then(|_| flag::register(signal, Arc::clone(&cancel)))
            .map_err(CliError::Signals)?;
    }
    Ok(cancel)
}
