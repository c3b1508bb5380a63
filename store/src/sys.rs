//! The one place with `unsafe`: mapping files.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;

/// Files up to this size are read rather than mapped: a mapping costs more than the copy, and a private copy cannot
/// vanish under the reader.
const MAP_FROM: u64 = 1 << 20;

/// The bytes of an immutable file, in memory or mapped.
pub(crate) enum Bytes {
    Owned(Vec<u8>),
    Mapped(memmap2::Mmap),
}

impl Bytes {
    /// Maps or reads a whole object file.
    pub(crate) fn of_object(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        if len >= MAP_FROM {
            // SAFETY: objects are never written after they got their name (store invariant 1) and are only ever
            // unlinked, which leaves the mapping whole. Whoever truncates an object in place kills its readers.
            return Ok(Self::Mapped(unsafe { memmap2::Mmap::map(file) }?));
        }
        let mut bytes = Vec::with_capacity(len as usize + 1);
        (&mut &*file).read_to_end(&mut bytes)?;
        Ok(Self::Owned(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}
