//! The typed view of a spec: checked, with every default applied and every path placed in the view.

use cvs_store::RelPath;
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
    /// The interpreter: `python.version`, else `env.COMFY_PYTHON`, as written.
    pub python: Option<String>,
    /// Requirements besides those of core and nodes. None is a flag of pip.
    pub python_packages: Vec<String>,
    /// The environment of ComfyUI, in the order of the spec.
    pub env: Vec<(String, String)>,
    /// `options.offline`: nothing is fetched for this version.
    pub offline: bool,
    /// `options.skip_models`: the view has no models.
    pub skip_models: bool,
    /// The default workflow of the handler: the path of a file, or the workflow itself.
    pub workflow: Option<Value>,
    /// Default arguments of ComfyUI.
    pub args: Vec<String>,
    /// What it resolved to when it was last locked.
    pub lock: Option<Lock>,
}

impl Spec {
    /// The models that belong in the view: none under `options.skip_models`.
    pub fn wanted_models(&self) -> &[ModelSpec] {
        if self.skip_models { &[] } else { &self.models }
    }
}

/// The core's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComfySpec {
    /// Where it is.
    pub repo: RepoUrl,
    /// Which commit: `commit`, else `ref`, else the remote's HEAD.
    pub revision: Revision,
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
    /// Which commit: `commit`, else `ref`, else the remote's HEAD.
    pub revision: Revision,
    /// Its directory in the view: `target_dir`, else `custom_nodes/NAME`.
    pub path: RelPath,
    /// Whether its requirements go into the Python environment; true unless it says otherwise.
    pub install_requirements: bool,
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
    /// Its file in the view.
    pub path: RelPath,
    /// What its bytes must hash to; more than one only after entries were merged.
    pub checksums: Vec<Checksum>,
}

/// How a spec is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Drops flags of pip from `python_packages` with a warning, instead of refusing them.
    pub lenient: bool,
}
