//! The upper layer on disk: ordinary files under their own names, and the bookkeeping of what they hide.
//!
//! ```text
//! format      "1\n"
//! lock        locked by the one process that writes to the overlay; holds its pid
//! modes       empty; there when modes may be kept in attributes (below)
//! upper/      the tree of what was written. Real names, modes, owners, times, attributes
//! work/       things on their way in or out, intents; emptied when the overlay is opened
//! ```
//!
//! Bookkeeping inside `upper/`:
//!
//! * A *whiteout* hides the entry of that name in the view: an empty regular file with the attribute
//!   `user.cvs.whiteout`. All are hard links of `work/whiteout`.
//! * A directory that merges with one of the view has the attribute `user.cvs.origin`: the path of that directory in
//!   the view. It names the directory, not the place where it is shown: a renamed directory keeps it. A directory
//!   without it is opaque. The root always merges with the root.
//!
//! * Where the overlay was once written by an ordinary user, `user.cvs.mode` holds the mode, in octal, of a file or
//!   directory whose mode on disk is another one: one that lets that user in, who must read and write what the kernel
//!   has allowed to be read and written.
//!
//! Attributes that a program sets under `user.cvs.` are kept as `user.cvs.own.…`, out of the way of these.
//!
//! Every change is one rename, link or unlink in `upper/`, so that a killed process leaves it before or after.
//! The few that need two write an *intent* first, which the next opening completes.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::disk;
use crate::error::{FsError, MountError};
use crate::types::{Attr, Kind};

pub(crate) const WHITEOUT: &str = "user.cvs.whiteout";
pub(crate) const ORIGIN: &str = "user.cvs.origin";
const MODE: &str = "user.cvs.mode";
/// Where attributes of programs go that begin with [`RESERVED`].
pub(crate) const ESCAPED: &[u8] = b"user.cvs.own.";
pub(crate) const RESERVED: &[u8] = b"user.cvs.";
const FORMAT: &str = "1\n";
const MASTER: &str = "whiteout";
const ATTRIBUTES: &str = "extended attributes (user.*)";
/// What the user who serves the mount needs on disk.
const OWN_FILE: u32 = 0o600;
const OWN_DIR: u32 = 0o700;

/// The upper layer of an overlay, held by this process alone.
pub(crate) struct Upper {
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) work: OwnedFd,
    pub(crate) work_path: PathBuf,
    /// Bytes that are copied up reach the disk before they replace a file of the view.
    pub(crate) durable: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modes may be kept in attributes.
    pub(crate) keeps_modes: bool,
    next: AtomicU64,
    _lock: File,
}

