//! Checking one version, part by part. Nothing is changed; what is damaged, `fsck` sets aside and repairs.

mod report;

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::{BlobId, ComposeError, EntryKind, Manifest, ManifestId, StoreError, View};
use rayon::prelude::*;

use self::report::report;
pub use self::report::{PartReport, PartState, ReportPart, ValidateReport};
use super::event::{Event, Events};
use super::lock::{compose_error, grafts};
use super::options::LockOptions;
use super::{Workspace, store_error};
use crate::error::{SpecError, VersionsError};
use crate::python::check;
use crate::source::NetworkLimits;
use crate::spec::{Lock, LockedNode, LockedPython, Part, Spec, StalePart, StaleReason, VersionId, Warning};

/// Read at once.
const BUFFER: usize = 1 << 20;
/// Paths named in the detail of a part.
const NAMED: usize = 3;

static NEVER: AtomicBool = AtomicBool::new(false);

/// How a version is checked.
#[derive(Clone, Copy)]
pub struct ValidateOptions<'a> {
    /// Reads and hashes every blob. Otherwise only its presence and size are looked at.
    pub deep: bool,
    /// First brings the lock up to date and everything that is not in the store.
    pub fetch: bool,
    /// Hears of progress.
    pub events: Events<'a>,
    /// Set to true, by anyone at any time, to stop.
    pub cancel: &'a AtomicBool,
    /// Timeouts and retries of what is brought.
    pub limits: NetworkLimits,
}

impl Default for ValidateOptions<'_> {
    fn default() -> Self {
        Self { deep: false, fetch: false, events: &|_| {}, cancel: &NEVER, limits: NetworkLimits::default() }
    }
}

