//! Making a lock for a spec, in a transaction: what an earlier lock pinned and the edit left alone stays; the rest is
//! resolved first, all of it, so that a misspelt branch is told before anything is downloaded; then it is brought,
//! several parts at once.

use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::{ManifestBuilder, StoreError, Transaction};

use super::event::{Event, Why};
use super::fetch::Fetcher;
use super::options::{LockOptions, Refreshed, Update};
use super::{Workspace, jobs, store_error};
use crate::error::{SourceFailure, VersionsError};
use crate::source::{SourceError, public_text};
use crate::spec::{
    Lock, LockedModel, LockedNode, LockedRepo, ModelSource, ModelSpec, Part, RepoUrl, Revision, Spec,
    StaleReason, TreeSpec, VersionId,
};

/// Repositories asked or fetched at once.
pub(super) const REPOSITORIES: usize = 4;
/// Models fetched at once.
const MODELS: usize = 3;

/// The name of the Python environment among the parts.
const PYTHON: &str = "python";

impl Update<'_> {
    /// Whether the Python environment is resolved anew.
    pub(super) fn python(self) -> bool {
        match self {
            Update::Nothing => false,
            Update::Parts(parts) => parts.iter().any(|part| part == PYTHON),
            Update::Everything => true,
        }
    }
}

/// A lock whose content is in the transaction, and what was done for it.
pub(super) struct Built {
    pub(super) lock: Lock,
    pub(super) refreshed: Vec<Refreshed>,
    /// Everything is in the transaction, so that the view can be composed.
    pub(super) complete: bool,
}

/// A repository of the spec on its way into the lock.
struct RepoTask<'a> {
    part: Part,
    place: &'a str,
    repo: &'a RepoUrl,
    revision: &'a Revision,
    /// What is taken in place of a commit's files.
    tree: Option<&'a TreeSpec>,
    /// What is known of it so far.
    locked: Option<LockedRepo>,
    /// Where a server is asked for the commit first.
    reference: Option<String>,
    /// Why something is to be done; none when nothing is.
    why: Option<Why>,
}

struct ModelTask<'a> {
    part: Part,
    spec: &'a ModelSpec,
    pin: Option<LockedModel>,
    why: Option<Why>,
}

impl Workspace {
    /// Makes a lock for `spec`. Without `fetch`, what is not in the store is only pinned.
    pub(super) fn build(
        &self,
        spec: &Spec,
        previous: Option<&Lock>,
        transaction: &Transaction,
        fetch: bool,
        options: &LockOptions<'_>,
    ) -> Result<Built, VersionsError> {
        self.refill_when_empty(options.cancel);
        jobs::with_stop(
            options.cancel,
            || (options.events)(Event::Stopping),
            |stop| {
                let fetcher = Fetcher {
                    store: &self.store,
                    transaction,
                    events: options.events,
                    stop,
                    limits: options.limits,
                    offline: options.offline || spec.offline,
                    intake: options.intake,
                };
                Builder { spec, previous, fetcher: &fetcher, cancel: options.cancel }
                    .run(options.update, fetch)
            },
        )
    }
}

struct Builder<'a> {
    spec: &'a Spec,
    previous: Option<&'a Lock>,
    fetcher: &'a Fetcher<'a>,
    cancel: &'a AtomicBool,
}

