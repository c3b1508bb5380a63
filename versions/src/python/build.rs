//! From a lock to an environment in a transaction: `uv venv` and `uv pip sync` in its scratch directory, then the normal
//! form.

use std::fs;
use std::path::Path;

use cvs_store::{ManifestId, Transaction};
use serde_json::Value;

use super::classify;
use super::error::PythonError;
use super::event::{PythonEvent, PythonOptions};
use super::ingest::{self, Taken};
use super::interpreter::Interpreter;
use super::lock;
use super::resolve::places;
use super::text::Names;
use super::uv::Uv;

/// Where packages come from, and how the work is watched.
#[derive(Clone, Copy, Default)]
pub struct BuildOptions<'a> {
    /// As for the resolution: needed for what is built here.
    pub index_url: Option<&'a str>,
    /// As for the resolution.
    pub extra_index_urls: &'a [String],
    /// A directory of wheels, which take the place of downloads of the same name.
    pub wheels: Option<&'a Path>,
    /// Takes nothing from uv's cache, and leaves nothing there.
    pub fresh: bool,
    /// Network, events, cancel.
    pub options: PythonOptions<'a>,
}

/// An environment in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Environment {
    /// What is grafted at `.venv`.
    pub manifest: ManifestId,
    /// Its files, bytecode included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its packages.
    pub packages: usize,
    /// Sources that no earlier work had compiled.
    pub compiled: u64,
}

/// Builds the environment of `pylock` for `interpreter`. The same lock and interpreter give the same manifest.
///
/// # Errors
/// [`PythonError::HashMismatch`], [`PythonError::WheelMissing`], [`PythonError::Offline`], [`PythonError::Unreachable`],
/// [`PythonError::BuildFailed`], [`PythonError::NoSpace`]: what was locked cannot be had. Nothing is left of it.
pub fn build(
    uv: &Uv,
    transaction: &Transaction,
    interpreter: &Interpreter,
    pylock: &Value,
    how: &BuildOptions<'_>,
) -> Result<Environment, PythonError> {
    let scratch = transaction.scratch_dir()?.join("environment");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(|source| PythonError::io("make", &scratch, source))?;
    let built = build_in(uv, transaction, interpreter, pylock, how, &scratch);
    let _ = fs::remove_dir_all(&scratch);
    built
}

fn build_in(
    uv: &Uv,
    transaction: &Transaction,
    interpreter: &Interpreter,
    pylock: &Value,
    how: &BuildOptions<'_>,
    scratch: &Path,
) -> Result<Environment, PythonError> {
    let packages = lock::packages(pylock)?.len();
    let offline = how.options.offline;
    let list = scratch.join("pylock.toml");
    let text = lock::to_toml(pylock, how.wheels)?;
    fs::write(&list, text).map_err(|source| PythonError::io("write", &list, source))?;
    let root = scratch.join("venv");
    let mut names = Names::new();
    names.add(&root, ".venv");
    names.add(&list, "the lock");
    names.add(uv.state(), "uv");

    let mut command = uv.command(scratch, offline);
    command.args(["venv", "--quiet", "--relocatable", "--no-project", "--python"]).arg(&interpreter.path);
    command.arg(&root);
    run(uv, "make an environment", command, &names, &how.options)?;

    how.options.event(PythonEvent::Installing { packages });
    let mut command = uv.command(scratch, offline);
    command.args(["pip", "sync", "--preview-features", "pylock", "--allow-empty-requirements", "--python"]);
    command.arg(root.join("bin/python")).arg(&list);
    places(&mut command, how.index_url, how.extra_index_urls, how.wheels);
    if how.fresh {
        command.arg("--no-cache");
    }
    run(uv, "install the packages", command, &names, &how.options)?;

    let (builder, Taken { files, bytes, compiled }) =
        ingest::take(transaction, interpreter, &root, &how.options)?;
    Ok(Environment { manifest: transaction.put_manifest(builder)?, files, bytes, packages, compiled })
}

fn run(
    uv: &Uv,
    operation: &'static str,
    mut command: std::process::Command,
    names: &Names,
    options: &PythonOptions<'_>,
) -> Result<(), PythonError> {
    let run = uv.run(operation, &mut command, options)?;
    if run.status.success() { Ok(()) } else { Err(classify::failure(operation, &names.clean(&run.stderr))) }
}
