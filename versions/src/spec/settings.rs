//! `python`, `directories` and `options`: what a spec says of how a version is built and run.

use std::path::PathBuf;

use serde_json::Value;
use url::Url;

use super::model::{DirectoriesSpec, PythonSpec};
use super::reader::{Fields, Findings, describe};
use super::warning::Warning;

const VERSION: &str = "a version such as \"3.11\"";
const VERSION_NOT_PROGRAM: &str = "a version such as \"3.11\"; a program is named by `COMFY_PYTHON` in `env`";
const INDEX: &str = "the address of a package index, `https://…`";
const BACKEND: &str = "a name that uv knows, such as \"auto\", \"cpu\" or \"cu128\"";

/// Reads `python`.
pub(super) fn python(fields: &mut Fields<'_>, findings: &mut Findings) -> PythonSpec {
    let Some(value) = fields.get("python") else { return PythonSpec::default() };
    let Some(mut python) = Fields::of(value, "python".to_owned(), findings) else {
        return PythonSpec::default();
    };
    let version = python.text("version", VERSION, findings).map(str::to_owned);
    if let Some(version) = &version
        && (!version.starts_with(|c: char| c.is_ascii_digit()) || version.contains(char::is_whitespace))
    {
        let expected = if version.contains('/') { VERSION_NOT_PROGRAM } else { VERSION };
        findings.problem("python.version", format!("{version:?}"), expected);
    }
    let index_url = python.text("index_url", INDEX, findings);
    let index_url = index_url.and_then(|text| index(text, python.at("index_url"), findings));
    let extra = python.list("extra_index_urls", "a list of package indexes", findings);
    let extra_index_urls = extra.iter().enumerate().filter_map(|(number, item)| {
        let place = format!("{}[{number}]", python.at("extra_index_urls"));
        match item {
            Value::String(text) => index(text, place, findings),
            other => {
                findings.problem(place, describe(other), INDEX);
                None
            }
        }
    });
    let extra_index_urls = extra_index_urls.collect();
    let torch_backend = python.text("torch_backend", BACKEND, findings).map(str::to_owned);
    if let Some(backend) = &torch_backend
        && (backend.is_empty() || !backend.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'))
    {
        findings.problem(python.at("torch_backend"), format!("{backend:?}"), BACKEND);
    }
    python.finish(findings);
    PythonSpec { version, index_url, extra_index_urls, torch_backend }
}

fn index(text: &str, place: String, findings: &mut Findings) -> Option<String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https" | "file") => {
            if !url.username().is_empty() || url.password().is_some() {
                findings.warnings.push(Warning::Secret { place });
            }
            Some(text.to_owned())
        }
        _ => {
            findings.problem(place, format!("{text:?}"), INDEX);
            None
        }
    }
}

/// `env.COMFY_PYTHON` is the earlier tool's way to ask for an interpreter.
pub(super) fn python_of_env(
    python: PythonSpec,
    env: &[(String, String)],
    findings: &mut Findings,
) -> PythonSpec {
    let from_env = env.iter().find(|(key, _)| key == "COMFY_PYTHON").map(|(_, value)| value);
    let version = match (python.version, from_env) {
        (Some(version), Some(other)) => {
            if other.strip_prefix("python").unwrap_or(other) != version {
                let place = "env.COMFY_PYTHON".to_owned();
                findings.warnings.push(Warning::PythonTwice { place, version: version.clone() });
            }
            Some(version)
        }
        (version, from_env) => version.or_else(|| from_env.cloned()),
    };
    PythonSpec { version, ..python }
}

#[derive(Default)]
pub(super) struct Switches {
    pub(super) offline: bool,
    pub(super) skip_models: bool,
    pub(super) skip_python: bool,
}

/// Reads `options`.
pub(super) fn switches(fields: &mut Fields<'_>, findings: &mut Findings) -> Switches {
    let Some(value) = fields.get("options") else { return Switches::default() };
    let Some(mut options) = Fields::of(value, "options".to_owned(), findings) else {
        return Switches::default();
    };
    let switches = Switches {
        offline: options.flag("offline", false, findings),
        skip_models: options.flag("skip_models", false, findings),
        skip_python: options.flag("skip_python", false, findings),
    };
    options.finish(findings);
    switches
}

/// Reads `directories`.
pub(super) fn directories(fields: &mut Fields<'_>, findings: &mut Findings) -> DirectoriesSpec {
    let Some(value) = fields.get("directories") else { return DirectoriesSpec::default() };
    let Some(mut directories) = Fields::of(value, "directories".to_owned(), findings) else {
        return DirectoriesSpec::default();
    };
    let mut directory = |key| {
        let expected = "the absolute path of a directory";
        let text = directories.text(key, expected, findings)?;
        let path = PathBuf::from(text);
        if path.is_absolute() && !text.contains('\0') {
            return Some(path);
        }
        findings.problem(directories.at(key), format!("{text:?}"), expected);
        None
    };
    let read = DirectoriesSpec {
        input: directory("input"),
        output: directory("output"),
        user: directory("user"),
        temp: directory("temp"),
    };
    directories.finish(findings);
    read
}
