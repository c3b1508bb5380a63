//! What two filesystems may differ in, each with its reason. Nothing else is left out of what is compared.
//!
//! Never asked for, because docs/overlay.md rules it out: O_TMPFILE, ioctls, ACLs, RENAME_WHITEOUT, and, through a
//! mount, the two modes of fallocate that FUSE does not let through (COLLAPSE_RANGE, INSERT_RANGE).
//!
//! Asked for and not compared:
//!
//! - inode and device numbers: they are given anew at each mount. Whether two names or handles are one node is
//!   compared instead.
//! - atime, which docs/overlay.md promises for no reader, and ctime, which nobody can set.
//! - sizes of directories, and blocks: how a filesystem keeps its entries and holes is its own affair.
//! - the order of a listing: by name here, by hash on ext4.
//! - times that are later than the beginning of a case: only that they are.
//!
//! Compared under a condition: see below.

use rustix::io::Errno;

use super::ops::Op;
use super::outcome::Outcome;

/// A mapping's changes take the time at which they reach the filesystem. On ext4 that is the page fault, here the
/// write-back, which may come after a time was set. So they are written back before one is, and before one is looked at.
pub(crate) fn settles_mappings(op: &Op) -> bool {
    matches!(op, Op::Utimens(..) | Op::Futimens(..) | Op::Stat(..) | Op::Fstat(..))
}

/// Below models, who reads an object goes on reading it when another opens the file to write, which is another node from
/// then on (docs/overlay.md). So what can only read there is closed again at once.
pub(crate) fn is_let_go(op: &Op, models: bool) -> Option<u8> {
    match op {
        Op::Open(_, how, _, slot) if models && !["w", "rw", "dir"].iter().any(|word| how.has(word)) => {
            Some(*slot)
        }
        _ => None,
    }
}

/// SEEK_DATA and SEEK_HOLE in space that was allocated and not written: ext4 takes what is in its page cache for data,
/// and what was read ahead is there. So they are left out once something was `allocated`.
pub(crate) fn is_passed_over(op: &Op, allocated: &mut bool) -> bool {
    *allocated |= matches!(op, Op::Fallocate(..));
    *allocated && matches!(op, Op::Seek(_, 3 | 4, _))
}

/// True when two filesystems may give these two answers to an operation.
pub(crate) fn agree(op: &Op, expected: &Outcome, found: &Outcome) -> bool {
    let (isdir, invalid) = (Errno::ISDIR.raw_os_error(), Errno::INVAL.raw_os_error());
    match (op, expected, found) {
        // The position of a listing on ext4 is a hash, which read(2) may find out of range before it looks further.
        (Op::Read(..), Err(expected), Err(found)) if (*expected, *found) == (invalid, isdir) => true,
        _ => expected == found,
    }
}
