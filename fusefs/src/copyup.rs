//! Copy-up: what is about to change gets a place in the upper layer first, under the same node number.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvs_store::LowerId;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, XattrFlags};

use crate::disk;
use crate::error::FsError;
use crate::intent::{At, Intent};
use crate::overlay::{Overlay, Place, attr_of_stat};
use crate::tree::{KeptCtime, Name, Node, Slot, Tree};
use crate::types::{Attr, Ino, Kind, Time};
use crate::upper::{NodePath, ORIGIN, Upper, keeping_mtime, times_of};

/// Bytes copied by one call where the filesystem cannot share them.
const CHUNK: u64 = 64 << 20;
/// Who waits for another's copy gives up when it has not got on by a chunk for so long. The kernel can take minutes to
/// write gigabytes out at the end.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(600) };

impl Overlay {
    /// Gives a directory of the view, and those above it, a place in the upper layer. The caller alone has the table.
    pub(crate) fn copy_up_dir(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        let mut missing = Vec::new();
        let mut at = ino;
        while !tree.nodes.get(&at).is_some_and(|node| node.upper) {
            missing.push(at);
            if Self::is_gone(tree, at) {
                break;
            }
            at = self.name_of(tree, at)?.0;
        }
        while let Some(dir) = missing.pop() {
            self.copy_up_one_dir(tree, dir)?;
        }
        self.load(tree, ino)
    }

