//! Reading blobs: a bounded set of open files, and the check that they are as long as the view says.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use cvs_store::{BlobId, Store, StoreError};
use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::FsError;
use crate::prefetch::Trace;

/// Blobs kept open at once.
const OPEN_BLOBS: NonZeroUsize = NonZeroUsize::new(512).unwrap();

pub(crate) struct Blobs {
    store: Store,
    open: Mutex<LruCache<BlobId, Arc<File>>>,
    pub(crate) trace: Trace,
}

impl Blobs {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, open: Mutex::new(LruCache::new(OPEN_BLOBS)), trace: Trace::new() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The blob, opened for reading.
    pub(crate) fn open(&self, id: BlobId, size: u64) -> Result<Arc<File>, FsError> {
        let cache = || self.open.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(file) = cache().get(&id) {
            return Ok(file.clone());
        }
        let opened = self.store.open_blob(&id).map_err(|error| match error {
            StoreError::MissingBlob(_) => damaged(id, "is missing"),
            error => unopened(id, &error),
        });
        let file = Arc::new(self.checked(id, size, opened)?);
        cache().put(id, file.clone());
        Ok(file)
    }

    /// The blob, opened below `objects` for the kernel to read. It is not kept open here.
    pub(crate) fn open_below(&self, objects: impl AsFd, id: BlobId, size: u64) -> Result<File, FsError> {
        let opened = open_below(objects, id).map_err(|error| match error {
            Errno::NOENT => damaged(id, "is missing"),
            error => unopened(id, &error),
        });
        self.checked(id, size, opened)
    }

    fn checked(&self, id: BlobId, size: u64, opened: Result<File, FsError>) -> Result<File, FsError> {
        let file = opened?;
        if file.metadata().map(|m| m.len()).ok() != Some(size) {
            return Err(damaged(id, "has the wrong size"));
        }
        self.trace.note(id);
        Ok(file)
    }

    /// Reads into `buffer` from `offset`; the number of bytes is short only at the end of the blob.
    pub(crate) fn read(
        &self,
        id: BlobId,
        size: u64,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, FsError> {
        let wanted = size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let file = self.open(id, size)?;
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        file.read_exact_at(buffer, offset).map_err(|error| {
            // It may have been replaced by a whole one meanwhile: the next read looks anew.
            self.open.lock().unwrap_or_else(|e| e.into_inner()).pop(&id);
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return damaged(id, "is cut off");
            }
            tracing::error!(blob = %id, %error, "a blob cannot be read");
            FsError::Damaged { blob: id, problem: "cannot be read" }
        })?;
        Ok(wanted)
    }
}

/// Opens a blob below the directory `objects`.
pub(crate) fn open_below(objects: impl AsFd, id: BlobId) -> Result<File, Errno> {
    let hex = id.to_hex();
    let (head, tail) = hex.split_at(2);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(objects, format!("blob/{head}/{tail}"), flags, Mode::empty()).map(File::from)
}

fn unopened(blob: BlobId, error: &dyn std::fmt::Display) -> FsError {
    tracing::error!(%blob, %error, "a blob cannot be opened");
    FsError::Damaged { blob, problem: "cannot be opened" }
}

/// Names the damage in the log, once for each time that somebody ran into it.
fn damaged(blob: BlobId, problem: &'static str) -> FsError {
    tracing::error!(%blob, "blob {problem}: run `cvs fsck`");
    FsError::Damaged { blob, problem }
}
