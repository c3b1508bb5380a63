//! `cvs gc`.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use cvs_store::{Gc, GcPlan};
use cvs_versions::python::{self, PythonOptions, Uv};
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::progress::Unit;

/// Remove what no version needs.
///
/// Objects that neither a version, nor a mount, nor a running command needs go to the trash, from where they come back
/// by themselves when a version wants them again. What has been in the trash for longer than the grace is deleted, and
/// so are downloads that were given up.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Show what would be done, and change nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// How long the trash keeps things, such as 14d, 36h or 0 to free the space now.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = format::parse_duration)]
    grace: Duration,

    /// Empty uv's cache of packages, too. Versions do not need it; the next new environment downloads again.
    #[arg(long)]
    uv_cache: bool,
}

/// Less than this of uv's cache is not worth a word.
const WORTH_TELLING: u64 = 1 << 20;

pub(crate) fn run(context: &Context, args: &GcArgs) -> Result<Exit, CliError> {
    let gc = Gc::new(context.store()?, context.workspace()?.roots(), args.grace);
    let task = context.progress().task("looking for what is needed", Unit::Items);
    let plan = gc.plan()?;
    context.check_cancel()?;
    if args.dry_run {
        drop(task);
        return show_plan(context, &plan, args).map(|()| Exit::Ok);
    }
    task.set_label("removing what is not needed");
    let stats = gc.execute(&plan)?;
    // Only now: what an object shared with it until a moment ago is its own.
    let mut cache = python::cache_usage(context.home())?;
    if args.uv_cache && cache.files > 0 {
        task.set_label("emptying uv's cache");
        let options = PythonOptions { cancel: context.cancel(), ..PythonOptions::default() };
        python::clear_cache(&Uv::find(None, context.home())?, context.home(), &options)?;
        let left = python::cache_usage(context.home())?;
        cache.files = cache.files.saturating_sub(left.files);
        cache.bytes = cache.bytes.saturating_sub(left.bytes);
    }
    drop(task);
    if context.output().is_json() {
        context.output().json(&json!({
            "trashed_objects": stats.trashed_objects,
            "trashed_bytes": stats.trashed_bytes,
            "spared_objects": stats.spared_objects,
            "deleted_objects": stats.deleted_objects,
            "deleted_bytes": stats.deleted_bytes,
            "partial_files": stats.partial_files,
            "partial_bytes": stats.partial_bytes,
            "uv_cache": cache,
            "uv_cache_emptied": args.uv_cache,
        }))?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    if args.grace.is_zero() {
        text.push_str(&format!("freed {}\n", objects(stats.deleted_objects, stats.deleted_bytes)));
    } else {
        let _ = writeln!(text, "moved to the trash: {}", objects(stats.trashed_objects, stats.trashed_bytes));
        let _ = writeln!(text, "freed: {}", objects(stats.deleted_objects, stats.deleted_bytes));
    }
    if stats.partial_files > 0 {
        let _ = writeln!(text, "downloads given up: {}", files(stats.partial_files, stats.partial_bytes));
    }
    if args.uv_cache {
        let _ = writeln!(text, "uv's cache: {}", files(cache.files, cache.bytes));
    }
    context.output().data(&text)?;
    if !args.uv_cache && cache.bytes >= WORTH_TELLING {
        let bytes = format::bytes(cache.bytes);
        context.output().note(&format!(
            "uv's cache holds {bytes} that no version shares; `cvs gc --uv-cache` empties it"
        ));
    }
    if stats.trashed_objects > 0 && !args.grace.is_zero() {
        let grace = format::duration(args.grace);
        context.output().note(&format!("the trash keeps them for {grace}; `cvs gc --grace 0` frees it now"));
    }
    Ok(Exit::Ok)
}

fn show_plan(context: &Context, plan: &GcPlan, args: &GcArgs) -> Result<(), CliError> {
    let (output, grace) = (context.output(), args.grace);
    let cache = python::cache_usage(context.home())?;
    if output.is_json() {
        let garbage: Vec<_> =
            plan.garbage().map(|(object, bytes)| json!({ "object": object, "bytes": bytes })).collect();
        return output.json(&json!({
            "garbage": garbage,
            "garbage_objects": plan.garbage_objects(),
            "garbage_bytes": plan.garbage_bytes(),
            "live_objects": plan.live_objects,
            "live_bytes": plan.live_bytes,
            "expired_objects": plan.expired_objects,
            "expired_bytes": plan.expired_bytes,
            "partial_files": plan.partial_files,
            "partial_bytes": plan.partial_bytes,
            "uv_cache": cache,
        }));
    }
    let mut text = String::new();
    for (object, bytes) in plan.garbage() {
        let _ = writeln!(text, "{object}  {}", format::bytes(bytes));
    }
    let doing = if grace.is_zero() { "would free" } else { "would move to the trash" };
    let _ = writeln!(text, "{doing}: {}", objects(plan.garbage_objects(), plan.garbage_bytes()));
    let _ =
        writeln!(text, "would delete from the trash: {}", objects(plan.expired_objects, plan.expired_bytes));
    if plan.partial_files > 0 {
        let _ = writeln!(text, "would give up downloads: {}", files(plan.partial_files, plan.partial_bytes));
    }
    if args.uv_cache {
        let _ = writeln!(text, "would empty uv's cache: {}", files(cache.files, cache.bytes));
    }
    let _ = writeln!(text, "would keep: {}", objects(plan.live_objects, plan.live_bytes));
    output.data(&text)
}

fn objects(number: u64, bytes: u64) -> String {
    format!("{}, {}", format::counted(number, "object"), format::bytes(bytes))
}

fn files(number: u64, bytes: u64) -> String {
    format!("{}, {}", format::counted(number, "file"), format::bytes(bytes))
}
