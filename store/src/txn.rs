//! Transactions: how objects enter the store.
//!
//! New objects are written to `staging/<transaction>/`, made durable as one batch, renamed into `objects/`, and the
//! directories they appeared in are made durable before [`Transaction::commit`] returns. Only then may the caller
//! publish what refers to them; it drops the transaction after that, so that gc sees either the claim or the spec.
//!
//! *Lock order:* the store's lock, then `staged`, then the lease's claims. No lock is held while bytes are hashed or
//! synced.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{CWD, FlockOperation, RenameFlags};

use crate::error::{StoreError, write_error};
use crate::gc;
use crate::id::{BlobId, ManifestId};
use crate::layout::{self, Key};
use crate::lease::{Lease, LeaseKind};
use crate::manifest::{Manifest, ManifestBuilder};
use crate::store::{Store, size_of};
use crate::sys::Bytes;

/// Up to this many files or directories are synced one by one; more, by one `syncfs`.
const SYNC_ONE_BY_ONE: usize = 8;
/// Objects renamed under one hold of the store's lock.
const COMMIT_CHUNK: usize = 4096;

/// A batch of objects on its way into the store. All methods may be called from many threads.
pub struct Transaction {
    store: Store,
    lease: Lease,
    staged: Mutex<HashMap<Key, Staged>>,
    /// Directories under `objects/` that got a name back from the trash.
    restored: Mutex<BTreeSet<PathBuf>>,
    /// Files to be removed once their content is visible here (`Intake::Move`).
    sources: Mutex<Vec<PathBuf>>,
    /// Open since the beginning, so that `syncfs` reports every write error of the batch.
    root: File,
    next: AtomicU64,
    hits: AtomicU64,
    failed: AtomicBool,
}

pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// The bytes are on disk already.
    pub(crate) durable: bool,
    /// The file is another name of a file from outside: its mode becomes 0444 at the last moment.
    pub(crate) protect: bool,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Objects that were new.
    pub new_objects: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Distinct objects that were there already and are now claimed.
    pub reused_objects: u64,
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
            restored: Mutex::default(),
            sources: Mutex::default(),
            root,
            next: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            failed: AtomicBool::new(false),
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
    /// the transaction lives.
    pub fn has_blob(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        self.claim((*id).into())
    }

    /// True when the manifest and every blob it lists are here; all of it is claimed then.
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
        self.has_all_blobs(&manifest).map(|missing| missing.is_none())
    }

    /// The first blob of `manifest` that is neither in the store nor staged here; all before it are claimed.
    fn has_all_blobs(&self, manifest: &Manifest) -> Result<Option<BlobId>, StoreError> {
        for blob in manifest.blobs() {
            if self.claim(blob.into())?.is_none() {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }

    /// Stores `bytes`.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobId, StoreError> {
        let id = BlobId::of(bytes);
        self.put_object(id.into(), bytes)?;
        Ok(id)
    }

    /// Encodes and stores a manifest.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] when it lists a blob that is neither in the store nor staged here.
    pub fn put_manifest(&self, builder: ManifestBuilder) -> Result<ManifestId, StoreError> {
        let bad = |source| StoreError::Manifest { context: self.lease.info().label.clone(), source };
        let bytes = builder.encode().map_err(bad)?;
        let id = ManifestId::of(&bytes);
        let manifest = Manifest::from_verified(id, Bytes::Owned(bytes)).map_err(bad)?;
        manifest.check().map_err(bad)?;
        if let Some(missing) = self.has_all_blobs(&manifest)? {
            return Err(StoreError::MissingBlob(missing));
        }
        self.put_object(id.into(), manifest.bytes())?;
        Ok(id)
    }

    fn put_object(&self, key: Key, bytes: &[u8]) -> Result<(), StoreError> {
        let size = bytes.len() as u64;
        // An object of another size than its content is damaged; the commit puts the right bytes in its place.
        if self.claim(key)? == Some(size) {
            return Ok(());
        }
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

    /// Removes `source` at the end of the commit, when its content is durable in the store.
    pub(crate) fn remove_after_commit(&self, source: &Path) {
        self.sources.lock().unwrap_or_else(|e| e.into_inner()).push(source.to_owned());
    }

    /// Claims an object; its size when it is staged, in the store, or was brought back from the trash.
    pub(crate) fn claim(&self, key: Key) -> Result<Option<u64>, StoreError> {
        if let Some(staged) = self.staged().get(&key) {
            return Ok(Some(staged.size));
        }
        let path = self.store.layout().object(key);
        if self.lease.has_claimed(key) {
            return size_of(&path);
        }
        let _shared = self.store.lock(FlockOperation::LockShared)?;
        let size = match size_of(&path)? {
            Some(size) => size,
            None if gc::restore(self.store.layout(), key)? => {
                let mut restored = self.restored.lock().unwrap_or_else(|e| e.into_inner());
                restored.extend(path.parent().map(Path::to_owned));
                match size_of(&path)? {
                    Some(size) => size,
                    None => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        self.lease.claim([key])?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Ok(Some(size))
    }

    fn staged(&self) -> MutexGuard<'_, HashMap<Key, Staged>> {
        self.staged.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes everything staged so far durable, then visible, then durable under its name. The transaction can go on
    /// after that, and stays a lease on all of it.
    ///
    /// # Errors
    /// After a failed sync nobody can tell what is on disk: the transaction is spent, and every later commit fails too.
    pub fn commit(&self) -> Result<CommitStats, StoreError> {
        if self.failed.load(Ordering::Acquire) {
            let spent = io::Error::other("an earlier write of this transaction failed");
            return Err(StoreError::io("commit", self.lease.directory(), spent));
        }
        self.try_commit().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn try_commit(&self) -> Result<CommitStats, StoreError> {
        let staged: Vec<(Key, Staged)> = std::mem::take(&mut *self.staged()).into_iter().collect();
        self.sync_files(&staged)?;
        let mut stats =
            CommitStats { reused_objects: self.hits.swap(0, Ordering::Relaxed), ..Default::default() };
        let mut touched = std::mem::take(&mut *self.restored.lock().unwrap_or_else(|e| e.into_inner()));
        for chunk in staged.chunks(COMMIT_CHUNK) {
            let _shared = self.store.lock(FlockOperation::LockShared)?;
            self.lease.claim(chunk.iter().map(|(key, _)| *key))?;
            for (key, object) in chunk {
                if self.publish(*key, object, &mut touched)? {
                    stats.new_objects += 1;
                    stats.new_bytes += object.size;
                } else {
                    stats.reused_objects += 1;
                }
            }
        }
        if touched.len() > SYNC_ONE_BY_ONE {
            self.sync_filesystem()?;
        } else {
            touched.iter().try_for_each(|dir| layout::sync_dir(dir))?;
        }
        for source in std::mem::take(&mut *self.sources.lock().unwrap_or_else(|e| e.into_inner())) {
            fs::remove_file(&source).map_err(|e| StoreError::io("remove", source, e))?;
        }
        Ok(stats)
    }

    fn sync_files(&self, staged: &[(Key, Staged)]) -> Result<(), StoreError> {
        let pending: Vec<&Staged> = staged.iter().map(|(_, s)| s).filter(|s| !s.durable).collect();
        if pending.len() > SYNC_ONE_BY_ONE {
            return self.sync_filesystem();
        }
        for object in pending {
            let synced = File::open(&object.path).and_then(|file| file.sync_data());
            synced.map_err(|e| write_error("sync", &object.path, object.size, e))?;
        }
        Ok(())
    }

    fn sync_filesystem(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.root).map_err(|e| write_error("sync", self.store.home(), 0, e.into()))
    }

    /// Gives a staged object its name; false when the name was there already.
    fn publish(
        &self,
        key: Key,
        object: &Staged,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<bool, StoreError> {
        let target = self.store.layout().object(key);
        let failed = |error: io::Error| write_error("publish", &target, object.size, error);
        let rename = |flags| {
            rustix::fs::renameat_with(CWD, &object.path, CWD, &target, flags).map_err(io::Error::from)
        };
        if object.protect {
            let locked_away = fs::Permissions::from_mode(0o444);
            fs::set_permissions(&object.path, locked_away).map_err(failed)?;
        }
        let shard = target.parent().unwrap_or(&target);
        loop {
            match rename(RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !shard.exists() => {
                    match fs::create_dir(shard) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                            return Err(failed(error));
                        }
                        _ => touched.extend(shard.parent().map(Path::to_owned)),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if size_of(&target)? == Some(object.size) {
                        let _ = fs::remove_file(&object.path);
                        // Whoever made the name may not have synced it yet, and this commit promises that it is.
                        touched.insert(shard.to_owned());
                        return Ok(false);
                    }
                    rename(RenameFlags::empty()).map_err(failed)?;
                    break;
                }
                // Some network filesystems know no RENAME_NOREPLACE. Replacing equal bytes by equal bytes is safe.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    rename(RenameFlags::empty()).map_err(failed)?;
                    break;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        touched.insert(shard.to_owned());
        Ok(true)
    }
}
