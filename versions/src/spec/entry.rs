//! One repository, node or model of a spec or of a list.

use std::path::PathBuf;

use cvs_store::{ManifestId, RelPath};
use serde_json::Value;

use super::checksum::Checksum;
use super::model::{ComfySpec, MirrorSpec, ModelSpec, NodeSpec, TreeSpec};
use super::reader::{Fields, Findings, describe};
use super::repo::{self, RepoUrl, Revision};
use super::source::{self, ModelSource};
use super::target;
use super::warning::Warning;
use crate::source::redact;

/// Reads `comfy`.
pub(super) fn comfy(value: &Value, place: String, findings: &mut Findings) -> Option<ComfySpec> {
    let mut fields = Fields::of(value, place, findings)?;
    let repo = repository(&mut fields, findings);
    let revision = revision(&mut fields, findings);
    let tree = tree(&mut fields, findings);
    if let Some(id) = repo.as_ref().and_then(RepoUrl::registry_id) {
        findings.problem(
            fields.at("repo"),
            format!("\"registry:{id}\", a node"),
            "the repository of ComfyUI",
        );
    }
    fields.finish(findings);
    Some(ComfySpec { repo: repo?, revision: revision?, tree: tree? })
}

/// Reads `tree` of a repository: none inside when there is none, none outside when it is wrong.
fn tree(fields: &mut Fields<'_>, findings: &mut Findings) -> Option<Option<TreeSpec>> {
    let Some(value) = fields.get("tree") else { return Some(None) };
    let mut tree = Fields::of(value, fields.at("tree"), findings)?;
    let expected = "the id of a manifest, 64 digits";
    let manifest = tree.required_text("manifest", expected, findings).and_then(|text| {
        let id = text.parse::<ManifestId>();
        id.map_err(|_| findings.problem(tree.at("manifest"), format!("{text:?}"), expected)).ok()
    });
    let from = tree.text("from", "the absolute path of a directory", findings).map(PathBuf::from);
    if let Some(path) = from.as_ref().filter(|path| !path.is_absolute()) {
        findings.problem(tree.at("from"), format!("{path:?}"), "the absolute path of a directory");
    }
    // What cvs noted for people.
    tree.list("changes", "a list of what differs from the commit", findings);
    tree.get("unpublished");
    tree.finish(findings);
    Some(Some(TreeSpec { manifest: manifest?, from }))
}

/// Reads one item of `custom_nodes`.
pub(super) fn node(value: &Value, place: String, findings: &mut Findings) -> Option<NodeSpec> {
    let mut fields = Fields::of(value, place.clone(), findings)?;
    let repo = repository(&mut fields, findings);
    let revision = revision(&mut fields, findings);
    let tree = tree(&mut fields, findings);
    let name = fields.text("name", "the name of the node", findings);
    let target = fields.text("target_dir", target::EXPECTED, findings);
    let install_requirements = fields.flag("install_requirements", true, findings);
    let run_install = fields.flag("run_install", false, findings);
    let (at_name, at_repo, at_target) = (fields.at("name"), fields.at("repo"), fields.at("target_dir"));
    fields.finish(findings);

    let name_is_own = name.is_some();
    let name = match (name, &repo) {
        (Some(name), _) => name.to_owned(),
        (None, Some(repo)) => repo.base_name(),
        (None, None) => return None,
    };
    let path = match target {
        Some(text) => match target::parse(text, "") {
            Ok(path) if path.is_root() => {
                findings.problem(at_target, format!("{text:?}, the whole view"), "a directory below it");
                None
            }
            Ok(path) => Some(path),
            Err(reason) => {
                findings.problem(at_target, format!("{text:?}, {reason}"), target::EXPECTED);
                None
            }
        },
        None => match RelPath::new("custom_nodes").and_then(|dir| dir.join(&name)) {
            Ok(path) => Some(path),
            Err(error) => {
                let found = format!("{name:?}, {}", error.reason);
                let (place, expected) = if name_is_own {
                    (at_name, "the name of one directory, or a `target_dir`")
                } else {
                    (at_repo, "a repository whose last segment can name the node, or a `name`")
                };
                findings.problem(place, found, expected);
                None
            }
        },
    };
    Some(NodeSpec {
        place,
        name,
        repo: repo?,
        revision: revision?,
        tree: tree?,
        path: path?,
        install_requirements,
        run_install,
    })
}

