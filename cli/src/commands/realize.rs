//! `cvs realize`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use cvs_store::{ViewId, path_json};
use cvs_versions::Event;
use cvs_versions::realize::{Change, Realization, RealizeOptions, RealizeReport, RemoveReport};
use cvs_versions::spec::VersionId;
use serde_json::json;

use super::shared::EnsureArgs;
use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;

/// Paths that are named before the rest is only counted.
const NAMED: usize = 10;

/// Make a version a directory of plain files, where it cannot be mounted.
///
/// The same files as in a mount, with the same times. Where the filesystem can, they share their bytes with the store;
/// elsewhere they are copied, and models are links into the store. Run again, it goes on where it was interrupted, or
/// writes what differs from the version that is there. What was changed in the directory meanwhile stays; where the
/// version changed in the same place, it refuses. Prints the directory.
#[derive(Debug, Args)]
pub(crate) struct RealizeArgs {
    /// The version.
    id: VersionId,

    /// Where: an empty directory, one that does not exist yet, or an earlier realization [default: realized/ID in the
    /// home directory].
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,

    /// Show what would be done, and change nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Make every file as the version has it. What was changed moves to .cvs/aside in the target.
    #[arg(long)]
    force: bool,

    /// Copy models instead of linking to the store.
    #[arg(long)]
    copy_models: bool,

    /// Remove the realization. What programs wrote there stays.
    #[arg(long, conflicts_with_all = ["force", "copy_models"])]
    remove: bool,

    #[command(flatten)]
    ensure: EnsureArgs,
}

pub(crate) fn run(context: &Context, args: &RealizeArgs) -> Result<Exit, CliError> {
    let output = context.output();
    if args.remove {
        let workspace = context.workspace()?;
        let target = args.target.clone().unwrap_or_else(|| workspace.default_target(&args.id));
        let report = workspace.remove_realization(&target, false, args.dry_run)?;
        if output.is_json() {
            output.json(&report)?;
        } else {
            output.note(&removed_line(if args.dry_run { "would remove" } else { "removed" }, &report));
        }
        return Ok(Exit::Ok);
    }
    let ready = args.ensure.ensure(context, &args.id)?;
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let options = RealizeOptions {
        force: args.force,
        copy_models: Some(args.copy_models),
        dry_run: args.dry_run,
        events: &events,
        cancel: context.cancel(),
    };
    let report = args.ensure.workspace(context)?.realize(&ready, args.target.as_deref(), &options)?;
    drop(activity);
    if output.is_json() {
        let mut value = json!(report);
        value["dry_run"] = args.dry_run.into();
        output.json(&value)?;
    } else if args.dry_run {
        output.text(&plan(&report))?;
    } else {
        output.note(&summary(&report));
        if !report.set_aside.is_empty() {
            output.note(&format!(
                "{} in {}",
                format::counted(report.set_aside.len() as u64, "thing that was in the way"),
                report.target.join(".cvs/aside").display()
            ));
        }
        list(&report.kept, |line| output.note(&format!("stays as it is: {line}")));
        output.text(&format!("{}\n", report.target.display()))?;
    }
    Ok(Exit::Ok)
}

/// What was done, in a line.
fn summary(report: &RealizeReport) -> String {
    let RealizeReport { id, target, .. } = report;
    if report.unchanged {
        return format!("{id} is realized at {}, nothing was to be done", target.display());
    }
    let mut text = format!(
        "{id} is realized at {}: {}, {} {}",
        target.display(),
        format::counted(report.written_files, "file"),
        format::bytes(report.written_bytes),
        if report.cloned { "shared with the store" } else { "written" },
    );
    if report.linked_models > 0 {
        let _ = write!(text, ", {} linked", format::counted(report.linked_models, "model"));
    }
    if report.removed > 0 {
        let _ = write!(text, ", {} removed", report.removed);
    }
    text
}

fn plan(report: &RealizeReport) -> String {
    let mut text = format!("target    {}\nview      {}\n", report.target.display(), report.view);
    let how = if report.cloned { " (shared with the store)" } else { "" };
    let _ = writeln!(
        text,
        "write     {}, {}{how}",
        format::counted(report.written_files, "file"),
        format::bytes(report.written_bytes)
    );
    let _ = writeln!(text, "link      {}", format::counted(report.linked_models, "model"));
    let _ = writeln!(text, "remove    {}", format::counted(report.removed, "file"));
    for path in &report.set_aside {
        let _ = writeln!(text, "set aside {path}");
    }
    list(&report.kept, |line| text.push_str(&format!("keep      {line}\n")));
    list(&report.in_the_way, |line| text.push_str(&format!("in the way: {line}\n")));
    text
}

fn list(changes: &[Change], mut tell: impl FnMut(String)) {
    for change in changes.iter().take(NAMED) {
        tell(change.to_string());
    }
    if changes.len() > NAMED {
        tell(format!("{} more", format::count((changes.len() - NAMED) as u64)));
    }
}

/// What became of a realization: `deleted its realization at /r: 12 files; 3 others stay`.
pub(super) fn removed_line(verb: &str, report: &RemoveReport) -> String {
    let mut text = format!(
        "{verb} the realization at {}: {}",
        report.target.display(),
        format::counted(report.removed, "file")
    );
    match (report.others, report.all) {
        (0, _) => {}
        (others, true) => {
            let _ = write!(text, ", and {} that cvs did not write", format::counted(others, "file"));
        }
        (others, false) => {
            let _ = write!(text, "; {} that cvs did not write stay", format::counted(others, "file"));
        }
    }
    text
}

/// What is to be said of a realization beside its place, with a comma before it.
pub(super) fn state(realization: &Realization, view: Option<ViewId>) -> &'static str {
    match view {
        _ if !realization.writing.is_empty() => ", not completed",
        Some(view) if realization.holds(view) => "",
        _ => ", an earlier state",
    }
}

/// A realization for `--json`.
pub(super) fn value(realization: &Realization) -> serde_json::Value {
    json!({
        "target": path_json::value(&realization.target),
        "view": realization.complete.as_ref().map(|written| written.view),
        "complete": realization.writing.is_empty(),
    })
}
