//! A version in the making: what a file says, as entries of a spec, and what it does not say, as questions.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::report::{ImportReport, Taken};
use crate::python::unfit;
use crate::source::{redact, redact_words, without_secrets, without_secrets_in};
use crate::spec::{ModelSource, RepoUrl, Revision, VersionId, split_ref};

/// Where ComfyUI itself is. That it is meant, every format takes for granted.
pub(super) const CORE: &str = "https://github.com/comfyanonymous/ComfyUI";
/// What switches a node off in the eyes of ComfyUI and of its Manager.
const DISABLED: &str = ".disabled";
/// What opens a repository, and what opens an address that nothing here has a name for.
const BY_GIT: &str = "git's credential helper is asked for yours";
const BY_HAND: &str = "add yours by hand where nothing else opens it";

#[derive(Default)]
pub(super) struct Draft {
    /// `repo`, `ref`, `commit`.
    pub(super) core: Map<String, Value>,
    pub(super) nodes: Vec<Value>,
    pub(super) models: Vec<Value>,
    pub(super) packages: Vec<String>,
    pub(super) python: Option<String>,
    pub(super) workflow: Option<Value>,
    pub(super) questions: Vec<Value>,
    pub(super) report: ImportReport,
}

impl Draft {
    /// The core at a commit or ref; `None` asks.
    pub(super) fn core(&mut self, repo: Option<&str>, revision: Option<&str>) {
        self.core_or(repo, revision, "It is not said");
    }

    /// The core at a commit or ref; where there is none, the question says `instead`, which is known of it.
    pub(super) fn core_or(&mut self, repo: Option<&str>, revision: Option<&str>, instead: &str) {
        let repo = repo.filter(|repo| RepoUrl::parse(repo).is_ok()).unwrap_or(CORE);
        let repo = self.public(repo, BY_GIT);
        self.core.insert("repo".to_owned(), repo.into());
        match revision.filter(|text| Revision::parse(text).is_ok()) {
            Some(revision) => {
                self.core.insert(revision_key(revision).to_owned(), revision.into());
            }
            None => self.ask(
                json!({ "about": "core" }),
                &format!("which commit of ComfyUI? {instead}; until `comfy.ref` or `comfy.commit` says it, it is the newest"),
            ),
        }
    }

    /// `--repo`, which answers what the file leaves open.
    pub(super) fn core_named(&mut self, text: &str) {
        let (repo, revision) = split_ref(text);
        self.core.clear();
        self.questions.retain(|question| question.get("about") != Some(&json!("core")));
        self.core.insert("repo".to_owned(), repo.into());
        if let Some(revision) = revision {
            self.core.insert(revision_key(revision).to_owned(), revision.into());
        }
    }

    /// A node of a git repository. Without a usable address or commit there is a question.
    pub(super) fn git_node(&mut self, url: &str, commit: Option<&str>, name: Option<&str>, enabled: bool) {
        let url = self.public(url.trim(), BY_GIT);
        let address = url.strip_prefix("git+").unwrap_or(&url);
        if let Err((found, expected)) = RepoUrl::parse(address) {
            let named = name.unwrap_or(&url);
            return self.ask(
                json!({ "about": "node", "name": named }),
                &format!("where is the node {named}? Its address is {found}, and {expected} is expected"),
            );
        }
        let mut entry = json!({ "repo": address });
        let commit = commit.map(str::trim).filter(|text| !text.is_empty());
        match commit.filter(|text| Revision::parse(text).is_ok()) {
            Some(commit) => entry[revision_key(commit)] = commit.into(),
            None => self.ask(
                json!({ "about": "node", "repo": address }),
                &format!("which commit of {address}? It is not said; until then it is the newest"),
            ),
        }
        self.node(entry, name, enabled);
    }

    /// A node of the Registry.
    pub(super) fn registry_node(
        &mut self,
        id: &str,
        version: Option<&str>,
        name: Option<&str>,
        enabled: bool,
    ) {
        if id == "comfy-core" {
            return;
        }
        let repo = format!("registry:{id}");
        if RepoUrl::parse(&repo).is_err() {
            return self.ask(
                json!({ "about": "node", "name": id }),
                &format!("which node is {id:?}? It is no id of the Registry"),
            );
        }
        let mut entry = json!({ "repo": repo });
        let fixed =
            |text: &&str| text.starts_with(|c: char| c.is_ascii_digit()) && Revision::parse(text).is_ok();
        match version.map(str::trim).filter(fixed) {
            Some(version) => entry["ref"] = version.into(),
            None => self.ask(
                json!({ "about": "node", "repo": repo }),
                &format!(
                    "which version of {id}? {}; until then it is the newest of the Registry",
                    version.map_or("It is not said".to_owned(), |text| format!(
                        "{text:?} is none that the Registry has"
                    ))
                ),
            ),
        }
        self.node(entry, name, enabled);
    }

