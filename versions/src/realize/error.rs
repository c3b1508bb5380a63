//! What can go wrong when a version is realized.

use std::fmt;
use std::io;
use std::path::PathBuf;

use cvs_store::{RelPath, StoreError};
use serde::{Serialize, Serializer};

/// A path in the target that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where, seen from the target.
    #[serde(serialize_with = "as_path")]
    pub path: RelPath,
    /// How it differs.
    pub kind: ChangeKind,
}

/// How something in the target differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was written, and has other content now.
    Changed,
    /// It was written, and is gone.
    Removed,
    /// It was never written by cvs.
    Added,
}

pub(super) fn as_path<S: Serializer>(path: &RelPath, serializer: S) -> Result<S::Ok, S::Error> {
    cvs_store::path_json::serialize(path.as_path(), serializer)
}

pub(super) fn as_paths<S: Serializer>(paths: &[RelPath], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| cvs_store::path_json::value(path.as_path())))
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Added => "added",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path, self.kind)
    }
}

/// Why a version could not be realized, or a realization not be checked or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RealizeError {
    /// The target is a directory with things in it that cvs did not write.
    #[error("{} is not empty, and not a realization", path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The target was written from another home, which may still keep it.
    #[error("{} is a realization that belongs to {}", path.display(), home.display())]
    Foreign {
        /// The target.
        path: PathBuf,
        /// The home that wrote it.
        home: PathBuf,
    },
    /// The target is no place for a realization.
    #[error("{} cannot be a target: {reason}", path.display())]
    Unfit {
        /// The target.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// There is no realization at this place.
    #[error("there is no realization at {}", path.display())]
    Unknown {
        /// The place.
        path: PathBuf,
    },
    /// Somebody works on the target, or runs from it.
    #[error("{} is in use{}", path.display(), pid.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Busy {
        /// The target.
        path: PathBuf,
        /// Who, when it is known.
        pid: Option<u32>,
    },
    /// What the version has changed was changed in the target as well.
    #[error("{}: {} in the way of the version:{}", path.display(), count(changes), list(changes))]
    InTheWay {
        /// The target.
        path: PathBuf,
        /// What is in the way; never empty.
        changes: Vec<Change>,
    },
    /// The filesystem of the target has too little room.
    #[error("no room at {}: {needed} bytes are needed, {available} are free", path.display())]
    NoRoom {
        /// The target.
        path: PathBuf,
        /// Bytes that would be written.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The record of a realization cannot be read, so that nobody knows what it keeps.
    #[error("the record {} cannot be read: {reason}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A call of the operating system failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's cancel flag was set. What was written stays; the next realize goes on.
    #[error("interrupted")]
    Cancelled,
}

impl RealizeError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }
}

/// Paths that a message names.
const NAMED: usize = 20;

fn count(changes: &[Change]) -> String {
    match changes.len() {
        1 => "1 path is".to_owned(),
        n => format!("{n} paths are"),
    }
}

fn list(changes: &[Change]) -> String {
    let mut text: String = changes.iter().take(NAMED).map(|change| format!("\n  {change}")).collect();
    if changes.len() > NAMED {
        text.push_str(&format!("\n  and {} more", changes.len() - NAMED));
    }
    text
}
