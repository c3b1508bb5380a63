//! The overlay: a view below, an upper layer above, and the operations of a filesystem on the two.
//!
//! *Lock order:* `copying`, then `tree`, then the caches of open files. `tree` is held shared by what only looks and
//! alone by what changes names; never while file contents are copied, read or written. Nothing is sent to the kernel
//! from here at all.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use cvs_store::{EntryKind, LowerEntry, LowerId, Store, View};
use lru::LruCache;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::blobs::{Blobs, share_of_descriptors};
use crate::error::{FsError, MountError};
use crate::links::LinkGroups;
use crate::tree::{Slot, Tree};
use crate::types::{Attr, Ino, Kind, Space};
use crate::upper::{NodePath, Upper, proc_fd};

/// Upper directories and files kept open at once, each, if that many descriptors are to be had.
const OPEN_UPPER: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// A view with its overlay. All operations may be called from many threads.
pub struct Overlay {
    pub(crate) view: Arc<View>,
    pub(crate) blobs: Blobs,
    pub(crate) upper: Option<Upper>,
    pub(crate) tree: RwLock<Tree>,
    /// Names of the view's nodes that the kernel holds, by [`LowerId`].
    lookups: Box<[AtomicU32]>,
    dirs: Mutex<LruCache<Ino, Arc<OwnedFd>>>,
    files: Mutex<LruCache<Ino, Arc<std::fs::File>>>,
    /// Nodes whose content is being copied up, and when the copy last got on.
    pub(crate) copying: Mutex<HashMap<Ino, Instant>>,
    pub(crate) copied: Condvar,
    /// Found when it is first asked for.
    pub(crate) link_groups: OnceLock<LinkGroups>,
    /// Unlinked files in use have descriptors below this one.
    pub(crate) pins_end: i32,
    uid: u32,
    gid: u32,
}

/// What a directory has as its size, wherever it lies: copying it up changes nothing that a program sees.
const DIR_SIZE: u64 = 4096;

/// Where a node is to be found.
pub(crate) enum Place {
    /// In the view.
    Lower(LowerId),
    /// In the upper layer.
    Upper { dir: Arc<OwnedFd>, name: Box<[u8]> },
    /// Unlinked from the upper layer, but still in use.
    Pinned(Arc<OwnedFd>),
}

