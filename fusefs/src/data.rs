//! Contents: reading, writing, syncing, holes.

use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::disk;
use crate::error::FsError;
use crate::overlay::{Overlay, Place};
use crate::types::{Ino, Kind};
use crate::upper::system;

impl Overlay {
    /// Reads into `buffer` from `offset`; the number of bytes is short only at the end of the file.
    pub fn read_at(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<usize, FsError> {
        if let Some((blob, size)) = self.lower_content(ino)? {
            return self.blobs.read(blob, size, offset, buffer);
        }
        let file = self.file(ino)?.ok_or(FsError::BadView)?;
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(system("read")(error)),
            }
        }
        Ok(filled)
    }

    /// The blob of a file that is still the view's, and its size.
    pub(crate) fn lower_content(&self, ino: Ino) -> Result<Option<(cvs_store::BlobId, u64)>, FsError> {
        let tree = self.read();
        match tree.nodes.get(&ino) {
            Some(node) if node.upper => return Ok(None),
            _ => {}
        }
        let Place::Lower(id) = self.place(&tree, ino)? else { return Ok(None) };
        let entry = self.view.entry(id).ok_or(FsError::BadView)?;
        entry.blob.map(|blob| Some((blob, entry.size))).ok_or(FsError::Invalid)
    }

    /// The file, copied up where it must be, opened for writing.
    fn file_to_write(&self, ino: Ino) -> Result<std::sync::Arc<std::fs::File>, FsError> {
        self.writable()?;
        loop {
            if let Some(file) = self.file(ino)? {
                return Ok(file);
            }
            self.copy_up(ino, u64::MAX)?;
        }
    }

    /// Writes `data` at `offset`; the number of bytes is short only when the disk gets full, or the like, on the way.
    /// `unprivileged` clears setuid and setgid.
    pub fn write_at(&self, ino: Ino, offset: u64, data: &[u8], unprivileged: bool) -> Result<usize, FsError> {
        let file = self.file_to_write(ino)?;
        let mut written = 0;
        while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
            match disk::write_at(&file, rest, offset + written as u64) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The caller meets the error when it goes on from here.
                Err(_) if written > 0 => break,
                Err(error) => return Err(system("write")(error)),
            }
        }
        if unprivileged {
            self.drop_privileges_of(&file)?;
        }
        Ok(written)
    }

    /// Makes a file's content durable, and unless `data_only` its attributes and name.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<(), FsError> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let kind = {
            let tree = self.read();
            self.kind(&tree, ino)?
        };
        if !upper.durable || kind != Kind::File {
            return Ok(());
        }
        let Some(file) = self.file(ino)? else { return Ok(()) };
        match data_only {
            true => disk::fdatasync(&*file),
            false => disk::fsync(&*file),
        }
        .map_err(FsError::upper("sync"))
    }

    /// Allocates or frees a range; `mode` is that of fallocate(2). `unprivileged` clears setuid and setgid.
    pub fn fallocate(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        mode: u32,
        unprivileged: bool,
    ) -> Result<(), FsError> {
        let file = self.file_to_write(ino)?;
        disk::fallocate(&*file, FallocateFlags::from_bits_retain(mode), offset, len)
            .map_err(FsError::upper("allocate"))?;
        if unprivileged { self.drop_privileges_of(&file) } else { Ok(()) }
    }

    /// The next data or hole from `offset`.
    pub fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<u64, FsError> {
        let from = if data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
        let seek = |file: &std::fs::File| {
            rustix::fs::seek(file, from).map_err(|errno| match errno {
                Errno::NXIO => FsError::NoMoreData,
                errno => FsError::Upper { op: "seek", errno },
            })
        };
        // Descriptors are shared, but nobody uses their offsets.
        match self.lower_content(ino)? {
            Some((blob, size)) => seek(&*self.blobs.open(blob, size)?),
            None => seek(&*self.file(ino)?.ok_or(FsError::BadView)?),
        }
    }

    /// Copies a range within the filesystem; the number of bytes copied. `unprivileged` clears setuid and setgid.
    #[allow(clippy::too_many_arguments)]
    pub fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
        unprivileged: bool,
    ) -> Result<u64, FsError> {
        let target = self.file_to_write(to)?;
        let source = match self.lower_content(from)? {
            Some((blob, size)) => self.blobs.open(blob, size)?,
            None => self.file(from)?.ok_or(FsError::BadView)?,
        };
        let (mut from_offset, mut to_offset) = (from_offset, to_offset);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        let copied =
            disk::copy_file_range(&*source, Some(&mut from_offset), &*target, Some(&mut to_offset), len)
                .map_err(FsError::upper("copy"))?;
        if unprivileged {
            self.drop_privileges_of(&target)?;
        }
        Ok(copied as u64)
    }
}
