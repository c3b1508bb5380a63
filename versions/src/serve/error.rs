//! Why nothing can be served, and why a job cannot be taken or ends badly.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::comfy::{ClientError, JobError};
use crate::fetch::FetchError;
use crate::workflow::WorkflowError;

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could reach the address, and nothing would keep them out.
    #[error("{address} can be reached from other machines, and there is no token that requests must carry")]
    Public {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A token that is no token.
    #[error("the token {reason}")]
    Token {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The machinery of the server failed.
    #[error("the server failed: {source}")]
    Runtime {
        /// The cause.
        source: io::Error,
    },
}

/// Why a request is refused, in words for who sent it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the body is not JSON: {0}")]
    Syntax(String),
    #[error("{place}: found {found}; expected {expected}")]
    Field { place: String, found: String, expected: &'static str },
    #[error("{place} is not known here; known are {known}")]
    Unknown { place: String, known: String },
    #[error("input.version_id: this is {here:?}, and no other version is served")]
    Version { here: String },
    #[error("there is no workflow: give input.workflow or input.workflow_url")]
    NoWorkflow,
    #[error("input.workflow: {0}")]
    Workflow(String),
    #[error("the queue is full: {0} jobs wait")]
    Full(usize),
    #[error("the server is stopping")]
    Stopping,
}

/// Why a job ends badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("there is no ComfyUI: {0}")]
    Backend(String),
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the outputs are larger than {limit} bytes; ask for output_mode \"directory\"")]
    TooLarge { limit: usize },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("it was not done within {after:?}")]
    TimedOut { after: Duration },
    #[error("cancelled")]
    Cancelled,
}
