//! The Python environment of a version, from what its parts require to what is grafted. What an earlier lock resolved
//! stays for as long as nothing it was resolved from changed; what it built stays for as long as its interpreter is
//! there. The same inputs give the same manifest.

use cvs_store::{BlobId, Manifest, ManifestId, StoreError, Transaction};
use serde_json::Value;

use super::event::{Event, Why};
use super::options::{LockOptions, Refreshed};
use super::{Workspace, store_error};
use crate::error::VersionsError;
use crate::python::{
    self, BuildOptions, Interpreter, PythonEvent, PythonOptions, Requirements, ResolveRequest, Role, Uv,
};
use crate::spec::{
    CORE, Lock, LockedNode, LockedPython, LockedSource, Part, PythonRequest, PythonSpec, Spec, StaleReason,
    VersionId, sources,
};

/// The environment of a lock, and why it was worked on.
pub(super) struct Environment {
    pub(super) locked: Option<LockedPython>,
    pub(super) refreshed: Option<Refreshed>,
}

impl Workspace {
    /// Resolves, builds and stores what `lock`, whose parts are all in the store, needs of Python.
    pub(super) fn environment(
        &self,
        spec: &Spec,
        lock: &Lock,
        previous: Option<&LockedPython>,
        update: bool,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<Environment, VersionsError> {
        if spec.skip_python {
            return Ok(Environment { locked: None, refreshed: None });
        }
        let (id, offline) = (&spec.version_id, options.offline || spec.offline);
        let python = &spec.python;
        let making =
            Making { workspace: self, id, python, offline, transaction, options, uv: Default::default() };
        making.run(spec, lock, previous, update)
    }

    /// Fills in the bytecode of the core and of every node, as they are in the end.
    pub(super) fn compile(
        &self,
        spec: &Spec,
        lock: &mut Lock,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<(), VersionsError> {
        let Some(interpreter) = lock.python.as_ref().and_then(|python| python.interpreter.clone()) else {
            return Ok(());
        };
        let (id, offline) = (&spec.version_id, options.offline || spec.offline);
        let python = &spec.python;
        let making =
            Making { workspace: self, id, python, offline, transaction, options, uv: Default::default() };
        let mut compiled = Vec::new();
        for tree in making.trees(lock, LockedNode::content)? {
            compiled.push(making.bytecode(&interpreter, &tree)?);
        }
        let sources = lock.python.iter_mut().flat_map(|python| &mut python.sources);
        for (source, bytecode) in sources.zip(compiled) {
            source.bytecode = bytecode;
        }
        Ok(())
    }

    /// Builds and compiles again what `lock` names and the store lacks. Returns what did not come out as it was.
    pub(super) fn remake_environment(
        &self,
        id: &VersionId,
        lock: &Lock,
        transaction: &Transaction,
        options: &LockOptions<'_>,
    ) -> Result<Vec<String>, VersionsError> {
        let mut wrong = Vec::new();
        let Some(locked) = &lock.python else { return Ok(wrong) };
        let (Some(manifest), Some(interpreter), Some(pylock)) =
            (locked.manifest, &locked.interpreter, &locked.pylock)
        else {
            return Ok(wrong);
        };
        let (python, offline) = (&locked.request.python, options.offline);
        let making =
            Making { workspace: self, id, python, offline, transaction, options, uv: Default::default() };
        if !making.holds(&manifest)? {
            let mut made = making.build(interpreter, pylock, false)?;
            if made != manifest {
                // An object shares its bytes with uv's cache: what damaged the one has damaged the other.
                made = making.build(interpreter, pylock, true)?;
            }
            if made != manifest {
                wrong.push(format!(
                    "python: built again it is manifest {made}, and the lock names {manifest}"
                ));
            }
        }
        for (source, tree) in locked.sources.iter().zip(making.trees(lock, LockedNode::content)?) {
            let Some(wanted) = source.bytecode else { continue };
            if !making.holds(&wanted)? && making.bytecode(interpreter, &tree)? != Some(wanted) {
                wrong.push(format!("{}: its bytecode is not what it was", source.source));
            }
        }
        Ok(wrong)
    }
}

struct Making<'a> {
    workspace: &'a Workspace,
    id: &'a VersionId,
    python: &'a PythonSpec,
    offline: bool,
    transaction: &'a Transaction,
    options: &'a LockOptions<'a>,
    /// Looked for only when there is something for it to do.
    uv: std::cell::OnceCell<Uv>,
}

impl Making<'_> {
    fn run(
        &self,
        spec: &Spec,
        lock: &Lock,
        previous: Option<&LockedPython>,
        update: bool,
    ) -> Result<Environment, VersionsError> {
        let trees = self.trees(lock, |node| node.locked.manifest)?;
        let (wanted, sources) = self.requirements(spec, &trees)?;
        let request = PythonRequest::of(spec);
        let resolved = previous.filter(|previous| {
            !update && previous.request == request && same_requirements(&previous.sources, &sources)
        });
        let mut why = match (resolved, previous) {
            (Some(_), _) => None,
            (None, _) if update => Some(Why::Asked),
            (None, None) => Some(Why::Stale(StaleReason::NeverLocked)),
            (None, Some(previous)) => {
                Some(Why::Stale(previous.reason(spec).unwrap_or(StaleReason::SourcesChanged)))
            }
        };
        let mut locked = LockedPython {
            request,
            sources: Vec::new(),
            interpreter: None,
            pylock: None,
            manifest: None,
            extra: previous.map(|previous| previous.extra.clone()).unwrap_or_default(),
        };
        if wanted.is_empty() && locked.request.python.version.is_none() {
            let refreshed = previous.is_some_and(|previous| previous.manifest.is_some());
            locked.sources = sources;
            return Ok(self.environment(locked, why.filter(|_| refreshed)));
        }

        let known = previous.and_then(|previous| previous.interpreter.as_ref());
        let here = known.filter(|known| resolved.is_some() && known.path.exists());
        let interpreter = match here {
            Some(known) => known.clone(),
            None => {
                self.tell(why.get_or_insert(Why::NotInStore));
                self.find_interpreter()?
            }
        };
        // Another patch release takes the same packages; another minor release may not.
        let same_kind = known.is_some_and(|known| {
            (&known.cache_tag, &known.platform) == (&interpreter.cache_tag, &interpreter.platform)
        });
        let earlier = previous.and_then(|previous| previous.pylock.as_ref());
        let pylock = match (resolved, earlier) {
            (Some(_), Some(pylock)) if same_kind => pylock.clone(),
            _ => {
                self.tell(why.get_or_insert(Why::Stale(StaleReason::SourcesChanged)));
                self.resolve(&interpreter, &wanted, earlier.filter(|_| !update))?
            }
        };
        let built = previous
            .and_then(|previous| previous.manifest)
            .filter(|_| known == Some(&interpreter) && earlier == Some(&pylock));
        let manifest = match built {
            Some(manifest) if self.holds(&manifest)? => manifest,
            _ => {
                let why = why.get_or_insert(Why::NotInStore);
                (self.options.events)(Event::Fetching { part: &Part::Python, why });
                self.build(&interpreter, &pylock, false)?
            }
        };
        locked.sources = sources;
        locked.interpreter = Some(interpreter);
        locked.pylock = Some(pylock);
        locked.manifest = Some(manifest);
        Ok(self.environment(locked, why))
    }

