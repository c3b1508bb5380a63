//! Arguments and words that several commands have in common.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use clap::Args;
use cvs_store::Intake;
use cvs_versions::source::NetworkLimits;
use cvs_versions::spec::{Edit, ReadOptions, VersionId, Warning};
use cvs_versions::{Event, LockOptions, LockReport, Ready, Workspace};

use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::mounts::MountedSandbox;
use crate::output::Output;

/// How models that are files of this machine enter the store.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct IntakeArgs {
    /// Move local models into the store instead of copying them. The file at its old place goes; a program that still
    /// has it open for writing would damage the stored one.
    #[arg(long = "move", conflicts_with = "hardlink")]
    moved: bool,

    /// Share local models with the store by hard links instead of copying them. The file becomes read-only; whoever
    /// writes into it all the same (root can) damages the stored one.
    #[arg(long)]
    hardlink: bool,
}

impl IntakeArgs {
    pub(crate) fn intake(self) -> Intake {
        match (self.moved, self.hardlink) {
            (true, _) => Intake::Move,
            (_, true) => Intake::HardLink,
            _ => Intake::Copy,
        }
    }
}

/// How fast downloads may be.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct RateArgs {
    /// The most bytes a second that all downloads together take, such as 500K or 20M.
    #[arg(long, value_name = "RATE", env = "CVS_LIMIT_RATE", value_parser = format::parse_rate)]
    limit_rate: Option<NonZeroU64>,
}

impl RateArgs {
    pub(crate) fn limits(self) -> NetworkLimits {
        NetworkLimits { rate: self.limit_rate, ..NetworkLimits::default() }
    }
}

/// Where else Python packages are looked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct WheelsArgs {
    /// Take Python packages from the files of this directory, too.
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
}

impl WheelsArgs {
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.wheels.as_deref()
    }
}

/// How a command that needs a version sees to its lock.
#[derive(Debug, Clone, Args)]
pub(crate) struct EnsureArgs {
    /// Refuse to change the lock: fail when it does not fit the spec.
    #[arg(long)]
    pub(crate) locked: bool,

    /// Use no network: take what the store has.
    #[arg(long)]
    pub(crate) offline: bool,

    /// Drop options of pip among the requirements with a warning, instead of refusing them.
    #[arg(long)]
    pub(crate) lenient: bool,

    #[command(flatten)]
    pub(crate) wheels: WheelsArgs,
}

impl EnsureArgs {
    /// The workspace that reads specs as these arguments say.
    pub(crate) fn workspace(&self, context: &Context) -> Result<Workspace, CliError> {
        Ok(context.workspace()?.clone().reading(ReadOptions { lenient: self.lenient }))
    }

    /// The version, its lock brought up to date when it has to be, which is said.
    pub(crate) fn ensure(&self, context: &Context, id: &VersionId) -> Result<Ready, CliError> {
        let activity = Activity::new(context);
        let events = |event: Event<'_>| activity.hear(event);
        let sandbox = MountedSandbox { store: context.store()?.clone() };
        let options = LockOptions {
            offline: self.offline,
            locked: self.locked,
            sandbox: Some(&sandbox),
            wheels: self.wheels.directory(),
            events: &events,
            cancel: context.cancel(),
            ..LockOptions::default()
        };
        let ready = self.workspace(context)?.ensure(id, &options)?;
        drop(activity);
        // Where a model goes was decided, and said, when it was locked; whoever runs it every day need not hear it again.
        let said = |warning: &&Warning| ready.report.unchanged && is_of_locking(warning);
        warn(context.output(), ready.report.warnings.iter().filter(|warning| !said(warning)));
        if !ready.report.unchanged {
            context.output().note(&format!("brought up to date: {}", locked_line(&ready.report)));
        }
        Ok(ready)
    }
}

/// How a command that edits a spec goes on from there.
#[derive(Debug, Clone, Args)]
pub(crate) struct EditArgs {
    /// Edit the spec only; `cvs lock` brings the rest.
    #[arg(long)]
    no_lock: bool,

    /// Use no network: take what the store has.
    #[arg(long, conflicts_with = "no_lock")]
    offline: bool,

    #[command(flatten)]
    wheels: WheelsArgs,
}

/// Edits the spec of a version and locks what comes out; both or neither.
pub(crate) fn edit(
    context: &Context,
    id: &VersionId,
    args: &EditArgs,
    edit: Edit<'_>,
) -> Result<Exit, CliError> {
    let workspace = context.workspace()?;
    let output = context.output();
    if args.no_lock {
        let document = workspace.versions().edit(id, ReadOptions::default(), edit)?;
        warn(output, document.warnings());
        output.note(&format!("edited {id}; `cvs lock {id}` brings its lock up to date"));
        return Ok(Exit::Ok);
    }
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let options = LockOptions {
        offline: args.offline,
        sandbox: Some(&sandbox),
        wheels: args.wheels.directory(),
        events: &events,
        cancel: context.cancel(),
        ..LockOptions::default()
    };
    let report = workspace.edit(id, edit, &options)?;
    drop(activity);
    tell(output, "locked", &report)
}

/// Says what a lock came to, after the words for what was `done`.
pub(crate) fn tell(output: &Output, done: &str, report: &LockReport) -> Result<Exit, CliError> {
    warn(output, &report.warnings);
    match output.is_json() {
        true => output.json(report)?,
        false => output.note(&format!("{done} {}", locked_line(report))),
    }
    Ok(Exit::Ok)
}

/// Says what is odd in a spec.
pub(crate) fn warn<'a>(output: &Output, warnings: impl IntoIterator<Item = &'a Warning>) {
    for warning in warnings {
        output.warning(&warning.to_string());
    }
}

/// Whether a warning is about what locking decides, and so is news only when the lock changes.
pub(crate) fn is_of_locking(warning: &Warning) -> bool {
    matches!(warning, Warning::FolderGuessed { .. })
}

/// What a lock holds now: `wan: 12 new objects, 3.20 MiB`.
pub(crate) fn locked_line(report: &LockReport) -> String {
    let LockReport { id, new_objects, new_bytes, .. } = report;
    match new_objects {
        0 => format!("{id}: nothing new in the store"),
        _ => format!("{id}: {}, {}", format::counted(*new_objects, "new object"), format::bytes(*new_bytes)),
    }
}
