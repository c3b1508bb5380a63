//! What became of a version's parts, for people and programs.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::spec::{VersionId, Warning};

/// The state of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValidateReport {
    /// The version.
    pub id: VersionId,
    /// The spec, the core, the nodes, the models, the view.
    pub parts: Vec<PartReport>,
    /// What is odd in the spec.
    pub warnings: Vec<Warning>,
}

impl ValidateReport {
    /// True when every part is present.
    pub fn is_ok(&self) -> bool {
        self.parts.iter().all(|part| part.state == PartState::Present)
    }

    /// True when a part is damaged.
    pub fn is_damaged(&self) -> bool {
        self.parts.iter().any(|part| part.state == PartState::Damaged)
    }
}

/// The state of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartReport {
    /// Which.
    pub part: ReportPart,
    /// Its state.
    pub state: PartState,
    /// Why it is not present.
    pub detail: Option<String>,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A part of a version, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportPart {
    /// The file of the spec.
    Spec,
    /// The core.
    Core,
    /// The node of this name.
    Node(String),
    /// The model at this path.
    Model(String),
    /// The Python environment.
    Python,
    /// The view of everything.
    View,
    /// A question in the spec, by its place.
    Question(String),
}

impl fmt::Display for ReportPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec => f.write_str("spec"),
            Self::Core => f.write_str("core"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Model(path) => write!(f, "model {path}"),
            Self::Python => f.write_str("python"),
            Self::View => f.write_str("view"),
            Self::Question(place) => f.write_str(place),
        }
    }
}

impl Serialize for ReportPart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartState {
    /// All of it is there.
    Present,
    /// Something of it is not in the store.
    Missing,
    /// Something of it is not what it must be.
    Damaged,
    /// The lock does not answer the spec.
    Stale,
    /// Somebody has to say what is wanted; the key is removed from the spec then.
    Open,
}

impl fmt::Display for PartState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Present => "present",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Stale => "stale",
            Self::Open => "open",
        })
    }
}

pub(super) fn report(part: ReportPart, state: PartState, detail: String) -> PartReport {
    PartReport { part, state, detail: Some(detail), files: 0, bytes: 0 }
}
