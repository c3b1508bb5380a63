//! Nodes and models as arguments give them, turned into entries of a spec.
//!
//! A list is JSON text, or a file that ends in `.json`, `.yml` or `.yaml`: a sequence, a mapping with the sequence
//! under `custom_nodes:`/`nodes:` or `models:`, or one entry. An item may be a string, as for `--node` and `--model`.
//! Every entry is checked here, so that an error names the list and the place in it; the spec checks once more what
//! concerns entries among each other. Relative paths of this machine start at the directory of the list, or at the
//! working directory that the caller names; the entries hold absolute ones.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use super::document::{self, revision_key};
use super::entry;
use super::reader::{Findings, describe};
use super::repo;
use crate::error::{Origin, SpecError};

/// What a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nodes,
    Models,
}

/// `--nodes`: a list as JSON or as a file, or one `REPO[@REF]`.
pub fn read_nodes(text: &str, cwd: &Path) -> Result<Vec<Value>, SpecError> {
    read(Kind::Nodes, text, cwd)
}

/// `--models`: a list as JSON or as a file, or one `SRC[=PATH]`.
pub fn read_models(text: &str, cwd: &Path) -> Result<Vec<Value>, SpecError> {
    read(Kind::Models, text, cwd)
}

/// `--node`: one `REPO[@REF]`.
pub fn node_from_arg(text: &str, cwd: &Path) -> Result<Value, SpecError> {
    single(Kind::Nodes, text, cwd)
}

/// `--model`: one `SRC[=PATH]`.
pub fn model_from_arg(text: &str, cwd: &Path) -> Result<Value, SpecError> {
    single(Kind::Models, text, cwd)
}

/// `--repo`: the same text, with a relative local path made absolute.
pub fn repo_from_arg(text: &str, cwd: &Path) -> String {
    absolute_repo(text, cwd)
}

fn single(kind: Kind, text: &str, cwd: &Path) -> Result<Value, SpecError> {
    let entry = from_string(kind, text, cwd);
    check(kind, vec![(String::new(), entry)], Origin::Named(kind.argument(text)))
        .map(|mut entries| entries.pop().unwrap_or_default())
}

fn read(kind: Kind, text: &str, cwd: &Path) -> Result<Vec<Value>, SpecError> {
    let trimmed = text.trim_start();
    if trimmed.starts_with(['[', '{']) {
        let origin = Origin::Named(kind.flag().to_owned());
        let value = document::json(text, &origin)?;
        return entries(kind, value, cwd, origin);
    }
    let extension = Path::new(text).extension().and_then(|ext| ext.to_str()).map(str::to_ascii_lowercase);
    let format = match extension.as_deref() {
        Some("json") => "JSON",
        Some("yml" | "yaml") => "YAML",
        _ => return single(kind, text, cwd).map(|entry| vec![entry]),
    };
    if text.contains("://") {
        return single(kind, text, cwd).map(|entry| vec![entry]);
    }
    let path = cwd.join(text);
    let bytes = fs::read(&path).map_err(|error| SpecError::io("read", &path, error))?;
    let origin = Origin::File(path.clone());
    let content = document::utf8(&bytes, &origin, format)?;
    let value = if format == "JSON" { document::json(&content, &origin)? } else { yaml(&content, &origin)? };
    let base = path.parent().unwrap_or(cwd).to_path_buf();
    entries(kind, value, &base, origin)
}

fn yaml(text: &str, origin: &Origin) -> Result<Value, SpecError> {
    serde_saphyr::from_str(text).map_err(|error: serde_saphyr::Error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().to_owned();
        SpecError::Syntax { origin: origin.clone(), format: "YAML", line, column, message }
    })
}

impl Kind {
    fn flag(self) -> &'static str {
        match self {
            Self::Nodes => "--nodes",
            Self::Models => "--models",
        }
    }

    fn argument(self, text: &str) -> String {
        match self {
            Self::Nodes => format!("the node {text:?}"),
            Self::Models => format!("the model {text:?}"),
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Nodes => &["custom_nodes", "nodes"],
            Self::Models => &["models"],
        }
    }

    fn required(self) -> &'static str {
        match self {
            Self::Nodes => "repo",
            Self::Models => "source",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Nodes => {
                "a list of nodes, an object with the list under `custom_nodes` or `nodes`, or one node with `repo`"
            }
            Self::Models => {
                "a list of models, an object with the list under `models`, or one model with `source`"
            }
        }
    }
}

