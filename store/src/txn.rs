//! Transactions: how objects enter the store.
//!
//! New objects are written to `staging/<transaction>/` and become part of the store by [`Transaction::commit`]. Only
//! then may the caller publish what refers to them; it lets files that were moved in go
//! ([`Transaction::remove_sources`]) and drops the transaction after that, so that gc sees either the claim or the spec.
//!
//! *Lock order:* `committing`, the store's lock, `staged`, the lease's claims. No lock is held while bytes are hashed;
//! only `committing` while they are synced.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use crate::error::{StoreError, write_error};
use crate::gc;
use crate::id::{BlobId, ManifestId};
use crate::layout::{self, Key};
use crate::lease::{Lease, LeaseKind};
use crate::manifest::{Manifest, ManifestBuilder};
use crate::stamp::Stamp;
use crate::store::{Hold, Store, size_of};

/// Hits confirmed under one hold of the store's lock.
const CLAIM_CHUNK: usize = 1024;
/// An object whose name is older than this has it on disk: every filesystem writes its journal within seconds.
const SETTLED: Duration = Duration::from_secs(3600);

/// A batch of objects on its way into the store. All methods may be called from many threads.
pub struct Transaction {
    pub(crate) store: Store,
    pub(crate) lease: Lease,
    staged: Mutex<HashMap<Key, Staged>>,
    /// Directories under `objects/` that hold names this transaction relies on and that may not be on disk yet: names
    /// taken back from the trash, and names that another transaction made a moment ago.
    unsettled: Mutex<BTreeSet<PathBuf>>,
    /// Files to be removed once what refers to their content is published (`Intake::Move`).
    sources: Mutex<Vec<Source>>,
    /// Open since the beginning, so that `syncfs` reports every write error of the batch.
    pub(crate) root: File,
    next: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) failed: AtomicBool,
    /// Held by a commit: one that finds nothing staged must not return before another has made it visible.
    pub(crate) committing: Mutex<()>,
}

pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// The bytes are on disk already.
    pub(crate) durable: bool,
    /// The file is another name of a file from outside: its mode changes at the last moment.
    pub(crate) protect: bool,
}

/// A file from outside that is removed in the end, if it still is the one that was taken in.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
}

impl Transaction {
    pub(crate) fn begin(store: Store, label: &str) -> Result<Self, StoreError> {
        let staging = store.layout().staging();
        // Whoever died in the middle left a staging directory: what it holds is worth nothing.
        crate::lease::living(&staging)?;
        let lease = Lease::create(&staging, LeaseKind::Transaction, label, serde_json::Value::Null)?;
        let root = File::open(store.home()).map_err(|e| StoreError::io("open", store.home(), e))?;
        Ok(Self {
            store,
            lease,
            staged: Mutex::default(),
            unsettled: Mutex::default(),
            sources: Mutex::default(),
            root,
            next: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            committing: Mutex::default(),
        })
    }

    /// The store it belongs to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A directory for the caller's own temporary files, removed with the transaction.
    pub fn scratch_dir(&self) -> Result<PathBuf, StoreError> {
        let scratch = self.lease.directory().join("scratch");
        layout::make_dir(&scratch)?;
        Ok(scratch)
    }

    /// The size of a blob when it is in the store or staged here. The hit is claimed: gc keeps the blob for as long as
    /// the transaction lives. Whoever knows the size should compare it: a blob of another size is damaged, and putting
    /// its bytes again mends it.
    pub fn has_blob(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        self.claim((*id).into())
    }

    /// [`Self::has_blob`] of many at once, which costs less than one by one.
    pub fn has_blobs(&self, ids: &[BlobId]) -> Result<Vec<Option<u64>>, StoreError> {
        let mut sizes = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(CLAIM_CHUNK) {
            let _shared = self.store.lock(Hold::Shared)?;
            let mut found = Vec::with_capacity(chunk.len());
            for &id in chunk {
                let key = Key::from(id);
                let staged = self.staged().get(&key).map(|staged| staged.size);
                let size = match staged {
                    Some(size) => Some(size),
                    None => self.find(key)?.inspect(|_| found.push(key)),
                };
                sizes.push(size);
            }
            self.record_hits(&found)?;
        }
        Ok(sizes)
    }

    /// Opens a blob that is in the store or staged here. Its bytes are not verified. Not to be called while a commit of
    /// this transaction runs, which may be renaming it.
    pub fn open_blob(&self, id: &BlobId) -> Result<File, StoreError> {
        let staged = self.staged().get(&Key::from(*id)).map(|staged| staged.path.clone());
        match staged {
            Some(path) => File::open(&path).map_err(|e| StoreError::io("open", path, e)),
            None => self.store.open_blob(id),
        }
    }

