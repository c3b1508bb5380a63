//! What people already have, turned into a version: an install that works, or a file that describes one.
//!
//! *Promises.* What is imported is only read, unless moving or linking was asked for by name. What cannot be found out
//! is not guessed: it becomes a question in the spec, which `validate` names. Whatever is left out is told, with the
//! reason. Files of strangers (snapshots, workflows, pictures) are read within bounds, and never make anything panic.

mod classes;
mod draft;
mod error;
mod file;
mod formats;
mod install;
mod report;
mod workflow;

pub use self::error::ImportError;
pub use self::file::{FileImport, FileOptions};
pub use self::formats::Format;
pub use self::install::{EnvironmentChoice, InstallImport, InstallOptions, OverlaySource};
pub use self::report::{ImportReport, LeftOut, Taken};

use cvs_store::RelPath;

/// What no tree holds that is taken as it was found: what git keeps for itself, and what Python makes anew.
pub(crate) fn left_out_of_trees(path: &RelPath) -> bool {
    path.names().any(|name| matches!(name, b".git" | b"__pycache__"))
}
