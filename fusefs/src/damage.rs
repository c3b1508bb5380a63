//! Objects that somebody ran into and that could not be read. Each is told once in the log, with a file that it holds,
//! and kept in a list for who asks, until it can be read again.
//!
//! One that could be opened but not read is whole when the same bytes, or another file in its place, can be read: were it
//! enough that it can be opened, every read would tell of it, and of its healing, anew.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::Metadata;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cvs_store::{BlobId, LowerId, RelPath, Stamp, View};

/// More are not listed: where so many are damaged, it is the store that is.
const LISTED: usize = 1000;
/// Paths looked for while somebody waits for an error; finding them reads the whole view.
const LOOKED_FOR: usize = 16;
/// Paths told of one object.
const PATHS: usize = 4;

/// An object that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedBlob {
    /// The object.
    pub blob: BlobId,
    /// What is wrong with it, as in "is missing".
    pub problem: &'static str,
    /// Files of the view that it holds, the first few.
    pub paths: Vec<RelPath>,
    /// All of them.
    pub files: usize,
}

/// What is known of a damaged object.
struct Known {
    problem: &'static str,
    /// The bytes of the file that could not be read, when it could be opened.
    unread: Option<(Stamp, Range<u64>)>,
}

pub(crate) struct Damage {
    view: Arc<View>,
    known: Mutex<BTreeMap<BlobId, Known>>,
    /// Saves those who read whole objects the lock.
    any: AtomicBool,
}

impl Damage {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view, known: Mutex::default(), any: AtomicBool::new(false) }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<BlobId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody ran into an object; `unread` are the bytes that could not be read of the file, when it could be opened.
    pub(crate) fn note(&self, blob: BlobId, problem: &'static str, unread: Option<(Stamp, Range<u64>)>) {
        let count = {
            let mut known = self.known();
            let room = known.len() < LISTED;
            let is_new = match known.entry(blob) {
                Entry::Occupied(mut entry) => {
                    entry.insert(Known { problem, unread });
                    false
                }
                Entry::Vacant(entry) if room => {
                    entry.insert(Known { problem, unread });
                    true
                }
                Entry::Vacant(_) => false,
            };
            self.any.store(true, Ordering::Relaxed);
            if !is_new {
                return;
            }
            known.len()
        };
        let found = if count <= LOOKED_FOR { self.files_of(&[(blob, problem)]) } else { Vec::new() };
        match found.first().and_then(|found| Some((found.paths.first()?, found.files - 1))) {
            Some((path, 0)) => tracing::error!(%blob, %path, "blob {problem}: run `cvs fsck`"),
            Some((path, more)) => tracing::error!(%blob, %path, more, "blob {problem}: run `cvs fsck`"),
            None => tracing::error!(%blob, "blob {problem}: run `cvs fsck`"),
        }
    }

    /// An object could be opened.
    pub(crate) fn opened(&self, blob: BlobId, file: &Metadata) {
        self.heal(blob, |known| known.unread.as_ref().is_none_or(|(stamp, _)| *stamp != Stamp::of(file)));
    }

    /// Bytes of an object could be read.
    pub(crate) fn read(&self, blob: BlobId, bytes: Range<u64>) {
        let covers = |unread: &Range<u64>| bytes.start <= unread.start && unread.end <= bytes.end;
        self.heal(blob, |known| known.unread.as_ref().is_some_and(|(_, unread)| covers(unread)));
    }

    fn heal(&self, blob: BlobId, is_whole: impl FnOnce(&Known) -> bool) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known();
        if known.get(&blob).is_some_and(is_whole) {
            known.remove(&blob);
            tracing::info!(%blob, "blob can be read again");
        }
        self.any.store(!known.is_empty(), Ordering::Relaxed);
    }

    /// What somebody ran into and was not healed.
    pub(crate) fn list(&self) -> Vec<DamagedBlob> {
        let known: Vec<_> = self.known().iter().map(|(blob, known)| (*blob, known.problem)).collect();
        if known.is_empty() { Vec::new() } else { self.files_of(&known) }
    }

    fn files_of(&self, blobs: &[(BlobId, &'static str)]) -> Vec<DamagedBlob> {
        let mut found: Vec<DamagedBlob> = blobs
            .iter()
            .map(|&(blob, problem)| DamagedBlob { blob, problem, paths: Vec::new(), files: 0 })
            .collect();
        let places: HashMap<BlobId, usize> =
            blobs.iter().enumerate().map(|(place, (blob, _))| (*blob, place)).collect();
        for id in (0..self.view.id_limit()).map(LowerId) {
            let Some(blob) = self.view.entry(id).and_then(|entry| entry.blob) else { continue };
            let Some(of) = places.get(&blob).and_then(|place| found.get_mut(*place)) else { continue };
            let Some(path) = self.view.path(id) else { continue };
            of.files += 1;
            if of.paths.len() < PATHS {
                of.paths.push(path);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use cvs_store::Store;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_once_and_healed_by_another_file_or_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        let damage = Damage::new(Arc::new(View::compose(&store, &[]).unwrap()));
        let metadata = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            std::fs::metadata(&path).unwrap()
        };
        let (file, another) = (metadata("file"), metadata("another"));
        let blob = BlobId::of(b"blob");
        let told = || damage.list().iter().map(|of| of.problem).collect::<Vec<_>>();
        let unreadable = || damage.note(blob, "cannot be read", Some((Stamp::of(&file), 4096..8192)));

        unreadable();
        // The same file, and other bytes of it.
        damage.opened(blob, &file);
        for bytes in [0..4096, 0..8191, 4097..9000, 8192..9000] {
            damage.read(blob, bytes);
        }
        damage.read(BlobId::of(b"whole"), 4096..8192);
        assert_eq!(told(), ["cannot be read"]);
        damage.read(blob, 4096..8192);
        assert_eq!(told(), [""; 0]);

        unreadable();
        damage.opened(blob, &another);
        assert_eq!(told(), [""; 0]);

        // What could not be opened is whole when it can be, and not before.
        damage.note(blob, "is missing", None);
        damage.read(blob, 0..u64::MAX);
        assert_eq!(told(), ["is missing"]);
        damage.note(blob, "has the wrong size", None);
        assert_eq!(told(), ["has the wrong size"]);
        damage.opened(blob, &file);
        assert_eq!(told(), [""; 0]);
    }
}
