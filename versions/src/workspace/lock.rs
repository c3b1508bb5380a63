//! Creating a version, and bringing its lock up to date.

use cvs_store::{ComposeError, Graft, RelPath, StoreError, Transaction, View};

use super::build::Built;
use super::event::{Event, Events};
use super::options::{CreateOptions, CreateReport, LockOptions, LockReport, Ready, Update};
use super::{Workspace, store_error};
use crate::error::{SpecError, VersionsError};
use crate::spec::{Lock, NewSpec, Part, Spec, SpecDocument, StalePart, StaleReason, VersionId};

/// How often a lock is made anew because its spec was edited meanwhile.
const ATTEMPTS: u32 = 5;

impl Workspace {
    /// Makes a new version: resolves what it asks for, brings it, and publishes its spec with the lock.
    ///
    /// # Errors
    /// [`SpecError::Exists`] when there is a version of this name, unless it is to be replaced. Nothing is published
    /// then, nor after any other error.
    pub fn create(&self, new: NewSpec, options: &CreateOptions<'_>) -> Result<CreateReport, VersionsError> {
        let mut document = SpecDocument::build(new)?;
        let id = document.spec().version_id.clone();
        let path = self.versions().file_of(&id);
        // Told before anything is downloaded; what appears meanwhile, the publishing finds.
        let mut previous = None;
        if path.symlink_metadata().is_ok() {
            if !options.replace {
                return Err(SpecError::Exists { id: id.to_string(), path }.into());
            }
            self.versions().replace_by(&mut document)?;
            // What is wrong with the old one is no reason to keep it.
            previous = self.read(&id).ok().and_then(|old| old.spec().lock.clone());
        }
        let transaction = self.store.begin(&format!("create {id}"))?;
        let lock_options = LockOptions {
            offline: options.offline,
            intake: options.intake,
            wheels: options.wheels,
            events: options.events,
            cancel: options.cancel,
            limits: options.limits,
            ..LockOptions::default()
        };
        let built =
            self.build(document.spec(), previous.as_ref(), &transaction, options.fetch, &lock_options)?;
        let made = self.finish(&id, built, &transaction, &lock_options)?;
        document.set_lock(Some(&made.lock))?;
        self.versions().publish(&mut document)?;
        remove_sources(&transaction, options.events);
        let overlay = self.overlay_dir(&id);
        Ok(CreateReport {
            path,
            lock: LockReport { warnings: document.warnings().to_vec(), ..made.report },
            kept_overlay: overlay.is_dir().then_some(overlay),
        })
    }

    /// Brings the lock of a version up to date: what was edited is resolved again, what is pinned and not in the store
    /// is brought, everything else stays as it is. A lock that is right is confirmed without the network.
    pub fn lock(&self, id: &VersionId, options: &LockOptions<'_>) -> Result<LockReport, VersionsError> {
        Ok(self.bring(id, options)?.1.report)
    }

    /// As [`Self::lock`], for whoever needs the version itself: mount, validate, run.
    pub fn ensure(&self, id: &VersionId, options: &LockOptions<'_>) -> Result<Ready, VersionsError> {
        let (document, made) = self.bring(id, options)?;
        // A lock that was brought is complete.
        let Some(view) = made.view else {
            return Err(VersionsError::Locked { id: id.clone(), stale: document.spec().stale() });
        };
        Ok(Ready {
            spec: document.spec().clone(),
            lock: made.lock,
            grafts: view.grafts().to_vec(),
            view_id: view.id(),
            view,
            report: made.report,
        })
    }

