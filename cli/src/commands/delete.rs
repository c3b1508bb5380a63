//! `cvs delete`.

use clap::Args;
use cvs_versions::spec::VersionId;
use cvs_versions::{DeleteOptions, DeleteReport, OverlayReport};

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;

/// Delete versions.
///
/// Their specs go. What they share with others stays, and what only they used goes with the next `cvs gc`. On a
/// terminal it asks first. Of a realization, what cvs wrote goes and what programs wrote stays.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The versions.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<VersionId>,

    /// Delete what was written in their mounts and realizations, too.
    #[arg(long)]
    overlay: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,

    /// Show what would be deleted, and change nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// What this option of the earlier tool asked for is always done.
    #[arg(long, hide = true)]
    remove_spec: bool,
}

pub(crate) fn run(context: &Context, args: &DeleteArgs) -> Result<Exit, CliError> {
    let workspace = context.workspace()?;
    let output = context.output();
    // All of them first, so that a misspelt name deletes nothing.
    let mut plans = Vec::new();
    for id in &args.ids {
        let plan = workspace.delete(id, &DeleteOptions { overlay: args.overlay, dry_run: true })?;
        plans.push((id, plan));
    }
    if args.dry_run {
        return show(context, &plans, "would delete").map(|()| Exit::Ok);
    }
    let mut done = Vec::new();
    for (id, plan) in plans {
        let mut options = DeleteOptions { overlay: args.overlay, dry_run: false };
        if !args.yes && context.can_ask() {
            if !context.ask(&format!("delete version {id}?"))? {
                output.note(&format!("{id} is kept"));
                continue;
            }
            if let Some(overlay) = plan.overlay.filter(|overlay| overlay.files > 0 && !args.overlay) {
                options.overlay = context
                    .ask(&format!("delete what was written in its mounts, too ({})?", size(&overlay)))?;
            }
        }
        match context.check_cancel().and_then(|()| Ok(workspace.delete(id, &options)?)) {
            Ok(report) => done.push((id, report)),
            Err(error) => {
                // What is gone is gone, and has to be told. JSON is whole or not at all.
                if !output.is_json() {
                    show(context, &done, "deleted")?;
                }
                return Err(error);
            }
        }
    }
    show(context, &done, "deleted")?;
    Ok(Exit::Ok)
}

fn show(context: &Context, reports: &[(&VersionId, DeleteReport)], verb: &str) -> Result<(), CliError> {
    let output = context.output();
    if output.is_json() {
        let reports: serde_json::Map<_, _> =
            reports.iter().map(|(id, report)| (id.to_string(), serde_json::json!(report))).collect();
        return output.json(&reports);
    }
    for (id, report) in reports {
        output.note(&format!("{verb} {id}: {}", report.spec.display()));
        match &report.overlay {
            None => {}
            Some(overlay) if overlay.files == 0 => {}
            Some(overlay) if overlay.deleted => {
                output.note(&format!("{verb} what was written in its mounts: {}", size(overlay)));
            }
            Some(overlay) => {
                output.note(&format!(
                    "kept what was written in its mounts: {} in {}",
                    size(overlay),
                    overlay.path.display()
                ));
            }
        }
        for realization in &report.realizations {
            output.note(&super::realize::removed_line(verb, realization));
        }
    }
    Ok(())
}

fn size(overlay: &OverlayReport) -> String {
    format!("{}, {}", format::counted(overlay.files, "file"), format::bytes(overlay.bytes))
}
