//! Bytes on their way into a transaction: streams and local files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{StoreError, write_error};
use crate::hash;
use crate::id::BlobId;
use crate::stamp::Stamp;
use crate::txn::{Staged, Transaction};

/// A blob of this size or more is synced when it ends rather than with the batch, so that the commit does not stall.
const LARGE: u64 = 8 << 20;
/// Files up to this size are read whole and hashed before anything is written: most of them are there already.
const SMALL: u64 = 256 << 10;
/// From this size on a buffer is worth more than one thread.
const PARALLEL_HASH: usize = 256 << 10;

/// A blob that is in the store or staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its identity.
    pub id: BlobId,
    /// Its size in bytes.
    pub size: u64,
}

/// How a local file enters the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// A copy; by reflink where the filesystem has it. The source is only read.
    Copy,
    /// The file itself becomes the object, and its old name goes by [`Transaction::remove_sources`]. Where it cannot be
    /// linked (another filesystem, a symlink), a copy. A program that still has it open for writing would damage the
    /// object.
    Move,
    /// The file and the object share their bytes; of a symlink, the file it leads to. It loses its write permissions, and
    /// can be read by all; whoever writes into it in place (root can) damages the object. Where it cannot be linked, a
    /// copy.
    HardLink,
}

/// What the caller says of a file that it has hashed.
#[derive(Clone, Copy)]
struct Hashed {
    blob: StoredBlob,
    /// What the file was before; none for one that nobody else writes.
    stamp: Option<Stamp>,
}

/// Writes one blob: hashed and stored in one pass. Dropped before [`BlobWriter::finish`], or after a write that failed,
/// it leaves nothing.
pub struct BlobWriter<'a> {
    txn: &'a Transaction,
    path: PathBuf,
    /// None after a write that failed: nobody can tell how much of it is in the file.
    file: Option<File>,
    hasher: blake3::Hasher,
    size: u64,
}

