//! Which nodes are open, and what their opens are answered with.
//!
//! *Lock order:* a node's content, then the table; the table is never held while a content is waited for. Nobody copies
//! a file up who holds a content: opens and closes of that node would wait for the last byte. A copy-up that is finished
//! may lock the content before it is shown.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use fuser::BackingId;

use crate::tree::Name;
use crate::types::Ino;

/// A close is told to us without anybody waiting for it, so it may be on its way when the next open comes. A change of a
/// file that seems open waits this long for it: parting would be right, but give the file a new number for nothing.
const CLOSING: Duration = Duration::from_millis(5);

/// What every open of a node is answered with, as long as one is left.
#[derive(Debug)]
pub(super) enum Content {
    /// Nobody has it open.
    Closed,
    /// The kernel reads the object.
    Object(BackingId),
    /// The kernel reads and writes the upper file.
    Upper(BackingId),
    /// The kernel asks us: it has refused the backing file.
    Cached,
}

impl Content {
    /// True when who has it open sees nothing that is written.
    pub(super) fn is_object(&self) -> bool {
        matches!(self, Content::Object(_))
    }
}

pub(super) struct Node {
    content: Mutex<Content>,
    closed: Condvar,
    handles: AtomicU64,
}

impl Node {
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// As [`Self::lock`], after waiting a little for readers that are about to go.
    pub(super) fn lock_for_change(&self) -> MutexGuard<'_, Content> {
        let content = self.lock();
        let waited = self.closed.wait_timeout_while(content, CLOSING, |content| content.is_object());
        waited.unwrap_or_else(|e| e.into_inner()).0
    }

    /// Counts an open. The caller has the content.
    pub(super) fn opened(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }
}

/// The nodes that are open.
#[derive(Default)]
pub(super) struct Opens {
    nodes: Mutex<HashMap<Ino, Arc<Node>>>,
    /// Names of which the kernel has not yet heard that they lead elsewhere, by where they led.
    parted: Mutex<HashMap<Ino, Vec<Name>>>,
}

impl Opens {
    fn table(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn node(&self, ino: Ino) -> InUse<'_> {
        let node = Arc::clone(self.table().entry(ino).or_insert_with(|| {
            Arc::new(Node {
                content: Mutex::new(Content::Closed),
                closed: Condvar::new(),
                handles: AtomicU64::new(0),
            })
        }));
        InUse { opens: self, ino, node }
    }

    pub(super) fn parted(&self, ino: Ino, names: Vec<Name>) {
        let mut parted = self.parted.lock().unwrap_or_else(|e| e.into_inner());
        parted.entry(ino).or_default().extend(names);
    }

    /// The names of which the kernel is to hear. They are told once.
    pub(super) fn take_parted(&self, ino: Ino) -> Vec<Name> {
        self.parted.lock().unwrap_or_else(|e| e.into_inner()).remove(&ino).unwrap_or_default()
    }

    /// Takes an open back.
    pub(super) fn release(&self, ino: Ino) {
        let node = self.node(ino);
        let mut content = node.lock();
        if node.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            *content = Content::Closed;
            node.closed.notify_all();
        }
    }
}

/// A node that somebody works with. What nobody works with and nobody has open is forgotten.
pub(super) struct InUse<'o> {
    opens: &'o Opens,
    ino: Ino,
    node: Arc<Node>,
}

impl Deref for InUse<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut table = self.opens.table();
        // The table's and ours; more are made with the table alone.
        if self.node.handles.load(Ordering::Acquire) == 0 && Arc::strong_count(&self.node) == 2 {
            table.remove(&self.ino);
        }
    }
}
