//! `cvs logs`.

use std::thread;
use std::time::Duration;

use clap::Args;
use cvs_versions::spec::VersionId;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::runs::{self, Found, Phase, Records, Role, RunsError, log, name_of};

/// Between two looks at the log.
const FOLLOW: Duration = Duration::from_millis(100);

/// Show the log of a version's ComfyUI.
///
/// Shows the last run, whether it still runs or not; `ui-VERSION.log` below `run/log` in the home directory has those
/// before it.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    /// Go on showing what comes, until the run ends or Ctrl-C.
    #[arg(short, long)]
    follow: bool,

    /// Only so many lines at the end.
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,

    /// Show the log of the process that sees to the run.
    #[arg(long)]
    supervisor: bool,
}

pub(crate) fn run(context: &Context, args: &LogsArgs) -> Result<Exit, CliError> {
    let name = name_of(args.id.as_str(), Role::Ui);
    let records = Records::of(context.store()?);
    let path = match args.supervisor {
        true => runs::log_path(context, &name)?,
        false => log::path(context.store()?.home(), &name),
    };
    if !path.exists() {
        return Err(RunsError::NeverRan { version: args.id.to_string() }.into());
    }
    let mut from = match records.read(&name)? {
        Some(record) if !args.supervisor => record.log_start,
        _ => log::last_run(&path)?,
    };
    if let Some(lines) = args.lines {
        from = log::last_lines(&path, from, lines)?;
    }
    let mut follow = log::Follow::new(&path, from)?;
    loop {
        // Asked first, so that what it wrote last is read.
        let runs = args.follow && runs_now(&records, &name)?;
        loop {
            let bytes = follow.read()?;
            if bytes.is_empty() {
                break;
            }
            context.output().raw(&bytes)?;
        }
        if !runs || follow.is_old() {
            return Ok(Exit::Ok);
        }
        context.check_cancel()?;
        thread::sleep(FOLLOW);
    }
}

fn runs_now(records: &Records, name: &str) -> Result<bool, CliError> {
    Ok(match records.find(name)? {
        Found::Live(Some(record)) => !matches!(record.phase, Phase::Ended { .. }),
        Found::Live(None) => true,
        Found::Nothing | Found::Left(_) => false,
    })
}
