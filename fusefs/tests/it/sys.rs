//! The one place with `unsafe` in these tests.

use std::fs::File;

/// Maps a file to be read, shared.
pub(crate) fn map(file: &File) -> memmap2::Mmap {
    // SAFETY: the tests change the file while it is mapped, and never cut it off; what they compare is copied first.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}
