//! The upper layer on disk: ordinary files under their own names, and the bookkeeping of what they hide.
//!
//! ```text
//! format      "1\n"
//! lock        locked by the one process that writes to the overlay; holds its pid
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

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Stat, XattrFlags};
use rustix::io::Errno;

use crate::error::{FsError, MountError};

pub(crate) const WHITEOUT: &str = "user.cvs.whiteout";
pub(crate) const ORIGIN: &str = "user.cvs.origin";
/// Where attributes of programs go that begin with [`RESERVED`].
pub(crate) const ESCAPED: &[u8] = b"user.cvs.own.";
pub(crate) const RESERVED: &[u8] = b"user.cvs.";
const FORMAT: &str = "1\n";
const MASTER: &str = "whiteout";

/// The upper layer of an overlay, held by this process alone.
pub(crate) struct Upper {
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) work: OwnedFd,
    pub(crate) work_path: PathBuf,
    /// Bytes that are copied up reach the disk before they replace a file of the view.
    pub(crate) durable: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    next: AtomicU64,
    _lock: File,
}

impl Upper {
    /// Opens the overlay in `directory`, making it when there is none, and completes what a killed process left.
    pub(crate) fn open(directory: &Path, durable: bool) -> Result<Self, MountError> {
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
        let upper = Self {
            root: Arc::new(open(&upper_path)?),
            work: open(&work_path)?,
            work_path: work_path.clone(),
            durable,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            next: AtomicU64::new(0),
            _lock: lock,
        };
        let probe = rustix::fs::fsetxattr(&*upper.root, ORIGIN, b"", XattrFlags::empty());
        match probe {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => {
                let feature = "extended attributes (user.*)";
                return Err(MountError::Unsupported { path: directory.to_owned(), feature });
            }
            Err(error) => return Err(io("set an attribute of", &upper_path)(error.into())),
        }
        crate::intent::recover(&upper)
            .and_then(|()| upper.empty_work())
            .and_then(|()| upper.make_master())
            .map_err(|error| io("recover", &work_path)(std::io::Error::from_raw_os_error(error.errno())))?;
        Ok(upper)
    }

    /// A name in `work/` that nothing has.
    pub(crate) fn temporary(&self) -> String {
        format!("t{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Removes what a killed process left in `work/`.
    fn empty_work(&self) -> Result<(), FsError> {
        let entries = std::fs::read_dir(&self.work_path).map_err(system("list work"))?;
        for entry in entries {
            let name = entry.map_err(system("list work"))?.file_name();
            if name != MASTER {
                self.discard(name.as_encoded_bytes())?;
            }
        }
        Ok(())
    }

    /// Removes something in `work/`, a directory with all it holds.
    pub(crate) fn discard(&self, name: &[u8]) -> Result<(), FsError> {
        match rustix::fs::unlinkat(&self.work, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                let path =
                    self.work_path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
                std::fs::remove_dir_all(path).map_err(system("discard"))
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
        let name = self.temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.work, &*name, flags, Mode::from_raw_mode(0o600))
            .and_then(|file| rustix::fs::fsetxattr(&file, WHITEOUT, b"y", XattrFlags::empty()))
            .and_then(|()| rustix::fs::renameat(&self.work, &*name, &self.work, MASTER));
        made.map_err(FsError::upper("make a whiteout"))
    }

    /// Makes a whiteout called `name`, which must be free.
    pub(crate) fn link_whiteout(&self, dir: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let link = || rustix::fs::linkat(&self.work, MASTER, dir.as_fd(), name, AtFlags::empty());
        match link() {
            // ext4 allows 65,000 names for a file: the next ones get a new file.
            Err(Errno::MLINK) => {
                self.discard(MASTER.as_bytes())?;
                self.make_master()?;
                link().map_err(FsError::upper("make a whiteout"))
            }
            done => done.map_err(FsError::upper("make a whiteout")),
        }
    }

    /// Replaces the file `name`, which is no directory, by a whiteout.
    pub(crate) fn whiteout_over_file(&self, dir: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let temporary = self.temporary();
        self.link_whiteout(&self.work, temporary.as_bytes())?;
        rustix::fs::renameat(&self.work, &*temporary, dir, name).map_err(FsError::upper("make a whiteout"))
    }

    /// Puts a whiteout in the place of `name`, whatever it is, and that into `work/` under the returned name.
    pub(crate) fn whiteout_instead(&self, dir: impl AsFd, name: &[u8]) -> Result<String, FsError> {
        let temporary = self.temporary();
        self.link_whiteout(&self.work, temporary.as_bytes())?;
        rustix::fs::renameat_with(&self.work, &*temporary, dir, name, RenameFlags::EXCHANGE)
            .map_err(FsError::upper("make a whiteout"))?;
        Ok(temporary)
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
            std::fs::write(&path, FORMAT).map_err(MountError::io("write", path))
        }
        Err(error) => Err(MountError::io("read", path)(error)),
    }
}