impl Overlay {
    /// Lays the overlay in the directory `upper` over `view`; without one, everything is read-only. Unless `durable`,
    /// copied-up files are not synced (for overlays that are thrown away).
    pub fn new(store: Store, view: View, upper: Option<&Path>, durable: bool) -> Result<Self, MountError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let view = Arc::new(view);
        let root = view.entry(view.root()).ok_or_else(|| {
            let damaged = std::io::Error::new(std::io::ErrorKind::InvalidData, "a manifest is damaged");
            MountError::io("read the root of a view in", store.home())(damaged)
        })?;
        let root = attr_of_entry(Ino::ROOT, &root, uid, gid);
        let upper = upper.map(|directory| Upper::open(directory, durable, &root)).transpose()?;
        let limit = view.id_limit();
        let mut tree = Tree::new(u64::from(limit) + 2);
        if let (Some(root), Some(_)) = (tree.nodes.get_mut(&Ino::ROOT), &upper) {
            root.upper = true;
        }
        let open = OPEN_UPPER.min(share_of_descriptors());
        Ok(Self {
            blobs: Blobs::new(store, Arc::clone(&view)),
            view,
            upper,
            tree: RwLock::new(tree),
            lookups: zeroed(limit as usize),
            dirs: Mutex::new(LruCache::new(open)),
            files: Mutex::new(LruCache::new(open)),
            copying: Mutex::default(),
            copied: Condvar::new(),
            link_groups: OnceLock::new(),
            pins_end: i32::try_from(share_of_descriptors().get().saturating_mul(6)).unwrap_or(i32::MAX),
            uid,
            gid,
        })
    }

    /// True when nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.upper.is_none()
    }

    pub(crate) fn writable(&self) -> Result<&Upper, FsError> {
        self.upper.as_ref().ok_or(FsError::ReadOnly)
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The table, with the entries of `dir` in it.
    pub(crate) fn read_with(&self, dir: Ino) -> Result<RwLockReadGuard<'_, Tree>, FsError> {
        loop {
            let tree = self.read();
            if !tree.needs_load(dir) {
                return Ok(tree);
            }
            drop(tree);
            self.load(&mut self.write(), dir)?;
        }
    }

    /// The node of the view that `ino` is, if it is one.
    pub(crate) fn lower_of(&self, tree: &Tree, ino: Ino) -> Option<LowerId> {
        match tree.nodes.get(&ino) {
            Some(node) => node.lower,
            None => self.lower_of_number(ino),
        }
    }

    pub(crate) fn lower_of_number(&self, ino: Ino) -> Option<LowerId> {
        let id = u32::try_from(ino.0.checked_sub(1)?).ok()?;
        (id < self.view.id_limit()).then_some(LowerId(id))
    }

    pub(crate) fn kind(&self, tree: &Tree, ino: Ino) -> Result<Kind, FsError> {
        match tree.nodes.get(&ino) {
            Some(node) => Ok(node.kind),
            None => self.lower_kind(self.lower_of_number(ino).ok_or(FsError::NotFound)?),
        }
    }

    pub(crate) fn lower_kind(&self, id: LowerId) -> Result<Kind, FsError> {
        Ok(kind_of_entry(self.view.entry(id).ok_or(FsError::BadView)?.kind))
    }

    /// The number of a node of the view. All names of a hard-linked file give the same.
    pub(crate) fn number(&self, id: LowerId) -> Ino {
        Ino::of_lower(self.view.link_group(id))
    }

    /// The entry of the view called `name` in `dir`, whether or not it is hidden.
    pub(crate) fn lower_child(&self, tree: &Tree, dir: Ino, name: &[u8]) -> Option<LowerId> {
        self.view.lookup(self.lower_of(tree, dir)?, name)
    }

    /// The node called `name` in `dir`, whose entries are in the table.
    pub(crate) fn child(&self, tree: &Tree, dir: Ino, name: &[u8]) -> Option<Ino> {
        match tree.nodes.get(&dir).and_then(|node| node.dir.entries.get(name)) {
            Some(Slot::Whiteout) => None,
            Some(Slot::Node(ino)) => Some(*ino),
            None => self.lower_child(tree, dir, name).map(|id| self.number(id)),
        }
    }

    /// True when a directory is not in the tree any more.
    pub(crate) fn is_gone(tree: &Tree, ino: Ino) -> bool {
        ino != Ino::ROOT && tree.nodes.get(&ino).is_some_and(|node| node.names.is_empty())
    }

    /// The directory that holds `ino` and its name there; one of them, for a file with several.
    pub(crate) fn name_of(&self, tree: &Tree, ino: Ino) -> Result<(Ino, Box<[u8]>), FsError> {
        if let Some(node) = tree.nodes.get(&ino) {
            return node.names.first().cloned().ok_or(FsError::NotFound);
        }
        let id = self.lower_of_number(ino).ok_or(FsError::NotFound)?;
        self.lower_name(id)
    }

    pub(crate) fn lower_name(&self, id: LowerId) -> Result<(Ino, Box<[u8]>), FsError> {
        let path = self.view.path(id).ok_or(FsError::BadView)?;
        let parent = self.view.parent(id).ok_or(FsError::BadView)?;
        let name = path.file_name().ok_or(FsError::BadView)?;
        Ok((Ino::of_lower(parent), name.into()))
    }

    /// The path of a directory of the upper layer below `upper/`.
    pub(crate) fn upper_path(&self, tree: &Tree, mut ino: Ino) -> Result<Vec<u8>, FsError> {
        let mut names = Vec::new();
        while ino != Ino::ROOT {
            let (parent, name) = self.name_of(tree, ino)?;
            names.push(name);
            ino = parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// The upper directory that `ino` is, opened as a place to start from.
    pub(crate) fn dir_fd(&self, tree: &Tree, ino: Ino) -> Result<Arc<OwnedFd>, FsError> {
        let upper = self.writable()?;
        if ino == Ino::ROOT {
            return Ok(upper.root.clone());
        }
        let cache = || self.dirs.lock().unwrap_or_else(|e| e.into_inner());
        // Up to the first that is open, and down again: trees may be deeper than a stack.
        let mut closed = Vec::new();
        let mut at = ino;
        let mut fd = loop {
            if at == Ino::ROOT {
                break upper.root.clone();
            }
            if let Some(fd) = cache().get(&at) {
                break fd.clone();
            }
            let node = tree.nodes.get(&at).filter(|node| node.upper).ok_or(FsError::NotFound)?;
            if let Some(pin) = &node.pin {
                break pin.clone();
            }
            let (parent, name) = node.names.first().ok_or(FsError::NotFound)?;
            closed.push((at, name));
            at = *parent;
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (ino, name) in closed.into_iter().rev() {
            let opened = rustix::fs::openat(&fd, &**name, flags, Mode::empty())
                .map_err(FsError::upper("open a directory"))?;
            fd = Arc::new(opened);
            cache().put(ino, fd.clone());
        }
        Ok(fd)
    }

    /// Where a node is to be found.
    pub(crate) fn place(&self, tree: &Tree, ino: Ino) -> Result<Place, FsError> {
        let Some(node) = tree.nodes.get(&ino) else {
            return Ok(Place::Lower(self.lower_of_number(ino).ok_or(FsError::NotFound)?));
        };
        if !node.upper {
            return Ok(Place::Lower(node.lower.ok_or(FsError::NotFound)?));
        }
        if let Some(pin) = &node.pin {
            return Ok(Place::Pinned(pin.clone()));
        }
        if ino == Ino::ROOT {
            return Ok(Place::Upper { dir: self.dir_fd(tree, ino)?, name: b"."[..].into() });
        }
        let (parent, name) = node.names.first().ok_or(FsError::NotFound)?;
        Ok(Place::Upper { dir: self.dir_fd(tree, *parent)?, name: name.clone() })
    }

    /// The content of an upper file, opened for reading and writing.
    pub(crate) fn file(&self, ino: Ino) -> Result<Option<Arc<std::fs::File>>, FsError> {
        let cache = || self.files.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(file) = cache().get(&ino) {
            return Ok(Some(file.clone()));
        }
        let tree = self.read();
        if self.kind(&tree, ino)? != Kind::File {
            return Err(FsError::Invalid);
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let opened = match self.place(&tree, ino)? {
            Place::Lower(_) => return Ok(None),
            Place::Upper { dir, name } => {
                rustix::fs::openat(&dir, &*name, flags | OFlags::NOFOLLOW, Mode::empty())
            }
            Place::Pinned(pin) => rustix::fs::open(proc_fd(&pin), flags, Mode::empty()),
        };
        let file = Arc::new(std::fs::File::from(opened.map_err(FsError::upper("open"))?));
        // Still under the table's lock: nobody can forget the node between this and the next line.
        cache().put(ino, file.clone());
        Ok(Some(file))
    }

    /// Keeps a file that has just been made open.
    pub(crate) fn keep_open(&self, ino: Ino, file: std::fs::File) {
        self.files.lock().unwrap_or_else(|e| e.into_inner()).put(ino, Arc::new(file));
    }

    pub(crate) fn close(&self, ino: Ino) {
        self.files.lock().unwrap_or_else(|e| e.into_inner()).pop(&ino);
        self.dirs.lock().unwrap_or_else(|e| e.into_inner()).pop(&ino);
    }

    /// Records what the upper layer now says of a name: nothing, a whiteout, or a node.
    pub(crate) fn set_slot(&self, tree: &mut Tree, dir: Ino, name: &[u8], slot: Option<Slot>) {
        let is_dir = |tree: &Tree| {
            self.child(tree, dir, name).is_some_and(|child| self.kind(tree, child) == Ok(Kind::Dir))
        };
        let before = is_dir(tree);
        if let Some(node) = tree.nodes.get_mut(&dir) {
            match slot {
                Some(slot) => node.dir.entries.insert(name.into(), slot),
                None => node.dir.entries.remove(name),
            };
        }
        let after = is_dir(tree);
        if let Some(node) = tree.nodes.get_mut(&dir) {
            node.dir.subdirs = match (before, after) {
                (false, true) => node.dir.subdirs + 1,
                (true, false) => node.dir.subdirs.saturating_sub(1),
                _ => node.dir.subdirs,
            };
        }
    }

    /// The attributes of a node that is settled.
    pub(crate) fn attr(&self, tree: &Tree, ino: Ino) -> Result<Attr, FsError> {
        let mut attr = match self.place(tree, ino)? {
            Place::Lower(id) => {
                let mut attr = self.lower_attr(ino, id)?;
                match tree.nodes.get(&ino) {
                    Some(node) if node.kind != Kind::Dir => attr.nlink = node.names.len() as u32,
                    Some(_) if Self::is_gone(tree, ino) => attr.nlink = 0,
                    _ => {}
                }
                return Ok(attr);
            }
            Place::Upper { dir, name } => {
                let stat = rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW);
                self.attr_of_stat(ino, stat, || NodePath::named(&dir, &name))?
            }
            Place::Pinned(pin) => self.attr_of_stat(ino, rustix::fs::fstat(&pin), || NodePath::of(&pin))?,
        };
        if attr.kind == Kind::Dir
            && let Some(node) = tree.nodes.get(&ino)
        {
            attr.nlink = if Self::is_gone(tree, ino) { 0 } else { node.dir.subdirs + 2 };
            if let Some(kept) = &node.ctime
                && (attr.ctime, attr.mtime) == (kept.ctime, kept.mtime)
            {
                attr.ctime = kept.shown;
            }
            (attr.size, attr.blocks) = (DIR_SIZE, DIR_SIZE / 512);
        }
        Ok(attr)
    }

    fn attr_of_stat(
        &self,
        ino: Ino,
        stat: Result<Stat, Errno>,
        path: impl FnOnce() -> NodePath,
    ) -> Result<Attr, FsError> {
        let mut attr = attr_of_stat(ino, &stat.map_err(FsError::upper("look at"))?);
        if let Some(upper) = self.upper.as_ref().filter(|upper| upper.keeps_modes) {
            attr.perm = upper.mode(&path(), attr.kind, attr.perm)?;
        }
        Ok(attr)
    }

    pub(crate) fn lower_attr(&self, ino: Ino, id: LowerId) -> Result<Attr, FsError> {
        let entry = self.view.entry(id).ok_or(FsError::BadView)?;
        Ok(attr_of_entry(ino, &entry, self.uid, self.gid))
    }

    /// Whether the kernel holds a name of a node of the view.
    pub(crate) fn is_held(&self, id: LowerId) -> bool {
        self.lookups.get(id.0 as usize).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// Files and directories of the upper layer that are open.
    pub(crate) fn open_counts(&self) -> (usize, usize) {
        let files = self.files.lock().unwrap_or_else(|e| e.into_inner()).len();
        (files, self.dirs.lock().unwrap_or_else(|e| e.into_inner()).len())
    }

    /// The kernel got one more name of a node.
    pub fn count_lookup(&self, ino: Ino) {
        if let Some(id) = self.lower_of_number(ino) {
            if let Some(count) = self.lookups.get(id.0 as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        } else if let Some(node) = self.read().nodes.get(&ino) {
            node.lookups.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kernel gave `count` names of a node back. What is unlinked goes with the last of them.
    pub fn forget(&self, ino: Ino, count: u64) {
        let left = if let Some(id) = self.lower_of_number(ino) {
            let Some(counter) = self.lookups.get(id.0 as usize) else { return };
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            u64::from(counter.fetch_sub(count, Ordering::Relaxed).saturating_sub(count))
        } else {
            let tree = self.read();
            let Some(node) = tree.nodes.get(&ino) else { return };
            node.lookups.fetch_sub(count, Ordering::Relaxed).saturating_sub(count)
        };
        if left > 0 || !Self::is_gone(&self.read(), ino) {
            return;
        }
        let mut tree = self.write();
        self.drop_if_unused(&mut tree, ino);
    }

    /// Removes an unlinked node that the kernel does not hold.
    pub(crate) fn drop_if_unused(&self, tree: &mut Tree, ino: Ino) {
        let Some(node) = tree.nodes.get(&ino) else { return };
        let held = match self.lower_of_number(ino).and_then(|id| self.lookups.get(id.0 as usize)) {
            Some(count) => u64::from(count.load(Ordering::Relaxed)),
            None => node.lookups.load(Ordering::Relaxed),
        };
        if held == 0 && node.names.is_empty() && ino != Ino::ROOT {
            self.close(ino);
            tree.remove(ino);
        }
    }

    /// How full the filesystem is that takes what is written.
    pub fn space(&self) -> Result<Space, FsError> {
        let stat = match &self.upper {
            Some(upper) => rustix::fs::fstatvfs(&*upper.root),
            None => rustix::fs::statvfs(self.blobs.store().home()),
        }
        .map_err(FsError::upper("ask for free space"))?;
        Ok(Space {
            blocks: stat.f_blocks,
            free: stat.f_bfree,
            available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_size: stat.f_bsize as u32,
            fragment_size: stat.f_frsize as u32,
        })
    }
}

fn kind_of_entry(kind: EntryKind) -> Kind {
    match kind {
        EntryKind::Dir => Kind::Dir,
        EntryKind::File => Kind::File,
        EntryKind::Symlink => Kind::Symlink,
    }
}

fn attr_of_entry(ino: Ino, entry: &LowerEntry, uid: u32, gid: u32) -> Attr {
    let kind = kind_of_entry(entry.kind);
    let (size, blocks) = match kind {
        Kind::File => (entry.size, entry.size.div_ceil(4096) * 8),
        Kind::Dir => (DIR_SIZE, DIR_SIZE / 512),
        _ => (entry.size, 0),
    };
    Attr {
        ino,
        kind,
        perm: entry.mode,
        nlink: entry.links,
        uid,
        gid,
        rdev: 0,
        size,
        blocks,
        atime: entry.mtime,
        mtime: entry.mtime,
        ctime: entry.mtime,
    }
}

pub(crate) fn attr_of_stat(ino: Ino, stat: &Stat) -> Attr {
    Attr {
        ino,
        kind: Kind::of_mode(stat.st_mode),
        perm: stat.st_mode & 0o7777,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: (stat.st_atime, stat.st_atime_nsec as u32),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
    }
}

/// Counters that cost no memory until they are touched.
fn zeroed(len: usize) -> Box<[AtomicU32]> {
    // The standard library asks the system for zeroed pages here, which are not there until somebody writes to them.
    let zeros = vec![0u32; len].into_boxed_slice();
    crate::sys::atomic(zeros)
}
