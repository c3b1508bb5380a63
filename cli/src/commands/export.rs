//! `cvs export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cvs_versions::export::{self, Export};
use cvs_versions::spec::VersionId;

use crate::context::Context;
use crate::error::{CliError, Exit};

/// Write a version as a file that other programs read.
///
/// What the format has no place for is said on stderr.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The version.
    id: VersionId,

    /// What to write.
    #[arg(long, value_name = "FORMAT")]
    format: Format,

    /// The file to write; without one, standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Where the version is mounted or realized, for extra-model-paths.
    #[arg(long, value_name = "DIR", required_if_eq("format", "extra-model-paths"))]
    at: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A snapshot of ComfyUI-Manager (JSON).
    ManagerSnapshot,
    /// comfy-lock.yaml of comfy-cli.
    ComfyLock,
    /// The spec with its lock (JSON).
    Spec,
    /// A section of extra_model_paths.yaml.
    ExtraModelPaths,
}

pub(crate) fn run(context: &Context, args: &ExportArgs) -> Result<Exit, CliError> {
    let document = context.workspace()?.read(&args.id)?;
    let format = match args.format {
        Format::ManagerSnapshot => export::ExportFormat::ManagerSnapshot,
        Format::ComfyLock => export::ExportFormat::ComfyLock,
        Format::Spec => export::ExportFormat::Spec,
        Format::ExtraModelPaths => export::ExportFormat::ExtraModelPaths,
    };
    let at = args.at.as_deref().map(std::path::absolute).transpose().map_err(CliError::WorkingDirectory)?;
    let made = export::export(&document, format, at.as_deref());
    let Export { text, omitted } =
        made.map_err(|source| CliError::Export { id: args.id.to_string(), source })?;
    let output = context.output();
    match &args.output {
        Some(path) => std::fs::write(path, &text)
            .map_err(|source| CliError::WriteExport { path: path.clone(), source })?,
        None => output.text(&text)?,
    }
    for what in omitted {
        output.warning(&format!("not in this format: {what}"));
    }
    Ok(Exit::Ok)
}
