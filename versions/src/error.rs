//! The errors of this crate. Each variant names the operation, the object and the source; hints and exit codes are
//! the caller's. [`SpecError`] and [`SourceError`] are what the parts return, [`VersionsError`] holds them all.

use std::fmt;
use std::io;
use std::path::PathBuf;

use cvs_store::{ComposeError, RelPath, StoreError};

use crate::import::ImportError;
use crate::python::PythonError;
use crate::realize::RealizeError;
use crate::source::SourceError;
use crate::spec::{Part, StalePart, VersionId};

/// Where a text came from: what an error names first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// Something else that has a name, such as `--nodes` or `the new version`.
    Named(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong in a document, at one place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where, as `models[0].source`; empty for the document as a whole.
    pub place: String,
    /// What was found there.
    pub found: String,
    /// What would be accepted.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "found {}; expected {}", self.found, self.expected)
    }
}

/// Why a spec, a list of nodes or models, or the directory of specs could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A text that cannot name a version.
    #[error("{found:?} cannot name a version: {reason}")]
    Id {
        /// The text.
        found: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// There is no spec with this id.
    #[error("there is no version {id:?} in {}", dir.display())]
    Unknown {
        /// The id.
        id: String,
        /// The directory of specs.
        dir: PathBuf,
    },
    /// A spec with this id exists and was not to be replaced.
    #[error("version {id:?} exists already: {}", path.display())]
    Exists {
        /// The id.
        id: String,
        /// Its file.
        path: PathBuf,
    },
    /// The file was changed, made or removed by someone else since it was read.
    #[error("{} was changed by someone else since it was read; nothing was written", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The text is not JSON or YAML.
    #[error("{origin}:{line}:{column}: not valid {format}: {message}")]
    Syntax {
        /// Whose text.
        origin: Origin,
        /// `JSON` or `YAML`.
        format: &'static str,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What the parser says.
        message: String,
    },
    /// The text is well-formed, but does not say what a spec can say. All problems are listed.
    #[error("{origin}: {}", list(problems))]
    Invalid {
        /// Whose text.
        origin: Origin,
        /// Every problem, in the order of the checks; never empty.
        problems: Vec<Problem>,
    },
    /// A file in the directory of specs that is named like a spec but cannot be one.
    #[error("{} is not a spec: {reason}; move it out of the directory of specs", path.display())]
    Stray {
        /// The file.
        path: PathBuf,
        /// Which rule its name breaks.
        reason: String,
    },
    /// A call of the operating system failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `lock`, …
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SpecError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { operation, path: path.into(), source }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    match items {
        [only] => only.to_string(),
        many => {
            let lines: Vec<String> =
                many.iter().map(|item| format!("\n  {}", item.to_string().replace('\n', "\n  "))).collect();
            format!("{} problems{}", many.len(), lines.concat())
        }
    }
}

/// Why an operation on versions failed. Everything that the [`Workspace`](crate::Workspace) returns is one of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VersionsError {
    /// A spec, or the directory of specs. It names the file.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The store could not be opened or read, apart from any version.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed while it worked for a version.
    #[error("version {id}: cannot {operation}: {source}")]
    Version {
        /// The version.
        id: VersionId,
        /// What was being done: `keep its objects`, `store its models`, …
        operation: &'static str,
        /// What the store said.
        source: StoreError,
    },
    /// Parts could not be brought. All that failed are listed, in the order of the spec.
    #[error("version {id}: {}", list(failures))]
    Sources {
        /// The version.
        id: VersionId,
        /// Every failure; never empty.
        failures: Vec<SourceFailure>,
    },
    /// The network was not to be used, and the store does not have everything.
    #[error("version {id}: not in the store, and offline: {}", list(missing))]
    Offline {
        /// The version.
        id: VersionId,
        /// What is missing; never empty.
        missing: Vec<SourceFailure>,
    },
    /// The lock does not answer the spec, and was not to be changed.
    #[error("version {id}: the lock is out of date, and --locked forbids to change it: {}", list(stale))]
    Locked {
        /// The version.
        id: VersionId,
        /// What is stale; never empty.
        stale: Vec<StalePart>,
    },
    /// Two parts have something at one path of the view, and not both a directory.
    #[error("version {id}: {first} and {second} both have {path}")]
    Conflict {
        /// The version.
        id: VersionId,
        /// The path in the view.
        path: RelPath,
        /// `core`, `node NAME` or `models`: what comes first.
        first: String,
        /// The other.
        second: String,
    },
    /// The parts cannot be laid over each other for another reason.
    #[error("version {id}: cannot compose the view: {source}")]
    Compose {
        /// The version.
        id: VersionId,
        /// Why not.
        source: ComposeError,
    },
    /// The Python environment could not be made.
    #[error("version {id}: {source}")]
    Python {
        /// The version.
        id: VersionId,
        /// Why not.
        source: PythonError,
    },
    /// The `install.py` of a node failed.
    #[error("version {id}: install.py of node {node}: {reason}{}{tail}", if tail.is_empty() { "" } else { "\n" })]
    Install {
        /// The version.
        id: VersionId,
        /// The node.
        node: String,
        /// What happened.
        reason: String,
        /// The end of what it printed.
        tail: String,
    },
    /// The spec has an `install.py` run, and the caller has no place for that.
    #[error(
        "version {id}: install.py of node {node} has to be run, and nothing here can show it the version"
    )]
    NoSandbox {
        /// The version.
        id: VersionId,
        /// The node.
        node: String,
    },
    /// The version could not be shown to an `install.py`.
    #[error("version {id}: cannot show it to install.py of node {node}: {reason}")]
    Sandbox {
        /// The version.
        id: VersionId,
        /// The node.
        node: String,
        /// Why not.
        reason: String,
    },
    /// The spec was edited again each time that its lock was about to be written.
    #[error(
        "version {id}: the spec was edited {attempts} times while it was being locked; the lock was not written"
    )]
    Unsteady {
        /// The version.
        id: VersionId,
        /// How often it was tried.
        attempts: u32,
    },
    /// What was to be updated is not part of the version.
    #[error("version {id} has no part {found:?}; {}", if parts.is_empty() {
        "it has no part of that kind".to_owned()
    } else {
        format!("its parts are {}", parts.join(", "))
    })]
    NoSuchPart {
        /// The version.
        id: VersionId,
        /// What was asked for.
        found: String,
        /// What there is.
        parts: Vec<String>,
    },
    /// A source that belongs to no version.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The version is mounted.
    #[error("version {id} is mounted {}", mounts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Busy {
        /// The version.
        id: VersionId,
        /// By whom; never empty.
        mounts: Vec<MountRef>,
    },
    /// The files outside of the store that belong to a version: its overlay.
    #[error("version {id}: cannot {operation} {}: {source}", path.display())]
    Io {
        /// The version.
        id: VersionId,
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A version could not be realized, or a realization not be checked or removed.
    #[error(transparent)]
    Realize(#[from] RealizeError),
    /// Something could not be imported.
    #[error(transparent)]
    Import(ImportError),
    /// The caller's cancel flag was set. What was downloaded so far is kept for the next time.
    #[error("interrupted")]
    Cancelled,
}

impl From<ImportError> for VersionsError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Cancelled => Self::Cancelled,
            error => Self::Import(error),
        }
    }
}

