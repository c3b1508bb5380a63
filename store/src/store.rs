//! Opening a store and looking at its objects.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::error::{StoreError, write_error};
use crate::id::{BlobId, ManifestId};
use crate::index::Index;
use crate::layout::{self, Key, Layout};
use crate::lease::{Lease, LeaseInfo, LeaseKind};
use crate::manifest::Manifest;
use crate::sys::Mapped;
use crate::txn::Transaction;

/// Manifests from this length up are mapped, not read, where a view is made of them.
const MAPPED: u64 = 256 << 10;

/// A store on disk. Clones share the index connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    index: Index,
}

impl Store {
    /// Opens the store below `home`, making it when there is none.
    ///
    /// # Errors
    /// An unknown format is refused; nothing is written then.
    pub fn open(home: &Path) -> Result<Self, StoreError> {
        layout::make_dir(home)?;
        let home = fs::canonicalize(home).map_err(|e| StoreError::io("resolve", home, e))?;
        let layout = Layout { home };
        check_format(&layout)?;
        let objects = layout.objects();
        if !objects.join("manifest").exists() {
            layout::make_dir(&objects.join("blob"))?;
            layout::make_dir(&objects.join("manifest"))?;
            layout::sync_dir(&objects)?;
            layout::sync_dir(&layout.home)?;
        }
        for dir in [layout.staging(), layout.leases()] {
            layout::make_dir(&dir)?;
        }
        let index = Index::new(layout.index_file());
        Ok(Self { inner: Arc::new(Inner { layout, index }) })
    }

    /// The root directory, with symlinks resolved.
    pub fn home(&self) -> &Path {
        &self.inner.layout.home
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The cache of what is known about objects.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// Begins a transaction. `label` names it for people (`cvs doctor`, messages of gc).
    pub fn begin(&self, label: &str) -> Result<Transaction, StoreError> {
        Transaction::begin(self.clone(), label)
    }

    /// Takes a lease that keeps `manifests` and all that they reach until it is dropped or its process dies.
    ///
    /// # Errors
    /// [`StoreError::MissingManifest`] when one of them is not in the store.
    pub fn lease(
        &self,
        kind: LeaseKind,
        label: &str,
        manifests: &[ManifestId],
        info: serde_json::Value,
    ) -> Result<Lease, StoreError> {
        let lease = Lease::create(&self.inner.layout.leases(), kind, label, info)?;
        let _shared = self.lock(Hold::Shared)?;
        for id in manifests {
            if !self.layout().object((*id).into()).exists() {
                return Err(StoreError::MissingManifest(*id));
            }
        }
        lease.claim(manifests.iter().map(|id| Key::from(*id)))?;
        Ok(lease)
    }

    /// The leases whose holders live, except transactions. Those of the dead are removed.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>, StoreError> {
        crate::lease::living(&self.inner.layout.leases())
    }

    /// The leases of mounts that died since the machine was started, until they are forgotten. They claim nothing.
    pub fn dead_mounts(&self) -> Result<Vec<LeaseInfo>, StoreError> {
        crate::lease::dead_mounts(&self.inner.layout.leases())
    }

    /// Forgets a dead mount: it is no longer there.
    pub fn forget_dead_mount(&self, lease: &LeaseInfo) {
        crate::lease::forget(lease);
    }

