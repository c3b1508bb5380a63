//! A directory of the system, asked by real calls. The process is where the operation starts: paths are relative.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec,
    Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::listing::Listing;
use super::ops::{ATTRIBUTES, BLOCK, Bits, How, Op, Path, SLOTS, TARGETS, filled};
use super::outcome::{Attributes, Outcome, Seen};
use crate::sys;
use crate::trees::bytes;

/// A process's view of one directory: where it is, and what it holds.
pub(crate) struct Dir {
    root: OwnedFd,
    cwd: Option<OwnedFd>,
    slots: [Option<Handle>; SLOTS as usize],
    started: i64,
}

struct Handle {
    file: File,
    direct: bool,
    map: Option<Map>,
    listing: Listing,
}

struct Map {
    map: MmapMut,
    shared: bool,
}

fn done<T>(result: Result<T, Errno>) -> Result<Seen, Errno> {
    result.map(|_| Seen::Done)
}

fn mode(bits: Bits) -> Mode {
    Mode::from_raw_mode(bits.0)
}

fn times(time: Option<i64>) -> Timestamps {
    let modified = match time {
        Some(seconds) => Timespec { tv_sec: seconds, tv_nsec: 7 },
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
    };
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: modified,
    }
}

fn follow(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn joined(path: &Path) -> Vec<u8> {
    let names = path.bytes();
    if names.is_empty() { b".".to_vec() } else { names.join(&b'/') }
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn names_in(dir: impl AsFd) -> Result<BTreeSet<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::new(fd)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(name);
        }
    }
    Ok(names)
}

