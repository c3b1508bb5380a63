//! Files that describe a setup: snapshots of ComfyUI-Manager and of Comfy Desktop, definitions of `comfy build`,
//! comfy-lock.yaml, and the lock of the earlier tool. Which one a file is, its content tells.

use serde_json::{Map, Value, json};

use super::draft::{Draft, sha256};
use crate::source::redact::redact_words;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A snapshot of ComfyUI-Manager, JSON or YAML.
    ManagerSnapshot,
    /// A snapshot of Comfy Desktop.
    DesktopSnapshot,
    /// A definition of `comfy build`.
    BuildDefinition,
    /// comfy-lock.yaml of comfy-cli.
    ComfyLock,
    /// The lock of the earlier tool.
    LockV1,
    /// A spec of cvs.
    Spec,
    /// A workflow, or a file that ComfyUI has saved with one in it.
    Workflow,
}

const MANAGER: [&str; 3] = ["git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes"];

/// A file in `custom_nodes` that ComfyUI itself brings, and that snapshots list.
const OF_THE_CORE: &str = "websocket_image_save.py";
/// Folders of `models/` by the kinds that formats name in the singular.
const FOLDERS: [(&str, &str); 12] = [
    ("checkpoint", "checkpoints"),
    ("diffusion_model", "diffusion_models"),
    ("text_encoder", "text_encoders"),
    ("lora", "loras"),
    ("embedding", "embeddings"),
    ("textualinversion", "embeddings"),
    ("hypernetwork", "hypernetworks"),
    ("upscale", "upscale_models"),
    ("upscaler", "upscale_models"),
    ("upscale_model", "upscale_models"),
    ("style_model", "style_models"),
    ("unet", "diffusion_models"),
];

/// What `value` is; none when it is nothing that is known.
pub(super) fn detect(value: &Value) -> Option<Format> {
    let map = value.as_object()?;
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let definition = ["schema", "schemaVersion", "$schema", "kind", "format", "version"];
    let manager = |map: &Map<String, Value>| MANAGER.iter().any(|key| map.contains_key(*key));
    Some(match () {
        () if map.get("schema_version") == Some(&json!(1)) && map.contains_key("comfyui") => Format::LockV1,
        () if map.contains_key("schema_version") && map.contains_key("comfy") => Format::Spec,
        () if text("type").starts_with("comfyui-desktop") => Format::DesktopSnapshot,
        () if text("schema").starts_with("comfy-build/")
            || definition.iter().any(|key| text(key).contains("distribution-definition"))
            || map.contains_key("baseComfyVersion") =>
        {
            Format::BuildDefinition
        }
        () if manager(map) => Format::ManagerSnapshot,
        () if ["basic", "basics"].iter().any(|key| map.contains_key(*key)) => Format::ComfyLock,
        () if map.get("custom_nodes").and_then(Value::as_object).is_some_and(manager) => {
            if map.contains_key("models") { Format::ComfyLock } else { Format::ManagerSnapshot }
        }
        () if map.get("nodes").is_some_and(Value::is_array)
            || map.values().any(|node| node.get("class_type").is_some())
            || ["input", "prompt", "workflow"].iter().any(|key| map.contains_key(*key)) =>
        {
            Format::Workflow
        }
        () => return None,
    })
}

/// Reads `value` as `format`; the error says what is wrong with it. `number` chooses among the snapshots of one file.
pub(super) fn read(format: Format, value: &Value, number: Option<usize>) -> Result<Draft, String> {
    let Value::Object(map) = value else { return Err("an object is expected".to_owned()) };
    let mut draft = Draft::default();
    match format {
        Format::ManagerSnapshot => match map.get("custom_nodes") {
            Some(Value::Object(inner)) => manager(inner, &mut draft)?,
            _ => manager(map, &mut draft)?,
        },
        Format::ComfyLock => comfy_lock(map, &mut draft)?,
        Format::DesktopSnapshot => desktop(map, number, &mut draft)?,
        Format::BuildDefinition => match map.get("definition") {
            // The file that comfy-cli keeps has the definition inside.
            Some(Value::Object(inner)) => definition(inner, &mut draft)?,
            _ => definition(map, &mut draft)?,
        },
        Format::LockV1 => lock_v1(map, &mut draft)?,
        Format::Spec | Format::Workflow => return Err("it is not read as a snapshot".to_owned()),
    }
    Ok(draft)
}

fn text<'a>(map: &'a Value, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn list<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("{key}: a list is expected")),
    }
}

fn object<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Vec<(&'a String, &'a Value)>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(inner)) => Ok(inner.iter().collect()),
        Some(_) => Err(format!("{key}: an object is expected")),
    }
}

