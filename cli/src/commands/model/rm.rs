//! `cvs model rm`.

use clap::Args;
use cvs_versions::spec::{List, SpecDocument, VersionId};
use cvs_versions::{Event, LockOptions, VersionsError};

use crate::activity::Activity;
use crate::commands::shared::{EnsureArgs, tell};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::mounts::MountedSandbox;

/// Remove models from a version. Their bytes go with the next `cvs gc`, unless another version has them.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The version.
    id: VersionId,

    /// The model's path in the version, or the name of its file where only one has that.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,

    #[command(flatten)]
    ensure: EnsureArgs,
}

pub(crate) fn run(context: &Context, args: &RmArgs) -> Result<Exit, CliError> {
    let workspace = args.ensure.workspace(context)?;
    let document = workspace.read(&args.id)?;
    let mut paths = Vec::new();
    for wanted in &args.models {
        paths.push(find(&document, wanted).ok_or_else(|| no_such(&document, &args.id, wanted))?);
    }
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let options = LockOptions {
        sandbox: Some(&sandbox),
        offline: args.ensure.offline,
        locked: args.ensure.locked,
        wheels: args.ensure.wheels.directory(),
        events: &events,
        cancel: context.cancel(),
        ..LockOptions::default()
    };
    let edit = |document: &mut SpecDocument| {
        // Two entries may be one model, of which the reading keeps the first.
        while !places(document, &paths).is_empty() {
            document.remove_at(List::Models, &places(document, &paths))?;
        }
        Ok(())
    };
    let report = workspace.edit(&args.id, &edit, &options)?;
    drop(activity);
    tell(context.output(), "removed from", &report)
}

/// The path of the model that is meant.
pub(super) fn find(document: &SpecDocument, wanted: &str) -> Option<String> {
    let paths: Vec<String> = document.spec().models.iter().map(|model| model.path.to_string()).collect();
    if paths.iter().any(|path| path == wanted) {
        return Some(wanted.to_owned());
    }
    let mut named = paths.into_iter().filter(|path| path.rsplit('/').next() == Some(wanted));
    named.next().filter(|_| named.next().is_none())
}

pub(super) fn no_such(document: &SpecDocument, id: &VersionId, wanted: &str) -> VersionsError {
    VersionsError::NoSuchPart {
        id: id.clone(),
        found: wanted.to_owned(),
        parts: document.spec().models.iter().map(|model| model.path.to_string()).collect(),
    }
}

fn places(document: &SpecDocument, paths: &[String]) -> Vec<usize> {
    let gone = document.spec().models.iter().filter(|model| paths.contains(&model.path.to_string()));
    gone.filter_map(|model| model.place.strip_prefix("models[")?.strip_suffix(']')?.parse().ok()).collect()
}
