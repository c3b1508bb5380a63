//! What the tests of commands stand on: repositories of our ComfyUI, a web server, and versions made of them.

use std::fs;
use std::path::{Path, PathBuf};

use cvs_tests::{
    CORE, CvsCommand, GitHttpServer, HttpServer, Repositories, SubmoduleUrl, TestEnvironment, Wants,
    safetensors,
};
use sha2::{Digest, Sha256};

/// Where the model of [`World::create`] goes.
pub(crate) const CHECKPOINT: &str = "models/checkpoints/a.safetensors";

/// One home, and the world outside that its versions come from.
pub(crate) struct World {
    pub(crate) env: TestEnvironment,
    pub(crate) repositories: Repositories,
    pub(crate) git: GitHttpServer,
    pub(crate) web: HttpServer,
}

impl World {
    pub(crate) fn new() -> World {
        let env = TestEnvironment::new();
        let repositories = Repositories::build(&env.path("upstream"), &SubmoduleUrl::Relative);
        let git = GitHttpServer::start(repositories.served(), Wants::Reachable);
        let web = HttpServer::start();
        web.serve("/a.safetensors", model());
        World { env, repositories, git, web }
    }

    /// The core at a tag.
    pub(crate) fn core(&self, tag: &str) -> String {
        format!("{}@{tag}", self.git.url(CORE))
    }

    pub(crate) fn cvs(&self, args: &[&str]) -> CvsCommand {
        self.env.cvs(args)
    }

    /// A version with two nodes, one of which has a submodule, and a model with its checksum.
    #[track_caller]
    pub(crate) fn create(&self, id: &str) {
        self.cvs(&["create", id, "--repo", &self.core("v0.2.0")])
            .args(["--node", &format!("{}@v0.1.0", self.git.url("plain"))])
            .args(["--node", &self.git.url("patterns")])
            .args(["--models", &self.models_list(&sha256(&model()))])
            .ok();
    }

    /// A list with the model of the web server.
    pub(crate) fn models_list(&self, sha256: &str) -> String {
        serde_json::json!([{
            "source": self.web.url("/a.safetensors"),
            "target_path": CHECKPOINT,
            "checksum": format!("sha256:{sha256}"),
        }])
        .to_string()
    }

    pub(crate) fn spec_file(&self, id: &str) -> PathBuf {
        self.env.home().join("versions").join(format!("{id}.json"))
    }

    /// Writes a spec as a person would, below the home.
    #[track_caller]
    pub(crate) fn write_spec(&self, id: &str, text: &str) {
        self.env.write(format!("cvs/versions/{id}.json"), text);
    }

    /// Edits a spec as a person would.
    #[track_caller]
    pub(crate) fn edit_spec(&self, id: &str, from: &str, to: &str) {
        let path = self.spec_file(id);
        let text = fs::read_to_string(&path).expect("reading a spec");
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(&path, text.replacen(from, to, 1)).expect("writing a spec");
    }

    /// The names of all objects of the store, as paths below `objects/`.
    pub(crate) fn objects(&self) -> Vec<String> {
        let mut names = Vec::new();
        let root = self.env.home().join("objects");
        files_below(&root, &root, &mut names);
        names.sort();
        names
    }

    /// The file of the blob that has these bytes, found as anybody can: by their BLAKE3 as the lock names it.
    #[track_caller]
    pub(crate) fn model_object(&self, id: &str) -> PathBuf {
        let shown = self.cvs(&["show", id, "--json"]).ok().json();
        let id =
            shown["spec"]["lock"]["models"][0]["blake3"].as_str().expect("a lock with a model").to_owned();
        self.env.home().join("objects/blob").join(&id[..2]).join(&id[2..])
    }

    /// No file is left that a failed command had begun.
    #[track_caller]
    pub(crate) fn assert_staging_is_clean(&self) {
        let staging = self.env.home().join("staging");
        let left: Vec<_> = fs::read_dir(&staging)
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        let transactions: Vec<_> = left.iter().filter(|name| !is_partial(name.to_str())).collect();
        assert!(transactions.is_empty(), "left in {}: {transactions:?}", staging.display());
    }
}

/// Downloads that were cut stay on purpose.
fn is_partial(name: Option<&str>) -> bool {
    name.is_some_and(|name| name.starts_with("partial"))
}

/// The bytes of the model.
pub(crate) fn model() -> Vec<u8> {
    safetensors(1, 50_000)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn files_below(root: &Path, dir: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(root, &path, names);
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
}

/// Replaces the bytes of an object, which is read-only to everyone but root.
#[track_caller]
pub(crate) fn damage(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = fs::read(path).expect("reading an object");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changing a mode");
    fs::write(path, bytes).expect("writing an object");
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).expect("changing a mode");
}