    fn environment(&self, locked: LockedPython, why: Option<Why>) -> Environment {
        let refreshed = why.map(|why| Refreshed { part: Part::Python, why });
        Environment { locked: Some(locked), refreshed }
    }

    fn tell(&self, why: &Why) {
        (self.options.events)(Event::Resolving { part: &Part::Python, why });
    }

    /// The trees of the core and the nodes, in the order of the spec.
    fn trees(
        &self,
        lock: &Lock,
        content: impl Fn(&LockedNode) -> Option<ManifestId>,
    ) -> Result<Vec<Manifest>, VersionsError> {
        let nodes = lock.custom_nodes.iter().map(content);
        let all = std::iter::once(lock.comfy.manifest).chain(nodes);
        all.flatten()
            .map(|id| self.workspace.store.manifest(&id).map_err(self.store("read its parts")))
            .collect()
    }

    /// What everything requires, and the sources as the lock names them.
    fn requirements(
        &self,
        spec: &Spec,
        trees: &[Manifest],
    ) -> Result<(Vec<Requirements>, Vec<LockedSource>), VersionsError> {
        let (mut wanted, mut locked) = (Vec::new(), Vec::new());
        for ((source, installs), tree) in sources(spec).zip(trees) {
            let (label, role) = match spec.custom_nodes.iter().find(|node| node.path.to_string() == source) {
                Some(node) => (format!("node {}", node.name), Role::Node),
                None => (CORE.to_owned(), Role::Core),
            };
            let requirements = match installs {
                true => python::requirements_of(self.transaction, tree, &label, role)
                    .map_err(|source| self.python(source))?,
                false => None,
            };
            let digest = requirements.as_ref().map(|list| BlobId::of(&list.fingerprint()));
            wanted.extend(requirements);
            if source == CORE {
                wanted.extend(Requirements::of_packages(&spec.python_packages));
            }
            locked.push(LockedSource { source, installs, requirements: digest, bytecode: None });
        }
        Ok((wanted, locked))
    }