    /// Copies a directory up whose own directory is in the upper layer, or that is unlinked.
    fn copy_up_one_dir(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        let upper = self.writable()?;
        let id = self.lower_of(tree, ino).ok_or(FsError::NotFound)?;
        let name = if Self::is_gone(tree, ino) { None } else { Some(self.name_of(tree, ino)?) };
        let mut holder = None;
        if let Some((parent, _)) = &name {
            self.load(tree, *parent)?;
            holder = Some((*parent, self.attr(tree, *parent)?.ctime));
        }
        let origin = self.view.path(id).ok_or(FsError::BadView)?;
        let attr = self.lower_attr(ino, id)?;
        let mut node = Node::new(Kind::Dir);
        node.lower = Some(id);
        node.upper = true;
        node.dir.loaded = true;
        node.dir.subdirs = attr.nlink.saturating_sub(2);
        let failed = FsError::upper("copy a directory up");
        let temporary = upper.temporary();
        disk::mkdirat(&upper.work, &*temporary, Mode::from_raw_mode(0o700)).map_err(&failed)?;
        let made = (|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&upper.work, &*temporary, flags, Mode::empty()).map_err(&failed)?;
            disk::fsetxattr(&fd, ORIGIN, origin.as_bytes(), XattrFlags::empty()).map_err(&failed)?;
            upper.set_mode(&NodePath::of(&fd), Kind::Dir, attr.perm)?;
            disk::futimens(&fd, &times_of(&attr)).map_err(&failed)?;
            match &name {
                Some((parent, name)) => self.move_in(tree, upper, &temporary, *parent, name),
                None => {
                    node.pin = Some(Arc::new(fd));
                    upper.retire(&temporary);
                    Ok(())
                }
            }
        })();
        if let Err(error) = made {
            upper.retire(&temporary);
            return Err(error);
        }
        node.names.extend(name.clone());
        tree.nodes.insert(ino, node);
        if let Some((parent, name)) = name {
            self.set_slot(tree, parent, &name, Some(Slot::Node(ino)));
        }
        for (dir, ctime) in [(ino, attr.ctime)].into_iter().chain(holder) {
            self.keep_ctime(tree, dir, ctime);
        }
        Ok(())
    }

    /// Makes a directory go on showing the time of change that it had before something in it was copied up: for who
    /// looks at it, and for the kernel, which keeps the old one, nothing has changed.
    fn keep_ctime(&self, tree: &mut Tree, dir: Ino, shown: Time) {
        // The copy is there already; that its directory cannot be looked at now is for the next who does to find.
        let Ok(fd) = self.dir_fd(tree, dir) else { return };
        let Ok(stat) = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH) else { return };
        if let Some(node) = tree.nodes.get_mut(&dir) {
            let Attr { ctime, mtime, .. } = attr_of_stat(dir, &stat);
            node.ctime = Some(KeptCtime { shown, ctime, mtime });
        }
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
            disk::renameat_with(&upper.work, temporary, &dir, name, RenameFlags::NOREPLACE)
                .map_err(FsError::upper("copy up"))
        })
    }

    /// Gives a node that is no directory a place in the upper layer, with the first `keep` bytes of its content; true
    /// when that cut it off, and so changed it. The caller does not have the table: contents are copied here.
    pub(crate) fn copy_up(&self, ino: Ino, keep: u64) -> Result<bool, FsError> {
        self.copy_up_or_part(ino, keep, || false).map(|copied| copied.cut)
    }

    /// [`Self::copy_up`] of a file that parts when `parts` says so. It is asked once, when the bytes are there and before
    /// anybody can see them, and may lock what it decides by: nothing is copied from then on.
    pub(crate) fn copy_up_or_part(
        &self,
        ino: Ino,
        keep: u64,
        parts: impl FnOnce() -> bool,
    ) -> Result<Copied, FsError> {
        let upper = self.writable()?;
        // Who has locked what `parts` locks comes here for what is in the upper layer, and must not wait for a turn then.
        if !self.is_written(ino) {
            let _turn = self.turn(ino)?;
            let place = self.place(&self.read(), ino)?;
            if let Place::Lower(id) = place {
                return self.copy_up_alone(upper, ino, id, keep, parts);
            }
        }
        // In the upper layer already; who parts it has found there what it has in the view.
        let names = if parts() { self.renumber(&mut self.write(), ino)?.1 } else { Vec::new() };
        Ok(Copied { cut: false, names })
    }

    /// Waits until nobody else copies the node up, for as long as that copy gets on. The right is given back however the
    /// copy ends, a panic included: others wait for it.
    fn turn(&self, ino: Ino) -> Result<Turn<'_>, FsError> {
        {
            let mut copying = self.copying.lock().unwrap_or_else(|e| e.into_inner());
            while let Some(moved) = copying.get(&ino) {
                let Some(left) = PATIENCE.checked_sub(moved.elapsed()) else {
                    tracing::error!(
                        ino = ino.0,
                        "a copy-up has not got on for {PATIENCE:?}: who waits for it fails"
                    );
                    return Err(FsError::Stalled);
                };
                copying = self.copied.wait_timeout(copying, left).unwrap_or_else(|e| e.into_inner()).0;
            }
            copying.insert(ino, Instant::now());
        }
        Ok(Turn { overlay: self, ino })
    }

    /// Copies up while no other thread copies the same node.
    fn copy_up_alone(
        &self,
        upper: &Upper,
        ino: Ino,
        id: LowerId,
        keep: u64,
        parts: impl FnOnce() -> bool,
    ) -> Result<Copied, FsError> {
        let attr = self.getattr(ino)?;
        let temporary = upper.temporary();
        let made = self.copy_content(upper, id, &attr, keep, &temporary).and_then(|file| {
            let part = parts();
            let mut tree = self.write();
            self.adopt_copy(&mut tree, upper, ino, id, &attr, &temporary)?;
            // In one step with the copy: whoever has the old number never sees the copy's attributes under it.
            let (ino, names) = if part { self.renumber(&mut tree, ino)? } else { (ino, Vec::new()) };
            if let Some(file) = file {
                self.keep_open(ino, file);
            }
            Ok(names)
        });
        if made.is_err() {
            upper.retire(&temporary);
        }
        made.map(|names| Copied { cut: attr.kind == Kind::File && keep < attr.size, names })
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
            disk::symlinkat(target, &upper.work, temporary).map_err(&failed)?;
            disk::utimensat(&upper.work, temporary, &times_of(attr), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(&failed)?;
            return Ok(None);
        }
        let file =
            File::from(disk::create(&upper.work, temporary, Mode::from_raw_mode(0o600)).map_err(&failed)?);
        let keep = keep.min(attr.size);
        if keep > 0 {
            let blob = self.view.entry(id).and_then(|entry| entry.blob).ok_or(FsError::BadView)?;
            let source = self.blobs.open(blob, attr.size)?;
            if keep < attr.size || disk::ioctl_ficlone(&file, &*source).is_err() {
                copy_bytes(&source, &file, keep, &|| self.copy_gets_on(attr.ino))?;
            }
        }
        upper.set_mode(&NodePath::of(&file), Kind::File, attr.perm)?;
        let mut times = times_of(attr);
        if keep < attr.size {
            times.last_modification.tv_nsec = rustix::fs::UTIME_NOW;
        }
        disk::futimens(&file, &times).map_err(&failed)?;
        if upper.durable && keep > 0 {
            // The view's file was on disk; its copy must be before it takes the name.
            disk::fdatasync(&file).map_err(&failed)?;
        }
        Ok(Some(file))
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
        node.parted = tree.nodes.get(&ino).is_some_and(|node| node.parted);
        let Some((first @ (parent, name), others)) = names.split_first() else {
            // Unlinked while it is open: the copy needs no name either.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pin = rustix::fs::openat(&upper.work, temporary, flags, Mode::empty());
            node.pin = Some(Arc::new(pin.map_err(FsError::upper("copy up"))?));
            upper.retire(temporary);
            tree.nodes.insert(ino, node);
            return Ok(());
        };
        let mut ctimes = Vec::with_capacity(names.len());
        for (dir, _) in &names {
            self.copy_up_dir(tree, *dir)?;
            ctimes.push((*dir, self.attr(tree, *dir)?.ctime));
        }
        if others.is_empty() {
            self.move_in(tree, upper, temporary, *parent, name)?;
        } else {
            let at = |(dir, name): &Name| {
                Ok::<_, FsError>(At { dir: self.upper_path(tree, *dir)?, name: name.to_vec() })
            };
            let stat = rustix::fs::statat(&upper.work, temporary, AtFlags::SYMLINK_NOFOLLOW);
            let copy = stat.map_err(FsError::upper("look at"))?.st_ino;
            let others = others.iter().map(at).collect::<Result<_, _>>()?;
            let intent = Intent::Link { from: at(first)?, copy, others };
            intent.carry_out(upper, || self.move_in(tree, upper, temporary, *parent, name))?;
            node.linked = Some(copy);
            tree.linked.insert(copy, ino);
        }
        node.names = names.clone();
        tree.nodes.insert(ino, node);
        for (dir, name) in &names {
            self.set_slot(tree, *dir, name, Some(Slot::Node(ino)));
        }
        for (dir, ctime) in ctimes {
            self.keep_ctime(tree, dir, ctime);
        }
        Ok(())
    }

    /// Who waits for the copy of a node may go on waiting.
    pub(crate) fn copy_gets_on(&self, ino: Ino) {
        if let Some(moved) = self.copying.lock().unwrap_or_else(|e| e.into_inner()).get_mut(&ino) {
            *moved = Instant::now();
        }
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
            _ => self.copy_up(ino, u64::MAX).map(drop),
        }
    }
}

