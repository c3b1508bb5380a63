//! A file that describes a setup, read and made a version.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use serde_json::{Map, Value};

use super::draft::Draft;
use super::error::ImportError;
use super::formats::{self, Format};
use super::report::ImportReport;
use super::{PackageIndexes, workflow};
use crate::error::{Origin, VersionsError};
use crate::source::{SourceError, SourceOptions, registry, without_secrets_in};
use crate::spec::{LockedModel, ReadOptions, SpecDocument, VersionId};
use crate::workflow::{Document, document, embedded, gist};
use crate::workspace::{CreateOptions, CreateReport, Workspace};

/// A description has no more bytes than this.
const LARGEST: u64 = 32 << 20;

/// How a file is imported.
#[derive(Clone, Copy)]
pub struct FileOptions<'a> {
    /// What it is; without one, its content tells.
    pub format: Option<Format>,
    /// Which of several snapshots in one file, from 1.
    pub number: Option<usize>,
    /// The core, as `REPO[@REF]`, in place of what the file says.
    pub repo: Option<&'a str>,
    /// Where packages are installed from.
    pub indexes: PackageIndexes<'a>,
    /// The version has no Python environment.
    pub skip_python: bool,
    /// Makes no version.
    pub dry_run: bool,
    /// How the version is made of it.
    pub create: CreateOptions<'a>,
}

/// A file that became a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileImport {
    /// What it was.
    pub format: Format,
    /// What was made of what.
    pub report: ImportReport,
    /// The version; none when it was only looked at.
    pub created: Option<CreateReport>,
}

impl Workspace {
    /// Makes the version `id` of a file: a snapshot, a lock, a spec, a workflow, or what ComfyUI has
    /// saved with one in it.
    ///
    /// # Errors
    /// [`ImportError`] for what cannot be read, else those of [`Workspace::create`]. Nothing is published then.
    pub fn import_file(
        &self,
        id: &VersionId,
        path: &Path,
        options: &FileOptions<'_>,
    ) -> Result<FileImport, VersionsError> {
        let content = read(path)?;
        let bad = |reason: String| ImportError::Description { path: path.to_owned(), reason };
        let format = options.format.map_or_else(|| content.format(), Ok).map_err(bad)?;
        let origin = Origin::Named(format!("the import of {}", path.display()));
        let (mut spec, report) = match (format, content) {
            (Format::Workflow, content) => {
                self.workflow(content, options).map_err(bad)?.finish_with(id, options)
            }
            (_, Content::Workflows(_)) => {
                return Err(bad("files that ComfyUI saves hold nothing but a workflow".to_owned()).into());
            }
            (Format::Spec, Content::Text(value)) => {
                (renamed(value, id).map_err(bad)?, ImportReport::default())
            }
            (_, Content::Text(value)) => {
                let mut draft = formats::read(format, &value, options.number).map_err(bad)?;
                look_up(&mut draft, options);
                draft.finish_with(id, options)
            }
        };
        options.indexes.put(&mut spec);
        if options.skip_python {
            spec.insert("options".to_owned(), serde_json::json!({ "skip_python": true }));
        }
        let document = SpecDocument::from_root(spec, origin, id, ReadOptions::default())?;
        let created = match options.dry_run {
            true => None,
            false => Some(self.create_document(document, &options.create)?),
        };
        Ok(FileImport { format, report, created })
    }

    fn workflow(&self, content: Content, options: &FileOptions<'_>) -> Result<Draft, String> {
        let parsed = content.workflows()?;
        let roots = self.versions().roots().map_err(|error| error.to_string())?;
        let known: Vec<LockedModel> =
            roots.into_iter().filter_map(|root| root.lock).flat_map(|lock| lock.models).collect();
        let source = SourceOptions {
            events: &|_| {},
            cancel: options.create.cancel,
            limits: options.create.limits,
            offline: options.create.offline,
        };
        let repository = |id: &str| registry::repository(id, &source).ok().flatten();
        let mut draft = workflow::read(&parsed, &known, &repository);
        look_up(&mut draft, options);
        Ok(draft)
    }
}

/// Nodes that the Registry does not have become questions. What cannot be asked now, the lock will ask.
fn look_up(draft: &mut Draft, options: &FileOptions<'_>) {
    let source = SourceOptions {
        events: &|_| {},
        cancel: options.create.cancel,
        limits: options.create.limits,
        offline: options.create.offline,
    };
    let mut unknown = Vec::new();
    draft.nodes.retain(|node| {
        let repo = node["repo"].as_str().unwrap_or_default();
        let Some(id) = repo.strip_prefix("registry:") else { return true };
        let version = node.get("ref").and_then(Value::as_str);
        match registry::resolve(id, version, &source) {
            Err(error @ SourceError::UnknownNode { .. }) => {
                unknown.push((id.to_owned(), error.to_string()));
                false
            }
            _ => true,
        }
    });
    for (id, reason) in unknown {
        draft
            .report
            .taken
            .retain(|taken| taken.part != format!("node {id}") || !taken.how.starts_with("registry:"));
        draft.ask(
            serde_json::json!({ "about": "node", "name": id }),
            &format!("where is the node {id}? {reason}"),
        );
    }
}

