//! `cvs fsck`.

use std::fmt::Write;

use clap::Args;
use cvs_store::{Damage, DamageKind, Fsck, FsckEvent, FsckReport, IndexState};

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::progress::Unit;

/// Read and hash everything in the store again.
///
/// Names each damaged or missing object and the versions that it hurts, and ends with code 3 when there is any.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Set damaged objects aside.
    #[arg(long)]
    repair: bool,

    /// Make the index anew. It is a cache; nothing is lost.
    #[arg(long)]
    rebuild_index: bool,
}

pub(crate) fn run(context: &Context, args: &FsckArgs) -> Result<Exit, CliError> {
    let report = check(context, args)?;
    if context.output().is_json() {
        context.output().json(&report)?;
    } else {
        context.output().data(&text(&report))?;
    }
    Ok(if report.damage.is_empty() { Exit::Ok } else { Exit::Damage })
}

fn check(context: &Context, args: &FsckArgs) -> Result<FsckReport, CliError> {
    let task = context.progress().task("checking", Unit::Bytes);
    let progress = |event: FsckEvent| match event {
        FsckEvent::Found { bytes, .. } => task.set_total(bytes),
        FsckEvent::Read { bytes } => task.add(bytes),
        FsckEvent::Checked { .. } => {}
    };
    let fsck = Fsck {
        store: context.store()?,
        roots: &context.versions_dir(),
        quarantine: args.repair,
        clear_index: args.rebuild_index,
        progress: &progress,
        cancel: context.cancel(),
    };
    Ok(fsck.run()?)
}

fn text(report: &FsckReport) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        describe(damage, &mut text);
    }
    let _ = writeln!(
        text,
        "checked {} and {}, {}, for {}",
        format::counted(report.blobs, "blob"),
        format::counted(report.manifests, "manifest"),
        format::bytes(report.bytes),
        format::counted(report.roots, "version"),
    );
    match report.index {
        IndexState::Sound { .. } => {}
        IndexState::Replaced => text.push_str("the index was damaged and is made anew\n"),
        IndexState::Cleared => text.push_str("the index is made anew\n"),
    }
    match report.damage.len() as u64 {
        0 => text.push_str("no damage\n"),
        n => {
            let _ = writeln!(text, "{} damaged", format::counted(n, "object"));
        }
    }
    text
}

fn describe(damage: &Damage, text: &mut String) {
    let what = match &damage.kind {
        DamageKind::WrongBytes { size } => format!("its {size} bytes have another hash"),
        DamageKind::Unreadable { error } => format!("cannot be read: {error}"),
        DamageKind::Missing => "is missing".to_owned(),
        DamageKind::Malformed { error } => format!("is malformed: {error}"),
    };
    let _ = writeln!(text, "{}: {what}", damage.object);
    for (version, paths) in &damage.hurts {
        let _ = writeln!(text, "  hurts {version}{}", if paths.is_empty() { "" } else { ":" });
        for path in paths {
            let _ = writeln!(text, "    {path}");
        }
    }
    if damage.hurts.is_empty() {
        let _ = writeln!(text, "  hurts no version");
    }
    if let Some(path) = &damage.quarantined {
        let _ = writeln!(text, "  set aside as {}", path.display());
    }
}
