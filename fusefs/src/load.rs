//! Bringing into the table what the upper layer holds: directories when they are first needed, and files of the view
//! with several names.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use cvs_store::{EntryKind, LowerId};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::FsError;
use crate::overlay::Overlay;
use crate::tree::{Node, Slot, Tree};
use crate::types::{Ino, Kind};

impl Overlay {
    /// Reads the entries of an upper directory into the table.
    pub(crate) fn load(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        if !tree.needs_load(ino) {
            return Ok(());
        }
        let upper = self.writable()?;
        let fd = self.dir_fd(tree, ino)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(&fd, c".", flags, Mode::empty())
            .map_err(FsError::upper("open a directory"))?;
        let listing = rustix::fs::Dir::new(readable).map_err(FsError::upper("list a directory"))?;
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(FsError::upper("list a directory"))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(FsError::upper("look at"))?;
            let name: Box<[u8]> = name.into();
            if upper.is_whiteout(&fd, &name, &stat)? {
                entries.push((name, None));
                continue;
            }
            let mut node = Node::new(Kind::of_mode(stat.st_mode));
            node.upper = true;
            if node.kind == Kind::Dir {
                let origin = upper.origin(&fd, &name)?;
                node.lower = origin.and_then(|path| self.origin_dir(&path));
            } else if stat.st_nlink > 1 {
                node.linked = Some(stat.st_ino);
            }
            entries.push((name, Some(node)));
        }
        let mut slots = BTreeMap::new();
        for (name, node) in entries {
            let Some(mut node) = node else {
                slots.insert(name, Slot::Whiteout);
                continue;
            };
            let known = node.linked.and_then(|inode| tree.linked.get(&inode).copied());
            let child = match known.and_then(|ino| tree.nodes.get_mut(&ino).map(|node| (ino, node))) {
                Some((known, node)) => {
                    if !node.names.contains(&(ino, name.clone())) {
                        node.names.push((ino, name.clone()));
                    }
                    node.pin = None;
                    known
                }
                None => {
                    node.names.push((ino, name.clone()));
                    self.enter(tree, node)
                }
            };
            slots.insert(name, Slot::Node(child));
        }
        if let Some(node) = tree.nodes.get_mut(&ino) {
            node.dir.entries = slots;
            node.dir.loaded = true;
        }
        let shown = self.count_subdirs(tree, ino);
        if let Some(node) = tree.nodes.get_mut(&ino) {
            node.dir.subdirs = shown;
        }
        Ok(())
    }

    /// Enters a node of the upper layer. A directory that merges with one of the view has the number of that one, so
    /// that the children it still has there know their parent.
    fn enter(&self, tree: &mut Tree, mut node: Node) -> Ino {
        if let Some(ino) = node.lower.map(Ino::of_lower) {
            if let Entry::Vacant(free) = tree.nodes.entry(ino) {
                free.insert(node);
                return ino;
            }
            tracing::warn!(
                ?ino,
                "two directories of the overlay merge with one of the view; the second stands alone"
            );
            node.lower = None;
        }
        tree.insert(node)
    }

    /// The directory of the view that an upper directory says it merges with; none when the view has changed so that
    /// there is none any more.
    fn origin_dir(&self, path: &[u8]) -> Option<LowerId> {
        let id = self.view.resolve(&cvs_store::RelPath::new(path).ok()?)?;
        (self.view.entry(id)?.kind == EntryKind::Dir).then_some(id)
    }

    fn count_subdirs(&self, tree: &Tree, ino: Ino) -> u32 {
        let Some(node) = tree.nodes.get(&ino) else { return 0 };
        let mut count =
            node.lower.and_then(|id| self.view.entry(id)).map_or(0, |entry| entry.links.saturating_sub(2));
        for (name, slot) in &node.dir.entries {
            let hidden = node.lower.and_then(|id| self.view.lookup(id, name));
            if hidden.is_some_and(|id| self.lower_kind(id) == Ok(Kind::Dir)) {
                count = count.saturating_sub(1);
            }
            if let Slot::Node(child) = slot {
                count += u32::from(self.kind(tree, *child) == Ok(Kind::Dir));
            }
        }
        count
    }

    /// True when a node must be entered in the table before its attributes are right: an upper directory whose entries
    /// were not read, a file of the view with several names.
    pub(crate) fn is_unsettled(&self, tree: &Tree, ino: Ino) -> bool {
        tree.needs_load(ino)
            || (!tree.nodes.contains_key(&ino)
                && self
                    .lower_of_number(ino)
                    .and_then(|id| self.view.entry(id))
                    .is_some_and(|entry| entry.kind == EntryKind::File && entry.links > 1))
    }

    /// Enters what [`Self::is_unsettled`] asks for.
    pub(crate) fn settle(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        if tree.needs_load(ino) {
            return self.load(tree, ino);
        }
        match self.lower_of_number(ino) {
            Some(id) if self.is_unsettled(tree, ino) => self.enter_link_group(tree, id),
            _ => Ok(()),
        }
    }
}
