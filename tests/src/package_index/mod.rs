//! A Python package index on loopback, as the public one answers: simple pages in JSON or HTML by what the client accepts, hashes,
//! sizes, and the metadata of every wheel as a file of its own, so that a resolver need not open wheels.
//!
//! It serves the wheels that set-up has downloaded, and what [`Wheel`] and [`Sdist`] make on the fly. What goes wrong is
//! a [`Fault`](crate::Fault) on a path of its [`HttpServer`], or one of the methods here.

mod sdist;
mod wheel;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use sdist::Sdist;
pub use wheel::Wheel;

use crate::Missing;
use crate::http::Request;
use crate::http_server::{Fault, HttpServer, Response};
use crate::wheels::TestWheels;

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// One file of a project.
struct Listed {
    file: String,
    sha256: String,
    size: u64,
    requires_python: Option<String>,
    /// The hash of the metadata file; a source distribution has none.
    metadata_sha256: Option<String>,
}

/// The projects by their normalised names.
type Projects = BTreeMap<String, Vec<Listed>>;

/// The index; it stops when dropped.
pub struct PackageIndex {
    server: HttpServer,
    projects: Arc<Mutex<Projects>>,
}

impl PackageIndex {
    /// With the wheels that set-up downloads: what our ComfyUI and its nodes require, pip, setuptools and wheel.
    pub fn start() -> Result<PackageIndex, Missing> {
        let wheels = TestWheels::find()?;
        let index = PackageIndex::empty();
        for wheel in wheels.all() {
            let path = format!("/files/{}", wheel.file);
            index.server.serve_file(&path, wheels.dir().join(&wheel.file));
            let metadata = format!("{}.metadata", wheel.file);
            index.server.serve_file(&format!("/files/{metadata}"), wheels.dir().join(&metadata));
            index.list(
                &wheel.name,
                Listed {
                    file: wheel.file,
                    sha256: wheel.sha256,
                    size: wheel.size,
                    requires_python: wheel.requires_python,
                    metadata_sha256: Some(wheel.metadata_sha256),
                },
            );
        }
        Ok(index)
    }

    /// With nothing.
    pub fn empty() -> PackageIndex {
        let server = HttpServer::start();
        let projects = Arc::new(Mutex::new(Projects::new()));
        let shown = Arc::clone(&projects);
        server.route("/simple/", move |request| answer(request, &shown));
        PackageIndex { server, projects }
    }

    /// The address that a spec's `python.index_url` takes.
    pub fn url(&self) -> String {
        self.server.url("/simple")
    }

    /// What records the requests and takes faults, on the paths that [`Self::page`] and [`Self::file`] give.
    pub fn server(&self) -> &HttpServer {
        &self.server
    }

    /// The path of a project's page.
    pub fn page(&self, name: &str) -> String {
        format!("/simple/{}/", normalised(name))
    }

    /// The path of a wheel or source distribution, by its file name.
    pub fn file(&self, file: &str) -> String {
        format!("/files/{file}")
    }

    /// Serves a wheel, instead of one with the same file name.
    pub fn add(&self, wheel: &Wheel) {
        let (file, bytes, metadata) = (wheel.file_name(), wheel.bytes(), wheel.metadata());
        let listed = Listed {
            sha256: sha256(&bytes),
            size: bytes.len() as u64,
            requires_python: wheel.required_python().map(str::to_owned),
            metadata_sha256: Some(sha256(metadata.as_bytes())),
            file,
        };
        self.server.serve(&self.file(&listed.file), bytes);
        self.server.serve(&self.file(&format!("{}.metadata", listed.file)), metadata);
        self.list(wheel.name(), listed);
    }

    /// Serves a source distribution, instead of one with the same file name.
    pub fn add_sdist(&self, sdist: &Sdist) {
        let (file, bytes) = (sdist.file_name(), sdist.bytes());
        self.server.serve(&self.file(&file), bytes.as_slice());
        let listed = Listed {
            sha256: sha256(&bytes),
            size: bytes.len() as u64,
            requires_python: sdist.wheel().required_python().map(str::to_owned),
            metadata_sha256: None,
            file,
        };
        self.list(sdist.wheel().name(), listed);
    }

    /// Takes a file off its page and away.
    pub fn remove(&self, file: &str) {
        for files in self.projects().values_mut() {
            files.retain(|listed| listed.file != file);
        }
        self.server.remove(&self.file(file));
    }

