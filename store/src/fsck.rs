//! The check of everything: every object is read and hashed again, every manifest parsed, every root followed, the
//! index compared with what is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::StoreError;
use crate::gc::{RootSource, list_objects};
use crate::hash::hash_file;
use crate::id::{BlobId, ManifestId};
use crate::layout::Key;
use crate::stamp::Stamp;
use crate::store::{Hold, Store};
use rayon::prelude::*;

/// An object, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(tag = "kind", content = "id", rename_all = "kebab-case")]
pub enum ObjectRef {
    /// A blob.
    Blob(BlobId),
    /// A manifest.
    Manifest(ManifestId),
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(id) => write!(f, "blob {id}"),
            Self::Manifest(id) => write!(f, "manifest {id}"),
        }
    }
}

impl ObjectRef {
    fn of(key: Key) -> Self {
        match key {
            Key::Blob(bytes) => Self::Blob(BlobId::from_bytes(bytes)),
            Key::Manifest(bytes) => Self::Manifest(ManifestId::from_bytes(bytes)),
        }
    }

    fn key(self) -> Key {
        match self {
            Self::Blob(id) => id.into(),
            Self::Manifest(id) => id.into(),
        }
    }
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DamageKind {
    /// Its bytes have another hash.
    WrongBytes {
        /// Its size on disk in bytes.
        size: u64,
    },
    /// It cannot be read.
    Unreadable {
        /// Why not.
        error: String,
    },
    /// Something refers to it, and it is not there.
    Missing,
    /// Its hash is right, and it breaks a rule of the format: whoever wrote it was wrong.
    Malformed {
        /// Which rule.
        error: String,
    },
}

/// One damaged object and whom it hurts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The object.
    pub object: ObjectRef,
    /// What is wrong.
    #[serde(flatten)]
    pub kind: DamageKind,
    /// The roots that need it, each with the paths (in the manifest that lists it) where it stands.
    pub hurts: BTreeMap<String, Vec<String>>,
    /// Where it was moved to, when it was set aside.
    #[serde(serialize_with = "crate::path_json::option::serialize")]
    pub quarantined: Option<PathBuf>,
}

/// The state of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum IndexState {
    /// Sound. It spoke of this many objects that are gone (which is no damage), and has forgotten them.
    Sound {
        /// How many.
        stale: u64,
    },
    /// It was damaged and has been replaced by an empty one.
    Replaced,
    /// It was made anew because the caller asked for it.
    Cleared,
}

/// The outcome of a check.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FsckReport {
    /// Blobs read.
    pub blobs: u64,
    /// Manifests read.
    pub manifests: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Roots followed.
    pub roots: u64,
    /// What is damaged or missing, in order.
    pub damage: Vec<Damage>,
    /// What became of the index.
    pub index: IndexState,
}

/// Progress of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsckEvent {
    /// There is this much to read.
    Found {
        /// Objects.
        objects: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many more bytes were read, of whichever object.
    Read {
        /// Bytes.
        bytes: u64,
    },
    /// One object of this many bytes is done.
    Checked {
        /// Its size.
        bytes: u64,
    },
}

/// A check about to be made.
pub struct Fsck<'a> {
    /// The store.
    pub store: &'a Store,
    /// What needs the objects.
    pub roots: &'a dyn RootSource,
    /// Move damaged objects to `quarantine/`, so that the next hit is a miss and brings them anew.
    pub quarantine: bool,
    /// Replace the index by an empty one.
    pub clear_index: bool,
    /// Told of progress, from many threads.
    pub progress: &'a (dyn Fn(FsckEvent) + Sync),
    /// Set by the caller to stop.
    pub cancel: &'a AtomicBool,
}

