//! The node table: what is known of nodes beyond what the view says.
//!
//! A node of the view that nobody has touched is not in it. A directory of the upper layer is read once, when it is
//! first needed, and its entries stay here: the kernel caches names and seldom asks, and a listing must be sorted.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use cvs_store::LowerId;

use crate::types::{Ino, Kind, Time};

/// What the upper layer says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The view's entry of that name is hidden.
    Whiteout,
    /// The name is that of this node.
    Node(Ino),
}

/// A name of a node: its directory and its name there.
pub(crate) type Name = (Ino, Box<[u8]>);

pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// The node of the view that it is, or was before it was copied up.
    pub(crate) lower: Option<LowerId>,
    /// It lies in the upper layer (or did, before it was unlinked).
    pub(crate) upper: bool,
    /// Where it is. Empty for what is unlinked, and for the root.
    pub(crate) names: Vec<Name>,
    /// Entries, when it is a directory of the upper layer.
    pub(crate) dir: Dir,
    /// Names that the kernel holds, for nodes that are not of the view.
    pub(crate) lookups: AtomicU64,
    /// What an unlinked node refers to.
    pub(crate) pin: Option<Arc<OwnedFd>>,
    /// Its inode in the upper filesystem, when it has or had several names there.
    pub(crate) linked: Option<u64>,
    /// Its names lead to a copy that has been written to.
    pub(crate) parted: bool,
    /// Of a directory in which copying up was the last change: the time of change that it goes on showing.
    pub(crate) ctime: Option<KeptCtime>,
}

/// A time of change that is shown as long as the times on disk are these.
pub(crate) struct KeptCtime {
    pub(crate) shown: Time,
    pub(crate) ctime: Time,
    pub(crate) mtime: Time,
}

impl Node {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            lower: None,
            upper: false,
            names: Vec::new(),
            dir: Dir::default(),
            lookups: AtomicU64::new(0),
            pin: None,
            linked: None,
            ctime: None,
            parted: false,
        }
    }
}

#[derive(Default)]
pub(crate) struct Dir {
    /// `entries` holds what the upper layer holds.
    pub(crate) loaded: bool,
    pub(crate) entries: BTreeMap<Box<[u8]>, Slot>,
    /// Sub-directories that are shown.
    pub(crate) subdirs: u32,
    cookies: Mutex<Cookies>,
}

impl Dir {
    /// The cookie behind a name that the view does not have.
    pub(crate) fn cookie(&self, name: &[u8]) -> u64 {
        let mut cookies = self.cookies.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(&number) = cookies.by_name.get(name) {
            return FIRST_UPPER + number;
        }
        let number = cookies.next;
        cookies.next += 1;
        cookies.by_name.insert(name.into(), number);
        cookies.by_number.insert(number, name.into());
        // Names that went are kept, for listings that stopped at them; but not without end.
        while cookies.by_number.len() > 2 * self.entries.len() + FORGOTTEN_NAMES {
            let Some((_, oldest)) = cookies.by_number.pop_first() else { break };
            cookies.by_name.remove(&oldest);
            if self.entries.contains_key(&oldest) {
                let number = cookies.next;
                cookies.next += 1;
                cookies.by_name.insert(oldest.clone(), number);
                cookies.by_number.insert(number, oldest);
            }
        }
        FIRST_UPPER + number
    }

    /// The name that a cookie stands behind.
    pub(crate) fn name_of_cookie(&self, cookie: u64) -> Option<Box<[u8]>> {
        let cookies = self.cookies.lock().unwrap_or_else(|e| e.into_inner());
        cookies.by_number.get(&cookie.checked_sub(FIRST_UPPER)?).cloned()
    }
}

/// Cookies of a listing stand for names, so that a listing goes on at the right place whatever comes and goes: 1 and 2
/// for `.` and `..`, then the positions of the view's entries, then numbers given to names as they are listed.
pub(crate) const FIRST_LOWER: u64 = 3;
pub(crate) const FIRST_UPPER: u64 = 1 << 32;
const FORGOTTEN_NAMES: usize = 65_536;

#[derive(Default)]
struct Cookies {
    next: u64,
    by_name: HashMap<Box<[u8]>, u64>,
    by_number: BTreeMap<u64, Box<[u8]>>,
}

pub(crate) struct Tree {
    pub(crate) nodes: HashMap<Ino, Node>,
    /// Nodes with several names in the upper filesystem, by their inode there.
    pub(crate) linked: HashMap<u64, Ino>,
    next: u64,
}

impl Tree {
    /// A table whose own numbers begin at `first`.
    pub(crate) fn new(first: u64) -> Self {
        let mut root = Node::new(Kind::Dir);
        root.lower = Some(LowerId(0));
        Self { nodes: HashMap::from([(Ino::ROOT, root)]), linked: HashMap::new(), next: first }
    }

    pub(crate) fn insert(&mut self, node: Node) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        if let Some(upper) = node.linked {
            self.linked.insert(upper, ino);
        }
        self.nodes.insert(ino, node);
        ino
    }

    pub(crate) fn remove(&mut self, ino: Ino) {
        if let Some(upper) = self.nodes.remove(&ino).and_then(|node| node.linked) {
            self.linked.remove(&upper);
        }
    }

    /// True when the entries of an upper directory have not been read yet.
    pub(crate) fn needs_load(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.upper && node.kind == Kind::Dir && !node.dir.loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_outlive_their_names_but_not_for_ever() {
        let mut dir = Dir::default();
        dir.entries.insert(b"stays".as_slice().into(), Slot::Whiteout);
        let stays = dir.cookie(b"stays");
        assert_eq!(dir.cookie(b"stays"), stays);
        let gone = dir.cookie(b"gone");
        assert_eq!(dir.name_of_cookie(gone).as_deref(), Some(&b"gone"[..]));
        for i in 0..FORGOTTEN_NAMES + 10 {
            dir.cookie(format!("{i}").as_bytes());
        }
        assert_eq!(dir.name_of_cookie(gone), None);
        let again = dir.cookie(b"stays");
        assert_eq!(dir.name_of_cookie(again).as_deref(), Some(&b"stays"[..]));
    }
}
