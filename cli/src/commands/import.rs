//! `cvs import`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cvs_store::Intake;
use cvs_versions::import::{
    self, EnvironmentChoice, FileOptions, ImportReport, InstallImport, InstallOptions, OverlaySource, Taken,
};
use cvs_versions::spec::{VersionId, inputs};
use cvs_versions::{CreateOptions, LockOptions};
use serde_json::json;

use super::shared::{WheelsArgs, locked_line, warn};
use crate::activity::Activity;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::mounts::{Fill, Filled, MountedSandbox};
use crate::shell;

/// Changes and files of one part that are named.
const NAMED: usize = 8;

/// Make a version of what is there: an install of ComfyUI, a snapshot, a workflow, a picture.
///
/// A file is a snapshot of ComfyUI-Manager or Comfy Desktop, a definition of `comfy build`, a comfy-lock.yaml, the lock of
/// the earlier tool, a spec, a workflow, or what ComfyUI has saved with one in it: a picture, video, sound, mesh or model.
/// What it does not say becomes a question in the spec, which `cvs validate` names. An install is only read. Its core and
/// nodes become the commits that they are at; what no remote has, or was changed, is taken as it is. Its models enter the
/// store, and its packages are installed by exact version. At the end stands what became of what, and what was left out.
/// An import that was interrupted goes on when it is run again.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The directory of ComfyUI, or the one that has it as ComfyUI/; or a file.
    source: PathBuf,

    /// The name of the version.
    #[arg(long = "as", value_name = "ID")]
    id: VersionId,

    /// What a file is, if its content is not to tell.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Which snapshot of a file that has several, from 1.
    #[arg(long, value_name = "N")]
    snapshot: Option<usize>,

    /// The repository of ComfyUI, with a branch, tag or commit behind `@`, in place of what a file says.
    #[arg(long, value_name = "URL[@REF]")]
    repo: Option<String>,

    /// Resolve and pin what a file names, and fetch later.
    #[arg(long)]
    no_fetch: bool,

    /// What becomes of the Python environment.
    #[arg(long, value_name = "HOW", default_value = "rebuild")]
    environment: Environment,

    /// The Python environment, where it is at no usual place (venv, .venv, python_embeded).
    #[arg(long, value_name = "DIR")]
    python: Option<PathBuf>,

    /// The package index in place of the default one. An environment does not say where it came from.
    #[arg(long, value_name = "URL")]
    index_url: Option<String>,

    /// A package index that is asked before the other one.
    #[arg(long, value_name = "URL")]
    extra_index_url: Vec<String>,

    /// Another file like extra_model_paths.yaml.
    #[arg(long, value_name = "FILE")]
    extra_model_paths_config: Vec<PathBuf>,

    /// Take what is in output/, too; it goes to where the version writes.
    #[arg(long)]
    with_outputs: bool,

    /// Take what is in input/, too.
    #[arg(long)]
    with_inputs: bool,

    /// Take what is in user/, too: settings, workflows, the database.
    #[arg(long)]
    with_user: bool,

    #[command(flatten)]
    intake: ImportIntake,

    /// Take only what --with-outputs, --with-inputs and --with-user name, for a version that is there already.
    #[arg(long, conflicts_with_all = ["force", "dry_run"])]
    overlay_only: bool,

    /// Say what would become what, and make no version. Models are not read.
    #[arg(long)]
    dry_run: bool,

    /// Replace a version of the same name.
    #[arg(long)]
    force: bool,

    /// Use no network: packages come from the cache or from --wheels.
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    wheels: WheelsArgs,
}

/// How models enter the store.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
struct ImportIntake {
    /// Share models with the store by hard links. They become read-only; whoever writes into one all the same (root can)
    /// damages the stored one.
    #[arg(long)]
    hardlink: bool,

    /// Share the blocks of models with the store, and fail where the filesystem cannot. A copy does so by itself where it
    /// can.
    #[arg(long)]
    reflink: bool,

