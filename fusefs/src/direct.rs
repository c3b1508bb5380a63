//! Reading large blobs without keeping a second copy of them in memory: the kernel keeps what it is answered, so what the
//! filesystem below would keep of the blob, too, is only in the way.
//!
//! They are read past the page cache (O_DIRECT) where the filesystem can. What is in the page cache all the same, since it
//! was read ahead or is new, is taken from there and let go of. Reads come in order, and several at once, from the
//! kernel's own reading ahead, so there is none here.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use cvs_store::{BlobId, Store};
use lru::LruCache;
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;

use crate::sys;

/// From this size on, a blob is read past the page cache. Smaller ones are read again, by other mounts and starts, more
/// than they are in the way.
pub(crate) const LARGE: u64 = 32 << 20;
/// Offsets, lengths and memory are multiples of this: no disk has larger sectors.
const ALIGN: usize = 4096;
/// The largest READ.
const ROOM: usize = 1 << 20;
/// Blobs kept open at once.
const OPEN: NonZeroUsize = NonZeroUsize::new(64).unwrap();

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A large blob, opened.
struct Large {
    /// Past the page cache; none where the filesystem cannot.
    direct: Option<File>,
    /// Through the page cache, without reading ahead.
    cached: File,
}

/// Large blobs that are open.
pub(crate) struct Direct {
    open: Mutex<LruCache<BlobId, Arc<Large>>>,
}

impl Direct {
    pub(crate) fn new() -> Self {
        Self { open: Mutex::new(LruCache::new(OPEN)) }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, LruCache<BlobId, Arc<Large>>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn forget(&self, id: BlobId) {
        self.cache().pop(&id);
    }

    /// Reads all of `buffer` from `offset`.
    pub(crate) fn read(&self, store: &Store, id: BlobId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let large = self.large(store, id)?;
        // Where the kernel cannot tell, nothing is.
        let is_cached = sys::cached_pages(&large.cached, offset, buffer.len() as u64).is_ok_and(|n| n > 0);
        let direct = large.direct.as_ref().filter(|_| !is_cached && offset.is_multiple_of(ALIGN as u64));
        let read = match direct {
            Some(direct) => read_direct(direct, offset, buffer)?,
            None => 0,
        };
        // What no aligned read can give, or none could.
        let (offset, rest) = (offset + read as u64, buffer.get_mut(read..).unwrap_or_default());
        if rest.is_empty() {
            return Ok(());
        }
        large.cached.read_exact_at(rest, offset)?;
        let_go(&large.cached, offset, rest.len());
        Ok(())
    }

    fn large(&self, store: &Store, id: BlobId) -> io::Result<Arc<Large>> {
        if let Some(known) = self.cache().get(&id) {
            return Ok(Arc::clone(known));
        }
        let open = |flags| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | flags;
            rustix::fs::open(store.blob_path(&id), flags, Mode::empty()).map(File::from)
        };
        let cached = open(OFlags::empty())?;
        rustix::fs::fadvise(&cached, 0, None, Advice::Random)?;
        let direct = open(OFlags::DIRECT)
            .inspect_err(|errno| tracing::debug!(blob = %id, %errno, "read through the page cache"))
            .ok();
        let large = Arc::new(Large { direct, cached });
        self.cache().put(id, Arc::clone(&large));
        Ok(large)
    }
}

fn let_go(file: &File, offset: u64, len: usize) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(len as u64), Advice::DontNeed);
}

/// Reads past the page cache; the number of bytes, which is short when the filesystem refuses.
fn read_direct(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    BUFFER.with_borrow_mut(|room| {
        if room.is_empty() {
            room.resize(ROOM + ALIGN, 0);
        }
        let begin = room.as_ptr().align_offset(ALIGN);
        let mut done = 0;
        while done < buffer.len() {
            let left = buffer.get_mut(done..).unwrap_or_default();
            let asked = left.len().min(ROOM).next_multiple_of(ALIGN);
            let room = room.get_mut(begin..begin + asked).unwrap_or_default();
            let read = match file.read_at(room, offset + done as u64) {
                Ok(read) => read.min(left.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => return Ok(done),
                Err(error) => return Err(error),
            };
            let (Some(from), Some(to)) = (room.get(..read), left.get_mut(..read)) else { return Ok(done) };
            to.copy_from_slice(from);
            done += read;
            // The end, or the end of what can be read in whole sectors.
            if read == 0 || !read.is_multiple_of(ALIGN) {
                return Ok(done);
            }
        }
        Ok(done)
    })
}
