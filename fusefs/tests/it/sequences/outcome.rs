//! What an operation gave, as far as two filesystems must agree on it. What they need not agree on is left out of it
//! here and in `allowed.rs`, and nowhere else.

use serde::{Deserialize, Serialize};

/// What was seen, or the errno.
pub(crate) type Outcome = Result<Seen, i32>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Seen {
    /// It was done.
    Done,
    /// The slot holds nothing, or nothing that this can be done with.
    Idle,
    /// A position or a number of bytes.
    Number(u64),
    Bytes {
        len: usize,
        zeros: usize,
        start: String,
        hash: String,
    },
    Text(String),
    Names(Vec<String>),
    Attributes(Attributes),
    /// A listing that told a name twice, or did not tell one that was there all the time.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    /// Kind and permissions, as st_mode has them.
    pub(crate) mode: String,
    pub(crate) nlink: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    /// None for a directory.
    pub(crate) size: Option<u64>,
    /// None when it is later than the beginning of the case.
    pub(crate) mtime: Option<(i64, u32)>,
    /// The slots that hold the same node.
    pub(crate) held: Vec<u8>,
}

impl Seen {
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes {
            len: bytes.len(),
            zeros: bytes.iter().filter(|byte| **byte == 0).count(),
            start: bytes.get(..8).unwrap_or(bytes).escape_ascii().to_string(),
            hash: blake3::hash(bytes).to_hex()[..12].to_owned(),
        }
    }

    pub(crate) fn names(names: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut names: Vec<String> = names.into_iter().map(|name| name.escape_ascii().to_string()).collect();
        names.sort();
        Self::Names(names)
    }
}
