//! The Hugging Face hub in small, on loopback: files by repository and path, the large ones on a host of their own,
//! gates, and the headers and statuses by which the real one tells of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

use crate::http::Request;
use crate::http_server::{HttpServer, Response};

/// The commit that `main` names.
pub const HUB_COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
struct State {
    /// By `REPO/PATH`.
    files: BTreeMap<String, File>,
    /// Repositories and the only token that opens each.
    gates: BTreeMap<String, String>,
}

struct File {
    bytes: Vec<u8>,
    /// The id in git; none for a large file.
    git: Option<String>,
}

/// A running hub; it stops when dropped.
pub struct Hub {
    /// The hub itself: `HF_ENDPOINT`.
    pub web: HttpServer,
    /// Where it sends whoever wants a large file; on another port, and so another origin.
    pub cdn: Arc<HttpServer>,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// An empty one.
    pub fn start() -> Self {
        let (web, cdn, state) = (HttpServer::start(), Arc::new(HttpServer::start()), Arc::default());
        let answering = (Arc::clone(&state), Arc::clone(&cdn));
        web.route("/", move |request| answer(request, &lock(&answering.0), &answering.1));
        Hub { web, cdn, state }
    }

    /// The address for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.web.url("")
    }

    /// A large file: its bytes are on the other host, at `/<sha256>`.
    pub fn large(&self, repo: &str, path: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.cdn.serve(&format!("/{}", sha256(&bytes)), bytes.clone());
        self.add(repo, path, File { bytes, git: None });
    }

    /// A file that lies in git under this id.
    pub fn small(&self, repo: &str, path: &str, bytes: impl Into<Vec<u8>>, id: &str) {
        self.add(repo, path, File { bytes: bytes.into(), git: Some(id.to_owned()) });
    }

    /// From now on only this token opens the repository.
    pub fn gate(&self, repo: &str, token: &str) {
        lock(&self.state).gates.insert(repo.to_owned(), token.to_owned());
    }

    fn add(&self, repo: &str, path: &str, file: File) {
        lock(&self.state).files.insert(format!("{repo}/{path}"), file);
    }
}

fn answer(request: &Request, state: &State, cdn: &HttpServer) -> Response {
    let refuse = |status, code: &str| Response::new(status, "").header("X-Error-Code", code);
    let Some((repo, rest)) = request.path[1..].split_once("/resolve/") else {
        return refuse(404, "RepoNotFound");
    };
    let (revision, path) = rest.split_once('/').unwrap_or((rest, ""));
    let has_token = request.header("authorization").is_some();
    let known = state.files.keys().any(|name| name.starts_with(&format!("{repo}/")));
    if !known {
        return refuse(if has_token { 404 } else { 401 }, "RepoNotFound");
    }
    if let Some(token) = state.gates.get(repo)
        && request.header("authorization") != Some(&format!("Bearer {token}"))
    {
        return refuse(if has_token { 403 } else { 401 }, "GatedRepo");
    }
    if !matches!(revision, "main" | HUB_COMMIT) {
        return refuse(404, "RevisionNotFound");
    }
    let Some(file) = state.files.get(&format!("{repo}/{path}")) else {
        return refuse(404, "EntryNotFound");
    };
    if let Some(id) = &file.git {
        let whole = Response::new(200, file.bytes.clone());
        return whole.header("ETag", &format!("\"{id}\"")).header("X-Repo-Commit", HUB_COMMIT);
    }
    let sha256 = sha256(&file.bytes);
    Response::new(302, "see there")
        .header("Location", &cdn.url(&format!("/{sha256}")))
        .header("X-Repo-Commit", HUB_COMMIT)
        .header("X-Linked-Size", &file.bytes.len().to_string())
        .header("X-Linked-Etag", &format!("\"{sha256}\""))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
