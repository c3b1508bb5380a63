//! `cvs validate`.

use std::path::{Path, PathBuf};

use clap::Args;
use cvs_versions::realize::{ChangeKind, CheckOptions, TargetReport};
use cvs_versions::spec::{VersionId, Warning};
use cvs_versions::{Event, PartReport, PartState, ValidateOptions, ValidateReport};

use super::shared::{EnsureArgs, is_of_locking, warn};
use super::validate_run;
use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::shell;
use crate::table::{Align, Table};

/// Check whether all of a version is there.
///
/// Brings the version's lock up to date first, except with --locked or --offline. Ends with code 3 when a part is
/// missing or damaged, and with 1 when the lock does not fit the spec or the version was never fetched.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// The version.
    id: VersionId,

    /// Read and hash every file, instead of looking at its presence and size.
    #[arg(long)]
    deep: bool,

    /// Compare a realization with what was written there: what was changed, added and removed since, outside of
    /// input, output, user and temp. Models that were written to through their links are damage.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,

    /// Start it, on an overlay of its own that is thrown away, and report which nodes load, in what time, and why others
    /// do not. Works beside a run of the version. Ends with code 1 when one fails.
    #[arg(long, conflicts_with_all = ["deep", "target"])]
    run: bool,

    #[command(flatten)]
    ensure: EnsureArgs,
}

pub(crate) fn run(context: &Context, args: &ValidateArgs) -> Result<Exit, CliError> {
    if let Some(target) = &args.target {
        return check_target(context, args, target);
    }
    if args.run {
        return validate_run::run(context, &args.id, &args.ensure);
    }
    let fetch = !args.ensure.locked && !args.ensure.offline;
    let mut unchanged = false;
    if fetch {
        unchanged = args.ensure.ensure(context, &args.id)?.report.unchanged;
    }
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let options = ValidateOptions {
        deep: args.deep,
        events: &events,
        cancel: context.cancel(),
        ..ValidateOptions::default()
    };
    let workspace = args.ensure.workspace(context)?;
    let report = workspace.validate(&args.id, &options)?;
    drop(activity);
    let output = context.output();
    // What is odd in the spec was said when its lock was brought up to date.
    let told = |warning: &&Warning| {
        let of_content = matches!(warning, Warning::InstallNotRun { .. } | Warning::ModelFile { .. });
        !fetch || of_content || (unchanged && is_of_locking(warning))
    };
    warn(output, report.warnings.iter().filter(told));
    if output.is_json() {
        output.json(&report)?;
    } else {
        output.table(&table(&report.parts), "there is nothing to check")?;
    }
    let lock = workspace.read(&args.id)?.spec().lock.clone();
    let exit = exit(&report, lock.is_some_and(|lock| lock.view.is_some()));
    match exit {
        Exit::Damage => {
            let lost =
                "`cvs fsck --repair` sets damaged objects aside and brings them back from their sources";
            let absent = format!("`cvs lock {}` brings what is missing", args.id);
            output.hint(if report.is_damaged() { lost } else { &absent });
        }
        Exit::Failed
            if report.parts.iter().all(|part| matches!(part.state, PartState::Present | PartState::Open)) =>
        {
            output.hint("answer what is open in the spec, and take it out of `questions` there");
        }
        Exit::Failed => {
            output.hint(&format!("`cvs lock {}` brings the lock and the store up to date", args.id));
        }
        Exit::Ok | Exit::Usage | Exit::Busy | Exit::Interrupted => {}
    }
    Ok(exit)
}

