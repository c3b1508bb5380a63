//! What an import did, for people and programs.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// What an import made of what it found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// What was taken, in the order of the spec.
    pub taken: Vec<Taken>,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
    /// What somebody has to answer; the spec has the same.
    pub questions: Vec<String>,
}

/// One part that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// What it became: `core`, `node custom_nodes/x`, `model models/vae/x.safetensors`, `python`.
    pub part: String,
    /// Where it was.
    pub from: String,
    /// As what it was taken: `commit 0123… of https://…`, `as it was found: …`.
    pub how: String,
    /// What in it differs from its commit, where it was not taken as the commit has it.
    pub changes: Vec<String>,
    /// Its bytes, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Something that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl ImportReport {
    /// Tells of the sockets, pipes and devices below `dir`, of which there are `count`. No version has such.
    pub fn leave_out_special(&mut self, dir: &Path, first: PathBuf, count: usize) {
        let more = match count {
            0 | 1 => String::new(),
            _ => format!(", the first of {count} in {}", dir.display()),
        };
        self.leave_out(first, format!("a socket, pipe or device{more}"));
    }

    pub(crate) fn leave_out(&mut self, path: impl Into<PathBuf>, reason: impl Into<String>) {
        self.left_out.push(LeftOut { path: path.into(), reason: reason.into() });
    }
}
