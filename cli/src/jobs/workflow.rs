//! The workflow to run: a file, an address, standard input, or what the spec says; and the prompt that is made of it.

use std::fs::File;
use std::path::Path;

use cvs_versions::Ready;
use cvs_versions::fetch::{fetch, web_address};
use cvs_versions::workflow::{Document, Note, ObjectInfo, Prompt, WorkflowError};
use serde_json::Value;

use super::JobsError;
use super::inputs::without_secrets;
use crate::context::Context;
use crate::error::CliError;

/// The largest text of a workflow that is read. Those of people have megabytes when they hold pictures.
const LIMIT: u64 = 256 << 20;

/// A workflow that was read.
pub(crate) struct Source {
    /// Where it is from, for messages and the record.
    pub(crate) name: String,
    document: Document,
}

/// A prompt that a server takes.
pub(crate) struct Prepared {
    pub(crate) prompt: Prompt,
    pub(crate) notes: Vec<Note>,
    /// The document of the editor that it was converted from.
    pub(crate) graph: Option<Value>,
}

impl Source {
    /// What `--workflow` names: a file, an address, or `-`.
    pub(crate) fn named(context: &Context, name: &str) -> Result<Self, CliError> {
        if name == "-" {
            let read = Document::read_stream(&mut std::io::stdin(), LIMIT).map_err(CliError::Stdin)?;
            return Self::read("standard input", read);
        }
        if let Some(url) = web_address(name) {
            let mut bytes = Vec::new();
            fetch(&url, &mut bytes, LIMIT, context.cancel()).map_err(JobsError::from)?;
            return Self::read(&without_secrets(name), Document::read(&bytes));
        }
        Self::file(Path::new(name))
    }

    /// The workflow of the spec: the document itself, or the path of a file beside the spec, else in the version.
    pub(crate) fn of_spec(context: &Context, ready: &Ready, root: Option<&Path>) -> Result<Self, CliError> {
        let version = ready.spec.version_id.to_string();
        match &ready.spec.workflow {
            None | Some(Value::Null) => Err(JobsError::NoWorkflow { version }.into()),
            Some(Value::String(path)) => {
                let beside = context.versions_dir().path().join(path);
                if beside.is_file() {
                    return Self::file(&beside);
                }
                match root.map(|root| root.join(path)) {
                    Some(inside) if inside.is_file() => Self::file(&inside),
                    inside => {
                        let inside = inside.unwrap_or_else(|| path.into());
                        Err(JobsError::WorkflowMissing { version, beside, inside }.into())
                    }
                }
            }
            Some(document) => {
                Self::read(&format!("the workflow of {version}"), Document::from_value(document.clone()))
            }
        }
    }

    /// The workflow itself.
    pub(crate) fn into_document(self) -> Document {
        self.document
    }

    fn file(path: &Path) -> Result<Self, CliError> {
        let failed = || JobsError::io("read", path);
        let mut file = File::open(path).map_err(failed())?;
        // What a shell hands over as a file may be a pipe.
        let read = match file.metadata().map_err(failed())?.is_file() {
            true => Document::read_file(&mut file, LIMIT),
            false => Document::read_stream(&mut file, LIMIT),
        };
        Self::read(&path.display().to_string(), read.map_err(failed())?)
    }

    fn read(name: &str, read: Result<Document, WorkflowError>) -> Result<Self, CliError> {
        let name = name.to_owned();
        match read {
            Ok(document) => Ok(Self { name, document }),
            Err(source) => Err(JobsError::Workflow { name, source: source.into() }.into()),
        }
    }
}

/// The prompt of a workflow, by what the server says of its classes.
pub(crate) fn prepare(
    source: Source,
    info: &ObjectInfo,
    random: &mut dyn FnMut() -> u64,
) -> Result<Prepared, CliError> {
    match source.document {
        Document::Prompt(prompt) => Ok(Prepared { prompt, notes: Vec::new(), graph: None }),
        Document::Graph(graph) => {
            let mut choose =
                |count: usize| usize::try_from(random() % count.max(1) as u64).unwrap_or_default();
            let converted = graph.convert(info, &mut choose);
            let converted =
                converted.map_err(|error| JobsError::Workflow { name: source.name, source: error.into() })?;
            let graph = Some(Value::Object(graph.as_object().clone()));
            Ok(Prepared { prompt: converted.prompt, notes: converted.notes, graph })
        }
    }
}
