//! `cvs model add`.

use clap::Args;
use cvs_versions::spec::{List, VersionId, inputs};
use cvs_versions::{Event, LockOptions};

use crate::activity::Activity;
use crate::commands::shared::{EnsureArgs, IntakeArgs, RateArgs, tell};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::mounts::MountedSandbox;

/// Add models to a version, and bring them.
///
/// The spec is changed once all of them are in the store; when something fails, it stays as it is.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The version.
    id: VersionId,

    /// A model, and where it goes in the version, such as `models/vae/x.safetensors`.
    #[arg(required = true, value_name = "SRC[=PATH]")]
    models: Vec<String>,

    /// What the bytes must hash to: `sha256:…`, `md5:…` or `blake3:…`. Only with one model.
    #[arg(long, value_name = "CHECKSUM")]
    checksum: Option<String>,

    /// Another source of the same bytes, tried when those before it fail. Only with one model.
    #[arg(long, value_name = "SRC")]
    mirror: Vec<String>,

    #[command(flatten)]
    ensure: EnsureArgs,

    #[command(flatten)]
    intake: IntakeArgs,

    #[command(flatten)]
    rate: RateArgs,
}

pub(crate) fn run(context: &Context, args: &AddArgs) -> Result<Exit, CliError> {
    let one = args.checksum.is_some() || !args.mirror.is_empty();
    if one && args.models.len() > 1 {
        return Err(CliError::Usage("--checksum and --mirror are for one model at a time".to_owned()));
    }
    let cwd = std::env::current_dir().map_err(CliError::WorkingDirectory)?;
    let mut entries = Vec::new();
    for text in &args.models {
        let mut entry = inputs::model_from_arg(text, &cwd)?;
        if let Some(checksum) = &args.checksum {
            entry["checksum"] = checksum.as_str().into();
        }
        if !args.mirror.is_empty() {
            entry["sources"] = args.mirror.clone().into();
        }
        entries.push(entry);
    }
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let options = LockOptions {
        sandbox: Some(&sandbox),
        offline: args.ensure.offline,
        locked: args.ensure.locked,
        wheels: args.ensure.wheels.directory(),
        intake: args.intake.intake(),
        limits: args.rate.limits(),
        events: &events,
        cancel: context.cancel(),
        ..LockOptions::default()
    };
    let workspace = args.ensure.workspace(context)?;
    let report =
        workspace.edit(&args.id, &|document| document.append(List::Models, entries.clone()), &options)?;
    drop(activity);
    tell(context.output(), "added to", &report)
}
