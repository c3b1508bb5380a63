//! Why a ComfyUI could not be started, or stopped.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::port::Holder;

/// Why a ComfyUI could not be started, or stopped. What it logged last is part of the message.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something listens on the port already.
    #[error("port {port} of {host} is taken{}", by(holder.as_ref()))]
    PortTaken {
        /// The address asked for.
        host: String,
        /// The port.
        port: u16,
        /// Who has it, where that can be seen.
        holder: Option<Holder>,
    },
    /// The address is none that this machine can listen on.
    #[error("cannot listen on {host}, port {port}: {source}")]
    Listen {
        /// The address asked for.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// An argument that this commit of ComfyUI does not know, and would refuse to start with.
    #[error("this ComfyUI does not know the argument {flag}{}", near_words(near))]
    UnknownFlag {
        /// The argument.
        flag: String,
        /// Arguments that it knows and that read alike, nearest first.
        near: Vec<String>,
    },
    /// An argument that the launch sets itself.
    #[error("the argument {flag} cannot be passed on: {reason}")]
    ReservedFlag {
        /// The argument.
        flag: String,
        /// Why, and what to use.
        reason: &'static str,
    },
    /// A directory was to be elsewhere, and this commit of ComfyUI has no argument for that.
    #[error("this ComfyUI cannot have its {what} directory elsewhere: it does not know {flag}")]
    NoDirectoryFlag {
        /// `input`, `output`, `user` or `temp`.
        what: &'static str,
        /// The argument that newer ones have.
        flag: &'static str,
    },
    /// `main.py --help` did not list any arguments.
    #[error("`main.py --help` did not tell the arguments of this ComfyUI ({status}){}", lines(tail))]
    Help {
        /// How it ended.
        status: String,
        /// What it said last.
        tail: Vec<String>,
    },
    /// It did not answer in time, and was ended.
    #[error("ComfyUI did not answer within {after:?}{}", lines(tail))]
    StartTimeout {
        /// How long it was waited for.
        after: Duration,
        /// What it logged last.
        tail: Vec<String>,
    },
    /// It ended by itself.
    #[error("ComfyUI ended ({}): {reason}{}", ending(*status), lines(tail))]
    Crashed {
        /// How it ended.
        status: ExitStatus,
        /// Why, as far as the log tells.
        reason: String,
        /// What it logged last.
        tail: Vec<String>,
    },
    /// It is still there after SIGKILL.
    #[error("process {pid} does not end, even by SIGKILL")]
    Unkillable {
        /// The process.
        pid: u32,
    },
    /// A call of the operating system failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried: `start`, `open`, …
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl RunError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> RunError {
        let path = path.into();
        move |source| RunError::Io { operation, path, source }
    }
}

fn by(holder: Option<&Holder>) -> String {
    holder.map_or(String::new(), |holder| format!(" by process {} ({})", holder.pid, holder.program))
}

fn near_words(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; it knows {}", near.join(", ")),
    }
}

/// Lines of a log as they stand below a message.
pub(super) fn lines(lines: &[String]) -> impl fmt::Display {
    struct Lines<'a>(&'a [String]);
    impl fmt::Display for Lines<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if !self.0.is_empty() {
                f.write_str("\nThe last lines of its log:")?;
            }
            self.0.iter().try_for_each(|line| write!(f, "\n  | {line}"))
        }
    }
    Lines(lines).to_string()
}

/// How a process ended, in words.
pub(super) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
