//! Errors of the store. Each variant names the operation, the object and the source; hints and exit codes are the
//! caller's.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{BlobId, ManifestId};

/// A text that is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: {found:?} (64 lower-case hexadecimal digits are expected)")]
pub struct ParseIdError {
    pub(crate) kind: &'static str,
    pub(crate) found: String,
}

/// A name or path that may not enter the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a path that can be stored: {reason}")]
pub struct PathError {
    /// What was given, with bytes that are not UTF-8 replaced.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What is wrong with a manifest, or with what was put into a builder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Two entries with the same path.
    #[error("{path} is listed twice")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// An entry below something that is not a directory.
    #[error("{path} lies below something that is not a directory")]
    NotADirectory {
        /// The path of the lower entry.
        path: String,
    },
    /// A hard link to something that is not a file of the same manifest.
    #[error("{path} is a hard link to a file that is not in the listing")]
    DanglingLink {
        /// The path of the link.
        path: String,
    },
    /// More entries, names or bytes than the format holds.
    #[error("the listing is too large for the format: {what}")]
    TooLarge {
        /// The field that overflows.
        what: &'static str,
    },
    /// The encoding breaks a rule of the format.
    #[error("the encoding is damaged: {0}")]
    Malformed(&'static str),
    /// A format version or feature that this program does not know.
    #[error("manifest format {version} with features {features:#x} is not known to this version of cvs")]
    UnknownFormat {
        /// The version found.
        version: u32,
        /// The feature bits found.
        features: u32,
    },
}

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// The filesystem of the store is full.
    #[error("no space left for the store at {}: {needed} bytes were needed, {available} are free", path.display())]
    NoSpace {
        /// The store's directory.
        path: PathBuf,
        /// Bytes that the failed step wanted to write.
        needed: u64,
        /// Bytes free when it failed.
        available: u64,
    },
    /// The store on disk has a format that this program does not know.
    #[error("the store at {} has format {found}, this program knows format {known}", path.display())]
    UnknownFormat {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this program writes.
        known: u32,
    },
    /// A blob is not in the store.
    #[error("blob {0} is not in the store")]
    MissingBlob(BlobId),
    /// A blob has another size than the manifest says that lists it.
    #[error("blob {id} has {found} bytes, and is listed with {listed}")]
    WrongSize {
        /// The blob.
        id: BlobId,
        /// The size in the manifest.
        listed: u64,
        /// The size of what is in the store or staged.
        found: u64,
    },
    /// A manifest is not in the store.
    #[error("manifest {0} is not in the store")]
    MissingManifest(ManifestId),
    /// A manifest's bytes do not have its id.
    #[error("manifest {0} is damaged: its bytes have another hash")]
    DamagedManifest(ManifestId),
    /// A manifest cannot be built or read.
    #[error("manifest {context}: {source}")]
    Manifest {
        /// Which one.
        context: String,
        /// What is wrong.
        source: ManifestError,
    },
    /// A name or path that may not enter the store.
    #[error("{context}: {source}")]
    Path {
        /// Where it came from.
        context: String,
        /// What is wrong.
        source: PathError,
    },
    /// Bytes that were handed over do not have the id that was promised.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Something holds a lease that was to be exclusive.
    #[error("{what} is in use by process {pid}")]
    Busy {
        /// What is held.
        what: String,
        /// Who holds it.
        pid: u32,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A root could not be read, so nothing can be called garbage.
    #[error("cannot tell what {root} keeps alive: {source}")]
    UnreadableRoot {
        /// The root.
        root: String,
        /// Why not.
        source: Box<StoreError>,
    },
    /// A root source outside of the store could not list its roots.
    #[error("cannot list what must be kept: {0}")]
    Roots(Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Wraps the failure of `op` on `path`.
    pub fn io(op: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { op, path: path.into(), source: source.into() }
    }

    /// True when the cause is a full filesystem or an exhausted quota.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => out_of_space(source),
            _ => false,
        }
    }
}

pub(crate) fn out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Turns a failed write of `needed` bytes into the error that says how much was missing.
pub(crate) fn write_error(op: &'static str, path: &Path, needed: u64, source: io::Error) -> StoreError {
    if !out_of_space(&source) {
        return StoreError::io(op, path, source);
    }
    // The path itself may be gone by now.
    let directory = path.ancestors().find(|dir| dir.is_dir()).unwrap_or(path);
    // The directory of a transaction goes with it, and is nothing to make room in.
    let staging = directory.ancestors().find(|dir| dir.ends_with("staging"));
    let directory = staging.and_then(Path::parent).unwrap_or(directory);
    let available =
        rustix::fs::statvfs(directory).map(|s| s.f_bavail.saturating_mul(s.f_frsize)).unwrap_or(0);
    StoreError::NoSpace { path: directory.to_owned(), needed, available }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::relpath::RelPath;
    use crate::view::ComposeError;

    #[test]
    fn what_is_refused_is_said_in_plain_words() {
        let path = RelPath::new("a//b").unwrap_err();
        let manifest = |source| StoreError::Manifest { context: "/srv/x".to_owned(), source };
        for (text, expected) in [
            (
                "12".parse::<BlobId>().unwrap_err().to_string(),
                "not a BlobId: \"12\" (64 lower-case hexadecimal digits are expected)",
            ),
            (path.to_string(), "\"a//b\" is not a path that can be stored: an empty name"),
            (
                StoreError::Path { context: "/srv/x".to_owned(), source: path.clone() }.to_string(),
                "/srv/x: \"a//b\" is not a path that can be stored: an empty name",
            ),
            (
                ComposeError::Path { label: "node n".to_owned(), source: path }.to_string(),
                "in node n: \"a//b\" is not a path that can be stored: an empty name",
            ),
            (ComposeError::TooLarge.to_string(), "the view has more than 2³² entries"),
            (
                manifest(Manifest::decode(Vec::new()).err().unwrap()).to_string(),
                "manifest /srv/x: the encoding is damaged: it does not begin as a manifest",
            ),
            (
                manifest(ManifestError::TooLarge { what: "entries" }).to_string(),
                "manifest /srv/x: the listing is too large for the format: entries",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }
}
