//! An existing install of ComfyUI: a directory with `main.py`, its nodes, models and environment. It is only read.
//!
//! *What becomes what.* The core and each directory in `custom_nodes` become their published commit where they hold
//! exactly its files, else what was found, as a manifest that the spec names beside the commit. Every model file becomes
//! an entry with its checksum; so do files of models' kind and size in the directories of nodes that no commit has. The
//! environment becomes its exact packages. What programs write (`output`, `input`, `user`) is for the overlay, if asked.
//!
//! Everything enters the store before the spec is published, in steps that are committed as they end: an import that
//! was interrupted finds its models again by device, inode, size and time, and does not read them a second time.

mod ingest;
mod models;
mod nodes;
mod packages;
mod repos;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cvs_store::{Intake, RelPath, StoreError, Transaction};
use serde_json::{Map, Value, json};

use self::models::ModelRoot;
use self::nodes::NodeDir;
use self::repos::{Found, Repo};
use super::error::ImportError;
use super::report::{ImportReport, Taken};
use super::{PackageIndexes, left_out_of_trees};
use crate::error::{Origin, VersionsError};
use crate::source::{NetworkLimits, SourceOptions};
use crate::spec::{ReadOptions, SpecDocument, VersionId};
use crate::workspace::{CreateOptions, CreateReport, Event, Events, Workspace};

/// Directories of the core that programs and people fill: only what the core's commit has in them belongs to it.
const FILLED: [&str; 6] = ["custom_nodes", "input", "models", "output", "temp", "user"];
const EXTRA_PATHS: &str = "extra_model_paths.yaml";

/// What becomes of the environment of an install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvironmentChoice {
    /// Its packages, by exact version, are installed anew.
    Rebuild,
    /// The version has none.
    Skip,
}

/// How an install is imported.
#[derive(Clone, Copy)]
pub struct InstallOptions<'a> {
    /// What becomes of the environment.
    pub environment: EnvironmentChoice,
    /// Where it is, if not at one of the usual places.
    pub python: Option<&'a Path>,
    /// Where its packages are installed from.
    pub indexes: PackageIndexes<'a>,
    /// More files like `extra_model_paths.yaml`, as given to `--extra-model-paths-config`.
    pub extra_model_paths: &'a [PathBuf],
    /// How models enter the store. The files of core and nodes are copied.
    pub intake: Intake,
    /// Fails where models cannot share their blocks with the store.
    pub reflink: bool,
    /// Takes nothing in, and only says what would be taken.
    pub dry_run: bool,
    /// How the version is made of it.
    pub create: CreateOptions<'a>,
}

/// An install that became a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallImport {
    /// What was made of what.
    pub report: ImportReport,
    /// The version; none when it was only looked at.
    pub created: Option<CreateReport>,
    /// What programs wrote, which can go into the overlay.
    pub written: Vec<OverlaySource>,
}

/// A directory of an install that programs write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlaySource {
    /// Its name: `input`, `output`, `user`.
    pub name: &'static str,
    /// Where it is.
    pub dir: PathBuf,
}

impl Workspace {
    /// Makes the version `id` of the install in `dir`. What could not be found out is a question in its spec.
    ///
    /// # Errors
    /// [`ImportError`] for what cannot be read; else those of [`Workspace::create`]. What has entered the store stays
    /// until the next garbage collection, so that the next attempt begins where this one ended.
    pub fn import_install(
        &self,
        id: &VersionId,
        dir: &Path,
        options: &InstallOptions<'_>,
    ) -> Result<InstallImport, VersionsError> {
        let path = self.versions().file_of(id);
        if !options.create.replace && path.symlink_metadata().is_ok() {
            return Err(crate::SpecError::Exists { id: id.to_string(), path }.into());
        }
        let root = find_root(dir)?;
        let transaction = self.store().begin(&format!("import {id}"))?;
        let CreateOptions { events, cancel, limits, offline, .. } = options.create;
        let mut importer = Importer {
            workspace: self,
            transaction: &transaction,
            root: &root,
            options,
            events,
            cancel,
            limits,
            offline,
            report: ImportReport::default(),
            tracked: BTreeSet::new(),
            new_objects: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
        };
        let mut spec = importer.run(id)?;
        options.indexes.put(&mut spec);
        let Importer { mut report, new_objects, new_bytes, .. } = importer;
        let written = written_in(&root, &mut report);
        if options.dry_run {
            return Ok(InstallImport { report, created: None, written });
        }
        let origin = Origin::Named(format!("the import of {}", root.display()));
        let document = SpecDocument::from_root(spec, origin, id, ReadOptions::default())?;
        let mut created = self.create_document(document, &options.create)?;
        // Locking finds what has just been brought.
        created.lock.new_objects += new_objects.into_inner();
        created.lock.new_bytes += new_bytes.into_inner();
        for (path, error) in transaction.remove_sources() {
            events(Event::NotRemoved { path: &path, reason: &error.to_string() });
        }
        Ok(InstallImport { report, created: Some(created), written })
    }
}

