//! An overlay without a mount, asked through a small kernel: it walks paths, keeps handles, and refuses what the real
//! one refuses before a filesystem hears of it, in the same order (fs/namei.c, fs/open.c, fs/read_write.c).

mod handles;

use std::collections::BTreeSet;

use cvs_fusefs::{Attr, Caller, FsError, Ino, Kind, Make, Overlay, RenameMode, SetAttr, SetTime};
use rustix::io::Errno;

use super::listing::Listing;
use super::ops::{ATTRIBUTES, How, Op, Path, SLOTS, TARGETS, Who};
use super::outcome::{Attributes, Outcome, Seen};
use crate::support::list;
use crate::trees::bytes;

/// What is done to a path or a handle, or the errno.
type Done<T = Seen> = Result<T, Errno>;

const UMASKS: [u32; 2] = [0, 0o027];
const FOLLOWED: u32 = 40;

#[derive(Default)]
struct Process {
    cwd: Option<Ino>,
    slots: [Option<Open>; SLOTS as usize],
}

struct Open {
    ino: Ino,
    how: How,
    kind: Kind,
    position: u64,
    cookie: u64,
    listing: Listing,
}

pub(crate) struct Model {
    pub(crate) overlay: Overlay,
    /// Serves the overlay, when it is not root.
    user: Option<u32>,
    started: i64,
    processes: [Process; 2],
}

/// Where a path ends.
struct End {
    dir: Ino,
    name: Vec<u8>,
    found: Option<Attr>,
}

/// Runs what belongs to the overlay, as the user that serves it.
pub(crate) fn as_user<T>(user: Option<u32>, body: impl FnOnce() -> T) -> T {
    use rustix::fs::Uid;
    let become_user = |uid| rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(uid)), None).unwrap();
    let Some(user) = user else { return body() };
    become_user(user);
    let done = body();
    become_user(0);
    done
}

impl Model {
    pub(crate) fn new(overlay: Overlay, user: Option<u32>, started: i64) -> Self {
        Self { overlay, user, started, processes: Default::default() }
    }

    fn ask<T>(&self, body: impl FnOnce(&Overlay) -> Result<T, FsError>) -> Done<T> {
        as_user(self.user, || body(&self.overlay)).map_err(|error| Errno::from_raw_os_error(error.errno()))
    }

    fn caller(&self) -> Caller {
        Caller { uid: self.user.unwrap_or(0), gid: 0 }
    }

    fn attr(&self, ino: Ino) -> Done<Attr> {
        self.ask(|overlay| overlay.getattr(ino))
    }

