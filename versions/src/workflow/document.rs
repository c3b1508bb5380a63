//! Reading: which of the formats a text has, and the workflow in it.

use std::io::{self, Read, Seek};

use serde_json::{Map, Value};

use super::embedded::{self, Texts};
use super::error::WorkflowError;
use super::gist;
use super::graph::Graph;
use super::prompt::{Prompt, describe};

/// A workflow as it was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// In the API format: a server takes it as it is.
    Prompt(Prompt),
    /// In the format of the editor: [`Graph::convert`] makes a prompt of it.
    Graph(Box<Graph>),
}

/// Under which keys a workflow is found inside another document, the first that is there.
const WRAPPERS: [&str; 4] = ["input", "prompt", "output", "workflow"];

/// No workflow has as many values.
pub(crate) const VALUES: usize = 1 << 19;

impl Document {
    /// Reads the content of a file: a text, or what ComfyUI has saved as a picture, video, sound, mesh or model, which
    /// holds what it was made by.
    pub fn read(bytes: &[u8]) -> Result<Self, WorkflowError> {
        match embedded::look(bytes) {
            Some(texts) => Self::of_texts(&texts),
            None => Self::parse(&String::from_utf8_lossy(bytes)),
        }
    }

    /// As [`Self::read`]. Of what ComfyUI has saved only the parts that hold texts are read, however large it is; a text may
    /// have `limit` bytes.
    pub fn read_file(file: &mut (impl Read + Seek), limit: u64) -> io::Result<Result<Self, WorkflowError>> {
        let Some((bytes, more)) = gist::read(file)? else {
            file.rewind()?;
            return Self::read_stream(file, limit);
        };
        let mut texts = embedded::look(&bytes).unwrap_or_default();
        texts.cut |= more;
        Ok(Self::of_texts(&texts))
    }

    /// As [`Self::read`], of what can be read only once and may have `limit` bytes.
    pub fn read_stream(stream: &mut impl Read, limit: u64) -> io::Result<Result<Self, WorkflowError>> {
        let mut bytes = Vec::new();
        stream.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            return Ok(Err(WorkflowError::TooLarge { limit, what: "bytes" }));
        }
        Ok(Self::read(&bytes))
    }

    fn of_texts(texts: &Texts) -> Result<Self, WorkflowError> {
        let text = |key: &str| texts.list.iter().find(|(name, _)| name == key).map(|(_, text)| text);
        // The prompt is exactly what ran; where it is not JSON (Python writes NaN), the document of the editor is.
        match (text("prompt").map(|text| Self::parse(text)), text("workflow")) {
            (Some(Ok(document)), _) => Ok(document),
            (_, Some(workflow)) => Self::parse(workflow),
            (Some(failed), None) => failed,
            (None, None) => Err(WorkflowError::Unrecognised { found: without_workflow(texts.cut) }),
        }
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, WorkflowError> {
        Self::from_value(json(text)?)
    }

    /// Reads a JSON tree: a workflow, or a document that holds one under `input`, `prompt`, `output` or `workflow`,
    /// as a tree or as a text.
    pub fn from_value(value: Value) -> Result<Self, WorkflowError> {
        let mut value = value;
        // Deeper than `input.workflow` with a text in it nobody nests.
        for _ in 0..4 {
            let mut map = match value {
                Value::Object(map) => map,
                Value::String(text) => {
                    value = json(&text)?;
                    continue;
                }
                other => return Err(WorkflowError::Unrecognised { found: describe(&other) }),
            };
            if map.get("nodes").is_some_and(Value::is_array) {
                return Ok(Self::Graph(Box::new(Graph::read(map)?)));
            }
            if map.values().any(|node| node.get("class_type").is_some()) {
                return Ok(Self::Prompt(Prompt::check(map)?));
            }
            match WRAPPERS.iter().find(|key| map.get(**key).is_some_and(|inner| !inner.is_null())) {
                Some(key) => value = map.remove(*key).unwrap_or_default(),
                None => return Err(WorkflowError::Unrecognised { found: keys(&map) }),
            }
        }
        Err(WorkflowError::Unrecognised { found: "documents nested in documents".to_owned() })
    }
}

/// What a file is that has no workflow among the texts that were read.
pub(crate) fn without_workflow(cut: bool) -> String {
    match cut {
        false => "a file that could hold a workflow, and holds none".to_owned(),
        true => format!(
            "a file whose texts have more than {} bytes, and no workflow in those that are read",
            embedded::TOTAL
        ),
    }
}

/// Reads a text of a stranger: in memory, values take many times what they take as text.
pub(crate) fn json(text: &str) -> Result<Value, WorkflowError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_dense(text) {
        return Err(WorkflowError::Unrecognised {
            found: format!("a document of more than {VALUES} values"),
        });
    }
    serde_json::from_str(text).map_err(|error| WorkflowError::Syntax {
        line: error.line(),
        column: error.column(),
        message: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
    })
}

/// Whether a text of JSON has more values than are read. Each but the first follows a comma or opens a list or object.
pub(crate) fn is_dense(text: &str) -> bool {
    let (mut values, mut in_text, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values > VALUES
}

fn keys(map: &Map<String, Value>) -> String {
    let names: Vec<_> = map.keys().take(5).map(|key| format!("`{key}`")).collect();
    match map.len() {
        0 => "an empty object".to_owned(),
        1..=5 => format!("an object with {}", names.join(", ")),
        count => format!("an object with {} and {} more", names.join(", "), count - 5),
    }
}