/// Of a realization: 3 when a model is damaged, 1 when something of it was changed or removed.
fn check_target(context: &Context, args: &ValidateArgs, target: &Path) -> Result<Exit, CliError> {
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let options = CheckOptions { deep: args.deep, events: &events, cancel: context.cancel() };
    let report = args.ensure.workspace(context)?.check_realization(target, &options)?;
    drop(activity);
    let output = context.output();
    if report.version != args.id.as_str() {
        return Err(CliError::Usage(format!(
            "{} is a realization of {}, not of {}",
            report.target.display(),
            report.version,
            args.id
        )));
    }
    if output.is_json() {
        output.json(&report)?;
    } else {
        output.text(&target_text(&report))?;
    }
    if !report.complete {
        output.hint(&format!(
            "a realize was interrupted: `cvs realize {} --target {}` goes on",
            args.id,
            shell::word(&report.target)
        ));
    }
    if !report.damaged.is_empty() {
        output.hint("`cvs fsck --repair` sets damaged objects aside and brings them back from their sources");
        return Ok(Exit::Damage);
    }
    let differs = report.changes.iter().any(|change| change.kind != ChangeKind::Added);
    Ok(if differs || !report.complete { Exit::Failed } else { Exit::Ok })
}

fn target_text(report: &TargetReport) -> String {
    let mut text = String::new();
    for model in &report.damaged {
        let state = if model.present { "damaged" } else { "missing" };
        text.push_str(&format!("{state:8} {} (blob {})\n", model.path, model.blob));
    }
    for change in &report.changes {
        text.push_str(&format!("{:8} {}\n", change.kind.to_string(), change.path));
    }
    let files = format::counted(report.files, "file");
    match report.changes.len() + report.damaged.len() {
        0 => text.push_str(&format!("{files} as they were written\n")),
        n => text.push_str(&format!("{files} compared, {}\n", format::counted(n as u64, "difference"))),
    }
    text
}

/// `fetched` is whether all of the version was ever here.
fn exit(report: &ValidateReport, fetched: bool) -> Exit {
    let has = |state| report.parts.iter().any(|part| part.state == state);
    // What an outdated lock does not have is not damage, nor is what nobody fetched yet.
    match () {
        () if has(PartState::Damaged) => Exit::Damage,
        () if has(PartState::Stale) => Exit::Failed,
        () if has(PartState::Missing) && fetched => Exit::Damage,
        () if has(PartState::Missing) || has(PartState::Open) => Exit::Failed,
        () => Exit::Ok,
    }
}

fn table(parts: &[PartReport]) -> Table {
    let mut table = Table::new([
        ("PART", Align::Left),
        ("STATE", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("", Align::Left),
    ]);
    for part in parts {
        table.row([
            part.part.to_string(),
            part.state.to_string(),
            format::count(part.files),
            format::bytes(part.bytes),
            part.detail.clone().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use cvs_versions::ReportPart;

    use super::*;
    use crate::output::Paint;

    fn part(part: ReportPart, state: PartState, detail: Option<&str>) -> PartReport {
        PartReport { part, state, detail: detail.map(str::to_owned), files: 12, bytes: 2048 }
    }

    #[test]
    fn parts_stand_below_each_other() {
        let parts = [
            part(ReportPart::Core, PartState::Present, None),
            part(ReportPart::Node("plain".to_owned()), PartState::Missing, Some("a.py is not in the store")),
        ];
        assert_eq!(
            table(&parts).render(Paint::plain()),
            "PART        STATE    FILES      SIZE\n\
             core        present     12  2.00 KiB\n\
             node plain  missing     12  2.00 KiB  a.py is not in the store\n"
        );
    }

    #[test]
    fn damage_weighs_most() {
        for (states, fetched, expected) in [
            (&[PartState::Present][..], true, Exit::Ok),
            (&[PartState::Present, PartState::Missing], true, Exit::Damage),
            (&[PartState::Present, PartState::Missing], false, Exit::Failed),
            (&[PartState::Stale, PartState::Missing], true, Exit::Failed),
            (&[PartState::Stale, PartState::Damaged], true, Exit::Damage),
        ] {
            let parts = states.iter().map(|state| part(ReportPart::Core, *state, None)).collect();
            let id = VersionId::new("x").unwrap();
            let report = ValidateReport { id, parts, warnings: Vec::new() };
            assert_eq!(exit(&report, fetched), expected, "{states:?}");
        }
    }
}
