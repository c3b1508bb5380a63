//! Creating a version, and bringing its lock up to date.

use cvs_store::{ComposeError, Graft, ManifestId, RelPath, StoreError, Transaction, View};

use super::build::Built;
use super::event::{Event, Events};
use super::options::{CreateOptions, CreateReport, LockOptions, LockReport, Ready, Update};
use super::{Workspace, store_error};
use crate::error::{SpecError, VersionsError};
use crate::spec::{CORE, Edit, Lock, NewSpec, Part, Spec, SpecDocument, StalePart, StaleReason, VersionId};

/// Where the Python environment is grafted.
const VENV: &str = ".venv";
/// How often a lock is made anew because its spec was edited meanwhile.
const ATTEMPTS: u32 = 5;

impl Workspace {
    /// Makes a new version: resolves what it asks for, brings it, and publishes its spec with the lock.
    ///
    /// # Errors
    /// [`SpecError::Exists`] when there is a version of this name, unless it is to be replaced. Nothing is published
    /// then, nor after any other error.
    pub fn create(&self, new: NewSpec, options: &CreateOptions<'_>) -> Result<CreateReport, VersionsError> {
        self.create_document(SpecDocument::build(new)?, options)
    }

    /// As [`Self::create`], of a document that was made otherwise.
    pub fn create_document(
        &self,
        mut document: SpecDocument,
        options: &CreateOptions<'_>,
    ) -> Result<CreateReport, VersionsError> {
        let id = document.spec().version_id.clone();
        let path = self.versions().file_of(&id);
        // Told before anything is downloaded; what appears meanwhile, the publishing finds.
        let mut previous = document.spec().lock.clone();
        if path.symlink_metadata().is_ok() {
            if !options.replace {
                return Err(SpecError::Exists { id: id.to_string(), path }.into());
            }
            self.versions().replace_by(&mut document)?;
            // What is wrong with the old one is no reason to keep it.
            previous = previous.or_else(|| self.read(&id).ok().and_then(|old| old.spec().lock.clone()));
        }
        let transaction = self.store.begin(&format!("create {id}"))?;
        let lock_options = LockOptions {
            offline: options.offline,
            intake: options.intake,
            wheels: options.wheels,
            sandbox: options.sandbox,
            events: options.events,
            cancel: options.cancel,
            limits: options.limits,
            ..LockOptions::default()
        };
        let built =
            self.build(document.spec(), previous.as_ref(), &transaction, options.fetch, &lock_options)?;
        let made = self.finish(document.spec(), built, previous.as_ref(), &transaction, &lock_options)?;
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
        Ok(self.bring(id, None, options)?.1.report)
    }

    /// Edits the spec of a version and locks what comes out, as [`Self::lock`] does; both are published at once. When
    /// the edit is refused, or something cannot be locked, the spec is left as it was. `edit` is called again when
    /// somebody else wrote the spec meanwhile.
    pub fn edit(
        &self,
        id: &VersionId,
        edit: Edit<'_>,
        options: &LockOptions<'_>,
    ) -> Result<LockReport, VersionsError> {
        Ok(self.bring(id, Some(edit), options)?.1.report)
    }

