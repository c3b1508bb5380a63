//! Making: files, directories, symlinks, special files, hard links.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};

use crate::error::FsError;
use crate::names::check_length;
use crate::overlay::{Overlay, attr_of_stat};
use crate::tree::{Node, Slot, Tree};
use crate::types::{Attr, Caller, Ino, Kind, Make};
use crate::upper::Upper;

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
        let (file, stat) = if !whiteout && (caller.uid, caller.gid) == (upper.uid, upper.gid) {
            make_at(&dir, name, what, mode)?
        } else {
            self.make_aside(upper, &dir, name, what, mode, caller, whiteout)?
        };
        let mut node = Node::new(Kind::of_mode(stat.st_mode));
        node.upper = true;
        node.dir.loaded = true;
        node.names.push((parent, name.into()));
        let ino = tree.insert(node);
        self.set_slot(&mut tree, parent, name, Some(Slot::Node(ino)));
        if let Some(file) = file {
            self.keep_open(ino, file);
        }
        let mut attr = attr_of_stat(ino, &stat);
        if attr.kind == Kind::Dir {
            attr.nlink = 2;
        }
        Ok(attr)
    }

    /// The upper directory of `parent`, copied up where it must be, with its entries in the table.
    pub(crate) fn dir_to_write(
        &self,
        tree: &mut Tree,
        parent: Ino,
    ) -> Result<std::sync::Arc<OwnedFd>, FsError> {
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
    ) -> Result<(Option<File>, Stat), FsError> {
        let failed = FsError::upper("make");
        let holder = rustix::fs::fstat(dir).map_err(&failed)?;
        let inherits = holder.st_mode & SETGID != 0;
        let group = if inherits { holder.st_gid } else { caller.gid };
        let mode = if inherits && matches!(what, Make::Dir) { mode | SETGID } else { mode };
        let temporary = upper.temporary();
        let made = (|| {
            let (file, mut stat) = make_at(&upper.work, temporary.as_bytes(), what, mode)?;
            if (stat.st_uid, stat.st_gid) != (caller.uid, group) {
                let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(group));
                rustix::fs::chownat(
                    &upper.work,
                    &*temporary,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(&failed)?;
            }
            if !matches!(what, Make::Symlink(_)) {
                // Changing the owner clears setuid and setgid.
                rustix::fs::chmodat(
                    &upper.work,
                    &*temporary,
                    Mode::from_raw_mode(mode & 0o7777),
                    AtFlags::empty(),
                )
                .map_err(&failed)?;
            }
            match (whiteout, what) {
                (true, Make::Dir) => {
                    rustix::fs::renameat_with(&upper.work, &*temporary, dir, name, RenameFlags::EXCHANGE)
                        .map_err(&failed)?;
                    upper.discard(temporary.as_bytes())?;
                }
                (true, _) => {
                    rustix::fs::renameat(&upper.work, &*temporary, dir, name).map_err(&failed)?;
                }
                (false, _) => {
                    rustix::fs::renameat_with(&upper.work, &*temporary, dir, name, RenameFlags::NOREPLACE)
                        .map_err(&failed)?;
                }
            }
            stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            Ok((file, stat))
        })();
        if made.is_err() {
            let _ = upper.discard(temporary.as_bytes());
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
            if Self::is_gone(&tree, ino) {
                return Err(FsError::NotFound);
            }
        }
        self.copy_up_any(ino)?;
        let mut tree = self.write();
        let dir = self.dir_to_write(&mut tree, parent)?;
        if self.child(&tree, parent, name).is_some() {
            return Err(FsError::Exists);
        }
        let (from_parent, from_name) = self.name_of(&tree, ino)?;
        let from = self.dir_fd(&tree, from_parent)?;
        let failed = FsError::upper("link");
        if tree.nodes.get(&parent).is_some_and(|node| node.dir.entries.contains_key(name)) {
            let temporary = upper.temporary();
            rustix::fs::linkat(&from, &*from_name, &upper.work, &*temporary, AtFlags::empty())
                .map_err(&failed)?;
            if let Err(errno) = rustix::fs::renameat(&upper.work, &*temporary, &dir, name) {
                let _ = upper.discard(temporary.as_bytes());
                return Err(failed(errno));
            }
        } else {
            rustix::fs::linkat(&from, &*from_name, &dir, name, AtFlags::empty()).map_err(&failed)?;
        }
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if let Some(node) = tree.nodes.get_mut(&ino) {
            node.names.push((parent, name.into()));
            node.linked = Some(stat.st_ino);
        }
        tree.linked.insert(stat.st_ino, ino);
        self.set_slot(&mut tree, parent, name, Some(Slot::Node(ino)));
        Ok(attr_of_stat(ino, &stat))
    }
}

/// Makes something that belongs to this process.
fn make_at(dir: &OwnedFd, name: &[u8], what: Make<'_>, mode: u32) -> Result<(Option<File>, Stat), FsError> {
    let failed = FsError::upper("make");
    let bits = Mode::from_raw_mode(mode & 0o7777);
    match what {
        Make::File => {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(dir, name, flags, bits).map_err(&failed)?;
            let stat = rustix::fs::fstat(&file).map_err(&failed)?;
            return Ok((Some(File::from(file)), stat));
        }
        Make::Dir => rustix::fs::mkdirat(dir, name, bits).map_err(&failed)?,
        Make::Symlink(target) => rustix::fs::symlinkat(target, dir, name).map_err(&failed)?,
        Make::Special(kind, device) => {
            let kind = match kind {
                Kind::Fifo => FileType::Fifo,
                Kind::Socket => FileType::Socket,
                Kind::CharDevice => FileType::CharacterDevice,
                Kind::BlockDevice => FileType::BlockDevice,
                Kind::File => FileType::RegularFile,
                Kind::Dir | Kind::Symlink => return Err(FsError::Invalid),
            };
            rustix::fs::mknodat(dir, name, kind, bits, u64::from(device)).map_err(&failed)?;
        }
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
    Ok((None, stat))
}
