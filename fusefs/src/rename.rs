//! Renaming. Most renames are one `rename(2)` in the upper layer; the cases that need more are told apart here.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags};

use crate::disk;
use crate::error::FsError;
use crate::intent::{At, Intent};
use crate::names::check_length;
use crate::overlay::Overlay;
use crate::remove::unpin;
use crate::tree::{Slot, Tree};
use crate::types::{Ino, Kind, RenameMode};

/// One side of a rename.
struct Side<'a> {
    parent: Ino,
    name: &'a [u8],
    /// The view has an entry of this name, which must stay hidden.
    in_view: bool,
}

impl Overlay {
    /// Renames an entry.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        check_length(name)?;
        check_length(new_name)?;
        self.writable()?;
        // What moves must be in the upper layer, and contents are copied without the table.
        loop {
            let moved = self.lookup(parent, name)?.ino;
            self.copy_up_any(moved)?;
            let replaced = match mode {
                RenameMode::Exchange => Some(self.lookup(new_parent, new_name)?.ino),
                RenameMode::Replace | RenameMode::NoReplace => None,
            };
            if let Some(replaced) = replaced {
                self.copy_up_any(replaced)?;
            }
            let mut tree = self.write();
            self.dir_to_write(&mut tree, parent)?;
            self.dir_to_write(&mut tree, new_parent)?;
            let still = |tree: &Tree, dir, name: &[u8], ino| self.child(tree, dir, name) == Some(ino);
            if !still(&tree, parent, name, moved)
                || replaced.is_some_and(|ino| !still(&tree, new_parent, new_name, ino))
            {
                continue;
            }
            let from = self.side(&tree, parent, name);
            let to = self.side(&tree, new_parent, new_name);
            return match replaced {
                Some(replaced) => self.exchange(&mut tree, moved, &from, replaced, &to),
                None => self.move_to(&mut tree, moved, &from, &to, mode == RenameMode::NoReplace),
            };
        }
    }

    fn side<'a>(&self, tree: &Tree, parent: Ino, name: &'a [u8]) -> Side<'a> {
        Side { parent, name, in_view: self.lower_child(tree, parent, name).is_some() }
    }

    /// True when `ino` is `dir` or lies below it.
    fn is_inside(&self, tree: &Tree, mut ino: Ino, dir: Ino) -> Result<bool, FsError> {
        loop {
            if ino == dir {
                return Ok(true);
            }
            if ino == Ino::ROOT {
                return Ok(false);
            }
            ino = self.name_of(tree, ino)?.0;
        }
    }

    fn exchange(
        &self,
        tree: &mut Tree,
        moved: Ino,
        from: &Side<'_>,
        replaced: Ino,
        to: &Side<'_>,
    ) -> Result<(), FsError> {
        if moved == replaced {
            return Ok(());
        }
        if self.is_inside(tree, to.parent, moved)? || self.is_inside(tree, from.parent, replaced)? {
            return Err(FsError::Invalid);
        }
        let (from_dir, to_dir) = (self.dir_fd(tree, from.parent)?, self.dir_fd(tree, to.parent)?);
        exchange_names(&from_dir, from.name, &to_dir, to.name)?;
        rename_node(tree, moved, from, to);
        rename_node(tree, replaced, to, from);
        self.set_slot(tree, from.parent, from.name, Some(Slot::Node(replaced)));
        self.set_slot(tree, to.parent, to.name, Some(Slot::Node(moved)));
        Ok(())
    }

    fn move_to(
        &self,
        tree: &mut Tree,
        moved: Ino,
        from: &Side<'_>,
        to: &Side<'_>,
        no_replace: bool,
    ) -> Result<(), FsError> {
        let moved_is_dir = self.kind(tree, moved)? == Kind::Dir;
        if moved_is_dir && self.is_inside(tree, to.parent, moved)? {
            return Err(FsError::Invalid);
        }
        let target = self.child(tree, to.parent, to.name);
        if let Some(target) = target {
            if no_replace {
                return Err(FsError::Exists);
            }
            if target == moved {
                // Two names of one file: rename(2) leaves both.
                return Ok(());
            }
            let target_is_dir = self.kind(tree, target)? == Kind::Dir;
            match (moved_is_dir, target_is_dir) {
                (true, false) => return Err(FsError::NotADirectory),
                (false, true) => return Err(FsError::IsADirectory),
                (true, true) => {
                    self.load(tree, target)?;
                    if !self.is_empty_dir(tree, target)? {
                        return Err(FsError::NotEmpty);
                    }
                }
                (false, false) => {}
            }
            self.settle(tree, target)?;
            self.pin_if_last(tree, target)?;
        }
        let whiteout = self.move_on_disk(tree, moved, from, to, target);
        if whiteout.is_err()
            && let Some(target) = target
        {
            unpin(tree, target);
        }
        let whiteout = whiteout?;
        rename_node(tree, moved, from, to);
        self.set_slot(tree, from.parent, from.name, whiteout.then_some(Slot::Whiteout));
        self.set_slot(tree, to.parent, to.name, Some(Slot::Node(moved)));
        // Last: whether a directory went is asked of the node that was there.
        if let Some(target) = target {
            self.drop_name(tree, target, to.parent, to.name);
        }
        Ok(())
    }

    /// The part of [`Self::move_to`] that changes the upper layer; true when it leaves a whiteout at `from`. When it
    /// fails, nothing has changed.
    fn move_on_disk(
        &self,
        tree: &mut Tree,
        moved: Ino,
        from: &Side<'_>,
        to: &Side<'_>,
        target: Option<Ino>,
    ) -> Result<bool, FsError> {
        let upper = self.writable()?;
        let is_dir = |ino| self.kind(tree, ino) == Ok(Kind::Dir);
        let (moved_is_dir, target_is_dir) = (is_dir(moved), target.is_some_and(is_dir));
        let (from_dir, to_dir) = (self.dir_fd(tree, from.parent)?, self.dir_fd(tree, to.parent)?);
        let slot = tree.nodes.get(&to.parent).and_then(|node| node.dir.entries.get(to.name)).copied();
        let failed = FsError::upper("rename");
        match (slot, from.in_view) {
            // Nothing or a file is in the way, and nothing of the view comes to light: one rename does it.
            (Some(_), false) if !moved_is_dir => {
                disk::renameat(&from_dir, from.name, &to_dir, to.name).map_err(failed)?;
            }
            (None, false) => {
                disk::renameat_with(&from_dir, from.name, &to_dir, to.name, RenameFlags::NOREPLACE)
                    .map_err(failed)?;
            }
            // Nothing is at the target, not even in the view: a whiteout there changes nothing, and takes the place of the
            // source in one step.
            (None, true) if target.is_none() => {
                upper.link_whiteout(&to_dir, to.name)?;
                if let Err(error) = exchange_names(&from_dir, from.name, &to_dir, to.name) {
                    if disk::unlinkat(&to_dir, to.name, AtFlags::empty()).is_err() {
                        self.set_slot(tree, to.parent, to.name, Some(Slot::Whiteout));
                    }
                    return Err(error);
                }
            }
            (Some(Slot::Whiteout), true) => {
                exchange_names(&from_dir, from.name, &to_dir, to.name)?;
            }
            (Some(Slot::Whiteout), false) => {
                exchange_names(&from_dir, from.name, &to_dir, to.name)?;
                // A whiteout that hides nothing may stay.
                return Ok(disk::unlinkat(&from_dir, from.name, AtFlags::empty()).is_err());
            }
            // An empty directory that holds no whiteout, replaced by a directory: rename(2) can.
            (Some(Slot::Node(target)), false)
                if target_is_dir && tree.nodes.get(&target).is_some_and(|n| n.dir.entries.is_empty()) =>
            {
                disk::renameat(&from_dir, from.name, &to_dir, to.name).map_err(failed)?;
            }
            (Some(Slot::Node(_)), _) | (None, true) => {
                let at = |side: &Side<'_>| {
                    Ok::<_, FsError>(At {
                        dir: self.upper_path(tree, side.parent)?,
                        name: side.name.to_vec(),
                    })
                };
                let inode = |dir, name| {
                    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map(|stat| stat.st_ino)
                        .map_err(&failed)
                };
                let intent = Intent::Replace {
                    from: at(from)?,
                    to: at(to)?,
                    moved: inode(&*from_dir, from.name)?,
                    replaced: slot.is_some().then(|| inode(&*to_dir, to.name)).transpose()?,
                    whiteout: from.in_view,
                };
                let flags = if slot.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
                intent.carry_out(upper, || {
                    disk::renameat_with(&from_dir, from.name, &to_dir, to.name, flags).map_err(&failed)
                })?;
            }
        }
        Ok(from.in_view)
    }
}

/// Each of two entries takes the other's name.
fn exchange_names(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> Result<(), FsError> {
    disk::renameat_with(from_dir, from, to_dir, to, RenameFlags::EXCHANGE).map_err(FsError::upper("rename"))
}

fn rename_node(tree: &mut Tree, ino: Ino, from: &Side<'_>, to: &Side<'_>) {
    if let Some(node) = tree.nodes.get_mut(&ino)
        && let Some(name) =
            node.names.iter_mut().find(|(dir, name)| *dir == from.parent && **name == *from.name)
    {
        *name = (to.parent, to.name.into());
    }
}