fn manager(map: &Map<String, Value>, draft: &mut Draft) -> Result<(), String> {
    draft.core(None, map.get("comfyui").and_then(Value::as_str));
    for (url, state) in object(map, "git_custom_nodes")? {
        let disabled = state.get("disabled").and_then(Value::as_bool).unwrap_or(false);
        draft.git_node(url, text(state, "hash"), None, !disabled);
    }
    for (id, version) in object(map, "cnr_custom_nodes")? {
        draft.registry_node(id, version.as_str(), None, true);
    }
    for file in list(map, "file_custom_nodes")? {
        let name = text(file, "filename").ok_or("file_custom_nodes: a `filename` is expected")?;
        if name == OF_THE_CORE {
            continue;
        }
        draft.ask(
            json!({ "about": "node", "name": name }),
            &format!("where is the node {name}? The snapshot names the file and does not have it"),
        );
    }
    for (package, at) in object(map, "pips")? {
        package_of(draft, package, at.as_str().unwrap_or_default());
    }
    Ok(())
}

/// A line of `pip freeze`, or what stands before its `@` and behind it; what names a directory cannot be had again.
fn package_of(draft: &mut Draft, package: &str, at: &str) {
    let address = package.split_once(" @ ").map_or(at, |(_, address)| address);
    if package.starts_with('-') || address.starts_with("file:") {
        draft.report.leave_out(redact_words(package), "a package of a directory of that machine");
    } else if !at.is_empty() {
        draft.package(&format!("{} @ {at}", package.trim()));
    } else if !package.trim().is_empty() {
        draft.package(package.trim());
    }
}

fn comfy_lock(map: &Map<String, Value>, draft: &mut Draft) -> Result<(), String> {
    match map.get("custom_nodes") {
        Some(Value::Object(inner)) => manager(inner, draft)?,
        None | Some(Value::Null) => draft.core(None, None),
        // What comfy-cli itself writes.
        Some(Value::Array(none)) if none.is_empty() => draft.core(None, None),
        Some(_) => return Err("custom_nodes: an object is expected".to_owned()),
    }
    for (index, model) in list(map, "models")?.iter().enumerate() {
        let name = text(model, "model").ok_or(format!("models[{index}]: a `model` is expected"))?;
        let own = model.get("hash").into_iter();
        let others = model
            .get("hashes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|hash| hash.get("hash"));
        let hash = own.chain(others).filter_map(Value::as_str).find_map(sha256);
        let paths = model.get("paths").and_then(Value::as_array).into_iter().flatten();
        let mut targets: Vec<String> =
            paths.filter_map(|path| Some(below_models(text(path, "path")?))).collect();
        if targets.is_empty() {
            let folder = text(model, "type").map_or("checkpoints".to_owned(), folder);
            targets.push(format!("models/{folder}/{name}"));
        }
        for target in targets {
            model_or_question(draft, text(model, "url"), &target, hash, name);
        }
    }
    Ok(())
}

fn desktop(map: &Map<String, Value>, number: Option<usize>, draft: &mut Draft) -> Result<(), String> {
    let snapshots = list(map, "snapshots")?;
    let index = match (snapshots.len(), number) {
        (0, _) => return Err("snapshots: it has none".to_owned()),
        (1, None) => 0,
        (count, Some(number)) if (1..=count).contains(&number) => number - 1,
        (count, _) => return Err(format!("snapshots: there are {count}; say which one, from 1 to {count}")),
    };
    let snapshot =
        snapshots[index].as_object().ok_or(format!("snapshots[{index}]: an object is expected"))?;
    let core = snapshot.get("comfyui").unwrap_or(&Value::Null);
    draft.core(None, ["commit", "releaseTag", "baseTag", "ref"].iter().find_map(|key| text(core, key)));
    for (at, node) in list(snapshot, "customNodes")?.iter().enumerate() {
        let enabled = node.get("enabled").and_then(Value::as_bool).unwrap_or(true);
        let name = text(node, "dirName");
        let place = format!("snapshots[{index}].customNodes[{at}]");
        match text(node, "type") {
            Some("cnr") => {
                let id = text(node, "id").ok_or(format!("{place}: an `id` is expected"))?;
                draft.registry_node(id, text(node, "version"), name, enabled);
            }
            Some("git") => {
                let url = text(node, "url").unwrap_or_default();
                draft.git_node(url, text(node, "commit"), name.or(text(node, "id")), enabled);
            }
            _ => {
                let name = name.or(text(node, "id")).ok_or(format!("{place}: a `dirName` is expected"))?;
                draft.ask(
                    json!({ "about": "node", "name": name }),
                    &format!("where is the node {name}? The snapshot does not say where it came from"),
                );
            }
        }
    }
    for (package, version) in object(snapshot, "pipPackages")? {
        let version = version.as_str().unwrap_or_default();
        match version.contains("://") {
            true => package_of(draft, &format!("{package} @ {version}"), ""),
            false => package_of(draft, &format!("{package}=={version}"), ""),
        }
    }
    draft.python = snapshot.get("pythonVersion").and_then(Value::as_str).and_then(minor);
    Ok(())
}

fn definition(map: &Map<String, Value>, draft: &mut Draft) -> Result<(), String> {
    let version = map.get("baseComfyVersion").and_then(Value::as_str);
    let version =
        version.map(|text| match text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.') {
            true => format!("v{text}"),
            false => text.to_owned(),
        });
    draft.core(None, version.as_deref());
    for (index, node) in list(map, "customNodes")?.iter().enumerate() {
        let name = text(node, "name");
        match (text(node, "repository"), text(node, "id").or(name)) {
            (Some(url), _) => draft.git_node(url, text(node, "gitRef"), name, true),
            (None, Some(id)) => draft.registry_node(id, text(node, "registryVersion"), name, true),
            (None, None) => {
                return Err(format!("customNodes[{index}]: a `repository` or an `id` is expected"));
            }
        }
    }
    for (index, model) in list(map, "models")?.iter().enumerate() {
        let name = text(model, "filename").ok_or(format!("models[{index}]: a `filename` is expected"))?;
        let folder = text(model, "type").map_or("checkpoints".to_owned(), folder);
        let target = format!("models/{folder}/{name}");
        model_or_question(
            draft,
            text(model, "sourceUri"),
            &target,
            text(model, "sha256").and_then(sha256),
            name,
        );
    }
    match map.get("pipDependencies") {
        Some(Value::Object(packages)) => {
            for (package, version) in packages {
                package_of(draft, &format!("{package}=={}", version.as_str().unwrap_or_default()), "");
            }
        }
        // As `pip freeze` says it, after comments.
        Some(Value::String(lines)) => {
            for line in lines.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
                package_of(draft, line, "");
            }
        }
        _ => {
            for package in list(map, "pipDependencies")?.iter().filter_map(Value::as_str) {
                package_of(draft, package, "");
            }
        }
    }
    let environment = map.get("environment").unwrap_or(&Value::Null);
    draft.python = text(environment, "pythonVersion").and_then(minor);
    Ok(())
}

