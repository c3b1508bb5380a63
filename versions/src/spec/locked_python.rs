//! The key `lock.python`: which Python environment a version has, and what it was resolved from.
//!
//! ```text
//! request      {version?, index_url?, extra_index_urls?, torch_backend?, packages?}   as the spec had it
//! sources[]    {source, installs?, requirements?, bytecode?}   the core and each node, in the order of the spec
//! interpreter  {implementation, version, platform, path, …}    the base interpreter, of this machine
//! pylock       exact packages with their hashes: the content of a pylock.toml (PEP 751), as JSON
//! manifest     the environment, grafted at `.venv`
//! ```
//!
//! Without `interpreter`, `pylock` and `manifest`, nothing asked for Python, and the view has no environment.

use cvs_store::{BlobId, ManifestId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::model::{PythonSpec, Spec};
use super::stale::StaleReason;
use crate::python::Interpreter;

/// The name of the core among the sources; the nodes have their directories.
pub(crate) const CORE: &str = "core";

/// The Python environment of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedPython {
    /// What the spec asked for.
    pub request: PythonRequest,
    /// What else it was resolved from: the core, then the nodes, in the order of the spec.
    pub sources: Vec<LockedSource>,
    /// The base interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<Interpreter>,
    /// The exact packages, as a PEP 751 document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pylock: Option<Value>,
    /// The environment; none when nothing asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestId>,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a spec asks of the environment by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonRequest {
    /// The key `python`, and `env.COMFY_PYTHON`.
    #[serde(flatten)]
    pub python: PythonSpec,
    /// The key `python_packages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
}

/// The core or a node, as a source of requirements and of bytecode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedSource {
    /// `core`, or the node's directory in the view.
    pub source: String,
    /// False when the spec says that its requirements are not installed.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub installs: bool,
    /// The BLAKE3 of its requirements; none when it has none, or they are not installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<BlobId>,
    /// Its bytecode, grafted over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytecode: Option<ManifestId>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

impl PythonRequest {
    /// What `spec` asks for.
    pub fn of(spec: &Spec) -> Self {
        Self { python: spec.python.clone(), packages: spec.python_packages.clone() }
    }

    /// The first field in which the two differ: its value here, and there.
    fn difference(&self, other: &Self) -> Option<(String, String)> {
        let fields = |request: &Self| {
            let PythonSpec { version, index_url, extra_index_urls, torch_backend } = request.python.clone();
            [
                ("Python", version),
                ("index", index_url),
                ("indexes", Some(extra_index_urls.join(", ")).filter(|text| !text.is_empty())),
                ("PyTorch for", torch_backend),
                ("packages", Some(request.packages.join(", ")).filter(|text| !text.is_empty())),
            ]
        };
        let mut pairs = fields(self).into_iter().zip(fields(other));
        pairs.find(|(one, two)| one != two).map(|((name, one), (_, two))| {
            let text =
                |value: Option<String>| value.map_or(format!("no {name}"), |text| format!("{name} {text}"));
            (text(one), text(two))
        })
    }
}

impl LockedPython {
    /// Every manifest it refers to.
    pub(super) fn manifests(&self) -> impl Iterator<Item = ManifestId> + '_ {
        self.sources.iter().filter_map(|source| source.bytecode).chain(self.manifest)
    }

    /// The bytecode of a source.
    pub fn bytecode(&self, source: &str) -> Option<ManifestId> {
        self.sources.iter().find(|locked| locked.source == source)?.bytecode
    }

    /// Why it does not answer `spec`. Which nodes there are, and what their requirements say, is not looked at: that is
    /// told of the nodes themselves.
    pub(crate) fn reason(&self, spec: &Spec) -> Option<StaleReason> {
        let wanted = PythonRequest::of(spec);
        if let Some((from, to)) = self.request.difference(&wanted) {
            return Some(StaleReason::RequestChanged { from, to });
        }
        let installs = |path: &str| self.sources.iter().find(|locked| locked.source == path);
        let changed = |(source, wanted): (String, bool)| {
            installs(&source).is_some_and(|locked| locked.installs != wanted)
        };
        sources(spec).any(changed).then_some(StaleReason::SourcesChanged)
    }
}

/// The sources of a spec, and whether their requirements are installed.
pub(crate) fn sources(spec: &Spec) -> impl Iterator<Item = (String, bool)> + '_ {
    let nodes = spec.custom_nodes.iter().map(|node| (node.path.to_string(), node.install_requirements));
    std::iter::once((CORE.to_owned(), true)).chain(nodes)
}
