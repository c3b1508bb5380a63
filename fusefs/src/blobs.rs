//! Reading blobs: a bounded set of open files, and the check that they are as long as the view says.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use cvs_store::{BlobId, Stamp, Store, StoreError, View};
use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::damage::{Damage, DamagedBlob};
use crate::direct::{Direct, LARGE};
use crate::error::FsError;
use crate::prefetch::Trace;

/// Blobs kept open at once, if that many descriptors are to be had.
const OPEN_BLOBS: NonZeroUsize = NonZeroUsize::new(512).unwrap();

pub(crate) struct Blobs {
    store: Store,
    open: Mutex<LruCache<BlobId, Arc<File>>>,
    direct: Direct,
    pub(crate) trace: Trace,
    damage: Damage,
}

impl Blobs {
    pub(crate) fn new(store: Store, view: Arc<View>) -> Self {
        let open = Mutex::new(LruCache::new(OPEN_BLOBS.min(share_of_descriptors())));
        Self { store, open, direct: Direct::new(), trace: Trace::new(), damage: Damage::new(view) }
    }

    /// Blobs that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.open.lock().unwrap_or_else(|e| e.into_inner()).len()
    }

    /// Blobs that somebody ran into and could not read.
    pub(crate) fn damaged(&self) -> Vec<DamagedBlob> {
        self.damage.list()
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
        let opened = self.store.open_blob(&id).map_err(|error| match &error {
            StoreError::MissingBlob(_) => self.damaged_blob(id, "is missing"),
            StoreError::Io { source, .. } => {
                self.unopened(id, Errno::from_io_error(source).unwrap_or(Errno::IO), &error)
            }
            _ => self.unopened(id, Errno::IO, &error),
        });
        let file = Arc::new(self.checked(id, size, opened)?);
        cache().put(id, file.clone());
        Ok(file)
    }

    /// The blob, opened below `objects` for the kernel to read. It is not kept open here.
    pub(crate) fn open_below(&self, objects: impl AsFd, id: BlobId, size: u64) -> Result<File, FsError> {
        let opened = open_below(objects, id).map_err(|error| match error {
            Errno::NOENT => self.damaged_blob(id, "is missing"),
            error => self.unopened(id, error, &error),
        });
        self.checked(id, size, opened)
    }

    fn checked(&self, id: BlobId, size: u64, opened: Result<File, FsError>) -> Result<File, FsError> {
        let file = opened?;
        match file.metadata() {
            Ok(metadata) if metadata.len() == size => self.damage.opened(id, &metadata),
            _ => return Err(self.damaged_blob(id, "has the wrong size")),
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
        let bytes = offset..offset + wanted as u64;
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = match size >= LARGE {
            true => self.direct.read(&self.store, id, offset, buffer),
            false => file.read_exact_at(buffer, offset),
        };
        read.map_err(|error| {
            // It may have been replaced by a whole one meanwhile: the next read looks anew.
            self.open.lock().unwrap_or_else(|e| e.into_inner()).pop(&id);
            self.direct.forget(id);
            match error.kind() {
                std::io::ErrorKind::UnexpectedEof => self.unread(id, &file, bytes.clone(), "is cut off"),
                _ => match Errno::from_io_error(&error) {
                    Some(errno @ (Errno::MFILE | Errno::NFILE)) => FsError::Object { errno },
                    _ => {
                        tracing::debug!(blob = %id, %error, "cannot be read");
                        self.unread(id, &file, bytes.clone(), "cannot be read")
                    }
                },
            }
        })?;
        self.damage.read(id, bytes);
        Ok(wanted)
    }

    fn damaged_blob(&self, blob: BlobId, problem: &'static str) -> FsError {
        self.damage.note(blob, problem, None);
        FsError::Damaged { blob, problem }
    }

    /// One that could be opened.
    fn unread(&self, blob: BlobId, file: &File, bytes: Range<u64>, problem: &'static str) -> FsError {
        let stamp = file.metadata().map(|metadata| Stamp::of(&metadata));
        self.damage.note(blob, problem, stamp.ok().map(|stamp| (stamp, bytes)));
        FsError::Damaged { blob, problem }
    }

    fn unopened(&self, blob: BlobId, errno: Errno, error: &dyn std::fmt::Display) -> FsError {
        match errno {
            // Nothing is wrong with the blob.
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => FsError::Object { errno },
            _ => {
                tracing::debug!(%blob, %error, "cannot be opened");
                self.damaged_blob(blob, "cannot be opened")
            }
        }
    }
}

/// Opens a blob below the directory `objects`.
pub(crate) fn open_below(objects: impl AsFd, id: BlobId) -> Result<File, Errno> {
    let hex = id.to_hex();
    let (head, tail) = hex.split_at(2);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(objects, format!("blob/{head}/{tail}"), flags, Mode::empty()).map(File::from)
}

/// How many descriptors one of several caches may hold: an eighth of what this process may have. The rest is for
/// unlinked files that are in use, and for the moment.
pub(crate) fn share_of_descriptors() -> NonZeroUsize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 8).unwrap_or(usize::MAX));
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}
