//! `cvs stop`.

use clap::Args;
use cvs_versions::spec::VersionId;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::runs::{self, Found, Records, Role, RunsError, Stopped, name_of};

/// Stop what runs.
///
/// Asks ComfyUI to end, kills it when it does not, unmounts the version if it was mounted for the run, and returns when
/// everything of it is gone. It clears away, too, what a killed process left behind, and forgets one that crashed.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The version.
    #[arg(value_name = "VERSION", required_unless_present = "all", conflicts_with = "all")]
    id: Option<VersionId>,

    /// Everything that runs.
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(context: &Context, args: &StopArgs) -> Result<Exit, CliError> {
    let records = Records::of(context.store()?);
    let names = match &args.id {
        Some(id) => {
            let mut names = vec![name_of(id.as_str(), Role::Ui), name_of(id.as_str(), Role::Check)];
            let mut there = Vec::new();
            for name in names.drain(..) {
                if !matches!(records.find(&name)?, Found::Nothing) {
                    there.push(name);
                }
            }
            if there.is_empty() {
                return Err(RunsError::NotRunning { version: id.to_string() }.into());
            }
            there
        }
        None => records.names()?,
    };
    if names.is_empty() {
        context.output().note("nothing runs");
    }
    let mut failed = None;
    for name in names {
        match runs::stop(context, &name) {
            Ok(stopped) => {
                let what = match stopped {
                    Stopped::Asked => "has ended",
                    Stopped::Cleared => "is cleared away: its supervisor had died",
                    Stopped::Forgotten => "had ended by itself",
                };
                context.output().note(&format!("{name} {what}"));
            }
            // It ended by itself meanwhile.
            Err(CliError::Runs(RunsError::NotRunning { .. })) if args.all => {}
            Err(CliError::Interrupted) => return Err(CliError::Interrupted),
            Err(error) if args.all => {
                context.output().warning(&format!("{name}: {error}"));
                failed = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(Exit::Ok), Err)
}
