//! Spec schema v2: `versions/<id>.json`, the only description of a version.
//!
//! A [`SpecDocument`] is the person's own JSON text together with its checked, typed view, the [`Spec`]. Reading,
//! editing and writing back changes only those places of the text that the edit is about; unknown keys, order and
//! spacing stay. What the version resolved to is the [`Lock`] in the same file. [`VersionsDir`] reads, lists and
//! publishes; [`inputs`] reads the lists and strings of command lines.
//!
//! *Invariants.* Every path of a [`Spec`] lies in the view. No two nodes, and no two models, have one path. A spec
//! that breaks several rules is refused with all of them, each with its place, what was found and what is accepted.
//! Nothing here touches the network or the store.

mod check;
mod checksum;
mod cross;
mod directory;
mod document;
mod edit;
mod entry;
mod id;
pub mod inputs;
mod lock;
mod locked_python;
mod model;
mod packages;
mod reader;
mod repo;
mod settings;
mod source;
mod stale;
mod target;
mod text;
mod warning;

pub(crate) use self::packages::flag;
pub use checksum::Checksum;
pub use directory::{SpecRoot, VERSIONS_DIR_VAR, VersionsDir};
pub use document::{NewSpec, SpecDocument};
pub use edit::{Edit, List};
pub use id::{VERSION_ID_MAX, VersionId};
pub use lock::{Installed, LOCK_FORMAT, Lock, LockedArchive, LockedModel, LockedNode, LockedRepo};
pub(crate) use locked_python::{CORE, sources};
pub use locked_python::{LockedPython, LockedSource, PythonRequest};
pub use model::{
    ComfySpec, DirectoriesSpec, MirrorSpec, ModelSpec, NodeSpec, PythonSpec, Question, ReadOptions, Spec,
    TreeSpec,
};
pub use repo::{RepoUrl, Revision, split_ref};
pub use source::{BucketFile, CivitaiFile, HubFile, HubKind, ModelSource};
pub use stale::{Part, StalePart, StaleReason};
pub use warning::Warning;
