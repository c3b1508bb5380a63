//! The one place with `unsafe`.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicU32;

use rustix::io::Errno;

/// The same memory, as atomics.
pub(crate) fn atomic(numbers: Box<[u32]>) -> Box<[AtomicU32]> {
    // SAFETY: `AtomicU32` has the size, alignment and bit validity of `u32` (its documentation says so), and the box
    // is owned alone.
    unsafe { Box::from_raw(Box::into_raw(numbers) as *mut [AtomicU32]) }
}

/// Gives the calling thread a umask, root and working directory of its own (unshare(2)).
pub(crate) fn own_umask() -> Result<(), Errno> {
    // SAFETY: CLONE_FS takes nothing away that other code relies on: descriptors and memory stay shared, and what the
    // thread has of its own now is what it had before.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}

/// Makes a mount, given by its root, read-only (mount_setattr(2)).
pub(crate) fn make_read_only(mount: impl AsFd) -> Result<(), Errno> {
    let change =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is an empty string with its NUL, and `change` a `mount_attr` of the size that is given. Both
    // outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// FUSE_DEV_IOC_BACKING_CLOSE of linux/fuse.h.
const BACKING_CLOSE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u32>(229, 2);

/// Gives up a backing id of a FUSE connection.
pub(crate) fn close_backing(connection: impl AsFd, id: u32) -> Result<(), Errno> {
    // SAFETY: the opcode is the kernel's for an ioctl that reads one `u32`.
    unsafe {
        let request = rustix::ioctl::Setter::<BACKING_CLOSE, u32>::new(id);
        rustix::ioctl::ioctl(connection, request)
    }
}

/// The number of cachestat(2), on every architecture that Rust knows.
const CACHESTAT: libc::c_long = 451;

/// How many pages of a range of a file are in the page cache (cachestat(2), Linux 6.5).
pub(crate) fn cached_pages(file: impl AsFd, offset: u64, len: u64) -> Result<u64, Errno> {
    // `struct cachestat_range` and `struct cachestat` of linux/mman.h.
    let range = [offset, len];
    let mut found = [0u64; 5];
    // SAFETY: both are laid out as the kernel's structures of two and of five 64-bit numbers, and outlive the call.
    let done = unsafe {
        libc::syscall(CACHESTAT, file.as_fd().as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0u32)
    };
    match (done, found) {
        (0, [cached, ..]) => Ok(cached),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