/// What a copy-up has done.
pub(crate) struct Copied {
    /// Bytes were left out.
    cut: bool,
    /// The names that lead elsewhere now, when it parted.
    pub(crate) names: Vec<Name>,
}

/// The right to copy a node up, which one thread has at a time.
struct Turn<'o> {
    overlay: &'o Overlay,
    ino: Ino,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.overlay.copying.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.ino);
        self.overlay.copied.notify_all();
    }
}

/// Copies the first `len` bytes; within the kernel, and shared, where the filesystem can.
fn copy_bytes(source: &File, target: &File, len: u64, got_on: &dyn Fn()) -> Result<(), FsError> {
    let (mut from, mut to) = (0u64, 0u64);
    while from < len {
        let chunk = usize::try_from((len - from).min(CHUNK)).unwrap_or(usize::MAX);
        match disk::copy_file_range(source, Some(&mut from), target, Some(&mut to), chunk) {
            Ok(0) => return Err(FsError::Upper { op: "copy up", errno: rustix::io::Errno::IO }),
            Ok(_) => got_on(),
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL)
                if from == 0 =>
            {
                return copy_by_hand(source, target, len, got_on);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(FsError::upper("copy up")(errno)),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, len: u64, got_on: &dyn Fn()) -> Result<(), FsError> {
    use std::os::unix::fs::FileExt;
    let failed = crate::upper::system("copy up");
    let mut buffer = vec![0u8; 1 << 20];
    let mut at = 0u64;
    while at < len {
        let wanted = usize::try_from((len - at).min(buffer.len() as u64)).unwrap_or(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        source.read_exact_at(buffer, at).map_err(&failed)?;
        disk::write_all_at(target, buffer, at).map_err(&failed)?;
        at += wanted as u64;
        got_on();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{World, at};

    #[test]
    fn who_waits_for_a_copy_that_does_not_get_on_fails() {
        let world = World::new();
        let lower = world.beside("lower");
        std::fs::create_dir_all(&lower).unwrap();
        std::fs::write(lower.join("f"), "content").unwrap();
        let manifest = world.store_tree(&lower);
        let overlay = world.overlay(world.view(&[("", manifest)]), "upper");
        let ino = at(&overlay, "f").ino;
        let write = || overlay.write_at(ino, 0, b"C", false);
        overlay.copying.lock().unwrap().insert(ino, Instant::now());
        assert_eq!(write(), Err(FsError::Stalled));
        // One that gets on is waited for, however long it takes.
        let end = Instant::now() + 2 * PATIENCE;
        std::thread::scope(|scope| {
            overlay.copy_gets_on(ino);
            let waiting = scope.spawn(write);
            while Instant::now() < end {
                overlay.copy_gets_on(ino);
                std::thread::yield_now();
            }
            drop(Turn { overlay: &overlay, ino });
            assert_eq!(waiting.join().unwrap(), Ok(1));
        });
        assert!(overlay.copying.lock().unwrap().is_empty());
    }
}
