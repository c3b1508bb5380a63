//! What the versions can tell the index. An index that was lost or damaged begins empty; the locks know which commit
//! is which manifest and which sha256 is which blob, and the files of commits tell their git ids themselves.
//!
//! The index is a cache: what cannot be told is left out, and nothing here fails because of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::BlobId;
use git2::{ObjectType, Oid};
use rayon::prelude::*;
use serde::Serialize;

use super::Workspace;
use crate::error::VersionsError;
use crate::source::git;
use crate::spec::{Lock, LockedRepo};

/// Larger files are not read for their git id: reading them from their repository again costs no more.
const READ_LIMIT: u64 = 16 << 20;

/// What was put into an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RefillStats {
    /// Commits whose manifest is known again.
    pub commits: u64,
    /// Models whose sha256 is known again.
    pub models: u64,
    /// Files whose git id is known again.
    pub git_blobs: u64,
}

impl Workspace {
    /// Puts into the index what the locks of all versions say and the store has; with `read`, also the git id of
    /// every file of a commit, which reads and hashes it. For an index that began empty; harmless for any other.
    pub fn refill_index(&self, read: bool, cancel: &AtomicBool) -> Result<RefillStats, VersionsError> {
        let index = self.store.index();
        let roots = self.versions().roots()?;
        let locks: Vec<&Lock> = roots.iter().filter_map(|root| root.lock.as_ref()).collect();
        let repos = locks.iter().flat_map(|lock| {
            std::iter::once(&lock.comfy).chain(lock.custom_nodes.iter().map(|node| &node.locked))
        });
        let commits = agreed(repos.filter(|repo| repo.tree.is_none()).filter_map(
            |LockedRepo { commit, manifest, .. }| {
                // Files that were found beside a commit are not that commit's.
                Some((commit.as_ref()?, (*manifest)?))
            },
        ));
        let models = agreed(
            locks
                .iter()
                .flat_map(|lock| &lock.models)
                .map(|model| (model.sha256, (model.blake3, model.size))),
        );

        let mut stats = RefillStats::default();
        for (sha256, (blob, size)) in models {
            if self.store.blob_size(&blob)? == Some(size) {
                index.put_sha256(&sha256, &blob);
                stats.models += 1;
            }
        }
        let mut files = BTreeSet::new();
        for (commit, manifest) in commits {
            let Ok(found) = self.store.manifest(&manifest) else { continue };
            index.put_source(&git::source_key(commit), &manifest);
            stats.commits += 1;
            if read {
                files.extend(found.blobs());
            }
        }
        let files: Vec<BlobId> = files.into_iter().collect();
        let ids: Vec<([u8; 20], BlobId)> =
            files.par_iter().filter_map(|blob| Some((self.git_id(blob, cancel)?, *blob))).collect();
        if cancel.load(Ordering::Relaxed) {
            return Err(VersionsError::Cancelled);
        }
        index.put_git_blobs(&ids);
        stats.git_blobs = ids.len() as u64;
        index.mark_filled();
        Ok(stats)
    }

    /// Refills an index that began empty with what costs no reading, before somebody asks it.
    pub(super) fn refill_when_empty(&self, cancel: &AtomicBool) {
        if !self.store.index().is_filled() {
            // Whatever prevents it, everything is found without the index too.
            let _ = self.refill_index(false, cancel);
        }
    }

    /// The git id of a blob, if its bytes are what they must be.
    fn git_id(&self, blob: &BlobId, cancel: &AtomicBool) -> Option<[u8; 20]> {
        if cancel.load(Ordering::Relaxed) || self.store.blob_size(blob).ok()?? > READ_LIMIT {
            return None;
        }
        let mut bytes = Vec::new();
        self.store.open_blob(blob).ok()?.read_to_end(&mut bytes).ok()?;
        let oid = Oid::hash_object(ObjectType::Blob, &bytes).ok()?;
        (BlobId::of(&bytes) == *blob).then_some(oid.as_bytes().try_into().ok()?)
    }
}

/// What all who speak of a key say alike. Where locks disagree, one was edited, and none is believed.
fn agreed<K: Hash + Eq + Copy, V: PartialEq>(said: impl Iterator<Item = (K, V)>) -> HashMap<K, V> {
    let (mut agreed, mut disputed) = (HashMap::new(), HashSet::new());
    for (key, value) in said {
        if agreed.get(&key).is_some_and(|known| *known != value) {
            disputed.insert(key);
        }
        agreed.insert(key, value);
    }
    agreed.retain(|key, _| !disputed.contains(key));
    agreed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_undisputed_is_believed() {
        let said = [("a", 1), ("b", 1), ("a", 1), ("b", 2), ("b", 1), ("c", 3)];
        assert_eq!(agreed(said.into_iter()), HashMap::from([("a", 1), ("c", 3)]));
    }
}