impl Builder<'_> {
    fn run(&self, update: Update<'_>, fetch: bool) -> Result<Built, VersionsError> {
        let spec = self.spec;
        let stale = self.previous.map(|lock| lock.stale(spec)).unwrap_or_default();
        let reason = |part: &Part| match self.previous {
            None => StaleReason::NeverLocked,
            Some(_) => stale
                .iter()
                .find(|stale| stale.part == *part)
                .map_or(StaleReason::Added, |stale| stale.reason.clone()),
        };
        let chosen = self.chosen(update)?;
        let mut repos = self.repo_tasks(&chosen, &reason)?;
        let mut models = self.model_tasks(&chosen, &reason)?;
        let busy = |why: &Option<Why>| why.is_some();
        let parts = repos.iter().filter(|task| busy(&task.why)).count()
            + models.iter().filter(|task| busy(&task.why)).count();
        let unchanged = repos.len() + models.len() - parts;
        (self.fetcher.events)(Event::Planned { id: &spec.version_id, parts, unchanged });

        self.resolve(&mut repos)?;
        if fetch {
            self.fetch(&mut repos, &mut models)?;
        }
        let refreshed = self.refreshed(&repos, &models, &stale);
        self.assemble(repos, models, refreshed, fetch)
    }

    /// Which parts are updated, in the order of the spec: the core, the nodes, the models, the Python environment.
    fn chosen(&self, update: Update<'_>) -> Result<Vec<bool>, VersionsError> {
        let spec = self.spec;
        let nodes = spec.custom_nodes.iter().map(|node| vec![node.name.clone(), node.path.to_string()]);
        let models = spec.wanted_models().iter().map(|model| vec![model.path.to_string()]);
        let python = (!spec.skip_python).then(|| vec![PYTHON.to_owned()]);
        let names: Vec<Vec<String>> =
            std::iter::once(vec!["core".to_owned()]).chain(nodes).chain(models).chain(python).collect();
        match update {
            Update::Nothing => Ok(vec![false; names.len()]),
            Update::Everything => Ok(vec![true; names.len()]),
            Update::Parts(wanted) => {
                if let Some(found) = wanted.iter().find(|text| !names.iter().any(|n| n.contains(text))) {
                    return Err(VersionsError::NoSuchPart {
                        id: spec.version_id.clone(),
                        found: found.clone(),
                        parts: names.into_iter().filter_map(|names| names.into_iter().next()).collect(),
                    });
                }
                Ok(names.iter().map(|names| names.iter().any(|name| wanted.contains(name))).collect())
            }
        }
    }

    fn repo_tasks(
        &self,
        chosen: &[bool],
        reason: &dyn Fn(&Part) -> StaleReason,
    ) -> Result<Vec<RepoTask<'_>>, VersionsError> {
        let spec = self.spec;
        let core = (
            Part::Comfy,
            "comfy",
            &spec.comfy.repo,
            &spec.comfy.revision,
            spec.comfy.tree.as_ref(),
            self.previous.and_then(|lock| lock.reusable_comfy(&spec.comfy)),
        );
        let nodes = spec.custom_nodes.iter().map(|node| {
            let pin = self.previous.and_then(|lock| lock.reusable_node(node)).map(|node| &node.locked);
            (
                Part::Node(node.path.to_string()),
                node.place.as_str(),
                &node.repo,
                &node.revision,
                node.tree.as_ref(),
                pin,
            )
        });
        let all = std::iter::once(core).chain(nodes).zip(chosen);
        all.map(|((part, place, repo, revision, tree, pin), chosen)| {
            // Files that were found are what they are: there is nothing newer to be asked for.
            let chosen = *chosen && tree.is_none();
            let mut stale = pin.is_none().then(|| Why::Stale(reason(&part)));
            let pin = match (pin.filter(|_| !chosen), tree) {
                (None, Some(tree)) => Some(LockedRepo {
                    repo: repo.public().into_owned(),
                    requested: revision.requested().map(str::to_owned),
                    commit: revision.commit().map(str::to_owned),
                    tree: Some(tree.clone()),
                    manifest: Some(tree.manifest),
                    ..LockedRepo::default()
                }),
                (pin, _) => pin.cloned(),
            };
            let why = match &pin {
                _ if chosen => Some(Why::Asked),
                None => stale.take(),
                Some(LockedRepo { manifest: None, .. }) => Some(Why::Stale(StaleReason::NotFetched)),
                Some(LockedRepo { manifest: Some(manifest), .. }) => {
                    let here = self.fetcher.transaction.has_manifest(manifest);
                    let here = here.map_err(self.store("keep its objects"))?;
                    stale.take().or((!here).then_some(Why::NotInStore))
                }
            };
            let reference = revision.requested().map(str::to_owned);
            Ok(RepoTask { part, place, repo, revision, tree, locked: pin, reference, why })
        })
        .collect()
    }

    fn model_tasks(
        &self,
        chosen: &[bool],
        reason: &dyn Fn(&Part) -> StaleReason,
    ) -> Result<Vec<ModelTask<'_>>, VersionsError> {
        let chosen = &chosen[1 + self.spec.custom_nodes.len()..];
        let all = self.spec.wanted_models().iter().zip(chosen);
        all.map(|(model, chosen)| {
            let part = Part::Model(model.path.to_string());
            let pin = self.previous.filter(|_| !chosen).and_then(|lock| lock.reusable_model(model));
            let why = match pin {
                _ if *chosen => Some(Why::Asked),
                None => Some(Why::Stale(reason(&part))),
                Some(pin) => {
                    let here = self.fetcher.transaction.has_blob(&pin.blake3);
                    let here = here.map_err(self.store("keep its models"))? == Some(pin.size);
                    (!here).then_some(Why::NotInStore)
                }
            };
            Ok(ModelTask { part, spec: model, pin: pin.cloned(), why })
        })
        .collect()
    }

    /// Asks for every commit that is not pinned. All questions are asked, so that all wrong references are told.
    fn resolve(&self, repos: &mut [RepoTask<'_>]) -> Result<(), VersionsError> {
        let open: Vec<&RepoTask<'_>> = repos.iter().filter(|task| task.locked.is_none()).collect();
        let found = jobs::run(&open, REPOSITORIES, |task| {
            if let Some(why) = &task.why {
                (self.fetcher.events)(Event::Resolving { part: &task.part, why });
            }
            self.fetcher.pin(&task.part, task.repo, task.revision)
        });
        let mut failures = Vec::new();
        let open = repos.iter_mut().filter(|task| task.locked.is_none());
        for (task, found) in open.zip(found) {
            match found {
                Ok((locked, reference)) => {
                    task.reference = reference;
                    task.locked = Some(locked);
                }
                Err(error) => failures.push(self.failed(task.place.to_owned(), &task.part, error)),
            }
        }
        self.outcome(failures)
    }

    /// Brings what is to be brought. The first failure stops the rest, except that being offline stops nothing: then
    /// all that is missing is told.
    fn fetch(&self, repos: &mut [RepoTask<'_>], models: &mut [ModelTask<'_>]) -> Result<(), VersionsError> {
        let fetcher = self.fetcher;
        let stop_on = |error: &SourceError| {
            if !is_offline(error) {
                fetcher.stop.store(true, Ordering::Relaxed);
            }
        };
        let open_repos: Vec<&RepoTask<'_>> = repos.iter().filter(|task| task.why.is_some()).collect();
        let open_models: Vec<&ModelTask<'_>> = models.iter().filter(|task| task.why.is_some()).collect();
        let (brought_repos, brought_models) = std::thread::scope(|scope| {
            let models = scope.spawn(|| {
                jobs::run(&open_models, MODELS, |task| {
                    let why = task.why.as_ref().unwrap_or(&Why::NotInStore);
                    self.unless_stopped(|| fetcher.model(&task.part, why, task.spec, task.pin.as_ref()))
                        .inspect_err(&stop_on)
                })
            });
            let repos = jobs::run(&open_repos, REPOSITORIES, |task| {
                let why = task.why.as_ref().unwrap_or(&Why::NotInStore);
                let Some(locked) = &task.locked else { return Err(SourceError::Cancelled) };
                let reference = task.reference.as_deref();
                self.unless_stopped(|| {
                    fetcher.bring_repo(&task.part, why, locked, Some(task.repo), reference)
                })
                .inspect_err(&stop_on)
            });
            (repos, models.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let mut failures = Vec::new();
        let open = repos.iter_mut().filter(|task| task.why.is_some());
        for (task, brought) in open.zip(brought_repos) {
            match brought {
                Ok(locked) => task.locked = Some(locked),
                Err(error) => failures.push(self.failed(task.place.to_owned(), &task.part, error)),
            }
        }
        let open = models.iter_mut().filter(|task| task.why.is_some());
        for (task, brought) in open.zip(brought_models) {
            match brought {
                Ok(locked) => task.pin = Some(locked),
                Err(error) => {
                    failures.push(self.failed(format!("{}.source", task.spec.place), &task.part, error));
                }
            }
        }
        self.outcome(failures)
    }

    fn unless_stopped<R>(&self, work: impl FnOnce() -> Result<R, SourceError>) -> Result<R, SourceError> {
        if self.fetcher.stop.load(Ordering::Relaxed) { Err(SourceError::Cancelled) } else { work() }
    }

    fn refreshed(
        &self,
        repos: &[RepoTask<'_>],
        models: &[ModelTask<'_>],
        stale: &[crate::spec::StalePart],
    ) -> Vec<Refreshed> {
        let repos = repos.iter().map(|task| (&task.part, &task.why));
        let models = models.iter().map(|task| (&task.part, &task.why));
        let worked = repos
            .chain(models)
            .filter_map(|(part, why)| why.clone().map(|why| Refreshed { part: part.clone(), why }));
        let mut refreshed: Vec<Refreshed> = worked.collect();
        for stale in stale {
            // That the whole was not composed yet follows from its parts.
            // What becomes of the environment is told by who makes it.
            let follows = matches!(stale.part, Part::Lock | Part::Models | Part::Python)
                || (stale.part == Part::View && stale.reason == StaleReason::NotFetched);
            if !follows && !refreshed.iter().any(|done| done.part == stale.part) {
                let why = Why::Stale(stale.reason.clone());
                refreshed.push(Refreshed { part: stale.part.clone(), why });
            }
        }
        refreshed
    }

    fn assemble(
        &self,
        repos: Vec<RepoTask<'_>>,
        models: Vec<ModelTask<'_>>,
        refreshed: Vec<Refreshed>,
        fetch: bool,
    ) -> Result<Built, VersionsError> {
        let mut complete = true;
        let mut repos = repos.into_iter().filter_map(|task| {
            let mut locked = task.locked?;
            // What is pinned, not here, and not to be brought has no content for now.
            if !fetch && task.why.is_some() && task.tree.is_none() {
                locked.manifest = None;
            }
            Some(locked)
        });
        let Some(core) = repos.next() else { return Err(VersionsError::Cancelled) };
        complete &= core.manifest.is_some() && (fetch || core.tree.is_none());
        let mut lock = Lock::new(core);
        for (node, locked) in self.spec.custom_nodes.iter().zip(repos) {
            complete &= locked.manifest.is_some() && (fetch || locked.tree.is_none());
            lock.custom_nodes.push(LockedNode {
                name: node.name.clone(),
                path: node.path.clone(),
                installed: None,
                locked,
            });
        }
        let mut here = true;
        for task in models {
            match task.pin {
                Some(pin) => {
                    let found = self.fetcher.transaction.has_blob(&pin.blake3);
                    here &= found.map_err(self.store("keep its models"))? == Some(pin.size);
                    let path = task.spec.path.clone();
                    let source = current_source(&pin, task.spec);
                    lock.models.push(LockedModel { path, source, ..pin });
                }
                None => here = false,
            }
        }
        if here && !lock.models.is_empty() {
            let manifest = models_manifest(self.fetcher.transaction, &lock.models);
            lock.models_manifest = Some(manifest.map_err(self.store("store the list of its models"))?);
        }
        complete &= here;
        lock.extra = self.previous.map(|lock| lock.extra.clone()).unwrap_or_default();
        Ok(Built { lock, refreshed, complete })
    }

    fn failed(&self, place: String, part: &Part, source: SourceError) -> SourceFailure {
        if !is_cancelled(&source) {
            (self.fetcher.events)(Event::Failed { part });
        }
        SourceFailure { place, part: part.clone(), source }
    }

    fn outcome(&self, failures: Vec<SourceFailure>) -> Result<(), VersionsError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(VersionsError::Cancelled);
        }
        sources_error(&self.spec.version_id, failures).map_or(Ok(()), Err)
    }

    fn store(&self, operation: &'static str) -> impl Fn(StoreError) -> VersionsError {
        store_error(&self.spec.version_id, operation)
    }
}

/// The locked source as the spec writes it now, without secrets.
fn current_source(pin: &LockedModel, model: &ModelSpec) -> String {
    let known = ModelSource::parse(&pin.source).map(|source| source.identity());
    let same = model.sources().find(|(_, source)| known.as_ref().is_ok_and(|id| *id == source.identity()));
    public_text(same.map_or(model.source_text.as_str(), |(text, _)| text))
}

/// The error that tells these failures. Those that were only stopped because of another say nothing.
fn sources_error(id: &VersionId, mut failures: Vec<SourceFailure>) -> Option<VersionsError> {
    if failures.is_empty() {
        return None;
    }
    failures.retain(|failure| !is_cancelled(&failure.source));
    let id = id.clone();
    Some(match &failures[..] {
        [] => VersionsError::Cancelled,
        all if all.iter().all(|failure| is_offline(&failure.source)) => {
            VersionsError::Offline { id, missing: failures }
        }
        _ => VersionsError::Sources { id, failures },
    })
}

/// One manifest of all models at their places in the view.
pub(super) fn models_manifest(
    transaction: &Transaction,
    models: &[LockedModel],
) -> Result<cvs_store::ManifestId, StoreError> {
    let mut builder = ManifestBuilder::new();
    for model in models {
        builder
            .file(&model.path, 0o644, model.size, model.blake3)
            .map_err(|source| StoreError::Manifest { context: "of the models".to_owned(), source })?;
    }
    transaction.put_manifest(builder)
}

fn is_cancelled(error: &SourceError) -> bool {
    match error {
        SourceError::Cancelled | SourceError::Store(StoreError::Interrupted) => true,
        SourceError::InSubmodule { source, .. } | SourceError::LfsDownload { source, .. } => {
            is_cancelled(source)
        }
        _ => false,
    }
}

fn is_offline(error: &SourceError) -> bool {
    match error {
        SourceError::Offline { .. } => true,
        SourceError::InSubmodule { source, .. } | SourceError::LfsDownload { source, .. } => {
            is_offline(source)
        }
        SourceError::Mirrors { failures } => failures.iter().all(is_offline),
        _ => false,
    }
}
