//! What can go wrong with mountpoints.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a mount cannot be made, found or taken down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountsError {
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
    /// Something is mounted there.
    #[error("{} is a mountpoint already: {what}", path.display())]
    Occupied {
        /// The mountpoint.
        path: PathBuf,
        /// What is mounted there.
        what: String,
    },
    /// The mountpoint is no directory.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The mount would hide files.
    #[error("{} is not empty, and a mount would hide what is in it", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Neither a mountpoint nor a version that is mounted.
    #[error("{target} is neither a mountpoint of cvs nor a version that is mounted")]
    NotMounted {
        /// What was asked for.
        target: String,
    },
    /// A dead mount that this store has not made, and that was not named by its path.
    #[error("{version} is not mounted by this store; the dead mount at {} is of another", path.display())]
    OfAnotherStore {
        /// The version.
        version: String,
        /// The mountpoint.
        path: PathBuf,
    },
    /// Files of the mount are in use.
    #[error("{} is in use by {users}", path.display())]
    InUse {
        /// The mountpoint.
        path: PathBuf,
        /// Programs with their pids.
        users: String,
    },
    /// Something was mounted over it, so that it cannot be reached.
    #[error("{} is hidden: {what} is mounted over it", path.display())]
    Hidden {
        /// The mountpoint.
        path: PathBuf,
        /// What is mounted there, too.
        what: String,
    },
    /// The daemon ended before the mount was usable. What it said has been shown.
    #[error("the mount of {version} did not come up: its process ended ({status}); its log is {}", log.display())]
    DidNotStart {
        /// The version.
        version: String,
        /// Its log.
        log: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// The mount is gone, but its daemon still works.
    #[error("process {pid}, which served {}, has not ended yet", path.display())]
    StillThere {
        /// The former mountpoint.
        path: PathBuf,
        /// The daemon.
        pid: u32,
    },
}

impl MountsError {
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}
