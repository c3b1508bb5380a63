//! `cvs mounts`.

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::mounts::{self, DamagedObject, Figures, Models, MountEntry, MountState, Report};
use crate::shell;
use crate::table::{Align, Table};

/// List what is mounted.
///
/// MODELS says how `models/` is served: with passthrough the kernel reads models by itself, at the speed of the disk; with
/// one connection they are read through cvs.
///
/// A `dead` mount is one whose process was killed; `cvs umount DIR`, or mounting there again, clears it. Files that could
/// not be read since a mount was made are named below the list.
#[derive(Debug, Args)]
pub(crate) struct MountsArgs {
    /// Show what each mount holds and has done, too.
    #[arg(long)]
    stats: bool,
}

/// A mount, and what its daemon says.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    entry: &'a MountEntry,
    /// None when there is nobody to ask.
    answers: Option<bool>,
    damaged: &'a [DamagedObject],
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<&'a Figures>,
}

pub(crate) fn run(context: &Context, args: &MountsArgs) -> Result<Exit, CliError> {
    let entries = mounts::list(context.store()?)?;
    let reports: Vec<_> = entries.iter().map(MountEntry::ask).collect();
    let all = || entries.iter().zip(&reports);
    if context.output().is_json() {
        let told: Vec<_> = all()
            .map(|(entry, report)| {
                let answer = report.as_ref().and_then(|report| report.as_ref().ok());
                Told {
                    entry,
                    answers: report.as_ref().map(Result::is_ok),
                    damaged: answer.map_or(&[], |report| &report.damaged),
                    stats: answer.map(|report| &report.stats).filter(|_| args.stats),
                }
            })
            .collect();
        context.output().json(&told)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("MODE", Align::Left),
        ("MODELS", Align::Left),
        ("PID", Align::Right),
        ("MOUNTPOINT", Align::Left),
    ]);
    for entry in &entries {
        let state = match entry.state {
            MountState::NotAttached => "not attached",
            MountState::Mounted => "mounted",
            MountState::Dead => "dead",
        };
        table.row([
            entry.version.clone(),
            state.to_owned(),
            entry.mode().to_owned(),
            match entry.models() {
                Some(Models::Passthrough) => "passthrough".to_owned(),
                Some(Models::OneConnection { .. }) => "one connection".to_owned(),
                None => String::new(),
            },
            entry.pid.map_or_else(String::new, |pid| pid.to_string()),
            entry.mountpoint().display().to_string(),
        ]);
    }
    context.output().table(&table, "nothing is mounted")?;
    for (entry, report) in all() {
        let path = entry.mountpoint().display();
        if let Some(Models::OneConnection { reason }) = entry.models() {
            context.output().note(&format!("{path} has one connection: {reason}"));
        }
        match report {
            Some(Ok(report)) => {
                if args.stats {
                    context.output().text(&figures(entry, &report.stats))?;
                }
                if !report.damaged.is_empty() {
                    context.output().warning(&damage(entry, report));
                }
            }
            Some(Err(error)) => context.output().warning(&format!(
                "{path}: its process does not answer ({error}); `cvs umount --force {}` ends it",
                shell::word(entry.mountpoint())
            )),
            None => {}
        }
    }
    Ok(Exit::Ok)
}

/// What cannot be read, a line for each object.
fn damage(entry: &MountEntry, report: &Report) -> String {
    const SHOWN: usize = 10;
    let files: usize = report.damaged.iter().map(|object| object.files).sum();
    let path = entry.mountpoint().display();
    let mut text =
        format!("{path}: {} cannot be read; run `cvs fsck`", format::counted(files as u64, "file"));
    for object in report.damaged.iter().take(SHOWN) {
        let more = match object.files.saturating_sub(object.paths.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text.push_str(&format!(
            "\n  {}{more}: blob {} {}",
            object.paths.join(", "),
            object.blob,
            object.problem
        ));
    }
    if report.damaged.len() > SHOWN {
        text.push_str(&format!(
            "\n  and {} more",
            format::counted((report.damaged.len() - SHOWN) as u64, "blob")
        ));
    }
    text
}

/// What a mount holds and has done.
fn figures(entry: &MountEntry, of: &Figures) -> String {
    let nodes = match (of.nodes, of.held_by_kernel, of.unlinked_in_use) {
        (Some(nodes), Some(held), Some(pinned)) => format!(
            "{} in the table; the kernel holds {}; {} unlinked and in use",
            format::count(nodes as u64),
            format::count(held as u64),
            format::count(pinned as u64)
        ),
        _ => "the table is busy".to_owned(),
    };
    let waiting = match (&of.oldest, of.oldest_ms) {
        (Some(kind), Some(age)) => format!("{} under way, the oldest a {kind} of {age} ms", of.waiting),
        _ => "none under way".to_owned(),
    };
    let kinds: Vec<String> = of
        .requests
        .iter()
        .map(|kind| match kind.failed {
            0 => format!("{} {}", kind.kind, format::count(kind.answered)),
            failed => {
                let errors = format::counted(failed, "error");
                format!("{} {} ({errors})", kind.kind, format::count(kind.answered))
            }
        })
        .collect();
    let answered: u64 = of.requests.iter().map(|kind| kind.answered).sum();
    format!(
        "\n{} at {}\n  nodes        {nodes}\n  descriptors  {} of {}: {}, {}, {} of the store\n  memory       {}\n  \
         copy-ups     {} under way\n  requests     {waiting}; {} answered: {}\n",
        entry.version,
        entry.mountpoint().display(),
        of.descriptors,
        of.descriptors_limit,
        format::counted(of.open_files as u64, "file"),
        format::counted(of.open_directories as u64, "directory"),
        format::counted(of.open_objects as u64, "object"),
        format::bytes(of.memory),
        of.copying_up,
        format::count(answered),
        kinds.join(", "),
    )
}
