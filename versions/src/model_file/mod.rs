//! What a model file is, told from its bytes: the tensors of a safetensors or GGUF file with every bound checked, the
//! imports of a pickle. Nothing is ever loaded or run; what comes from outside is read within limits, and a file that
//! breaks its format's rules is described, not an error.

mod gguf;
mod imports;
mod pickle;
mod safetensors;

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use serde::Serialize;

/// Read to tell what a file is: the head of a tar archive.
const MAGIC: usize = 512;
/// Of these, what is shown of a file that is nothing that is known.
const SHOWN: usize = 16;

/// A model file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// Its format.
    pub format: ModelFormat,
    /// Its tensors, in the order of the file.
    pub tensors: Vec<Tensor>,
    /// What its header says besides.
    pub metadata: BTreeMap<String, String>,
    /// What a pickle imports, as `module.name`, sorted.
    pub imports: Vec<String>,
    /// What is wrong or dangerous.
    pub findings: Vec<Finding>,
}

/// The formats that are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelFormat {
    /// <https://github.com/huggingface/safetensors>.
    Safetensors,
    /// <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
    Gguf,
    /// A pickle of Python, as torch wrote it at first.
    Pickle,
    /// A zip file with a pickle, as torch writes it now.
    TorchZip,
    /// Something else.
    #[default]
    Unknown,
}

impl std::fmt::Display for ModelFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Pickle => "pickle",
            Self::TorchZip => "pickle in a zip file",
            Self::Unknown => "unknown",
        })
    }
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its numbers, as the format names it.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Its bytes in the file; none where the type is not known.
    pub bytes: Option<u64>,
}

/// What a person should know before the file is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum Finding {
    /// The file is not what its name or its beginning says.
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// Loading it runs code.
    RunsCode {
        /// What it imports.
        import: String,
    },
    /// It imports what is not known to be harmless.
    UnknownImport {
        /// What it imports.
        import: String,
    },
    /// Nobody can say what is in it, or in a part of it.
    NotLookedInto {
        /// Why not.
        reason: String,
    },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed { reason } => f.write_str(reason),
            Self::RunsCode { import } => write!(f, "loading it runs code: it imports {import}"),
            Self::UnknownImport { import } => {
                write!(f, "it imports {import}, which is not known to be harmless")
            }
            Self::NotLookedInto { reason } => write!(f, "it could not be looked into: {reason}"),
        }
    }
}

/// Why a reader of a format gave up.
#[derive(Debug)]
enum Broken {
    /// The file breaks a rule.
    Rule(String),
    /// It has more than is read of any file.
    Limit(String),
    /// It could not be read.
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Rule("it ends too early".to_owned()),
            // What the system did not say, a decoder did.
            _ if error.raw_os_error().is_none() => Self::Rule(format!("it cannot be unpacked: {error}")),
            _ => Self::Io(error),
        }
    }
}

fn broken<T>(reason: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Rule(reason.into()))
}

fn limit<T>(reason: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Limit(reason.into()))
}

/// Tells what `file` is; `name` says what it is meant to be.
pub fn inspect(file: &mut (impl Read + Seek), name: &str) -> io::Result<ModelInfo> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut start = Vec::with_capacity(MAGIC);
    file.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    let extension = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).unwrap_or_default();
    let meant = match extension.as_str() {
        "safetensors" | "sft" => ModelFormat::Safetensors,
        "gguf" => ModelFormat::Gguf,
        "pt" | "pth" | "ckpt" | "bin" | "pkl" => ModelFormat::Pickle,
        _ => ModelFormat::Unknown,
    };
    let format = match start.as_slice() {
        [b'G', b'G', b'U', b'F', ..] => ModelFormat::Gguf,
        [b'P', b'K', 3, 4, ..] => ModelFormat::TorchZip,
        [0x80, 0..=5, ..] => ModelFormat::Pickle,
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => ModelFormat::Safetensors,
        // torch takes its oldest files out of a tar archive, which may begin like a pickle.
        _ if is_tar(&start) => ModelFormat::Unknown,
        // A pickle of the first protocols begins like any text: how it goes on tells.
        _ if meant == ModelFormat::Pickle => ModelFormat::Pickle,
        _ => ModelFormat::Unknown,
    };
    let mut info = ModelInfo { format, ..ModelInfo::default() };
    let read = match format {
        ModelFormat::Safetensors => safetensors::read(file, size, &mut info),
        ModelFormat::Gguf => gguf::read(file, size, &mut info),
        ModelFormat::Pickle => pickle::read(file, &start, &pickle::LIMITS, &mut info),
        ModelFormat::TorchZip => pickle::read_zip(file, &pickle::LIMITS, &mut info),
        ModelFormat::Unknown if meant == ModelFormat::Safetensors || meant == ModelFormat::Gguf => {
            broken(format!("it is no {meant} file: {}", beginning(&start)))
        }
        ModelFormat::Unknown if meant == ModelFormat::Pickle => limit("it is a tar archive"),
        ModelFormat::Unknown => Ok(()),
    };
    match read {
        Ok(()) => {}
        Err(Broken::Rule(reason))
            if format == ModelFormat::Pickle
                && info.imports.is_empty()
                && !matches!(start[..], [0x80, 0..=5, ..]) =>
        {
            info.format = ModelFormat::Unknown;
            let reason = format!("it is no pickle ({reason}) and no zip file; {}", beginning(&start));
            info.findings.push(Finding::NotLookedInto { reason });
        }
        Err(Broken::Rule(reason)) => info.findings.push(Finding::Malformed { reason }),
        Err(Broken::Limit(reason)) => info.findings.push(Finding::NotLookedInto { reason }),
        Err(Broken::Io(error)) => return Err(error),
    }
    let harmless = matches!(meant, ModelFormat::Safetensors | ModelFormat::Gguf);
    if harmless && matches!(format, ModelFormat::Pickle | ModelFormat::TorchZip) {
        let reason = format!("it is named like a {meant} file, and is a {format}");
        info.findings.push(Finding::Malformed { reason });
    }
    Ok(info)
}

/// Whether these bytes are the head of a tar archive: the sum of all of them stands in its own field, which counts as
/// spaces. Not every tar has a name of the format.
fn is_tar(start: &[u8]) -> bool {
    let Some((head, field)) = start.get(..512).zip(start.get(148..156)) else { return false };
    let told = std::str::from_utf8(field).ok().map(|text| text.trim_matches([' ', '\0']));
    let told = told.and_then(|text| u32::from_str_radix(text, 8).ok());
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    told == Some(sum(head) - sum(field) + 8 * u32::from(b' '))
}

fn beginning(start: &[u8]) -> String {
    match start {
        [] => "it is empty".to_owned(),
        start => format!("it begins with {:?}", String::from_utf8_lossy(&start[..start.len().min(SHOWN)])),
    }
}

#[cfg(test)]
mod tests;
