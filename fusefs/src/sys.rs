//! The one place with `unsafe`.

use std::sync::atomic::AtomicU32;

/// The same memory, as atomics.
pub(crate) fn atomic(numbers: Box<[u32]>) -> Box<[AtomicU32]> {
    // SAFETY: `AtomicU32` has the size, alignment and bit validity of `u32` (its documentation says so), and the box
    // is owned alone.
    unsafe { Box::from_raw(Box::into_raw(numbers) as *mut [AtomicU32]) }
}