impl BlobWriter<'_> {
    /// Ends the blob.
    ///
    /// # Errors
    /// After a write that failed there is no blob to end.
    pub fn finish(mut self) -> Result<StoredBlob, StoreError> {
        let Some(file) = self.file.take() else {
            let failed = io::Error::other("an earlier write failed");
            return Err(StoreError::io("finish", &self.path, failed));
        };
        let id = BlobId::from_bytes(*self.hasher.finalize().as_bytes());
        let (stored, taken) = self.txn.take_file(&self.path, &file, id, self.size)?;
        if taken {
            self.path.clear();
        }
        Ok(stored)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("an earlier write failed"));
        };
        let mut write = || file.write_all(bytes);
        let hasher = &mut self.hasher;
        let written = if bytes.len() >= PARALLEL_HASH {
            rayon::join(write, || {
                hasher.update_rayon(bytes);
            })
            .0
        } else {
            hasher.update(bytes);
            write()
        };
        if let Err(error) = written {
            self.file = None;
            return Err(error);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Transaction {
    /// A writer for one blob whose bytes are not at hand at once.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let (path, file) = self.create()?;
        Ok(BlobWriter { txn: self, path, file: Some(file), hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Stores a local file.
    ///
    /// # Errors
    /// Besides those of reading and writing, [`StoreError::Changed`] for a file that is written while it is linked in.
    pub fn put_file(&self, path: &Path, how: Intake) -> Result<StoredBlob, StoreError> {
        self.put(path, how, None)
    }

    /// [`Self::put_file`] for a file that the caller has hashed: what is linked in is not read again, and what has to be
    /// copied must be what was hashed. `before` is what the file was before it was read.
    ///
    /// # Errors
    /// Besides those of [`Self::put_file`], [`StoreError::Changed`] for a file that is another one now, or was written.
    pub fn put_hashed(
        &self,
        path: &Path,
        how: Intake,
        blob: StoredBlob,
        before: &fs::Metadata,
    ) -> Result<StoredBlob, StoreError> {
        self.put_promised(path, how, Hashed { blob, stamp: Some(Stamp::of(before)) })
    }

    /// Takes over a file that the caller has hashed itself and that nobody else writes, such as a finished download.
    /// The file should be on the store's filesystem; [`Self::remove_sources`] removes it.
    pub fn adopt(&self, path: &Path, id: BlobId, size: u64) -> Result<StoredBlob, StoreError> {
        self.put_promised(path, Intake::Move, Hashed { blob: StoredBlob { id, size }, stamp: None })
    }

    fn put_promised(&self, path: &Path, how: Intake, hashed: Hashed) -> Result<StoredBlob, StoreError> {
        match self.put(path, how, Some(hashed))? {
            stored if stored == hashed.blob => Ok(stored),
            _ => Err(StoreError::Changed { path: path.to_owned() }),
        }
    }

    fn put(&self, path: &Path, how: Intake, hashed: Option<Hashed>) -> Result<StoredBlob, StoreError> {
        let failed = |op| move |error| StoreError::io(op, path, error);
        let symlink = how != Intake::Copy
            && fs::symlink_metadata(path).map_err(failed("look at"))?.file_type().is_symlink();
        match how {
            Intake::Copy => self.copy(path),
            Intake::HardLink if symlink => {
                self.link_in(&fs::canonicalize(path).map_err(failed("resolve"))?, hashed, false)
            }
            Intake::HardLink => self.link_in(path, hashed, false),
            // What others reach by other ways stays where it is: only this name goes.
            Intake::Move if symlink => self.copy_and_remove(path),
            Intake::Move => self.link_in(path, hashed, true),
        }
    }

    /// Stages another name of `path`. The source keeps its own, so that a crash loses nothing.
    fn link_in(&self, path: &Path, hashed: Option<Hashed>, remove: bool) -> Result<StoredBlob, StoreError> {
        let staged = self.next_path();
        if let Err(error) = fs::hard_link(path, &staged) {
            // Another filesystem, or one without links; a file of somebody else; a file with too many names.
            let by_copy = matches!(
                error.kind(),
                io::ErrorKind::CrossesDevices
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::TooManyLinks
            );
            return match (by_copy, remove) {
                (false, _) => Err(write_error("link", path, 0, error)),
                (true, false) => self.copy(path),
                (true, true) => self.copy_and_remove(path),
            };
        }
        let taken = self.take_link(path, &staged, hashed);
        if !matches!(taken, Ok((_, _, true))) {
            let _ = fs::remove_file(&staged);
        }
        let (stored, stamp, _) = taken?;
        if remove {
            self.remove_later(path, stamp);
        }
        Ok(stored)
    }

    /// Hashes `staged`, a link to `path`; false when its content is here already and it was not taken. Whoever wrote
    /// the file may not have synced it: large ones are synced here, the others with the batch.
    fn take_link(
        &self,
        path: &Path,
        staged: &Path,
        hashed: Option<Hashed>,
    ) -> Result<(StoredBlob, Stamp, bool), StoreError> {
        let failed = |op| move |error| StoreError::io(op, path, error);
        let (file, stamp) = open_regular(staged, OFlags::NOFOLLOW).map_err(failed("open"))?;
        let stored = match hashed {
            // Another file under this name by now, or this one written to, is not what was hashed.
            Some(hashed) if hashed.stamp.is_some_and(|before| before != stamp) => {
                return Err(StoreError::Changed { path: path.to_owned() });
            }
            Some(hashed) => hashed.blob,
            None => {
                let id = hash::hash_file(&file, stamp.size, &|_| Ok(())).map_err(failed("read"))?;
                StoredBlob { id, size: stamp.size }
            }
        };
        let after = Stamp::of(&file.metadata().map_err(failed("look at"))?);
        if after != stamp || stored.size != stamp.size {
            return Err(StoreError::Changed { path: path.to_owned() });
        }
        if self.claim(stored.id.into())? == Some(stored.size) {
            return Ok((stored, stamp, false));
        }
        let durable = stored.size >= LARGE;
        if durable {
            file.sync_data().map_err(|e| write_error("sync", path, stored.size, e))?;
        }
        let object = Staged { path: staged.to_owned(), size: stored.size, durable, protect: true };
        self.stage(stored.id.into(), object);
        Ok((stored, stamp, true))
    }

    fn copy_and_remove(&self, path: &Path) -> Result<StoredBlob, StoreError> {
        let stamp = fs::symlink_metadata(path).map_err(|e| StoreError::io("look at", path, e))?;
        let stored = self.copy(path)?;
        self.remove_later(path, Stamp::of(&stamp));
        Ok(stored)
    }

    fn copy(&self, path: &Path) -> Result<StoredBlob, StoreError> {
        let failed = |op| move |error| StoreError::io(op, path, error);
        let (mut source, Stamp { size: len, .. }) =
            open_regular(path, OFlags::empty()).map_err(failed("open"))?;
        if len <= SMALL {
            let mut bytes = Vec::with_capacity(len as usize + 1);
            source.read_to_end(&mut bytes).map_err(failed("read"))?;
            return Ok(StoredBlob { id: self.put_bytes(&bytes)?, size: bytes.len() as u64 });
        }
        let (staged, target) = self.create()?;
        let done = self.fill(path, &source, &target, len);
        let done = done.and_then(|id| self.take_file(&staged, &target, id, len));
        if !matches!(done, Ok((_, true))) {
            let _ = fs::remove_file(&staged);
        }
        done.map(|(stored, _)| stored)
    }

    /// Makes `target` a copy of `source`.
    fn fill(&self, path: &Path, source: &File, target: &File, len: u64) -> Result<BlobId, StoreError> {
        let read_error = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::Changed { path: path.to_owned() },
            _ => StoreError::io("read", path, error),
        };
        if rustix::fs::ioctl_ficlone(target, source).is_ok() {
            // The clone is a snapshot: it is hashed rather than the source, which may change.
            let size = target.metadata().map_err(read_error)?.len();
            return match size == len {
                true => hash::hash_file(target, len, &|_| Ok(())).map_err(read_error),
                false => Err(StoreError::Changed { path: path.to_owned() }),
            };
        }
        let short = |at: u64, error| {
            write_error("write", &self.lease.directory().join("object"), len.saturating_sub(at), error)
        };
        // A file that cannot fit is refused before it takes the room that others still need.
        let room = rustix::fs::fstatvfs(target).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
        if room < len {
            return Err(short(0, io::ErrorKind::StorageFull.into()));
        }
        hash::copy_file(source, target, len).map_err(|error| match error {
            hash::CopyError::Read(error) => read_error(error),
            hash::CopyError::Write(at, error) => short(at, error),
        })
    }

    /// A new file in the staging directory.
    fn create(&self) -> Result<(PathBuf, File), StoreError> {
        let path = self.next_path();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| write_error("create", &path, 0, e))?;
        Ok((path, file))
    }

    /// Stages a file that is written to its end; false when its content is here already and it was not taken.
    fn take_file(
        &self,
        path: &Path,
        file: &File,
        id: BlobId,
        size: u64,
    ) -> Result<(StoredBlob, bool), StoreError> {
        let stored = StoredBlob { id, size };
        if self.claim(id.into())? == Some(size) {
            return Ok((stored, false));
        }
        let durable = size >= LARGE;
        let done = file.set_permissions(fs::Permissions::from_mode(0o444)).and_then(|()| match durable {
            true => file.sync_data(),
            false => Ok(()),
        });
        done.map_err(|e| write_error("write", path, size, e))?;
        self.stage(id.into(), Staged { path: path.to_owned(), size, durable, protect: false });
        Ok((stored, true))
    }
}

/// Opens a regular file, and nothing else: opening a pipe would wait for its writer.
fn open_regular(path: &Path, flags: OFlags) -> io::Result<(File, Stamp)> {
    let flags = (OFlags::NONBLOCK | flags).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, Stamp::of(&metadata)))
}
