//! Python environments with the real uv, a package index on loopback and packages made on the fly.

mod build;
mod bytecode;
mod faults;
mod resolve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cvs_store::{Entry, Manifest, ManifestBuilder, ManifestId, RelPath, Store, Transaction};
use cvs_tests::{PackageIndex, Wheel, available, tool};
use cvs_versions::python::{
    BuildOptions, Environment, Interpreter, PythonError, PythonOptions, Requirements, ResolveRequest, Role,
    Uv, build, find_interpreter, requirements_of, resolve,
};
use serde_json::Value;
use tempfile::TempDir;

/// A home, an index, and what finds them.
struct Bench {
    dir: TempDir,
    store: Store,
    uv: Uv,
    interpreter: Interpreter,
    index: PackageIndex,
    url: String,
}

impl Bench {
    /// With an index that has nothing; none where there is no uv.
    fn new() -> Option<Self> {
        Self::with(PackageIndex::empty())
    }

    fn with(index: PackageIndex) -> Option<Self> {
        let program = available(tool("uv"))?;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let store = Store::open(&home).unwrap();
        let uv = Uv::find(Some(&program), store.home()).unwrap();
        let options = PythonOptions { offline: true, ..PythonOptions::default() };
        let interpreter = find_interpreter(&uv, None, &options).unwrap();
        let url = index.url();
        Some(Self { dir, store, uv, interpreter, index, url })
    }

    /// The same in another home.
    fn elsewhere(self) -> Self {
        Self::with(self.index).unwrap()
    }

    fn wheels(&self, wheels: impl IntoIterator<Item = Wheel>) {
        wheels.into_iter().for_each(|wheel| self.index.add(&wheel));
    }

    /// A directory with these wheels.
    fn directory(&self, wheels: impl IntoIterator<Item = Wheel>) -> PathBuf {
        let directory = self.dir.path().join("wheels");
        std::fs::create_dir_all(&directory).unwrap();
        for wheel in wheels {
            std::fs::write(directory.join(wheel.file_name()), wheel.bytes()).unwrap();
        }
        directory
    }

    fn request<'a>(&'a self, requirements: &'a [Requirements]) -> ResolveRequest<'a> {
        ResolveRequest {
            interpreter: &self.interpreter,
            requirements,
            index_url: Some(&self.url),
            extra_index_urls: &[],
            torch_backend: None,
            wheels: None,
            previous: None,
            options: PythonOptions::default(),
        }
    }

    fn resolve(&self, requirements: &[Requirements]) -> Result<Value, PythonError> {
        self.resolve_as(&self.request(requirements))
    }

    fn resolve_as(&self, request: &ResolveRequest<'_>) -> Result<Value, PythonError> {
        resolve(&self.uv, self.dir.path(), request)
    }

    fn how(&self) -> BuildOptions<'_> {
        BuildOptions { index_url: Some(&self.url), ..BuildOptions::default() }
    }

    /// Builds and commits.
    fn build(&self, pylock: &Value) -> Result<Environment, PythonError> {
        self.build_as(pylock, &self.how())
    }

    fn build_as(&self, pylock: &Value, how: &BuildOptions<'_>) -> Result<Environment, PythonError> {
        let transaction = self.store.begin("test").unwrap();
        let environment = build(&self.uv, &transaction, &self.interpreter, pylock, how)?;
        transaction.commit().unwrap();
        Ok(environment)
    }

    /// Resolves and builds a list.
    fn environment(&self, lines: &str) -> Environment {
        self.build(&self.resolve(&[list("core", Role::Core, lines)]).unwrap()).unwrap()
    }

    /// A source tree, committed.
    fn tree(&self, files: &[(&str, &[u8])]) -> Manifest {
        let transaction = self.store.begin("tree").unwrap();
        let id = put_tree(&transaction, files);
        transaction.commit().unwrap();
        self.store.manifest(&id).unwrap()
    }

    fn read(&self, manifest: &Manifest, entry: &Entry) -> Vec<u8> {
        std::fs::read(self.store.blob_path(&manifest.blob(entry).unwrap())).unwrap()
    }

    /// What `requirements_of` makes of a tree.
    fn requirements(&self, files: &[(&str, &[u8])]) -> Result<Option<Requirements>, PythonError> {
        let tree = self.tree(files);
        requirements_of(&self.store.begin("look").unwrap(), &tree, "node x", Role::Node)
    }

    /// Writes an environment out, as a view would show it.
    fn show(&self, id: &ManifestId, at: &Path) {
        let manifest = self.store.manifest(id).unwrap();
        show(&self.store, &manifest, at);
    }
}

fn put_tree(transaction: &Transaction, files: &[(&str, &[u8])]) -> ManifestId {
    let mut builder = ManifestBuilder::new();
    for (path, content) in files {
        let blob = transaction.put_bytes(content).unwrap();
        builder.file(&RelPath::new(path).unwrap(), 0o644, content.len() as u64, blob).unwrap();
    }
    transaction.put_manifest(builder).unwrap()
}

/// Writes a manifest to plain files with the modes and times that a view gives them.
fn show(store: &Store, manifest: &Manifest, at: &Path) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(at).unwrap();
    for (path, entry) in manifest.walk() {
        let place = at.join(path.as_path());
        match (manifest.blob(&entry), manifest.symlink_target(&entry)) {
            (Some(blob), _) => {
                std::fs::copy(store.blob_path(&blob), &place).unwrap();
                std::fs::set_permissions(&place, std::fs::Permissions::from_mode(entry.mode())).unwrap();
                let (seconds, nanoseconds) = cvs_store::content_mtime(&blob);
                let time = std::time::Duration::new(seconds.unsigned_abs(), nanoseconds);
                let file = std::fs::File::open(&place).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + time).unwrap();
            }
            (None, Some(target)) => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &place).unwrap();
            }
            (None, None) => std::fs::create_dir_all(&place).unwrap(),
        }
    }
}

fn list(label: &str, role: Role, lines: &str) -> Requirements {
    let files = BTreeMap::from([("requirements.txt".to_owned(), lines.as_bytes().to_vec())]);
    Requirements { label: label.to_owned(), role, entry: "requirements.txt".to_owned(), files }
}

/// `name version` of every package of a lock.
fn versions(pylock: &Value) -> Vec<String> {
    let packages = cvs_versions::python::packages(pylock).unwrap();
    packages
        .into_iter()
        .map(|package| format!("{} {}", package.name, package.version.unwrap_or_default()))
        .collect()
}

/// Every file of a manifest with its content, for comparisons that say what differs.
fn contents(bench: &Bench, id: &ManifestId) -> BTreeMap<String, Vec<u8>> {
    let manifest = bench.store.manifest(id).unwrap();
    let files = manifest.walk().filter(|(_, entry)| manifest.blob(entry).is_some());
    files.map(|(path, entry)| (path.to_string(), bench.read(&manifest, &entry))).collect()
}
