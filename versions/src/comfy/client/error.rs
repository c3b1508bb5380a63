//! Why a call to a ComfyUI brought nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a call to a ComfyUI brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be that of a ComfyUI.
    #[error("{address:?} is no address of a ComfyUI: {reason}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody listens there.
    #[error("{url}: no connection: {detail}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The cause.
        detail: String,
    },
    /// The connection broke before the answer was complete.
    #[error("{url}: the connection broke: {detail}")]
    Broken {
        /// What was asked for.
        url: String,
        /// The cause.
        detail: String,
    },
    /// No answer came in time.
    #[error("{url}: no answer within {after:?}")]
    Timeout {
        /// What was asked for.
        url: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server refused.
    #[error("{url}: the server answered HTTP {status}{}", excerpt(body))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The answer is not what a ComfyUI says.
    #[error("{url}: an answer that makes no sense: {reason}")]
    Unexpected {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no network machinery to be had.
    #[error("cannot set up the network client: {source}")]
    Runtime {
        /// The cause.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl ClientError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> ClientError {
        let path = path.into();
        move |source| ClientError::Io { operation, path, source }
    }
}

fn excerpt(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}
