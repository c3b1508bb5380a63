//! Objects that somebody ran into and that could not be read. Each is told once in the log, with a file that it holds,
//! and kept in a list for who asks, until it can be read again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cvs_store::{BlobId, LowerId, RelPath, View};

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

pub(crate) struct Damage {
    view: Arc<View>,
    known: Mutex<BTreeMap<BlobId, &'static str>>,
    /// Saves those who read whole objects the lock.
    any: AtomicBool,
}

impl Damage {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view, known: Mutex::default(), any: AtomicBool::new(false) }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<BlobId, &'static str>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody ran into an object.
    pub(crate) fn note(&self, blob: BlobId, problem: &'static str) {
        let (is_new, count) = {
            let mut known = self.known();
            let room = known.len() < LISTED;
            let is_new = room && known.insert(blob, problem) != Some(problem);
            (is_new, known.len())
        };
        self.any.store(true, Ordering::Relaxed);
        if !is_new {
            return;
        }
        let found = if count <= LOOKED_FOR { self.files_of(&[(blob, problem)]) } else { Vec::new() };
        match found.first().and_then(|found| Some((found.paths.first()?, found.files - 1))) {
            Some((path, 0)) => tracing::error!(%blob, %path, "blob {problem}: run `cvs fsck`"),
            Some((path, more)) => tracing::error!(%blob, %path, more, "blob {problem}: run `cvs fsck`"),
            None => tracing::error!(%blob, "blob {problem}: run `cvs fsck`"),
        }
    }

    /// An object could be read.
    pub(crate) fn heal(&self, blob: BlobId) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known();
        if known.remove(&blob).is_some() {
            tracing::info!(%blob, "blob can be read again");
        }
        self.any.store(!known.is_empty(), Ordering::Relaxed);
    }

    /// What somebody ran into and was not healed.
    pub(crate) fn list(&self) -> Vec<DamagedBlob> {
        let known: Vec<_> = self.known().iter().map(|(blob, problem)| (*blob, *problem)).collect();
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