    /// As [`Self::lock`], for whoever needs the version itself: mount, validate, run.
    pub fn ensure(&self, id: &VersionId, options: &LockOptions<'_>) -> Result<Ready, VersionsError> {
        let (document, made) = self.bring(id, None, options)?;
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
        edit: Option<Edit<'_>>,
        options: &LockOptions<'_>,
    ) -> Result<(SpecDocument, Made), VersionsError> {
        let mut transaction: Option<Transaction> = None;
        let (mut objects, mut bytes) = (0, 0);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                (options.events)(Event::EditedMeanwhile { id });
            }
            let mut document = self.read(id)?;
            let mut edited = false;
            if let Some(edit) = edit {
                let before = document.text().to_owned();
                edit(&mut document)?;
                edited = document.text() != before;
            }
            let spec = document.spec();
            let warnings = document.warnings().to_vec();
            let as_it_stands = !options.thorough && !edited && options.update == Update::Nothing;
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
            let mut made = self.finish(spec, built, previous.as_ref(), transaction, options)?;
            objects += made.report.new_objects;
            bytes += made.report.new_bytes;
            let unchanged = previous.as_ref() == Some(&made.lock);
            made.report =
                LockReport { new_objects: objects, new_bytes: bytes, unchanged, warnings, ..made.report };
            if unchanged && !edited {
                remove_sources(transaction, options.events);
                return Ok((document, made));
            }
            if options.locked && !unchanged {
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
        // A lock from another machine names an interpreter that may not be here.
        let interpreter = lock.python.as_ref().and_then(|python| python.interpreter.as_ref());
        if interpreter.is_some_and(|interpreter| !interpreter.path.exists()) {
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

    /// Commits what was brought, makes of it what is made here, and composes it all.
    fn finish(
        &self,
        spec: &Spec,
        built: Built,
        previous: Option<&Lock>,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<Made, VersionsError> {
        let id = &spec.version_id;
        let Built { mut lock, mut refreshed, complete } = built;
        (options.events)(Event::Committing);
        let (mut new_objects, mut new_bytes) = (0, 0);
        let mut commit = || {
            let stats = transaction.commit().map_err(store_error(id, "store its content"))?;
            new_objects += stats.new_objects;
            new_bytes += stats.new_bytes;
            Ok::<(), VersionsError>(())
        };
        commit()?;
        let mut view = None;
        if complete {
            // What is made here is made of what is readable, and that is what is committed.
            let environment = previous.and_then(|previous| previous.python.as_ref());
            let update = options.update.python();
            let made = self.environment(spec, &lock, environment, update, transaction, options)?;
            lock.python = made.locked;
            refreshed.extend(made.refreshed);
            commit()?;
            refreshed.extend(self.install(spec, &mut lock, previous, transaction, options)?);
            commit()?;
            self.compile(spec, &mut lock, transaction, options)?;
            commit()?;
            let composed = View::compose(&self.store, &grafts(&lock));
            let composed = composed.map_err(|error| compose_error(id, error))?;
            lock.view = Some(composed.id());
            view = Some(composed);
        }
        let report = LockReport {
            id: id.clone(),
            refreshed,
            new_objects,
            new_bytes,
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

/// What the view of a lock is composed from: the core, the nodes in the order of the spec, each with its bytecode, all
/// models at the root, the Python environment. What has no content yet is left out.
pub(super) fn grafts(lock: &Lock) -> Vec<Graft> {
    let mut grafts = Vec::new();
    let mut add = |path: RelPath, manifest: Option<ManifestId>, label: String| {
        grafts.extend(manifest.map(|manifest| Graft { path, manifest, label }));
    };
    let bytecode = |source: &str| lock.python.as_ref().and_then(|python| python.bytecode(source));
    add(RelPath::root(), lock.comfy.manifest, CORE.to_owned());
    add(RelPath::root(), bytecode(CORE), "bytecode of the core".to_owned());
    for node in &lock.custom_nodes {
        add(node.path.clone(), node.content(), format!("node {}", node.name));
        let bytecode = bytecode(&node.path.to_string());
        add(node.path.clone(), bytecode, format!("bytecode of node {}", node.name));
    }
    add(RelPath::root(), lock.models_manifest, "models".to_owned());
    if let Some(manifest) = lock.python.as_ref().and_then(|python| python.manifest) {
        let graft = RelPath::new(VENV).map(|path| add(path, Some(manifest), "Python environment".to_owned()));
        debug_assert!(graft.is_ok(), "{VENV} is a name");
    }
    grafts
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
        if (before.pin(), before.manifest) != (after.pin(), after.manifest) {
            let (from, to) = (text(&before.manifest), text(&after.manifest));
            let reason = StaleReason::SourceChanged {
                from: format!("{} at {}", from, before.pin()),
                to: format!("{} at {}", to, after.pin()),
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
    if before.python != after.python {
        let text = |lock: &Lock| {
            lock.python.as_ref().map_or("none".to_owned(), |python| {
                let version = python.interpreter.as_ref().map_or("no", |found| found.version.as_str());
                let manifest = python.manifest.map_or("nothing".to_owned(), |id| format!("manifest {id}"));
                format!("{manifest} for {version} Python")
            })
        };
        let reason = StaleReason::SourceChanged { from: text(before), to: text(after) };
        stale.push(StalePart { part: Part::Python, reason });
    }
    if stale.is_empty() {
        let view = |lock: &Lock| lock.view.map_or("nothing".to_owned(), |view| view.to_string());
        let reason = StaleReason::SourceChanged { from: view(before), to: view(after) };
        stale.push(StalePart { part: Part::View, reason });
    }
    stale
}
