//! Garbage collection in two phases.
//!
//! *Mark*, without a lock: everything that specs, mounts and transactions reach is kept; whatever else lies under
//! `objects/` is a candidate. *Sweep*, with the store's lock held alone, a few thousand objects at a time: the roots
//! are read again, candidates that became reachable are spared, the rest moves to `trash/<time>-…/`. A later hit takes
//! an object back from there. Batches older than the grace are deleted, and so are downloads that nobody goes on with.
//!
//! An unreadable root stops everything: what cannot be read may keep anything alive.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags};

use crate::error::{StoreError, write_error};
use crate::id::{BlobId, ManifestId};
use crate::layout::{self, Key, Layout};
use crate::lease;
use crate::partial;
use crate::store::{Hold, Store};

/// Objects moved under one hold of the store's lock.
const SWEEP_CHUNK: usize = 4096;

/// Something outside of the store that keeps manifests alive: a version's spec. A manifest that is named here and
/// cannot be read stops gc, also when it is missing: nobody can tell one that was lost from one that was never fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRef {
    /// Its name for people.
    pub name: String,
    /// What it refers to.
    pub manifests: Vec<ManifestId>,
}

/// Lists the roots. Called twice by a collection; it must fail rather than leave one out.
pub trait RootSource: Sync {
    /// All roots, as they are now.
    fn roots(&self) -> Result<Vec<RootRef>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A collection about to be made.
pub struct Gc<'a> {
    store: &'a Store,
    roots: &'a dyn RootSource,
    grace: Duration,
}

/// What a collection would do; [`Gc::execute`] does it.
#[derive(Debug, Clone, Default)]
pub struct GcPlan {
    /// Objects that nothing reaches, with their sizes.
    garbage: Vec<(Key, u64)>,
    /// Manifests whose blobs were found reachable, and so are no garbage: the second phase need not read them again.
    marked: HashSet<Key>,
    /// Objects that something reaches.
    pub live_objects: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Objects of the trash that are past the grace.
    pub expired_objects: u64,
    /// Their bytes.
    pub expired_bytes: u64,
    /// Files of downloads that were given up.
    pub partial_files: u64,
    /// Their bytes.
    pub partial_bytes: u64,
}

impl GcPlan {
    /// Objects that would go to the trash.
    pub fn garbage_objects(&self) -> u64 {
        self.garbage.len() as u64
    }

    /// Their bytes.
    pub fn garbage_bytes(&self) -> u64 {
        self.garbage.iter().map(|(_, size)| size).sum()
    }

    /// The objects that would go, as `blob/ab/cdef…` with their sizes.
    pub fn garbage(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.garbage.iter().map(|(key, size)| (key.relative(), *size))
    }
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcStats {
    /// Objects moved to the trash.
    pub trashed_objects: u64,
    /// Their bytes.
    pub trashed_bytes: u64,
    /// Candidates that became reachable between the phases.
    pub spared_objects: u64,
    /// Objects deleted for good.
    pub deleted_objects: u64,
    /// Their bytes, now free.
    pub deleted_bytes: u64,
    /// Files of downloads that were given up, deleted.
    pub partial_files: u64,
    /// Their bytes, now free.
    pub partial_bytes: u64,
}

impl<'a> Gc<'a> {
    /// A collection over `store`. What nothing reaches can be taken back from the trash for `grace`.
    pub fn new(store: &'a Store, roots: &'a dyn RootSource, grace: Duration) -> Self {
        Self { store, roots, grace }
    }

    /// Phase one: finds the garbage, and changes nothing.
    pub fn plan(&self) -> Result<GcPlan, StoreError> {
        let layout = self.store.layout();
        // Listed before marking: an object that appears later is none of our business.
        let mut objects = Vec::new();
        list_objects(layout, &layout.objects(), |key, size| objects.push((key, size)))?;
        let live = self.mark(&HashSet::new())?;
        let mut plan = GcPlan::default();
        for (key, size) in objects {
            if live.contains(&key) {
                plan.live_objects += 1;
                plan.live_bytes += size;
            } else {
                plan.garbage.push((key, size));
            }
        }
        // Manifests first, so that also after a collection that was cut short each that is there has its blobs.
        plan.garbage.sort_unstable_by_key(|(key, _)| (matches!(key, Key::Blob(_)), *key));
        plan.marked = live.into_iter().filter(|key| matches!(key, Key::Manifest(_))).collect();
        for stale in partial::stale(&layout.partial())? {
            plan.partial_files += stale.files.len() as u64;
            plan.partial_bytes += stale.bytes;
        }
        for (batch, age) in trash_batches(layout)? {
            if age >= self.grace {
                list_objects(layout, &batch, |_, size| {
                    plan.expired_objects += 1;
                    plan.expired_bytes += size;
                })?;
            }
        }
        Ok(plan)
    }

