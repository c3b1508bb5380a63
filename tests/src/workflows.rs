//! Example workflows for our ComfyUI, each in both formats: `NAME.ui.json` is what a person saves from the page,
//! `NAME.api.json` what `/prompt` takes.
//!
//! - `text_to_image`: what ComfyUI shows a new user; reads `model.safetensors` of the checkpoints.
//! - `tint`: an image of the core's own through the node `plain`, with a note, a reroute, a bypassed and a muted node.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The file of an example in API format.
pub fn api_workflow(name: &str) -> PathBuf {
    file(&format!("{name}.api.json"))
}

/// The file of an example in UI format.
pub fn ui_workflow(name: &str) -> PathBuf {
    file(&format!("{name}.ui.json"))
}

/// A JSON file's value; panics, naming it, when it cannot be read.
#[track_caller]
pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("comfyui/workflows").join(name)
}
