//! What connections do differently: which nodes they show under which numbers, and what an open is.
//!
//! [`TreeForm`] is that of the tree connection, and the only one where there is one connection. It knows no opens.
//! The other one, of the passthrough connection, is [`crate::passthrough::PassthroughForm`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, INodeNo, InitFlags, KernelConfig, Notifier, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyOpen,
};

use crate::error::FsError;
use crate::overlay::Overlay;
use crate::reply::{FOREVER, GENERATION};
use crate::types::{Attr, Caller, Ino, SetAttr};

/// The largest READ and WRITE: what the kernel takes (256 pages).
const MAX_TRANSFER: u32 = 1 << 20;
/// Reads ahead and other requests under way for which nobody waits.
const MAX_BACKGROUND: u16 = 64;

/// How a connection differs from others to the same overlay.
pub(crate) trait Form: Send + Sync + 'static {
    /// Agrees with the kernel on what the connection can do.
    fn init(&self, config: &mut KernelConfig) -> io::Result<()>;

    /// The node that a number of the kernel means.
    fn node(&self, number: INodeNo) -> Ino {
        Ino(number.0)
    }

    /// The number that the kernel knows a node by.
    fn number(&self, ino: Ino) -> INodeNo {
        INodeNo(ino.0)
    }

    /// The directory that a number means, when what is in it may be shown and changed here.
    fn dir(&self, number: INodeNo) -> Result<Ino, FsError>;

    /// Refuses to remove, move or replace a name that has to stay.
    fn check_removal(&self, dir: Ino, name: &[u8]) -> Result<(), FsError>;

    /// How long the kernel may keep what it is told of a node.
    fn keep(&self, _ino: Ino) -> Duration {
        FOREVER
    }

    /// The kernel got one more name of a node.
    fn count_lookup(&self, ino: Ino);

    /// The kernel gave `count` names of a node back.
    fn forget(&self, ino: Ino, count: u64);

    fn open(&self, ino: Ino, flags: OpenFlags, caller: Caller, reply: ReplyOpen);

    /// Answers a CREATE that has made a file and counted it.
    fn created(&self, attr: &Attr, entry: &FileAttr, reply: ReplyCreate);

    fn release(&self, ino: Ino);

    fn setattr(&self, ino: Ino, change: SetAttr, caller: Caller) -> Result<Attr, FsError>;

    /// Answers a SETATTR that has failed.
    fn setattr_failed(&self, ino: Ino, errno: Errno, reply: ReplyAttr);
}

/// What every connection asks of the kernel.
pub(crate) fn init_all(config: &mut KernelConfig) {
    for wish in [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    ] {
        let _ = config.add_capabilities(wish);
    }
    let _ = config.set_max_write(MAX_TRANSFER);
    let _ = config.set_max_background(MAX_BACKGROUND);
}

/// A directory that another connection shows. While it does, the tree connection hands out nothing that is in it: each
/// would keep in memory what the other changes.
pub(crate) struct Lent {
    pub(crate) top: Ino,
    lent: AtomicBool,
}

impl Lent {
    pub(crate) fn new(top: Ino) -> Self {
        Self { top, lent: AtomicBool::new(true) }
    }

    /// The other connection is gone, or never came: from now on, the tree connection shows what is there.
    pub(crate) fn give_back(&self, tree: &Notifier) {
        self.lent.store(false, Ordering::Release);
        // What the kernel knows of the directory itself may have changed behind its back.
        if let Err(error) = tree.inval_inode(INodeNo(self.top.0), 0, 0) {
            tracing::debug!(%error, "the kernel knew nothing of the lent directory");
        }
    }
}

/// The tree connection.
pub(crate) struct TreeForm {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) lent: Option<Arc<Lent>>,
}

impl TreeForm {
    fn lent(&self) -> Option<Ino> {
        self.lent.as_ref().filter(|lent| lent.lent.load(Ordering::Acquire)).map(|lent| lent.top)
    }
}

impl Form for TreeForm {
    fn init(&self, config: &mut KernelConfig) -> io::Result<()> {
        // Without these the design does not hold: opens would cost a round trip each, and handles would be expected.
        let needed = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        if config.add_capabilities(needed).is_err() {
            tracing::error!("this kernel is too old: Linux 5.1 or newer is needed");
            return Err(rustix::io::Errno::PROTO.into());
        }
        // FUSE_ATOMIC_O_TRUNC is left out on purpose: without opens nobody would truncate.
        let _ = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
        init_all(config);
        Ok(())
    }

    fn dir(&self, number: INodeNo) -> Result<Ino, FsError> {
        let dir = self.node(number);
        if self.lent() == Some(dir) { Err(FsError::Busy) } else { Ok(dir) }
    }

    fn check_removal(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let Some(top) = self.lent() else { return Ok(()) };
        match self.overlay.lookup(dir, name) {
            Ok(attr) if attr.ino == top => Err(FsError::Busy),
            _ => Ok(()),
        }
    }

    fn count_lookup(&self, ino: Ino) {
        self.overlay.count_lookup(ino);
    }

    fn forget(&self, ino: Ino, count: u64) {
        self.overlay.forget(ino, count);
    }

    fn open(&self, _ino: Ino, _flags: OpenFlags, _caller: Caller, reply: ReplyOpen) {
        // The kernel takes this as: never ask again, for any file.
        reply.error(Errno::ENOSYS);
    }

    fn created(&self, attr: &Attr, entry: &FileAttr, reply: ReplyCreate) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE;
        reply.created(&self.keep(attr.ino), entry, GENERATION, FileHandle(0), flags);
    }

    fn release(&self, _ino: Ino) {}

    fn setattr(&self, ino: Ino, change: SetAttr, caller: Caller) -> Result<Attr, FsError> {
        self.overlay.setattr(ino, change, caller)
    }

    fn setattr_failed(&self, _ino: Ino, errno: Errno, reply: ReplyAttr) {
        reply.error(errno);
    }
}
