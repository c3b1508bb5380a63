//! `cvs fsck`.

use std::fmt::Write;

use clap::Args;
use cvs_store::{Damage, DamageKind, Fsck, FsckEvent, FsckReport, IndexState};
use cvs_versions::{Event, RefillStats, RepairOptions, RepairReport, Repaired};

use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit, hint_of_source};
use crate::format;
use crate::progress::Unit;

/// Read and hash everything in the store again.
///
/// Names each damaged or missing object and the versions that it hurts, and ends with code 3 when there is any, or,
/// with --repair, when any could not be brought back.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Set damaged objects aside, and bring back from their sources what versions need of them.
    #[arg(long)]
    repair: bool,

    /// With --repair: use no network.
    #[arg(long, requires = "repair")]
    offline: bool,

    /// Make the index anew from what the versions and the store know. It is a cache; nothing is lost.
    #[arg(long)]
    rebuild_index: bool,
}

pub(crate) fn run(context: &Context, args: &FsckArgs) -> Result<Exit, CliError> {
    let report = check(context, args)?;
    let refill = refill(context, args)?;
    let repair = match args.repair && !report.damage.is_empty() {
        true => Some(repair(context, args, &report)?),
        false => None,
    };
    let output = context.output();
    if output.is_json() {
        output.json(&Outcome { report: &report, refill: refill.as_ref(), repair: repair.as_ref() })?;
    } else {
        output.text(&text(&report, refill.as_ref(), repair.as_ref()))?;
    }
    if report.damage.is_empty() {
        return Ok(Exit::Ok);
    }
    match repair {
        Some(repair) if repair.is_whole() => Ok(Exit::Ok),
        Some(repair) => {
            let mut hints: Vec<String> = repair.failures.iter().filter_map(hint_of_source).collect();
            hints.dedup();
            for hint in hints {
                output.hint(&hint);
            }
            output.hint("mend the sources that are named, or restore them from a backup, and run it again");
            Ok(Exit::Damage)
        }
        None => {
            output.hint(
                "`cvs fsck --repair` sets damaged objects aside and brings them back from their sources",
            );
            Ok(Exit::Damage)
        }
    }
}

#[derive(serde::Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    report: &'a FsckReport,
    refill: Option<&'a RefillStats>,
    repair: Option<&'a RepairReport>,
}

/// Fills an index that begins empty.
fn refill(context: &Context, args: &FsckArgs) -> Result<Option<RefillStats>, CliError> {
    let workspace = context.workspace()?;
    if workspace.store().index().is_filled() {
        return Ok(None);
    }
    Ok(Some(workspace.refill_index(args.rebuild_index, context.cancel())?))
}

fn repair(context: &Context, args: &FsckArgs, report: &FsckReport) -> Result<RepairReport, CliError> {
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let options = RepairOptions {
        offline: args.offline,
        events: &events,
        cancel: context.cancel(),
        ..RepairOptions::default()
    };
    Ok(context.workspace()?.repair(report, &options)?)
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
        roots: context.workspace()?.roots(),
        quarantine: args.repair,
        clear_index: args.rebuild_index,
        progress: &progress,
        cancel: context.cancel(),
    };
    Ok(fsck.run()?)
}

fn text(report: &FsckReport, refill: Option<&RefillStats>, repair: Option<&RepairReport>) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        describe(damage, &mut text);
        if let Some(object) = repair.and_then(|r| r.objects.iter().find(|o| o.object == damage.object)) {
            describe_repair(&object.outcome, &mut text);
        }
    }
    let _ = writeln!(
        text,
        "checked {} and {}, {}, for {}",
        format::counted(report.blobs, "blob"),
        format::counted(report.manifests, "manifest"),
        format::bytes(report.bytes),
        format::counted(report.roots, "version"),
    );
    let state = match report.index {
        IndexState::Sound { .. } => None,
        IndexState::Replaced => Some("the index was damaged and is made anew"),
        IndexState::Cleared => Some("the index is made anew"),
    };
    if let Some(state) = state {
        text.push_str(state);
        if let Some(RefillStats { commits, models, git_blobs }) = refill {
            let (commits, models) = (format::counted(*commits, "commit"), format::counted(*models, "model"));
            let _ = write!(text, ": {commits}, {models}, {}", format::counted(*git_blobs, "file"));
        }
        text.push('\n');
    }
    match report.damage.len() as u64 {
        0 => text.push_str("no damage\n"),
        n => {
            let _ = writeln!(text, "damage: {}", format::counted(n, "object"));
        }
    }
    text
}

fn describe_repair(outcome: &Repaired, text: &mut String) {
    match outcome {
        Repaired::Restored => text.push_str("  brought back\n"),
        Repaired::Unneeded => text.push_str("  not needed\n"),
        Repaired::Lost { reasons } => {
            text.push_str("  lost\n");
            for reason in reasons {
                let _ = writeln!(text, "    {}", reason.replace('\n', "\n    "));
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cvs_store::{BlobId, ObjectRef};
    use cvs_versions::RepairedObject;

    use super::*;

    #[test]
    fn damage_names_objects_versions_and_paths() {
        let (wrong, gone) = (BlobId::of(b"wrong"), BlobId::of(b"gone"));
        let hurts = BTreeMap::from([("wan".to_owned(), vec!["models/vae/x".to_owned()])]);
        let damage = |object, kind, hurts, quarantined| Damage { object, kind, hurts, quarantined };
        let mut report = FsckReport {
            blobs: 1200,
            manifests: 1,
            bytes: 3 << 20,
            roots: 2,
            damage: vec![
                damage(
                    ObjectRef::Blob(wrong),
                    DamageKind::WrongBytes { size: 5 },
                    hurts,
                    Some("/h/quarantine/x".into()),
                ),
                damage(ObjectRef::Blob(gone), DamageKind::Missing, BTreeMap::new(), None),
            ],
            index: IndexState::Replaced,
        };
        let lost = Repaired::Lost { reasons: vec!["models[0].source: gone\nfor good".to_owned()] };
        let object =
            |blob, outcome| RepairedObject { object: ObjectRef::Blob(blob), versions: Vec::new(), outcome };
        let repair = RepairReport {
            objects: vec![object(wrong, lost), object(gone, Repaired::Unneeded)],
            new_bytes: 0,
            failures: Vec::new(),
        };
        let refill = RefillStats { commits: 1, models: 2, git_blobs: 0 };
        assert_eq!(
            text(&report, Some(&refill), Some(&repair)),
            format!(
                "blob {wrong}: its 5 bytes have another hash\n  \
                   hurts wan:\n    models/vae/x\n  set aside as /h/quarantine/x\n  lost\n    \
                     models[0].source: gone\n    for good\n\
                 blob {gone}: is missing\n  hurts no version\n  not needed\n\
                 checked 1,200 blobs and 1 manifest, 3.00 MiB, for 2 versions\n\
                 the index was damaged and is made anew: 1 commit, 2 models, 0 files\n\
                 damage: 2 objects\n"
            )
        );
        report.damage.clear();
        report.index = IndexState::Sound { stale: 3 };
        assert_eq!(
            text(&report, None, None),
            "checked 1,200 blobs and 1 manifest, 3.00 MiB, for 2 versions\nno damage\n"
        );
    }
}
