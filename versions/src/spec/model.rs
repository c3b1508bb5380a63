//! The typed view of a spec: checked, with every default applied and every path placed in the view.

use std::path::PathBuf;

use cvs_store::{ManifestId, RelPath};
use serde_json::Value;

use super::checksum::Checksum;
use super::id::VersionId;
use super::lock::Lock;
use super::repo::{RepoUrl, Revision};
use super::source::ModelSource;

/// A version as its spec asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Its name, equal to the stem of its file.
    pub version_id: VersionId,
    /// The core.
    pub comfy: ComfySpec,
    /// The nodes, in the order of the spec. No two have one path; one may lie inside another.
    pub custom_nodes: Vec<NodeSpec>,
    /// The models, in the order of the spec. No two have one path: equal entries have been merged.
    pub models: Vec<ModelSpec>,
    /// The interpreter, and where packages come from.
    pub python: PythonSpec,
    /// Requirements besides those of core and nodes. None is a flag of pip.
    pub python_packages: Vec<String>,
    /// The environment of ComfyUI, in the order of the spec.
    pub env: Vec<(String, String)>,
    /// `options.offline`: nothing is fetched for this version.
    pub offline: bool,
    /// `options.skip_models`: the view has no models.
    pub skip_models: bool,
    /// `options.skip_python`: the view has no Python environment; whoever starts ComfyUI brings one.
    pub skip_python: bool,
    /// The default workflow of the handler: the path of a file, or the workflow itself.
    pub workflow: Option<Value>,
    /// Default arguments of ComfyUI.
    pub args: Vec<String>,
    /// Directories outside the view that ComfyUI reads and writes in place of its own.
    pub directories: DirectoriesSpec,
    /// What somebody has to answer before the version is what it was meant to be.
    pub questions: Vec<Question>,
    /// What it resolved to when it was last locked.
    pub lock: Option<Lock>,
}

impl Spec {
    /// The models that belong in the view: none under `options.skip_models`.
    pub fn wanted_models(&self) -> &[ModelSpec] {
        if self.skip_models { &[] } else { &self.models }
    }
}

/// What a spec says of Python.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PythonSpec {
    /// The interpreter: `python.version`, else `env.COMFY_PYTHON`, as written; none for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The package index in place of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_url: Option<String>,
    /// Package indexes that are asked before it, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_index_urls: Vec<String>,
    /// Which build of PyTorch: `auto`, `cpu`, `cu128`, `rocm6.4`, … as uv names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_backend: Option<String>,
}

/// Directories in place of those of the view; absolute paths of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectoriesSpec {
    /// In place of `input/`.
    pub input: Option<PathBuf>,
    /// In place of `output/`.
    pub output: Option<PathBuf>,
    /// In place of `user/`.
    pub user: Option<PathBuf>,
    /// Where `temp/` is made.
    pub temp: Option<PathBuf>,
}

/// Something that an import could not find out, and did not guess.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Question {
    /// Its place in the document, as `questions[3]`.
    pub place: String,
    /// What is asked.
    pub question: String,
}

/// The core's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComfySpec {
    /// Where it is.
    pub repo: RepoUrl,
    /// Which commit: `commit`, else `ref`, else the remote's HEAD.
    pub revision: Revision,
    /// What is taken instead of that commit's files, if anything.
    pub tree: Option<TreeSpec>,
}

/// Files as they were found on some machine, which no commit has: what is taken in place of a repository's own.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TreeSpec {
    /// They, in the store of that machine.
    pub manifest: ManifestId,
    /// The directory that they were found in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
}

/// One custom node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its place in the document, as `custom_nodes[3]`.
    pub place: String,
    /// `name`, else the last segment of the repository.
    pub name: String,
    /// Where it is.
    pub repo: RepoUrl,
    /// Which commit: `commit`, else `ref`, else the remote's HEAD. Of a node of the Registry, its version.
    pub revision: Revision,
    /// What is taken instead of that commit's files, if anything.
    pub tree: Option<TreeSpec>,
    /// Its directory in the view: `target_dir`, else `custom_nodes/NAME`.
    pub path: RelPath,
    /// Whether its requirements go into the Python environment; true unless it says otherwise.
    pub install_requirements: bool,
    /// Whether its `install.py` is run, and what that writes becomes part of the node; false unless it says otherwise.
    pub run_install: bool,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Its place in the document, as `models[3]`.
    pub place: String,
    /// `name`, a label for people.
    pub name: Option<String>,
    /// Its source as written.
    pub source_text: String,
    /// Its source.
    pub source: ModelSource,
    /// Where else the same bytes are, in the order in which they are tried: the rest of `sources`.
    pub mirrors: Vec<MirrorSpec>,
    /// Its file in the view.
    pub path: RelPath,
    /// What its bytes must hash to; more than one only after entries were merged.
    pub checksums: Vec<Checksum>,
}

/// Another source of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSpec {
    /// As written.
    pub text: String,
    /// What it names.
    pub source: ModelSource,
}

impl ModelSpec {
    /// All its sources as written and as read, in the order in which they are tried.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &ModelSource)> {
        let mirrors = self.mirrors.iter().map(|mirror| (mirror.text.as_str(), &mirror.source));
        std::iter::once((self.source_text.as_str(), &self.source)).chain(mirrors)
    }
}

/// How a spec is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Drops flags of pip from `python_packages` with a warning, instead of refusing them.
    pub lenient: bool,
}
