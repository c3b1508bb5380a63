//! The passthrough connection: one directory of an overlay, where the kernel reads and writes the files below by itself.
//!
//! Opens reach us here, and each is answered with a *backing file*: the object, of a file that is still the view's, or
//! the file in the upper layer. Reading, writing and mapping then never come to us. Mounts that show the same object
//! share one copy of it in memory.
//!
//! *Rules*, each of which the kernel punishes or data pays for:
//!
//! * An object is given for reading only, through a clone of the mount of `objects/` that is read-only and that nobody
//!   else can reach. Who wants to write gets the upper file.
//! * As long as a node is open anywhere, every open of it has the same backing file, or all have none ([`opens`]). So a
//!   file that is to be written to while others read the object *parts* ([`crate::part`]): its name leads to a copy with
//!   a number of its own, and the kernel, answered ESTALE, looks the name up again.
//! * Writing through a mapping is seen by nobody but the file below, and a mapping outlives the handle that it was made
//!   with, so the kernel keeps no attributes of files of the upper layer.

mod connection;
mod executed;
mod opens;
mod remains;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FopenFlags, INodeNo, InitFlags, KernelConfig, Notifier,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyOpen,
};
use rustix::fs::OFlags;

pub use connection::Refusal;
pub(crate) use connection::{Passthrough, connect, serve};
pub(crate) use remains::Remains;

use crate::adapter::aside;
use crate::error::FsError;
use crate::form::{Form, init_all};
use crate::overlay::Overlay;
use crate::reply::{FOREVER, GENERATION, guard};
use crate::types::{Attr, Caller, Ino, SetAttr};
use opens::{Content, Node, Opens};

/// Opens are told apart by their nodes alone.
const HANDLE: FileHandle = FileHandle(0);

fn truncates(flags: OpenFlags) -> bool {
    flags.0 as u32 & OFlags::TRUNC.bits() != 0
}

/// True for an open after which the file is not what it was, or may not be.
fn changes(flags: OpenFlags) -> bool {
    flags.acc_mode() != OpenAccMode::O_RDONLY || truncates(flags)
}

/// The form of a passthrough connection.
pub(crate) struct PassthroughForm {
    overlay: Arc<Overlay>,
    /// The directory that it shows, which the kernel knows as 1.
    top: Ino,
    /// The filesystem that the kernel makes of it.
    device: executed::Device,
    /// The read-only clone of `objects/`.
    objects: OwnedFd,
    /// How many filesystems may lie on each other below.
    depth: u32,
    opens: Opens,
    /// What the kernel holds through this connection. It gives nothing back when it is unmounted, and the overlay may
    /// live on.
    held: Mutex<HashMap<Ino, u64>>,
    /// Set before the first request.
    notifier: Arc<OnceLock<Notifier>>,
}

