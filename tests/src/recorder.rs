//! A disk that remembers every write and every flush, so that a test can look at what a power loss at any moment would
//! have left: an ext4 on a loop device whose file is served from memory here.
//!
//! The loop device hands each write and each flush of its filesystem on, one by one, to its file; FUSE, without a
//! writeback cache, does the same. A flush comes when all writes before it have come.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use tempfile::TempDir;

use crate::{DiskImage, Missing};

const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(1000);
const BLOCK: usize = 4096;

/// What came to the disk.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes at an offset, in the disk's cache at first.
    Write(u64, Vec<u8>),
    /// All that was written before is on the disk for good.
    Flush,
}

#[derive(Default)]
struct Recorded {
    content: Vec<u8>,
    events: Vec<Event>,
}

/// A disk being recorded.
pub struct Recorder {
    recorded: Arc<Mutex<Recorded>>,
    /// What was on it at the beginning.
    before: Vec<u8>,
    /// Fields are dropped in this order: the disk before what serves it.
    disk: Option<DiskImage>,
    session: Option<BackgroundSession>,
    _scratch: TempDir,
}

impl Recorder {
    /// An empty ext4 of so many bytes.
    pub fn start(bytes: u64) -> Result<Recorder, Missing> {
        let scratch = tempfile::Builder::new().prefix("cvs-recorder-").tempdir().expect("making a directory");
        let (image, served) = (scratch.path().join("empty"), scratch.path().join("served"));
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("making a file");
        DiskImage::format(&image)?;
        let before = std::fs::read(&image).expect("reading a file");
        std::fs::remove_file(&image).expect("removing a file");
        std::fs::create_dir(&served).expect("making a directory");
        let recorded = Arc::new(Mutex::new(Recorded { content: before.clone(), events: Vec::new() }));
        let session =
            fuser::spawn_mount(Served { recorded: Arc::clone(&recorded) }, &served, &Config::default())
                .map_err(|error| Missing(format!("a FUSE mount ({error})")))?;
        // From here on, what fails takes the mount down.
        let mut recorder =
            Recorder { recorded, before, disk: None, session: Some(session), _scratch: scratch };
        recorder.disk = Some(DiskImage::attach(&served.join(NAME))?);
        Ok(recorder)
    }

    /// The disk.
    pub fn disk(&mut self) -> &mut DiskImage {
        self.disk.as_mut().expect("it is there until the end")
    }

    /// How many events there were.
    pub fn now(&self) -> usize {
        lock(&self.recorded).events.len()
    }

    /// Ends it: the disk at the beginning, and all that came to it.
    pub fn finish(mut self) -> (Vec<u8>, Vec<Event>) {
        if let Some(disk) = self.disk.take() {
            disk.detach();
        }
        if let Some(session) = self.session.take() {
            session.umount_and_join().expect("unmounting a recorder");
        }
        let events = std::mem::take(&mut lock(&self.recorded).events);
        (std::mem::take(&mut self.before), events)
    }
}

impl Event {
    /// Does to a disk's content what the event did.
    pub fn apply(&self, content: &mut [u8]) {
        self.apply_where(content, || true);
    }

    /// Does it to the blocks of 4 KiB for which `is_kept` says so: a disk that loses its power may have written any.
    pub fn apply_where(&self, content: &mut [u8], mut is_kept: impl FnMut() -> bool) {
        let Event::Write(offset, data) = self else { return };
        let mut start = usize::try_from(*offset).expect("a small disk");
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (block, tail) = rest.split_at(rest.len().min(BLOCK - start % BLOCK));
            if is_kept() {
                content[start..start + block.len()].copy_from_slice(block);
            }
            (start, rest) = (start + block.len(), tail);
        }
    }
}

/// Writes a disk's content into a new file, without its zeros.
pub fn write_disk(file: &Path, content: &[u8]) {
    let target = File::create(file).expect("making a file");
    target.set_len(content.len() as u64).expect("making a file long");
    for (number, block) in content.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            target.write_all_at(block, (number * BLOCK) as u64).expect("writing a file");
        }
    }
}

fn lock(recorded: &Mutex<Recorded>) -> MutexGuard<'_, Recorded> {
    recorded.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Served {
    recorded: Arc<Mutex<Recorded>>,
}

impl Served {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_disk = ino == DISK;
        let size = if is_disk { lock(&self.recorded).content.len() as u64 } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: if is_disk { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

#[allow(clippy::too_many_arguments)]
impl Filesystem for Served {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &self.attr(DISK), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times, and nothing else, are set.
        reply.attr(&TTL, &self.attr(ino));
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let recorded = lock(&self.recorded);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(recorded.content.len());
        let end = start.saturating_add(size as usize).min(recorded.content.len());
        reply.data(&recorded.content[start..end]);
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut recorded = lock(&self.recorded);
        let event = Event::Write(offset, data.to_vec());
        event.apply(&mut recorded.content);
        recorded.events.push(event);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        lock(&self.recorded).events.push(Event::Flush);
        reply.ok();
    }
}
