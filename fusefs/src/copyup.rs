//! Copy-up: what is about to change gets a place in the upper layer first, under the same node number.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use cvs_store::LowerId;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags};

use crate::error::FsError;
use crate::intent::{At, Intent};
use crate::overlay::{Overlay, Place};
use crate::tree::{Name, Node, Slot, Tree};
use crate::types::{Attr, Ino, Kind};
use crate::upper::{ORIGIN, Upper};

/// Bytes copied by one call where the filesystem cannot share them.
const CHUNK: u64 = 64 << 20;

impl Overlay {
    /// Gives a directory of the view, and those above it, a place in the upper layer. The caller alone has the table.
    pub(crate) fn copy_up_dir(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        let upper = self.writable()?;
        if tree.nodes.get(&ino).is_some_and(|node| node.upper) {
            return self.load(tree, ino);
        }
        let id = self.lower_of(tree, ino).ok_or(FsError::NotFound)?;
        let (parent, name) = self.name_of(tree, ino)?;
        self.copy_up_dir(tree, parent)?;
        let origin = self.view.path(id).ok_or(FsError::BadView)?;
        let attr = self.lower_attr(ino, id)?;
        let temporary = upper.temporary();
        rustix::fs::mkdirat(&upper.work, &*temporary, Mode::from_raw_mode(0o700))
            .map_err(FsError::upper("copy a directory up"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&upper.work, &*temporary, flags, Mode::empty())
            .and_then(|fd| {
                rustix::fs::fsetxattr(&fd, ORIGIN, origin.as_bytes(), XattrFlags::empty())?;
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(attr.perm))?;
                rustix::fs::futimens(&fd, &times(&attr))
            })
            .map_err(FsError::upper("copy a directory up"))
            .and_then(|()| self.move_in(tree, upper, &temporary, parent, &name));
        if let Err(error) = made {
            let _ = upper.discard(temporary.as_bytes());
            return Err(error);
        }
        let mut node = Node::new(Kind::Dir);
        node.lower = Some(id);
        node.upper = true;
        node.names.push((parent, name.clone()));
        node.dir.loaded = true;
        node.dir.subdirs = attr.nlink.saturating_sub(2);
        tree.nodes.insert(ino, node);
        self.set_slot(tree, parent, &name, Some(Slot::Node(ino)));
        Ok(())
    }

    /// Moves a finished copy from `work/` to its name, which shows the same thing before and after: so the directory's
    /// time stays.
    fn move_in(
        &self,
        tree: &Tree,
        upper: &Upper,
        temporary: &str,
        parent: Ino,
        name: &[u8],
    ) -> Result<(), FsError> {
        let dir = self.dir_fd(tree, parent)?;
        keeping_mtime(&dir, || {
            rustix::fs::renameat_with(&upper.work, temporary, &dir, name, RenameFlags::NOREPLACE)
                .map_err(FsError::upper("copy up"))
        })
    }

    /// Gives a node that is no directory a place in the upper layer, with the first `keep` bytes of its content. The
    /// caller does not have the table: contents are copied here.
    pub(crate) fn copy_up(&self, ino: Ino, keep: u64) -> Result<(), FsError> {
        let upper = self.writable()?;
        {
            let mut copying = self.copying.lock().unwrap_or_else(|e| e.into_inner());
            while copying.contains(&ino) {
                copying = self.copied.wait(copying).unwrap_or_else(|e| e.into_inner());
            }
            copying.insert(ino);
        }
        let done = self.copy_up_alone(upper, ino, keep);
        self.copying.lock().unwrap_or_else(|e| e.into_inner()).remove(&ino);
        self.copied.notify_all();
        done
    }

    /// Copies up while no other thread copies the same node.
    fn copy_up_alone(&self, upper: &Upper, ino: Ino, keep: u64) -> Result<(), FsError> {
        let id = {
            let tree = self.read();
            match self.place(&tree, ino)? {
                Place::Lower(id) => id,
                Place::Upper { .. } | Place::Pinned(_) => return Ok(()),
            }
        };
        let attr = self.getattr(ino)?;
        let temporary = upper.temporary();
        let made = self.copy_content(upper, id, &attr, keep, &temporary).and_then(|file| {
            let mut tree = self.write();
            self.adopt_copy(&mut tree, upper, ino, id, &attr, &temporary)?;
            if let Some(file) = file {
                self.keep_open(ino, file);
            }
            Ok(())
        });
        if made.is_err() {
            let _ = upper.discard(temporary.as_bytes());
        }
        made
    }