impl Draft {
    fn finish_with(
        mut self,
        id: &VersionId,
        options: &FileOptions<'_>,
    ) -> (Map<String, Value>, ImportReport) {
        if let Some(repo) = options.repo {
            self.core_named(repo);
        }
        self.finish(id)
    }
}

/// A spec under another name. Its lock goes with it: what it pins stays pinned.
fn renamed(value: Value, id: &VersionId) -> Result<Map<String, Value>, String> {
    let Value::Object(mut map) = value else { return Err("an object is expected".to_owned()) };
    map.shift_remove("id");
    match map.get_mut("version_id") {
        Some(name) => *name = id.as_str().into(),
        None => drop(map.insert("version_id".to_owned(), id.as_str().into())),
    }
    Ok(map)
}

enum Content {
    /// JSON or YAML.
    Text(Value),
    /// What a file that ComfyUI has saved holds, the editor's document first.
    Workflows(Vec<Value>),
}

impl Content {
    /// Which format it has.
    fn format(&self) -> Result<Format, String> {
        match self {
            Content::Workflows(_) => Ok(Format::Workflow),
            Content::Text(value) => formats::detect(value)
                .ok_or_else(|| "it is no snapshot, lock, spec or workflow that is known".to_owned()),
        }
    }

    /// The workflows in it, each in its own format.
    fn workflows(self) -> Result<Vec<Value>, String> {
        let documents = match self {
            Content::Text(value) => vec![value],
            Content::Workflows(documents) => documents,
        };
        let parsed = documents.into_iter().map(|document| match Document::from_value(document) {
            Ok(Document::Prompt(prompt)) => Ok(Value::Object(prompt.into_object())),
            Ok(Document::Graph(graph)) => Ok(Value::Object(graph.into_object())),
            Err(error) => Err(error.to_string()),
        });
        parsed.collect()
    }
}

/// What `file` is, and what it says as the spec `id`, with nobody asked: neither the Registry nor the versions that are
/// here. Fuzzing enters here.
#[doc(hidden)]
pub fn describe(file: &mut (impl Read + Seek), id: &VersionId) -> Result<(Format, SpecDocument), String> {
    let content = content(file).map_err(|error| error.to_string())??;
    let format = content.format()?;
    let spec = match (format, content) {
        (Format::Workflow, content) => workflow::read(&content.workflows()?, &[], &|_| None).finish(id).0,
        (Format::Spec, Content::Text(value)) => renamed(value, id)?,
        (format, Content::Text(value)) => formats::read(format, &value, None)?.finish(id).0,
        (_, Content::Workflows(_)) => {
            return Err("files that ComfyUI saves hold nothing but a workflow".to_owned());
        }
    };
    let origin = Origin::Named("what a file says".to_owned());
    let document = SpecDocument::from_root(spec, origin, id, ReadOptions::default());
    Ok((format, document.map_err(|error| error.to_string())?))
}

/// Whether no text of `value` has an address with a password or token.
#[doc(hidden)]
pub fn is_public(value: &Value) -> bool {
    match value {
        Value::String(text) => matches!(without_secrets_in(text), Cow::Borrowed(_)),
        Value::Array(items) => items.iter().all(is_public),
        Value::Object(fields) => fields.values().all(is_public),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// What the file at `path` holds.
fn read(path: &Path) -> Result<Content, ImportError> {
    let failed = |error| ImportError::io("read", path, error);
    let bad = |reason: String| ImportError::Description { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(bad("neither a file nor a directory".to_owned()));
    }
    content(&mut file).map_err(failed)?.map_err(bad)
}

/// What `file` holds, or what is wrong with it.
fn content(file: &mut (impl Read + Seek)) -> io::Result<Result<Content, String>> {
    let Some((bytes, more)) = gist::read(file)? else {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Ok(Err(format!(
                "it has more than {LARGEST} bytes, and descriptions with so many are not read"
            )));
        }
        return Ok(text(&bytes).map(Content::Text));
    };
    let mut texts = embedded::look(&bytes).unwrap_or_default();
    drop(bytes);
    let (mut documents, mut failure) = (Vec::new(), None);
    for key in ["workflow", "prompt"] {
        let Some(index) = texts.list.iter().position(|(name, _)| name == key) else { continue };
        match document::json(&texts.list.remove(index).1) {
            Ok(value) => documents.push(value),
            Err(error) => failure = Some(error.to_string()),
        }
    }
    Ok(match (documents.is_empty(), failure) {
        (true, Some(reason)) => Err(reason),
        (true, None) => Err(document::without_workflow(more || texts.cut)),
        (false, _) => Ok(Content::Workflows(documents)),
    })
}

/// JSON, or else YAML.
fn text(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        format!(
            "neither text nor a file of a kind that ComfyUI writes workflows into (byte {} is no UTF-8)",
            error.valid_up_to()
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if document::is_dense(text) {
        return Err(format!(
            "it has more than {} values, and descriptions with so many are not read",
            document::VALUES
        ));
    }
    let json = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if text.trim_start().starts_with(['{', '[']) {
        return Err(format!("not valid JSON: {json}"));
    }
    serde_saphyr::from_str(text).map_err(|error: serde_saphyr::Error| {
        let message = error.without_snippet().to_string();
        format!("not valid YAML: {}", message.lines().next().unwrap_or_default())
    })
}
