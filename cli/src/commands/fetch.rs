//! `cvs fetch`.

use clap::Args;
use cvs_store::Intake;
use cvs_versions::spec::VersionId;
use cvs_versions::{Event, LockOptions};
use serde_json::json;

use super::shared::{RateArgs, locked_line, warn};
use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::mounts::MountedSandbox;

/// Bring what versions need, or single models, into the store.
///
/// A version is locked, as by `cvs lock`. A model that no version asks for stays until `cvs gc`.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// A version, or the source of a model: `hf://…`, `civitai://…`, `s3://…`, `https://…`, or the path of a file.
    #[arg(required = true, value_name = "ID|URL")]
    what: Vec<String>,

    /// Use no network: take what the store and local caches have.
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    rate: RateArgs,
}

pub(crate) fn run(context: &Context, args: &FetchArgs) -> Result<Exit, CliError> {
    let (workspace, output) = (context.workspace()?, context.output());
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let mut brought = Vec::new();
    for what in &args.what {
        let activity = Activity::new(context);
        let events = |event: Event<'_>| activity.hear(event);
        let options = LockOptions {
            sandbox: Some(&sandbox),
            offline: args.offline,
            thorough: true,
            intake: Intake::Copy,
            limits: args.rate.limits(),
            events: &events,
            cancel: context.cancel(),
            ..LockOptions::default()
        };
        if what.contains("://") || what.starts_with('/') {
            let model = workspace.fetch_model(what, &options)?;
            drop(activity);
            let size = format::bytes(model.size);
            if !output.is_json() {
                output.data(&format!("{}  {}\n", cvs_versions::hex(&model.sha256), model.path))?;
            }
            output.note(&format!("{} is in the store, {size}", model.path));
            brought.push(json!({
                "source": model.source, "revision": model.revision, "size": model.size,
                "sha256": cvs_versions::hex(&model.sha256), "blake3": model.blake3.to_string(),
            }));
        } else {
            let id: VersionId = what.parse()?;
            let report = workspace.lock(&id, &options)?;
            drop(activity);
            warn(output, &report.warnings);
            output.note(&format!("fetched {}", locked_line(&report)));
            brought.push(serde_json::to_value(&report).unwrap_or_default());
        }
    }
    if output.is_json() {
        output.json(&brought)?;
    }
    Ok(Exit::Ok)
}
