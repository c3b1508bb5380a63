//! What can go wrong with runs.

use std::io;
use std::path::PathBuf;

use crate::error::{Exit, hint_of_io};
use crate::shell;

/// Why a version cannot be run, or a run not be found or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunsError {
    /// A system call failed.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        op: &'static str,
        /// Its object.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The version runs; its overlay belongs to one run.
    #[error("{version} {how}")]
    AlreadyRuns {
        /// The version.
        version: String,
        /// Where it runs, as a predicate.
        how: String,
    },
    /// The version is mounted, with the view of an older lock.
    #[error("{version} is mounted at {}, and its lock has changed since", mountpoint.display())]
    OldMount {
        /// The version.
        version: String,
        /// Where.
        mountpoint: PathBuf,
    },
    /// A server of the version is kept warm, with the view of an older lock.
    #[error("{version} runs with an older lock")]
    OldRun {
        /// The version.
        version: String,
    },
    /// Nothing runs under that name.
    #[error("{version} does not run")]
    NotRunning {
        /// The version.
        version: String,
    },
    /// There is no log of it.
    #[error("{version} has never run here")]
    NeverRan {
        /// The version.
        version: String,
    },
    /// Nobody says which Python is to run it.
    #[error("{version} has no Python environment, and names no interpreter")]
    NoInterpreter {
        /// The version.
        version: String,
    },
    /// The interpreter that the version names is not here.
    #[error("{version} asks for the interpreter {wanted:?}, which is not {place}")]
    InterpreterMissing {
        /// The version.
        version: String,
        /// What it asks for.
        wanted: String,
        /// Where it was looked for.
        place: &'static str,
    },
    /// The environment's interpreter does not exist on this machine.
    #[error(
        "the environment of {version} is made for an interpreter that is not here: {} leads to {}",
        path.display(),
        target.display()
    )]
    InterpreterGone {
        /// The version.
        version: String,
        /// The link that leads nowhere.
        path: PathBuf,
        /// Where it leads to.
        target: PathBuf,
    },
    /// The supervisor could not start it, and said why.
    #[error("{message}")]
    Supervisor {
        /// Its error.
        message: String,
        /// Its advice.
        hint: Option<String>,
        /// Its exit code.
        exit: Exit,
    },
    /// The supervisor is gone and said nothing.
    #[error("the process that was to run {version} ended ({status}); its log is {}", log.display())]
    SupervisorEnded {
        /// The version.
        version: String,
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
    },
    /// What was to be ended is still there.
    #[error("process {pid}, which runs {version}, does not end")]
    StillThere {
        /// The version.
        version: String,
        /// The supervisor.
        pid: u32,
    },
    /// It is tied to a command.
    #[error("{version} is run by another command, process {pid}")]
    Foreground {
        /// The version.
        version: String,
        /// That command.
        pid: u32,
    },
}

impl RunsError {
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }

    /// The code that the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::AlreadyRuns { .. }
            | Self::OldMount { .. }
            | Self::OldRun { .. }
            | Self::StillThere { .. }
            | Self::Foreground { .. } => Exit::Busy,
            Self::Supervisor { exit, .. } => *exit,
            Self::Io { .. }
            | Self::NotRunning { .. }
            | Self::NeverRan { .. }
            | Self::NoInterpreter { .. }
            | Self::InterpreterMissing { .. }
            | Self::InterpreterGone { .. }
            | Self::SupervisorEnded { .. } => Exit::Failed,
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::AlreadyRuns { version, .. } => format!(
                "`cvs stop {version}` ends it; `cvs clone {version} NEW` makes a version that runs beside it"
            ),
            Self::OldMount { mountpoint, .. } => {
                format!("`cvs umount {}` first, so that the new one is shown", shell::word(mountpoint))
            }
            Self::OldRun { version } => format!("`cvs restart {version}` starts it with the new one"),
            Self::NotRunning { .. } => "`cvs ps` shows what runs".to_owned(),
            Self::NeverRan { version } => {
                format!("`cvs run-ui {version}` runs it; `cvs list` shows the versions that there are")
            }
            Self::NoInterpreter { .. } => {
                "name one in the spec: `python.version`, or `env.COMFY_PYTHON` with a path".to_owned()
            }
            Self::InterpreterMissing { .. } => {
                "install it, or name another one in the spec: `python.version` or `env.COMFY_PYTHON`"
                    .to_owned()
            }
            Self::InterpreterGone { version, .. } => {
                format!(
                    "`cvs lock {version} --update=python` makes the environment again for this machine; a link that was \
                     written into the version by a run is to be removed where it is mounted"
                )
            }
            Self::Supervisor { hint, .. } => return hint.clone(),
            Self::StillThere { pid, .. } => format!("`kill -9 {pid}` ends it; `cvs stop` clears up then"),
            Self::Foreground { .. } => "end that, with Ctrl-C or `cvs stop`, and start it again".to_owned(),
            Self::SupervisorEnded { version, .. } => format!("`cvs stop {version}` clears away what it left"),
            Self::Io { source, .. } => return hint_of_io(source),
        })
    }
}