/// Reads one item of `models`.
pub(super) fn model(value: &Value, place: String, findings: &mut Findings) -> Option<ModelSpec> {
    let mut fields = Fields::of(value, place.clone(), findings)?;
    let mut sources = sources(&mut fields, findings);
    let mirrors = if sources.is_empty() { Vec::new() } else { sources.split_off(1) };
    let first = sources.pop();
    let source = first.as_ref().map(|first| first.source.clone());
    let name = fields.text("name", "a name", findings);
    let before = findings.problems.len();
    let key = fields.either("target_path", "path", findings);
    let target = fields.text(key, target::EXPECTED, findings);
    let subdir = fields.text("target_subdir", "a folder of `models/`", findings);
    let unreadable = findings.problems.len() > before;
    let checksum = fields.text("checksum", "a checksum", findings).and_then(|text| {
        Checksum::parse(text)
            .map_err(|expected| findings.problem(fields.at("checksum"), format!("{text:?}"), expected))
            .ok()
    });
    let wanted = Target { key, target, subdir, name };
    let path = match (&source, unreadable) {
        (Some(source), false) => wanted.place(source, &fields, findings),
        _ => None,
    };
    fields.finish(findings);
    Some(ModelSpec {
        place,
        name: name.map(str::to_owned),
        source_text: first?.text,
        source: source?,
        mirrors,
        path: path?,
        checksums: checksum.into_iter().collect(),
    })
}

/// `source`, then `sources`; at least one of them must be there. What is written twice counts once.
fn sources(fields: &mut Fields<'_>, findings: &mut Findings) -> Vec<MirrorSpec> {
    let expected = "a list of sources, in the order in which they are tried";
    let listed = fields.list("sources", expected, findings);
    let at_list = fields.at("sources");
    let mut texts: Vec<(String, &str)> = Vec::new();
    if listed.is_empty() || fields.get("source").is_some() {
        let at = fields.at("source");
        texts.extend(fields.required_text("source", source::EXPECTED, findings).map(|text| (at, text)));
    }
    for (index, item) in listed.iter().enumerate() {
        let at = format!("{at_list}[{index}]");
        match item {
            Value::String(text) => texts.push((at, text)),
            other => findings.problem(at, describe(other), source::EXPECTED),
        }
    }
    let mut sources: Vec<MirrorSpec> = Vec::new();
    for (at, text) in texts {
        match ModelSource::parse(text) {
            Ok(source) => {
                if redact::has_secret(text) {
                    findings.warnings.push(Warning::Secret { place: at });
                }
                if sources.iter().all(|known| known.source.identity() != source.identity()) {
                    sources.push(MirrorSpec { text: text.to_owned(), source });
                }
            }
            Err((found, expected)) => findings.problem(at, found, expected),
        }
    }
    sources
}

/// What a model says of where it goes.
struct Target<'a> {
    key: &'static str,
    target: Option<&'a str>,
    subdir: Option<&'a str>,
    name: Option<&'a str>,
}

