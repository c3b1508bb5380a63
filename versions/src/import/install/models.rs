//! The models of an install: below `models/`, and where `extra_model_paths.yaml` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cvs_store::RelPath;
use serde_json::Value;

use crate::import::error::ImportError;
use crate::import::report::ImportReport;
use crate::spec::ModelSource;

/// No such file has more bytes.
const LARGEST: u64 = 1 << 20;
/// What downloaders leave of a file that is not whole.
const PARTIAL: [&str; 7] = [".part", ".partial", ".incomplete", ".aria2", ".crdownload", ".tmp", ".download"];

/// A model file, and where it goes in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFile {
    pub(super) source: PathBuf,
    pub(super) target: RelPath,
    pub(super) size: u64,
}

/// A directory of models, and the directory of the view that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelRoot {
    pub(super) dir: PathBuf,
    pub(super) target: RelPath,
}

/// What `extra_model_paths.yaml` adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ExtraPaths {
    /// Looked into before `models/`.
    pub(super) first: Vec<ModelRoot>,
    /// Looked into after it.
    pub(super) then: Vec<ModelRoot>,
    /// Directories of nodes.
    pub(super) nodes: Vec<PathBuf>,
}

/// Reads the file as ComfyUI does: `~` and variables in `base_path`, several directories on lines of their own, relative
/// ones from the file's directory.
pub(super) fn extra_paths(file: &Path, report: &mut ImportReport) -> Result<ExtraPaths, ImportError> {
    let failed = |error| ImportError::io("read", file, error);
    let mut bytes = Vec::new();
    fs::File::open(file).and_then(|open| open.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
    extra_paths_of(&bytes, file, &Path::is_dir, report)
        .map_err(|reason| ImportError::Configuration { path: file.to_owned(), reason })
}

/// What `bytes` say as the content of `file`; the error says what is wrong.
pub(super) fn extra_paths_of(
    bytes: &[u8],
    file: &Path,
    is_dir: &dyn Fn(&Path) -> bool,
    report: &mut ImportReport,
) -> Result<ExtraPaths, String> {
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it has more than {LARGEST} bytes, and no more are read"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not valid UTF-8: {error}"))?;
    let value: Value = serde_saphyr::from_str(text).map_err(|error: serde_saphyr::Error| {
        let message = error.without_snippet().to_string();
        format!("not valid YAML: {}", message.lines().next().unwrap_or_default())
    })?;
    let mut extra = ExtraPaths::default();
    let sections = match value {
        Value::Null => return Ok(extra),
        Value::Object(sections) => sections,
        _ => return Err("a mapping of sections is expected".to_owned()),
    };
    let beside = file.parent().unwrap_or(Path::new("/"));
    for (name, section) in sections {
        let section = match section {
            Value::Null => continue,
            Value::Object(section) => section,
            _ => return Err(format!("{name}: a mapping of folders is expected")),
        };
        let base = match section.get("base_path") {
            None | Some(Value::Null) => beside.to_owned(),
            Some(Value::String(text)) => beside.join(expanded(text)),
            Some(_) => return Err(format!("{name}.base_path: a path is expected")),
        };
        let first = section.get("is_default").is_some_and(|value| *value == Value::Bool(true));
        for (folder, value) in &section {
            if matches!(folder.as_str(), "base_path" | "is_default") {
                continue;
            }
            let Value::String(lines) = value else {
                if !value.is_null() {
                    return Err(format!(
                        "{name}.{folder}: a path, or several on lines of their own, is expected"
                    ));
                }
                continue;
            };
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let dir = base.join(line);
                if !is_dir(&dir) {
                    report.leave_out(
                        dir,
                        format!("{name}.{folder} of {} names it, and it is not there", file.display()),
                    );
                } else if folder == "custom_nodes" {
                    extra.nodes.push(dir);
                } else {
                    let target = RelPath::new("models").and_then(|models| models.join(folder));
                    let target = target.map_err(|_| format!("{name}.{folder}: no name of a folder"))?;
                    let list = if first { &mut extra.first } else { &mut extra.then };
                    list.push(ModelRoot { dir, target });
                }
            }
        }
    }
    Ok(extra)
}

/// `~` and `$NAME` or `${NAME}` at any place, as Python's expanduser and expandvars do.
fn expanded(text: &str) -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let text = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
        _ => text.to_owned(),
    };
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, length) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c| !plain(c)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match std::env::var(name) {
            Ok(value) if !name.is_empty() => out.push_str(&value),
            _ => out.push_str(&rest[at..at + 1 + length]),
        }
        rest = &after[length..];
    }
    out + rest
}

/// Every model of these directories, the first of each target: a file that an earlier directory has is what ComfyUI
/// finds. `tracked` are files of the core, which come with it. Symlinks are followed, as ComfyUI does.
pub(super) fn collect(
    roots: &[ModelRoot],
    tracked: &BTreeSet<RelPath>,
    report: &mut ImportReport,
) -> Result<Vec<ModelFile>, ImportError> {
    let mut found: BTreeMap<RelPath, ModelFile> = BTreeMap::new();
    for root in roots {
        let mut above = Vec::new();
        walk(&root.dir, &root.target, &mut above, report, &mut |source, target, size, report| {
            if tracked.contains(target) {
                return;
            }
            match found.get(target) {
                None => {
                    let file = ModelFile { source: source.to_owned(), target: target.clone(), size };
                    found.insert(target.clone(), file);
                }
                Some(first) if first.source == source => {}
                Some(first) => report
                    .leave_out(source, format!("{} comes before it at {target}", first.source.display())),
            }
        })?;
    }
    Ok(found.into_values().collect())
}

/// Calls `take` for each file below `dir`, in the order of names. `above` are the directories on the way, by which a
/// symlink that leads back is known.
pub(super) fn walk(
    dir: &Path,
    target: &RelPath,
    above: &mut Vec<(u64, u64)>,
    report: &mut ImportReport,
    take: &mut dyn FnMut(&Path, &RelPath, u64, &mut ImportReport),
) -> Result<(), ImportError> {
    let metadata = fs::metadata(dir).map_err(|error| ImportError::io("look at", dir, error))?;
    let here = (metadata.dev(), metadata.ino());
    if above.contains(&here) {
        report.leave_out(dir, "a link that leads back to a directory above it");
        return Ok(());
    }
    let failed = |error| ImportError::io("list", dir, error);
    let mut entries = fs::read_dir(dir).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    above.push(here);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else {
            report.leave_out(path, "its name is not UTF-8");
            continue;
        };
        if matches!(name, ".git" | "__pycache__" | ".cache" | ".DS_Store") {
            continue;
        }
        let target = match target.join(name) {
            Ok(target) => target,
            Err(error) => {
                report.leave_out(path, error.reason);
                continue;
            }
        };
        let Ok(metadata) = fs::metadata(&path) else {
            report.leave_out(path, "a link that leads nowhere");
            continue;
        };
        if metadata.is_dir() {
            walk(&path, &target, above, report, take)?;
        } else if !metadata.is_file() {
            report.leave_out(path, "neither a file nor a directory");
        } else if PARTIAL.iter().any(|end| name.ends_with(end)) {
            report.leave_out(path, "a download that is not whole");
        } else if path.to_str().is_none_or(|text| ModelSource::parse(text).is_err()) {
            report.leave_out(path, "its path cannot stand in a spec");
        } else {
            take(&path, &target, metadata.len(), report);
        }
    }
    above.pop();
    Ok(())
}
