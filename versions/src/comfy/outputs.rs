//! The outputs that a history lists, and their files in a directory of ours.
//!
//! A node's outputs are lists under names of its own choice (`images`, `gifs`, `audio`, `3d`, …); every object in any of
//! them that has a `filename` is a file, and every text is a value. The names are as hostile as the node that wrote
//! them: a file is always put directly into the directory, and never over another.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{Client, ClientError, Fetched, safe_name};
use super::job::JobError;

/// A file as ComfyUI names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name.
    pub filename: String,
    /// Its directory below that of its type.
    #[serde(default)]
    pub subfolder: String,
    /// `output`, `temp` or `input`.
    #[serde(rename = "type", default = "output")]
    pub folder: String,
}

fn output() -> String {
    "output".to_owned()
}

/// A file that a node has put out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputFile {
    /// The node's id in the prompt.
    pub node: String,
    /// The node's class, where the prompt tells it.
    pub class_type: String,
    /// The list that it stands in: `images`, `audio`, ….
    pub kind: String,
    /// The file.
    #[serde(flatten)]
    pub file: FileRef,
}

/// A text that a node has put out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputText {
    /// The node's id in the prompt.
    pub node: String,
    /// The node's class, where the prompt tells it.
    pub class_type: String,
    /// The list that it stands in, usually `text`.
    pub kind: String,
    /// The text.
    pub text: String,
}

/// All that a prompt has put out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Files that are kept.
    pub files: Vec<OutputFile>,
    /// Files in `temp`, which ComfyUI removes when it ends: previews.
    pub temporary: Vec<OutputFile>,
    /// Texts.
    pub texts: Vec<OutputText>,
}

impl Outputs {
    /// Reads `outputs` of a history; `prompt` tells the nodes' classes.
    pub fn read(outputs: &Value, prompt: &Value) -> Outputs {
        let mut read = Outputs::default();
        for (node, lists) in outputs.as_object().into_iter().flatten() {
            let class_type = prompt[node]["class_type"].as_str().unwrap_or_default();
            let mut seen = HashSet::new();
            for (kind, items) in lists.as_object().into_iter().flatten() {
                for item in items.as_array().into_iter().flatten() {
                    let (node, class_type, kind) = (node.clone(), class_type.to_owned(), kind.clone());
                    if let Some(text) = item.as_str() {
                        read.texts.push(OutputText { node, class_type, kind, text: text.to_owned() });
                    } else if let Ok(file) = FileRef::deserialize(item) {
                        // Some nodes list one file under two names.
                        if seen.insert(file.clone()) {
                            let list =
                                if file.folder == "temp" { &mut read.temporary } else { &mut read.files };
                            list.push(OutputFile { node, class_type, kind, file });
                        }
                    }
                }
            }
        }
        read
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.temporary.is_empty() && self.texts.is_empty()
    }
}

/// A file that is in a directory of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// What it is.
    pub output: OutputFile,
    /// Where it is.
    pub path: PathBuf,
    /// Its size and hash.
    pub fetched: Fetched,
}

/// Downloads the files into a directory that exists. `each` is told every file that has arrived. A file that is listed
/// and not there is an error.
pub fn collect(
    client: &Client,
    files: &[OutputFile],
    dir: &Path,
    each: &dyn Fn(&Collected),
    cancel: &AtomicBool,
) -> Result<Vec<Collected>, JobError> {
    let mut collected = Vec::with_capacity(files.len());
    for output in files {
        let name = safe_name(&output.file.filename);
        let mut number = 1;
        let (path, fetched) = loop {
            let path = dir.join(numbered(&name, number));
            match client.download(&output.file, &path, cancel) {
                Ok(fetched) => break (path, fetched),
                Err(ClientError::Io { operation: "create", source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists =>
                {
                    number += 1;
                }
                Err(error) => return Err(missing_or(error, output)),
            }
        };
        let file = Collected { output: output.clone(), path, fetched };
        each(&file);
        collected.push(file);
    }
    Ok(collected)
}

/// The error of a download; that a listed file is not there is one of the job.
pub(crate) fn missing_or(error: ClientError, output: &OutputFile) -> JobError {
    match error {
        ClientError::Status { status: 404, .. } => JobError::MissingFile { output: Box::new(output.clone()) },
        ClientError::Cancelled => JobError::Cancelled,
        error => JobError::Client(error),
    }
}

/// `NAME`, `NAME-2`, … before the extension.
fn numbered(name: &str, number: u32) -> String {
    match (number, name.rsplit_once('.')) {
        (1, _) => name.to_owned(),
        (_, Some((stem, extension))) => format!("{stem}-{number}.{extension}"),
        (_, None) => format!("{name}-{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_and_texts_of_every_kind_are_read() {
        let prompt = json!({ "9": { "class_type": "SaveImage" }, "10": { "class_type": "Video" } });
        let outputs = json!({
            "9": { "images": [{ "filename": "a.png", "subfolder": "s", "type": "output" }], "animated": [false] },
            "10": {
                "gifs": [{ "filename": "v.mp4", "subfolder": "", "type": "output", "format": "video/mp4", "frame_rate": 8 }],
                "images": [
                    { "filename": "v.mp4", "subfolder": "", "type": "output" },
                    { "filename": "p.png", "subfolder": "", "type": "temp" },
                ],
            },
            "11:2": { "text": ["one", "two"], "3d": [{ "filename": "m.glb" }], "odd": { "filename": "x" }, "n": [1, null] },
        });
        let read = Outputs::read(&outputs, &prompt);
        let told = |files: &[OutputFile]| -> Vec<String> {
            files
                .iter()
                .map(|f| {
                    let FileRef { filename, subfolder, folder } = &f.file;
                    format!("{} {} {} {folder}:{subfolder}:{filename}", f.node, f.class_type, f.kind)
                })
                .collect()
        };
        assert_eq!(
            told(&read.files),
            ["9 SaveImage images output:s:a.png", "10 Video gifs output::v.mp4", "11:2  3d output::m.glb"]
        );
        assert_eq!(told(&read.temporary), ["10 Video images temp::p.png"]);
        assert_eq!(
            read.texts.iter().map(|t| (&*t.kind, &*t.text)).collect::<Vec<_>>(),
            [("text", "one"), ("text", "two")]
        );
        assert!(Outputs::read(&json!({ "1": { "text": [] } }), &prompt).is_empty());
        assert!(Outputs::read(&json!(null), &prompt).is_empty());
    }

    #[test]
    fn numbers_stand_before_the_extension() {
        assert_eq!(
            [numbered("a.b.png", 1), numbered("a.b.png", 2), numbered("a", 3)],
            ["a.b.png", "a.b-2.png", "a-3"]
        );
    }
}
