//! `cvs model show`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use cvs_versions::model_file::{self, ModelInfo};
use cvs_versions::spec::VersionId;

use super::rm::{find, no_such};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;

/// Metadata that is shown to its end only with --json.
const SHOWN: usize = 200;

/// Show what a model file is: its format, tensors and metadata, and what loading it would run.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The version.
    #[arg(required_unless_present = "file", requires = "model")]
    id: Option<VersionId>,

    /// The model's path in the version, or the name of its file where only one has that.
    model: Option<String>,

    /// A file outside the store.
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    file: Option<PathBuf>,

    /// List every tensor.
    #[arg(long)]
    tensors: bool,
}

pub(crate) fn run(context: &Context, args: &ShowArgs) -> Result<Exit, CliError> {
    let (name, info) = match (&args.file, &args.id, &args.model) {
        (Some(file), ..) => {
            let name = file.display().to_string();
            let unreadable = |source| CliError::ModelFile { path: file.clone(), source };
            let mut opened = File::open(file).map_err(unreadable)?;
            let info = model_file::inspect(&mut opened, &name).map_err(unreadable)?;
            (name, info)
        }
        (None, Some(id), Some(model)) => {
            let workspace = context.workspace()?;
            let document = workspace.read(id)?;
            let path = find(&document, model).ok_or_else(|| no_such(&document, id, model))?;
            let info = workspace.inspect_model(id, &path)?;
            (path, info)
        }
        _ => return Err(CliError::Usage("name a version and a model of it, or a --file".to_owned())),
    };
    let output = context.output();
    if output.is_json() {
        output.json(&info)?;
    } else {
        output.text(&describe(&name, &info, args.tensors))?;
    }
    for finding in &info.findings {
        output.warning(&format!("{name}: {finding}"));
    }
    Ok(Exit::Ok)
}

fn describe(name: &str, info: &ModelInfo, tensors: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "model     {name}");
    let _ = writeln!(text, "format    {}", info.format);
    if !info.tensors.is_empty() {
        let bytes: u64 = info.tensors.iter().filter_map(|tensor| tensor.bytes).sum();
        let count = format::counted(info.tensors.len() as u64, "tensor");
        let _ = writeln!(text, "tensors   {count}, {}", format::bytes(bytes));
        let mut types: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in &info.tensors {
            *types.entry(&tensor.dtype).or_default() += 1;
        }
        let types: Vec<String> = types.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        let _ = writeln!(text, "types     {}", types.join(", "));
    }
    for (key, value) in &info.metadata {
        let shown: String = value.chars().take(SHOWN).collect();
        let more = if shown.len() < value.len() { "…" } else { "" };
        let _ = writeln!(text, "metadata  {key}: {}{more}", shown.replace('\n', " "));
    }
    for import in &info.imports {
        let _ = writeln!(text, "imports   {import}");
    }
    if tensors {
        for tensor in &info.tensors {
            let bytes = tensor.bytes.map(format::bytes).unwrap_or_default();
            let _ = writeln!(text, "tensor    {}  {} {:?}  {bytes}", tensor.name, tensor.dtype, tensor.shape);
        }
    }
    text
}