    /// Move models into the store: when the version is there, they go from their old place.
    #[arg(long = "move")]
    moved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Environment {
    /// Install the same packages, by exact version.
    Rebuild,
    /// Make none: whoever starts ComfyUI brings one.
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A snapshot of ComfyUI-Manager, JSON or YAML.
    ManagerSnapshot,
    /// A snapshot of Comfy Desktop.
    DesktopSnapshot,
    /// A definition of `comfy build`.
    BuildDefinition,
    /// comfy-lock.yaml of comfy-cli.
    ComfyLock,
    /// The lock of the earlier tool.
    LockV1,
    /// A spec.
    Spec,
    /// A workflow in either format, or a file that ComfyUI has saved with one in it.
    Workflow,
}

impl From<Format> for import::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::ManagerSnapshot => Self::ManagerSnapshot,
            Format::DesktopSnapshot => Self::DesktopSnapshot,
            Format::BuildDefinition => Self::BuildDefinition,
            Format::ComfyLock => Self::ComfyLock,
            Format::LockV1 => Self::LockV1,
            Format::Spec => Self::Spec,
            Format::Workflow => Self::Workflow,
        }
    }
}

pub(crate) fn run(context: &Context, args: &ImportArgs) -> Result<Exit, CliError> {
    let workspace = context.workspace()?;
    let activity = Activity::new(context);
    let events = |event: cvs_versions::Event<'_>| activity.hear(event);
    let sandbox = MountedSandbox { store: context.store()?.clone() };
    let create = CreateOptions {
        sandbox: Some(&sandbox),
        replace: args.force,
        offline: args.offline,
        wheels: args.wheels.directory(),
        events: &events,
        cancel: context.cancel(),
        fetch: !args.no_fetch,
        ..CreateOptions::default()
    };
    if args.overlay_only {
        let written = import::written(&args.source).map_err(cvs_versions::VersionsError::from)?;
        let (filled, failure) = args.fill(context, &written);
        let import = InstallImport { report: ImportReport::default(), created: None, written };
        args.tell(context, &import, &filled)?;
        return failure.map_or(Ok(Exit::Ok), Err);
    }
    if !args.source.is_dir() {
        let repo = match &args.repo {
            Some(repo) => {
                let cwd = std::env::current_dir().map_err(CliError::WorkingDirectory)?;
                Some(inputs::repo_from_arg(repo, &cwd))
            }
            None => None,
        };
        let options = FileOptions {
            format: args.format.map(Into::into),
            number: args.snapshot,
            repo: repo.as_deref(),
            indexes: args.indexes(),
            skip_python: args.environment == Environment::Skip,
            dry_run: args.dry_run,
            create,
        };
        let imported = workspace.import_file(&args.id, &args.source, &options)?;
        drop(activity);
        let import =
            InstallImport { report: imported.report, created: imported.created, written: Vec::new() };
        args.tell(context, &import, &BTreeMap::new())?;
        return Ok(Exit::Ok);
    }
    let options = InstallOptions {
        environment: match args.environment {
            Environment::Rebuild => EnvironmentChoice::Rebuild,
            Environment::Skip => EnvironmentChoice::Skip,
        },
        python: args.python.as_deref(),
        indexes: args.indexes(),
        extra_model_paths: &args.extra_model_paths_config,
        intake: match args.intake {
            ImportIntake { moved: true, .. } => Intake::Move,
            ImportIntake { hardlink: true, .. } => Intake::HardLink,
            ImportIntake { .. } => Intake::Copy,
        },
        reflink: args.intake.reflink,
        dry_run: args.dry_run,
        create,
    };
    let import = workspace.import_install(&args.id, &args.source, &options)?;
    drop(activity);
    let (filled, failure) = match import.created {
        Some(_) => args.fill(context, &import.written),
        None => (BTreeMap::new(), None),
    };
    args.tell(context, &import, &filled)?;
    failure.map_or(Ok(Exit::Ok), Err)
}

