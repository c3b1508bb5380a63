//! Which parts of a lock an edit of the spec touched, and which of its entries still answer a request. The lock holds
//! the request beside each answer, so the comparison needs neither network nor store.

use std::fmt;

use cvs_store::ManifestId;

use super::checksum::Checksum;
use super::lock::{Lock, LockedModel, LockedNode, LockedRepo};
use super::model::{ComfySpec, ModelSpec, NodeSpec, Spec};
use super::repo::{RepoUrl, Revision};
use super::source::ModelSource;
use crate::source::{public_text, without_secrets};

/// A part of a lock that does not answer the spec, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StalePart {
    /// Which part.
    pub part: Part,
    /// Why.
    pub reason: StaleReason,
}

/// A part of a lock.
#[derive(Debug, Clone, PartialEq, Hash, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// All of it.
    Lock,
    /// The core.
    Comfy,
    /// The node at this path.
    Node(String),
    /// The model at this path.
    Model(String),
    /// The manifest of all models.
    Models,
    /// The Python environment.
    Python,
    /// The view.
    View,
}

/// Why a part is stale.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StaleReason {
    /// The spec has no lock.
    NeverLocked,
    /// The spec asks for it since.
    Added,
    /// The spec does not ask for it any more.
    Removed,
    /// It comes from elsewhere.
    SourceChanged {
        /// What the lock answers.
        from: String,
        /// What the spec asks.
        to: String,
    },
    /// Another ref or commit is asked for.
    RevisionChanged {
        /// What the lock answers.
        from: String,
        /// What the spec asks.
        to: String,
    },
    /// The lock's content is not known to have this checksum.
    ChecksumChanged {
        /// What the spec asks.
        to: String,
    },
    /// The same content is asked for at another path.
    Moved {
        /// Where the lock has it.
        from: String,
    },
    /// It has another name, at the same path.
    Renamed {
        /// The name in the lock.
        from: String,
    },
    /// The spec asks something else of it.
    RequestChanged {
        /// What the lock answers.
        from: String,
        /// What the spec asks.
        to: String,
    },
    /// What it is made from changed: which nodes there are, or whether their requirements count.
    SourcesChanged,
    /// The spec wants its `install.py` run, and that was not done.
    NotInstalled,
    /// Its `install.py` was run, and the spec does not want that any more.
    Installed,
    /// The nodes or models stand in another order.
    Reordered,
    /// Pinned, but not fetched or composed.
    NotFetched,
}

impl fmt::Display for StalePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Lock => f.write_str("the lock")?,
            Part::Comfy => f.write_str("ComfyUI")?,
            Part::Node(path) => write!(f, "node {path}")?,
            Part::Model(path) => write!(f, "model {path}")?,
            Part::Models => f.write_str("the models")?,
            Part::Python => f.write_str("the Python environment")?,
            Part::View => f.write_str("the view")?,
        }
        write!(f, ": {}", self.reason)
    }
}

impl Spec {
    /// What of this spec its lock does not answer; empty when it is up to date.
    pub fn stale(&self) -> Vec<StalePart> {
        match &self.lock {
            None => vec![StalePart { part: Part::Lock, reason: StaleReason::NeverLocked }],
            Some(lock) => lock.stale(self),
        }
    }
}

impl Lock {
    /// True when every part answers `spec`.
    pub fn is_current(&self, spec: &Spec) -> bool {
        self.stale(spec).is_empty()
    }

    /// The parts that do not answer `spec`: those that were edited, and those that were pinned without being fetched.
    pub fn stale(&self, spec: &Spec) -> Vec<StalePart> {
        let mut stale = Vec::new();
        let mut add = |part: Part, reason: StaleReason| stale.push(StalePart { part, reason });
        if let Some(reason) = repo_reason(&self.comfy, &Asked::of_core(&spec.comfy)) {
            add(Part::Comfy, reason);
        }
        for node in &spec.custom_nodes {
            if let Some(reason) = self.node_reason(node) {
                add(Part::Node(node.path.to_string()), reason);
            }
        }
        for locked in &self.custom_nodes {
            if !spec.custom_nodes.iter().any(|node| node.path == locked.path) {
                add(Part::Node(locked.path.to_string()), StaleReason::Removed);
            }
        }
        let models = spec.wanted_models();
        for model in models {
            if let Some(reason) = self.model_reason(model) {
                add(Part::Model(model.path.to_string()), reason);
            }
        }
        for locked in &self.models {
            if !models.iter().any(|model| model.path == locked.path) {
                add(Part::Model(locked.path.to_string()), StaleReason::Removed);
            }
        }
        if self.models_manifest.is_none() && !models.is_empty() {
            add(Part::Models, StaleReason::NotFetched);
        }
        match (&self.python, spec.skip_python) {
            (None, true) => {}
            (None, false) => add(Part::Python, StaleReason::NotFetched),
            (Some(_), true) => add(Part::Python, StaleReason::Removed),
            (Some(python), false) => {
                if let Some(reason) = python.reason(spec) {
                    add(Part::Python, reason);
                }
            }
        }
        // Later nodes lie over earlier ones, so their order is part of the view. That of the models is not.
        let same_nodes = self.custom_nodes.len() == spec.custom_nodes.len();
        let in_order = self.custom_nodes.iter().zip(&spec.custom_nodes).all(|(a, b)| a.path == b.path);
        let known =
            spec.custom_nodes.iter().all(|node| self.custom_nodes.iter().any(|l| l.path == node.path));
        if same_nodes && known && !in_order {
            add(Part::View, StaleReason::Reordered);
        } else if self.view.is_none() {
            add(Part::View, StaleReason::NotFetched);
        }
        stale
    }