/// One part that could not be brought.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
pub struct SourceFailure {
    /// Its place in the spec, as `models[0].source`.
    pub place: String,
    /// Which part.
    pub part: Part,
    /// Why not.
    pub source: SourceError,
}

/// A live mount of a version.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MountRef {
    /// The process that serves it.
    pub pid: u32,
    /// What the mount says of itself; `mountpoint` is where.
    pub info: serde_json::Value,
}

impl fmt::Display for MountRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.info.get("mountpoint").and_then(serde_json::Value::as_str) {
            Some(mountpoint) => write!(f, "at {mountpoint} (process {})", self.pid),
            None => write!(f, "by process {}", self.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bucket::BucketError;
    use crate::comfy::{ClientError, RunError};
    use crate::export::ExportError;
    use crate::fetch::FetchError;
    use crate::serve::ServeError;

    /// What only a failing machine, or a minute of silence, brings about.
    #[test]
    fn what_no_test_can_bring_about_is_said_in_plain_words() {
        let refused = || io::Error::from_raw_os_error(24);
        let (id, url) = (VersionId::new("v").unwrap(), || "http://h/x".to_owned());
        let path = || PathBuf::from("/srv/x");
        let after = Duration::from_secs(60);
        let compose = VersionsError::Compose { id: id.clone(), source: ComposeError::TooLarge };
        let version = VersionsError::Version {
            id,
            operation: "store its models",
            source: StoreError::io("write", "/srv/x", refused()),
        };
        let overlay = VersionsError::Io {
            id: VersionId::new("w").unwrap(),
            operation: "copy",
            path: path(),
            source: refused(),
        };
        let object = SourceError::GitObject {
            url: url(),
            object: "tree 12".to_owned(),
            source: git2::Error::from_str("object not found"),
        };
        let import =
            ImportError::Source { path: path(), source: SourceError::NotAFile { path: path() }.into() };
        for (text, expected) in [
            (compose.to_string(), "version v: cannot compose the view: the view has more than 2³² entries"),
            (
                version.to_string(),
                "version v: cannot store its models: cannot write /srv/x: Too many open files (os error 24)",
            ),
            (overlay.to_string(), "version w: cannot copy /srv/x: Too many open files (os error 24)"),
            (object.to_string(), "reading tree 12 of http://h/x: object not found"),
            (import.to_string(), "/srv/x: /srv/x is not a regular file"),
            (
                SourceError::Runtime { source: refused() }.to_string(),
                "starting the network client: Too many open files (os error 24)",
            ),
            (
                BucketError::Runtime { source: refused() }.to_string(),
                "cannot set up the network client: Too many open files (os error 24)",
            ),
            (
                BucketError::Read { path: path(), source: refused() }.to_string(),
                "cannot read /srv/x: Too many open files (os error 24)",
            ),
            (
                ClientError::Runtime { source: refused() }.to_string(),
                "cannot set up the network client: Too many open files (os error 24)",
            ),
            (
                ClientError::Broken { url: url(), detail: "connection reset".to_owned() }.to_string(),
                "http://h/x: the connection broke: connection reset",
            ),
            (ClientError::Timeout { url: url(), after }.to_string(), "http://h/x: no answer within 60s"),
            (
                ClientError::Io { operation: "write", path: path(), source: refused() }.to_string(),
                "cannot write /srv/x: Too many open files (os error 24)",
            ),
            (
                FetchError::Stalled { url: url(), after }.to_string(),
                "cannot fetch http://h/x: nothing came for 60s",
            ),
            (
                ServeError::Runtime { source: refused() }.to_string(),
                "the server failed: Too many open files (os error 24)",
            ),
            (RunError::Unkillable { pid: 7 }.to_string(), "process 7 does not end, even by SIGKILL"),
            (
                RunError::Io { operation: "open", path: path(), source: refused() }.to_string(),
                "cannot open /srv/x: Too many open files (os error 24)",
            ),
            (
                ExportError::NoPlace.to_string(),
                "extra_model_paths.yaml names where models are: say where the version is mounted or realized",
            ),
            (ExportError::Yaml("no such key".to_owned()).to_string(), "no such key"),
        ] {
            assert_eq!(text, expected);
        }
    }
}