impl Target<'_> {
    fn place(&self, source: &ModelSource, fields: &Fields<'_>, findings: &mut Findings) -> Option<RelPath> {
        let subdir = match self.subdir {
            Some(text) => Some(parsed(text, "models", fields.at("target_subdir"), findings)?),
            None => None,
        };
        if let Some(text) = self.target {
            let at = fields.at(self.key);
            let mut path = parsed(text, "", at.clone(), findings)?;
            if text.ends_with('/') {
                path = self.join_file_name(&path, source, fields, findings)?;
            }
            if path.is_root() || path.as_bytes() == b"models" {
                findings.problem(
                    at,
                    format!("{text:?}"),
                    "the path of a file, or of a directory with `/` at its end",
                );
                return None;
            }
            if let Some(subdir) = subdir.filter(|subdir| path.parent().as_ref() != Some(subdir)) {
                let expected = format!("nothing, or the folder of `{}`, {path}", self.key);
                findings.problem(fields.at("target_subdir"), format!("{:?}", subdir.to_string()), expected);
                return None;
            }
            return Some(path);
        }
        if let Some(subdir) = subdir {
            return self.join_file_name(&subdir, source, fields, findings);
        }
        let directories = source.directories();
        let known = target::folder_of_source(directories.iter().map(String::as_str));
        let folder = known.unwrap_or(target::FALLBACK_FOLDER);
        let dir = RelPath::new(format!("models/{folder}")).ok()?;
        let path = self.join_file_name(&dir, source, fields, findings)?;
        if known.is_none() {
            let warning = Warning::FolderGuessed { place: fields.at("source"), target: path.to_string() };
            findings.warnings.push(warning);
        }
        Some(path)
    }

    /// The name at the source; the entry's own name only where the source has none and it looks like a file's.
    fn join_file_name(
        &self,
        dir: &RelPath,
        source: &ModelSource,
        fields: &Fields<'_>,
        findings: &mut Findings,
    ) -> Option<RelPath> {
        let from_name = || self.name.filter(|name| name.contains('.')).map(str::to_owned);
        let Some(file_name) = source.file_name().or_else(from_name) else {
            let expected = "the path of the file, because its source does not name one";
            findings.problem(
                fields.at(self.key),
                self.target.map_or("nothing".to_owned(), |text| format!("{text:?}")),
                expected,
            );
            return None;
        };
        match dir.join(&file_name) {
            Ok(path) => Some(path),
            Err(error) => {
                let found = format!("the file name {file_name:?}, {}", error.reason);
                findings.problem(
                    fields.at("source"),
                    found,
                    "a source whose file name is fit, or a `target_path`",
                );
                None
            }
        }
    }
}

fn parsed(text: &str, relative_to: &str, place: String, findings: &mut Findings) -> Option<RelPath> {
    match target::parse(text, relative_to) {
        Ok(path) => Some(path),
        Err(reason) => {
            findings.problem(place, format!("{text:?}, {reason}"), target::EXPECTED);
            None
        }
    }
}

fn repository(fields: &mut Fields<'_>, findings: &mut Findings) -> Option<RepoUrl> {
    let text = fields.required_text("repo", repo::EXPECTED, findings)?;
    match RepoUrl::parse(text) {
        Ok(repo) => {
            if repo.has_secret() {
                findings.warnings.push(Warning::Secret { place: fields.at("repo") });
            }
            Some(repo)
        }
        Err((found, expected)) => {
            let (_, reference) = repo::split_ref(text);
            let hint = reference.map_or(String::new(), |_| "; a revision belongs in `ref`".to_owned());
            findings.problem(fields.at("repo"), found, expected + &hint);
            None
        }
    }
}

/// `commit`, else `ref`, else HEAD. A name in `commit` is a ref.
fn revision(fields: &mut Fields<'_>, findings: &mut Findings) -> Option<Revision> {
    let mut read = |key: &'static str| -> Option<Option<Revision>> {
        let expected = "a branch, a tag, a full ref name or a commit id";
        let before = findings.problems.len();
        let Some(text) = fields.text(key, expected, findings) else {
            return (findings.problems.len() == before).then_some(None);
        };
        match Revision::parse(text) {
            Ok(revision) => Some(Some(revision)),
            Err(expected) => {
                findings.problem(fields.at(key), format!("{text:?}"), expected);
                None
            }
        }
    };
    let (commit, reference) = (read("commit"), read("ref"));
    let (commit, reference) = (commit?, reference?);
    match (commit, reference) {
        (None, reference) => Some(reference.unwrap_or(Revision::Head)),
        (Some(commit @ Revision::Commit(_)), _) => Some(commit),
        (Some(commit), reference) => {
            findings
                .warnings
                .push(Warning::RefInCommit { place: fields.at("commit"), found: commit.to_string() });
            if reference.is_some_and(|reference| reference != commit) {
                findings
                    .warnings
                    .push(Warning::RefIgnored { place: fields.at("ref"), commit: commit.to_string() });
            }
            Some(commit)
        }
    }
}
