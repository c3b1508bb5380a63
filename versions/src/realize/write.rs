//! Carrying a plan out. Every file is written beside (`.cvs/tmp`) and renamed into its place with its final mode and
//! time, so that a crash leaves the old one, the new one, or nothing: never a part.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cvs_store::{RelPath, Store, StoreError, content_mtime};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::RealizeError;
use super::place::{BUFFER, OWN, Target, set_mtime};
use super::plan::{Steps, Write, is_bytecode};

/// Files of this size are a piece of work of their own.
const LARGE: u64 = 1 << 20;
/// Small files that one thread takes at once: neighbours, whose directory the kernel then has at hand.
const BATCH: usize = 64;

pub(super) struct Writer<'a> {
    store: &'a Store,
    target: &'a Target,
    tmp: OwnedFd,
    umask: u32,
    next_name: AtomicU64,
    /// The filesystem lets files share their bytes; false at the first sign that it does not.
    reflink: AtomicBool,
    wrote: &'a (dyn Fn(u64) + Sync),
    cancel: &'a AtomicBool,
}

impl<'a> Writer<'a> {
    /// Takes away what an interrupted realize left unfinished.
    pub(super) fn begin(
        store: &'a Store,
        target: &'a Target,
        reflink: bool,
        wrote: &'a (dyn Fn(u64) + Sync),
        cancel: &'a AtomicBool,
    ) -> Result<Self, RealizeError> {
        let path = target.path.join(OWN).join("tmp");
        let tmp = (|| {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::create_dir(&path)?,
            }
            Ok(rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        })()
        .map_err(|error| RealizeError::io("create", &path, error))?;
        let (next_name, reflink) = (AtomicU64::new(0), AtomicBool::new(reflink));
        Ok(Self { store, target, tmp, umask: umask(), next_name, reflink, wrote, cancel })
    }

    /// Does all of it. `aside` is where what is in the way goes.
    pub(super) fn run(&self, steps: &Steps, aside: &Path) -> Result<(), RealizeError> {
        for path in &steps.aside {
            self.set_aside(path, aside)?;
        }
        for path in &steps.unlink {
            self.unlink(path, AtFlags::empty())?;
        }
        for path in steps.rmdir.iter().rev() {
            self.rmdir(path)?;
        }
        for path in &steps.mkdir {
            self.check_cancel()?;
            match rustix::fs::mkdirat(self.target.root(), path.as_path(), Mode::from(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("create", path, errno)),
            }
        }
        for (path, link) in &steps.symlinks {
            self.check_cancel()?;
            self.symlink(path, link)?;
        }
        self.copy_all(&steps.copies)?;
        for write in &steps.links {
            self.check_cancel()?;
            self.link(write)?;
        }
        let _ = fs::remove_dir(self.target.path.join(OWN).join("tmp"));
        Ok(())
    }

    /// Makes what was done durable.
    pub(super) fn sync(&self) -> Result<(), RealizeError> {
        rustix::fs::syncfs(self.target.root())
            .map_err(|errno| RealizeError::io("make durable", &self.target.path, errno))
    }

    fn failed(&self, operation: &'static str, path: &RelPath, errno: impl Into<io::Error>) -> RealizeError {
        RealizeError::io(operation, self.target.full(path), errno)
    }

    fn check_cancel(&self) -> Result<(), RealizeError> {
        if self.cancel.load(Ordering::Relaxed) { Err(RealizeError::Cancelled) } else { Ok(()) }
    }