    /// Makes the copy in `work/`, complete with owner, mode and times.
    fn copy_content(
        &self,
        upper: &Upper,
        id: LowerId,
        attr: &Attr,
        keep: u64,
        temporary: &str,
    ) -> Result<Option<File>, FsError> {
        let failed = FsError::upper("copy up");
        if attr.kind == Kind::Symlink {
            let target = self.view.symlink_target(id).ok_or(FsError::BadView)?;
            rustix::fs::symlinkat(target, &upper.work, temporary).map_err(&failed)?;
            rustix::fs::utimensat(&upper.work, temporary, &times(attr), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(&failed)?;
            return Ok(None);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&upper.work, temporary, flags, Mode::from_raw_mode(0o600)).map_err(&failed)?;
        let keep = keep.min(attr.size);
        if keep > 0 {
            let blob = self.view.entry(id).and_then(|entry| entry.blob).ok_or(FsError::BadView)?;
            let source = self.blobs.open(blob, attr.size)?;
            if keep < attr.size || rustix::fs::ioctl_ficlone(&file, &*source).is_err() {
                copy_bytes(&source, &file, keep)?;
            }
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(attr.perm)).map_err(&failed)?;
        rustix::fs::futimens(&file, &times(attr)).map_err(&failed)?;
        if upper.durable && keep > 0 {
            // The view's file was on disk; its copy must be before it takes the name.
            rustix::fs::fdatasync(&file).map_err(&failed)?;
        }
        Ok(Some(File::from(file)))
    }

    /// Gives the copy its names. The caller alone has the table.
    fn adopt_copy(
        &self,
        tree: &mut Tree,
        upper: &Upper,
        ino: Ino,
        id: LowerId,
        attr: &Attr,
        temporary: &str,
    ) -> Result<(), FsError> {
        let names: Vec<Name> = match tree.nodes.get(&ino) {
            Some(node) => node.names.clone(),
            None => vec![self.lower_name(id)?],
        };
        let mut node = Node::new(attr.kind);
        node.lower = Some(id);
        node.upper = true;
        let Some(((parent, name), others)) = names.split_first() else {
            // Unlinked while it is open: the copy needs no name either.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pin = rustix::fs::openat(&upper.work, temporary, flags, Mode::empty());
            node.pin = Some(Arc::new(pin.map_err(FsError::upper("copy up"))?));
            upper.discard(temporary.as_bytes())?;
            tree.nodes.insert(ino, node);
            return Ok(());
        };
        for (dir, _) in &names {
            self.copy_up_dir(tree, *dir)?;
        }
        let intent = match others {
            [] => None,
            others => {
                let at = |(dir, name): &Name| {
                    Ok::<_, FsError>(At { dir: self.upper_path(tree, *dir)?, name: name.to_vec() })
                };
                let others = others.iter().map(at).collect::<Result<_, _>>()?;
                let intent = Intent::Link { from: at(&names[0])?, others };
                Some((intent.write(upper)?, intent))
            }
        };
        self.move_in(tree, upper, temporary, *parent, name)?;
        if let Some((note, intent)) = intent {
            intent.complete(upper)?;
            upper.discard(note.as_bytes())?;
            let dir = self.dir_fd(tree, *parent)?;
            let stat = rustix::fs::statat(&dir, &**name, AtFlags::SYMLINK_NOFOLLOW);
            let inode = stat.map_err(FsError::upper("look at"))?.st_ino;
            node.linked = Some(inode);
            tree.linked.insert(inode, ino);
        }
        node.names = names.clone();
        tree.nodes.insert(ino, node);
        for (dir, name) in &names {
            self.set_slot(tree, *dir, name, Some(Slot::Node(ino)));
        }
        Ok(())
    }

    /// Gives any node a place in the upper layer.
    pub(crate) fn copy_up_any(&self, ino: Ino) -> Result<(), FsError> {
        let (kind, done) = {
            let tree = self.read();
            (self.kind(&tree, ino)?, tree.nodes.get(&ino).is_some_and(|node| node.upper))
        };
        match kind {
            _ if done => Ok(()),
            Kind::Dir => self.copy_up_dir(&mut self.write(), ino),
            _ => self.copy_up(ino, u64::MAX),
        }
    }
}

/// Runs `change` on a directory and puts its modification time back.
pub(crate) fn keeping_mtime<T>(
    dir: impl AsFd,
    change: impl FnOnce() -> Result<T, FsError>,
) -> Result<T, FsError> {
    let before = rustix::fs::fstat(dir.as_fd()).map_err(FsError::upper("look at"))?;
    let done = change()?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(dir, c".", &times, AtFlags::empty()).map_err(FsError::upper("set times"))?;
    Ok(done)
}

fn times(attr: &Attr) -> Timestamps {
    let time = |(seconds, nanos): (i64, u32)| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) }
}

/// Copies the first `len` bytes; within the kernel, and shared, where the filesystem can.
fn copy_bytes(source: &File, target: impl AsFd, len: u64) -> Result<(), FsError> {
    let (mut from, mut to) = (0u64, 0u64);
    while from < len {
        let chunk = usize::try_from((len - from).min(CHUNK)).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target.as_fd(), Some(&mut to), chunk) {
            Ok(0) => return Err(FsError::Upper { op: "copy up", errno: rustix::io::Errno::IO }),
            Ok(_) => {}
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL)
                if from == 0 =>
            {
                return copy_by_hand(source, target, len);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(FsError::upper("copy up")(errno)),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: impl AsFd, len: u64) -> Result<(), FsError> {
    use std::os::unix::fs::FileExt;
    let failed = crate::upper::system("copy up");
    let mut buffer = vec![0u8; 1 << 20];
    let mut at = 0u64;
    while at < len {
        let wanted = usize::try_from((len - at).min(buffer.len() as u64)).unwrap_or(buffer.len());
        let buffer = &mut buffer[..wanted];
        source.read_exact_at(buffer, at).map_err(&failed)?;
        let mut written = 0;
        while written < buffer.len() {
            written += rustix::io::pwrite(target.as_fd(), &buffer[written..], at + written as u64)
                .map_err(FsError::upper("copy up"))?;
        }
        at += wanted as u64;
    }
    Ok(())
}
