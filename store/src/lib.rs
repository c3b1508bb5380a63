//! The content-addressed store of cvs: every file once, by the hash of its bytes, with crash-safe transactions,
//! garbage collection by reachability, and a check of everything.
//!
//! The on-disk layout is drawn in docs/store-format.md. This crate knows nothing of ComfyUI and nothing of FUSE: who
//! needs objects tells it so through [`RootSource`], a [`Transaction`] or a [`Lease`].
//!
//! *Invariants.* Bytes are durable before a name under `objects/` shows them. "Already present" is a promise only
//! under a transaction. Liveness is decided from objects and roots alone, never from the index.

mod commit;
mod error;
mod fsck;
mod gc;
mod hash;
mod id;
mod index;
mod layout;
mod lease;
mod manifest;
mod partial;
pub mod path_json;
mod process;
mod relpath;
mod stamp;
mod store;
mod sys;
mod tree;
mod txn;
mod usage;
mod view;
mod writer;

pub use commit::CommitStats;
pub use error::{ManifestError, ParseIdError, PathError, StoreError};
pub use fsck::{Damage, DamageKind, Fsck, FsckEvent, FsckReport, IndexState, ObjectRef};
pub use gc::{Gc, GcPlan, GcStats, RootRef, RootSource};
pub use id::{BlobId, ManifestId, ViewId};
pub use index::Index;
pub use lease::{Lease, LeaseInfo, LeaseKind};
pub use manifest::{Entry, EntryKind, Manifest, ManifestBuilder, Walk};
pub use process::ProcessId;
pub use relpath::{NAME_MAX, PATH_LIMIT, RelPath, check_name};
pub use stamp::Stamp;
pub use store::Store;
pub use tree::{TreeOptions, TreeStats};
pub use txn::Transaction;
pub use usage::{Usage, VersionUsage, usage};
pub use view::{ComposeError, Graft, LowerEntry, LowerId, View, content_mtime};
pub use writer::{BlobWriter, Intake, StoredBlob};
