//! Bringing back what a check of the store found damaged. It goes by the locks of the versions that were hurt: what a
//! lock pins is brought again from its source, exactly as it was, and no lock changes. A part that cannot be brought
//! keeps no other from coming back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::{DamageKind, FsckReport, Intake, ManifestId, ObjectRef};
use serde::Serialize;

use super::build::{REPOSITORIES, models_manifest};
use super::event::{Event, Events, Why};
use super::fetch::Fetcher;
use super::lock::remove_sources;
use super::options::LockOptions;
use super::{Workspace, jobs, store_error};
use crate::error::{SpecError, VersionsError};
use crate::source::{NetworkLimits, SourceError};
use crate::spec::{Lock, LockedModel, LockedRepo, ModelSource, ModelSpec, Part, VersionId};

static NEVER: AtomicBool = AtomicBool::new(false);

/// How a repair goes about it.
#[derive(Clone, Copy)]
pub struct RepairOptions<'a> {
    /// Uses no network: only local sources, and what the store has under another name.
    pub offline: bool,
    /// Hears of progress.
    pub events: Events<'a>,
    /// Set to true, by anyone at any time, to stop.
    pub cancel: &'a AtomicBool,
    /// Timeouts and retries.
    pub limits: NetworkLimits,
}

impl Default for RepairOptions<'_> {
    fn default() -> Self {
        Self { offline: false, events: &|_| {}, cancel: &NEVER, limits: NetworkLimits::default() }
    }
}

/// What became of every damaged object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// In the order of the check's report.
    pub objects: Vec<RepairedObject>,
    /// Bytes that were stored anew.
    pub new_bytes: u64,
}

impl RepairReport {
    /// True when nothing that a version needs is lost.
    pub fn is_whole(&self) -> bool {
        !self.objects.iter().any(|object| matches!(object.outcome, Repaired::Lost { .. }))
    }
}

/// One damaged object, after the repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedObject {
    /// Which.
    pub object: ObjectRef,
    /// The versions that need it.
    pub versions: Vec<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Repaired,
}

/// What became of a damaged object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Repaired {
    /// Its sources brought it back.
    Restored,
    /// No version needs it.
    Unneeded,
    /// Nothing brought it back.
    Lost {
        /// What was tried, and why it failed.
        reasons: Vec<String>,
    },
}

impl Workspace {
    /// Brings back what `report` names, after a check that set damaged objects aside (`Fsck::quarantine`). An object
    /// that still lies in its place counts as lost: its bytes are wrong, and its name hides that.
    pub fn repair(
        &self,
        report: &FsckReport,
        options: &RepairOptions<'_>,
    ) -> Result<RepairReport, VersionsError> {
        let hurt: BTreeSet<&String> = report.damage.iter().flat_map(|damage| damage.hurts.keys()).collect();
        self.refill_when_empty(options.cancel);
        let mut outcome = RepairReport::default();
        let mut failures: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for name in hurt {
            match VersionId::new(name.as_str()).map_err(VersionsError::from).and_then(|id| {
                let (bytes, failed) = self.bring_back(&id, options)?;
                outcome.new_bytes += bytes;
                Ok(failed)
            }) {
                Ok(failed) => drop(failures.insert(name, failed)),
                Err(VersionsError::Cancelled) => return Err(VersionsError::Cancelled),
                Err(error) => drop(failures.insert(name, vec![error.to_string()])),
            }
        }
        for damage in &report.damage {
            let out_of_the_way = damage.kind == DamageKind::Missing || damage.quarantined.is_some();
            let here = out_of_the_way
                && match damage.object {
                    ObjectRef::Blob(id) => self.store.blob_size(&id)?.is_some(),
                    ObjectRef::Manifest(id) => self.store.manifest(&id).is_ok(),
                };
            let versions: Vec<String> = damage.hurts.keys().cloned().collect();
            let repaired = if here {
                Repaired::Restored
            } else if versions.is_empty() {
                Repaired::Unneeded
            } else {
                let mut reasons: Vec<String> = damage
                    .hurts
                    .keys()
                    .flat_map(|name| failures.get(name).into_iter().flatten().cloned())
                    .collect();
                reasons.dedup();
                if reasons.is_empty() {
                    reasons.push(if out_of_the_way {
                        "its sources do not have it any more".to_owned()
                    } else {
                        "it was not set aside".to_owned()
                    });
                }
                Repaired::Lost { reasons }
            };
            outcome.objects.push(RepairedObject { object: damage.object, versions, outcome: repaired });
        }
        Ok(outcome)
    }