    /// Reads and verifies a manifest. It is in memory then, and whatever becomes of the file cannot hurt its reader.
    pub fn manifest(&self, id: &ManifestId) -> Result<Manifest, StoreError> {
        let path = self.inner.layout.object((*id).into());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::MissingManifest(*id));
            }
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        if ManifestId::of(&bytes) != *id {
            return Err(StoreError::DamagedManifest(*id));
        }
        Manifest::from_verified(*id, bytes)
            .map_err(|source| StoreError::Manifest { context: id.to_hex(), source })
    }

    /// The same manifest, verified and left where it lies: of a large one, only what is looked at is in memory.
    pub(crate) fn mapped_manifest(&self, id: &ManifestId) -> Result<Manifest, StoreError> {
        let path = self.inner.layout.object((*id).into());
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingManifest(*id),
            _ => StoreError::io("open", &path, error),
        })?;
        if file.metadata().map_err(|e| StoreError::io("look at", &path, e))?.len() < MAPPED {
            return self.manifest(id);
        }
        let mapped = Mapped::new(&file).map_err(|e| StoreError::io("map", &path, e))?;
        if ManifestId::of(&mapped) != *id {
            return Err(StoreError::DamagedManifest(*id));
        }
        mapped.let_go();
        Manifest::from_verified(*id, mapped)
            .map_err(|source| StoreError::Manifest { context: id.to_hex(), source })
    }

    /// Opens a blob for reading. Its bytes are not verified.
    pub fn open_blob(&self, id: &BlobId) -> Result<File, StoreError> {
        let path = self.blob_path(id);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob(*id),
            _ => StoreError::io("open", path, error),
        })
    }

    /// Where a blob lies, whether or not it is there.
    pub fn blob_path(&self, id: &BlobId) -> PathBuf {
        self.inner.layout.object((*id).into())
    }

    /// The size of a blob in bytes, if it is there. A look, not a promise: see [`Transaction::has_blob`].
    pub fn blob_size(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        size_of(&self.blob_path(id))
    }

    /// True when the manifest is there. A look, not a promise: see [`Transaction::has_manifest`].
    pub fn has_manifest(&self, id: &ManifestId) -> Result<bool, StoreError> {
        Ok(size_of(&self.inner.layout.object((*id).into()))?.is_some())
    }

    /// Takes the store's lock. It is held for moments only: shared by claims and commits, alone by gc's second phase.
    ///
    /// The kernel lets those who share a lock pass those who want it alone, so that many short holders could keep gc
    /// out for ever. Hence a gate before it: who wants the lock alone closes the gate while it waits. No thread of
    /// rayon's pool may be needed while the lock is held alone, for all of them may be waiting for it.
    pub(crate) fn lock(&self, how: Hold) -> Result<File, StoreError> {
        let layout = &self.inner.layout;
        let operation = match how {
            Hold::Shared => FlockOperation::LockShared,
            Hold::Alone => FlockOperation::LockExclusive,
        };
        let gate = flock(&layout.gate_file(), operation)?;
        if how == Hold::Shared {
            drop(gate);
            return flock(&layout.lock_file(), operation);
        }
        flock(&layout.lock_file(), operation)
    }
}

/// How the store's lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Shared,
    Alone,
}

fn flock(path: &Path, operation: FlockOperation) -> Result<File, StoreError> {
    let file = File::options().create(true).write(true).truncate(false).open(path);
    let file = file.map_err(|e| write_error("open", path, 0, e))?;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(StoreError::io("lock", path, error)),
        }
    }
}

pub(crate) fn size_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", path, error)),
    }
}

fn check_format(layout: &Layout) -> Result<(), StoreError> {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Format {
        format: u32,
        #[serde(default)]
        features: Vec<String>,
    }
    let path = layout.format_file();
    let unknown =
        |found: String| StoreError::UnknownFormat { path: path.clone(), found, known: layout::FORMAT };
    match fs::read_to_string(&path) {
        Ok(text) => match serde_json::from_str::<Format>(&text) {
            Ok(Format { format: layout::FORMAT, features }) if features.is_empty() => Ok(()),
            Ok(Format { format: layout::FORMAT, features }) => {
                Err(unknown(format!("{} with features {}", layout::FORMAT, features.join(", "))))
            }
            Ok(other) => Err(unknown(other.format.to_string())),
            Err(_) => Err(unknown(format!("{:?}", text.trim()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Whoever makes a store writes this file first: objects without it are not ours, unless it came just now.
            if layout.objects().exists() && !path.exists() {
                return Err(unknown("none, although there are objects".to_owned()));
            }
            if path.exists() {
                return check_format(layout);
            }
            let format = Format { format: layout::FORMAT, features: Vec::new() };
            let text = serde_json::to_string(&format).unwrap_or_default() + "\n";
            layout::write_durably(&path, text.as_bytes())
        }
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    /// Four threads of which some one nearly always shares the lock: alone would come by luck without the gate.
    #[test]
    fn many_who_share_the_lock_do_not_keep_out_who_wants_it_alone() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let (done, started) = (AtomicBool::new(false), Barrier::new(5));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    started.wait();
                    while !done.load(Ordering::Relaxed) {
                        let _shared = store.lock(Hold::Shared).unwrap();
                        let until = Instant::now() + Duration::from_micros(200);
                        while Instant::now() < until {
                            std::hint::spin_loop();
                        }
                    }
                });
            }
            started.wait();
            let asked = Instant::now();
            for _ in 0..20 {
                drop(store.lock(Hold::Alone).unwrap());
            }
            done.store(true, Ordering::Relaxed);
            assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        });
    }
}
