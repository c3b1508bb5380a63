//! Changing attributes, and extended attributes.

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::FsError;
use crate::overlay::{Overlay, Place};
use crate::types::{Attr, Caller, Ino, Kind, SetAttr, SetTime};
use crate::upper::{ESCAPED, RESERVED, proc_fd, proc_path};

/// setuid and setgid.
const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

impl Overlay {
    /// Changes attributes.
    pub fn setattr(&self, ino: Ino, change: SetAttr, caller: Caller) -> Result<Attr, FsError> {
        self.writable()?;
        let kind = {
            let tree = self.read();
            self.kind(&tree, ino)?
        };
        match (kind, change.size) {
            (Kind::File, Some(size)) => self.copy_up(ino, size)?,
            (_, Some(_)) => return Err(FsError::Invalid),
            (_, None) => self.copy_up_any(ino)?,
        }
        if let Some(size) = change.size {
            let file = self.file(ino)?.ok_or(FsError::BadView)?;
            rustix::fs::ftruncate(&*file, size).map_err(FsError::upper("truncate"))?;
            if caller.uid != 0 {
                self.drop_privileges(&file)?;
            }
        }
        // The names must stay what they are while one of them leads to the node.
        let tree = self.read();
        let (dir, name, flags) = match self.place(&tree, ino)? {
            Place::Lower(_) => return Err(FsError::BadView),
            Place::Upper { dir, name } => (Some(dir), name.into_vec(), AtFlags::SYMLINK_NOFOLLOW),
            Place::Pinned(pin) => (None, proc_fd(&pin).into_bytes(), AtFlags::empty()),
        };
        let at = match &dir {
            Some(dir) => std::os::fd::AsFd::as_fd(&**dir),
            None => rustix::fs::CWD,
        };
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(at, &*name, uid, gid, flags).map_err(FsError::upper("change the owner"))?;
        }
        if let Some(perm) = change.perm {
            if kind == Kind::Symlink {
                return Err(FsError::NotSupported);
            }
            rustix::fs::chmodat(at, &*name, Mode::from_raw_mode(perm & 0o7777), AtFlags::empty())
                .map_err(FsError::upper("change the mode"))?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let time = |time: Option<SetTime>| match time {
                None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
                Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
                Some(SetTime::To((seconds, nanos))) => Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
            };
            let times = Timestamps { last_access: time(change.atime), last_modification: time(change.mtime) };
            rustix::fs::utimensat(at, &*name, &times, flags).map_err(FsError::upper("set times"))?;
        }
        self.attr(&tree, ino)
    }

    /// Clears setuid and setgid, as a write by an ordinary user does.
    pub(crate) fn drop_privileges(&self, file: &std::fs::File) -> Result<(), FsError> {
        let stat = rustix::fs::fstat(file).map_err(FsError::upper("look at"))?;
        let mode = stat.st_mode & 0o7777;
        let mut cleared = mode & !SUID;
        if mode & GROUP_EXECUTE != 0 {
            cleared &= !SGID;
        }
        if cleared != mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(cleared))
                .map_err(FsError::upper("change the mode"))?;
        }
        Ok(())
    }

    /// The path that extended attributes of an upper node are reached by; none for a node of the view.
    fn xattr_path(&self, ino: Ino) -> Result<Option<XattrPath>, FsError> {
        let tree = self.read();
        Ok(match self.place(&tree, ino)? {
            Place::Lower(_) => None,
            Place::Upper { dir, name } => {
                Some(XattrPath { path: proc_path(&dir, &name), follow: false, _fd: dir })
            }
            Place::Pinned(pin) => {
                Some(XattrPath { path: proc_fd(&pin).into_bytes(), follow: true, _fd: pin })
            }
        })
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let Some(at) = self.xattr_path(ino)? else { return Err(FsError::NoAttribute) };
        let name = own_name(name);
        loop {
            let len = match at.follow {
                true => rustix::fs::getxattr_query(&*at.path, &*name),
                false => rustix::fs::lgetxattr_query(&*at.path, &*name),
            };
            let mut value = vec![0u8; len.map_err(xattr_error("read an attribute"))?];
            let read = match at.follow {
                true => rustix::fs::getxattr(&*at.path, &*name, &mut value[..]),
                false => rustix::fs::lgetxattr(&*at.path, &*name, &mut value[..]),
            };
            match read {
                Ok(len) => {
                    value.truncate(len);
                    return Ok(value);
                }
                // It grew between the two calls.
                Err(Errno::RANGE) => {}
                Err(errno) => return Err(xattr_error("read an attribute")(errno)),
            }
        }
    }

    /// The names of the extended attributes, each followed by a NUL.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let Some(at) = self.xattr_path(ino)? else { return Ok(Vec::new()) };
        let mut names = vec![0u8; 64 << 10];
        let len = match at.follow {
            true => rustix::fs::listxattr(&*at.path, &mut names[..]),
            false => rustix::fs::llistxattr(&*at.path, &mut names[..]),
        };
        names.truncate(len.map_err(xattr_error("list attributes"))?);
        let mut shown = Vec::with_capacity(names.len());
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            if let Some(own) = name.strip_prefix(ESCAPED) {
                shown.extend_from_slice(RESERVED);
                shown.extend_from_slice(own);
            } else if name.starts_with(RESERVED) {
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
        self.copy_up_any(ino)?;
        let at = self.xattr_path(ino)?.ok_or(FsError::BadView)?;
        let (name, flags) = (own_name(name), XattrFlags::from_bits_retain(flags));
        match at.follow {
            true => rustix::fs::setxattr(&*at.path, &*name, value, flags),
            false => rustix::fs::lsetxattr(&*at.path, &*name, value, flags),
        }
        .map_err(xattr_error("set an attribute"))
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.writable()?;
        let Some(at) = self.xattr_path(ino)? else { return Err(FsError::NoAttribute) };
        let name = own_name(name);
        match at.follow {
            true => rustix::fs::removexattr(&*at.path, &*name),
            false => rustix::fs::lremovexattr(&*at.path, &*name),
        }
        .map_err(xattr_error("remove an attribute"))
    }
}

struct XattrPath {
    path: Vec<u8>,
    /// The path is a link to the node rather than the node's own name.
    follow: bool,
    /// What the path runs through stays open.
    _fd: std::sync::Arc<std::os::fd::OwnedFd>,
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
