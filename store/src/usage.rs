//! What versions take, and what they share.

use std::collections::{HashMap, HashSet};

use crate::error::StoreError;
use crate::gc::{RootRef, blob_of, list_objects};
use crate::id::{BlobId, ManifestId};
use crate::manifest::EntryKind;
use crate::store::Store;

/// What one version takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct VersionUsage {
    /// The root's name.
    pub name: String,
    /// Files of the version.
    pub files: u64,
    /// The sum of their sizes in bytes, as `du --apparent-size` of a full copy would say.
    pub logical_bytes: u64,
    /// Bytes of objects that no other version uses: what deleting this one would free.
    pub unique_bytes: u64,
    /// Manifests that are not in the store: not fetched yet, or lost. The figures leave them out.
    pub missing_manifests: u64,
}

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Each version.
    pub versions: Vec<VersionUsage>,
    /// The sum of all versions' logical bytes.
    pub logical_bytes: u64,
    /// Bytes of the distinct blobs that versions use.
    pub used_bytes: u64,
    /// Objects in the store, used or not.
    pub stored_objects: u64,
    /// Their bytes.
    pub stored_bytes: u64,
}

impl Usage {
    /// Logical bytes for each byte stored for them; 1 for an empty store.
    pub fn dedup_ratio(&self) -> f64 {
        if self.used_bytes == 0 { 1.0 } else { self.logical_bytes as f64 / self.used_bytes as f64 }
    }
}

struct Object {
    size: u64,
    /// The only root that uses it, or none when there are several.
    owner: Option<usize>,
}

impl Object {
    fn new(size: u64, owner: usize) -> Self {
        Self { size, owner: Some(owner) }
    }

    fn used_by(&mut self, root: usize) {
        if self.owner != Some(root) {
            self.owner = None;
        }
    }
}

/// Measures `roots` and the whole store.
pub fn usage(store: &Store, roots: &[RootRef]) -> Result<Usage, StoreError> {
    let mut blobs: HashMap<BlobId, Object> = HashMap::new();
    let mut manifests: HashMap<ManifestId, Object> = HashMap::new();
    let mut usage = Usage::default();
    for (number, root) in roots.iter().enumerate() {
        let mut version = VersionUsage { name: root.name.clone(), ..Default::default() };
        let mut seen: HashSet<ManifestId> = HashSet::new();
        for id in root.manifests.iter().filter(|id| seen.insert(**id)) {
            let manifest = match store.manifest(id) {
                Ok(manifest) => manifest,
                Err(StoreError::MissingManifest(_)) => {
                    version.missing_manifests += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            manifests.entry(*id).or_insert(Object::new(manifest.encoded_len(), number)).used_by(number);
            version.logical_bytes += manifest.content_bytes();
            for index in 0..manifest.entry_count() {
                let Some(entry) = manifest.entry(index).filter(|e| e.kind() == EntryKind::File) else {
                    continue;
                };
                version.files += 1;
                let Some(blob) = manifest.blob(&entry) else { continue };
                blobs.entry(blob).or_insert(Object::new(entry.size(), number)).used_by(number);
            }
        }
        usage.logical_bytes += version.logical_bytes;
        usage.versions.push(version);
    }
    usage.used_bytes = blobs.values().map(|blob| blob.size).sum();
    for object in blobs.values().chain(manifests.values()) {
        if let Some(version) = object.owner.and_then(|owner| usage.versions.get_mut(owner)) {
            version.unique_bytes += object.size;
        }
    }
    let layout = store.layout();
    list_objects(layout, &layout.objects(), |key, size| {
        usage.stored_objects += 1;
        if blob_of(key).is_some() {
            usage.stored_bytes += size;
        }
    })?;
    Ok(usage)
}