impl Fsck<'_> {
    /// Checks everything.
    ///
    /// # Errors
    /// Only what prevents the check itself; damage is what the report is for.
    pub fn run(&self) -> Result<FsckReport, StoreError> {
        let layout = self.store.layout();
        let mut objects = Vec::new();
        list_objects(layout, &layout.objects(), |key, size| objects.push((key, size)))?;
        // Large ones first, so that the last thread to finish is not the one that began a large file at the end.
        objects.sort_unstable_by_key(|(key, size)| (std::cmp::Reverse(*size), *key));
        let bytes = objects.iter().map(|(_, size)| size).sum();
        (self.progress)(FsckEvent::Found { objects: objects.len() as u64, bytes });

        let checked = objects.par_iter().map(|(key, size)| {
            if self.cancel.load(Ordering::Relaxed) {
                return None;
            }
            let stamp = self.stamp(*key);
            let verdict = self.check(*key, *size);
            (self.progress)(FsckEvent::Checked { bytes: *size });
            verdict.map(|kind| (*key, kind, stamp))
        });
        let damaged: Vec<(Key, DamageKind, Option<Stamp>)> = checked.flatten_iter().collect();
        if self.cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Interrupted);
        }
        let stamps: HashMap<ObjectRef, Option<Stamp>> =
            damaged.iter().map(|(key, _, stamp)| (ObjectRef::of(*key), *stamp)).collect();
        let mut broken: BTreeMap<ObjectRef, DamageKind> =
            damaged.into_iter().map(|(key, kind, _)| (ObjectRef::of(key), kind)).collect();
        let present: HashSet<Key> = objects.iter().map(|(key, _)| *key).collect();
        let (roots, hurts) = self.follow_roots(&present, &mut broken)?;
        let index = self.check_index(&present, &broken);

        let mut damage = Vec::new();
        for (object, kind) in broken {
            let mut quarantined = None;
            if self.quarantine && kind != DamageKind::Missing {
                let _alone = self.store.lock(Hold::Alone)?;
                // A transaction may have put a sound object in its place by now.
                let same = stamps.get(&object).is_some_and(|then| *then == self.stamp(object.key()));
                if same && layout.set_aside(object.key())? {
                    quarantined = Some(layout.quarantine().join(object.key().relative()));
                }
            }
            let hurts = hurts.get(&object).cloned().unwrap_or_default();
            damage.push(Damage { object, kind, hurts, quarantined });
        }
        let manifests = objects.iter().filter(|(key, _)| matches!(key, Key::Manifest(_))).count() as u64;
        Ok(FsckReport { blobs: objects.len() as u64 - manifests, manifests, bytes, roots, damage, index })
    }

    fn stamp(&self, key: Key) -> Option<Stamp> {
        fs::symlink_metadata(self.store.layout().object(key)).ok().map(|metadata| Stamp::of(&metadata))
    }

    fn check(&self, key: Key, size: u64) -> Option<DamageKind> {
        let path = self.store.layout().object(key);
        let open = || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let tell = |bytes| {
            (self.progress)(FsckEvent::Read { bytes });
            match self.cancel.load(Ordering::Relaxed) {
                // Whatever comes of this object, the check ends with `StoreError::Interrupted`.
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            }
        };
        match key {
            Key::Blob(id) => {
                match open().and_then(|(file, size)| hash_file(&file, size, &tell)) {
                    Ok(found) if found == BlobId::from_bytes(id) => None,
                    Ok(_) => Some(DamageKind::WrongBytes { size }),
                    // A collection that runs beside us took it: nothing needs it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => Some(DamageKind::Unreadable { error: error.to_string() }),
                }
            }
            Key::Manifest(id) => match self.store.manifest(&ManifestId::from_bytes(id)) {
                Ok(manifest) => {
                    (self.progress)(FsckEvent::Read { bytes: size });
                    manifest.check().err().map(|e| DamageKind::Malformed { error: e.to_string() })
                }
                Err(StoreError::MissingManifest(_)) => None,
                Err(StoreError::DamagedManifest(_)) => Some(DamageKind::WrongBytes { size }),
                Err(StoreError::Manifest { source, .. }) => {
                    Some(DamageKind::Malformed { error: source.to_string() })
                }
                Err(error) => Some(DamageKind::Unreadable { error: error.to_string() }),
            },
        }
    }

    /// Follows every root. Adds what is missing to `broken`, and says for every broken object whom it hurts and where.
    #[allow(clippy::type_complexity)]
    fn follow_roots(
        &self,
        present: &HashSet<Key>,
        broken: &mut BTreeMap<ObjectRef, DamageKind>,
    ) -> Result<(u64, HashMap<ObjectRef, BTreeMap<String, Vec<String>>>), StoreError> {
        let roots = self.roots.roots().map_err(StoreError::Roots)?;
        let mut hurts: HashMap<ObjectRef, BTreeMap<String, Vec<String>>> = HashMap::new();
        // A manifest shared by many versions is walked once: which broken objects does it list, and where?
        let mut seen: HashMap<ManifestId, Vec<(ObjectRef, Vec<String>)>> = HashMap::new();
        for root in &roots {
            for id in &root.manifests {
                let found = seen.entry(*id).or_insert_with(|| self.broken_in(id, present, broken));
                for (object, paths) in found {
                    hurts
                        .entry(*object)
                        .or_default()
                        .entry(root.name.clone())
                        .or_default()
                        .extend(paths.clone());
                }
            }
        }
        Ok((roots.len() as u64, hurts))
    }

    fn broken_in(
        &self,
        id: &ManifestId,
        present: &HashSet<Key>,
        broken: &mut BTreeMap<ObjectRef, DamageKind>,
    ) -> Vec<(ObjectRef, Vec<String>)> {
        let itself = ObjectRef::Manifest(*id);
        // Present now counts too: it may have come since the listing.
        let gone = |key: Key| !present.contains(&key) && !self.store.layout().object(key).exists();
        if gone((*id).into()) {
            broken.insert(itself, DamageKind::Missing);
        }
        let manifest = match self.store.manifest(id) {
            Ok(manifest) if !broken.contains_key(&itself) => manifest,
            _ => return vec![(itself, Vec::new())],
        };
        let mut hit: HashMap<BlobId, Vec<String>> = HashMap::new();
        for blob in manifest.blobs() {
            if gone(blob.into()) {
                broken.insert(ObjectRef::Blob(blob), DamageKind::Missing);
            }
            if broken.contains_key(&ObjectRef::Blob(blob)) {
                hit.insert(blob, Vec::new());
            }
        }
        if hit.is_empty() {
            return Vec::new();
        }
        for (path, entry) in manifest.walk() {
            if let Some(paths) = manifest.blob(&entry).and_then(|blob| hit.get_mut(&blob)) {
                paths.push(path.to_string());
            }
        }
        hit.into_iter().map(|(blob, paths)| (ObjectRef::Blob(blob), paths)).collect()
    }

    fn check_index(&self, present: &HashSet<Key>, broken: &BTreeMap<ObjectRef, DamageKind>) -> IndexState {
        let index = self.store.index();
        if self.clear_index {
            index.clear();
            return IndexState::Cleared;
        }
        if !index.path().exists() {
            return IndexState::Sound { stale: 0 };
        }
        let Some(content) = index.check() else {
            index.clear();
            return IndexState::Replaced;
        };
        let stale = |key: Key| !present.contains(&key) || broken.contains_key(&ObjectRef::of(key));
        let blobs: Vec<_> = content.blobs.into_iter().filter(|b| stale(Key::Blob(*b))).collect();
        let manifests: Vec<_> = content.manifests.into_iter().filter(|m| stale(Key::Manifest(*m))).collect();
        index.forget(&blobs, &manifests);
        IndexState::Sound { stale: (blobs.len() + manifests.len()) as u64 }
    }
}

impl Store {
    /// Reads a blob and tells whether its bytes have its id; none when it is not there.
    pub fn verify_blob(&self, id: &BlobId) -> Result<Option<bool>, StoreError> {
        let Some(size) = self.blob_size(id)? else { return Ok(None) };
        let hashed = hash_file(&self.open_blob(id)?, size, &|_| Ok(()));
        let found = hashed.map_err(|e| StoreError::io("read", self.blob_path(id), e))?;
        Ok(Some(found == *id))
    }
}