impl PassthroughForm {
    /// Gives a file whose content is about to change its place in the upper layer, with the first `keep` bytes, and locks
    /// it. They are copied first: until they are, the file is opened and closed as ever.
    ///
    /// Refuses when its readers would not see the change, after giving its names to a copy.
    fn lock_to_change<'n>(
        &self,
        node: &'n Node,
        ino: Ino,
        keep: u64,
    ) -> Result<MutexGuard<'n, Content>, FsError> {
        // Neither has a name to give.
        if self.overlay.is_parted(ino)
            || (self.overlay.has_no_name(ino) && node.lock_for_change().is_object())
        {
            return Err(FsError::Stale);
        }
        let mut locked = None;
        let parts = || locked.insert(node.lock_for_change()).is_object();
        let names = self.overlay.copy_up_or_part(ino, keep, parts)?.names;
        let content = locked.unwrap_or_else(|| node.lock_for_change());
        if content.is_object() {
            self.opens.parted(ino, names);
            return Err(FsError::Stale);
        }
        if self.overlay.is_parted(ino) { Err(FsError::Stale) } else { Ok(content) }
    }

    /// What an open of a node that nobody has open is answered with.
    fn content(
        &self,
        ino: Ino,
        back: impl Fn(&std::fs::File) -> io::Result<BackingId>,
    ) -> Result<Content, FsError> {
        let backed = match self.overlay.lower_content(ino)? {
            Some((blob, size)) => {
                let object = self.overlay.blobs.open_below(&self.objects, blob, size)?;
                back(&object).map(Content::Object)
            }
            None => back(&*self.overlay.file(ino)?.ok_or(FsError::BadView)?).map(Content::Upper),
        };
        Ok(backed.unwrap_or_else(|error| {
            tracing::warn!(ino = ino.0, %error, "a file is read and written without passthrough");
            Content::Cached
        }))
    }

    /// What is needed before an open can be answered.
    fn prepare<'n>(
        &self,
        node: &'n Node,
        ino: Ino,
        flags: OpenFlags,
        caller: Caller,
        back: impl Fn(&std::fs::File) -> io::Result<BackingId>,
    ) -> Result<MutexGuard<'n, Content>, FsError> {
        if truncates(flags)
            && flags.acc_mode() == OpenAccMode::O_RDONLY
            && executed::is_executed(self.device, self.number(ino).0)
        {
            return Err(FsError::Executed);
        }
        let mut content = match truncates(flags) {
            true => self.lock_to_change(node, ino, 0)?,
            false if changes(flags) => self.lock_to_change(node, ino, u64::MAX)?,
            false => node.lock(),
        };
        if truncates(flags) {
            let change = SetAttr { size: Some(0), ..SetAttr::default() };
            self.overlay.setattr(ino, change, caller)?;
        }
        if matches!(*content, Content::Closed) {
            *content = self.content(ino, back)?;
        }
        Ok(content)
    }

    /// Lets `answer` say ESTALE when the kernel has forgotten where the node's names led. It asks for locks that a
    /// caller may hold who waits for us, so it is not for a thread that serves.
    fn when_forgotten<A: FnOnce() + Send + 'static>(&self, ino: Ino, answer: A) {
        let names = self.opens.take_parted(ino);
        let numbers: Vec<_> = names.into_iter().map(|name| (self.number(name.0), name)).collect();
        let (number, notifier) = (self.number(ino), Arc::clone(&self.notifier));
        let tell = move |answer: A| {
            if let Some(notifier) = notifier.get() {
                for (dir, (_, name)) in &numbers {
                    let name = std::ffi::OsStr::from_bytes(name);
                    if let Err(error) = notifier.inval_entry(*dir, name) {
                        tracing::warn!(?name, %error, "the kernel keeps the name of a file that has parted");
                    }
                }
                // Its readers see that it has no name.
                let _ = notifier.inval_inode(number, -1, 0);
            }
            answer();
        };
        // Without a thread the kernel keeps the names until somebody opens the file, is told the same, and asks again.
        aside(answer, tell, |answer| answer());
    }

    /// What the kernel was told while the file was the view's holds no longer.
    fn forget_attributes(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(self.number(ino), -1, 0)
        {
            tracing::warn!(ino = ino.0, %error, "the kernel keeps attributes of a file that is written to");
        }
    }
}

impl Drop for PassthroughForm {
    fn drop(&mut self) {
        for (ino, count) in self.held.get_mut().unwrap_or_else(|e| e.into_inner()).drain() {
            self.overlay.forget(ino, count);
        }
    }
}

impl Form for PassthroughForm {
    fn init(&self, config: &mut KernelConfig) -> io::Result<()> {
        // FUSE_HANDLE_KILLPRIV_V2 is left out on purpose: writes do not come to us, so the kernel has to clear setuid.
        let needed =
            InitFlags::FUSE_PASSTHROUGH | InitFlags::FUSE_NO_OPENDIR_SUPPORT | InitFlags::FUSE_ATOMIC_O_TRUNC;
        if config.add_capabilities(needed).is_err() || config.set_max_stack_depth(self.depth).is_err() {
            return Err(rustix::io::Errno::OPNOTSUPP.into());
        }
        init_all(config);
        Ok(())
    }