impl Dir {
    pub(crate) fn open(root: &PathBuf, started: i64) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).unwrap();
        Self { root, cwd: None, slots: Default::default(), started }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.cwd.as_ref().unwrap_or(&self.root).as_fd()
    }

    /// Goes where a path starts, which not everybody may; the rest of it.
    fn start(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        rustix::process::fchdir(self.base(path))?;
        Ok(joined(path))
    }

    /// Where a path starts.
    fn base(&self, path: &Path) -> BorrowedFd<'_> {
        if path.from_cwd { self.here() } else { self.root.as_fd() }
    }

    fn filled(&self, slot: u8) -> usize {
        filled(slot, |slot| self.slots[slot].is_some())
    }

    fn held(&self, stat: &Stat) -> Vec<u8> {
        let holds = |slot: &u8| {
            self.slots[usize::from(*slot)]
                .as_ref()
                .is_some_and(|handle| rustix::fs::fstat(&handle.file).is_ok_and(|held| same(&held, stat)))
        };
        (0..SLOTS).filter(holds).collect()
    }

    fn attributes(&self, stat: &Stat) -> Seen {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Seen::Attributes(Attributes {
            mode: format!("{:o}", stat.st_mode),
            nlink: stat.st_nlink,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: (!is_dir).then_some(stat.st_size as u64),
            mtime: (stat.st_mtime < self.started).then_some((stat.st_mtime, stat.st_mtime_nsec as u32)),
            held: self.held(stat),
        })
    }

    pub(crate) fn run(&mut self, op: &Op) -> Outcome {
        let outcome = match op {
            Op::Open(path, how, bits, slot) => self.open_file(path, how, *bits, *slot),
            Op::Chdir(path) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.start(path)
                    .and_then(|path| rustix::fs::openat(CWD, path, flags, Mode::empty()))
                    // Being able to go there is more than being able to name it.
                    .and_then(|dir| rustix::process::fchdir(&dir).map(|()| self.cwd = Some(dir)))
                    .map(|()| Seen::Done)
            }
            Op::Close(slot) => {
                self.slots[usize::from(*slot)] = None;
                Ok(Seen::Done)
            }
            _ if op.slot().is_some() => self.run_held(op),
            _ => self.run_named(op),
        };
        outcome.map_err(Errno::raw_os_error)
    }

    fn run_named(&self, op: &Op) -> Result<Seen, Errno> {
        match op {
            Op::Mkdir(path, bits) => done(rustix::fs::mkdirat(CWD, self.start(path)?, mode(*bits))),
            Op::Symlink(path, target) => {
                done(rustix::fs::symlinkat(TARGETS[usize::from(*target)], CWD, self.start(path)?))
            }
            Op::Mknod(path, kind, bits) => {
                let kind = [FileType::Fifo, FileType::Socket, FileType::CharacterDevice][usize::from(*kind)];
                done(rustix::fs::mknodat(CWD, self.start(path)?, kind, mode(*bits), 0))
            }
            Op::Unlink(path) => done(rustix::fs::unlinkat(CWD, self.start(path)?, AtFlags::empty())),
            Op::Rmdir(path) => done(rustix::fs::unlinkat(CWD, self.start(path)?, AtFlags::REMOVEDIR)),
            Op::Rename(from, to, flags) => {
                let flags = RenameFlags::from_bits_retain(u32::from(*flags));
                let from_dir = self.base(from);
                let to = self.start(to)?;
                done(rustix::fs::renameat_with(from_dir, joined(from), CWD, to, flags))
            }
            Op::Link(from, to, follow) => {
                let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                let from_dir = self.base(from);
                let to = self.start(to)?;
                done(rustix::fs::linkat(from_dir, joined(from), CWD, to, flags))
            }
            Op::Chmod(path, bits) => {
                done(rustix::fs::chmodat(CWD, self.start(path)?, mode(*bits), AtFlags::empty()))
            }
            Op::Chown(path, user, follows) => {
                let (uid, gid) = (Uid::from_raw(*user), Gid::from_raw(*user));
                let path = self.start(path)?;
                if *user == u32::MAX {
                    done(rustix::fs::chownat(CWD, path, None, None, follow(*follows)))
                } else {
                    done(rustix::fs::chownat(CWD, path, Some(uid), Some(gid), follow(*follows)))
                }
            }
            Op::Utimens(path, time) => {
                done(rustix::fs::utimensat(CWD, self.start(path)?, &times(*time), AtFlags::SYMLINK_NOFOLLOW))
            }
            Op::Truncate(path, size) => {
                let path = std::ffi::CString::new(self.start(path)?).unwrap();
                nix::unistd::truncate(&*path, i64::from(*size))
                    .map_err(|errno| Errno::from_raw_os_error(errno as i32))
                    .map(|()| Seen::Done)
            }
            Op::Setxattr(path, name, len, flags) => {
                let (path, value) = (self.start(path)?, bytes(7, usize::from(*len)));
                let flags = XattrFlags::from_bits_retain(u32::from(*flags));
                done(rustix::fs::lsetxattr(path, ATTRIBUTES[usize::from(*name)], &value, flags))
            }
            Op::Getxattr(path, name) => {
                let mut value = [0u8; 256];
                rustix::fs::lgetxattr(self.start(path)?, ATTRIBUTES[usize::from(*name)], &mut value[..])
                    .map(|len| Seen::bytes(&value[..len]))
            }
            Op::Listxattr(path) => {
                let mut names = [0u8; 1024];
                rustix::fs::llistxattr(self.start(path)?, &mut names[..]).map(|len| {
                    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
                    Seen::names(names.map(<[u8]>::to_vec))
                })
            }
            Op::Removexattr(path, name) => {
                done(rustix::fs::lremovexattr(self.start(path)?, ATTRIBUTES[usize::from(*name)]))
            }
            Op::Stat(path, follows) => rustix::fs::statat(CWD, self.start(path)?, follow(*follows))
                .map(|stat| self.attributes(&stat)),
            Op::Readlink(path) => rustix::fs::readlinkat(CWD, self.start(path)?, Vec::new())
                .map(|target| Seen::Text(target.to_string_lossy().into_owned())),
            Op::List(path) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::openat(CWD, self.start(path)?, flags, Mode::empty())
                    .and_then(names_in)
                    .map(Seen::names)
            }
            _ => unreachable!("{op:?}"),
        }
    }

    fn open_file(&mut self, path: &Path, how: &How, bits: Bits, slot: u8) -> Result<Seen, Errno> {
        let fd = rustix::fs::openat(CWD, self.start(path)?, how.flags(), mode(bits))?;
        let handle =
            Handle { file: fd.into(), direct: how.has("direct"), map: None, listing: Listing::default() };
        self.slots[usize::from(slot)] = Some(handle);
        Ok(Seen::Done)
    }

    fn run_held(&mut self, op: &Op) -> Result<Seen, Errno> {
        let slot = self.filled(op.slot().unwrap_or_default());
        let Some(handle) = &self.slots[slot] else { return Ok(Seen::Idle) };
        if let Op::LinkHandle(_, path) = op {
            let from = format!("/proc/self/fd/{}", handle.file.as_raw_fd());
            return done(rustix::fs::linkat(CWD, from, CWD, self.start(path)?, AtFlags::SYMLINK_FOLLOW));
        }
        if let Op::Fstat(_) = op {
            return rustix::fs::fstat(&handle.file).map(|stat| self.attributes(&stat));
        }
        if let Op::CopyRange(_, from_at, to, to_at, len) = op {
            let (Some(from), Some(to)) = (&self.slots[slot], &self.slots[self.filled(*to)]) else {
                return Ok(Seen::Idle);
            };
            if from.direct || to.direct {
                return Ok(Seen::Idle);
            }
            let (mut from_at, mut to_at) = (u64::from(*from_at), u64::from(*to_at));
            let copied = rustix::fs::copy_file_range(
                &from.file,
                Some(&mut from_at),
                &to.file,
                Some(&mut to_at),
                usize::from(*len),
            );
            return copied.map(|copied| Seen::Number(copied as u64));
        }
        self.slots[slot].as_mut().map_or(Ok(Seen::Idle), |handle| handle.run(op))
    }

    /// What is mapped and changed reaches the file now. See `allowed.rs`.
    pub(crate) fn write_back(&self) {
        for map in self.slots.iter().flatten().filter_map(|handle| handle.map.as_ref()) {
            let _ = map.map.flush();
        }
    }
}