fn entries(kind: Kind, value: Value, base: &Path, origin: Origin) -> Result<Vec<Value>, SpecError> {
    let (key, items) = match value {
        Value::Array(items) => ("", items),
        Value::Object(mut map) => match kind.keys().iter().find(|key| map.contains_key(**key)) {
            Some(key) => match map.shift_remove(*key) {
                Some(Value::Array(items)) => (*key, items),
                // `models:` with nothing below is an empty list in YAML.
                None | Some(Value::Null) => (*key, Vec::new()),
                Some(other) => return Err(refused(origin, key, &other, "a list")),
            },
            None if map.contains_key(kind.required()) => {
                return check(kind, vec![(String::new(), Value::Object(map))], origin);
            }
            None => return Err(refused(origin, "", &Value::Object(map), kind.expected())),
        },
        other => return Err(refused(origin, "", &other, kind.expected())),
    };
    let items = items.into_iter().enumerate().map(|(index, item)| {
        let item = match item {
            Value::String(text) => from_string(kind, &text, base),
            other => absolute(kind, other, base),
        };
        (format!("{key}[{index}]"), item)
    });
    check(kind, items.collect(), origin)
}

fn refused(origin: Origin, place: &str, found: &Value, expected: &str) -> SpecError {
    let mut findings = Findings::default();
    findings.problem(place, describe(found), expected);
    SpecError::Invalid { origin, problems: findings.problems }
}

fn check(kind: Kind, entries: Vec<(String, Value)>, origin: Origin) -> Result<Vec<Value>, SpecError> {
    let mut findings = Findings::default();
    for (place, value) in &entries {
        match kind {
            Kind::Nodes => drop(entry::node(value, place.clone(), &mut findings)),
            Kind::Models => drop(entry::model(value, place.clone(), &mut findings)),
        }
    }
    if findings.problems.is_empty() {
        Ok(entries.into_iter().map(|(_, value)| value).collect())
    } else {
        Err(SpecError::Invalid { origin, problems: findings.problems })
    }
}

fn from_string(kind: Kind, text: &str, base: &Path) -> Value {
    match kind {
        Kind::Nodes => {
            let text = absolute_repo(text, base);
            let (repo, reference) = repo::split_ref_of_arg(&text);
            let mut entry = json!({ "repo": repo });
            if let Some(reference) = reference {
                entry[revision_key(reference)] = reference.into();
            }
            entry
        }
        Kind::Models => {
            let (source, target) = split_target(text, base);
            let mut entry = Map::new();
            entry.insert("source".to_owned(), absolute_source(source, base).into());
            if let Some(target) = target {
                entry.insert("target_path".to_owned(), target.into());
            }
            Value::Object(entry)
        }
    }
}

/// An entry whose relative local path is made absolute.
fn absolute(kind: Kind, mut value: Value, base: &Path) -> Value {
    if let Some(Value::String(text)) = value.get_mut(kind.required()) {
        *text = match kind {
            Kind::Nodes => absolute_repo(text, base),
            Kind::Models => absolute_source(text, base),
        };
    }
    value
}

/// `./x` and `../x` are paths; `x/y` is not, because it could as well be an owner and a repository.
fn absolute_repo(text: &str, base: &Path) -> String {
    let is_path = matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../");
    if is_path { joined(base, text) } else { text.to_owned() }
}

fn absolute_source(text: &str, base: &Path) -> String {
    if text.is_empty() || text.starts_with('/') || text.contains("://") {
        return text.to_owned();
    }
    joined(base, text)
}

/// The path without `.` and with `..` taken literally, as a person reads it.
fn joined(base: &Path, text: &str) -> String {
    let mut path = PathBuf::new();
    for component in base.join(text).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    path.to_string_lossy().into_owned()
}

/// Splits `SRC=PATH`. A query may hold `=` too, so behind one only what is clearly a path in the view counts; and a
/// file that exists under the whole text has no path.
fn split_target<'a>(text: &'a str, base: &Path) -> (&'a str, Option<&'a str>) {
    let Some((source, target)) = text.rsplit_once('=') else { return (text, None) };
    let is_url = text.contains("://");
    if !is_url && base.join(text).exists() {
        return (text, None);
    }
    let clear = ["$COMFY_HOME", "$MODELS_DIR", "${COMFY_HOME}", "${MODELS_DIR}", "models/", "custom_nodes/"];
    if is_url && source.contains('?') && !clear.iter().any(|start| target.starts_with(start)) {
        return (text, None);
    }
    (source, Some(target))
}
