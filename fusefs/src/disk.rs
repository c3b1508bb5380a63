//! The system calls that change the upper layer, all through one gate.
//!
//! The gate is open, and in a release not even there. This crate's own tests close it between any two calls, for good
//! (the process died) or once (the disk was full), and look at what is left; tests of the whole program let the process
//! that serves a mount die before or after any call (see `fault`).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Makes a call through the gate.
#[inline(always)]
fn step<T, E: From<Errno>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    #[cfg(test)]
    gate::pass()?;
    #[cfg(debug_assertions)]
    crate::fault::point();
    let done = call();
    #[cfg(debug_assertions)]
    crate::fault::point();
    done
}

/// The gate that tests close.
#[cfg(test)]
pub(crate) mod gate {
    use std::cell::Cell;

    use rustix::io::Errno;

    /// What happens to calls.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Plan {
        /// They are made.
        Open,
        /// This many are made, and no more.
        DieAfter(u32),
        /// This many are made, one finds the disk full, the rest is made.
        FullAfter(u32),
    }

    thread_local! {
        static PLAN: Cell<Plan> = const { Cell::new(Plan::Open) };
        static HIT: Cell<bool> = const { Cell::new(false) };
    }

    /// Sets the plan for this thread.
    pub(crate) fn plan(plan: Plan) {
        PLAN.set(plan);
        HIT.set(false);
    }

    /// Opens the gate; true when the plan has stopped a call.
    pub(crate) fn open() -> bool {
        PLAN.set(Plan::Open);
        HIT.get()
    }

    pub(crate) fn pass() -> Result<(), Errno> {
        match PLAN.get() {
            Plan::Open => Ok(()),
            Plan::DieAfter(0) => {
                HIT.set(true);
                Err(Errno::IO)
            }
            Plan::FullAfter(0) => {
                HIT.set(true);
                PLAN.set(Plan::Open);
                Err(Errno::NOSPC)
            }
            Plan::DieAfter(left) => {
                PLAN.set(Plan::DieAfter(left - 1));
                Ok(())
            }
            Plan::FullAfter(left) => {
                PLAN.set(Plan::FullAfter(left - 1));
                Ok(())
            }
        }
    }
}

macro_rules! gated {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        $(pub(crate) fn $name($($arg: $kind),*) -> Result<$out, Errno> {
            step(|| rustix::fs::$name($($arg),*))
        })*
    };
}

gated! {
    mkdirat(dir: impl AsFd, name: impl Arg, mode: Mode) -> ();
    renameat(from: impl AsFd, name: impl Arg, to: impl AsFd, new_name: impl Arg) -> ();
    renameat_with(
        from: impl AsFd, name: impl Arg, to: impl AsFd, new_name: impl Arg, flags: RenameFlags
    ) -> ();
    linkat(from: impl AsFd, name: impl Arg, to: impl AsFd, new_name: impl Arg, flags: AtFlags) -> ();
    unlinkat(dir: impl AsFd, name: impl Arg, flags: AtFlags) -> ();
    symlinkat(target: impl Arg, dir: impl AsFd, name: impl Arg) -> ();
    mknodat(dir: impl AsFd, name: impl Arg, kind: FileType, mode: Mode, device: u64) -> ();
    fsetxattr(file: impl AsFd, name: impl Arg, value: &[u8], flags: XattrFlags) -> ();
    setxattr(path: impl Arg, name: impl Arg, value: &[u8], flags: XattrFlags) -> ();
    lsetxattr(path: impl Arg, name: impl Arg, value: &[u8], flags: XattrFlags) -> ();
    removexattr(path: impl Arg, name: impl Arg) -> ();
    lremovexattr(path: impl Arg, name: impl Arg) -> ();
    chmodat(dir: impl AsFd, name: impl Arg, mode: Mode, flags: AtFlags) -> ();
    chownat(dir: impl AsFd, name: impl Arg, uid: Option<Uid>, gid: Option<Gid>, flags: AtFlags) -> ();
    futimens(file: impl AsFd, times: &Timestamps) -> ();
    utimensat(dir: impl AsFd, name: impl Arg, times: &Timestamps, flags: AtFlags) -> ();
    ftruncate(file: impl AsFd, size: u64) -> ();
    fallocate(file: impl AsFd, mode: FallocateFlags, offset: u64, len: u64) -> ();
    ioctl_ficlone(file: impl AsFd, source: impl AsFd) -> ();
    copy_file_range(
        source: impl AsFd, from: Option<&mut u64>, target: impl AsFd, to: Option<&mut u64>, len: usize
    ) -> usize;
}

/// Makes a file's content and attributes durable.
pub(crate) fn fsync(file: impl AsFd) -> Result<(), Errno> {
    // Tests here let processes die, not machines, and by the thousand.
    step(|| if cfg!(test) { Ok(()) } else { rustix::fs::fsync(file) })
}

/// Makes a file's content durable.
pub(crate) fn fdatasync(file: impl AsFd) -> Result<(), Errno> {
    step(|| if cfg!(test) { Ok(()) } else { rustix::fs::fdatasync(file) })
}

/// Makes a file that must not exist, opened for reading and writing.
pub(crate) fn create(dir: impl AsFd, name: impl Arg, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    step(|| rustix::fs::openat(dir, name, flags, mode))
}

/// Writes all of `bytes` at the offset of `file`.
pub(crate) fn write_all(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    step(|| file.write_all(bytes))
}

/// Writes as many of `bytes` as go in one call.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<usize> {
    step(|| file.write_at(bytes, offset))
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    step(|| file.write_all_at(bytes, offset))
}

/// Removes a directory with all it holds.
pub(crate) fn remove_dir_all(path: &std::path::Path) -> std::io::Result<()> {
    step(|| std::fs::remove_dir_all(path))
}