    /// The entry that answers the core's request, if the edit left it alone.
    pub fn reusable_comfy(&self, comfy: &ComfySpec) -> Option<&LockedRepo> {
        answers(&self.comfy, &Asked::of_core(comfy)).then_some(&self.comfy)
    }

    /// An entry that answers the node's request, at its own path or at another.
    pub fn reusable_node(&self, node: &NodeSpec) -> Option<&LockedNode> {
        let fits = |locked: &&LockedNode| answers(&locked.locked, &Asked::of_node(node));
        let mut fitting = self.custom_nodes.iter().filter(fits);
        let first = fitting.clone().next();
        fitting.find(|locked| locked.path == node.path).or(first)
    }

    /// An entry that answers the model's request, at its own path or at another. None when the spec gives an MD5 that
    /// has not been verified yet.
    pub fn reusable_model(&self, model: &ModelSpec) -> Option<&LockedModel> {
        let fits =
            |locked: &&LockedModel| same_source(locked, model) && unmet_checksum(locked, model).is_none();
        let mut fitting = self.models.iter().filter(fits);
        let first = fitting.clone().next();
        fitting.find(|locked| locked.path == model.path).or(first)
    }

    fn node_reason(&self, node: &NodeSpec) -> Option<StaleReason> {
        let Some(locked) = self.custom_nodes.iter().find(|locked| locked.path == node.path) else {
            let moved =
                self.reusable_node(node).map(|locked| StaleReason::Moved { from: locked.path.to_string() });
            return Some(moved.unwrap_or(StaleReason::Added));
        };
        let renamed =
            || (locked.name != node.name).then(|| StaleReason::Renamed { from: locked.name.clone() });
        repo_reason(&locked.locked, &Asked::of_node(node)).or_else(renamed).or({
            match (node.run_install, &locked.installed) {
                (true, None) => Some(StaleReason::NotInstalled),
                (false, Some(_)) => Some(StaleReason::Installed),
                _ => None,
            }
        })
    }

    fn model_reason(&self, model: &ModelSpec) -> Option<StaleReason> {
        let Some(locked) = self.models.iter().find(|locked| locked.path == model.path) else {
            let moved =
                self.reusable_model(model).map(|locked| StaleReason::Moved { from: locked.path.to_string() });
            return Some(moved.unwrap_or(StaleReason::Added));
        };
        if !same_source(locked, model) {
            let (from, to) = (public_text(&locked.source), public_text(&model.source_text));
            return Some(StaleReason::SourceChanged { from, to });
        }
        unmet_checksum(locked, model)
            .map(|checksum| StaleReason::ChecksumChanged { to: checksum.to_string() })
    }
}

/// What the spec asks of a repository.
struct Asked<'a> {
    repo: &'a RepoUrl,
    revision: &'a Revision,
    tree: Option<ManifestId>,
}

impl<'a> Asked<'a> {
    fn of_core(ComfySpec { repo, revision, tree }: &'a ComfySpec) -> Self {
        Self { repo, revision, tree: tree.as_ref().map(|tree| tree.manifest) }
    }

    fn of_node(NodeSpec { repo, revision, tree, .. }: &'a NodeSpec) -> Self {
        Self { repo, revision, tree: tree.as_ref().map(|tree| tree.manifest) }
    }
}

fn answers(locked: &LockedRepo, asked: &Asked<'_>) -> bool {
    without_secrets(&locked.repo) == asked.repo.public()
        && locked.requested.as_deref() == asked.revision.requested()
        && tree_of(locked) == asked.tree
}

fn tree_of(locked: &LockedRepo) -> Option<ManifestId> {
    locked.tree.as_ref().map(|tree| tree.manifest)
}

fn repo_reason(locked: &LockedRepo, asked: &Asked<'_>) -> Option<StaleReason> {
    let Asked { repo, revision, tree } = asked;
    if tree_of(locked) != *tree {
        let text = |tree: &Option<ManifestId>| {
            tree.map_or("its commit".to_owned(), |tree| format!("files that were found ({tree})"))
        };
        return Some(StaleReason::SourceChanged { from: text(&tree_of(locked)), to: text(tree) });
    }
    let from = without_secrets(&locked.repo);
    if from != repo.public() {
        return Some(StaleReason::SourceChanged { from: from.into_owned(), to: repo.public().into_owned() });
    }
    if locked.requested.as_deref() != revision.requested() {
        let from = locked.requested.clone().unwrap_or_else(|| "HEAD".to_owned());
        return Some(StaleReason::RevisionChanged { from, to: revision.to_string() });
    }
    locked.manifest.is_none().then_some(StaleReason::NotFetched)
}

/// Whether the locked source is one of the model's. Which of several answered does not matter.
fn same_source(locked: &LockedModel, model: &ModelSpec) -> bool {
    if model.sources().any(|(text, _)| locked.source == text) {
        return true;
    }
    let Ok(known) = ModelSource::parse(&locked.source) else { return false };
    model.sources().any(|(_, source)| source.identity() == known.identity())
}

/// The first checksum of the spec that the lock's content does not have, or is not known to have.
fn unmet_checksum(locked: &LockedModel, model: &ModelSpec) -> Option<Checksum> {
    let met = |checksum: &Checksum| match checksum {
        Checksum::Sha256(digest) => *digest == locked.sha256,
        Checksum::Blake3(digest) => digest == locked.blake3.as_bytes(),
        Checksum::Md5(digest) => Some(*digest) == locked.md5,
    };
    model.checksums.iter().copied().find(|checksum| !met(checksum))
}