    fn node(&mut self, mut entry: Value, name: Option<&str>, enabled: bool) {
        let repo = entry["repo"].as_str().unwrap_or_default().to_owned();
        let own = name
            .map(str::to_owned)
            .or_else(|| Some(RepoUrl::parse(&repo).ok()?.base_name()))
            .unwrap_or_default();
        let plain = own.strip_suffix(DISABLED).unwrap_or(&own).to_owned();
        let enabled = enabled && plain == own;
        if name.is_some() || !enabled {
            entry["name"] = plain.as_str().into();
        }
        if !enabled {
            entry["target_dir"] = format!("$COMFY_HOME/custom_nodes/{plain}{DISABLED}").into();
            entry["install_requirements"] = false.into();
        }
        // Names that differ in case alone are one directory on other systems, and one node to ComfyUI-Manager.
        let place = |entry: &Value| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str);
            let own = || RepoUrl::parse(text("repo")?).ok().map(|repo| repo.base_name());
            text("target_dir")
                .or(text("name"))
                .map(str::to_owned)
                .or_else(own)
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let at = text("commit").or(text("ref")).map(|at| format!(" at {at}")).unwrap_or_default();
        let is_known = |known: &&Value| place(known) == place(&entry) || known["repo"] == entry["repo"];
        if let Some(known) = self.nodes.iter().find(is_known) {
            if *known != entry {
                let reason = format!(
                    "{} comes before it at the same place",
                    known["repo"].as_str().unwrap_or_default()
                );
                self.report.leave_out(format!("{repo}{at}"), reason);
            }
            return;
        }
        let off = if enabled { "" } else { ", switched off" };
        self.taken(format!("node {plain}"), format!("{repo}{at}{off}"));
        self.nodes.push(entry);
    }

    /// A model at a place of the view.
    pub(super) fn model(&mut self, source: &str, target: &str, sha256: Option<&str>) {
        let source = self.public(source, BY_HAND);
        if let Some(known) = self.models.iter().find(|known| known["target_path"] == target) {
            if known["source"] != source.as_str() {
                let first = known["source"].as_str().unwrap_or_default();
                let reason = format!("{first} comes before it at {target}");
                self.report.leave_out(source, reason);
            }
            return;
        }
        let mut entry = json!({ "source": source, "target_path": target });
        if let Some(sha256) = sha256 {
            entry["checksum"] = format!("sha256:{}", sha256.to_ascii_lowercase()).into();
        }
        self.taken(format!("model {target}"), source);
        self.models.push(entry);
    }

    /// A requirement. What names something of the machine that reads it is left out.
    pub(super) fn package(&mut self, requirement: &str) {
        if let Some(reason) = unfit(requirement) {
            return self.report.leave_out(redact_words(requirement), reason);
        }
        let requirement = match without_secrets_in(requirement) {
            Cow::Owned(public) => {
                self.secret(&redact_words(&public), if public.contains("git+") { BY_GIT } else { BY_HAND });
                public
            }
            Cow::Borrowed(requirement) => requirement.to_owned(),
        };
        self.packages.push(requirement);
    }

    /// An address as a spec may have it. That a secret was in it is told, for without it the address may not open.
    fn public(&mut self, address: &str, otherwise: &'static str) -> String {
        // What is no address may have one in it, behind a blank.
        let public = match without_secrets(address) {
            Cow::Owned(public) => Cow::Owned(without_secrets_in(&public).into_owned()),
            Cow::Borrowed(address) => without_secrets_in(address),
        };
        if matches!(public, Cow::Owned(_)) {
            self.secret(&redact(&public), instead(&public, otherwise));
        }
        public.into_owned()
    }

    fn secret(&mut self, place: &str, instead: &str) {
        let reason = format!("the password or token in its address: specs have none; {instead}");
        if !self.report.left_out.iter().any(|left| left.path == Path::new(place) && left.reason == reason) {
            self.report.leave_out(place, reason);
        }
    }

    /// Takes the secrets out of every text of `value`, which is at `key`: what is kept whole has addresses anywhere.
    fn clean(&mut self, value: &mut Value, key: &str) {
        match value {
            Value::String(text) => {
                let Cow::Owned(public) = without_secrets_in(text) else { return };
                match public.split_once("://") {
                    Some((scheme, _)) if !scheme.contains(char::is_whitespace) => {
                        self.secret(&redact(&public), instead(&public, BY_HAND));
                    }
                    _ => self.secret(&format!("a text of {key:?}"), BY_HAND),
                }
                *text = public;
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean(item, key)),
            Value::Object(fields) => fields.iter_mut().for_each(|(key, item)| self.clean(item, key)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    pub(super) fn ask(&mut self, about: Value, question: &str) {
        let mut entry = about.as_object().cloned().unwrap_or_default();
        entry.insert("question".to_owned(), question.into());
        let entry = Value::Object(entry);
        if !self.questions.contains(&entry) {
            self.questions.push(entry);
        }
    }

    fn taken(&mut self, part: String, how: String) {
        self.report.taken.push(Taken { part, from: String::new(), how, changes: Vec::new(), bytes: None });
    }

    /// The spec, and what was made of what.
    pub(super) fn finish(mut self, id: &VersionId) -> (Map<String, Value>, ImportReport) {
        if let Some(mut workflow) = self.workflow.take() {
            self.clean(&mut workflow, "workflow");
            self.workflow = Some(workflow);
        }
        for mut question in std::mem::take(&mut self.questions) {
            self.clean(&mut question, "question");
            self.questions.push(question);
        }
        let text = |key: &str| self.core.get(key).and_then(Value::as_str);
        let at = text("commit").or(text("ref")).map(|at| format!(" at {at}")).unwrap_or_default();
        let how = format!("{}{at}", redact(text("repo").unwrap_or_default()));
        let core =
            Taken { part: "core".to_owned(), from: String::new(), how, changes: Vec::new(), bytes: None };
        self.report.taken.insert(0, core);
        let mut spec = Map::new();
        spec.insert("schema_version".to_owned(), 2.into());
        spec.insert("version_id".to_owned(), id.as_str().into());
        spec.insert("comfy".to_owned(), self.core.into());
        // Where the packages are all known by version, lists that are open to newer ones say nothing more.
        if !self.packages.is_empty() {
            for node in self.nodes.iter_mut().filter_map(Value::as_object_mut) {
                node.insert("install_requirements".to_owned(), false.into());
            }
        }
        spec.insert("custom_nodes".to_owned(), self.nodes.into());
        spec.insert("models".to_owned(), self.models.into());
        let mut python = Map::new();
        python.extend(self.python.map(|version| ("version".to_owned(), version.into())));
        let backend = self.packages.iter().find_map(|package| torch_backend(package));
        python.extend(backend.map(|backend| ("torch_backend".to_owned(), backend.into())));
        if !python.is_empty() {
            spec.insert("python".to_owned(), python.into());
        }
        if !self.packages.is_empty() {
            spec.insert("python_packages".to_owned(), self.packages.into());
        }
        spec.extend(self.workflow.map(|workflow| ("workflow".to_owned(), workflow)));
        self.report.questions = self
            .questions
            .iter()
            .filter_map(|question| Some(question["question"].as_str()?.to_owned()))
            .collect();
        if !self.questions.is_empty() {
            spec.insert("questions".to_owned(), self.questions.into());
        }
        (spec, self.report)
    }
}

/// What opens an address without what it had in it.
fn instead(address: &str, otherwise: &'static str) -> &'static str {
    match ModelSource::parse(address) {
        Ok(ModelSource::Hub(_)) => "set HF_TOKEN to yours",
        Ok(ModelSource::Civitai(_)) => "set CIVITAI_TOKEN to yours",
        _ => otherwise,
    }
}

/// The key that a revision goes to.
fn revision_key(revision: &str) -> &'static str {
    if matches!(Revision::parse(revision), Ok(Revision::Commit(_))) { "commit" } else { "ref" }
}

/// The build of PyTorch that a requirement such as `torch==2.5.1+cu124` names.
pub(super) fn torch_backend(package: &str) -> Option<String> {
    let (name, version) = package.split_once("==")?;
    let build = version.split_once('+').filter(|_| name.eq_ignore_ascii_case("torch"))?.1;
    let known = build == "cpu" || ["cu", "rocm", "xpu"].iter().any(|kind| build.starts_with(kind));
    known.then(|| build.to_owned())
}

/// A sha256 in digits.
pub(super) fn sha256(text: &str) -> Option<&str> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then_some(text)
}