fn lock_v1(map: &Map<String, Value>, draft: &mut Draft) -> Result<(), String> {
    let core = map.get("comfyui").unwrap_or(&Value::Null);
    draft.core(text(core, "repo"), text(core, "commit"));
    for (index, node) in list(map, "custom_nodes")?.iter().enumerate() {
        let repo = text(node, "repo").ok_or(format!("custom_nodes[{index}]: a `repo` is expected"))?;
        let directory = text(node, "path").and_then(|path| path.trim_end_matches('/').rsplit('/').next());
        draft.git_node(repo, text(node, "commit"), directory.or(text(node, "name")), true);
    }
    for (index, model) in list(map, "models")?.iter().enumerate() {
        let name = text(model, "name")
            .or(text(model, "source"))
            .ok_or(format!("models[{index}]: a `source` is expected"))?;
        let file = name.split(['?', '#']).next().unwrap_or(name).rsplit('/').next().unwrap_or(name);
        let target = text(model, "target_path").map_or(format!("models/checkpoints/{file}"), below_models);
        let checksum = text(model, "checksum").map(|text| text.strip_prefix("sha256:").unwrap_or(text));
        model_or_question(draft, text(model, "source"), &target, checksum.and_then(sha256), name);
    }
    let python = map.get("python").unwrap_or(&Value::Null);
    draft.python = text(python, "version").and_then(minor);
    for package in python.get("packages").and_then(Value::as_array).into_iter().flatten() {
        let Some(name) = text(package, "name") else { continue };
        match (text(package, "url"), text(package, "version")) {
            (Some(url), _) => package_of(draft, &format!("{name} @ {url}"), ""),
            (None, Some(version)) => package_of(draft, &format!("{name}=={version}"), ""),
            (None, None) => package_of(draft, name, ""),
        }
    }
    Ok(())
}

fn model_or_question(
    draft: &mut Draft,
    source: Option<&str>,
    target: &str,
    sha256: Option<&str>,
    name: &str,
) {
    match source {
        Some(source) => draft.model(source, target, sha256),
        None => {
            let mut about = json!({ "about": "model", "name": name, "target_path": target });
            if let Some(sha256) = sha256 {
                about["sha256"] = sha256.into();
            }
            draft.ask(about, &format!("where does the model {target} come from? No address is given for it"));
        }
    }
}

/// The place in the view of a path that an install had: what follows the last `models/`.
fn below_models(path: &str) -> String {
    let path = path.replace('\\', "/");
    match path.rfind("models/").filter(|&at| at == 0 || path.as_bytes()[at - 1] == b'/') {
        Some(at) => path[at..].to_owned(),
        None if path.starts_with('/') || path.starts_with('$') => path,
        None => format!("models/{path}"),
    }
}

pub(super) fn folder(kind: &str) -> String {
    let known = FOLDERS.iter().find(|(one, _)| one.eq_ignore_ascii_case(kind));
    known.map_or(kind, |(_, folder)| folder).to_owned()
}

/// `3.12` of `3.12.7`.
fn minor(version: &str) -> Option<String> {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    Some(format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests;
