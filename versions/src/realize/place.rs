//! The target directory, reached by descriptors: no symlink in it is ever followed, wherever it leads.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cvs_store::{BlobId, RelPath, Store, content_mtime};
use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawDir, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::RealizeError;
use super::listing::{FileNode, Node};

/// The directory of the target that holds our own files.
pub(super) const OWN: &str = ".cvs";
/// Bytes read and written at once.
pub(super) const BUFFER: usize = 1 << 20;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    /// Not even the directory is there.
    Nowhere,
    Dir,
    File(Stamp),
    Symlink(Vec<u8>),
    /// A socket, a pipe, a device.
    Other,
    /// The path lies below this one, which is not a directory.
    Below(RelPath),
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
}

/// A target, opened.
pub(super) struct Target {
    pub(super) path: PathBuf,
    root: OwnedFd,
}

impl Target {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), root })
    }

    pub(super) fn full(&self, path: &RelPath) -> PathBuf {
        self.path.join(path.as_path())
    }

    pub(super) fn root(&self) -> impl AsFd {
        self.root.as_fd()
    }

    /// Opens a directory, name by name. What is not a directory on the way is in the error's second part.
    pub(super) fn dir(&self, path: &RelPath) -> Result<OwnedFd, (Errno, RelPath)> {
        let mut at = RelPath::root();
        let mut fd = rustix::fs::openat(&self.root, ".", DIRECTORY, Mode::empty())
            .map_err(|errno| (errno, at.clone()))?;
        for name in path.names() {
            at = at.join(name).unwrap_or_default();
            fd = rustix::fs::openat(&fd, name, DIRECTORY, Mode::empty())
                .map_err(|errno| (errno, at.clone()))?;
        }
        Ok(fd)
    }

    /// What lies at each of `paths`, in their order. They are sorted, so that those of one directory stand together.
    pub(super) fn look(&self, paths: &[&RelPath]) -> Result<Vec<Found>, RealizeError> {
        let parent = |path: &RelPath| path.parent().unwrap_or_default();
        let mut groups: std::collections::BTreeMap<RelPath, Vec<usize>> = Default::default();
        for (index, path) in paths.iter().enumerate() {
            groups.entry(parent(path)).or_default().push(index);
        }
        let looked: Result<Vec<Vec<(usize, Found)>>, RealizeError> = groups
            .into_par_iter()
            .map(|(parent, members)| {
                let dir = match self.dir(&parent) {
                    Ok(dir) => dir,
                    Err((Errno::NOENT, _)) => {
                        return Ok(members.into_iter().map(|index| (index, Found::Nowhere)).collect());
                    }
                    Err((Errno::NOTDIR | Errno::LOOP, at)) => {
                        let below = |index| (index, Found::Below(at.clone()));
                        return Ok(members.into_iter().map(below).collect());
                    }
                    Err((errno, at)) => return Err(RealizeError::io("open", self.full(&at), errno)),
                };
                let look = |index: usize| {
                    let path = paths[index];
                    look_at(&dir, path.file_name().unwrap_or_default())
                        .map(|found| (index, found))
                        .map_err(|error| RealizeError::io("look at", self.full(path), error))
                };
                members.into_iter().map(look).collect()
            })
            .collect();
        let mut all = vec![Found::Absent; paths.len()];
        for (index, found) in looked?.into_iter().flatten() {
            all[index] = found;
        }
        Ok(all)
    }

    /// The names in a directory and whether each is a directory itself; none when there is no such directory.
    pub(super) fn list(&self, path: &RelPath) -> Result<Vec<(RelPath, bool)>, RealizeError> {
        let failed = |errno: Errno| RealizeError::io("list", self.full(path), errno);
        let fd = match self.dir(path) {
            Ok(fd) => fd,
            Err((Errno::NOENT | Errno::NOTDIR | Errno::LOOP, _)) => return Ok(Vec::new()),
            Err((errno, _)) => return Err(failed(errno)),
        };
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            // A name that no view could have is nothing of ours, and nothing that can be in its way.
            let (false, Ok(inside)) = (matches!(name, b"." | b".."), path.join(name)) else { continue };
            let is_dir = match entry.file_type() {
                FileType::Unknown => look_at(&fd, name).is_ok_and(|found| found == Found::Dir),
                kind => kind == FileType::Directory,
            };
            names.push((inside, is_dir));
        }
        names.sort();
        Ok(names)
    }

    /// Reads a file and says whether it has this content.
    pub(super) fn has_content(&self, path: &RelPath, blob: &BlobId) -> Result<bool, RealizeError> {
        let failed = |errno: Errno| RealizeError::io("read", self.full(path), errno);
        let dir = match self.dir(&path.parent().unwrap_or_default()) {
            Ok(dir) => dir,
            Err((Errno::NOENT | Errno::NOTDIR | Errno::LOOP, _)) => return Ok(false),
            Err((errno, _)) => return Err(failed(errno)),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&dir, path.file_name().unwrap_or_default(), flags, Mode::empty())
        {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        };
        content_is(file, blob).map_err(|error| RealizeError::io("read", self.full(path), error))
    }

    /// The steps in which the filesystem keeps the times of files, in nanoseconds: the largest power of ten that it
    /// rounded a time with nine digits to.
    pub(super) fn time_step(&self) -> Result<u32, RealizeError> {
        const ODD: i64 = 987_654_321;
        let own = self.path.join(OWN);
        let path = own.join("clock");
        let measure = || -> io::Result<u32> {
            let file = std::fs::File::create(&path)?;
            set_mtime(&file, (1_600_000_001, ODD as u32))?;
            let found = rustix::fs::fstat(&file)?.st_mtime_nsec as i64;
            std::fs::remove_file(&path)?;
            Ok((0..9)
                .map(|digits| 10i64.pow(digits))
                .rfind(|step| ODD / step * step == found)
                .unwrap_or(1_000_000_000) as u32)
        };
        measure().map_err(|error| RealizeError::io("write", path.clone(), error))
    }
}

