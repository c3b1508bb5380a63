//! Answers to the kernel, and the guard that every handler runs behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fuser::{Errno, Generation, ReplyEmpty, ReplyXattr};

use crate::error::FsError;

/// Names and attributes change through the kernel only, which then knows: what it has is good for ever.
pub(crate) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
pub(crate) const GENERATION: Generation = Generation(0);

/// Runs a handler. A panic and an error that tells of damage go to the log.
pub(crate) fn guard<T>(
    operation: &'static str,
    ino: u64,
    handler: impl FnOnce() -> Result<T, FsError>,
) -> Result<T, Errno> {
    let done = catch_unwind(AssertUnwindSafe(handler)).unwrap_or(Err(FsError::Panicked));
    done.map_err(|error| {
        match &error {
            FsError::Panicked | FsError::BadView => tracing::error!(operation, ino, %error),
            FsError::Upper { errno, .. } if *errno == rustix::io::Errno::IO => {
                tracing::error!(operation, ino, %error);
            }
            _ => tracing::trace!(operation, ino, %error),
        }
        Errno::from_i32(error.errno())
    })
}

pub(crate) fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(crate) fn xattr(done: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match done {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