    fn node(&self, number: INodeNo) -> Ino {
        if number == INodeNo::ROOT { self.top } else { Ino(number.0) }
    }

    fn number(&self, ino: Ino) -> INodeNo {
        // The overlay's root shows as `..` of ours alone, which the kernel answers by itself.
        if ino == self.top { INodeNo::ROOT } else { INodeNo(ino.0) }
    }

    fn dir(&self, number: INodeNo) -> Result<Ino, FsError> {
        Ok(self.node(number))
    }

    fn check_removal(&self, _dir: Ino, _name: &[u8]) -> Result<(), FsError> {
        Ok(())
    }

    fn keep(&self, ino: Ino) -> Duration {
        if self.overlay.is_upper_file(ino) { Duration::ZERO } else { FOREVER }
    }

    fn count_lookup(&self, ino: Ino) {
        *self.held.lock().unwrap_or_else(|e| e.into_inner()).entry(ino).or_default() += 1;
        self.overlay.count_lookup(ino);
    }

    fn forget(&self, ino: Ino, count: u64) {
        if let Entry::Occupied(mut held) = self.held.lock().unwrap_or_else(|e| e.into_inner()).entry(ino) {
            *held.get_mut() = held.get().saturating_sub(count);
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.overlay.forget(ino, count);
    }

    fn open(&self, ino: Ino, flags: OpenFlags, caller: Caller, reply: ReplyOpen) {
        let node = self.opens.node(ino);
        let prepared =
            guard("open", ino.0, || self.prepare(&node, ino, flags, caller, |file| reply.open_backing(file)));
        let content = match prepared {
            Ok(content) => content,
            Err(Errno::ESTALE) => return self.when_forgotten(ino, move || reply.error(Errno::ESTALE)),
            Err(errno) => return reply.error(errno),
        };
        node.opened();
        if changes(flags) {
            self.forget_attributes(ino);
        }
        match &*content {
            Content::Object(backing) | Content::Upper(backing) => {
                reply.opened_passthrough(HANDLE, FopenFlags::empty(), backing);
            }
            Content::Cached | Content::Closed => reply.opened(HANDLE, FopenFlags::empty()),
        }
    }

    fn created(&self, attr: &Attr, entry: &FileAttr, reply: ReplyCreate) {
        let node = self.opens.node(attr.ino);
        let mut content = node.lock();
        let made = guard("create", attr.ino.0, || self.content(attr.ino, |file| reply.open_backing(file)));
        match made {
            Ok(made) => *content = made,
            Err(errno) => {
                // The kernel hears of no name.
                self.forget(attr.ino, 1);
                return reply.error(errno);
            }
        }
        node.opened();
        match &*content {
            Content::Object(backing) | Content::Upper(backing) => {
                let none = FopenFlags::empty();
                reply.created_passthrough(&Duration::ZERO, entry, GENERATION, HANDLE, none, backing);
            }
            Content::Cached | Content::Closed => {
                reply.created(&Duration::ZERO, entry, GENERATION, HANDLE, FopenFlags::empty());
            }
        }
    }

    fn release(&self, ino: Ino) {
        self.opens.release(ino);
    }

    fn setattr(&self, ino: Ino, change: SetAttr, caller: Caller) -> Result<Attr, FsError> {
        let Some(size) = change.size else { return self.overlay.setattr(ino, change, caller) };
        let node = self.opens.node(ino);
        let _content = self.lock_to_change(&node, ino, size)?;
        self.overlay.setattr(ino, change, caller)
    }

    fn setattr_failed(&self, ino: Ino, errno: Errno, reply: ReplyAttr) {
        match errno {
            // Whoever truncates holds the lock of the file meanwhile, and who removes its name holds that of the directory
            // and waits for the first: the answer cannot wait for the second. The kernel looks the name up again by itself.
            Errno::ESTALE => {
                reply.error(errno);
                self.when_forgotten(ino, || ());
            }
            errno => reply.error(errno),
        }
    }
}
