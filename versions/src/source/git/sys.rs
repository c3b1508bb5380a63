//! The one place that sets libgit2's process-wide timeouts.

use std::sync::Once;

use crate::source::event::NetworkLimits;

static SET: Once = Once::new();

/// Sets the timeouts, the first time it is called in a process. Every use of a git remote goes through here first.
pub(super) fn set_timeouts(limits: &NetworkLimits) {
    let millis = |duration: std::time::Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    SET.call_once(|| {
        // SAFETY: these set two C globals that only connecting threads read. Nothing in this process connects before
        // this `Once` is done, because `connect` is the only caller of libgit2's network and comes here first.
        let set = unsafe {
            git2::opts::set_server_connect_timeout_in_milliseconds(millis(limits.connect_timeout))
                .and_then(|()| git2::opts::set_server_timeout_in_milliseconds(millis(limits.stall_timeout)))
        };
        if let Err(error) = set {
            tracing::warn!(%error, "libgit2 did not take the network timeouts");
        }
    });
}
