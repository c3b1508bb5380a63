//! How a mount fares, for who asks from outside. Asking never waits long, whatever the mount waits for.

use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cvs_store::LowerId;

use crate::damage::DamagedBlob;
use crate::overlay::Overlay;
use crate::requests::{self, Work};

/// How long the table is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(2);

/// How a mount fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// What is in the table of nodes; none when it could not be looked at in time.
    pub table: Option<TableStats>,
    /// Contents of the overlay kept open.
    pub open_files: usize,
    /// Directories of the overlay kept open.
    pub open_directories: usize,
    /// Objects kept open.
    pub open_objects: usize,
    /// Files being copied up.
    pub copying: usize,
    /// Requests of the kernel.
    pub work: Work,
    /// Objects that could not be read, and the files that they hold.
    pub damaged: Vec<DamagedBlob>,
}

/// The table of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStats {
    /// Nodes that are more than the view says.
    pub nodes: usize,
    /// Nodes of which the kernel holds a name.
    pub held: usize,
    /// Unlinked nodes of the overlay that are in use. Each has a descriptor.
    pub pinned: usize,
}

impl Overlay {
    /// How it fares.
    pub fn stats(&self) -> Stats {
        let (open_files, open_directories) = self.open_counts();
        Stats {
            table: self.table_stats(),
            open_files,
            open_directories,
            open_objects: self.blobs.open_count(),
            copying: self.copying.lock().unwrap_or_else(|e| e.into_inner()).len(),
            work: requests::work(),
            damaged: self.blobs.damaged(),
        }
    }

    fn table_stats(&self) -> Option<TableStats> {
        let end = Instant::now() + PATIENCE;
        let tree = loop {
            match self.tree.try_read() {
                Ok(tree) => break tree,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => return None,
            }
        };
        let own = tree.nodes.iter().filter(|(ino, node)| {
            self.lower_of_number(**ino).is_none() && node.lookups.load(Ordering::Relaxed) > 0
        });
        let of_view = (0..self.view.id_limit()).filter(|id| self.is_held(LowerId(*id)));
        Some(TableStats {
            nodes: tree.nodes.len(),
            held: own.count() + of_view.count(),
            pinned: tree.nodes.values().filter(|node| node.pin.is_some()).count(),
        })
    }
}
