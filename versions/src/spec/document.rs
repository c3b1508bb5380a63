//! A spec as its person wrote it, and what it says. The text is the truth: an edit goes through the JSON tree, is
//! checked like a spec that is read, and changes only those places of the text that it is about.

use serde_json::{Map, Value, json};

use super::check;
use super::id::VersionId;
use super::lock::Lock;
use super::model::{PythonSpec, ReadOptions, Spec};
use super::packages;
use super::reader::Findings;
use super::repo::{self, Revision};
use super::text;
use super::warning::Warning;
use crate::error::{Origin, Problem, SpecError};

/// A checked spec with its text.
#[derive(Debug, Clone)]
pub struct SpecDocument {
    origin: Origin,
    options: ReadOptions,
    text: String,
    root: Map<String, Value>,
    spec: Spec,
    warnings: Vec<Warning>,
    /// The bytes of the file when it was read; none when there is no file yet.
    pub(super) base: Option<Vec<u8>>,
}

/// What a new version is made of. Nodes and models are entries as in a spec (`inputs` reads them from arguments).
#[derive(Debug, Clone)]
pub struct NewSpec {
    /// Its name.
    pub version_id: VersionId,
    /// The core, as `REPO[@REF]`.
    pub repo: String,
    /// Entries of `custom_nodes`.
    pub custom_nodes: Vec<Value>,
    /// Entries of `models`.
    pub models: Vec<Value>,
    /// Requirements.
    pub python_packages: Vec<String>,
    /// The interpreter, and where packages come from.
    pub python: PythonSpec,
    /// No Python environment.
    pub skip_python: bool,
    /// The environment of ComfyUI.
    pub env: Vec<(String, String)>,
    /// How to check it. Lenient drops flags of pip from the written spec.
    pub options: ReadOptions,
}

impl SpecDocument {
    /// Reads the text of a spec. `expected_id` is the stem of its file, which `version_id` must equal.
    pub fn parse(
        text: String,
        origin: Origin,
        expected_id: Option<&VersionId>,
        options: ReadOptions,
    ) -> Result<Self, SpecError> {
        let root = object(&text, &origin)?;
        let mut findings = Findings::default();
        match check::spec(&root, expected_id, options, &mut findings) {
            Some(spec) => {
                Ok(Self { origin, options, text, root, spec, warnings: findings.warnings, base: None })
            }
            None => Err(SpecError::Invalid { origin, problems: findings.problems }),
        }
    }

    /// A new document, in the order of keys that the documentation uses.
    pub fn build(new: NewSpec) -> Result<Self, SpecError> {
        let (repo, reference) = repo::split_ref_of_arg(&new.repo);
        let mut comfy = json!({ "repo": repo });
        if let Some(reference) = reference {
            comfy[revision_key(reference)] = reference.into();
        }
        let mut root = Map::new();
        root.insert("schema_version".to_owned(), 2.into());
        root.insert("version_id".to_owned(), new.version_id.as_str().into());
        root.insert("comfy".to_owned(), comfy);
        root.insert("custom_nodes".to_owned(), new.custom_nodes.into());
        root.insert("models".to_owned(), new.models.into());
        let mut packages = new.python_packages;
        if new.options.lenient {
            packages.retain(|item| packages::flag(item).is_none());
        }
        if !packages.is_empty() {
            root.insert("python_packages".to_owned(), packages.into());
        }
        if new.python != PythonSpec::default() {
            root.insert("python".to_owned(), json!(new.python));
        }
        let env: Map<String, Value> = new.env.into_iter().map(|(key, value)| (key, value.into())).collect();
        root.insert("env".to_owned(), env.into());
        let options = if new.skip_python { json!({ "skip_python": true }) } else { json!({}) };
        root.insert("options".to_owned(), options);
        let origin = Origin::Named(format!("the new version {}", new.version_id));
        Self::parse(text::render_new(&root), origin, Some(&new.version_id), new.options)
    }

    /// A new document of this JSON tree, in the order of its keys.
    pub fn from_root(
        root: Map<String, Value>,
        origin: Origin,
        id: &VersionId,
        options: ReadOptions,
    ) -> Result<Self, SpecError> {
        Self::parse(text::render_new(&root), origin, Some(id), options)
    }

    /// What it says.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What is odd in it.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its JSON tree, unknown keys included.
    pub fn root(&self) -> &Map<String, Value> {
        &self.root
    }

