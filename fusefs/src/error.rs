//! Errors of filesystem operations and their errno, and errors of setting an overlay or a mount up.

use std::path::PathBuf;

use cvs_store::{BlobId, StoreError};
use rustix::io::Errno;

/// Why an operation on the filesystem failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// There is no such entry.
    #[error("no such entry")]
    NotFound,
    /// There is such an entry already.
    #[error("the entry exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// Something else than a directory was needed.
    #[error("a directory")]
    IsADirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The mount has no overlay.
    #[error("read-only mount")]
    ReadOnly,
    /// Arguments that make no sense, such as moving a directory into itself.
    #[error("invalid argument")]
    Invalid,
    /// A name of more than 255 bytes.
    #[error("the name is too long")]
    NameTooLong,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small.
    #[error("the buffer is too small")]
    Range,
    /// The filesystem has no such operation.
    #[error("not supported")]
    NotSupported,
    /// The kernel shall do it by itself from now on.
    #[error("left to the kernel")]
    LeftToKernel,
    /// Not allowed on this kind of thing.
    #[error("not permitted")]
    NotPermitted,
    /// There is no data or hole beyond this offset.
    #[error("beyond the end of the file")]
    NoMoreData,
    /// A blob is missing, damaged or cannot be read.
    #[error("blob {blob} {problem}")]
    Damaged {
        /// The blob.
        blob: BlobId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Another connection shows the directory, or stands on it.
    #[error("another connection has it")]
    Busy,
    /// A process runs from the file.
    #[error("the file is being executed")]
    Executed,
    /// The name leads to another node now: who asked shall look it up again.
    #[error("the node has changed")]
    Stale,
    /// An object cannot be opened now, and nothing is wrong with it.
    #[error("cannot open an object: {errno}")]
    Object {
        /// The refusal.
        errno: Errno,
    },
    /// A copy that another request waits for does not get on.
    #[error("a copy-up does not get on")]
    Stalled,
    /// A number that is not in the view, or a manifest whose bytes make no sense.
    #[error("the view has no such entry")]
    BadView,
    /// A handler panicked.
    #[error("the handler panicked")]
    Panicked,
    /// The filesystem below the overlay refused.
    #[error("cannot {op} in the overlay: {errno}")]
    Upper {
        /// The operation, as a verb.
        op: &'static str,
        /// The refusal.
        errno: Errno,
    },
}

impl FsError {
    /// Wraps a refusal of the upper filesystem.
    pub(crate) fn upper(op: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Upper { op, errno }
    }

    /// The number that the caller of the system call gets.
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::NotFound => Errno::NOENT,
            Self::Exists => Errno::EXIST,
            Self::NotADirectory => Errno::NOTDIR,
            Self::IsADirectory => Errno::ISDIR,
            Self::NotEmpty => Errno::NOTEMPTY,
            Self::ReadOnly => Errno::ROFS,
            Self::Invalid => Errno::INVAL,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::NoAttribute => Errno::NODATA,
            Self::Range => Errno::RANGE,
            Self::NotSupported => Errno::OPNOTSUPP,
            Self::LeftToKernel => Errno::NOSYS,
            Self::NotPermitted => Errno::PERM,
            Self::NoMoreData => Errno::NXIO,
            Self::Busy => Errno::BUSY,
            Self::Executed => Errno::TXTBSY,
            Self::Stale => Errno::STALE,
            Self::Damaged { .. } | Self::BadView | Self::Panicked => Errno::IO,
            Self::Upper { errno, .. } | Self::Object { errno } => *errno,
            Self::Stalled => Errno::TIMEDOUT,
        };
        errno.raw_os_error()
    }
}

/// Why an overlay cannot be opened or a view cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A system call failed.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        op: &'static str,
        /// Its object.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another mount writes to the overlay.
    #[error("the overlay {} is in use by process {pid}", path.display())]
    OverlayBusy {
        /// The overlay.
        path: PathBuf,
        /// The process.
        pid: String,
    },
    /// The filesystem of the overlay lacks something.
    #[error("the filesystem of {} has no {feature}, which an overlay needs", path.display())]
    Unsupported {
        /// The overlay.
        path: PathBuf,
        /// What is missing.
        feature: &'static str,
    },
    /// The overlay has a format that this program does not know.
    #[error("the overlay {} has format {found:?}, which this version of cvs does not know", path.display())]
    UnknownFormat {
        /// The overlay.
        path: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The kernel or fusermount3 refused the mount.
    #[error("cannot mount at {}: {source}", path.display())]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MountError {
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the log says of an operation, and what its program gets.
    #[test]
    fn every_error_has_its_words_and_its_errno() {
        let (blob, problem) = (BlobId::of(b"x"), "is missing");
        for (error, text, errno) in [
            (FsError::NotFound, "no such entry", Errno::NOENT),
            (FsError::Exists, "the entry exists", Errno::EXIST),
            (FsError::NotADirectory, "not a directory", Errno::NOTDIR),
            (FsError::IsADirectory, "a directory", Errno::ISDIR),
            (FsError::NotEmpty, "the directory is not empty", Errno::NOTEMPTY),
            (FsError::ReadOnly, "read-only mount", Errno::ROFS),
            (FsError::Invalid, "invalid argument", Errno::INVAL),
            (FsError::NameTooLong, "the name is too long", Errno::NAMETOOLONG),
            (FsError::NoAttribute, "no such attribute", Errno::NODATA),
            (FsError::Range, "the buffer is too small", Errno::RANGE),
            (FsError::NotSupported, "not supported", Errno::OPNOTSUPP),
            (FsError::LeftToKernel, "left to the kernel", Errno::NOSYS),
            (FsError::NotPermitted, "not permitted", Errno::PERM),
            (FsError::NoMoreData, "beyond the end of the file", Errno::NXIO),
            (FsError::Executed, "the file is being executed", Errno::TXTBSY),
            (FsError::Busy, "another connection has it", Errno::BUSY),
            (FsError::Stale, "the node has changed", Errno::STALE),
            (FsError::Stalled, "a copy-up does not get on", Errno::TIMEDOUT),
            (FsError::BadView, "the view has no such entry", Errno::IO),
            (FsError::Panicked, "the handler panicked", Errno::IO),
            (
                FsError::Object { errno: Errno::MFILE },
                "cannot open an object: Too many open files (os error 24)",
                Errno::MFILE,
            ),
            (
                FsError::Upper { op: "write", errno: Errno::NOSPC },
                "cannot write in the overlay: No space left on device (os error 28)",
                Errno::NOSPC,
            ),
            (FsError::Damaged { blob, problem }, &format!("blob {blob} {problem}"), Errno::IO),
        ] {
            assert_eq!((error.to_string().as_str(), error.errno()), (text, errno.raw_os_error()));
        }
    }
}