    fn lookup(&self, dir: &Attr, name: &[u8]) -> Done<Option<Attr>> {
        if dir.nlink == 0 {
            return Err(Errno::NOENT);
        }
        match self.ask(|overlay| overlay.lookup(dir.ino, name)) {
            Ok(attr) => Ok(Some(attr)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn resolve(&self, who: usize, path: &Path, follow: bool) -> Done<End> {
        let mut pending: Vec<Vec<u8>> = path.bytes().iter().rev().map(|name| name.to_vec()).collect();
        let start = if path.from_cwd { self.processes[who].cwd } else { None };
        let mut at = self.attr(start.unwrap_or(Ino::ROOT))?;
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if at.kind != Kind::Dir {
                return Err(Errno::NOTDIR);
            }
            let last = pending.is_empty();
            let found = match &*name {
                b"." => Some(at),
                b".." => Some(self.attr(self.ask(|overlay| overlay.parent(at.ino))?)?),
                _ => self.lookup(&at, &name)?,
            };
            match found {
                Some(link) if link.kind == Kind::Symlink && (!last || follow) => {
                    links += 1;
                    if links > FOLLOWED {
                        return Err(Errno::LOOP);
                    }
                    let target = self.ask(|overlay| overlay.readlink(link.ino))?;
                    pending.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                found if last => return Ok(End { dir: at.ino, name, found }),
                Some(found) => at = found,
                None => return Err(Errno::NOENT),
            }
        }
        Ok(End { dir: at.ino, name: b".".to_vec(), found: Some(at) })
    }

    fn node(&self, who: usize, path: &Path, follow: bool) -> Done<Attr> {
        self.resolve(who, path, follow)?.found.ok_or(Errno::NOENT)
    }

    /// The directory of a path's last name.
    fn parent(&self, who: usize, path: &Path) -> Done<(Attr, &'static [u8])> {
        let mut dirs = path.clone();
        dirs.names.pop();
        let dir = self.node(who, &dirs, true)?;
        let name = path.bytes().pop().unwrap_or_default();
        if dir.kind == Kind::Dir { Ok((dir, name)) } else { Err(Errno::NOTDIR) }
    }

    /// The place for something new.
    fn free(&self, who: usize, path: &Path) -> Done<(Ino, &'static [u8])> {
        let (dir, name) = self.parent(who, path)?;
        match self.lookup(&dir, name)? {
            Some(_) => Err(Errno::EXIST),
            None => Ok((dir.ino, name)),
        }
    }

    fn make(&self, who: usize, path: &Path, what: Make<'_>, mode: u32) -> Done {
        let (dir, name) = self.free(who, path)?;
        let mode = if matches!(what, Make::Symlink(_)) { 0o777 } else { mode & !UMASKS[who] };
        self.ask(|overlay| overlay.make(dir, name, what, mode, self.caller())).map(|_| Seen::Done)
    }

    fn set(&self, ino: Ino, change: SetAttr) -> Done {
        self.ask(|overlay| overlay.setattr(ino, change, self.caller())).map(|_| Seen::Done)
    }

    fn seen(&self, who: usize, attr: &Attr) -> Seen {
        let kind = match attr.kind {
            Kind::Dir => 0o040000,
            Kind::File => 0o100000,
            Kind::Symlink => 0o120000,
            Kind::Fifo => 0o010000,
            Kind::Socket => 0o140000,
            Kind::CharDevice => 0o020000,
            Kind::BlockDevice => 0o060000,
        };
        let slots = self.processes[who].slots.iter().zip(0u8..);
        let held = slots
            .filter(|(open, _)| open.as_ref().is_some_and(|open| open.ino == attr.ino))
            .map(|(_, slot)| slot);
        Seen::Attributes(Attributes {
            mode: format!("{:o}", kind | attr.perm),
            nlink: attr.nlink.into(),
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev.into(),
            size: (attr.kind != Kind::Dir).then_some(attr.size),
            mtime: (attr.mtime.0 < self.started).then_some(attr.mtime),
            held: held.collect(),
        })
    }

    /// What an operation gives; none for what only a kernel can tell.
    pub(crate) fn run(&mut self, who: Who, op: &Op) -> Option<Outcome> {
        let who = usize::from(who != Who::Here);
        let done = match op {
            Op::Open(path, how, mode, slot) => self.open(who, path, how, mode.0, *slot)?,
            Op::Chdir(path) => self.chdir(who, path),
            Op::Close(slot) => {
                self.close(who, *slot);
                Ok(Seen::Done)
            }
            Op::Chown(_, u32::MAX, _) | Op::Fchown(_, u32::MAX) => return None,
            _ => match self.run_named(who, op) {
                Some(done) => done,
                None => self.run_held(who, op)?,
            },
        };
        Some(done.map_err(Errno::raw_os_error))
    }

    fn run_named(&self, who: usize, op: &Op) -> Option<Done> {
        Some(match op {
            Op::Mkdir(path, mode) => self.make(who, path, Make::Dir, mode.0),
            Op::Symlink(path, target) => {
                self.make(who, path, Make::Symlink(TARGETS[usize::from(*target)].as_bytes()), 0o777)
            }
            Op::Mknod(path, kind, mode) => {
                let kind = [Kind::Fifo, Kind::Socket, Kind::CharDevice][usize::from(*kind)];
                self.make(who, path, Make::Special(kind, 0), mode.0)
            }
            Op::Unlink(path) => self.parent(who, path).and_then(|(dir, name)| {
                self.lookup(&dir, name)?.ok_or(Errno::NOENT)?;
                self.ask(|overlay| overlay.unlink(dir.ino, name)).map(|()| Seen::Done)
            }),
            Op::Rmdir(path) => self.parent(who, path).and_then(|(dir, name)| {
                self.lookup(&dir, name)?.ok_or(Errno::NOENT)?;
                self.ask(|overlay| overlay.rmdir(dir.ino, name)).map(|()| Seen::Done)
            }),
            Op::Rename(from, to, flags) => self.rename(who, from, to, *flags),
            Op::Link(from, to, follow) => {
                self.node(who, from, *follow).and_then(|node| self.link(who, &node, to))
            }
            Op::Chmod(path, mode) => self
                .node(who, path, true)
                .and_then(|node| self.set(node.ino, SetAttr { perm: Some(mode.0), ..SetAttr::default() })),
            Op::Chown(path, user, follow) => self.node(who, path, *follow).and_then(|node| {
                self.set(node.ino, SetAttr { uid: Some(*user), gid: Some(*user), ..SetAttr::default() })
            }),
            Op::Utimens(path, time) => {
                self.node(who, path, false).and_then(|node| self.set(node.ino, mtime(*time)))
            }
            Op::Truncate(path, size) => self.node(who, path, true).and_then(|node| match node.kind {
                Kind::Dir => Err(Errno::ISDIR),
                Kind::File => {
                    self.set(node.ino, SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() })
                }
                _ => Err(Errno::INVAL),
            }),
            Op::Setxattr(path, name, len, flags) => self.node(who, path, false).and_then(|node| {
                self.set_attribute(&node, *name, &bytes(7, usize::from(*len)), u32::from(*flags))
            }),
            Op::Getxattr(path, name) => self.node(who, path, false).and_then(|node| {
                let name = ATTRIBUTES[usize::from(*name)].as_bytes();
                self.ask(|overlay| overlay.getxattr(node.ino, name)).map(|value| Seen::bytes(&value))
            }),
            Op::Listxattr(path) => self.node(who, path, false).and_then(|node| {
                let names = self.ask(|overlay| overlay.listxattr(node.ino, self.caller()))?;
                let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
                Ok(Seen::names(names.map(<[u8]>::to_vec)))
            }),
            Op::Removexattr(path, name) => self.node(who, path, false).and_then(|node| {
                let name = ATTRIBUTES[usize::from(*name)];
                may_have(&node, name)?;
                self.ask(|overlay| overlay.removexattr(node.ino, name.as_bytes())).map(|()| Seen::Done)
            }),
            Op::Stat(path, follow) => self.node(who, path, *follow).map(|attr| self.seen(who, &attr)),
            Op::Readlink(path) => self.node(who, path, false).and_then(|node| {
                let target = self.ask(|overlay| overlay.readlink(node.ino))?;
                Ok(Seen::Text(String::from_utf8_lossy(&target).into_owned()))
            }),
            Op::List(path) => self
                .node(who, path, true)
                .and_then(|node| if node.kind == Kind::Dir { Ok(node) } else { Err(Errno::NOTDIR) })
                .and_then(|node| self.names(&node))
                .map(Seen::names),
            _ => return None,
        })
    }

    fn names(&self, dir: &Attr) -> Done<BTreeSet<Vec<u8>>> {
        if dir.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let listed = self.ask(|overlay| list(overlay, dir.ino))?;
        Ok(listed.into_iter().map(|entry| entry.name.into_vec()).collect())
    }

    fn set_attribute(&self, node: &Attr, name: u8, value: &[u8], flags: u32) -> Done {
        let name = ATTRIBUTES[usize::from(name)];
        may_have(node, name)?;
        self.ask(|overlay| overlay.setxattr(node.ino, name.as_bytes(), value, flags)).map(|()| Seen::Done)
    }

    fn link(&self, who: usize, node: &Attr, to: &Path) -> Done {
        let (dir, name) = self.free(who, to)?;
        if node.kind == Kind::Dir {
            return Err(Errno::PERM);
        }
        if node.nlink == 0 {
            return Err(Errno::NOENT);
        }
        self.ask(|overlay| overlay.link(node.ino, dir, name)).map(|_| Seen::Done)
    }

    fn is_inside(&self, mut ino: Ino, dir: Ino) -> Done<bool> {
        while ino != dir {
            if ino == Ino::ROOT {
                return Ok(false);
            }
            ino = self.ask(|overlay| overlay.parent(ino))?;
        }
        Ok(true)
    }

    fn rename(&self, who: usize, from: &Path, to: &Path, flags: u8) -> Done {
        let mode = match flags {
            0 => RenameMode::Replace,
            1 => RenameMode::NoReplace,
            2 => RenameMode::Exchange,
            _ => return Err(Errno::INVAL),
        };
        let (from_dir, from) = self.parent(who, from)?;
        let (to_dir, to) = self.parent(who, to)?;
        let moved = self.lookup(&from_dir, from)?.ok_or(Errno::NOENT)?;
        let target = self.lookup(&to_dir, to)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if from_dir.ino != to_dir.ino {
            if self.is_inside(to_dir.ino, moved.ino)? {
                return Err(Errno::INVAL);
            }
            if let Some(target) = target
                && self.is_inside(from_dir.ino, target.ino)?
            {
                let exchange = mode == RenameMode::Exchange;
                return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
            }
        }
        self.ask(|overlay| overlay.rename(from_dir.ino, from, to_dir.ino, to, mode)).map(|()| Seen::Done)
    }

    fn chdir(&mut self, who: usize, path: &Path) -> Done {
        let node = self.node(who, path, true)?;
        if node.kind != Kind::Dir {
            return Err(Errno::NOTDIR);
        }
        self.overlay.count_lookup(node.ino);
        if let Some(old) = self.processes[who].cwd.replace(node.ino) {
            self.forget(old);
        }
        Ok(Seen::Done)
    }

    fn forget(&self, ino: Ino) {
        as_user(self.user, || self.overlay.forget(ino, 1));
    }

    fn close(&mut self, who: usize, slot: u8) {
        if let Some(old) = self.processes[who].slots[usize::from(slot)].take() {
            self.forget(old.ino);
        }
    }

    fn open(&mut self, who: usize, path: &Path, how: &How, mode: u32, slot: u8) -> Option<Done> {
        let ino = match self.opened(who, path, how, mode)? {
            Ok(attr) => attr,
            Err(errno) => return Some(Err(errno)),
        };
        self.overlay.count_lookup(ino.ino);
        self.close(who, slot);
        self.processes[who].slots[usize::from(slot)] = Some(Open {
            ino: ino.ino,
            how: how.clone(),
            kind: ino.kind,
            position: 0,
            cookie: 0,
            listing: Listing::default(),
        });
        Some(Ok(Seen::Done))
    }

    fn opened(&self, who: usize, path: &Path, how: &How, mode: u32) -> Option<Done<Attr>> {
        let create = how.has("create");
        let exclusive = create && how.has("excl");
        let end = match self.resolve(who, path, !exclusive && !how.has("nofollow")) {
            Ok(end) => end,
            Err(errno) => return Some(Err(errno)),
        };
        let Some(found) = end.found else {
            if !create {
                return Some(Err(Errno::NOENT));
            }
            let mode = mode & !UMASKS[who];
            return Some(
                self.ask(|overlay| overlay.make(end.dir, &end.name, Make::File, mode, self.caller())),
            );
        };
        let writes = how.has("w") || how.has("rw") || how.has("trunc");
        let refused = match found.kind {
            _ if exclusive => Some(Errno::EXIST),
            Kind::Dir if create || writes => Some(Errno::ISDIR),
            kind if how.has("dir") && kind != Kind::Dir => Some(Errno::NOTDIR),
            Kind::Symlink if !how.has("path") => Some(Errno::LOOP),
            Kind::Dir | Kind::File | Kind::Symlink => None,
            // What is behind these is not the filesystem's.
            _ if how.has("path") => None,
            _ => return None,
        };
        if let Some(errno) = refused {
            return Some(Err(errno));
        }
        if create && self.attr(end.dir).is_ok_and(|dir| dir.perm & 0o1000 != 0) {
            // fs.protected_regular has a word in it.
            return None;
        }
        if how.has("trunc")
            && let Err(errno) = self.set(found.ino, SetAttr { size: Some(0), ..SetAttr::default() })
        {
            return Some(Err(errno));
        }
        Some(Ok(found))
    }
}

/// The kernel keeps attributes of users to files and directories.
fn may_have(node: &Attr, attribute: &str) -> Done<()> {
    let kept = matches!(node.kind, Kind::File | Kind::Dir) || !attribute.starts_with("user.");
    if kept { Ok(()) } else { Err(Errno::PERM) }
}

fn mtime(time: Option<i64>) -> SetAttr {
    let time = time.map_or(SetTime::Now, |seconds| SetTime::To((seconds, 7)));
    SetAttr { mtime: Some(time), ..SetAttr::default() }
}
