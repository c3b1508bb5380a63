//! A home with its store, its specs and its overlays, and everything that is done with versions.
//!
//! *Promises.* A spec is published only when all that its lock refers to is durable in the store and claimed by a
//! transaction that lives until after the publishing; so a published lock that names a view can be mounted. What fails
//! publishes nothing; downloads that were cut stay resumable. Nobody's edit of a spec is lost: a lock is written only
//! into the text that it was made for. A lock that answers its spec is left alone, however its sources have moved.

mod build;
mod environment;
mod event;
mod fetch;
mod install;
pub(crate) mod jobs;
mod lock;
mod models;
mod options;
mod refill;
mod repair;
mod repos;
mod validate;
mod versions;

use std::path::{Path, PathBuf};

use cvs_store::{Store, StoreError};

pub use self::event::{Event, Events, Why};
pub use self::install::Sandbox;
pub use self::models::{KnownModel, KnownModels, ModelUse};
pub use self::options::{CreateOptions, CreateReport, LockOptions, LockReport, Ready, Refreshed, Update};
pub use self::refill::RefillStats;
pub use self::repair::{RepairOptions, RepairReport, Repaired, RepairedObject};
pub use self::validate::{PartReport, PartState, ReportPart, ValidateOptions, ValidateReport};
pub use self::versions::{
    CommitRef, DeleteOptions, DeleteReport, LockState, NodeSummary, OverlayReport, VersionSummary,
};

use crate::error::VersionsError;
use crate::realize::{Records, Roots};
use crate::spec::{ReadOptions, SpecDocument, VersionId, VersionsDir};

/// A home, opened. Clones share the store.
#[derive(Clone)]
pub struct Workspace {
    store: Store,
    roots: Roots,
    read: ReadOptions,
}

impl Workspace {
    /// Opens the store below `home`, making it when there is none. Specs are in `versions_dir`; without one, where
    /// [`VersionsDir::of_home`] says.
    pub fn open(home: &Path, versions_dir: Option<PathBuf>) -> Result<Self, VersionsError> {
        let store = Store::open(home)?;
        let versions = match versions_dir {
            Some(dir) => VersionsDir::new(dir),
            None => VersionsDir::of_home(store.home()),
        };
        let roots = Roots { versions, records: Records::new(store.home()) };
        Ok(Self { store, roots, read: ReadOptions::default() })
    }

    /// Reads specs by these rules from now on.
    #[must_use]
    pub fn reading(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The directory of specs.
    pub fn versions(&self) -> &VersionsDir {
        &self.roots.versions
    }

    /// The records of realizations.
    pub(crate) fn records(&self) -> &Records {
        &self.roots.records
    }

    /// What keeps objects alive besides leases, for gc and fsck.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Reads the spec of a version.
    pub fn read(&self, id: &VersionId) -> Result<SpecDocument, VersionsError> {
        Ok(self.versions().read(id, self.read)?)
    }

    /// Where what is written in a mount of this version goes, whether it exists or not.
    pub fn overlay_dir(&self, id: &VersionId) -> PathBuf {
        self.store.home().join("overlays").join(id.as_str())
    }
}

/// Names the version and the operation in an error of the store.
fn store_error(id: &VersionId, operation: &'static str) -> impl Fn(StoreError) -> VersionsError {
    move |source| match source {
        StoreError::Interrupted => VersionsError::Cancelled,
        source => VersionsError::Version { id: id.clone(), operation, source },
    }
}
