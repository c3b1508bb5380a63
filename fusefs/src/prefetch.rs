//! What the last use of a mount read at its beginning, read ahead when it is mounted again.
//!
//! A program that starts reads thousands of small objects one after another, each where the disk happens to have it, and
//! waits for every one. What it will read is known after the first time: the objects that were opened in the first
//! minutes of a mount are remembered under the mount's name, and the next mount of that name asks the kernel for them at
//! once, several at a time. It changes nothing but how soon they are in memory.
//!
//! They are remembered in a file of their own for each name, in `run/opened/`, and not in the index: SQLite maps a file
//! there, and somebody who cuts it short would end the process that serves the mount.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cvs_store::{BlobId, Store};
use rustix::fs::Advice;

/// For so long after the mount, what is opened belongs to the beginning.
pub(crate) const BEGINNING: Duration = Duration::from_secs(120);
/// Objects remembered.
const REMEMBERED: usize = 50_000;
/// Less than this is not worth remembering.
const FEW: usize = 64;
/// Of one object, so much is asked for: a model of gigabytes is read by whoever wants it.
const OF_EACH: u64 = 64 << 20;
/// Asked for in all: more could drive out what is needed first.
const IN_ALL: u64 = 3 << 30;
/// Names remembered; whoever was mounted longest ago is forgotten.
const NAMES: usize = 64;
/// Objects asked for at once. They wait for the disk, not for a processor.
const THREADS: usize = 4;

/// The objects opened since a mount began, in that order.
pub(crate) struct Trace {
    since: Instant,
    opened: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    order: Vec<BlobId>,
    known: HashSet<BlobId>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), opened: Mutex::default() }
    }

    /// Notes that a blob was opened.
    pub(crate) fn note(&self, id: BlobId) {
        if self.since.elapsed() > BEGINNING {
            return;
        }
        let mut opened = self.opened.lock().unwrap_or_else(|e| e.into_inner());
        if opened.order.len() < REMEMBERED && opened.known.insert(id) {
            opened.order.push(id);
        }
    }

    /// Remembers what was noted, and lets go of it. A use that read much less than the one before, such as a look around,
    /// does not count.
    pub(crate) fn remember(&self, store: &Store, name: &str) {
        let order = std::mem::take(&mut *self.opened.lock().unwrap_or_else(|e| e.into_inner())).order;
        if order.len() < FEW || order.len() < remembered(store, name).len() / 2 {
            return;
        }
        let mut text = String::with_capacity(order.len() * 65);
        for id in order {
            text.push_str(&id.to_string());
            text.push('\n');
        }
        if let Err(error) = write(&file_of(store, name), &text) {
            tracing::debug!(%error, "what was read at the beginning is not remembered");
        }
    }
}

/// Where the list of a mount lies, whatever its name holds.
fn file_of(store: &Store, name: &str) -> PathBuf {
    store.home().join("run/opened").join(BlobId::of(name.as_bytes()).to_hex())
}

/// Replaces a list as a whole. It need not outlive a power loss: lines that make no sense are left out.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    let making = path.with_extension(std::process::id().to_string());
    fs::write(&making, text).and_then(|()| fs::rename(&making, path)).inspect_err(|_| {
        let _ = fs::remove_file(&making);
    })?;
    let mut lists = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        lists.push((entry.metadata()?.modified()?, entry.path()));
    }
    lists.sort();
    lists.iter().rev().skip(NAMES).try_for_each(|(_, path)| fs::remove_file(path))
}

fn remembered(store: &Store, name: &str) -> Vec<BlobId> {
    let text = fs::read_to_string(file_of(store, name)).unwrap_or_default();
    text.lines().take(REMEMBERED).filter_map(|line| line.parse().ok()).collect()
}

/// Asks for what the mount `name` read the last time, until `stop` is set. Returns when all of it was asked for.
pub(crate) fn read_ahead(store: &Store, name: &str, stop: &AtomicBool) {
    let ids = remembered(store, name);
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) || bytes.load(Ordering::Relaxed) > IN_ALL {
                return;
            }
            // Whatever is wrong with it is found by who reads it.
            let Ok(file) = store.open_blob(id) else { continue };
            let size = file.metadata().map_or(0, |metadata| metadata.len()).min(OF_EACH);
            bytes.fetch_add(size, Ordering::Relaxed);
            let _ = rustix::fs::fadvise(&file, 0, std::num::NonZeroU64::new(size), Advice::WillNeed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(ids.len()) {
            scope.spawn(work);
        }
    });
    tracing::debug!(objects = ids.len(), bytes = bytes.into_inner(), "read ahead");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_remembered_by_name() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let id = |n: u32| BlobId::of(&n.to_le_bytes());
        let trace = Trace::new();
        // Each once, in the order of the first time.
        (0..200).chain(0..100).for_each(|n| trace.note(id(n)));
        trace.remember(&store, "v");
        let all: Vec<BlobId> = (0..200).map(id).collect();
        assert_eq!(remembered(&store, "v"), all);
        assert_eq!(remembered(&store, "w"), []);

        // A look around does not count; another start does.
        let look = Trace::new();
        (0..99).for_each(|n| look.note(id(n)));
        look.remember(&store, "v");
        assert_eq!(remembered(&store, "v"), all);
        let other = Trace::new();
        (50..150).for_each(|n| other.note(id(n)));
        other.remember(&store, "v");
        assert_eq!(remembered(&store, "v").len(), 100);

        // None of them is there; that is nobody's problem.
        read_ahead(&store, "v", &AtomicBool::new(false));
    }

    #[test]
    fn lists_that_are_damaged_or_too_many_are_no_trouble() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let trace = |name: &str| {
            let trace = Trace::new();
            (0..200u32).for_each(|n| trace.note(BlobId::of(&n.to_le_bytes())));
            trace.remember(&store, name);
        };
        trace("../v");
        let path = file_of(&store, "../v");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..300]).unwrap();
        assert_eq!(remembered(&store, "../v").len(), 4);
        fs::write(&path, [0xff; 300]).unwrap();
        assert_eq!(remembered(&store, "../v"), []);
        (0..2 * NAMES).for_each(|n| trace(&n.to_string()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), NAMES);
        assert_eq!(remembered(&store, &(2 * NAMES - 1).to_string()).len(), 200);
    }
}
