//! `cvs clone`.

use clap::Args;
use cvs_store::path_json;
use cvs_versions::spec::VersionId;
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, Exit};

/// Make a version like another, at once and sharing everything.
///
/// What was written in mounts of the other is not taken along.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// The version to copy.
    source: VersionId,

    /// The name of the new one.
    new: VersionId,

    /// Replace a version of that name. What was written in its mounts stays, and shows in the new one.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(context: &Context, args: &CloneArgs) -> Result<Exit, CliError> {
    if args.source == args.new {
        return Err(CliError::Usage(format!("{} cannot become its own clone", args.source)));
    }
    let workspace = context.workspace()?;
    let file = match args.force {
        true => workspace.clone_over(&args.source, &args.new)?,
        false => workspace.clone_version(&args.source, &args.new)?,
    };
    let overlay = Some(workspace.overlay_dir(&args.new)).filter(|path| path.exists());
    let output = context.output();
    if output.is_json() {
        output.json(&json!({
            "id": args.new,
            "file": path_json::value(&file),
            "kept_overlay": overlay.as_deref().map(path_json::value),
        }))?;
        return Ok(Exit::Ok);
    }
    output.note(&format!("{} is a clone of {}: {}", args.new, args.source, file.display()));
    if let Some(overlay) = overlay {
        let overlay = overlay.display();
        output
            .warning(&format!("what an earlier version of this name wrote shows in the new one: {overlay}"));
    }
    Ok(Exit::Ok)
}
