//! Starting a ComfyUI, and talking to one that runs.
//!
//! [`Flags`] asks a commit which arguments it knows, [`Launch`] starts it as a [`Server`] in a process group of its
//! own and returns when it answers. [`Client`] speaks its HTTP API, [`run_job`] takes one prompt to its end, and
//! [`collect`] brings the files that it put out. Everything blocks, on any thread that is no tokio worker; nothing here prints.
//!
//! A `Server` is gone, with all processes that it started, when it was stopped, when it was dropped, when it ended by
//! itself, and when our own process dies.

mod client;
mod error;
mod flags;
mod http;
mod job;
mod launch;
mod loading;
mod log;
mod outputs;
mod port;
mod process;
mod socket;
mod sys;

use std::time::Duration;

pub use self::client::{Answer, Client, ClientError, Fetched, Queue, Uploaded, safe_name};
pub use self::error::RunError;
pub use self::flags::Flags;
pub use self::job::{
    Complaint, JobError, JobEvent, JobRequest, JobResult, NodeFailure, NodeProblem, run_job,
};
pub use self::launch::{Directories, Launch};
pub use self::loading::{LoadState, NodeLoad, loading};
pub use self::log::tail;
pub(crate) use self::outputs::missing_or;
pub use self::outputs::{Collected, FileRef, OutputFile, OutputText, Outputs, collect};
pub use self::port::{Holder, free_port, holder};
pub use self::process::{Server, Watch};

/// How long a start may take: `COMFY_STARTUP_TIMEOUT` in seconds, else 180 s.
pub fn startup_timeout() -> Duration {
    seconds_of("COMFY_STARTUP_TIMEOUT").unwrap_or(Duration::from_secs(180))
}

/// How long a server may give no sign of life: `COMFY_RESPOND_TIMEOUT` in seconds, else 300 s.
pub fn respond_timeout() -> Duration {
    seconds_of("COMFY_RESPOND_TIMEOUT").unwrap_or(Duration::from_secs(300))
}

fn seconds_of(name: &str) -> Option<Duration> {
    let seconds: f64 = std::env::var(name).ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|length| !length.is_zero())
}
