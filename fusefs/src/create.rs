//! Making: files, directories, symlinks, special files, hard links.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, RenameFlags, Uid};

use crate::disk;
use crate::error::FsError;
use crate::names::check_length;
use crate::overlay::{Overlay, Place};
use crate::tree::{Node, Slot, Tree};
use crate::types::{Attr, Caller, Ino, Kind, Make};
use crate::upper::{NodePath, Upper, proc_fd};

/// The setgid bit of a directory: what is made in it gets its group.
const SETGID: u32 = 0o2000;

impl Overlay {
    /// Makes `name` in `parent`. The caller's umask has been applied to `mode`.
    pub fn make(
        &self,
        parent: Ino,
        name: &[u8],
        what: Make<'_>,
        mode: u32,
        caller: Caller,
    ) -> Result<Attr, FsError> {
        check_length(name)?;
        let upper = self.writable()?;
        let mut tree = self.write();
        let dir = self.dir_to_write(&mut tree, parent)?;
        if self.child(&tree, parent, name).is_some() {
            return Err(FsError::Exists);
        }
        let whiteout = tree.nodes.get(&parent).is_some_and(|node| node.dir.entries.contains_key(name));
        let kind = what.kind();
        // As mkdir(2): the other bits come from the parent alone.
        let mode = if kind == Kind::Dir { mode & 0o1777 } else { mode & 0o7777 };
        let direct = !whiteout
            && (caller.uid, caller.gid) == (upper.uid, upper.gid)
            && upper.shows_on_disk(kind, mode);
        let file = if direct {
            make_at(&dir, name, what, mode)?
        } else {
            self.make_aside(upper, &dir, name, what, mode, caller, whiteout)?
        };
        let mut node = Node::new(kind);
        node.upper = true;
        node.dir.loaded = true;
        node.names.push((parent, name.into()));
        let ino = tree.insert(node);
        self.set_slot(&mut tree, parent, name, Some(Slot::Node(ino)));
        if let Some(file) = file {
            self.keep_open(ino, file);
        }
        self.attr(&tree, ino)
    }

    /// The upper directory of `parent`, copied up where it must be, with its entries in the table.
    pub(crate) fn dir_to_write(&self, tree: &mut Tree, parent: Ino) -> Result<Arc<OwnedFd>, FsError> {
        if self.kind(tree, parent)? != Kind::Dir {
            return Err(FsError::NotADirectory);
        }
        if Self::is_gone(tree, parent) {
            return Err(FsError::NotFound);
        }
        self.copy_up_dir(tree, parent)?;
        self.dir_fd(tree, parent)
    }