    fn bring(
        &self,
        id: &VersionId,
        options: &LockOptions<'_>,
    ) -> Result<(SpecDocument, Made), VersionsError> {
        let mut transaction: Option<Transaction> = None;
        let (mut objects, mut bytes) = (0, 0);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                (options.events)(Event::EditedMeanwhile { id });
            }
            let mut document = self.read(id)?;
            let spec = document.spec();
            let warnings = document.warnings().to_vec();
            let as_it_stands = !options.thorough && options.update == Update::Nothing;
            if as_it_stands && let Some((lock, view)) = self.confirmed(spec)? {
                let report = LockReport {
                    id: id.clone(),
                    refreshed: Vec::new(),
                    new_objects: objects,
                    new_bytes: bytes,
                    view: Some(view.id()),
                    unchanged: true,
                    warnings,
                };
                return Ok((document, Made { lock, view: Some(view), report }));
            }
            let stale = spec.stale();
            if options.locked && !stale.is_empty() {
                return Err(VersionsError::Locked { id: id.clone(), stale });
            }
            // One transaction for all attempts: what an earlier one brought is a hit for the next.
            let transaction = match &transaction {
                Some(transaction) => transaction,
                None => transaction.insert(self.store.begin(&format!("lock {id}"))?),
            };
            let previous = spec.lock.clone();
            let built = self.build(spec, previous.as_ref(), transaction, true, options)?;
            let mut made = self.finish(id, built, transaction, options)?;
            objects += made.report.new_objects;
            bytes += made.report.new_bytes;
            let unchanged = previous.as_ref() == Some(&made.lock);
            made.report =
                LockReport { new_objects: objects, new_bytes: bytes, unchanged, warnings, ..made.report };
            if unchanged {
                remove_sources(transaction, options.events);
                return Ok((document, made));
            }
            if options.locked {
                let stale = differences(previous.as_ref(), &made.lock);
                return Err(VersionsError::Locked { id: id.clone(), stale });
            }
            document.set_lock(Some(&made.lock))?;
            match self.versions().publish(&mut document) {
                Ok(()) => {
                    remove_sources(transaction, options.events);
                    return Ok((document, made));
                }
                Err(SpecError::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(VersionsError::Unsteady { id: id.clone(), attempts: ATTEMPTS })
    }

    /// The lock of the spec and its view, if it is up to date and every manifest is there and whole.
    fn confirmed(&self, spec: &Spec) -> Result<Option<(Lock, View)>, VersionsError> {
        let Some(lock) = spec.lock.as_ref().filter(|lock| lock.is_current(spec)) else { return Ok(None) };
        let grafts = grafts(lock);
        if lock.view != Some(View::id_of(&grafts)) {
            return Ok(None);
        }
        match View::compose(&self.store, &grafts) {
            Ok(view) => Ok(Some((lock.clone(), view))),
            Err(ComposeError::Store(StoreError::MissingManifest(_) | StoreError::DamagedManifest(_))) => {
                Ok(None)
            }
            Err(error) => Err(compose_error(&spec.version_id, error)),
        }
    }

    /// Commits what was brought and composes it.
    fn finish(
        &self,
        id: &VersionId,
        built: Built,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<Made, VersionsError> {
        let Built { mut lock, refreshed, complete } = built;
        (options.events)(Event::Committing);
        let stats = transaction.commit().map_err(store_error(id, "store its content"))?;
        let mut view = None;
        if complete {
            let composed = View::compose(&self.store, &grafts(&lock));
            let composed = composed.map_err(|error| compose_error(id, error))?;
            lock.view = Some(composed.id());
            view = Some(composed);
        }
        let report = LockReport {
            id: id.clone(),
            refreshed,
            new_objects: stats.new_objects,
            new_bytes: stats.new_bytes,
            view: lock.view,
            unchanged: false,
            warnings: Vec::new(),
        };
        Ok(Made { lock, view, report })
    }
}

/// The end of what was moved in at its old place, now that a spec keeps it here.
pub(super) fn remove_sources(transaction: &Transaction, events: Events<'_>) {
    for (path, error) in transaction.remove_sources() {
        events(Event::NotRemoved { path: &path, reason: &error.to_string() });
    }
}

/// A lock whose content is in the store.
struct Made {
    lock: Lock,
    view: Option<View>,
    report: LockReport,
}

/// What the view of a lock is composed from: the core, the nodes in the order of the spec, all models at the root.
/// What has no content yet is left out.
pub(super) fn grafts(lock: &Lock) -> Vec<Graft> {
    let graft = |path: RelPath, label: String| move |manifest| Graft { path, manifest, label };
    let core = lock.comfy.manifest.map(graft(RelPath::root(), "core".to_owned()));
    let nodes = lock
        .custom_nodes
        .iter()
        .map(|node| node.locked.manifest.map(graft(node.path.clone(), format!("node {}", node.name))));
    let models = lock.models_manifest.map(graft(RelPath::root(), "models".to_owned()));
    std::iter::once(core).chain(nodes).chain([models]).flatten().collect()
}

pub(super) fn compose_error(id: &VersionId, error: ComposeError) -> VersionsError {
    match error {
        ComposeError::Conflict { path, first, second } => {
            VersionsError::Conflict { id: id.clone(), path, first, second }
        }
        ComposeError::Store(source) => store_error(id, "compose its view")(source),
        source => VersionsError::Compose { id: id.clone(), source },
    }
}

/// Which parts of a current lock would change: only content that is not what it was under the same pin can.
fn differences(before: Option<&Lock>, after: &Lock) -> Vec<StalePart> {
    let Some(before) = before else {
        return vec![StalePart { part: Part::Lock, reason: StaleReason::NeverLocked }];
    };
    let text =
        |id: &Option<cvs_store::ManifestId>| id.map_or("nothing".to_owned(), |id| format!("manifest {id}"));
    let mut stale = Vec::new();
    let mut compare = |part: Part, before: &crate::spec::LockedRepo, after: &crate::spec::LockedRepo| {
        if (&before.commit, before.manifest) != (&after.commit, after.manifest) {
            let (from, to) = (text(&before.manifest), text(&after.manifest));
            let reason = StaleReason::SourceChanged {
                from: format!("{} at {}", from, before.commit),
                to: format!("{} at {}", to, after.commit),
            };
            stale.push(StalePart { part, reason });
        }
    };
    compare(Part::Comfy, &before.comfy, &after.comfy);
    for (old, new) in before.custom_nodes.iter().zip(&after.custom_nodes) {
        compare(Part::Node(new.path.to_string()), &old.locked, &new.locked);
    }
    for (old, new) in before.models.iter().zip(&after.models) {
        if old.blake3 != new.blake3 {
            let reason = StaleReason::SourceChanged {
                from: format!("blob {}", old.blake3),
                to: format!("blob {}", new.blake3),
            };
            stale.push(StalePart { part: Part::Model(new.path.to_string()), reason });
        }
    }
    if stale.is_empty() {
        let view = |lock: &Lock| lock.view.map_or("nothing".to_owned(), |view| view.to_string());
        let reason = StaleReason::SourceChanged { from: view(before), to: view(after) };
        stale.push(StalePart { part: Part::View, reason });
    }
    stale
}
