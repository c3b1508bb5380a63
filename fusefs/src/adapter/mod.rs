//! The thin layer between fuser and [`Overlay`](crate::overlay::Overlay): conversion of types, nothing else. What
//! differs between connections is in their [`Form`]. Every handler runs behind [`guard`], so that a panic costs one
//! request and not a thread. What may take long is answered by a thread of its own ([`aside`]).

mod answer;
mod aside;
mod listing;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

pub(crate) use self::answer::Adapter;
pub(crate) use self::aside::aside;
use crate::convert::{no_entry, set_time};
use crate::error::FsError;
use crate::form::Form;
use crate::reply::{FOREVER, GENERATION, empty, guard, xattr};
use crate::types::{Kind, Make, RenameMode, SetAttr};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[allow(clippy::too_many_arguments)]
impl<F: Form> Filesystem for Adapter<F> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.form.init(config)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = guard("lookup", parent.0, || {
            match self.form.dir(parent).and_then(|dir| self.overlay.lookup(dir, name.as_bytes())) {
                Ok(attr) => Ok(Some(attr)),
                Err(FsError::NotFound) => Ok(None),
                Err(error) => Err(error),
            }
        });
        match found {
            Ok(None) => reply.entry(&FOREVER, &no_entry(), GENERATION),
            Ok(Some(attr)) => self.entry(Ok(attr), reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        let _ = guard("forget", ino.0, || {
            self.form.forget(self.form.node(ino), count);
            Ok(())
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match guard("getattr", ino.0, || self.overlay.getattr(self.form.node(ino))) {
            Ok(attr) => reply.attr(&self.form.keep(attr.ino), &self.attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            perm: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: set_time(atime),
            mtime: set_time(mtime),
        };
        self.change_attributes(self.form.node(ino), change, Self::caller(request), reply);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match guard("readlink", ino.0, || self.overlay.readlink(self.form.node(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let what = match Kind::of_mode(mode) {
            Kind::File => Make::File,
            kind => Make::Special(kind, rdev),
        };
        self.entry(self.make(request, parent, name, what, mode), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(self.make(request, parent, name, Make::Dir, mode), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let what = Make::Symlink(target.as_os_str().as_bytes());
        self.entry(self.make(request, parent, name, what, 0o777), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = guard("unlink", parent.0, || self.overlay.unlink(self.form.dir(parent)?, name.as_bytes()));
        empty(done, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = guard("rmdir", parent.0, || {
            let dir = self.form.dir(parent)?;
            self.form.check_removal(dir, name.as_bytes())?;
            self.overlay.rmdir(dir, name.as_bytes())
        });
        empty(done, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = guard("rename", parent.0, || {
            let mode = match flags {
                RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
                RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
                flags if flags.is_empty() => RenameMode::Replace,
                // RENAME_WHITEOUT is for filesystems that are the upper layer of an overlayfs.
                _ => return Err(FsError::Invalid),
            };
            let (from, to) = (name.as_bytes(), newname.as_bytes());
            let (dir, newdir) = (self.form.dir(parent)?, self.form.dir(newparent)?);
            self.form.check_removal(dir, from)?;
            self.form.check_removal(newdir, to)?;
            self.overlay.rename(dir, from, newdir, to, mode)
        });
        empty(done, reply);
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (ino, name) = (self.form.node(ino), name.as_bytes().to_vec());
        self.change(ino, reply, move |this, reply| {
            let done = guard("link", ino.0, || this.overlay.link(ino, this.form.dir(parent)?, &name));
            this.entry(done, reply);
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (ino, caller) = (self.form.node(ino), Self::caller(request));
        let answer = move |this: &Self, reply| this.form.open(ino, flags, caller, reply);
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => answer(self, reply),
            _ => self.change(ino, reply, answer),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let buffer = buffer.get_mut(..size).unwrap_or_default();
            match guard("read", ino.0, || self.overlay.read_at(self.form.node(ino), offset, buffer)) {
                Ok(len) => reply.data(buffer.get(..len).unwrap_or_default()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let unprivileged = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.write_data(self.form.node(ino), offset, data, unprivileged, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _ = guard("release", ino.0, || {
            self.form.release(self.form.node(ino));
            Ok(())
        });
        reply.ok();
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        empty(guard("fsync", ino.0, || self.overlay.fsync(self.form.node(ino), datasync)), reply);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(ino, offset, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_and_look_up(ino, offset, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(guard("fsyncdir", ino.0, || self.overlay.fsync_dir(self.form.node(ino))), reply);
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match guard("statfs", ino.0, || self.overlay.space()) {
            Ok(s) => reply.statfs(
                s.blocks,
                s.free,
                s.available,
                s.files,
                s.files_free,
                s.block_size,
                cvs_store::NAME_MAX as u32,
                s.fragment_size,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (ino, flags) = (self.form.node(ino), flags as u32);
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        self.change(ino, reply, move |this, reply| {
            empty(guard("setxattr", ino.0, || this.overlay.setxattr(ino, &name, &value, flags)), reply);
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(
            guard("getxattr", ino.0, || self.overlay.getxattr(self.form.node(ino), name.as_bytes())),
            size,
            reply,
        );
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (ino, caller) = (self.form.node(ino), Self::caller(request));
        xattr(guard("listxattr", ino.0, || self.overlay.listxattr(ino, caller)), size, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            guard("removexattr", ino.0, || self.overlay.removexattr(self.form.node(ino), name.as_bytes())),
            reply,
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(request, parent, name, Make::File, mode) {
            Ok(attr) => {
                self.form.count_lookup(attr.ino);
                self.form.created(&attr, &self.attr(&attr), reply);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // The kernel leaves it to us to clear setuid, and does not say when.
        let (ino, mode, unprivileged) = (self.form.node(ino), mode as u32, request.uid() != 0);
        self.change(ino, reply, move |this, reply| {
            let done = || this.overlay.fallocate(ino, offset, length, mode, unprivileged);
            empty(guard("fallocate", ino.0, done), reply);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        /// `SEEK_DATA` and `SEEK_HOLE` of lseek(2); the kernel does the others by itself.
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let done = guard("lseek", ino.0, || {
            let offset = u64::try_from(offset).map_err(|_| FsError::NoMoreData)?;
            match whence {
                SEEK_DATA => self.overlay.seek(self.form.node(ino), offset, true),
                SEEK_HOLE => self.overlay.seek(self.form.node(ino), offset, false),
                _ => Err(FsError::Invalid),
            }
        });
        match done {
            Ok(offset) => reply.offset(offset as i64),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = (self.form.node(ino_in), self.form.node(ino_out));
        let unprivileged = request.uid() != 0;
        self.change(to, reply, move |this, reply| {
            let copy = || this.overlay.copy_range(from, offset_in, to, offset_out, len, unprivileged);
            match guard("copy_file_range", to.0, copy) {
                Ok(copied) => reply.written(copied as u32),
                Err(errno) => reply.error(errno),
            }
        });
    }

    // Permissions are checked by the kernel, locks are kept by the kernel, and there are no ioctls: after one of these
    // answers it does not ask again.

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _request: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
