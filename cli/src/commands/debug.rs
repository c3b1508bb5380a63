//! `cvs debug`: tools for those who work on cvs. Hidden; nothing here is promised to stay.

mod overlay;

use std::path::PathBuf;
use std::sync::Mutex;

use clap::{Args, Subcommand};
use cvs_store::{BlobId, Graft, Intake, ManifestBuilder, ManifestId, RelPath, TreeOptions, View};
use cvs_versions::spec::{Lock, LockedRepo, NewSpec, PythonSpec, ReadOptions, SpecDocument, VersionId};

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;

pub(crate) use overlay::command_line;

/// The commit that stands for "no commit": what lies in the store came from elsewhere.
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// Tools for those who work on cvs.
#[derive(Debug, Args)]
pub(crate) struct DebugArgs {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Make a version whose core is a directory, without git.
    Ingest {
        /// The directory.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The new version.
        #[arg(long = "as", value_name = "VERSION")]
        id: VersionId,
    },
    /// Make a version of many small files, for measurements.
    Synth {
        /// The new version.
        #[arg(value_name = "VERSION")]
        id: VersionId,
        /// Its files and directories.
        #[arg(long, value_name = "N")]
        entries: u32,
    },
    /// Mount one directory over another, as mount(8) mounts an overlayfs.
    Overlay(overlay::OverlayArgs),
}

pub(crate) fn run(context: &Context, args: &DebugArgs) -> Result<Exit, CliError> {
    match &args.tool {
        Tool::Ingest { directory, id } => ingest(context, directory, id),
        Tool::Synth { id, entries } => synth(context, id, *entries),
        Tool::Overlay(args) => overlay::run(context, args),
    }
}

fn ingest(context: &Context, directory: &std::path::Path, id: &VersionId) -> Result<Exit, CliError> {
    let directory =
        std::fs::canonicalize(directory).map_err(|e| cvs_store::StoreError::io("resolve", directory, e))?;
    let txn = context.store()?.begin(id.as_str())?;
    let stored = Mutex::new((0u64, 0u64));
    let options = TreeOptions {
        intake: Intake::Copy,
        exclude: &|_| false,
        progress: &|bytes| {
            let mut stored = stored.lock().unwrap_or_else(|e| e.into_inner());
            *stored = (stored.0 + 1, stored.1 + bytes);
        },
        cancel: context.cancel(),
    };
    let (manifest, stats) = txn.put_tree(&directory, &options)?;
    publish(context, &txn, id, &directory.display().to_string(), manifest)?;
    context.output().note(&format!(
        "{}, {}",
        format::counted(stats.files, "file"),
        format::bytes(stats.bytes)
    ));
    Ok(Exit::Ok)
}

/// A hundred files to a directory, a hundred directories to a directory, three bytes to a file.
fn synth(context: &Context, id: &VersionId, entries: u32) -> Result<Exit, CliError> {
    const FAN_OUT: u32 = 100;
    let txn = context.store()?.begin(id.as_str())?;
    let bad = |source| cvs_store::StoreError::Manifest { context: id.to_string(), source };
    let blobs: Vec<BlobId> =
        (0..FAN_OUT).map(|n| txn.put_bytes(format!("{n:03}").as_bytes())).collect::<Result<_, _>>()?;
    let mut builder = ManifestBuilder::new();
    let mut made = 0;
    for directory in 0u32.. {
        let path = format!("d{}/d{}", directory / FAN_OUT, directory % FAN_OUT);
        for (file, blob) in blobs.iter().enumerate() {
            if made >= entries {
                break;
            }
            let path = RelPath::new(format!("{path}/file{file:03}"))
                .map_err(|source| cvs_store::StoreError::Path { context: id.to_string(), source })?;
            builder.file(&path, 0o644, 3, *blob).map_err(bad)?;
            made += 1;
        }
        if made >= entries {
            break;
        }
    }
    let manifest = txn.put_manifest(builder)?;
    publish(context, &txn, id, "/nowhere", manifest)
}

/// Publishes a version whose core is `manifest`.
fn publish(
    context: &Context,
    txn: &cvs_store::Transaction,
    id: &VersionId,
    source: &str,
    manifest: ManifestId,
) -> Result<Exit, CliError> {
    txn.commit()?;
    let mut document = SpecDocument::build(NewSpec {
        version_id: id.clone(),
        repo: source.to_owned(),
        custom_nodes: Vec::new(),
        models: Vec::new(),
        python_packages: Vec::new(),
        python: PythonSpec::default(),
        skip_python: true,
        env: Vec::new(),
        options: ReadOptions::default(),
    })?;
    let comfy = &document.spec().comfy;
    let mut lock = Lock::new(LockedRepo {
        repo: comfy.repo.to_string(),
        requested: None,
        commit: Some(NO_COMMIT.to_owned()),
        manifest: Some(manifest),
        ..LockedRepo::default()
    });
    lock.view = Some(View::id_of(&[Graft { path: RelPath::root(), manifest, label: "core".to_owned() }]));
    document.set_lock(Some(&lock))?;
    context.versions_dir().publish(&mut document)?;
    Ok(Exit::Ok)
}