impl Handle {
    fn run(&mut self, op: &Op) -> Result<Seen, Errno> {
        let file = &self.file;
        match *op {
            Op::Write(_, len) if self.direct => self.write_direct(0, len),
            Op::Read(_, len) if self.direct => self.read_direct(0, len),
            Op::Pwrite(_, at, len) if self.direct => self.write_direct(at, len),
            Op::Pread(_, at, len) if self.direct => self.read_direct(at, len),
            Op::Write(_, len) => {
                rustix::io::write(file, &bytes(len, usize::from(len))).map(|n| Seen::Number(n as u64))
            }
            Op::Read(_, len) => {
                let mut buffer = vec![0; usize::from(len)];
                rustix::io::read(file, &mut buffer[..]).map(|n| Seen::bytes(&buffer[..n]))
            }
            Op::Pwrite(_, at, len) => {
                rustix::io::pwrite(file, &bytes(at as u16, usize::from(len)), u64::from(at))
                    .map(|n| Seen::Number(n as u64))
            }
            Op::Pread(_, at, len) => {
                let mut buffer = vec![0; usize::from(len)];
                rustix::io::pread(file, &mut buffer[..], u64::from(at)).map(|n| Seen::bytes(&buffer[..n]))
            }
            Op::Seek(_, whence, by) => {
                if rustix::fs::fstat(file)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile)
                {
                    return Ok(Seen::Idle);
                }
                let from = match whence {
                    0 => SeekFrom::Start(u64::try_from(by).unwrap_or(0)),
                    1 => SeekFrom::Current(by.into()),
                    2 => SeekFrom::End(by.into()),
                    3 => SeekFrom::Data(u64::try_from(by).unwrap_or(0)),
                    _ => SeekFrom::Hole(u64::try_from(by).unwrap_or(0)),
                };
                rustix::fs::seek(file, from).map(Seen::Number)
            }
            Op::Ftruncate(_, size) => done(rustix::fs::ftruncate(file, u64::from(size))),
            Op::Fallocate(_, kind, at, len) => {
                let flags = [
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::ZERO_RANGE,
                    FallocateFlags::COLLAPSE_RANGE,
                    FallocateFlags::INSERT_RANGE,
                ][usize::from(kind)];
                let (at, len) = if kind > 3 { (at & !(BLOCK - 1), len & !(BLOCK - 1)) } else { (at, len) };
                done(rustix::fs::fallocate(file, flags, u64::from(at), u64::from(len)))
            }
            Op::Fsync(_, data) => {
                done(if data { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) })
            }
            Op::Fchmod(_, bits) => done(rustix::fs::fchmod(file, mode(bits))),
            Op::Fchown(_, u32::MAX) => done(rustix::fs::fchown(file, None, None)),
            Op::Fchown(_, user) => {
                done(rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(user))))
            }
            Op::Futimens(_, time) => done(rustix::fs::futimens(file, &times(time))),
            Op::Fsetxattr(_, name, len) => {
                let value = bytes(9, usize::from(len));
                let flags = XattrFlags::empty();
                done(rustix::fs::fsetxattr(file, ATTRIBUTES[usize::from(name)], &value, flags))
            }
            Op::ReadDir(_, room) => read_on(&mut self.listing, file, room.into()),
            Op::Rewind(_) => {
                self.listing = Listing::default();
                match rustix::fs::fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                    Ok(FileType::RegularFile | FileType::Directory) => {
                        rustix::fs::seek(file, SeekFrom::Start(0)).map(Seen::Number)
                    }
                    _ => Ok(Seen::Idle),
                }
            }
            Op::Map(_, shared) => self.map(shared),
            Op::Unmap(_) => {
                self.map = None;
                Ok(Seen::Done)
            }
            Op::MapRead(_, at, len) => {
                let size = rustix::fs::fstat(file)?.st_size as usize;
                let Some(map) = &self.map else { return Ok(Seen::Idle) };
                Ok(Seen::bytes(&map.map[range(at, len, size, map.map.len())]))
            }
            Op::MapWrite(_, at, len, sync) => {
                let size = rustix::fs::fstat(file)?.st_size as usize;
                let Some(map) = &mut self.map else { return Ok(Seen::Idle) };
                let range = range(at, len, size, map.map.len());
                let new = bytes(at as u16 ^ 0x55, range.len());
                map.map[range].copy_from_slice(&new);
                if sync && map.shared {
                    map.map.flush().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                }
                Ok(Seen::Done)
            }
            _ => unreachable!("{op:?}"),
        }
    }

    fn write_direct(&self, at: u32, len: u16) -> Result<Seen, Errno> {
        let (at, len) = aligned(at, len);
        let mut room = vec![0; len + BLOCK as usize];
        let start = room.as_ptr().align_offset(BLOCK as usize);
        room[start..start + len].copy_from_slice(&bytes(at as u16, len));
        rustix::io::pwrite(&self.file, &room[start..start + len], at).map(|n| Seen::Number(n as u64))
    }

    fn read_direct(&self, at: u32, len: u16) -> Result<Seen, Errno> {
        let (at, len) = aligned(at, len);
        let mut room = vec![0; len + BLOCK as usize];
        let start = room.as_ptr().align_offset(BLOCK as usize);
        rustix::io::pread(&self.file, &mut room[start..start + len], at)
            .map(|n| Seen::bytes(&room[start..start + n]))
    }

    fn map(&mut self, shared: bool) -> Result<Seen, Errno> {
        /// More than any file has, so that a mapping outlives what grows.
        const ROOM: usize = 64 << 12;
        let mut options = MmapOptions::new();
        options.len(ROOM);
        let made = if shared {
            sys::map_shared(&options, &self.file)
        } else {
            sys::map_private(&options, &self.file)
        };
        let map = made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.map = Some(Map { map, shared });
        Ok(Seen::Done)
    }
}

fn aligned(at: u32, len: u16) -> (u64, usize) {
    (u64::from(at & !(BLOCK - 1)), usize::from(len).next_multiple_of(BLOCK as usize))
}

/// What of a mapping is backed by the file.
fn range(at: u32, len: u16, size: usize, mapped: usize) -> std::ops::Range<usize> {
    let end = size.min(mapped);
    let start = (at as usize).min(end);
    start..(start + usize::from(len)).min(end)
}

fn read_on(listing: &mut Listing, file: &File, room: usize) -> Result<Seen, Errno> {
    if let Ok(present) = names_in(file) {
        listing.see(present);
    }
    // Room for one entry at least.
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); room + 288];
    let mut entries = rustix::fs::RawDir::new(file, &mut buffer);
    let mut ended = true;
    while let Some(entry) = entries.next() {
        ended = false;
        if let Some(broken) = listing.tell(entry?.file_name().to_bytes()) {
            return Ok(broken);
        }
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(if ended { listing.ended() } else { Seen::Done })
}