    fn set_aside(&self, path: &RelPath, aside: &Path) -> Result<(), RealizeError> {
        let to = aside.join(path.as_path());
        let moved = fs::create_dir_all(to.parent().unwrap_or(aside))
            .and_then(|()| fs::rename(self.target.full(path), &to));
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("set aside", path, error))
            }
            _ => Ok(()),
        }
    }

    fn unlink(&self, path: &RelPath, flags: AtFlags) -> Result<(), RealizeError> {
        match rustix::fs::unlinkat(self.target.root(), path.as_path(), flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", path, errno)),
        }
    }

    /// Removes a directory unless there is something in it that is not ours. Bytecode without its sources is nothing
    /// but a directory that ComfyUI would take for a node.
    fn rmdir(&self, path: &RelPath) -> Result<(), RealizeError> {
        for _ in 0..2 {
            match rustix::fs::unlinkat(self.target.root(), path.as_path(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("remove", path, errno)),
            }
            if !self.clear_bytecode(path)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes the bytecode in a directory that holds nothing else. True when nothing is left.
    pub(super) fn clear_bytecode(&self, path: &RelPath) -> Result<bool, RealizeError> {
        let mut inside = self.target.list(path)?;
        inside.retain(|(path, _)| path.as_bytes() != OWN.as_bytes());
        if !inside.iter().all(|(path, is_dir)| *is_dir && is_bytecode(path)) {
            return Ok(false);
        }
        for (cache, _) in &inside {
            let files = self.target.list(cache)?;
            if !files.iter().all(|(path, is_dir)| !is_dir && is_bytecode(path)) {
                return Ok(false);
            }
            for (file, _) in &files {
                self.unlink(file, AtFlags::empty())?;
            }
            self.unlink(cache, AtFlags::REMOVEDIR)?;
        }
        Ok(true)
    }

    /// A name in `.cvs/tmp` that nobody else uses.
    fn temporary(&self) -> String {
        format!("{:x}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    fn put_in_place(&self, temporary: &str, path: &RelPath) -> Result<(), RealizeError> {
        rustix::fs::renameat(&self.tmp, temporary, self.target.root(), path.as_path()).map_err(|errno| {
            let _ = rustix::fs::unlinkat(&self.tmp, temporary, AtFlags::empty());
            self.failed("write", path, errno)
        })
    }

    fn symlink(&self, path: &RelPath, link: &[u8]) -> Result<(), RealizeError> {
        let link = OsStr::from_bytes(link);
        match rustix::fs::symlinkat(link, self.target.root(), path.as_path()) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed("write", path, errno)),
        }
        let temporary = self.temporary();
        rustix::fs::symlinkat(link, &self.tmp, &temporary).map_err(|e| self.failed("write", path, e))?;
        self.put_in_place(&temporary, path)
    }

    fn link(&self, write: &Write) -> Result<(), RealizeError> {
        let Some(first) = &write.file.link else { return Ok(()) };
        let root = self.target.root();
        let temporary = self.temporary();
        match rustix::fs::linkat(root.as_fd(), first.as_path(), &self.tmp, &temporary, AtFlags::empty()) {
            Ok(()) => {
                self.put_in_place(&temporary, &write.path)?;
                // A rename onto another name of the same file does nothing.
                let _ = rustix::fs::unlinkat(&self.tmp, &temporary, AtFlags::empty());
                Ok(())
            }
            // Where there are no hard links, a copy has to do.
            Err(Errno::PERM | Errno::NOTSUP | Errno::MLINK | Errno::NOSYS) => {
                self.copy(write, &mut vec![0; BUFFER])
            }
            Err(errno) => Err(self.failed("link", &write.path, errno)),
        }
    }

    /// Large files first, one by one, then the small ones in batches. The first failure stops all.
    fn copy_all(&self, copies: &[Write]) -> Result<(), RealizeError> {
        let (mut large, small): (Vec<&Write>, Vec<&Write>) =
            copies.iter().partition(|write| write.file.size >= LARGE);
        large.sort_by_key(|write| std::cmp::Reverse(write.file.size));
        let batches: Vec<&[&Write]> = large.chunks(1).chain(small.chunks(BATCH)).collect();
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<RealizeError>> = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let work = || {
            let mut buffer = vec![0; BUFFER];
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                for write in *batch {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(error) = self.copy(write, &mut buffer) {
                        failed.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..workers().min(batches.len()) {
                scope.spawn(work);
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn copy(&self, write: &Write, buffer: &mut [u8]) -> Result<(), RealizeError> {
        self.check_cancel()?;
        let temporary = self.temporary();
        let mode = write.file.mode & 0o7777;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // Writable for as long as it is written, on network filesystems too.
        let file = rustix::fs::openat(&self.tmp, &temporary, flags, Mode::from(mode | 0o200))
            .map_err(|errno| self.failed("write", &write.path, errno))?;
        let filled = self.fill(&file, write, buffer).and_then(|()| {
            if (mode | 0o200) & !self.umask & 0o777 != mode {
                rustix::fs::fchmod(&file, Mode::from(mode))
                    .map_err(|errno| self.failed("set the mode of", &write.path, errno))?;
            }
            set_mtime(&file, content_mtime(&write.file.blob))
                .map_err(|error| self.failed("set the time of", &write.path, error))
        });
        drop(file);
        if let Err(error) = filled {
            let _ = rustix::fs::unlinkat(&self.tmp, &temporary, AtFlags::empty());
            return Err(error);
        }
        self.put_in_place(&temporary, &write.path)
    }

    fn fill(&self, file: &OwnedFd, write: &Write, buffer: &mut [u8]) -> Result<(), RealizeError> {
        let (blob, size) = (&write.file.blob, write.file.size);
        let source = self.store.open_blob(blob)?;
        if size > 0 && self.reflink.load(Ordering::Relaxed) {
            match rustix::fs::ioctl_ficlone(file, &source) {
                Ok(()) => {
                    let found = rustix::fs::fstat(file)
                        .map_err(|errno| self.failed("look at", &write.path, errno))?
                        .st_size as u64;
                    (self.wrote)(found);
                    return check_size(write, found);
                }
                Err(_) => self.reflink.store(false, Ordering::Relaxed),
            }
        }
        let mut total = 0;
        loop {
            let n = match rustix::io::read(&source, &mut *buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(RealizeError::io("read", self.store.blob_path(blob), errno)),
            };
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                match rustix::io::write(file, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(self.failed("write", &write.path, errno)),
                }
            }
            total += n as u64;
            (self.wrote)(n as u64);
            // A short read of a small file was its last: most files need no second one to say so.
            if total >= size && n < buffer.len() {
                break;
            }
            self.check_cancel()?;
        }
        check_size(write, total)
    }
}

fn check_size(write: &Write, found: u64) -> Result<(), RealizeError> {
    let (id, listed) = (write.file.blob, write.file.size);
    if found == listed { Ok(()) } else { Err(StoreError::WrongSize { id, listed, found }.into()) }
}

/// Threads that write. They wait for the disk, or for the network behind it, more than they compute.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(4, |n| (n.get() * 2).clamp(4, 32))
}

/// The mode bits that the kernel takes from every new file.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Without /proc every mode is set again, which is right and costs a call.
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

/// Where what is in the way goes: a directory of its own for each time.
pub(super) fn aside_dir(target: &Path) -> PathBuf {
    let parent = target.join(OWN).join("aside");
    let now = super::record::now();
    (0..).map(|n| parent.join(format!("{}", now + n))).find(|path| !path.exists()).unwrap_or(parent)
}