    /// True when the manifest and every blob it lists are here in their full size; all of it is claimed then. False
    /// also for a damaged manifest: putting it again mends it.
    pub fn has_manifest(&self, id: &ManifestId) -> Result<bool, StoreError> {
        if self.staged().contains_key(&Key::from(*id)) {
            return Ok(true);
        }
        if self.claim((*id).into())?.is_none() {
            return Ok(false);
        }
        let manifest = match self.store.manifest(id) {
            Ok(manifest) => manifest,
            Err(StoreError::MissingManifest(_) | StoreError::DamagedManifest(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.claim_listed(&manifest) {
            Ok(()) => Ok(true),
            Err(StoreError::MissingBlob(_) | StoreError::WrongSize { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Claims every blob of `manifest`; the first that is not here, or not in its full size, is the error.
    fn claim_listed(&self, manifest: &Manifest) -> Result<(), StoreError> {
        for chunk in manifest.blob_sizes().chunks(CLAIM_CHUNK) {
            let _shared = self.store.lock(Hold::Shared)?;
            let mut found = Vec::with_capacity(chunk.len());
            for &(id, listed) in chunk {
                let key = Key::from(id);
                let staged = self.staged().get(&key).map(|staged| staged.size);
                let size = match staged {
                    Some(size) => size,
                    None => {
                        found.push(key);
                        self.find(key)?.ok_or(StoreError::MissingBlob(id))?
                    }
                };
                if size != listed {
                    return Err(StoreError::WrongSize { id, listed, found: size });
                }
            }
            self.record_hits(&found)?;
        }
        Ok(())
    }

    /// Stores `bytes`.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobId, StoreError> {
        let id = BlobId::of(bytes);
        // An object of another size than its content is damaged; the commit puts the right bytes in its place.
        if self.claim(id.into())? != Some(bytes.len() as u64) {
            self.stage_bytes(id.into(), bytes)?;
        }
        Ok(id)
    }

    /// Encodes and stores a manifest. One that is in the store with damaged bytes is replaced.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] or [`StoreError::WrongSize`] when it lists a blob that is neither in the store nor
    /// staged here, or has another size there.
    pub fn put_manifest(&self, builder: ManifestBuilder) -> Result<ManifestId, StoreError> {
        let bad = |source| StoreError::Manifest { context: self.lease.info().label.clone(), source };
        let bytes = builder.encode().map_err(bad)?;
        let id = ManifestId::of(&bytes);
        let manifest = Manifest::from_verified(id, bytes).map_err(bad)?;
        manifest.check().map_err(bad)?;
        self.claim_listed(&manifest)?;
        if self.claim(id.into())?.is_none()
            || (!self.is_staged(id.into()) && self.store.manifest(&id).is_err())
        {
            self.stage_bytes(id.into(), manifest.bytes())?;
        }
        Ok(id)
    }

    fn stage_bytes(&self, key: Key, bytes: &[u8]) -> Result<(), StoreError> {
        let size = bytes.len() as u64;
        let path = self.next_path();
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path)?;
            file.write_all(bytes)?;
            file.set_permissions(fs::Permissions::from_mode(0o444))
        })();
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(write_error("write", &path, size, error));
        }
        self.stage(key, Staged { path, size, durable: false, protect: false });
        Ok(())
    }

    /// A path in the staging directory that no other call gets.
    pub(crate) fn next_path(&self) -> PathBuf {
        self.lease.directory().join(format!("o{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes a finished file of the staging directory as the object `key`.
    pub(crate) fn stage(&self, key: Key, staged: Staged) {
        let path = staged.path.clone();
        let mut all = self.staged();
        match all.entry(key) {
            // Another thread staged the same bytes first.
            Entry::Occupied(_) => {
                drop(all);
                let _ = fs::remove_file(path);
            }
            Entry::Vacant(slot) => {
                slot.insert(staged);
            }
        }
    }

    /// Has `path` removed by [`Self::remove_sources`].
    pub(crate) fn remove_later(&self, path: &Path, stamp: Stamp) {
        lock(&self.sources).push(Source { path: path.to_owned(), stamp });
    }

    /// Claims an object; its size when it is staged, in the store, or was brought back from the trash.
    pub(crate) fn claim(&self, key: Key) -> Result<Option<u64>, StoreError> {
        if let Some(staged) = self.staged().get(&key) {
            return Ok(Some(staged.size));
        }
        let layout = self.store.layout();
        let here = size_of(&layout.object(key))?;
        if self.lease.has_claimed(key) {
            return Ok(here);
        }
        // A miss promises nothing, so that it needs no lock.
        if here.is_none() && gc::trash_batches(layout)?.is_empty() {
            return Ok(None);
        }
        let _shared = self.store.lock(Hold::Shared)?;
        let found = self.find(key)?;
        if found.is_some() {
            self.record_hits(&[key])?;
        }
        Ok(found)
    }

    /// Looks for an object in the store and in the trash. The caller holds the store's lock, and claims what is found
    /// before it lets go.
    fn find(&self, key: Key) -> Result<Option<u64>, StoreError> {
        let layout = self.store.layout();
        let path = layout.object(key);
        let look = || match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", &path, error)),
        };
        let metadata = match look()? {
            Some(metadata) => Some(metadata),
            None if gc::restore(layout, key)? => look()?,
            None => None,
        };
        let Some(metadata) = metadata else { return Ok(None) };
        // A rename moves the time of change. A name that is not on disk yet was made by a transaction that has not
        // ended, or died: who relies on it has to sync it.
        let changed =
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
        if changed.elapsed().is_ok_and(|age| age > SETTLED) {
            return Ok(Some(metadata.len()));
        }
        lock(&self.unsettled).extend(path.ancestors().skip(1).take(2).map(Path::to_owned));
        Ok(Some(metadata.len()))
    }

    fn record_hits(&self, keys: &[Key]) -> Result<(), StoreError> {
        let new = self.lease.claim(keys.iter().copied())?;
        self.hits.fetch_add(new, Ordering::Relaxed);
        Ok(())
    }

    fn staged(&self) -> MutexGuard<'_, HashMap<Key, Staged>> {
        lock(&self.staged)
    }

    pub(crate) fn has_staged(&self) -> bool {
        !self.staged().is_empty()
    }

    fn is_staged(&self, key: Key) -> bool {
        self.staged().contains_key(&key)
    }

    pub(crate) fn take_staged(&self) -> Vec<(Key, Staged)> {
        std::mem::take(&mut *self.staged()).into_iter().collect()
    }

    pub(crate) fn take_unsettled(&self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut *lock(&self.unsettled))
    }

    pub(crate) fn take_sources(&self) -> Vec<Source> {
        std::mem::take(&mut *lock(&self.sources))
    }
}

/// What these mutexes guard is whole whenever they are free: a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
