//! Looking: lookup, attributes, listings, symlink targets.

use std::ops::Bound;

use rustix::fs::OFlags;

use crate::disk;
use crate::error::FsError;
use crate::overlay::{Overlay, Place};
use crate::tree::{FIRST_LOWER, FIRST_UPPER, Slot, Tree};
use crate::types::{Attr, Ino, Kind, Listed};
use crate::upper::proc_fd;

/// Entries handed out by one call of [`Overlay::list`].
const BATCH: usize = 256;

pub(crate) fn check_length(name: &[u8]) -> Result<(), FsError> {
    if name.len() > cvs_store::NAME_MAX { Err(FsError::NameTooLong) } else { Ok(()) }
}

impl Overlay {
    /// The node called `name` in `parent`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        check_length(name)?;
        loop {
            let tree = self.read_with(parent)?;
            if self.kind(&tree, parent)? != Kind::Dir {
                return Err(FsError::NotADirectory);
            }
            let ino = self.child(&tree, parent, name).ok_or(FsError::NotFound)?;
            if !self.is_unsettled(&tree, ino) {
                return self.attr(&tree, ino);
            }
            drop(tree);
            self.settle(&mut self.write(), ino)?;
        }
    }

    /// The attributes of a node.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        loop {
            let tree = self.read();
            if !self.is_unsettled(&tree, ino) {
                return self.attr(&tree, ino);
            }
            drop(tree);
            self.settle(&mut self.write(), ino)?;
        }
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let tree = self.read();
        if self.kind(&tree, ino)? != Kind::Symlink {
            return Err(FsError::Invalid);
        }
        match self.place(&tree, ino)? {
            Place::Lower(id) => self.view.symlink_target(id).map(<[u8]>::to_vec).ok_or(FsError::BadView),
            Place::Upper { dir, name } => rustix::fs::readlinkat(&dir, &*name, Vec::new())
                .map(std::ffi::CString::into_bytes)
                .map_err(FsError::upper("read a symlink")),
            Place::Pinned(pin) => rustix::fs::readlinkat(&pin, c"", Vec::new())
                .map(std::ffi::CString::into_bytes)
                .map_err(FsError::upper("read a symlink")),
        }
    }

    /// The directory that holds `ino`, for `..`.
    pub fn parent(&self, ino: Ino) -> Result<Ino, FsError> {
        let tree = self.read();
        if ino == Ino::ROOT || Self::is_gone(&tree, ino) { Ok(ino) } else { Ok(self.name_of(&tree, ino)?.0) }
    }

    /// Entries of a directory in order of their names, from behind `cookie` (0: from the first). An empty answer is
    /// the end. `.` and `..` are the first two.
    pub fn list(&self, dir: Ino, cookie: u64) -> Result<Vec<Listed>, FsError> {
        let mut out = Vec::new();
        if cookie < 2 {
            let special =
                |name: &[u8], ino, cookie| Listed { name: name.into(), ino, kind: Kind::Dir, cookie };
            if cookie == 0 {
                out.push(special(b".", dir, 1));
            }
            out.push(special(b"..", self.parent(dir)?, 2));
        }
        let tree = self.read_with(dir)?;
        if self.kind(&tree, dir)? != Kind::Dir {
            return Err(FsError::NotADirectory);
        }
        self.list_into(&tree, dir, cookie, &mut out)?;
        Ok(out)
    }

    fn list_into(&self, tree: &Tree, dir: Ino, cookie: u64, out: &mut Vec<Listed>) -> Result<(), FsError> {
        if Self::is_gone(tree, dir) {
            return Ok(());
        }
        let node = tree.nodes.get(&dir);
        let lower = self.lower_of(tree, dir);
        let (mut position, after) = match (cookie, node) {
            (0..FIRST_LOWER, _) => (0, None),
            (FIRST_LOWER..FIRST_UPPER, _) => {
                let position = (cookie - FIRST_LOWER) as u32;
                let name =
                    lower.and_then(|id| self.view.child_at(id, position)).map(|(name, _)| Box::from(name));
                (position + 1, name)
            }
            (_, Some(node)) => {
                let Some(name) = node.dir.name_of_cookie(cookie) else { return Ok(()) };
                (lower.map_or(0, |id| self.view.lower_bound(id, &name)), Some(name))
            }
            (_, None) => return Ok(()),
        };
        let bound = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut upper =
            node.map(|node| node.dir.entries.range::<[u8], _>((bound, Bound::Unbounded)).peekable());
        while out.len() < BATCH {
            let below = lower.and_then(|id| self.view.child_at(id, position));
            let above =
                upper.as_mut().and_then(|entries| entries.peek().map(|(name, slot)| (&***name, **slot)));
            let below_first = match (below, above) {
                (None, None) => break,
                (Some((below, _)), Some((above, _))) => below.cmp(above).is_lt(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            let in_view =
                below.is_some_and(|(name, _)| below_first || above.is_some_and(|(above, _)| above == name));
            let lower_cookie = FIRST_LOWER + u64::from(position);
            position += u32::from(in_view);
            if below_first {
                if let Some((name, id)) = below {
                    let kind = self.lower_kind(id)?;
                    out.push(Listed { name: name.into(), ino: self.number(id), kind, cookie: lower_cookie });
                }
                continue;
            }
            if let Some(entries) = &mut upper {
                entries.next();
            }
            if let (Some((name, Slot::Node(ino))), Some(node)) = (above, node) {
                let cookie = if in_view { lower_cookie } else { node.dir.cookie(name) };
                out.push(Listed { name: name.into(), ino, kind: self.kind(tree, ino)?, cookie });
            }
        }
        Ok(())
    }

    /// Makes a directory's entries durable.
    pub fn fsync_dir(&self, ino: Ino) -> Result<(), FsError> {
        let tree = self.read();
        let (Some(upper), Some(true)) = (&self.upper, tree.nodes.get(&ino).map(|node| node.upper)) else {
            return Ok(());
        };
        if !upper.durable {
            return Ok(());
        }
        let fd = self.dir_fd(&tree, ino)?;
        drop(tree);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::open(proc_fd(&fd), flags, rustix::fs::Mode::empty());
        readable.and_then(|fd| disk::fsync(&fd)).map_err(FsError::upper("sync a directory"))
    }
}