/// What programs wrote in the install in `dir`.
pub fn written(dir: &Path) -> Result<Vec<OverlaySource>, ImportError> {
    Ok(written_in(&find_root(dir)?, &mut ImportReport::default()))
}

fn written_in(root: &Path, report: &mut ImportReport) -> Vec<OverlaySource> {
    let all = ["input", "output", "user"].map(|name| OverlaySource { name, dir: root.join(name) });
    all.into_iter().filter(|source| is_directory(&source.dir, report)).collect()
}

/// Whether there is a directory. Something else in its place is told.
fn is_directory(path: &Path, report: &mut ImportReport) -> bool {
    if !path.is_dir() && path.symlink_metadata().is_ok() {
        report.leave_out(path, no_directory(path));
    }
    path.is_dir()
}

/// What is in the place of a directory.
fn no_directory(path: &Path) -> &'static str {
    match path.metadata() {
        Err(_) => "a link that leads nowhere",
        Ok(metadata) if metadata.is_file() => "a file where a directory is expected",
        Ok(_) => "neither a file nor a directory",
    }
}

/// What a directory holds, in the order of names; none where it is not there.
fn list(dir: &Path) -> Result<Vec<fs::DirEntry>, ImportError> {
    let failed = |error| ImportError::io("list", dir, error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// The directory of ComfyUI: `dir`, or `ComfyUI/` in it, as in portable packages and comfy-cli's workspaces.
fn find_root(dir: &Path) -> Result<PathBuf, ImportError> {
    let dir = fs::canonicalize(dir).map_err(|error| ImportError::io("open", dir, error))?;
    let mut missing = "main.py";
    for root in [dir.clone(), dir.join("ComfyUI")] {
        let lacks =
            ["main.py", "nodes.py", "folder_paths.py"].into_iter().find(|name| !root.join(name).is_file());
        match lacks {
            None => return Ok(root),
            Some(name) if root == dir => missing = name,
            Some(_) => {}
        }
    }
    Err(ImportError::NotAnInstall { path: dir, missing })
}

/// What the files of an install say, each as a function of its bytes. Fuzzing enters here.
#[doc(hidden)]
pub mod files {
    use std::path::{Path, PathBuf};

    use super::{ImportReport, models, packages, repos};

    /// The requirement that `METADATA` and `direct_url.json` make.
    pub fn package(metadata: &[u8], direct: Option<&[u8]>) -> Option<String> {
        packages::package(metadata, direct)?.ok().map(|package| package.requirement)
    }

    /// The version of Python that a `pyvenv.cfg` names.
    pub fn python(text: &str) -> Option<String> {
        packages::configured_version(text)
    }

    /// How many commits a `FETCH_HEAD` names.
    pub fn fetched(text: &str) -> usize {
        repos::fetched(text).count()
    }

    /// Where an `extra_model_paths.yaml` beside `file` leads: directories, and where they go in the view.
    pub fn extra_paths(bytes: &[u8], file: &Path) -> Result<Vec<(PathBuf, String)>, String> {
        let found = models::extra_paths_of(bytes, file, &|_| true, &mut ImportReport::default())?;
        let roots = found.first.into_iter().chain(found.then);
        let nodes = found.nodes.into_iter().map(|dir| (dir, "custom_nodes".to_owned()));
        Ok(roots.map(|root| (root.dir, root.target.to_string())).chain(nodes).collect())
    }
}

struct Importer<'a> {
    workspace: &'a Workspace,
    transaction: &'a Transaction,
    root: &'a Path,
    options: &'a InstallOptions<'a>,
    events: Events<'a>,
    cancel: &'a AtomicBool,
    limits: NetworkLimits,
    offline: bool,
    report: ImportReport,
    /// The files of the core's commit.
    tracked: BTreeSet<RelPath>,
    /// What the store did not have.
    new_objects: AtomicU64,
    new_bytes: AtomicU64,
}

impl Importer<'_> {
    fn run(&mut self, id: &VersionId) -> Result<Map<String, Value>, ImportError> {
        let extra = self.extra_paths()?;
        let mut core =
            Found { dir: self.root.to_owned(), repo: Repo::of(self.root), commit: None, tree: None };
        let mut nodes = self.nodes(&extra.nodes)?;
        self.commits(&mut core, &mut nodes)?;

        // Which files of the directory are the core's, its commit tells.
        if let Some(commit) = core.commit {
            self.tracked = repos::paths(&self.manifest(&commit)?);
        }
        let environment = packages::find(self.root, self.options.python);
        core.tree = Some(self.core_tree(environment.as_ref().map(|found| found.root.as_path()))?);
        for node in &mut nodes {
            self.node_tree(node)?;
        }
        let home = name("custom_nodes");
        let loose = [self.loose_files(&home)?, self.loose_files(&join(&home, ".disabled")?)?];
        self.commit()?;

        let mut spec = Map::new();
        spec.insert("schema_version".to_owned(), 2.into());
        spec.insert("version_id".to_owned(), id.as_str().into());
        let comfy = self.entry(&core, "core".to_owned(), FILLED.as_slice())?;
        spec.insert("comfy".to_owned(), comfy.into());
        let mut entries = Vec::new();
        for node in &nodes {
            entries.push(self.node_entry(node)?);
        }
        for (taken, entry) in loose.into_iter().flatten() {
            self.report.taken.push(taken);
            entries.push(entry);
        }
        spec.insert("custom_nodes".to_owned(), entries.into());

        let mut roots = extra.first;
        roots.push(ModelRoot { dir: self.root.join("models"), target: name("models") });
        roots.extend(extra.then);
        roots.retain(|root| is_directory(&root.dir, &mut self.report));
        let mut files = models::collect(&roots, &self.tracked, &mut self.report)?;
        files.extend(nodes.into_iter().flat_map(|node| node.models));
        let mut taken = self.models(&files)?;
        self.moved_before(id, &mut taken);
        spec.insert("models".to_owned(), taken.into());
        self.environment(environment.as_ref(), &mut spec)?;
        Ok(spec)
    }

    fn extra_paths(&mut self) -> Result<models::ExtraPaths, ImportError> {
        let mut all = models::ExtraPaths::default();
        let own = self.root.join(EXTRA_PATHS);
        let files =
            own.is_file().then_some(own).into_iter().chain(self.options.extra_model_paths.iter().cloned());
        for file in files {
            let file = std::path::absolute(&file).map_err(|error| ImportError::io("open", &file, error))?;
            let found = models::extra_paths(&file, &mut self.report)?;
            self.report.leave_out(
                file,
                "it names directories of this machine; what they hold was taken into models/",
            );
            all.first.extend(found.first);
            all.then.extend(found.then);
            all.nodes.extend(found.nodes);
        }
        Ok(all)
    }

    /// Reads the commits of all repositories, each out of itself.
    fn commits(&mut self, core: &mut Found, nodes: &mut [NodeDir]) -> Result<(), ImportError> {
        let options = self.source_options();
        repos::read_commit(self.transaction, core, &options)?;
        for node in nodes {
            repos::read_commit(self.transaction, &mut node.found, &options)?;
        }
        self.commit()
    }

    /// The files of the core, without what was put into its directories.
    fn core_tree(&mut self, environment: Option<&Path>) -> Result<cvs_store::ManifestId, ImportError> {
        let (root, tracked) = (self.root, &self.tracked);
        let home = fs::canonicalize(self.workspace.store().home()).ok();
        let kept: BTreeSet<RelPath> =
            tracked.iter().flat_map(|path| std::iter::successors(path.parent(), RelPath::parent)).collect();
        let own = |path: &RelPath| tracked.contains(path) || kept.contains(path);
        let is_log = |name: &[u8]| name.ends_with(b".log") || name.windows(5).any(|part| part == b".log.");
        let exclude = |path: &RelPath| {
            if left_out_of_trees(path) {
                return true;
            }
            let mut names = path.names();
            let (first, alone) = (names.next().unwrap_or_default(), names.next().is_none());
            if FILLED.iter().any(|filled| filled.as_bytes() == first) {
                let place = root.join(path.as_path());
                return !own(path) || (alone && place.is_symlink());
            }
            if !alone || own(path) {
                return false;
            }
            let place = root.join(path.as_path());
            first == EXTRA_PATHS.as_bytes()
                || (is_log(first) && place.is_file())
                || place.join("pyvenv.cfg").is_file()
                || Some(place.as_path()) == environment
                || (home.is_some() && fs::canonicalize(&place).ok() == home)
        };
        let options = self.source_options();
        let (tree, special) = repos::read_tree(self.transaction, root, &exclude, &options)?;
        if let Some(first) = special.first() {
            self.report.leave_out_special(root, root.join(first.as_path()), special.len());
        }
        for entry in list(root)? {
            let name = entry.file_name();
            let Ok(path) = RelPath::new(name.as_encoded_bytes()) else { continue };
            if is_log(name.as_encoded_bytes()) && exclude(&path) {
                self.report.leave_out(entry.path(), "a log");
            } else if Some(entry.path()) == home {
                self.report.leave_out(entry.path(), "the home of cvs");
            } else if name == "temp" && entry.path().is_dir() {
                self.report.leave_out(entry.path(), "ComfyUI empties it whenever it starts");
            }
        }
        Ok(tree)
    }

    /// The fields of a repository; what was found is dropped again where it is what the commit has. Files of the
    /// commit that are gone from the directories in `forgiving` make no difference.
    fn entry(
        &mut self,
        found: &Found,
        part: String,
        forgiving: &[&str],
    ) -> Result<Map<String, Value>, ImportError> {
        let changes = match (found.commit, found.tree) {
            (Some(commit), Some(tree)) => {
                let forgiven = |path: &RelPath| {
                    path.names()
                        .next()
                        .is_some_and(|first| forgiving.iter().any(|name| name.as_bytes() == first))
                };
                repos::differences(&self.manifest(&commit)?, &self.manifest(&tree)?, forgiven)
            }
            _ => Vec::new(),
        };
        let repos::Entry { fields, how, changes } = repos::entry(found, changes);
        let from = found.dir.display().to_string();
        self.report.taken.push(Taken { part, from, how, changes, bytes: None });
        Ok(fields)
    }

    fn environment(
        &mut self,
        found: Option<&packages::Environment>,
        spec: &mut Map<String, Value>,
    ) -> Result<(), ImportError> {
        if self.options.environment == EnvironmentChoice::Skip {
            spec.insert("options".to_owned(), json!({ "skip_python": true }));
            if let Some(found) = found {
                self.report.leave_out(&found.root, "the environment was not asked for");
            }
            return Ok(());
        }
        let Some(found) = found else {
            if let Some(path) = self.options.python {
                let reason = "there is no site-packages in it".to_owned();
                return Err(ImportError::Environment { path: path.to_owned(), reason });
            }
            // Without one, what core and nodes ask for is what counts.
            for node in spec.get_mut("custom_nodes").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(node) = node.as_object_mut() {
                    node.shift_remove("install_requirements");
                }
            }
            self.report.leave_out(
                self.root.join("venv"),
                "no environment was found; what core and nodes require is installed (--python names one)",
            );
            return Ok(());
        };
        let installed = packages::installed(found, &mut self.report)?;
        let mut python = Map::new();
        python.extend(found.version.clone().map(|version| ("version".to_owned(), version.into())));
        python.extend(installed.torch_backend.map(|backend| ("torch_backend".to_owned(), backend.into())));
        if !python.is_empty() {
            spec.insert("python".to_owned(), python.into());
        }
        self.report.taken.push(Taken {
            part: "python".to_owned(),
            from: found.root.display().to_string(),
            how: format!("{} packages by exact version, to be installed anew", installed.requirements.len()),
            changes: Vec::new(),
            bytes: None,
        });
        spec.insert("python_packages".to_owned(), installed.requirements.into());
        Ok(())
    }

    fn manifest(&self, id: &cvs_store::ManifestId) -> Result<cvs_store::Manifest, ImportError> {
        self.workspace.store().manifest(id).map_err(ImportError::store)
    }

    fn commit(&self) -> Result<(), ImportError> {
        let stats = self.transaction.commit().map_err(ImportError::store)?;
        self.new_objects.fetch_add(stats.new_objects, Ordering::Relaxed);
        self.new_bytes.fetch_add(stats.new_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn source_options(&self) -> SourceOptions<'_> {
        SourceOptions { events: &|_| {}, cancel: self.cancel, limits: self.limits, offline: self.offline }
    }
}

/// A path that is known to be one.
fn name(text: &'static str) -> RelPath {
    RelPath::new(text).unwrap_or_default()
}

fn join(path: &RelPath, name: &str) -> Result<RelPath, ImportError> {
    path.join(name).map_err(|source| StoreError::Path { context: path.to_string(), source }.into())
}
