//! Why something could not be imported. Each variant names the file it is about.

use std::io;
use std::path::PathBuf;

use cvs_store::StoreError;

use crate::source::SourceError;

/// An import failed. Nothing was published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
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
    /// The directory holds no ComfyUI.
    #[error("{} is not a ComfyUI install: there is no {missing} in it, nor in its ComfyUI/", path.display())]
    NotAnInstall {
        /// The directory.
        path: PathBuf,
        /// What was looked for.
        missing: &'static str,
    },
    /// Something writes into the directory.
    #[error("{} changed while it was read, twice", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A configuration file of the install cannot be read.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file does not say what it would have to.
    #[error("{}: {reason}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What was named as the environment is none.
    #[error("{} is no Python environment: {reason}", path.display())]
    Environment {
        /// What was named.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Files are to share their blocks with the store, and the filesystem cannot.
    #[error("{} and the store share no filesystem that can share blocks (reflink)", path.display())]
    NoReflink {
        /// The file that was tried.
        path: PathBuf,
    },
    /// A part could not be read into the store.
    #[error("{}: {source}", path.display())]
    Source {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: Box<SourceError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's cancel flag was set.
    #[error("interrupted")]
    Cancelled,
}

impl ImportError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { operation, path: path.into(), source }
    }

    pub(crate) fn store(source: StoreError) -> Self {
        match source {
            StoreError::Interrupted => Self::Cancelled,
            source => Self::Store(source),
        }
    }

    pub(crate) fn source(path: impl Into<PathBuf>, source: SourceError) -> Self {
        match source {
            SourceError::Cancelled | SourceError::Store(StoreError::Interrupted) => Self::Cancelled,
            source => Self::Source { path: path.into(), source: Box::new(source) },
        }
    }
}