    /// Phase two: does what `plan` says, except for what became reachable since.
    pub fn execute(&self, plan: &GcPlan) -> Result<GcStats, StoreError> {
        let layout = self.store.layout();
        let mut stats = GcStats::default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let batch = format!("{}-{}-{}", now.as_secs(), std::process::id(), layout::unique());
        let batch = layout.trash().join(batch);
        for chunk in plan.garbage.chunks(SWEEP_CHUNK) {
            let _alone = self.store.lock(Hold::Alone)?;
            let live = self.mark(&plan.marked)?;
            for (key, size) in chunk {
                if live.contains(key) {
                    stats.spared_objects += 1;
                } else if move_object(&layout.object(*key), &batch.join(key.relative()))? {
                    stats.trashed_objects += 1;
                    stats.trashed_bytes += size;
                }
            }
        }
        // A hit takes an object out of the trash by rename, and a deletion that comes first makes it a miss: no lock.
        for (batch, age) in trash_batches(layout)? {
            if age < self.grace {
                continue;
            }
            let mut objects = Vec::new();
            list_objects(layout, &batch, |key, size| objects.push((batch.join(key.relative()), size)))?;
            for (path, size) in objects {
                match fs::remove_file(&path) {
                    Ok(()) => {
                        stats.deleted_objects += 1;
                        stats.deleted_bytes += size;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("delete", path, error)),
                }
            }
            let _ = fs::remove_dir_all(&batch);
        }
        for stale in partial::stale(&layout.partial())? {
            if let Some(bytes) = stale.remove()? {
                stats.partial_files += stale.files.len() as u64;
                stats.partial_bytes += bytes;
            }
        }
        Ok(stats)
    }

    /// Everything that is reachable, except the blobs of the manifests in `known`.
    fn mark(&self, known: &HashSet<Key>) -> Result<HashSet<Key>, StoreError> {
        let mut live = known.clone();
        // Leases first: a transaction publishes its spec before it ends, so whoever is gone by now is among the roots.
        let layout = self.store.layout();
        for parent in [layout.staging(), layout.leases()] {
            for (info, keys) in lease::living_claims(&parent)? {
                for key in keys {
                    match key {
                        Key::Blob(_) => {
                            live.insert(key);
                        }
                        // A transaction claims a manifest before it is visible, and then holds its blobs itself.
                        Key::Manifest(id) if !layout.object(key).exists() => {
                            live.insert(Key::Manifest(id));
                        }
                        Key::Manifest(id) => {
                            let id = ManifestId::from_bytes(id);
                            mark_manifest(self.store, &info.label, &id, &mut live)?;
                        }
                    }
                }
            }
        }
        for root in self.roots.roots().map_err(StoreError::Roots)? {
            for manifest in root.manifests {
                mark_manifest(self.store, &root.name, &manifest, &mut live)?;
            }
        }
        Ok(live)
    }
}

fn mark_manifest(
    store: &Store,
    root: &str,
    id: &ManifestId,
    live: &mut HashSet<Key>,
) -> Result<(), StoreError> {
    if !live.insert((*id).into()) {
        return Ok(());
    }
    let manifest = store
        .manifest(id)
        .map_err(|source| StoreError::UnreadableRoot { root: root.to_owned(), source: Box::new(source) })?;
    live.extend(manifest.blobs().map(Key::from));
    Ok(())
}

/// Calls `found` for every object below `base` (`objects/`, or a batch of the trash) with its size.
pub(crate) fn list_objects(
    layout: &Layout,
    base: &Path,
    mut found: impl FnMut(Key, u64),
) -> Result<(), StoreError> {
    for (kind, make) in [("blob", Key::Blob as fn([u8; 32]) -> Key), ("manifest", Key::Manifest)] {
        for (byte, shard) in layout.shards(base, kind)? {
            let listed = match fs::read_dir(&shard) {
                Ok(listed) => listed,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("list", shard, error)),
            };
            for entry in listed {
                let entry = entry.map_err(|e| StoreError::io("list", &shard, e))?;
                let Some(id) = entry.file_name().to_str().and_then(|name| layout::id_of_name(byte, name))
                else {
                    continue;
                };
                match entry.metadata() {
                    Ok(metadata) => found(make(id), metadata.len()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("look at", entry.path(), error)),
                }
            }
        }
    }
    Ok(())
}

/// The batches of the trash with their ages, oldest first.
pub(crate) fn trash_batches(layout: &Layout) -> Result<Vec<(PathBuf, Duration)>, StoreError> {
    let trash = layout.trash();
    let entries = match fs::read_dir(&trash) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", trash, error)),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut batches = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("list", &trash, e))?;
        let since = entry.file_name().to_str().and_then(|name| name.split('-').next()?.parse().ok());
        if let Some(since) = since {
            batches.push((entry.path(), now.saturating_sub(Duration::from_secs(since))));
        }
    }
    batches.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(batches)
}

/// Takes an object back from the trash; false when it is not there. The caller holds the store's lock shared.
pub(crate) fn restore(layout: &Layout, key: Key) -> Result<bool, StoreError> {
    for (batch, _) in trash_batches(layout)? {
        if move_object(&batch.join(key.relative()), &layout.object(key))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Renames an object, making the directory it goes to; false when there is no such object.
fn move_object(from: &Path, to: &Path) -> Result<bool, StoreError> {
    let failed = |error: io::Error| write_error("move", from, 4096, error);
    let rename =
        || rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::empty()).map_err(io::Error::from);
    match rename() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = to.parent().unwrap_or(to);
            if from.symlink_metadata().is_err() {
                return Ok(false);
            }
            // Another thread may be making it too.
            layout::make_dir(parent)?;
            match rename() {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(failed(error)),
            }
        }
        Err(error) => Err(failed(error)),
    }
}

impl Layout {
    /// Moves a damaged object out of the way, where it can still be looked at.
    pub(crate) fn set_aside(&self, key: Key) -> Result<bool, StoreError> {
        move_object(&self.object(key), &self.quarantine().join(key.relative()))
    }
}

/// The id of a blob key, for those who list blobs only.
pub(crate) fn blob_of(key: Key) -> Option<BlobId> {
    match key {
        Key::Blob(bytes) => Some(BlobId::from_bytes(bytes)),
        Key::Manifest(_) => None,
    }
}
