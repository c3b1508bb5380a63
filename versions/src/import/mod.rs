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
#[doc(hidden)]
pub use self::file::{describe, is_public};
pub use self::formats::Format;
#[doc(hidden)]
pub use self::install::files;
pub use self::install::{EnvironmentChoice, InstallImport, InstallOptions, OverlaySource, written};
pub use self::report::{ImportReport, LeftOut, Taken};

use cvs_store::RelPath;
use serde_json::{Map, Value, json};

/// Where the packages of an imported version come from. Neither an environment nor a snapshot tells it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackageIndexes<'a> {
    /// In place of the public index.
    pub url: Option<&'a str>,
    /// Asked besides it.
    pub extra: &'a [String],
}

impl PackageIndexes<'_> {
    /// Writes them into a spec; a `python` that is no object stays, and is an error when the spec is read.
    fn put(self, spec: &mut Map<String, Value>) {
        if self.url.is_none() && self.extra.is_empty() {
            return;
        }
        let python = spec.entry("python").or_insert_with(|| json!({}));
        let Some(python) = python.as_object_mut() else { return };
        python.extend(self.url.map(|url| ("index_url".to_owned(), url.into())));
        if !self.extra.is_empty() {
            python.insert("extra_index_urls".to_owned(), self.extra.into());
        }
    }
}

/// What no tree holds that is taken as it was found: what git keeps for itself, and what Python makes anew.
pub(crate) fn left_out_of_trees(path: &RelPath) -> bool {
    path.names().any(|name| matches!(name, b".git" | b"__pycache__"))
}
