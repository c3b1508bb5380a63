//! Inputs that name files: which of them a name means, so that another file can be put in its place.

use serde_json::Value;

use super::error::WorkflowError;
use super::info::ObjectInfo;
use super::prompt::Prompt;

/// An input whose value is the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileInput {
    /// The node's id.
    pub node: String,
    /// Its class.
    pub class: String,
    /// The input.
    pub input: String,
    /// The name that is there now.
    pub value: String,
}

impl Prompt {
    /// The inputs that take files: those that the server says so of; and, besides, any of a class whose name begins
    /// with `Load` whose value ends like the name of a picture, a sound or a video.
    pub fn file_inputs(&self, info: Option<&ObjectInfo>) -> Vec<FileInput> {
        let mut found = Vec::new();
        for node in self.nodes() {
            let class = info.and_then(|info| info.class(node.class));
            for (input, value) in node.inputs {
                let declared = class.as_ref().and_then(|class| class.input(input));
                let takes_file = declared.is_some_and(|declared| declared.takes_file())
                    || (node.class.contains("Load") && value.as_str().is_some_and(is_media));
                if takes_file && let Some(value) = value.as_str() {
                    found.push(FileInput {
                        node: node.id.to_owned(),
                        class: node.class.to_owned(),
                        input: input.clone(),
                        value: value.to_owned(),
                    });
                }
            }
        }
        found
    }

    /// The inputs that `name` means: `NODE.INPUT`; else those whose value is the name; else those whose value is a
    /// path that ends in it.
    pub fn inputs_of_file(
        &self,
        name: &str,
        info: Option<&ObjectInfo>,
    ) -> Result<Vec<(String, String)>, WorkflowError> {
        let files = self.file_inputs(info);
        let by = |test: &dyn Fn(&str) -> bool| -> Vec<(String, String)> {
            let meant = files.iter().filter(|file| test(plain_name(&file.value)));
            meant.map(|file| (file.node.clone(), file.input.clone())).collect()
        };
        let named = by(&|value| value == name);
        if !named.is_empty() {
            return Ok(named);
        }
        let basename = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let like = by(&|value| basename(value) == basename(name));
        if !like.is_empty() {
            return Ok(like);
        }
        if let Ok(Some((id, input))) = self.target(name)
            && self.node(&id).is_some_and(|node| node.inputs.contains_key(&input))
        {
            return Ok(vec![(id, input)]);
        }
        let shown = |file: &FileInput| format!("{}.{} ({})", file.node, file.input, file.value);
        let inputs = files.iter().map(shown).collect();
        Err(WorkflowError::NoFileInput { name: name.to_owned(), inputs })
    }

    /// Puts the name of a file into an input.
    pub fn set_file(&mut self, node: &str, input: &str, name: &str) {
        if let Some(inputs) = self.inputs_mut(node) {
            inputs.insert(input.to_owned(), Value::from(name));
        }
    }
}

/// A name without the directory that a server may write after it, as `a.png [output]`.
fn plain_name(value: &str) -> &str {
    ["[input]", "[output]", "[temp]"]
        .iter()
        .find_map(|kind| value.strip_suffix(kind))
        .unwrap_or(value)
        .trim_end()
}

fn is_media(value: &str) -> bool {
    const ENDS: [&str; 15] = [
        "png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff", "mp4", "webm", "mov", "mkv", "wav", "mp3",
        "flac", "ogg",
    ];
    let end = plain_name(value).rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
    end.is_some_and(|end| ENDS.contains(&end.as_str()))
}
