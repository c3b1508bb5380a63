//! What is done with whole versions: listing, cloning, deleting.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cvs_store::{LeaseKind, ManifestId, View, ViewId};
use serde::Serialize;

use super::{Workspace, store_error};
use crate::error::{MountRef, SpecError, VersionsError};
use crate::realize::RemoveReport;
use crate::spec::{Lock, LockedRepo, RepoUrl, Revision, Spec, StaleReason, VersionId};

/// Prefix of an overlay that is being removed; no version name begins so.
const GONE: &str = ".gone-";

/// One version, for a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionSummary {
    /// The stem of its file; a version's name unless `error` says otherwise.
    pub id: String,
    /// The core.
    pub core: Option<CommitRef>,
    /// Its nodes.
    pub nodes: Vec<NodeSummary>,
    /// How many models it asks for.
    pub models: usize,
    /// Their bytes, as far as they are known.
    pub model_bytes: u64,
    /// What its lock is worth.
    pub lock: LockState,
    /// The view of the lock.
    pub view: Option<ViewId>,
    /// Why the spec cannot be read. Everything else is empty then.
    pub error: Option<String>,
}

/// A repository as the spec asks for it, and the commit that its lock pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitRef {
    /// The address.
    pub repo: String,
    /// What is asked for: a branch, a tag, a commit, `HEAD`.
    pub revision: String,
    /// The pin, as far as it answers that: a commit, a version of the Registry, or the manifest of files that were found.
    pub commit: Option<String>,
    /// True when not the files of that commit are taken, but those that were found on some machine.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub as_found: bool,
}

/// A node, for a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSummary {
    /// Its name.
    pub name: String,
    /// Its directory in the view.
    pub path: String,
    /// Where it comes from.
    #[serde(flatten)]
    pub source: CommitRef,
}

/// What the lock of a version is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockState {
    /// There is none, or the spec cannot be read.
    Missing,
    /// The spec was edited since.
    Stale,
    /// It is up to date, and not everything is fetched.
    Pinned,
    /// It is up to date, and a manifest of it is not in this store.
    NotInStore,
    /// It is up to date, and its manifests are here.
    Current,
}

/// How a version is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Deletes what was written in its mounts and realizations, too.
    pub overlay: bool,
    /// Only says what would be deleted.
    pub dry_run: bool,
}

/// What a deletion did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeleteReport {
    /// The spec.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub spec: PathBuf,
    /// What was written in its mounts, if anything ever was.
    pub overlay: Option<OverlayReport>,
    /// Its realizations.
    pub realizations: Vec<RemoveReport>,
}

/// An overlay that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OverlayReport {
    /// Where it is, or was.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub path: PathBuf,
    /// Its files, bookkeeping included.
    pub files: u64,
    /// What they take on disk, in bytes.
    pub bytes: u64,
    /// True when it goes with the version.
    pub deleted: bool,
}

