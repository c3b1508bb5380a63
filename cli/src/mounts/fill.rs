//! Putting files into the overlay of a version without mounting it: what an import brings of `output`, `input` and
//! `user`. It goes through the overlay's own operations, so that its bookkeeping is what a mount would have written.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_fusefs::{Caller, FsError, Ino, Kind, Make, Overlay, RenameMode, SetAttr, SetTime};
use cvs_store::{Store, View};

use super::error::MountsError;
use crate::error::CliError;

/// Read at once.
const BUFFER: usize = 1 << 20;
/// A file that is not complete yet.
const PARTIAL: &[u8] = b".cvs-import.part";

/// What was put in.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Filled {
    /// Files and symlinks.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files that the view has with the same content.
    pub(crate) same: u64,
    /// Sockets, pipes and devices, which are left out, and the first of them.
    #[serde(skip)]
    pub(crate) special: usize,
    #[serde(skip)]
    pub(crate) first_special: Option<PathBuf>,
}

/// The overlay of a version, open for being filled.
pub(crate) struct Fill<'a> {
    overlay: Overlay,
    caller: Caller,
    cancel: &'a AtomicBool,
}

impl<'a> Fill<'a> {
    pub(crate) fn open(
        store: &Store,
        view: View,
        upper: &Path,
        cancel: &'a AtomicBool,
    ) -> Result<Self, cvs_fusefs::MountError> {
        let overlay = Overlay::new(store.clone(), view, Some(upper), true)?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Self { overlay, caller: Caller { uid, gid }, cancel })
    }

    /// Copies the directory `from` to `name` at the root. A file of the same content that is there already stays, and
    /// one with other content that a run has written is an error.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<Filled, CliError> {
        let mut filled = Filled::default();
        let dir = self.directory(Ino::ROOT, name.as_bytes(), from)?;
        self.tree(from, dir, &mut filled)?;
        Ok(filled)
    }

    fn tree(&self, from: &Path, to: Ino, filled: &mut Filled) -> Result<(), CliError> {
        let entries = fs::read_dir(from).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut entries = entries.map_err(failed("list", from))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CliError::Interrupted);
            }
            let (path, name) = (entry.path(), entry.file_name());
            let metadata = entry.metadata().map_err(failed("look at", &path))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                let dir = self.directory(to, name.as_bytes(), &path)?;
                self.tree(&path, dir, filled)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(failed("read", &path))?;
                if let Ok(found) = self.overlay.lookup(to, name.as_bytes())
                    && self
                        .overlay
                        .readlink(found.ino)
                        .is_ok_and(|known| known == target.as_os_str().as_bytes())
                {
                    filled.same += 1;
                    continue;
                }
                self.clear(to, name.as_bytes()).map_err(refused(&path))?;
                let what = Make::Symlink(target.as_os_str().as_bytes());
                self.overlay.make(to, name.as_bytes(), what, 0o777, self.caller).map_err(refused(&path))?;
                filled.files += 1;
            } else if kind.is_file() {
                self.file(&path, &metadata, to, name.as_bytes(), filled)?;
            } else {
                // A socket or pipe belongs to a process that has it open.
                filled.special += 1;
                filled.first_special.get_or_insert(path);
            }
        }
        Ok(())
    }

    fn directory(&self, parent: Ino, name: &[u8], from: &Path) -> Result<Ino, CliError> {
        match self.overlay.lookup(parent, name) {
            Ok(found) if found.kind == Kind::Dir => return Ok(found.ino),
            Ok(_) => self.clear(parent, name).map_err(refused(from))?,
            Err(FsError::NotFound) => {}
            Err(error) => return Err(refused(from)(error)),
        }
        let made = self.overlay.make(parent, name, Make::Dir, 0o755, self.caller);
        Ok(made.map_err(refused(from))?.ino)
    }

    /// Makes room for `name` where the view has it. What a run has written there stays: nobody else has it.
    fn clear(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        match self.overlay.lookup(parent, name) {
            Ok(found) if self.overlay.is_written(found.ino) => Err(FsError::Exists),
            Ok(_) => self.overlay.unlink(parent, name),
            Err(FsError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn file(
        &self,
        path: &Path,
        metadata: &fs::Metadata,
        to: Ino,
        name: &[u8],
        filled: &mut Filled,
    ) -> Result<(), CliError> {
        let mut source = File::open(path).map_err(failed("open", path))?;
        if let Ok(found) = self.overlay.lookup(to, name)
            && found.kind == Kind::File
            && found.size == metadata.len()
            && self.is_same(found.ino, path)?
        {
            filled.same += 1;
            return Ok(());
        }
        self.clear(to, name).map_err(refused(path))?;
        let mode = metadata.mode() & 0o777;
        match self.overlay.unlink(to, PARTIAL) {
            Ok(()) | Err(FsError::NotFound) => {}
            Err(error) => return Err(refused(path)(error)),
        }
        let made = self.overlay.make(to, PARTIAL, Make::File, mode, self.caller).map_err(refused(path))?;
        let moved = self.bring(&mut source, path, metadata, made.ino).and_then(|bytes| {
            let renamed = self.overlay.rename(to, PARTIAL, to, name, RenameMode::Replace);
            renamed.map(|()| bytes).map_err(refused(path))
        });
        match moved {
            Ok(bytes) => {
                filled.files += 1;
                filled.bytes += bytes;
                Ok(())
            }
            Err(error) => {
                // What stopped the copy is the error to tell; the next fill takes away a part that stays.
                let _ = self.overlay.unlink(to, PARTIAL);
                Err(error)
            }
        }
    }

    /// Copies content and times; returns the bytes.
    fn bring(
        &self,
        source: &mut File,
        path: &Path,
        metadata: &fs::Metadata,
        ino: Ino,
    ) -> Result<u64, CliError> {
        let (mut buffer, mut offset) = (vec![0; BUFFER], 0);
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CliError::Interrupted);
            }
            let count = source.read(&mut buffer).map_err(failed("read", path))?;
            if count == 0 {
                break;
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let written = self.overlay.write_at(ino, offset, rest, false).map_err(refused(path))?;
                if written == 0 {
                    return Err(refused(path)(FsError::NotFound));
                }
                offset += written as u64;
                rest = &rest[written..];
            }
        }
        let time = |seconds: i64, nanos: i64| Some(SetTime::To((seconds, nanos as u32)));
        let times = SetAttr {
            atime: time(metadata.atime(), metadata.atime_nsec()),
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ..SetAttr::default()
        };
        self.overlay.setattr(ino, times, self.caller).map_err(refused(path))?;
        Ok(offset)
    }

    fn is_same(&self, ino: Ino, path: &Path) -> Result<bool, CliError> {
        let mut source = File::open(path).map_err(failed("open", path))?;
        let (mut ours, mut theirs, mut offset) = (vec![0; BUFFER], vec![0; BUFFER], 0);
        loop {
            let count = source.read(&mut theirs).map_err(failed("read", path))?;
            if count == 0 {
                return Ok(true);
            }
            let mut done = 0;
            while done < count {
                let read = self.overlay.read_at(ino, offset + done as u64, &mut ours[done..count]);
                match read.map_err(refused(path))? {
                    0 => return Ok(false),
                    read => done += read,
                }
            }
            if ours[..count] != theirs[..count] {
                return Ok(false);
            }
            offset += count as u64;
        }
    }
}

fn failed(op: &'static str, path: &Path) -> impl Fn(std::io::Error) -> CliError {
    let path: PathBuf = path.to_owned();
    move |source| MountsError::Io { op, path: path.clone(), source }.into()
}

fn refused(path: &Path) -> impl Fn(FsError) -> CliError {
    let path: PathBuf = path.to_owned();
    move |error| {
        let source = std::io::Error::from_raw_os_error(error.errno());
        MountsError::Io { op: "put into the overlay", path: path.clone(), source }.into()
    }
}
