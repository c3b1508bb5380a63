//! Bytes on their way into a transaction: streams and local files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{StoreError, write_error};
use crate::id::BlobId;
use crate::txn::{Staged, Transaction};

/// A blob of this size or more is synced when it ends rather than with the batch, so that the commit does not stall.
const LARGE: u64 = 8 << 20;
/// Files up to this size are read whole and hashed before anything is written: most of them are there already.
const SMALL: u64 = 256 << 10;
/// Bytes read at once from a large file; enough for BLAKE3 to use all cores.
const CHUNK: usize = 8 << 20;
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
    /// The file itself becomes the object, and its old name goes when the commit has succeeded. Across filesystems,
    /// a copy. A program that still has it open for writing would damage the object.
    Move,
    /// The file and the object share their bytes. Its mode becomes 0444; whoever writes into it in place (root can)
    /// damages the object. Across filesystems, a copy.
    HardLink,
}

/// Writes one blob: hashed and stored in one pass. Dropped before [`BlobWriter::finish`], it leaves nothing.
pub struct BlobWriter<'a> {
    txn: &'a Transaction,
    path: PathBuf,
    file: Option<File>,
    hasher: blake3::Hasher,
    size: u64,
}

impl BlobWriter<'_> {
    /// Ends the blob.
    pub fn finish(mut self) -> Result<StoredBlob, StoreError> {
        let id = BlobId::from_bytes(*self.hasher.finalize().as_bytes());
        let stored = StoredBlob { id, size: self.size };
        let Some(file) = self.file.take() else { return Ok(stored) };
        if self.txn.claim(id.into())? == Some(self.size) {
            let _ = fs::remove_file(&self.path);
            return Ok(stored);
        }
        let durable = self.size >= LARGE;
        let done = file.set_permissions(fs::Permissions::from_mode(0o444)).and_then(|()| match durable {
            true => file.sync_data(),
            false => Ok(()),
        });
        if let Err(error) = done {
            let _ = fs::remove_file(&self.path);
            return Err(write_error("write", &self.path, self.size, error));
        }
        let staged =
            Staged { path: std::mem::take(&mut self.path), size: self.size, durable, protect: false };
        self.txn.stage(id.into(), staged);
        Ok(stored)
    }

    fn hash(&mut self, bytes: &[u8]) {
        if bytes.len() >= PARALLEL_HASH {
            self.hasher.update_rayon(bytes);
        } else {
            self.hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash(bytes);
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Transaction {
    /// A writer for one blob whose bytes are not at hand at once.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let path = self.next_path();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = Some(file.map_err(|e| write_error("create", &path, 0, e))?);
        Ok(BlobWriter { txn: self, path, file, hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Stores a local file.
    pub fn put_file(&self, path: &Path, how: Intake) -> Result<StoredBlob, StoreError> {
        let failed = |op| move |error| StoreError::io(op, path, error);
        let mut source = File::open(path).map_err(failed("open"))?;
        let metadata = source.metadata().map_err(failed("look at"))?;
        match how {
            Intake::Copy if metadata.len() <= SMALL => {
                let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
                source.read_to_end(&mut bytes).map_err(failed("read"))?;
                let size = bytes.len() as u64;
                Ok(StoredBlob { id: self.put_bytes(&bytes)?, size })
            }
            Intake::Copy => self.copy_large(path, source, metadata.len()),
            Intake::Move | Intake::HardLink => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_mmap_rayon(path).map_err(failed("read"))?;
                let id = BlobId::from_bytes(*hasher.finalize().as_bytes());
                let after = fs::symlink_metadata(path).map_err(failed("look at"))?;
                let stamp = |m: &fs::Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
                if stamp(&metadata) != stamp(&after) {
                    return Err(StoreError::Changed { path: path.to_owned() });
                }
                self.link_in(path, id, metadata.len(), how == Intake::Move)
            }
        }
    }

    /// Takes over a file that the caller has hashed itself and that nobody else writes, such as a finished download.
    /// The file must be on the store's filesystem; it is removed when the commit has succeeded.
    pub fn adopt(&self, path: &Path, id: BlobId, size: u64) -> Result<StoredBlob, StoreError> {
        let found = fs::metadata(path).map_err(|e| StoreError::io("look at", path, e))?.len();
        if found != size {
            return Err(StoreError::Changed { path: path.to_owned() });
        }
        self.link_in(path, id, size, true)
    }

    /// Stages another name of `path`. The source keeps its own until the commit, so that a crash loses nothing.
    fn link_in(&self, path: &Path, id: BlobId, size: u64, remove: bool) -> Result<StoredBlob, StoreError> {
        let stored = StoredBlob { id, size };
        let staged = self.next_path();
        match fs::hard_link(path, &staged) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
                let copied = self.copy_large(path, file, size)?;
                if copied.id != id {
                    return Err(StoreError::Changed { path: path.to_owned() });
                }
                if remove {
                    self.remove_after_commit(path);
                }
                return Ok(copied);
            }
            Err(error) => return Err(write_error("link", &staged, size, error)),
        }
        let synced = File::open(&staged).and_then(|file| file.sync_data());
        synced.map_err(|e| write_error("sync", &staged, size, e))?;
        self.stage(id.into(), Staged { path: staged, size, durable: true, protect: true });
        if remove {
            self.remove_after_commit(path);
        }
        Ok(stored)
    }

    fn copy_large(&self, path: &Path, mut source: File, len: u64) -> Result<StoredBlob, StoreError> {
        let mut writer = self.blob_writer()?;
        let Some(target) = &writer.file else { return Err(StoreError::Changed { path: path.to_owned() }) };
        if rustix::fs::ioctl_ficlone(target, &source).is_ok() {
            // The clone is a snapshot: it is hashed rather than the source, which may change.
            let read = writer.hasher.update_mmap_rayon(&writer.path);
            read.map_err(|e| StoreError::io("read", &writer.path, e))?;
            writer.size = fs::metadata(&writer.path).map_err(|e| StoreError::io("look at", path, e))?.len();
            return writer.finish();
        }
        let mut buffer = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK).max(1))];
        loop {
            let filled = fill(&mut source, &mut buffer).map_err(|e| StoreError::io("read", path, e))?;
            writer
                .write_all(&buffer[..filled])
                .map_err(|e| write_error("write", &writer.path, len.saturating_sub(writer.size), e))?;
            if filled < buffer.len() {
                return writer.finish();
            }
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(source: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
