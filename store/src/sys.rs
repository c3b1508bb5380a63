//! The one place with `unsafe`: files mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// An object, mapped for reading. Objects are never changed once they have a name; a name may go while it is mapped.
pub(crate) struct Mapped(Mmap);

impl Mapped {
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the file is an object of the store, which is complete before it has a name, is 0444, and is never
        // opened for writing by cvs. Who writes to it or cuts it off all the same breaks the store: what reads it
        // checks every bound and trusts no offset, and a page that is not there any more ends the process.
        let map = unsafe { Mmap::map(file) }?;
        // One look would otherwise bring in two megabytes where the kernel keeps the file in pieces of that size.
        let _ = map.advise(Advice::NoHugePage);
        Ok(Self(map))
    }

    /// Takes the pages that were touched out of this process's memory; the kernel has them as long as it likes.
    pub(crate) fn let_go(&self) {
        // SAFETY: the mapping is shared and read-only, so that dropped pages come back from the file as they were.
        // Where the advice is not taken, the pages just stay.
        let _ = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