    /// Makes something in `work/`, gives it to its owner, and moves it to its name, so that nobody sees it unfinished.
    #[allow(clippy::too_many_arguments)]
    fn make_aside(
        &self,
        upper: &Upper,
        dir: &OwnedFd,
        name: &[u8],
        what: Make<'_>,
        mode: u32,
        caller: Caller,
        whiteout: bool,
    ) -> Result<Option<File>, FsError> {
        let failed = FsError::upper("make");
        let holder = rustix::fs::fstat(dir).map_err(&failed)?;
        let inherits = holder.st_mode & SETGID != 0;
        let group = if inherits { holder.st_gid } else { caller.gid };
        let mode = if inherits && matches!(what, Make::Dir) { mode | SETGID } else { mode };
        let temporary = upper.temporary();
        let made = (|| {
            let file =
                make_at(&upper.work, temporary.as_bytes(), what, upper.mode_on_disk(what.kind(), mode))?;
            if (upper.uid, upper.gid) != (caller.uid, group) {
                let (uid, gid) = (Some(Uid::from_raw(caller.uid)), Some(Gid::from_raw(group)));
                disk::chownat(&upper.work, &*temporary, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(&failed)?;
            }
            if !matches!(what, Make::Symlink(_)) {
                // Changing the owner clears setuid and setgid.
                let at = NodePath::named(&upper.work, temporary.as_bytes());
                upper.set_mode(&at, what.kind(), mode)?;
            }
            let flags = match (whiteout, what) {
                (true, Make::Dir) => RenameFlags::EXCHANGE,
                (true, _) => RenameFlags::empty(),
                (false, _) => RenameFlags::NOREPLACE,
            };
            disk::renameat_with(&upper.work, &*temporary, dir, name, flags).map_err(&failed)?;
            if flags == RenameFlags::EXCHANGE {
                upper.retire(&temporary);
            }
            Ok(file)
        })();
        if made.is_err() {
            upper.retire(&temporary);
        }
        made
    }

    /// Gives a node one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        check_length(name)?;
        let upper = self.writable()?;
        {
            let tree = self.read();
            if self.kind(&tree, ino)? == Kind::Dir {
                return Err(FsError::NotPermitted);
            }
            let node = tree.nodes.get(&ino);
            if node.is_some_and(|node| node.names.is_empty() && node.pin.is_none()) {
                return Err(FsError::NotFound);
            }
        }
        self.copy_up_any(ino)?;
        let mut tree = self.write();
        let dir = self.dir_to_write(&mut tree, parent)?;
        if self.child(&tree, parent, name).is_some() {
            return Err(FsError::Exists);
        }
        let failed = FsError::upper("link");
        // A name may be in a directory that was not read yet, so what has none here is tried all the same.
        let source = match self.place(&tree, ino)? {
            Place::Upper { dir, name } => {
                Source { dir: Some(dir), name: name.into(), flags: AtFlags::empty() }
            }
            Place::Pinned(pin) => {
                Source { dir: None, name: proc_fd(&pin).into_bytes(), flags: AtFlags::SYMLINK_FOLLOW }
            }
            Place::Lower(_) => return Err(FsError::BadView),
        };
        let from = source.dir.as_ref().map_or(rustix::fs::CWD, |dir| dir.as_fd());
        let stat_flags = if source.dir.is_some() { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        let inode = rustix::fs::statat(from, &*source.name, stat_flags).map_err(&failed)?.st_ino;
        if tree.nodes.get(&parent).is_some_and(|node| node.dir.entries.contains_key(name)) {
            let temporary = upper.temporary();
            disk::linkat(from, &*source.name, &upper.work, &*temporary, source.flags).map_err(&failed)?;
            if let Err(errno) = disk::renameat(&upper.work, &*temporary, &dir, name) {
                upper.retire(&temporary);
                return Err(failed(errno));
            }
        } else {
            disk::linkat(from, &*source.name, &dir, name, source.flags).map_err(&failed)?;
        }
        if let Some(node) = tree.nodes.get_mut(&ino) {
            node.names.push((parent, name.into()));
            node.linked = Some(inode);
            node.pin = None;
        }
        tree.linked.insert(inode, ino);
        self.set_slot(&mut tree, parent, name, Some(Slot::Node(ino)));
        self.attr(&tree, ino)
    }
}

/// What a new name is given to.
struct Source {
    dir: Option<Arc<OwnedFd>>,
    name: Vec<u8>,
    flags: AtFlags,
}

/// Makes something that belongs to this process; a file stays open.
fn make_at(dir: &OwnedFd, name: &[u8], what: Make<'_>, mode: u32) -> Result<Option<File>, FsError> {
    let bits = Mode::from_raw_mode(mode);
    match what {
        Make::File => disk::create(dir, name, bits).map(|file| Some(file.into())),
        Make::Dir => disk::mkdirat(dir, name, bits).map(|()| None),
        Make::Symlink(target) => disk::symlinkat(target, dir, name).map(|()| None),
        Make::Special(kind, device) => {
            let kind = match kind {
                Kind::Fifo => FileType::Fifo,
                Kind::Socket => FileType::Socket,
                Kind::CharDevice => FileType::CharacterDevice,
                Kind::BlockDevice => FileType::BlockDevice,
                Kind::File | Kind::Dir | Kind::Symlink => return Err(FsError::Invalid),
            };
            disk::mknodat(dir, name, kind, bits, u64::from(device)).map(|()| None)
        }
    }
    .map_err(FsError::upper("make"))
}