impl Upper {
    /// Opens the overlay in `directory`, making it when there is none, and completes what a killed process left.
    ///
    /// A root that is made here shows the mode and the time of the view's, which `root` tells.
    pub(crate) fn open(directory: &Path, durable: bool, root: &Attr) -> Result<Self, MountError> {
        let io = |op, path: &Path| MountError::io(op, path.to_owned());
        std::fs::create_dir_all(directory).map_err(io("create", directory))?;
        let lock_path = directory.join("lock");
        let mut lock = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = std::io::read_to_string(&lock).unwrap_or_default().trim().to_owned();
                return Err(MountError::OverlayBusy { path: directory.to_owned(), pid });
            }
            Err(error) => return Err(io("lock", &lock_path)(error.into())),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(io("write", &lock_path))?;
        check_format(directory)?;
        let (upper_path, work_path) = (directory.join("upper"), directory.join("work"));
        for path in [&upper_path, &work_path] {
            std::fs::create_dir_all(path).map_err(io("create", path))?;
        }
        let open = |path: &PathBuf| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| io("open", path)(e.into()))
        };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let modes_path = directory.join("modes");
        let mut keeps_modes = modes_path.exists();
        if uid != 0 && !keeps_modes {
            File::create(&modes_path).map_err(io("create", &modes_path))?;
            keeps_modes = true;
        }
        let upper = Self {
            root: Arc::new(open(&upper_path)?),
            work: open(&work_path)?,
            work_path: work_path.clone(),
            durable,
            uid,
            gid,
            keeps_modes,
            next: AtomicU64::new(0),
            _lock: lock,
        };
        let refused = |op, path: &Path, refused| match refused {
            Refused::Feature(feature) => MountError::Unsupported { path: directory.to_owned(), feature },
            Refused::System(errno) => io(op, path)(errno.into()),
        };
        // Intents last: completing them takes whiteouts and free names.
        upper
            .empty_work()
            .and_then(|()| upper.make_master())
            .and_then(|()| crate::intent::recover(&upper))
            .map_err(|error| match Errno::from_raw_os_error(error.errno()) {
                // Whichever attribute is the first to be refused.
                Errno::OPNOTSUPP => Refused::Feature(ATTRIBUTES),
                errno => Refused::System(errno),
            })
            .map_err(|error| refused("recover", &work_path, error))?;
        upper.adopt_root(root).map_err(|error| refused("set up", &upper_path, error))?;
        Ok(upper)
    }

    /// Makes a new root look like the view's. The origin comes last: with it, the root is somebody's.
    fn adopt_root(&self, root: &Attr) -> Result<(), Refused> {
        match rustix::fs::fgetxattr(&*self.root, ORIGIN, &mut [0u8; 1][..]) {
            Ok(_) => return Ok(()),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(lacking(ATTRIBUTES)(errno)),
        }
        self.probe()?;
        self.set_mode(&NodePath::named(&self.root, b"."), Kind::Dir, root.perm)
            .map_err(|error| lacking(ATTRIBUTES)(Errno::from_raw_os_error(error.errno())))?;
        disk::futimens(&*self.root, &times_of(root)).map_err(Refused::System)?;
        disk::fsetxattr(&*self.root, ORIGIN, b"", XattrFlags::empty()).map_err(lacking(ATTRIBUTES))
    }

    /// Finds out whether the filesystem can do what every change here relies on; network filesystems often cannot.
    fn probe(&self) -> Result<(), Refused> {
        let [a, b, c] = [self.temporary(), self.temporary(), self.temporary()];
        for name in [&a, &b] {
            disk::create(&self.work, &**name, Mode::from_raw_mode(0o600)).map_err(Refused::System)?;
        }
        let work = &self.work;
        let tried = disk::renameat_with(work, &*a, work, &*b, RenameFlags::EXCHANGE)
            .map_err(lacking("exchange of names (RENAME_EXCHANGE)"))
            .and_then(|()| {
                disk::renameat_with(work, &*b, work, &*c, RenameFlags::NOREPLACE)
                    .map_err(lacking("rename that replaces nothing (RENAME_NOREPLACE)"))
            })
            .and_then(|()| {
                disk::linkat(work, &*a, work, &*b, AtFlags::empty()).map_err(lacking("hard links"))
            });
        for name in [&a, &b, &c] {
            self.retire(name);
        }
        tried
    }

    /// Some regular file of the upper filesystem, opened for reading.
    pub(crate) fn some_file(&self) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.work, MASTER, flags, Mode::empty()).map(File::from)
    }

    /// A name in `work/` that nothing has.
    pub(crate) fn temporary(&self) -> String {
        format!("t{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Removes what a killed process left in `work/`, but for its intents.
    fn empty_work(&self) -> Result<(), FsError> {
        let entries = std::fs::read_dir(&self.work_path).map_err(system("list work"))?;
        for entry in entries {
            let name = entry.map_err(system("list work"))?.file_name();
            if name != MASTER && !crate::intent::is_intent(name.as_encoded_bytes()) {
                self.discard(name.as_encoded_bytes())?;
            }
        }
        Ok(())
    }

    /// Removes something in `work/` that nobody needs any more. What cannot be removed now goes when the overlay is
    /// opened the next time.
    pub(crate) fn retire(&self, name: &str) {
        if let Err(error) = self.discard(name.as_bytes()) {
            tracing::warn!(name, %error, "something stays in the work directory of the overlay");
        }
    }

    /// Removes something in `work/`, a directory with all it holds.
    pub(crate) fn discard(&self, name: &[u8]) -> Result<(), FsError> {
        match disk::unlinkat(&self.work, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                let path =
                    self.work_path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
                disk::remove_dir_all(&path).map_err(system("discard"))
            }
            Err(errno) => Err(FsError::upper("discard")(errno)),
        }
    }

    fn make_master(&self) -> Result<(), FsError> {
        if let Ok(stat) = rustix::fs::statat(&self.work, MASTER, AtFlags::SYMLINK_NOFOLLOW)
            && self.is_whiteout(&self.work, MASTER.as_bytes(), &stat)?
        {
            return Ok(());
        }
        self.replace_master()
    }

    fn replace_master(&self) -> Result<(), FsError> {
        let name = self.temporary();
        let made = disk::create(&self.work, &*name, Mode::from_raw_mode(0o600))
            .and_then(|file| disk::fsetxattr(&file, WHITEOUT, b"y", XattrFlags::empty()))
            .and_then(|()| disk::renameat(&self.work, &*name, &self.work, MASTER));
        if made.is_err() {
            self.retire(&name);
        }
        made.map_err(FsError::upper("make a whiteout"))
    }

    /// Makes a whiteout called `name`, which must be free.
    pub(crate) fn link_whiteout(&self, dir: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let link = || disk::linkat(&self.work, MASTER, dir.as_fd(), name, AtFlags::empty());
        match link() {
            // ext4 allows 65,000 names for a file: the next ones get a new file. So they do when somebody removed it.
            Err(Errno::MLINK | Errno::NOENT) => {
                self.replace_master()?;
                link().map_err(FsError::upper("make a whiteout"))
            }
            done => done.map_err(FsError::upper("make a whiteout")),
        }
    }

    /// A whiteout in `work/`, ready to be moved; its name.
    fn loose_whiteout(&self) -> Result<String, FsError> {
        let temporary = self.temporary();
        self.link_whiteout(&self.work, temporary.as_bytes())?;
        Ok(temporary)
    }

    /// Replaces the file `name`, which is no directory, by a whiteout.
    pub(crate) fn whiteout_over_file(&self, dir: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let whiteout = self.loose_whiteout()?;
        disk::renameat(&self.work, &*whiteout, dir, name).map_err(|errno| {
            self.retire(&whiteout);
            FsError::Upper { op: "make a whiteout", errno }
        })
    }

    /// Replaces `name`, whatever it is, by a whiteout.
    pub(crate) fn whiteout_instead(&self, dir: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let whiteout = self.loose_whiteout()?;
        let done = disk::renameat_with(&self.work, &*whiteout, dir, name, RenameFlags::EXCHANGE);
        // What was there, or, when that did not work, the whiteout.
        self.retire(&whiteout);
        done.map_err(FsError::upper("make a whiteout"))
    }

    /// True when the entry is a whiteout.
    pub(crate) fn is_whiteout(&self, dir: impl AsFd, name: &[u8], stat: &Stat) -> Result<bool, FsError> {
        if stat.st_size != 0
            || rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile
        {
            return Ok(false);
        }
        let mut value = [0u8; 8];
        match rustix::fs::lgetxattr(proc_path(dir, name), WHITEOUT, &mut value[..]) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(FsError::upper("read a whiteout")(errno)),
        }
    }

    /// The mode that a node of this kind has on disk to show `perm`.
    pub(crate) fn mode_on_disk(&self, kind: Kind, perm: u32) -> u32 {
        match kind {
            Kind::File if self.uid != 0 => perm | OWN_FILE,
            Kind::Dir if self.uid != 0 => perm | OWN_DIR,
            _ => perm,
        }
    }

    /// True when a node is made with its mode in one step.
    pub(crate) fn shows_on_disk(&self, kind: Kind, perm: u32) -> bool {
        self.mode_on_disk(kind, perm) == perm
    }

    /// The mode that a node shows which has `perm` on disk.
    pub(crate) fn mode(&self, at: &NodePath, kind: Kind, perm: u32) -> Result<u32, FsError> {
        if !self.keeps_modes || !matches!(kind, Kind::File | Kind::Dir) {
            return Ok(perm);
        }
        let mut value = [0u8; 8];
        match at.get(MODE.as_bytes(), &mut value) {
            Ok(len) => {
                let text = value.get(..len).and_then(|text| std::str::from_utf8(text).ok());
                Ok(text.and_then(|text| u32::from_str_radix(text, 8).ok()).map_or(perm, |mode| mode & 0o7777))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(perm),
            Err(errno) => Err(FsError::upper("look at")(errno)),
        }
    }

    /// Changes the mode that a node shows. Of its two steps one changes what is shown.
    pub(crate) fn set_mode(&self, at: &NodePath, kind: Kind, perm: u32) -> Result<(), FsError> {
        let failed = FsError::upper("change the mode");
        let on_disk = self.mode_on_disk(kind, perm);
        if on_disk != perm {
            let text = format!("{perm:o}");
            at.set(MODE.as_bytes(), text.as_bytes(), XattrFlags::empty()).map_err(&failed)?;
        }
        disk::chmodat(rustix::fs::CWD, &*at.path, Mode::from_raw_mode(on_disk), AtFlags::empty())
            .map_err(&failed)?;
        if on_disk == perm && self.keeps_modes && matches!(kind, Kind::File | Kind::Dir) {
            match at.remove(MODE.as_bytes()) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// The path in the view of the directory that an upper directory merges with; none for an opaque one.
    pub(crate) fn origin(&self, dir: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        let mut value = vec![0u8; cvs_store::PATH_LIMIT];
        match rustix::fs::lgetxattr(proc_path(dir, name), ORIGIN, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(FsError::upper("read the origin of a directory")(errno)),
        }
    }
}

/// Why an overlay cannot be where it is.
enum Refused {
    /// The filesystem has no such thing.
    Feature(&'static str),
    System(Errno),
}

fn lacking(feature: &'static str) -> impl Fn(Errno) -> Refused {
    move |errno| match errno {
        Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM => Refused::Feature(feature),
        errno => Refused::System(errno),
    }
}

/// A path for calls that take no descriptor, to a node of the upper layer.
pub(crate) struct NodePath {
    path: Vec<u8>,
    /// The path is a link to the node rather than the node's own name.
    follow: bool,
}

impl NodePath {
    /// The node called `name` in `dir`, which must stay open.
    pub(crate) fn named(dir: impl AsFd, name: &[u8]) -> Self {
        Self { path: proc_path(dir, name), follow: false }
    }

    /// What `fd`, which must stay open, refers to.
    pub(crate) fn of(fd: impl AsFd) -> Self {
        Self::linking(proc_fd(fd).into_bytes())
    }

    /// What a path of [`proc_fd`] leads to.
    pub(crate) fn linking(path: Vec<u8>) -> Self {
        Self { path, follow: true }
    }

    /// Reads an attribute.
    pub(crate) fn get(&self, name: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
        match self.follow {
            true => rustix::fs::getxattr(&*self.path, name, value),
            false => rustix::fs::lgetxattr(&*self.path, name, value),
        }
    }

    /// Lists the names of attributes.
    pub(crate) fn list(&self, names: &mut [u8]) -> Result<usize, Errno> {
        match self.follow {
            true => rustix::fs::listxattr(&*self.path, names),
            false => rustix::fs::llistxattr(&*self.path, names),
        }
    }

    pub(crate) fn set(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        match self.follow {
            true => disk::setxattr(&*self.path, name, value, flags),
            false => disk::lsetxattr(&*self.path, name, value, flags),
        }
    }

    pub(crate) fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        match self.follow {
            true => disk::removexattr(&*self.path, name),
            false => disk::lremovexattr(&*self.path, name),
        }
    }
}

/// Runs `change`, which does not change what a directory shows, and puts the directory's modification time back.
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
    if let Err(error) = disk::utimensat(dir, c".", &times, AtFlags::empty()) {
        tracing::warn!(%error, "a directory of the overlay has a new time without a reason");
    }
    Ok(done)
}

/// The access and modification times of a node.
pub(crate) fn times_of(attr: &Attr) -> Timestamps {
    let time = |(seconds, nanos): (i64, u32)| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) }
}

/// A path for the calls that have no dirfd form. Short, whatever the depth.
pub(crate) fn proc_path(dir: impl AsFd, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// A path that leads to what a descriptor refers to.
pub(crate) fn proc_fd(fd: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Wraps an error of the standard library.
pub(crate) fn system(op: &'static str) -> impl Fn(std::io::Error) -> FsError {
    move |error| FsError::Upper { op, errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) }
}

fn check_format(directory: &Path) -> Result<(), MountError> {
    let path = directory.join("format");
    match std::fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => {
            Err(MountError::UnknownFormat { path: directory.to_owned(), found: found.trim().to_owned() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // In one step, after a power loss, too: a file that is there but empty would be a format that nobody knows.
            let temporary = directory.join("format.new");
            File::create(&temporary)
                .and_then(|mut file| file.write_all(FORMAT.as_bytes()).and_then(|()| file.sync_all()))
                .and_then(|()| std::fs::rename(&temporary, &path))
                .map_err(MountError::io("write", path))
        }
        Err(error) => Err(MountError::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests;