/// True when the bytes of an open file have this hash.
pub(super) fn content_is(mut file: std::fs::File, blob: &BlobId) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().as_bytes() == blob.as_bytes()),
            Ok(n) => drop(hasher.update(&buffer[..n])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn look_at(dir: &OwnedFd, name: &[u8]) -> io::Result<Found> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Found::Absent),
        Err(errno) => return Err(errno.into()),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Dir,
        FileType::RegularFile => Found::File(Stamp {
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }),
        FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Found::Symlink(target.into_bytes()),
            Err(errno) => return Err(errno.into()),
        },
        _ => Found::Other,
    })
}

pub(super) fn set_mtime(file: impl AsFd, (tv_sec, nanoseconds): (i64, u32)) -> io::Result<()> {
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

/// Compares what is found with what a view puts there.
pub(super) struct Eye<'a> {
    pub(super) store: &'a Store,
    pub(super) time_step: u32,
}

impl Eye<'_> {
    /// True when cvs may have written `found` for `node`, in whichever form.
    pub(super) fn knows(&self, found: &Found, node: &Node) -> bool {
        match (found, node) {
            (Found::Dir, Node::Dir) => true,
            (Found::Symlink(found), Node::Symlink(target)) => **found == **target,
            (Found::File(stamp), Node::File(file)) => self.is_copy(stamp, file),
            (Found::Symlink(found), Node::File(file)) => file.model && is_link_to(found, &file.blob),
            _ => false,
        }
    }

    /// True when nothing is to be done: `node` lies there, in the form that is wanted.
    pub(super) fn fits(&self, found: &Found, node: &Node) -> bool {
        match (found, node) {
            (Found::Symlink(found), Node::File(file)) => {
                file.linked && found.as_slice() == self.store.blob_path(&file.blob).as_os_str().as_bytes()
            }
            (Found::File(stamp), Node::File(file)) => !file.linked && self.is_copy(stamp, file),
            _ => self.knows(found, node),
        }
    }

    fn is_copy(&self, stamp: &Stamp, file: &FileNode) -> bool {
        let (seconds, nanoseconds) = content_mtime(&file.blob);
        let step = self.time_step.max(1);
        stamp.size == file.size && stamp.mtime == (seconds, nanoseconds / step * step)
    }
}

/// True for a link to an object of this content in any store: a home that was moved is still the same home.
fn is_link_to(link: &[u8], blob: &BlobId) -> bool {
    let hex = blob.to_hex();
    link.ends_with(format!("/objects/blob/{}/{}", &hex[..2], &hex[2..]).as_bytes())
}

/// True when the directory holds nothing, or only what is ours. One that is not there holds nothing.
pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
    let fd = match rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    };
    for entry in Dir::new(fd)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b".." | b".cvs") {
            return Ok(false);
        }
    }
    Ok(true)
}
