//! The one place with `unsafe` in these tests.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};

/// Maps a file to be read, shared.
pub(crate) fn map(file: &File) -> memmap2::Mmap {
    // SAFETY: the tests change the file while it is mapped, and never cut it off; what they compare is copied first.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}

/// Maps a file to be written, shared.
pub(crate) fn map_to_write(file: &File) -> memmap2::MmapMut {
    try_map_to_write(file).unwrap()
}

/// As [`map_to_write`], where that may be refused.
pub(crate) fn try_map_to_write(file: &File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: as above.
    unsafe { memmap2::MmapMut::map_mut(file) }
}

/// Opens a file by its handle (name_to_handle_at(2)) and writes to it, if the filesystem has such.
pub(crate) fn write_by_handle(path: &Path) {
    const ROOM: usize = 128;
    #[repr(C, align(8))]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; ROOM],
    }
    let mut handle = Handle { bytes: ROOM as u32, kind: 0, data: [0; ROOM] };
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let directory = File::open(path.parent().unwrap()).unwrap();
    let mut mount = 0;
    let pointer = (&raw mut handle).cast::<libc::file_handle>();
    // SAFETY: `handle` is laid out as `struct file_handle` with the room that it says; everything outlives the calls.
    let opened = unsafe {
        if libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), pointer, &mut mount, 0) != 0 {
            return;
        }
        libc::open_by_handle_at(std::os::fd::AsRawFd::as_raw_fd(&directory), pointer, libc::O_RDWR)
    };
    if opened >= 0 {
        // SAFETY: the descriptor has just been made, and is nobody else's.
        let file = unsafe { File::from_raw_fd(opened) };
        file.write_all_at(b"x", 0).unwrap();
    }
}

/// Maps a file to be read and written, shared.
pub(crate) fn map_shared(options: &MmapOptions, file: &File) -> std::io::Result<MmapMut> {
    // SAFETY: who maps looks at the file's size first, and touches nothing behind it; nobody cuts it off meanwhile.
    unsafe { options.map_mut(file) }
}

/// Maps a file to be read, and written in memory alone.
pub(crate) fn map_private(options: &MmapOptions, file: &File) -> std::io::Result<MmapMut> {
    // SAFETY: as above.
    unsafe { options.map_copy(file) }
}

/// The number of cachestat(2), on every architecture that Rust knows.
const CACHESTAT: libc::c_long = 451;

/// How many pages of a file are in the page cache (cachestat(2), Linux 6.5).
pub(crate) fn cached_pages(file: &File) -> u64 {
    let range = [0u64, 0];
    let mut found = [0u64; 5];
    // SAFETY: both are laid out as the kernel's structures of two and of five 64-bit numbers, and outlive the call.
    let done = unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        libc::syscall(CACHESTAT, fd, range.as_ptr(), found.as_mut_ptr(), 0u32)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    found[0]
}
