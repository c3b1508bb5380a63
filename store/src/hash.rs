//! The BLAKE3 of files. They are read, never mapped: a file that is cut short or fails while it is hashed is an error
//! here, where a mapping would kill the process.
//!
//! BLAKE3 is a tree: all cores hash parts of one file at once, each in a buffer that stays in its cache, and a copy
//! writes the part from there. So the bytes cross the memory once, which is what makes reading as fast as mapping.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use rustix::fs::Advice;

use crate::id::BlobId;

/// Bytes that one core hashes at once; a power of two.
const LEAF: u64 = 256 << 10;
/// Parts up to this size are shared by the cores; larger ones follow each other, so that the disk sees one stream.
const WINDOW: u64 = 8 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Hears of bytes that were hashed, from any thread, and stops the work by an error.
pub(crate) type Tell<'a> = &'a (dyn Fn(u64) -> io::Result<()> + Sync);

/// Why a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    /// With the place in the file.
    Write(u64, io::Error),
}

/// Hashes the first `len` bytes of `file`.
pub(crate) fn hash_file(file: &File, len: u64, tell: Tell<'_>) -> io::Result<BlobId> {
    Work { source: file, target: None, len, tell }.run().map_err(|error| match error {
        CopyError::Read(error) | CopyError::Write(_, error) => error,
    })
}

/// Copies the first `len` bytes of `source` to `target`, and hashes them.
pub(crate) fn copy_file(source: &File, target: &File, len: u64) -> Result<BlobId, CopyError> {
    Work { source, target: Some(target), len, tell: &|_| Ok(()) }.run()
}

struct Work<'a> {
    source: &'a File,
    target: Option<&'a File>,
    len: u64,
    tell: Tell<'a>,
}

impl Work<'_> {
    fn run(&self) -> Result<BlobId, CopyError> {
        let hash = if self.len <= LEAF {
            self.leaf(0, self.len, |hasher| hasher.finalize())?
        } else {
            let (left, right) = self.both(0, self.len)?;
            merge_subtrees_root(&left, &right, Mode::Hash)
        };
        Ok(BlobId::from_bytes(*hash.as_bytes()))
    }

    /// The two subtrees of the part of `len` bytes at `offset`.
    fn both(&self, offset: u64, len: u64) -> Result<([u8; 32], [u8; 32]), CopyError> {
        let half = left_subtree_len(len);
        let left = || self.part(offset, half);
        let right = || self.part(offset + half, len - half);
        if len <= WINDOW {
            let (left, right) = rayon::join(left, right);
            Ok((left?, right?))
        } else {
            Ok((left()?, right()?))
        }
    }

    fn part(&self, offset: u64, len: u64) -> Result<[u8; 32], CopyError> {
        if len == WINDOW {
            // The disk works ahead while this window is hashed. Where that is not known, it reads as it pleases.
            let next = std::num::NonZeroU64::new(WINDOW);
            let _ = rustix::fs::fadvise(self.source, offset + WINDOW, next, Advice::WillNeed);
        }
        if len <= LEAF {
            return self.leaf(offset, len, |hasher| hasher.finalize_non_root());
        }
        let (left, right) = self.both(offset, len)?;
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }

    fn leaf<T>(
        &self,
        offset: u64,
        len: u64,
        finish: impl FnOnce(&blake3::Hasher) -> T,
    ) -> Result<T, CopyError> {
        BUFFER
            .with_borrow_mut(|buffer| {
                buffer.resize(LEAF as usize, 0);
                let bytes = buffer.get_mut(..len as usize).unwrap_or_default();
                self.source.read_exact_at(bytes, offset).map_err(CopyError::Read)?;
                let mut hasher = blake3::Hasher::new();
                hasher.set_input_offset(offset).update(bytes);
                if let Some(target) = self.target {
                    target.write_all_at(bytes, offset).map_err(|e| CopyError::Write(offset, e))?;
                }
                Ok(finish(&hasher))
            })
            .and_then(|hash| {
                (self.tell)(len).map_err(CopyError::Read)?;
                Ok(hash)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("file"), dir.path().join("copy"));
        let sizes = [0, 1, 1024, 1025, LEAF - 1, LEAF, LEAF + 1, LEAF + 1025, 3 * LEAF, WINDOW - 1, WINDOW];
        for len in sizes.into_iter().chain([WINDOW + 1, 2 * WINDOW + 5000, 3 * WINDOW]) {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            let told = std::sync::atomic::AtomicU64::new(0);
            let tell = |n| {
                told.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            };
            assert_eq!(hash_file(&file, len, &tell).unwrap(), BlobId::of(&bytes), "{len}");
            assert_eq!(told.into_inner(), len);
            let target = File::create(&copy).unwrap();
            assert_eq!(copy_file(&file, &target, len).unwrap(), BlobId::of(&bytes), "{len}");
            assert!(std::fs::read(&copy).unwrap() == bytes, "{len}");
            let cut = hash_file(&file, len + 1, &|_| Ok(())).unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
