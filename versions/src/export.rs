//! The way back: a version as the files that other programs read. What a format cannot say is told, not dropped in
//! silence.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::python;
use crate::source::{hex, public_text, redact};
use crate::spec::{LockedNode, ModelSource, SpecDocument};

/// Why a version has no place in a format.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What it resolves to is not known.
    #[error("it was never locked")]
    NeverLocked,
    /// The format names where files are.
    #[error("extra_model_paths.yaml names where models are: say where the version is mounted or realized")]
    NoPlace,
    /// The format is text.
    #[error("the path of the version is no UTF-8")]
    NotText,
    /// The format cannot express it.
    #[error("{0}")]
    Yaml(String),
}

/// What a version is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// A snapshot of ComfyUI-Manager.
    ManagerSnapshot,
    /// comfy-lock.yaml of comfy-cli.
    ComfyLock,
    /// The spec, with its lock.
    Spec,
    /// A section of extra_model_paths.yaml.
    ExtraModelPaths,
}

/// A version in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The file.
    pub text: String,
    /// What it does not say.
    pub omitted: Vec<String>,
}

/// Writes a version as `format`. `at` is where it is mounted or realized, for the formats that name places.
///
/// # Errors
/// What the version lacks for it, in words.
pub fn export(
    document: &SpecDocument,
    format: ExportFormat,
    at: Option<&Path>,
) -> Result<Export, ExportError> {
    let mut omitted = Vec::new();
    let text = match format {
        ExportFormat::Spec => document.text().to_owned(),
        ExportFormat::ManagerSnapshot => {
            let spec = document.spec();
            omitted.extend(spec.wanted_models().iter().map(|model| format!("model {}", model.path)));
            pretty(&snapshot(document, true, &mut omitted)?)
        }
        ExportFormat::ComfyLock => {
            let nodes = snapshot(document, false, &mut omitted)?;
            let lock = json!({
                "basic": { "name": document.spec().version_id.as_str() },
                "models": models(document),
                "custom_nodes": nodes,
            });
            yaml(&lock)?
        }
        ExportFormat::ExtraModelPaths => {
            let at = at.ok_or(ExportError::NoPlace)?;
            let base = at.to_str().ok_or(ExportError::NotText)?;
            yaml(&json!({ "cvs": folders(document, base, &mut omitted) }))?
        }
    };
    Ok(Export { text, omitted })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn yaml(value: &Value) -> Result<String, ExportError> {
    serde_saphyr::to_string(value).map_err(|error| ExportError::Yaml(error.to_string()))
}

fn snapshot(
    document: &SpecDocument,
    packages: bool,
    omitted: &mut Vec<String>,
) -> Result<Value, ExportError> {
    let spec = document.spec();
    let lock = spec.lock.as_ref().ok_or(ExportError::NeverLocked)?;
    if spec.comfy.tree.is_some() {
        omitted.push("core: its changed files; only the commit is named".to_owned());
    }
    let (mut git, mut registry) = (Map::new(), Map::new());
    for (node, LockedNode { path, locked, .. }) in spec.custom_nodes.iter().zip(&lock.custom_nodes) {
        let name = path.file_name().unwrap_or_default();
        let disabled =
            name.ends_with(b".disabled") || path.as_bytes().starts_with(b"custom_nodes/.disabled/");
        if node.tree.is_some() {
            let what = if locked.commit.is_some() {
                "its changed files; only the commit is named"
            } else {
                "all of it: it has no repository"
            };
            omitted.push(format!("node {path}: {what}"));
        }
        match (node.repo.registry_id(), &locked.version, &locked.commit) {
            (Some(id), Some(version), _) if !disabled => {
                registry.insert(id.to_owned(), version.as_str().into());
            }
            (Some(_), ..) => omitted.push(format!("node {path}: it is switched off, and of the Registry")),
            (None, _, Some(commit)) => {
                git.insert(redact(&node.repo.address()), json!({ "hash": commit, "disabled": disabled }));
            }
            (None, _, None) => {}
        }
    }
    let mut snapshot = json!({
        "comfyui": lock.comfy.commit,
        "git_custom_nodes": git,
        "cnr_custom_nodes": registry,
        "file_custom_nodes": [],
    });
    if packages {
        snapshot["pips"] = pips(document).into();
    }
    Ok(snapshot)
}

fn pips(document: &SpecDocument) -> Map<String, Value> {
    let lock = document.spec().lock.as_ref();
    let pylock = lock.and_then(|lock| lock.python.as_ref()).and_then(|python| python.pylock.as_ref());
    let packages = pylock.and_then(|pylock| python::packages(pylock).ok()).unwrap_or_default();
    // The Manager has the name alone beside an address, and installs the address.
    let entry = |package: &python::LockedPackage| match (&package.address, &package.version) {
        (Some(address), _) => (package.name.clone(), public_text(address).into()),
        (None, Some(version)) => (format!("{}=={version}", package.name), "".into()),
        (None, None) => (package.name.clone(), "".into()),
    };
    packages.iter().map(entry).collect()
}

fn models(document: &SpecDocument) -> Vec<Value> {
    let spec = document.spec();
    let locked =
        |path: &cvs_store::RelPath| spec.lock.as_ref()?.models.iter().find(|locked| locked.path == *path);
    let entry = |model: &crate::spec::ModelSpec| {
        let name = String::from_utf8_lossy(model.path.file_name().unwrap_or_default()).into_owned();
        let folder = model.path.names().nth(1).map(|name| String::from_utf8_lossy(name).into_owned());
        let mut entry = json!({
            "model": name,
            "paths": [{ "path": model.path.to_string() }],
            "type": folder.unwrap_or_default(),
        });
        // A path of this machine is no address for anybody else.
        if !matches!(model.source, ModelSource::Local(_)) {
            entry["url"] = public_text(&model.source_text).into();
        }
        if let Some(locked) = locked(&model.path) {
            entry["hashes"] = json!([{ "hash": hex(&locked.sha256), "type": "SHA256" }]);
        }
        entry
    };
    spec.wanted_models().iter().map(entry).collect()
}

fn folders(document: &SpecDocument, base: &str, omitted: &mut Vec<String>) -> Value {
    let mut folders = BTreeSet::new();
    for model in document.spec().wanted_models() {
        let names: Vec<String> =
            model.path.names().take(3).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        match &names[..] {
            [models, folder, _] if models == "models" => drop(folders.insert(folder.clone())),
            _ => omitted.push(format!("model {}: it is in no folder of models/", model.path)),
        }
    }
    let mut section = Map::new();
    section.insert("base_path".to_owned(), base.into());
    section.extend(folders.into_iter().map(|folder| {
        let place = format!("models/{folder}/");
        (folder, place.into())
    }));
    section.into()
}