    /// Lists a file with a hash that its bytes do not have.
    #[track_caller]
    pub fn list_wrong_hash(&self, file: &str) {
        let mut projects = self.projects();
        let listed = projects.values_mut().flatten().find(|listed| listed.file == file);
        listed.unwrap_or_else(|| panic!("no file {file} is listed")).sha256 = "0".repeat(64);
    }

    /// From now on, what is there now answers 401 without exactly this `Authorization`.
    pub fn require_authorization(&self, value: &str) {
        for (name, files) in self.projects().iter() {
            let pages = [self.page(name)].into_iter();
            let files = files.iter().flat_map(|listed| {
                [self.file(&listed.file), self.file(&format!("{}.metadata", listed.file))]
            });
            for path in pages.chain(files) {
                self.server.fault(&path, Fault::Require("Authorization", value.to_owned(), 401));
            }
        }
    }

    /// Stops it: at the address that this returns, nothing listens any more.
    pub fn stop(self) -> String {
        self.url()
    }

    fn list(&self, name: &str, listed: Listed) {
        let mut projects = self.projects();
        let files = projects.entry(normalised(name)).or_default();
        files.retain(|other| other.file != listed.file);
        files.push(listed);
    }

    fn projects(&self) -> MutexGuard<'_, Projects> {
        lock(&self.projects)
    }
}

fn lock(projects: &Mutex<Projects>) -> MutexGuard<'_, Projects> {
    projects.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A project's name as the simple index spells it (PEP 503).
fn normalised(name: &str) -> String {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(request: &Request, projects: &Mutex<Projects>) -> Response {
    let is_json = request.header("Accept").is_some_and(|accept| accept.contains(JSON));
    let name = request.path.trim_start_matches("/simple/").trim_end_matches('/');
    let projects = lock(projects);
    let response = match (name, projects.get(name)) {
        ("", _) => list_of_projects(&projects, is_json),
        (_, None) => return Response::new(404, "no such project\n"),
        (_, Some(files)) if is_json => Response::new(200, page_in_json(name, files).to_string()),
        (_, Some(files)) => Response::new(200, page_in_html(name, files)),
    };
    // A test changes what is there, and asks again at once; what was asked before may still be used offline.
    let kind = if is_json { JSON } else { "text/html" };
    response.header("Content-Type", kind).header("Vary", "Accept").header("Cache-Control", "no-cache")
}

fn list_of_projects(projects: &Projects, is_json: bool) -> Response {
    if is_json {
        let names: Vec<Value> = projects.keys().map(|name| json!({ "name": name })).collect();
        return Response::new(
            200,
            json!({ "meta": { "api-version": "1.1" }, "projects": names }).to_string(),
        );
    }
    let links: String = projects.keys().map(|name| format!("<a href=\"{name}/\">{name}</a>\n")).collect();
    Response::new(200, html(&links))
}

fn page_in_json(name: &str, files: &[Listed]) -> Value {
    let files: Vec<Value> = files
        .iter()
        .map(|listed| {
            let metadata =
                listed.metadata_sha256.as_ref().map_or(json!(false), |hash| json!({ "sha256": hash }));
            json!({
                "filename": listed.file,
                "url": format!("../../files/{}", listed.file),
                "hashes": { "sha256": listed.sha256 },
                "size": listed.size,
                "requires-python": listed.requires_python,
                "core-metadata": metadata,
                "data-dist-info-metadata": metadata,
                "upload-time": "2025-01-01T00:00:00.000000Z",
                "yanked": false,
            })
        })
        .collect();
    json!({ "meta": { "api-version": "1.1" }, "name": name, "files": files })
}

fn page_in_html(name: &str, files: &[Listed]) -> String {
    let mut links = format!("<h1>Links for {name}</h1>\n");
    for listed in files {
        let file = &listed.file;
        let mut attributes = String::new();
        if let Some(hash) = &listed.metadata_sha256 {
            attributes.push_str(&format!(
                " data-core-metadata=\"sha256={hash}\" data-dist-info-metadata=\"sha256={hash}\""
            ));
        }
        if let Some(python) = &listed.requires_python {
            let escaped = python.replace('<', "&lt;").replace('>', "&gt;");
            attributes.push_str(&format!(" data-requires-python=\"{escaped}\""));
        }
        let hash = &listed.sha256;
        links.push_str(&format!("<a href=\"../../files/{file}#sha256={hash}\"{attributes}>{file}</a><br>\n"));
    }
    html(&links)
}

fn html(body: &str) -> String {
    let meta = "<meta name=\"pypi:repository-version\" content=\"1.1\">";
    format!("<!DOCTYPE html>\n<html><head>{meta}</head><body>\n{body}</body></html>\n")
}

#[cfg(test)]
mod tests;