impl Workspace {
    /// Every version, sorted by name. A spec that cannot be read is listed with the reason, and hides no other.
    pub fn list(&self) -> Result<Vec<VersionSummary>, VersionsError> {
        let dir = self.versions().path();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(SpecError::io("list", dir, error).into()),
        };
        let mut summaries = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| SpecError::io("list", dir, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(stem) = name.strip_suffix(".json").filter(|_| !name.starts_with('.')) else { continue };
            if path.is_dir() {
                continue;
            }
            let document = VersionId::new(stem).map_err(VersionsError::from).and_then(|id| self.read(&id));
            match document {
                Ok(document) => summaries.push(self.summary(document.spec())?),
                // Deleted while we looked.
                Err(VersionsError::Spec(SpecError::Unknown { .. })) if !path.is_symlink() => {}
                Err(error) => summaries.push(unreadable(stem, &error)),
            }
        }
        summaries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(summaries)
    }

    /// One version, as in the list.
    pub fn summary(&self, spec: &Spec) -> Result<VersionSummary, VersionsError> {
        let lock = spec.lock.as_ref();
        let commit_ref = |repo: &RepoUrl, revision: &Revision, as_found: bool, commit: Option<String>| {
            CommitRef { repo: repo.public().into_owned(), revision: revision.to_string(), commit, as_found }
        };
        let core = lock.and_then(|lock| lock.reusable_comfy(&spec.comfy)).map(LockedRepo::pin);
        let nodes = spec.custom_nodes.iter().map(|node| {
            let commit = lock.and_then(|lock| lock.reusable_node(node)).map(|found| found.locked.pin());
            NodeSummary {
                name: node.name.clone(),
                path: node.path.to_string(),
                source: commit_ref(&node.repo, &node.revision, node.tree.is_some(), commit),
            }
        });
        let models = spec.wanted_models();
        let sizes = models.iter().filter_map(|model| Some(lock?.reusable_model(model)?.size));
        Ok(VersionSummary {
            id: spec.version_id.to_string(),
            core: Some(commit_ref(&spec.comfy.repo, &spec.comfy.revision, spec.comfy.tree.is_some(), core)),
            nodes: nodes.collect(),
            models: models.len(),
            model_bytes: sizes.sum(),
            lock: self.lock_state(spec)?,
            view: lock.and_then(|lock| lock.view),
            error: None,
        })
    }

    fn lock_state(&self, spec: &Spec) -> Result<LockState, VersionsError> {
        let Some(lock) = &spec.lock else { return Ok(LockState::Missing) };
        let stale = lock.stale(spec);
        // A model has no pin before it is fetched, so that one that is new beside a lock without a view is only that.
        let only_unfetched = |reason: &StaleReason| match reason {
            StaleReason::NotFetched => true,
            StaleReason::Added => lock.view.is_none(),
            _ => false,
        };
        if !stale.is_empty() {
            let pinned = stale.iter().all(|part| only_unfetched(&part.reason));
            return Ok(if pinned { LockState::Pinned } else { LockState::Stale });
        }
        for manifest in lock.manifests() {
            if !self.store.has_manifest(&manifest)? {
                return Ok(LockState::NotInStore);
            }
        }
        Ok(LockState::Current)
    }

    /// The same version under another name; everything is shared, nothing resolved or copied. The file of the new spec.
    ///
    /// # Errors
    /// [`SpecError::Exists`] when there is a version of the new name.
    pub fn clone_version(&self, source: &VersionId, new: &VersionId) -> Result<PathBuf, VersionsError> {
        self.clone_as(source, new, false)
    }

    /// As [`Self::clone_version`], in place of a version of the new name if there is one, even one that cannot be read:
    /// at every moment there is the old one or the new one.
    pub fn clone_over(&self, source: &VersionId, new: &VersionId) -> Result<PathBuf, VersionsError> {
        self.clone_as(source, new, true)
    }

    fn clone_as(&self, source: &VersionId, new: &VersionId, replace: bool) -> Result<PathBuf, VersionsError> {
        let document = self.read(source)?;
        let mut copy = document.clone_as(new)?;
        if replace {
            self.versions().replace_by(&mut copy)?;
        }
        let mut here: Vec<ManifestId> = Vec::new();
        for manifest in document.spec().lock.iter().flat_map(Lock::manifests) {
            if self.store.has_manifest(&manifest)? {
                here.push(manifest);
            }
        }
        let info = serde_json::json!({ "from": source.as_str() });
        let _lease = self
            .store
            .lease(LeaseKind::Transaction, &format!("clone {new}"), &here, info)
            .map_err(store_error(new, "keep its objects"))?;
        // While its lock stood, nothing could be collected; the lease keeps it so from here on.
        if self.read(source)?.spec().lock != document.spec().lock {
            return Err(SpecError::Changed { path: self.versions().file_of(source) }.into());
        }
        self.versions().publish(&mut copy)?;
        Ok(self.versions().file_of(new))
    }

    /// Deletes a version. Shared objects stay; what only it used goes with the next garbage collection.
    ///
    /// # Errors
    /// [`VersionsError::Busy`] while it is mounted.
    pub fn delete(&self, id: &VersionId, options: &DeleteOptions) -> Result<DeleteReport, VersionsError> {
        let spec = self.versions().file_of(id);
        if spec.symlink_metadata().is_err() {
            let dir = self.versions().path().to_owned();
            return Err(SpecError::Unknown { id: id.to_string(), dir }.into());
        }
        self.unmounted(id)?;
        let path = self.overlay_dir(id);
        let failed = |operation, path: &Path| {
            let (id, path) = (id.clone(), path.to_owned());
            move |source| VersionsError::Io { id, operation, path, source }
        };
        let mut overlay = None;
        if path.is_dir() {
            let (mut files, mut bytes) = (0, 0);
            // What lies beside it is bookkeeping.
            let upper = path.join("upper");
            if upper.is_dir() {
                measure(&upper, &mut files, &mut bytes).map_err(failed("measure", &upper))?;
            }
            overlay = Some(OverlayReport { path: path.clone(), files, bytes, deleted: options.overlay });
        }
        let mut realizations = Vec::new();
        for realization in self.realizations_of(id)? {
            realizations.push(self.remove_realization(&realization.target, options.overlay, true)?);
        }
        if options.dry_run {
            return Ok(DeleteReport { spec, overlay, realizations });
        }
        // Before the spec: a crash in between leaves a version that can be realized again or deleted.
        for plan in &mut realizations {
            *plan = self.remove_realization(&plan.target, options.overlay, false)?;
        }
        let overlays = path.parent().unwrap_or(&path);
        // Also one of our name: ids of processes come again.
        remove_leftovers(overlays);
        let gone = path.with_file_name(format!("{GONE}{id}-{}", std::process::id()));
        {
            let held = self.versions().hold()?;
            // Again, because a mount that begins looks for its spec under this lock, with its lease taken.
            self.unmounted(id)?;
            // The spec first: a crash in between leaves an overlay that was kept, never a version with half of one.
            self.versions().remove(&held, id)?;
            if options.overlay && overlay.is_some() {
                // Whole at once for those who look; what a crash leaves, the next deletion removes.
                fs::rename(&path, &gone).map_err(failed("remove", &path))?;
            }
        }
        match fs::remove_dir_all(&gone) {
            // Nothing was to be removed, or another deletion did it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(failed("remove", &gone))?,
        }
        Ok(DeleteReport { spec, overlay, realizations })
    }

    /// Fails when `view` is not what the lock of the version says any more. To be called by who has taken a lease on
    /// the view after it was composed: from here on no deletion goes unaware of the lease, and because the lock has
    /// stood until now, nothing of the view was collected before.
    ///
    /// # Errors
    /// [`SpecError::Unknown`] or [`SpecError::Changed`].
    pub fn confirm(&self, id: &VersionId, view: &View) -> Result<(), VersionsError> {
        // A directory that may only be read is somebody else's to delete from.
        let _held = self.versions().hold().ok();
        let document = self.read(id)?;
        match document.spec().lock.as_ref().and_then(|lock| lock.view) {
            Some(found) if found == view.id() => Ok(()),
            _ => Err(SpecError::Changed { path: self.versions().file_of(id) }.into()),
        }
    }

    fn unmounted(&self, id: &VersionId) -> Result<(), VersionsError> {
        match self.mounts_of(id)? {
            mounts if mounts.is_empty() => Ok(()),
            mounts => Err(VersionsError::Busy { id: id.clone(), mounts }),
        }
    }

    /// The live mounts of a version.
    pub fn mounts_of(&self, id: &VersionId) -> Result<Vec<MountRef>, VersionsError> {
        let leases = self.store.leases()?.into_iter();
        let ours = leases.filter(|lease| lease.kind == LeaseKind::Mount && lease.label == id.as_str());
        Ok(ours.map(|lease| MountRef { pid: lease.pid, info: lease.info }).collect())
    }
}

fn unreadable(id: &str, error: &VersionsError) -> VersionSummary {
    VersionSummary {
        id: id.to_owned(),
        core: None,
        nodes: Vec::new(),
        models: 0,
        model_bytes: 0,
        lock: LockState::Missing,
        view: None,
        error: Some(error.to_string()),
    }
}

/// Removes what interrupted deletions left. Whatever stays is hidden and harms nobody.
fn remove_leftovers(overlays: &Path) {
    for entry in fs::read_dir(overlays).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(GONE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn measure(dir: &Path, files: &mut u64, bytes: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        *bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            measure(&entry.path(), files, bytes)?;
        } else {
            *files += 1;
        }
    }
    Ok(())
}
