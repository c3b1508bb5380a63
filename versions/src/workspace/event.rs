//! What an operation on versions tells while it works. Events come from several threads at once; nothing here prints.

use std::fmt;
use std::path::Path;

use cvs_store::RelPath;

use crate::model_file::Finding;
use crate::python::PythonEvent;
use crate::source::SourceEvent;
use crate::spec::{Part, StaleReason, VersionId};

/// One step of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many parts of the version have to be resolved or brought; the others are as the lock has them.
    Planned {
        /// The version.
        id: &'a VersionId,
        /// Parts to work on.
        parts: usize,
        /// Parts that stay as they are.
        unchanged: usize,
    },
    /// The remote is asked which commit a part is at.
    Resolving {
        /// The part.
        part: &'a Part,
        /// Why it is worked on.
        why: &'a Why,
    },
    /// The content of a part is being brought.
    Fetching {
        /// The part.
        part: &'a Part,
        /// Why it is worked on.
        why: &'a Why,
    },
    /// What the source of a part tells.
    Source {
        /// The part.
        part: &'a Part,
        /// What it tells.
        event: SourceEvent<'a>,
    },
    /// A part is in the transaction.
    Fetched {
        /// The part.
        part: &'a Part,
        /// Its files, symlinks included.
        files: u64,
        /// True when all of it was in the store already, so that nothing had to be read.
        reused: bool,
    },
    /// A model that was brought is not what it seems, or runs code when it is loaded.
    ModelFinding {
        /// The model.
        part: &'a Part,
        /// What was found.
        finding: &'a Finding,
    },
    /// A part could not be brought; the error follows from the operation itself.
    Failed {
        /// The part.
        part: &'a Part,
    },
    /// The caller cancelled a while ago, and something still waits for a server that does not answer.
    Stopping,
    /// What the work on the Python environment tells.
    Python {
        /// What it tells.
        event: PythonEvent<'a>,
    },
    /// The `install.py` of a node is being run.
    Installing {
        /// The node.
        part: &'a Part,
    },
    /// An `install.py` wrote outside of its node's directory; that is not kept.
    InstalledElsewhere {
        /// The node.
        node: &'a str,
        /// What it wrote, sorted.
        paths: &'a [RelPath],
    },
    /// What was brought is being made durable.
    Committing,
    /// A file that was moved in is in the store, and its old name could not be removed.
    NotRemoved {
        /// The file.
        path: &'a Path,
        /// Why not.
        reason: &'a str,
    },
    /// The spec was edited while its lock was made: the edit is taken up.
    EditedMeanwhile {
        /// The version.
        id: &'a VersionId,
    },
    /// A check found this much to look at.
    CheckFound {
        /// Distinct blobs.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A check is done with so many more bytes, of whichever blob.
    Checked {
        /// Bytes.
        bytes: u64,
    },
    /// An install is being imported: its models are taken in.
    Importing {
        /// Files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many more bytes of them are read.
    Imported {
        /// Bytes.
        bytes: u64,
    },
    /// A version is being realized: this much is to be written.
    Realizing {
        /// Files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many more bytes of them are written.
    Realized {
        /// Bytes.
        bytes: u64,
    },
}

/// Where events go.
pub type Events<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// Why a part was worked on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The lock does not answer the spec.
    Stale(StaleReason),
    /// It is pinned, and the store does not have it, or not all of it.
    NotInStore,
    /// The caller asked for what its source has now.
    Asked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(StaleReason::NeverLocked) => f.write_str("never locked"),
            Self::Stale(reason) => reason.fmt(f),
            Self::NotInStore => f.write_str("not in the store"),
            Self::Asked => f.write_str("update asked for"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("lock"),
            Self::Comfy => f.write_str("core"),
            Self::Node(path) => write!(f, "node {path}"),
            Self::Model(path) => write!(f, "model {path}"),
            Self::Models => f.write_str("models"),
            Self::Python => f.write_str("python"),
            Self::View => f.write_str("view"),
        }
    }
}

impl fmt::Display for StaleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverLocked => f.write_str("missing"),
            Self::Added => f.write_str("added"),
            Self::Removed => f.write_str("removed"),
            Self::SourceChanged { from, to } => write!(f, "from {to}, was {from}"),
            Self::RevisionChanged { from, to } => write!(f, "at {to}, was {from}"),
            Self::RequestChanged { from, to } => write!(f, "{to}, was {from}"),
            Self::SourcesChanged => f.write_str("other requirements count"),
            Self::ChecksumChanged { to } => write!(f, "{to} to be verified"),
            Self::Moved { from } => write!(f, "moved from {from}"),
            Self::Renamed { from } => write!(f, "renamed from {from}"),
            Self::NotInstalled => f.write_str("install.py was not run"),
            Self::Installed => f.write_str("install.py was run, and is not asked for"),
            Self::Reordered => f.write_str("in another order"),
            Self::NotFetched => f.write_str("not fetched yet"),
        }
    }
}
