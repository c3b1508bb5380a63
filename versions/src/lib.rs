//! Versions of ComfyUI: what a person asks for (the spec), what it resolved to (the lock), and where it comes from
//! (the sources). A [`Workspace`] is a home with all of it. This crate knows nothing of FUSE, and prints nothing.

pub mod bucket;
pub mod comfy;
mod error;
pub mod export;
pub mod fetch;
pub mod import;
pub mod model_file;
mod near;
pub mod python;
pub mod realize;
mod runtime;
pub mod serve;
pub mod source;
pub mod spec;
pub mod workflow;
mod workspace;

pub use error::{MountRef, Origin, Problem, SourceFailure, SpecError, VersionsError};
pub use source::hex;
pub use workspace::{
    CommitRef, CreateOptions, CreateReport, DeleteOptions, DeleteReport, Event, Events, KnownModel,
    KnownModels, LockOptions, LockReport, LockState, ModelUse, NodeSummary, OverlayReport, PartReport,
    PartState, Ready, RefillStats, Refreshed, RepairOptions, RepairReport, Repaired, RepairedObject,
    ReportPart, Sandbox, Update, ValidateOptions, ValidateReport, VersionSummary, Why, Workspace,
};