    fn find_interpreter(&self) -> Result<Interpreter, VersionsError> {
        let wanted = self.python.version.as_deref();
        self.with_options(|uv, options| python::find_interpreter(uv, wanted, options))
    }

    fn resolve(
        &self,
        interpreter: &Interpreter,
        requirements: &[Requirements],
        previous: Option<&Value>,
    ) -> Result<Value, VersionsError> {
        let python = self.python;
        let scratch = self.transaction.scratch_dir().map_err(self.store("resolve its packages"))?;
        self.with_options(|uv, options| {
            let request = ResolveRequest {
                interpreter,
                requirements,
                index_url: python.index_url.as_deref(),
                extra_index_urls: &python.extra_index_urls,
                torch_backend: python.torch_backend.as_deref(),
                wheels: self.options.wheels,
                previous,
                options: *options,
            };
            python::resolve(uv, &scratch, &request)
        })
    }

    /// With `fresh`, nothing is taken from uv's cache.
    fn build(
        &self,
        interpreter: &Interpreter,
        pylock: &Value,
        fresh: bool,
    ) -> Result<ManifestId, VersionsError> {
        let built = self.with_options(|uv, options| {
            let how = BuildOptions {
                index_url: self.python.index_url.as_deref(),
                extra_index_urls: &self.python.extra_index_urls,
                wheels: self.options.wheels,
                fresh,
                options: *options,
            };
            python::build(uv, self.transaction, interpreter, pylock, &how)
        })?;
        let files = built.files;
        (self.options.events)(Event::Fetched { part: &Part::Python, files, reused: false });
        Ok(built.manifest)
    }

    /// The bytecode of a tree; from the index where it was compiled before.
    fn bytecode(
        &self,
        interpreter: &Interpreter,
        tree: &Manifest,
    ) -> Result<Option<ManifestId>, VersionsError> {
        let Interpreter { implementation, version, .. } = interpreter;
        let key = format!("bytecode:{implementation}-{version}:{}", tree.id());
        let index = self.workspace.store.index();
        if let Some(known) = index.source(&key)
            && self.holds(&known)?
        {
            return Ok(Some(known));
        }
        let made =
            self.with_events(|options| python::bytecode(self.transaction, interpreter, tree, options))?;
        let made = made.map(|made| made.manifest);
        if let Some(made) = &made {
            index.put_source(&key, made);
        }
        Ok(made)
    }

    fn holds(&self, manifest: &ManifestId) -> Result<bool, VersionsError> {
        self.transaction.has_manifest(manifest).map_err(self.store("keep its Python environment"))
    }

    fn with_options<R>(
        &self,
        work: impl FnOnce(&Uv, &PythonOptions<'_>) -> Result<R, python::PythonError>,
    ) -> Result<R, VersionsError> {
        let uv = match self.uv.get() {
            Some(uv) => uv,
            None => {
                let found =
                    Uv::find(None, self.workspace.store.home()).map_err(|source| self.python(source))?;
                self.uv.get_or_init(|| found)
            }
        };
        self.with_events(|options| work(uv, options))
    }

    fn with_events<R>(
        &self,
        work: impl FnOnce(&PythonOptions<'_>) -> Result<R, python::PythonError>,
    ) -> Result<R, VersionsError> {
        let events = |event: PythonEvent<'_>| (self.options.events)(Event::Python { event });
        let options = PythonOptions { offline: self.offline, events: &events, cancel: self.options.cancel };
        work(&options).map_err(|source| self.python(source))
    }

    fn python(&self, source: python::PythonError) -> VersionsError {
        match source {
            python::PythonError::Cancelled => VersionsError::Cancelled,
            source => VersionsError::Python { id: self.id.clone(), source },
        }
    }

    fn store(&self, operation: &'static str) -> impl Fn(StoreError) -> VersionsError {
        store_error(self.id, operation)
    }
}

fn same_requirements(one: &[LockedSource], other: &[LockedSource]) -> bool {
    let key = |source: &LockedSource| (source.source.clone(), source.installs, source.requirements);
    one.iter().map(key).eq(other.iter().map(key))
}
