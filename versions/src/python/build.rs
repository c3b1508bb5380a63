//! From a lock to an environment in a transaction: `uv venv` and `uv pip sync` in its scratch directory, then the normal
//! form.

use std::fs;
use std::path::Path;

use cvs_store::{BlobId, Index, ManifestId, Transaction};
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
    let sync = |list: &Path, offline: bool| {
        let mut command = uv.command(scratch, offline);
        command.args([
            "pip",
            "sync",
            "--preview-features",
            "pylock",
            "--allow-empty-requirements",
            "--python",
        ]);
        command.arg(root.join("bin/python")).arg(list);
        places(&mut command, how.index_url, how.extra_index_urls, how.wheels);
        if how.fresh {
            command.arg("--no-cache");
        }
        command
    };
    let index = transaction.store().index();
    let seen = Seen::of(pylock, interpreter);
    let cached = if offline || how.fresh { None } else { seen.cached(index, pylock) };
    let mut installed = false;
    if let Some((cached, whole)) = cached {
        let list = list.with_file_name("pylock.cached.toml");
        let text = lock::to_toml(&cached, how.wheels)?;
        fs::write(&list, text).map_err(|source| PythonError::io("write", &list, source))?;
        // A cache that was emptied since is no failure: everything comes below.
        let run = uv.run("install the packages", &mut sync(&list, true), &how.options)?;
        installed = run.status.success() && whole;
    }
    if !installed {
        run(uv, "install the packages", sync(&list, offline), &names, &how.options)?;
    }
    if !how.fresh {
        seen.remember(index);
    }

    let (builder, Taken { files, bytes, compiled }) =
        ingest::take(transaction, interpreter, &root, &how.options)?;
    Ok(Environment { manifest: transaction.put_manifest(builder)?, files, bytes, packages, compiled })
}

/// Which packages uv has installed before and therefore has in its cache. Their archives never change, because their
/// hashes are locked. Yet uv asks for an archive again when its server did not say how long it keeps, and takes it and
/// unpacks it again when that server cannot say that it is the same: many mirrors are like that. So what was there
/// before is installed without the network first.
struct Seen {
    keys: Vec<String>,
}

impl Seen {
    fn of(pylock: &Value, interpreter: &Interpreter) -> Self {
        let entries = pylock.get("packages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let Interpreter { cache_tag, platform, .. } = interpreter;
        let key = |entry: &Value| {
            let id = BlobId::of(format!("{cache_tag} {platform} {entry}").as_bytes());
            format!("uv:{id}")
        };
        Self { keys: entries.iter().map(key).collect() }
    }

    /// The part of the lock that was seen, if any, and whether that is all of it.
    fn cached(&self, index: &Index, pylock: &Value) -> Option<(Value, bool)> {
        let mut cached = pylock.clone();
        let entries = cached.get_mut("packages").and_then(Value::as_array_mut)?;
        let mut seen = self.keys.iter().map(|key| index.fact(key).is_some());
        entries.retain(|_| seen.next().unwrap_or(false));
        let count = entries.len();
        (count > 0).then_some((cached, count == self.keys.len()))
    }

    fn remember(&self, index: &Index) {
        for key in &self.keys {
            index.put_fact(key, "installed");
        }
    }
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
