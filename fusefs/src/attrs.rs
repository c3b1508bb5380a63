//! Changing attributes, and extended attributes.

use rustix::fs::{AtFlags, Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::FsError;
use crate::overlay::{Overlay, Place};
use crate::types::{Attr, Caller, Ino, Kind, SetAttr, SetTime};
use crate::upper::{ESCAPED, NodePath, RESERVED, Upper, proc_fd};

/// setuid and setgid.
const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
/// Attributes that are more than kept, such as ACLs: the kernel checks modes alone here.
const SYSTEM: &[u8] = b"system.";
/// Attributes of root's, which the kernel keeps others from reading but leaves to us to leave out of lists.
const TRUSTED: &[u8] = b"trusted.";
/// The longest attribute, and the longest list of them, that Linux knows.
const XATTR_MAX: usize = 64 << 10;
/// Room for most attributes.
const USUAL_XATTR: usize = 256;

impl Overlay {
    /// Changes attributes.
    pub fn setattr(&self, ino: Ino, change: SetAttr, caller: Caller) -> Result<Attr, FsError> {
        let upper = self.writable()?;
        let kind = {
            let tree = self.read();
            self.kind(&tree, ino)?
        };
        let cut = match (kind, change.size) {
            (Kind::File, Some(size)) => self.copy_up(ino, size)?,
            (_, Some(_)) => return Err(FsError::Invalid),
            (_, None) => self.copy_up_any(ino).map(|()| false)?,
        };
        if let Some(size) = change.size {
            let file = self.file(ino)?.ok_or(FsError::BadView)?;
            if !cut {
                disk::ftruncate(&*file, size).map_err(FsError::upper("truncate"))?;
            }
            if caller.uid != 0 {
                self.drop_privileges_of(&file)?;
            }
        }
        // The names must stay what they are while one of them leads to the node.
        let tree = self.read();
        let (dir, name, flags) = match self.place(&tree, ino)? {
            Place::Lower(_) => return Err(FsError::BadView),
            Place::Upper { dir, name } => (Some(dir), name.into_vec(), AtFlags::SYMLINK_NOFOLLOW),
            Place::Pinned(pin) => (None, proc_fd(&pin).into_bytes(), AtFlags::empty()),
        };
        let path = match &dir {
            Some(dir) => NodePath::named(dir, &name),
            None => NodePath::linking(name.clone()),
        };
        let at = match &dir {
            Some(dir) => std::os::fd::AsFd::as_fd(&**dir),
            None => rustix::fs::CWD,
        };
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            disk::chownat(at, &*name, uid, gid, flags).map_err(FsError::upper("change the owner"))?;
        }
        if let Some(perm) = change.perm {
            if kind == Kind::Symlink {
                return Err(FsError::NotSupported);
            }
            upper.set_mode(&path, kind, perm & 0o7777)?;
        } else if (change.uid.is_some() || change.gid.is_some()) && kind == Kind::File {
            // The system has done it already for a mode that is on disk.
            drop_privileges(upper, &path, self.attr(&tree, ino)?.perm)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let time = |time: Option<SetTime>| match time {
                None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
                Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
                Some(SetTime::To((seconds, nanos))) => Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
            };
            let times = Timestamps { last_access: time(change.atime), last_modification: time(change.mtime) };
            disk::utimensat(at, &*name, &times, flags).map_err(FsError::upper("set times"))?;
        }
        self.attr(&tree, ino)
    }

    /// Clears setuid and setgid, as a write by an ordinary user does.
    pub(crate) fn drop_privileges_of(&self, file: &std::fs::File) -> Result<(), FsError> {
        let upper = self.writable()?;
        let stat = rustix::fs::fstat(file).map_err(FsError::upper("look at"))?;
        let path = NodePath::of(file);
        let mode = upper.mode(&path, Kind::File, stat.st_mode & 0o7777)?;
        drop_privileges(upper, &path, mode)
    }

    /// The path that extended attributes of an upper node are reached by; none for a node of the view.
    fn xattr_path(&self, ino: Ino) -> Result<Option<XattrPath>, FsError> {
        let tree = self.read();
        Ok(match self.place(&tree, ino)? {
            Place::Lower(_) => None,
            Place::Upper { dir, name } => Some(XattrPath { path: NodePath::named(&dir, &name), _fd: dir }),
            Place::Pinned(pin) => Some(XattrPath { path: NodePath::of(&pin), _fd: pin }),
        })
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if name.starts_with(SYSTEM) {
            return Err(FsError::NotSupported);
        }
        let Some(at) = self.xattr_path(ino)? else { return Err(FsError::NoAttribute) };
        let name = own_name(name);
        let mut value = vec![0u8; USUAL_XATTR];
        loop {
            match at.path.get(&name, &mut value) {
                Ok(len) => {
                    value.truncate(len);
                    return Ok(value);
                }
                Err(Errno::RANGE) if value.len() < XATTR_MAX => value.resize(XATTR_MAX, 0),
                Err(errno) => return Err(xattr_error("read an attribute")(errno)),
            }
        }
    }

    /// The names of the extended attributes that `caller` may know of, each followed by a NUL.
    pub fn listxattr(&self, ino: Ino, caller: Caller) -> Result<Vec<u8>, FsError> {
        let Some(at) = self.xattr_path(ino)? else { return Ok(Vec::new()) };
        let mut names = vec![0u8; XATTR_MAX];
        let len = at.path.list(&mut names).map_err(xattr_error("list attributes"))?;
        names.truncate(len);
        let mut shown = Vec::with_capacity(names.len());
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            if let Some(own) = name.strip_prefix(ESCAPED) {
                shown.extend_from_slice(RESERVED);
                shown.extend_from_slice(own);
            } else if name.starts_with(RESERVED)
                || name.starts_with(SYSTEM)
                || (caller.uid != 0 && name.starts_with(TRUSTED))
            {
                continue;
            } else {
                shown.extend_from_slice(name);
            }
            shown.push(0);
        }
        Ok(shown)
    }

    /// Sets an extended attribute; `flags` are those of setxattr(2).
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: u32) -> Result<(), FsError> {
        if name.starts_with(SYSTEM) {
            return Err(FsError::NotSupported);
        }
        self.copy_up_any(ino)?;
        let at = self.xattr_path(ino)?.ok_or(FsError::BadView)?;
        let (name, flags) = (own_name(name), XattrFlags::from_bits_retain(flags));
        at.path.set(&name, value, flags).map_err(xattr_error("set an attribute"))
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.writable()?;
        let Some(at) = self.xattr_path(ino)? else { return Err(FsError::NoAttribute) };
        let name = own_name(name);
        at.path.remove(&name).map_err(xattr_error("remove an attribute"))
    }
}

struct XattrPath {
    path: NodePath,
    /// What the path runs through stays open.
    _fd: std::sync::Arc<std::os::fd::OwnedFd>,
}

fn drop_privileges(upper: &Upper, path: &NodePath, mode: u32) -> Result<(), FsError> {
    let mut cleared = mode & !SUID;
    if mode & GROUP_EXECUTE != 0 {
        cleared &= !SGID;
    }
    if cleared == mode { Ok(()) } else { upper.set_mode(path, Kind::File, cleared) }
}

/// The name under which an attribute is kept: our own are out of reach.
fn own_name(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(RESERVED) {
        Some(rest) => [ESCAPED, rest].concat(),
        None => name.to_vec(),
    }
}

fn xattr_error(op: &'static str) -> impl Fn(Errno) -> FsError {
    move |errno| match errno {
        Errno::NODATA => FsError::NoAttribute,
        Errno::OPNOTSUPP => FsError::NotSupported,
        errno => FsError::Upper { op, errno },
    }
}
