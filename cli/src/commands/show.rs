//! `cvs show`.

use std::fmt::Write;

use clap::Args;
use cvs_store::path_json;
use cvs_versions::spec::{LockedPython, Spec, VersionId};
use cvs_versions::{MountRef, VersionSummary};
use serde_json::json;

use super::list::{source, state};
use super::realize;
use super::shared::warn;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;

/// Show what a version is made of.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The version.
    id: VersionId,
}

pub(crate) fn run(context: &Context, args: &ShowArgs) -> Result<Exit, CliError> {
    let workspace = context.workspace()?;
    let document = workspace.read(&args.id)?;
    let summary = workspace.summary(document.spec())?;
    let mounts = workspace.mounts_of(&args.id)?;
    let realizations = workspace.realizations_of(&args.id)?;
    let file = workspace.versions().file_of(&args.id);
    let overlay = Some(workspace.overlay_dir(&args.id)).filter(|path| path.exists());
    let output = context.output();
    if output.is_json() {
        output.json(&json!({
            "summary": summary,
            "file": path_json::value(&file),
            "spec": document.root(),
            "overlay": overlay.as_deref().map(path_json::value),
            "mounts": mounts,
            "realizations": realizations.iter().map(realize::value).collect::<Vec<_>>(),
            "warnings": document.warnings(),
        }))?;
        return Ok(Exit::Ok);
    }
    let mut text = head(&summary, &mounts);
    let _ = writeln!(text, "spec      {}", file.display());
    if let Some(overlay) = overlay {
        let _ = writeln!(text, "overlay   {}", overlay.display());
    }
    for realization in &realizations {
        let state = realize::state(realization, summary.view);
        let _ = writeln!(text, "realized  {}{state}", realization.target.display());
    }
    text.push_str(&content(&summary, document.spec()));
    output.text(&text)?;
    warn(output, document.warnings());
    Ok(Exit::Ok)
}

fn head(summary: &VersionSummary, mounts: &[MountRef]) -> String {
    let mut text = format!("version   {}\nstate     {}\n", summary.id, state(summary));
    for mount in mounts {
        let _ = writeln!(text, "mounted   {mount}");
    }
    if let Some(core) = &summary.core {
        let _ = writeln!(text, "core      {}", source(core));
    }
    if let Some(view) = &summary.view {
        let _ = writeln!(text, "view      {view}");
    }
    text
}

fn content(summary: &VersionSummary, spec: &Spec) -> String {
    let mut text = String::new();
    match spec.lock.as_ref().and_then(|lock| lock.python.as_ref()) {
        Some(LockedPython { interpreter: Some(interpreter), pylock: Some(pylock), .. }) => {
            let packages = cvs_versions::python::packages(pylock).map_or(0, |packages| packages.len());
            let packages = format::counted(packages as u64, "package");
            let path = interpreter.path.display();
            let _ = writeln!(text, "python    {} with {packages}, by {path}", interpreter.version);
        }
        _ => {
            if let Some(python) = &spec.python.version {
                let _ = writeln!(text, "python    {python}");
            }
        }
    }
    for package in &spec.python_packages {
        let _ = writeln!(text, "package   {package}");
    }
    for (name, value) in &spec.env {
        let _ = writeln!(text, "env       {name}={value}");
    }
    if !spec.args.is_empty() {
        let _ = writeln!(text, "args      {}", spec.args.join(" "));
    }
    for node in &summary.nodes {
        let _ = writeln!(text, "\nnode      {}\n          {}", node.path, source(&node.source));
    }
    for model in spec.wanted_models() {
        let _ = writeln!(text, "\nmodel     {}\n          {}", model.path, model.source_text);
        let locked = spec.lock.as_ref().and_then(|lock| lock.reusable_model(model));
        if let Some(locked) = locked {
            let _ = writeln!(text, "          {}, blake3 {}", format::bytes(locked.size), locked.blake3);
        }
    }
    if spec.skip_models && !spec.models.is_empty() {
        let _ = writeln!(
            text,
            "\n{} left out (options.skip_models)",
            format::counted(spec.models.len() as u64, "model")
        );
    }
    text
}
