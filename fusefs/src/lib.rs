//! The overlay filesystem of cvs: a view of the store below, an upper layer above, shown through FUSE.
//!
//! [`Overlay`] has the operations of a filesystem in types of its own and can be used, and is tested, without a mount.
//! [`Mount`] puts it behind a mountpoint. What each operation means is written in docs/overlay.md.
//!
//! *Form.* The kernel is told never to ask about opens (`no_open`, `no_opendir`, `no_flush`) and to keep names,
//! attributes, pages and listings for ever. So there are no handles: a request names a node, and a node keeps its
//! number when it is copied up. This crate knows nothing of ComfyUI.

mod adapter;
mod attach;
mod attrs;
mod blobs;
mod convert;
mod copyup;
#[cfg(test)]
mod crash;
mod create;
mod damage;
mod data;
mod direct;
mod disk;
mod error;
#[cfg(debug_assertions)]
mod fault;
mod form;
mod intent;
mod links;
mod load;
mod mount;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../tests/it/mounts.rs"]
mod mounts;
mod names;
mod overlay;
mod part;
mod passthrough;
mod prefetch;
mod remove;
mod rename;
mod reply;
mod requests;
mod stats;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../tests/it/support.rs"]
mod support;
mod sys;
mod tree;
mod types;
mod upper;

/// What the tests of the outside use, the tests inside use too.
#[cfg(test)]
extern crate self as cvs_fusefs;

pub use damage::DamagedBlob;
pub use error::{FsError, MountError};
pub use mount::{Connections, Mount, MountOptions, SUBTYPE};
pub use overlay::Overlay;
pub use passthrough::Refusal;
pub use requests::{Requests, Work};
pub use stats::{Stats, TableStats};
pub use types::{Attr, Caller, Ino, Kind, Listed, Make, RenameMode, SetAttr, SetTime, Space, Time};