    /// Where it came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Edits the JSON tree. When the result is not a valid spec, the error says so and nothing has changed.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<(), SpecError> {
        let mut root = self.root.clone();
        edit(&mut root);
        self.take(root, &self.spec.version_id.clone())
    }

    /// Writes, replaces or removes the lock.
    pub fn set_lock(&mut self, lock: Option<&Lock>) -> Result<(), SpecError> {
        let value = match lock.map(serde_json::to_value).transpose() {
            Ok(value) => value,
            Err(error) => {
                let problem = Problem {
                    place: "lock".to_owned(),
                    found: error.to_string(),
                    expected: "what JSON can hold".to_owned(),
                };
                return Err(SpecError::Invalid { origin: self.origin.clone(), problems: vec![problem] });
            }
        };
        self.edit(|root| match value {
            Some(value) => {
                root.insert("lock".to_owned(), value);
            }
            None => {
                root.shift_remove("lock");
            }
        })
    }

    /// The same version under another name, with the same lock: nothing is resolved or copied.
    pub fn clone_as(&self, id: &VersionId) -> Result<Self, SpecError> {
        let mut root = self.root.clone();
        for key in ["version_id", "id"] {
            if let Some(value) = root.get_mut(key) {
                *value = id.as_str().into();
            }
        }
        let mut copy = self.clone();
        copy.origin = Origin::Named(format!("the new version {id}"));
        copy.base = None;
        copy.take(root, id)?;
        Ok(copy)
    }

    pub(super) fn read_from(mut self, bytes: Vec<u8>) -> Self {
        self.base = Some(bytes);
        self
    }

    fn take(&mut self, root: Map<String, Value>, id: &VersionId) -> Result<(), SpecError> {
        let mark = byte_order_mark(&self.text);
        let body = &self.text[mark..];
        let edited = match text::scan(body) {
            Ok(node) => text::patch(body, &node, &self.root, &root),
            Err(_) => text::render_new(&root),
        };
        let edited = format!("{}{edited}", &self.text[..mark]);
        let mut read = Self::parse(edited, self.origin.clone(), Some(id), self.options)?;
        read.base = self.base.take();
        *self = read;
        Ok(())
    }
}

/// The key that a revision on a command line goes to.
pub(super) fn revision_key(revision: &str) -> &'static str {
    if matches!(Revision::parse(revision), Ok(Revision::Commit(_))) { "commit" } else { "ref" }
}

fn byte_order_mark(text: &str) -> usize {
    if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 }
}

/// Parses JSON; a syntax error and a key written twice carry line and column.
pub(super) fn json(text: &str, origin: &Origin) -> Result<Value, SpecError> {
    let body = &text[byte_order_mark(text)..];
    let value: Value = serde_json::from_str(body).map_err(|error| {
        let message = error.to_string();
        let message =
            message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
        let (line, column) = (error.line().max(1) as u64, error.column().max(1) as u64);
        SpecError::Syntax { origin: origin.clone(), format: "JSON", line, column, message }
    })?;
    if let Err(twice) = text::scan(body) {
        let before = &body[..twice.offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        return Err(SpecError::Syntax {
            origin: origin.clone(),
            format: "JSON",
            line: before.matches('\n').count() as u64 + 1,
            column: (before.len() - line_start) as u64 + 1,
            message: format!("the key {:?} stands twice in one object", twice.key),
        });
    }
    Ok(value)
}

/// Decodes UTF-8; the error carries line and column.
pub(super) fn utf8(bytes: &[u8], origin: &Origin, format: &'static str) -> Result<String, SpecError> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text.to_owned()),
        Err(error) => error,
    };
    let before = &bytes[..error.valid_up_to()];
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    Err(SpecError::Syntax {
        origin: origin.clone(),
        format,
        line: before.iter().filter(|&&b| b == b'\n').count() as u64 + 1,
        column: (before.len() - line_start) as u64 + 1,
        message: "a byte that is not UTF-8".to_owned(),
    })
}

/// The object that `text` holds.
pub(super) fn object(text: &str, origin: &Origin) -> Result<Map<String, Value>, SpecError> {
    match json(text, origin)? {
        Value::Object(root) => Ok(root),
        other => {
            let problem = Problem {
                place: String::new(),
                found: super::reader::describe(&other),
                expected: "a spec: an object with `schema_version`, `version_id` and `comfy`".to_owned(),
            };
            Err(SpecError::Invalid { origin: origin.clone(), problems: vec![problem] })
        }
    }
}
