//! The workspace over real git repositories (by path and by a git server) and a real HTTP server on loopback.

mod create;
mod lock;
mod realize;
mod refill;
mod repair;
mod validate;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cvs_store::{BlobId, Gc};
use cvs_tests::Git;
use cvs_versions::spec::{Lock, NewSpec, PythonSpec, ReadOptions, VersionId};
use cvs_versions::{
    CreateOptions, CreateReport, Event, Events, LockOptions, LockReport, VersionsError, Workspace,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A home, and upstream repositories below `git/`.
struct Bench {
    dir: TempDir,
    git: Git,
    ws: Workspace,
}

impl Bench {
    /// A home with nothing in it, a core and two nodes `alpha` and `beta` upstream.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ws = open(&dir.path().join("home"));
        let bench = Bench { dir, git: Git::new(), ws };
        bench.repo("core", &[("main.py", "print('core')\n"), ("nodes.py", "core nodes\n")]);
        bench.repo("alpha", &[("__init__.py", "alpha 1\n"), ("shared.py", "shared\n")]);
        bench.repo("beta", &[("__init__.py", "beta 1\n"), ("shared.py", "shared\n")]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn served(&self) -> PathBuf {
        self.path("git")
    }

    /// A repository of one commit.
    fn repo(&self, name: &str, files: &[(&str, &str)]) -> String {
        let tree = self.served().join(format!("{name}.git"));
        std::fs::create_dir_all(&tree).unwrap();
        self.git.run(&tree, &["init", "-q"]);
        self.push(name, files)
    }

    /// One commit more; its id.
    fn push(&self, name: &str, files: &[(&str, &str)]) -> String {
        let tree = self.served().join(format!("{name}.git"));
        for (path, text) in files {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.git.run(&tree, &["add", "-A"]);
        self.git.commit(&tree, "Change")
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}/{name}.git", self.served().display())
    }

    /// A file outside the store.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A version `id` of the core with these nodes and models.
    fn spec(&self, id: &str, nodes: &[&str], models: Vec<Value>) -> NewSpec {
        NewSpec {
            version_id: VersionId::new(id).unwrap(),
            repo: self.url("core"),
            custom_nodes: nodes.iter().map(|name| json!({ "name": name, "repo": self.url(name) })).collect(),
            models,
            python_packages: Vec::new(),
            python: PythonSpec::default(),
            skip_python: false,
            env: Vec::new(),
            options: ReadOptions::default(),
        }
    }

    fn create(&self, id: &str, nodes: &[&str], models: Vec<Value>) -> Result<CreateReport, VersionsError> {
        self.ws.create(self.spec(id, nodes, models), &CreateOptions::default())
    }

    fn lock(&self, id: &str) -> Result<LockReport, VersionsError> {
        self.ws.lock(&vid(id), &LockOptions::default())
    }

    fn locked(&self, id: &str) -> Lock {
        self.ws.read(&vid(id)).unwrap().spec().lock.clone().unwrap()
    }

    fn spec_file(&self, id: &str) -> PathBuf {
        self.ws.versions().file_of(&vid(id))
    }

    /// Edits a spec by hand, as a person would.
    fn edit(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.spec_file(id);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(&path, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
    }

    /// Objects in the store that nothing refers to.
    fn garbage(&self) -> u64 {
        let gc = Gc::new(self.ws.store(), self.ws.roots(), std::time::Duration::ZERO);
        gc.plan().unwrap().garbage_objects()
    }
}

fn open(home: &Path) -> Workspace {
    Workspace::open(home, Some(home.join("versions"))).unwrap()
}

fn vid(id: &str) -> VersionId {
    VersionId::new(id).unwrap()
}

fn blob_of(ws: &Workspace, bytes: &[u8]) -> PathBuf {
    ws.store().blob_path(&BlobId::of(bytes))
}

/// Replaces an object's bytes by others of the same length.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// What was worked on, as `PART: WHY`.
fn refreshed(report: &LockReport) -> Vec<String> {
    report.refreshed.iter().map(|done| format!("{}: {}", done.part, done.why)).collect()
}

/// Gives `work` a place for events, and returns those that say that something was asked of a source.
fn asked<R>(work: impl FnOnce(Events<'_>) -> R) -> (R, Vec<String>) {
    let heard = Mutex::new(Vec::new());
    let result = work(&|event: Event<'_>| {
        let text = match event {
            Event::Resolving { part, .. } => format!("resolve {part}"),
            Event::Fetching { part, .. } => format!("fetch {part}"),
            _ => return,
        };
        heard.lock().unwrap().push(text);
    });
    let mut heard = heard.into_inner().unwrap();
    heard.sort();
    (result, heard)
}