    /// Brings what the lock of a version pins and the store lacks; the bytes stored, and what failed.
    fn bring_back(
        &self,
        id: &VersionId,
        options: &RepairOptions<'_>,
    ) -> Result<(u64, Vec<String>), VersionsError> {
        // Only the lock counts, so that a spec with a mistake elsewhere is repaired too.
        let root = self.versions().roots()?.into_iter().find(|root| root.id == *id).ok_or_else(|| {
            SpecError::Unknown { id: id.to_string(), dir: self.versions().path().to_owned() }
        })?;
        let Some(lock) = root.lock else { return Ok((0, Vec::new())) };
        let transaction = self.store.begin(&format!("repair {id}"))?;
        let failures = jobs::with_stop(
            options.cancel,
            || (options.events)(Event::Stopping),
            |stop| {
                let fetcher = Fetcher {
                    store: &self.store,
                    transaction: &transaction,
                    events: options.events,
                    stop,
                    limits: options.limits,
                    offline: options.offline,
                    intake: Intake::Copy,
                };
                fetch_pinned(&fetcher, &lock)
            },
        );
        if options.cancel.load(Ordering::Relaxed) {
            return Err(VersionsError::Cancelled);
        }
        let commit = || transaction.commit().map_err(store_error(id, "store what was brought back"));
        let mut failures = failures;
        let mut bytes = commit()?.new_bytes;
        remove_sources(&transaction, options.events);
        // It is made of what was just brought back.
        let lock_options = LockOptions {
            offline: options.offline,
            events: options.events,
            cancel: options.cancel,
            limits: options.limits,
            ..LockOptions::default()
        };
        match self.remake_environment(id, &lock, &transaction, &lock_options) {
            Ok(wrong) => failures.extend(wrong),
            Err(VersionsError::Cancelled) => return Err(VersionsError::Cancelled),
            Err(error) => failures.push(error.to_string()),
        }
        bytes += commit()?.new_bytes;
        Ok((bytes, failures))
    }
}

enum Pinned<'a> {
    Repo(Part, &'a LockedRepo, ManifestId),
    Model(&'a LockedModel),
}

fn fetch_pinned(fetcher: &Fetcher<'_>, lock: &Lock) -> Vec<String> {
    let repo = |part, locked: &'_ LockedRepo| locked.manifest.map(|id| (part, id));
    let core = repo(Part::Comfy, &lock.comfy).map(|(part, id)| Pinned::Repo(part, &lock.comfy, id));
    let nodes = lock.custom_nodes.iter().filter_map(|node| {
        let (part, id) = repo(Part::Node(node.path.to_string()), &node.locked)?;
        Some(Pinned::Repo(part, &node.locked, id))
    });
    let models = lock.models.iter().map(Pinned::Model);
    let items: Vec<Pinned<'_>> = core.into_iter().chain(nodes).chain(models).collect();
    let results = jobs::run(&items, REPOSITORIES, |item| match item {
        Pinned::Repo(part, locked, manifest) => {
            fetch_repo(fetcher, part, locked, manifest).map_err(|error| format!("{part}: {error}"))
        }
        Pinned::Model(locked) => {
            fetch_model(fetcher, locked).map_err(|error| format!("model {}: {error}", locked.path))
        }
    });
    let mut failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if let Some(wanted) = lock.models_manifest {
        match models_manifest(fetcher.transaction, &lock.models) {
            Ok(made) if made == wanted => {}
            Ok(made) => failures.push(format!("models: the lock lists them as {made}, and names {wanted}")),
            // Without its blobs there can be no list; each of them was told above.
            Err(_) if !failures.is_empty() => {}
            Err(error) => failures.push(format!("models: {error}")),
        }
    }
    failures
}

fn fetch_repo(
    fetcher: &Fetcher<'_>,
    part: &Part,
    locked: &LockedRepo,
    wanted: &ManifestId,
) -> Result<(), SourceError> {
    if fetcher.transaction.has_manifest(wanted)? {
        return Ok(());
    }
    let brought = fetcher.bring_repo(part, &Why::NotInStore, locked, None, locked.requested.as_deref())?;
    let Some(found) = brought.manifest.filter(|found| found != wanted) else { return Ok(()) };
    let what = if locked.commit.is_some() { "commit" } else { "version" };
    Err(SourceError::Checksum {
        subject: format!("{what} {}", locked.pin()),
        algorithm: "manifest",
        expected: wanted.to_string(),
        found: found.to_string(),
    })
}

fn fetch_model(fetcher: &Fetcher<'_>, locked: &LockedModel) -> Result<(), SourceError> {
    if fetcher.transaction.has_blob(&locked.blake3)? == Some(locked.size) {
        return Ok(());
    }
    let source = ModelSource::parse(&locked.source).map_err(|_| SourceError::Address {
        url: locked.path.to_string(),
        reason: "the lock names a source that cannot be read",
    })?;
    let model = ModelSpec {
        place: String::new(),
        name: None,
        source_text: locked.source.clone(),
        source,
        mirrors: Vec::new(),
        path: locked.path.clone(),
        checksums: Vec::new(),
    };
    let part = Part::Model(locked.path.to_string());
    fetcher.model(&part, &Why::NotInStore, &model, Some(locked)).map(|_| ())
}
