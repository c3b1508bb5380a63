//! Whether a file is being executed. Who opens one for writing is refused by the kernel before we hear of it, and so is
//! who truncates it, but not who opens it for reading and truncates it with that: such an open comes to us first, and the
//! kernel looks afterwards, when the process that runs from the file has nothing left to run.

use std::fs;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The number of a filesystem as [`statx`] gives it.
pub(super) type Device = (u32, u32);

/// Which filesystem a mount shows. The kernel does not ask it.
pub(super) fn device(mount: BorrowedFd<'_>) -> rustix::io::Result<Device> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(mount, "", flags, StatxFlags::empty()).map(|found| (found.stx_dev_major, found.stx_dev_minor))
}

/// True when a process that can be seen runs from the file of this number. Asks for what the kernel knows by itself, for
/// a filesystem that would be asked may be ours.
pub(super) fn is_executed(device: Device, number: u64) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter(|process| process.file_name().as_encoded_bytes()[0].is_ascii_digit()).any(|process| {
        statx(CWD, process.path().join("exe"), AtFlags::STATX_DONT_SYNC, StatxFlags::INO).is_ok_and(|found| {
            (found.stx_dev_major, found.stx_dev_minor) == device && found.stx_ino == number
        })
    })
}
