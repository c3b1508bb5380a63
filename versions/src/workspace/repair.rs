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
use crate::source::{NetworkLimits, SourceError, public_text};
use crate::spec::{
    Lock, LockedModel, LockedRepo, ModelSource, ModelSpec, Part, Spec, SpecDocument, VersionId,
};

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
#[derive(Debug, Default, Serialize)]
pub struct RepairReport {
    /// In the order of the check's report.
    pub objects: Vec<RepairedObject>,
    /// Bytes that were stored anew.
    pub new_bytes: u64,
    /// Why sources did not bring what was asked of them, for whoever can tell what to do about it. The reasons of what is
    /// lost have the same in words.
    #[serde(skip)]
    pub failures: Vec<SourceError>,
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
                let Brought { bytes, reasons, failures } = self.bring_back(&id, options)?;
                outcome.new_bytes += bytes;
                outcome.failures.extend(failures);
                Ok(reasons)
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

    /// Brings what the lock of a version pins and the store lacks.
    fn bring_back(&self, id: &VersionId, options: &RepairOptions<'_>) -> Result<Brought, VersionsError> {
        // Only the lock counts, so that a spec with a mistake elsewhere is repaired too. What opens a source stands in the
        // spec alone.
        let root = self.versions().roots()?.into_iter().find(|root| root.id == *id).ok_or_else(|| {
            SpecError::Unknown { id: id.to_string(), dir: self.versions().path().to_owned() }
        })?;
        let Some(lock) = root.lock else { return Ok(Brought::default()) };
        let document = self.read(id).ok();
        let spec = document.as_ref().map(SpecDocument::spec);
        let transaction = self.store.begin(&format!("repair {id}"))?;
        let (mut reasons, failures) = jobs::with_stop(
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
                fetch_pinned(&fetcher, &lock, spec)
            },
        );
        if options.cancel.load(Ordering::Relaxed) {
            return Err(VersionsError::Cancelled);
        }
        let commit = || transaction.commit().map_err(store_error(id, "store what was brought back"));
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
            Ok(wrong) => reasons.extend(wrong),
            Err(VersionsError::Cancelled) => return Err(VersionsError::Cancelled),
            Err(error) => reasons.push(error.to_string()),
        }
        bytes += commit()?.new_bytes;
        Ok(Brought { bytes, reasons, failures })
    }
}

/// What became of one version.
#[derive(Default)]
struct Brought {
    /// Bytes that were stored.
    bytes: u64,
    /// What failed, in words.
    reasons: Vec<String>,
    /// What of it sources did.
    failures: Vec<SourceError>,
}

enum Pinned<'a> {
    Repo(Part, &'a LockedRepo, ManifestId),
    Model(&'a LockedModel),
}

/// Brings what `lock` pins; what failed, in words and as it was.
fn fetch_pinned(fetcher: &Fetcher<'_>, lock: &Lock, spec: Option<&Spec>) -> (Vec<String>, Vec<SourceError>) {
    let repo = |part, locked: &'_ LockedRepo| locked.manifest.map(|id| (part, id));
    let core = repo(Part::Comfy, &lock.comfy).map(|(part, id)| Pinned::Repo(part, &lock.comfy, id));
    let nodes = lock.custom_nodes.iter().filter_map(|node| {
        let (part, id) = repo(Part::Node(node.path.to_string()), &node.locked)?;
        Some(Pinned::Repo(part, &node.locked, id))
    });
    let models = lock.models.iter().map(Pinned::Model);
    let items: Vec<Pinned<'_>> = core.into_iter().chain(nodes).chain(models).collect();
    let results = jobs::run(&items, REPOSITORIES, |item| match item {
        Pinned::Repo(part, locked, manifest) => fetch_repo(fetcher, part, locked, manifest, spec),
        Pinned::Model(locked) => fetch_model(fetcher, locked, spec),
    });
    let (mut reasons, mut failures) = (Vec::new(), Vec::new());
    for (item, result) in items.iter().zip(results) {
        let Err(error) = result else { continue };
        reasons.push(match item {
            Pinned::Repo(part, ..) => format!("{part}: {error}"),
            Pinned::Model(locked) => format!("model {}: {error}", locked.path),
        });
        failures.push(error);
    }
    if let Some(wanted) = lock.models_manifest {
        match models_manifest(fetcher.transaction, &lock.models) {
            Ok(made) if made == wanted => {}
            Ok(made) => reasons.push(format!("models: the lock lists them as {made}, and names {wanted}")),
            // Without its blobs there can be no list; each of them was told above.
            Err(_) if !reasons.is_empty() => {}
            Err(error) => reasons.push(format!("models: {error}")),
        }
    }
    (reasons, failures)
}

fn fetch_repo(
    fetcher: &Fetcher<'_>,
    part: &Part,
    locked: &LockedRepo,
    wanted: &ManifestId,
    spec: Option<&Spec>,
) -> Result<(), SourceError> {
    if fetcher.transaction.has_manifest(wanted)? {
        return Ok(());
    }
    let repos = spec.into_iter().flat_map(|spec| {
        std::iter::once(&spec.comfy.repo).chain(spec.custom_nodes.iter().map(|node| &node.repo))
    });
    let written = repos.into_iter().find(|repo| repo.public() == locked.repo.as_str());
    let brought = fetcher.bring_repo(part, &Why::NotInStore, locked, written, locked.requested.as_deref())?;
    let Some(found) = brought.manifest.filter(|found| found != wanted) else { return Ok(()) };
    let what = if locked.commit.is_some() { "commit" } else { "version" };
    Err(SourceError::Checksum {
        subject: format!("{what} {}", locked.pin()),
        algorithm: "manifest",
        expected: wanted.to_string(),
        found: found.to_string(),
    })
}

fn fetch_model(fetcher: &Fetcher<'_>, locked: &LockedModel, spec: Option<&Spec>) -> Result<(), SourceError> {
    if fetcher.transaction.has_blob(&locked.blake3)? == Some(locked.size) {
        return Ok(());
    }
    let written = spec.into_iter().flat_map(|spec| &spec.models).flat_map(ModelSpec::sources);
    let text = written.map(|(text, _)| text).find(|text| public_text(text) == locked.source);
    let text = text.unwrap_or(&locked.source);
    let source = ModelSource::parse(text).map_err(|_| SourceError::Address {
        url: locked.path.to_string(),
        reason: "the lock names a source that cannot be read",
    })?;
    let model = ModelSpec {
        place: String::new(),
        name: None,
        source_text: text.to_owned(),
        source,
        mirrors: Vec::new(),
        path: locked.path.clone(),
        checksums: Vec::new(),
    };
    let part = Part::Model(locked.path.to_string());
    fetcher.model(&part, &Why::NotInStore, &model, Some(locked)).map(|_| ())
}
