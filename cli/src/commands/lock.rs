//! `cvs lock`.

use clap::Args;
use cvs_versions::spec::VersionId;
use cvs_versions::{Event, LockOptions, Update};

use super::shared::{EnsureArgs, IntakeArgs, RateArgs, locked_line, warn};
use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::mounts::MountedSandbox;

/// Bring a version's lock and content up to date with its spec.
///
/// Only what an edit of the spec touched is resolved anew; what the lock pins and the store lacks is fetched again.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The version.
    id: VersionId,

    /// Resolve anew although nothing was edited: everything, or only `core`, a node by its name or path, a model by its
    /// path, or `python`. Branches are followed to where they are now.
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    update: Vec<String>,

    #[command(flatten)]
    ensure: EnsureArgs,

    #[command(flatten)]
    intake: IntakeArgs,

    #[command(flatten)]
    rate: RateArgs,
}

pub(crate) fn run(context: &Context, args: &LockArgs) -> Result<Exit, CliError> {
    if args.ensure.locked && !args.update.is_empty() {
        return Err(CliError::Usage("--locked and --update contradict each other".to_owned()));
    }
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let options = LockOptions {
        sandbox: Some(&sandbox),
        offline: args.ensure.offline,
        locked: args.ensure.locked,
        thorough: true,
        update: args.update(),
        intake: args.intake.intake(),
        wheels: args.ensure.wheels.directory(),
        limits: args.rate.limits(),
        events: &events,
        cancel: context.cancel(),
    };
    let report = args.ensure.workspace(context)?.lock(&args.id, &options)?;
    drop(activity);
    let output = context.output();
    warn(output, &report.warnings);
    if output.is_json() {
        output.json(&report)?;
    } else if report.unchanged && report.refreshed.is_empty() {
        output.note(&format!("{}: the lock is up to date", args.id));
    } else {
        output.note(&format!("locked {}", locked_line(&report)));
    }
    Ok(Exit::Ok)
}

impl LockArgs {
    fn update(&self) -> Update<'_> {
        match &self.update[..] {
            [] => Update::Nothing,
            parts if parts.iter().any(String::is_empty) => Update::Everything,
            parts => Update::Parts(parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;
    use crate::commands::Command;

    #[test]
    fn update_takes_parts_or_nothing() {
        for (args, expected) in [
            (&["x"][..], Update::Nothing),
            (&["--update", "x"], Update::Everything),
            (&["x", "--update=core", "--update=a"], Update::Parts(&["core".to_owned(), "a".to_owned()])),
        ] {
            match Cli::try_parse_from([&["cvs", "lock"], args].concat()).unwrap().command {
                Command::Lock(args) => assert_eq!(args.update(), expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
