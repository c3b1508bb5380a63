//! Whether a file is the one that it was.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What tells a file from another one that took its name, or from itself after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
}

impl Stamp {
    /// That of a file of which this was found.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}