impl Workspace {
    /// Checks every part of a version. A spec that cannot be read is a damaged part, not an error.
    pub fn validate(
        &self,
        id: &VersionId,
        options: &ValidateOptions<'_>,
    ) -> Result<ValidateReport, VersionsError> {
        if options.fetch {
            let (events, cancel, limits) = (options.events, options.cancel, options.limits);
            self.lock(id, &LockOptions { thorough: true, events, cancel, limits, ..LockOptions::default() })?;
        }
        let document = match self.read(id) {
            Ok(document) => document,
            Err(VersionsError::Spec(
                error @ (SpecError::Syntax { .. } | SpecError::Invalid { .. } | SpecError::Io { .. }),
            )) => {
                let parts = vec![report(ReportPart::Spec, PartState::Damaged, error.to_string())];
                return Ok(ValidateReport { id: id.clone(), parts, warnings: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        let spec = document.spec();
        let check = Check { workspace: self, spec, options, stale: spec.stale() };
        let (parts, odd) = check.run(document.text().len() as u64)?;
        let warnings = document.warnings().iter().cloned().chain(odd).collect();
        Ok(ValidateReport { id: id.clone(), parts, warnings })
    }
}

struct Check<'a> {
    workspace: &'a Workspace,
    spec: &'a Spec,
    options: &'a ValidateOptions<'a>,
    stale: Vec<StalePart>,
}

/// What is wrong with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Missing,
    Damaged,
}

/// A manifest, or why there is none.
type Content = Result<Manifest, (PartState, String)>;

impl Check<'_> {
    fn run(&self, spec_bytes: u64) -> Result<(Vec<PartReport>, Vec<Warning>), VersionsError> {
        let spec = self.spec;
        let mut parts = vec![PartReport {
            part: ReportPart::Spec,
            state: PartState::Present,
            detail: None,
            files: 1,
            bytes: spec_bytes,
        }];
        let lock = spec.lock.as_ref();
        let core = self.content(lock.and_then(|lock| lock.comfy.manifest))?;
        let mut nodes = Vec::new();
        for node in &spec.custom_nodes {
            let locked = lock.and_then(|lock| lock.reusable_node(node));
            nodes.push(self.content(locked.and_then(LockedNode::content))?);
        }
        let python = lock.and_then(|lock| lock.python.as_ref());
        let environment = match python.and_then(|python| python.manifest) {
            Some(manifest) => Some(self.content(Some(manifest))?),
            None => None,
        };
        let mut bytecode = Vec::new();
        for source in python.iter().flat_map(|python| &python.sources) {
            bytecode.extend(source.bytecode.map(|manifest| self.content(Some(manifest))).transpose()?);
        }
        let trees = std::iter::once(&core).chain(&nodes).chain(&environment).chain(&bytecode);
        let faults = self.faults(trees, lock)?;

        parts.push(self.of_manifest(ReportPart::Core, &Part::Comfy, &core, &faults));
        for (node, content) in spec.custom_nodes.iter().zip(&nodes) {
            let part = Part::Node(node.path.to_string());
            parts.push(self.of_manifest(ReportPart::Node(node.name.clone()), &part, content, &faults));
        }
        let mut warnings = Vec::new();
        for model in spec.wanted_models() {
            let path = model.path.to_string();
            let part = ReportPart::Model(path.clone());
            if let Some(stale) = self.stale_report(&part, &Part::Model(path)) {
                parts.push(stale);
            } else if let Some(locked) = lock.and_then(|lock| lock.reusable_model(model)) {
                let state = faults.get(&locked.blake3).map_or(PartState::Present, |fault| fault.state());
                let detail = (state != PartState::Present).then(|| format!("blob {}", locked.blake3));
                if state == PartState::Present {
                    let target = model.path.to_string();
                    let info = self.workspace.inspect_blob(&spec.version_id, &locked.blake3, &target)?;
                    warnings.extend(info.findings.iter().map(|finding| Warning::ModelFile {
                        place: model.place.clone(),
                        target: target.clone(),
                        finding: finding.to_string(),
                    }));
                }
                parts.push(PartReport { part, state, detail, files: 1, bytes: locked.size });
            }
        }
        if let Some(stale) = self.stale_report(&ReportPart::Python, &Part::Python) {
            parts.push(stale);
        } else if let (Some(python), Some(content)) = (python, &environment) {
            parts.push(self.python(python, content, &bytecode, &faults));
        }
        parts.push(self.view(lock)?);
        parts.extend(spec.questions.iter().map(|question| {
            let part = ReportPart::Question(question.place.clone());
            report(part, PartState::Open, question.question.clone())
        }));
        let scripts = spec.custom_nodes.iter().zip(&nodes);
        let scripts = scripts.filter(|(node, content)| !node.run_install && needs_install(content));
        warnings.extend(scripts.map(|(node, _)| Warning::InstallNotRun { place: node.place.clone() }));
        Ok((parts, warnings))
    }

    /// The environment and the bytecode that belongs to it.
    fn python(
        &self,
        python: &LockedPython,
        content: &Content,
        bytecode: &[Content],
        faults: &HashMap<BlobId, Fault>,
    ) -> PartReport {
        let mut report = self.of_manifest(ReportPart::Python, &Part::Python, content, faults);
        for content in bytecode {
            let of = self.of_manifest(ReportPart::Python, &Part::Python, content, faults);
            report.files += of.files;
            report.bytes += of.bytes;
            if report.state == PartState::Present && of.state != PartState::Present {
                let detail = of.detail.map(|detail| format!("bytecode: {detail}"));
                report = PartReport { detail, ..of };
            }
        }
        if report.state == PartState::Present
            && let Some(problem) = self.python_problem(python, content)
        {
            report.state = PartState::Missing;
            report.detail = Some(problem);
        }
        report
    }

    /// What keeps a whole environment from working here.
    fn python_problem(&self, python: &LockedPython, content: &Content) -> Option<String> {
        let (Some(interpreter), Some(pylock), Ok(manifest)) = (&python.interpreter, &python.pylock, content)
        else {
            return Some("the lock does not say which interpreter or which packages".to_owned());
        };
        match check(&self.workspace.store, interpreter, pylock, manifest) {
            Ok(problems) => {
                let named: Vec<String> = problems.iter().take(NAMED).map(ToString::to_string).collect();
                let more = if problems.len() > NAMED { ", …" } else { "" };
                (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn content(&self, manifest: Option<ManifestId>) -> Result<Content, VersionsError> {
        let Some(id) = manifest else {
            return Ok(Err((PartState::Missing, "not fetched yet".to_owned())));
        };
        match self.workspace.store.manifest(&id) {
            Ok(manifest) => Ok(Ok(manifest)),
            Err(error @ StoreError::MissingManifest(_)) => Ok(Err((PartState::Missing, error.to_string()))),
            Err(error @ (StoreError::DamagedManifest(_) | StoreError::Manifest { .. })) => {
                Ok(Err((PartState::Damaged, error.to_string())))
            }
            Err(error) => Err(store_error(&self.spec.version_id, "check its content")(error)),
        }
    }

    /// Looks at every blob once, whoever lists it.
    fn faults<'a>(
        &self,
        contents: impl Iterator<Item = &'a Content>,
        lock: Option<&Lock>,
    ) -> Result<HashMap<BlobId, Fault>, VersionsError> {
        let mut sizes: HashMap<BlobId, u64> = HashMap::new();
        for manifest in contents.filter_map(|content| content.as_ref().ok()) {
            for (_, size, blob) in files(manifest) {
                sizes.insert(blob, size);
            }
        }
        for model in lock.iter().flat_map(|lock| &lock.models) {
            sizes.insert(model.blake3, model.size);
        }
        let mut blobs: Vec<(BlobId, u64)> = sizes.into_iter().collect();
        blobs.sort_unstable_by_key(|(id, size)| (std::cmp::Reverse(*size), *id));
        let events = self.options.events;
        let bytes = blobs.iter().map(|(_, size)| size).sum();
        events(Event::CheckFound { blobs: blobs.len() as u64, bytes });
        let checked: Result<Vec<Option<(BlobId, Fault)>>, StoreError> = blobs
            .into_par_iter()
            .map_init(Vec::new, |buffer, (id, size)| {
                let mut told = 0;
                let fault = self.fault(&id, size, buffer, &mut |bytes| {
                    told += bytes;
                    events(Event::Checked { bytes });
                })?;
                events(Event::Checked { bytes: size.saturating_sub(told) });
                Ok(fault.map(|fault| (id, fault)))
            })
            .collect();
        let checked = checked.map_err(store_error(&self.spec.version_id, "check its content"))?;
        Ok(checked.into_iter().flatten().collect())
    }

    /// What is wrong with one blob. Tells `read` of the bytes that it had to read.
    fn fault(
        &self,
        id: &BlobId,
        size: u64,
        buffer: &mut Vec<u8>,
        read: &mut dyn FnMut(u64),
    ) -> Result<Option<Fault>, StoreError> {
        let cancelled = || self.options.cancel.load(Ordering::Relaxed);
        if cancelled() {
            return Err(StoreError::Interrupted);
        }
        let store = &self.workspace.store;
        match store.blob_size(id)? {
            None => return Ok(Some(Fault::Missing)),
            Some(found) if found != size => return Ok(Some(Fault::Damaged)),
            Some(_) if !self.options.deep => return Ok(None),
            Some(_) => {}
        }
        let mut file = match store.open_blob(id) {
            Ok(file) => file,
            Err(StoreError::MissingBlob(_)) => return Ok(Some(Fault::Missing)),
            Err(error) => return Err(error),
        };
        buffer.resize(BUFFER, 0);
        let mut hasher = blake3::Hasher::new();
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update_rayon(&buffer[..n]);
                    read(n as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // A disk that cannot give the bytes back is damage, not a reason to stop.
                Err(_) => return Ok(Some(Fault::Damaged)),
            };
            if cancelled() {
                return Err(StoreError::Interrupted);
            }
        }
        Ok((hasher.finalize().as_bytes() != id.as_bytes()).then_some(Fault::Damaged))
    }

    fn stale_report(&self, part: &ReportPart, of: &Part) -> Option<PartReport> {
        let stale = self.stale.iter().find(|stale| stale.part == *of || stale.part == Part::Lock)?;
        let state = match stale.reason {
            StaleReason::NotFetched | StaleReason::NeverLocked => PartState::Missing,
            _ => PartState::Stale,
        };
        let detail = match stale.reason {
            StaleReason::NeverLocked => "never locked".to_owned(),
            _ => stale.reason.to_string(),
        };
        Some(report(part.clone(), state, detail))
    }

    fn of_manifest(
        &self,
        part: ReportPart,
        of: &Part,
        content: &Content,
        faults: &HashMap<BlobId, Fault>,
    ) -> PartReport {
        if let Some(stale) = self.stale_report(&part, of) {
            return stale;
        }
        let manifest = match content {
            Ok(manifest) => manifest,
            Err((state, detail)) => return report(part, *state, detail.clone()),
        };
        let (mut count, mut bytes, mut bad) = (0, 0, Vec::new());
        for (index, size, blob) in files(manifest) {
            count += 1;
            bytes += size;
            if let Some(fault) = faults.get(&blob) {
                bad.push((*fault, index));
            }
        }
        let damaged = bad.iter().any(|(fault, _)| *fault == Fault::Damaged);
        let state = match &bad[..] {
            [] => PartState::Present,
            _ if damaged => PartState::Damaged,
            _ => PartState::Missing,
        };
        let detail = (!bad.is_empty()).then(|| {
            let name = |(fault, index): &(Fault, u32)| {
                let path = manifest.path(*index).map_or_else(String::new, |path| path.to_string());
                format!("{path} ({})", fault.state())
            };
            let named: Vec<String> = bad.iter().take(NAMED).map(name).collect();
            let more = if bad.len() > NAMED { ", …" } else { "" };
            format!("{} of {count} files: {}{more}", bad.len(), named.join(", "))
        });
        PartReport { part, state, detail, files: count, bytes }
    }

    fn view(&self, lock: Option<&Lock>) -> Result<PartReport, VersionsError> {
        let part = ReportPart::View;
        if let Some(stale) = self.stale_report(&part, &Part::View) {
            return Ok(stale);
        }
        let Some(lock) = lock.filter(|_| self.stale.is_empty()) else {
            return Ok(report(part, PartState::Stale, "parts of it are stale".to_owned()));
        };
        let grafts = grafts(lock);
        if lock.view != Some(View::id_of(&grafts)) {
            let detail = "the lock names another view than its parts make".to_owned();
            return Ok(report(part, PartState::Stale, detail));
        }
        let id = &self.spec.version_id;
        match View::compose(&self.workspace.store, &grafts) {
            Ok(view) => {
                let bytes = view.content_bytes();
                Ok(PartReport {
                    part,
                    state: PartState::Present,
                    detail: None,
                    files: self.count(&view),
                    bytes,
                })
            }
            Err(ComposeError::Store(error @ StoreError::MissingManifest(_))) => {
                Ok(report(part, PartState::Missing, error.to_string()))
            }
            Err(ComposeError::Store(
                error @ (StoreError::DamagedManifest(_) | StoreError::Manifest { .. }),
            )) => Ok(report(part, PartState::Damaged, error.to_string())),
            Err(ComposeError::Store(error)) => Err(compose_error(id, ComposeError::Store(error))),
            Err(error) => Ok(report(part, PartState::Damaged, error.to_string())),
        }
    }

    fn count(&self, view: &View) -> u64 {
        let manifests = view.grafts().iter().filter_map(|g| self.workspace.store.manifest(&g.manifest).ok());
        manifests.map(|manifest| files(&manifest).count() as u64).sum()
    }
}

impl Fault {
    fn state(self) -> PartState {
        match self {
            Self::Missing => PartState::Missing,
            Self::Damaged => PartState::Damaged,
        }
    }
}

/// True for a node whose `install.py` is the only one to say what it depends on.
fn needs_install(content: &Content) -> bool {
    let Ok(manifest) = content else { return false };
    let has = |name: &[u8]| manifest.root().is_some_and(|root| manifest.child(&root, name).is_some());
    has(b"install.py") && !has(b"requirements.txt")
}

/// The files of a manifest: index, size and blob.
fn files(manifest: &Manifest) -> impl Iterator<Item = (u32, u64, BlobId)> + '_ {
    (0..manifest.entry_count()).filter_map(|index| {
        let entry = manifest.entry(index).filter(|entry| entry.kind() == EntryKind::File)?;
        Some((index, entry.size(), manifest.blob(&entry)?))
    })
}
