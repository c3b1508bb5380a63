//! The BLAKE3 of files. They are read, never mapped: a file that is cut short or fails while it is hashed is an error
//! here, where a mapping would kill the process. For a large file that is in memory already, the copy that a mapping
//! saves costs about a quarter more time; for small files and cold ones it costs nothing.
//!
//! BLAKE3 is a tree: all cores hash parts of one file at once, each in a buffer that stays in its cache. While one
//! window of the file is hashed, the next is read ahead or copied.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use rustix::fs::Advice;
use rustix::io::Errno;

use crate::id::BlobId;

/// Bytes that one core hashes at once; a power of two.
const LEAF: u64 = 256 << 10;
/// Parts up to this size are shared by the cores; larger ones follow each other, so that the disk works ahead in one
/// direction. Small in tests, which would only write more.
const WINDOW: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };

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

/// Copies the first `len` bytes of `source` to `target`, and hashes the copy.
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
        self.prepare(0)?;
        if self.len <= LEAF {
            let hash = self.leaf(0, self.len, |hasher| hasher.finalize())?;
            return Ok(BlobId::from_bytes(*hash.as_bytes()));
        }
        let half = left_subtree_len(self.len);
        let (left, right) = if self.len <= WINDOW {
            self.halves(0, self.len)?
        } else {
            (self.windows(0, half)?, self.windows(half, self.len - half)?)
        };
        Ok(BlobId::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
    }

    /// Hashes window after window, and prepares the next one meanwhile.
    fn windows(&self, offset: u64, len: u64) -> Result<[u8; 32], CopyError> {
        if len <= WINDOW {
            let (prepared, hash) =
                rayon::join(|| self.prepare(offset + WINDOW), || self.subtree(offset, len));
            return prepared.and(hash);
        }
        let half = left_subtree_len(len);
        let (left, right) = (self.windows(offset, half)?, self.windows(offset + half, len - half)?);
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }

    /// Hashes a part with all cores.
    fn subtree(&self, offset: u64, len: u64) -> Result<[u8; 32], CopyError> {
        if len <= LEAF {
            return self.leaf(offset, len, |hasher| hasher.finalize_non_root());
        }
        let (left, right) = self.halves(offset, len)?;
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }

    fn halves(&self, offset: u64, len: u64) -> Result<([u8; 32], [u8; 32]), CopyError> {
        let half = left_subtree_len(len);
        let (left, right) =
            rayon::join(|| self.subtree(offset, half), || self.subtree(offset + half, len - half));
        Ok((left?, right?))
    }

    fn leaf<T>(
        &self,
        offset: u64,
        len: u64,
        finish: impl FnOnce(&blake3::Hasher) -> T,
    ) -> Result<T, CopyError> {
        let hash = BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(LEAF as usize, 0);
            let bytes = buffer.get_mut(..len as usize).unwrap_or_default();
            // A copy is hashed, not what it was made from: that may have changed in between.
            self.target.unwrap_or(self.source).read_exact_at(bytes, offset)?;
            Ok(finish(blake3::Hasher::new().set_input_offset(offset).update(bytes)))
        });
        hash.and_then(|hash| (self.tell)(len).map(|()| hash)).map_err(CopyError::Read)
    }

    /// Copies the window at `offset`, or lets the disk read it ahead.
    fn prepare(&self, offset: u64) -> Result<(), CopyError> {
        let end = self.len.min(offset + WINDOW);
        match (self.target, std::num::NonZeroU64::new(end.saturating_sub(offset))) {
            (_, None) => Ok(()),
            (Some(target), Some(_)) => self.copy(target, offset, end),
            (None, len) => {
                // Only a hint: where it is not known, the disk reads as it pleases.
                let _ = rustix::fs::fadvise(self.source, offset, len, Advice::WillNeed);
                Ok(())
            }
        }
    }

    /// The kernel copies from page to page where it can.
    fn copy(&self, target: &File, mut at: u64, end: u64) -> Result<(), CopyError> {
        while at < end {
            let (mut from, mut to) = (at, at);
            let wanted = (end - at) as usize;
            let copied =
                rustix::fs::copy_file_range(self.source, Some(&mut from), target, Some(&mut to), wanted);
            match copied {
                Ok(0) => return Err(CopyError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => at += n as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return self.copy_by_hand(target, at, end);
                }
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(CopyError::Write(at, error.into()));
                }
                Err(error) => return Err(CopyError::Read(error.into())),
            }
        }
        Ok(())
    }

    fn copy_by_hand(&self, target: &File, mut at: u64, end: u64) -> Result<(), CopyError> {
        let mut buffer = vec![0; (1 << 20).min(end - at) as usize];
        while at < end {
            let n = (end - at).min(buffer.len() as u64);
            let bytes = buffer.get_mut(..n as usize).unwrap_or_default();
            self.source.read_exact_at(bytes, at).map_err(CopyError::Read)?;
            target.write_all_at(bytes, at).map_err(|error| CopyError::Write(at, error))?;
            at += n;
        }
        Ok(())
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
            let target =
                File::options().read(true).write(true).create(true).truncate(true).open(&copy).unwrap();
            assert_eq!(copy_file(&file, &target, len).unwrap(), BlobId::of(&bytes), "{len}");
            assert!(std::fs::read(&copy).unwrap() == bytes, "{len}");
            let target = File::options().read(true).write(true).open(&copy).unwrap();
            target.set_len(0).unwrap();
            let work = Work { source: &file, target: Some(&target), len, tell: &|_| Ok(()) };
            work.copy_by_hand(&target, 0, len).unwrap();
            assert!(std::fs::read(&copy).unwrap() == bytes, "{len} by hand");
            let cut = hash_file(&file, len + 1, &|_| Ok(())).unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