impl ImportArgs {
    fn indexes(&self) -> import::PackageIndexes<'_> {
        import::PackageIndexes { url: self.index_url.as_deref(), extra: &self.extra_index_url }
    }

    fn wants(&self, source: &OverlaySource) -> bool {
        match source.name {
            "output" => self.with_outputs,
            "input" => self.with_inputs,
            _ => self.with_user,
        }
    }

    /// Puts into the overlay what was asked for: what is in it then, and what kept the rest out.
    fn fill(
        &self,
        context: &Context,
        written: &[OverlaySource],
    ) -> (BTreeMap<&'static str, Filled>, Option<CliError>) {
        let mut filled = BTreeMap::new();
        let mut wanted: Vec<&OverlaySource> = written.iter().filter(|source| self.wants(source)).collect();
        let result = self.fill_each(context, &mut wanted, &mut filled);
        let failure = result.err().map(|source| CliError::Fill {
            id: self.id.to_string(),
            missing: wanted.iter().map(|source| source.name).collect::<Vec<_>>().join(", "),
            command: format!(
                "cvs import {} --as {} --overlay-only{}",
                shell::word(&self.source),
                self.id,
                wanted.iter().map(|source| format!(" {}", flag(source))).collect::<String>()
            ),
            source: Box::new(source),
        });
        (filled, failure)
    }

    /// Takes each that is done from `wanted` to `filled`.
    fn fill_each(
        &self,
        context: &Context,
        wanted: &mut Vec<&OverlaySource>,
        filled: &mut BTreeMap<&'static str, Filled>,
    ) -> Result<(), CliError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let workspace = context.workspace()?;
        let sandbox = MountedSandbox { store: workspace.store().clone() };
        let options = LockOptions { offline: true, sandbox: Some(&sandbox), ..LockOptions::default() };
        let ready = workspace.ensure(&self.id, &options)?;
        let overlay = workspace.overlay_dir(&self.id);
        let fill = Fill::open(workspace.store(), ready.view, &overlay, context.cancel())?;
        while let Some(source) = wanted.first() {
            let task =
                context.progress().task(format!("taking in {}", source.name), crate::progress::Unit::Items);
            filled.insert(source.name, fill.copy(&source.dir, source.name)?);
            drop(task);
            wanted.remove(0);
        }
        Ok(())
    }

    fn tell(
        &self,
        context: &Context,
        import: &InstallImport,
        written: &BTreeMap<&'static str, Filled>,
    ) -> Result<(), CliError> {
        let output = context.output();
        let mut report = import.report.clone();
        for source in import.written.iter().filter(|source| !written.contains_key(source.name)) {
            let reason = match self.wants(source) {
                true => "not all of it could be taken".to_owned(),
                false => format!("it was not asked for ({})", flag(source)),
            };
            report.left_out.push(import::LeftOut { path: source.dir.clone(), reason });
        }
        for source in &import.written {
            if let Some(Filled { special, first_special: Some(first), .. }) = written.get(source.name) {
                report.leave_out_special(&source.dir, first.clone(), *special);
            }
        }
        if output.is_json() {
            return output.json(&json!({ "import": report, "created": import.created, "overlay": written }));
        }
        output.text(&text(&report, written))?;
        match &import.created {
            Some(created) => {
                warn(output, &created.lock.warnings);
                output.note(&format!("imported {}", locked_line(&created.lock)));
                if let Some(overlay) = created.kept_overlay.as_deref() {
                    output.warning(&kept(overlay));
                }
            }
            None if self.overlay_only => {}
            None => output.note("a dry run: there is no version, and no model was read"),
        }
        Ok(())
    }
}

/// What asks for it.
fn flag(source: &OverlaySource) -> &'static str {
    match source.name {
        "output" => "--with-outputs",
        "input" => "--with-inputs",
        _ => "--with-user",
    }
}

fn kept(overlay: &Path) -> String {
    format!("what an earlier version of this name wrote shows in the new one: {}", overlay.display())
}

/// What became what, and what was left out.
fn text(report: &ImportReport, written: &BTreeMap<&'static str, Filled>) -> String {
    let mut text = String::new();
    for Taken { part, from, how, changes, bytes } in &report.taken {
        let size = bytes.map(|bytes| format!("{}, ", format::bytes(bytes))).unwrap_or_default();
        let _ = match from.is_empty() {
            true => writeln!(text, "{part}\n    {size}{how}"),
            false => writeln!(text, "{part}\n    from {from}\n    {size}{how}"),
        };
        for change in changes.iter().take(NAMED) {
            let _ = writeln!(text, "      {change}");
        }
        if changes.len() > NAMED {
            let _ = writeln!(text, "      and {} more", changes.len() - NAMED);
        }
    }
    for (name, filled) in written {
        let files = format::counted(filled.files, "file");
        let _ = writeln!(text, "{name}\n    {files}, {}, into the overlay", format::bytes(filled.bytes));
    }
    if !report.left_out.is_empty() {
        let _ = writeln!(text, "\nleft out");
    }
    for left in &report.left_out {
        let _ = writeln!(text, "    {}: {}", left.path.display(), left.reason);
    }
    if !report.questions.is_empty() {
        let _ = writeln!(text, "\nto be answered");
    }
    for question in &report.questions {
        let _ = writeln!(text, "    {question}");
    }
    text
}
