//! `cvs restart`.

use clap::Args;
use cvs_versions::spec::VersionId;

use super::run_ui::say;
use super::shared::EnsureArgs;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::runs::{self, Found, Keep, Records, Role, RunsError, name_of};

/// Stop a detached version and start it again.
///
/// With the arguments that it was started with. An edited spec is taken in: its lock is brought up to date before the
/// old run is stopped, so that one that cannot be locked goes on running as it is. One that crashed is started again.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    #[command(flatten)]
    ensure: EnsureArgs,
}

pub(crate) fn run(context: &Context, args: &RestartArgs) -> Result<Exit, CliError> {
    let name = name_of(args.id.as_str(), Role::Ui);
    let not_running = || RunsError::NotRunning { version: args.id.to_string() };
    let (is_live, record) = match Records::of(context.store()?).find(&name)? {
        Found::Live(Some(record)) => (true, record),
        Found::Left(Some(record)) => (false, record),
        Found::Nothing | Found::Live(None) | Found::Left(None) => return Err(not_running().into()),
    };
    if is_live && !record.detached {
        let pid = record.tied_to.unwrap_or(record.supervisor.pid);
        return Err(RunsError::Foreground { version: args.id.to_string(), pid }.into());
    }
    let mut options = record.options.clone();
    options.lenient |= args.ensure.lenient;
    let ready = args.ensure.ensure(context, &args.id)?;
    match runs::stop(context, &name) {
        // It ended meanwhile.
        Err(CliError::Runs(RunsError::NotRunning { .. })) => {}
        stopped => drop(stopped?),
    }
    let running = runs::start(context, &ready, &options, Keep::Warm)?;
    say(context, &running.record)?;
    Ok(Exit::Ok)
}
