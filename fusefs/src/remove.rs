//! Removing names.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::FsError;
use crate::overlay::Overlay;
use crate::tree::{Node, Slot, Tree};
use crate::types::{Ino, Kind};
use crate::upper::Upper;

impl Overlay {
    /// Removes the name of something that is no directory.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let upper = self.writable()?;
        let mut tree = self.write();
        let dir = self.dir_to_write(&mut tree, parent)?;
        let ino = self.child(&tree, parent, name).ok_or(FsError::NotFound)?;
        if self.kind(&tree, ino)? == Kind::Dir {
            return Err(FsError::IsADirectory);
        }
        self.settle(&mut tree, ino)?;
        self.pin_if_last(&mut tree, ino)?;
        let in_view = self.lower_child(&tree, parent, name).is_some();
        let in_upper = tree.nodes.get(&parent).is_some_and(|node| node.dir.entries.contains_key(name));
        let done = match (in_upper, in_view) {
            (true, true) => upper.whiteout_over_file(&dir, name),
            (true, false) => disk::unlinkat(&dir, name, AtFlags::empty()).map_err(FsError::upper("unlink")),
            (false, _) => upper.link_whiteout(&dir, name),
        };
        done.inspect_err(|_| unpin(&mut tree, ino))?;
        self.set_slot(&mut tree, parent, name, in_view.then_some(Slot::Whiteout));
        self.drop_name(&mut tree, ino, parent, name);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let upper = self.writable()?;
        let mut tree = self.write();
        let dir = self.dir_to_write(&mut tree, parent)?;
        let ino = self.child(&tree, parent, name).ok_or(FsError::NotFound)?;
        if self.kind(&tree, ino)? != Kind::Dir {
            return Err(FsError::NotADirectory);
        }
        self.load(&mut tree, ino)?;
        if !self.is_empty_dir(&tree, ino)? {
            return Err(FsError::NotEmpty);
        }
        self.pin_if_last(&mut tree, ino)?;
        let in_view = self.lower_child(&tree, parent, name).is_some();
        let in_upper = tree.nodes.get(&parent).is_some_and(|node| node.dir.entries.contains_key(name));
        let done = match (in_upper, in_view) {
            (true, true) => upper.whiteout_instead(&dir, name),
            (true, false) => self.remove_upper_dir(&tree, upper, ino, parent, name),
            (false, _) => upper.link_whiteout(&dir, name),
        };
        done.inspect_err(|_| unpin(&mut tree, ino))?;
        self.set_slot(&mut tree, parent, name, in_view.then_some(Slot::Whiteout));
        self.drop_name(&mut tree, ino, parent, name);
        Ok(())
    }

    /// Removes a directory of the upper layer that shows nothing, but may hold whiteouts.
    fn remove_upper_dir(
        &self,
        tree: &Tree,
        upper: &Upper,
        ino: Ino,
        parent: Ino,
        name: &[u8],
    ) -> Result<(), FsError> {
        let dir = self.dir_fd(tree, parent)?;
        if tree.nodes.get(&ino).is_none_or(|node| node.dir.entries.is_empty()) {
            return disk::unlinkat(&dir, name, AtFlags::REMOVEDIR)
                .map_err(FsError::upper("remove a directory"));
        }
        let temporary = upper.temporary();
        disk::renameat(&dir, name, &upper.work, &*temporary).map_err(FsError::upper("remove a directory"))?;
        upper.retire(&temporary);
        Ok(())
    }

    /// True when a directory, whose entries are in the table, shows nothing.
    pub(crate) fn is_empty_dir(&self, tree: &Tree, ino: Ino) -> Result<bool, FsError> {
        let lower = self.lower_of(tree, ino);
        let Some(node) = tree.nodes.get(&ino) else {
            return Ok(lower.is_none_or(|id| self.view.child_count(id) == 0));
        };
        if node.dir.entries.values().any(|slot| matches!(slot, Slot::Node(_))) {
            return Ok(false);
        }
        let Some(id) = lower else { return Ok(true) };
        // Whiteouts may outlive what they hid, so they are not counted against the entries of the view.
        let shown = (0..self.view.child_count(id))
            .filter_map(|position| self.view.child_at(id, position))
            .any(|(name, _)| !node.dir.entries.contains_key(name));
        Ok(!shown)
    }

    /// Keeps hold of an upper node that is about to lose its last name, as far as the kernel still has it.
    pub(crate) fn pin_if_last(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        let Some(node) = tree.nodes.get(&ino) else { return Ok(()) };
        if !node.upper || node.names.len() > 1 || node.pin.is_some() {
            return Ok(());
        }
        let Some((parent, name)) = node.names.first() else { return Ok(()) };
        let dir = self.dir_fd(tree, *parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pin = rustix::fs::openat(&dir, &**name, flags, Mode::empty()).map_err(FsError::upper("open"))?;
        // The lowest free number: those below are taken. What is left serves everybody else.
        if pin.as_raw_fd() >= self.pins_end {
            return Err(FsError::Upper { op: "keep an unlinked file", errno: Errno::MFILE });
        }
        if let Some(node) = tree.nodes.get_mut(&ino) {
            node.pin = Some(Arc::new(pin));
        }
        Ok(())
    }

    /// Takes a name from a node. Without any, it lives on only as long as the kernel has it.
    pub(crate) fn drop_name(&self, tree: &mut Tree, ino: Ino, parent: Ino, name: &[u8]) {
        match tree.nodes.get_mut(&ino) {
            Some(node) => {
                node.names.retain(|(dir, known)| *dir != parent || **known != *name);
                if !node.names.is_empty() {
                    // Another name is left, so the pin would only hold a descriptor.
                    node.pin = None;
                }
            }
            None => {
                let Ok(kind) = self.kind(tree, ino) else { return };
                let mut node = Node::new(kind);
                node.lower = self.lower_of(tree, ino);
                node.lookups.store(0, Ordering::Relaxed);
                tree.nodes.insert(ino, node);
            }
        }
        self.drop_if_unused(tree, ino);
    }
}

/// Lets go of what [`Overlay::pin_if_last`] holds, when the name stayed after all.
pub(crate) fn unpin(tree: &mut Tree, ino: Ino) {
    if let Some(node) = tree.nodes.get_mut(&ino).filter(|node| !node.names.is_empty()) {
        node.pin = None;
    }
}
