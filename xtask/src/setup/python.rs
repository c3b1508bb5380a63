//! What comes from the Python package index: `uv`, and the wheels that tests install.
//!
//! `tools/uv` in the target directory is an environment that holds uv; `tools/bin/uv` leads to it.
//!
//! `test-wheels/KEY` holds the wheels of `tests/wheels/requirements.txt` for one interpreter, where KEY is its cache
//! tag and platform, with `index.json` and `*.metadata` by `tests/wheels/describe.py`. Its `requirements.txt` is a
//! copy, written last: the wheels are whole and current when it equals the one in the repository. `cvs_tests` reads
//! this directory, and nothing else writes it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Outcome, fail};
use crate::project::{Project, find_program};
use crate::shell;

/// The uv that tests and benchmarks run.
pub(super) const UV: &str = "0.13.9";

/// Printed by the interpreter that the wheels are for; `cvs_tests` asks the same.
const KEY: &str =
    "import sys, sysconfig; print(sys.implementation.cache_tag + '-' + sysconfig.get_platform())";

/// Whether the `uv` that tests find is the pinned one.
pub(super) fn has_uv(project: &Project) -> bool {
    let own = project.tools().join("bin/uv");
    let uv = if own.is_file() { Some(own) } else { find_program("uv") };
    uv.is_some_and(|uv| {
        let version = shell::output(Command::new(uv).arg("--version")).unwrap_or_default();
        version.split_whitespace().nth(1) == Some(UV)
    })
}

pub(super) fn install_uv(project: &Project) -> Outcome {
    if has_uv(project) {
        return Ok(());
    }
    println!("Installing uv {UV} from the Python package index");
    let dir = project.tools().join("uv");
    make_environment(project, "python3".as_ref(), &dir)?;
    shell::run(pip(project, &dir).args(["install", "--quiet"]).arg(format!("uv=={UV}")))?;
    let bin = project.tools().join("bin");
    std::fs::create_dir_all(&bin).doing(|| format!("making {}", bin.display()))?;
    // By rename, so that another run of ours always finds one.
    let new = bin.join(format!("uv.{}", std::process::id()));
    std::os::unix::fs::symlink("../uv/bin/uv", &new).doing(|| format!("making {}", new.display()))?;
    std::fs::rename(&new, bin.join("uv")).doing(|| format!("putting a link to uv into {}", bin.display()))
}

/// An environment with pip in it, made anew.
fn make_environment(project: &Project, interpreter: &OsStr, dir: &Path) -> Outcome {
    shell::run(shell::command(project, interpreter).args(["-I", "-m", "venv", "--clear"]).arg(dir))
}

fn pip(project: &Project, environment: &Path) -> Command {
    let mut pip = shell::command(project, environment.join("bin/python"));
    pip.args(["-I", "-m", "pip", "--disable-pip-version-check"]);
    pip
}

/// The interpreter that tests run ComfyUI with.
fn interpreter() -> OsString {
    std::env::var_os("CVS_TEST_PYTHON").unwrap_or_else(|| "python3".into())
}

fn list(project: &Project) -> PathBuf {
    project.root().join("tests/wheels/requirements.txt")
}

/// Where the wheels of the tests' interpreter belong.
fn wheels_dir(project: &Project) -> Outcome<PathBuf> {
    let key = shell::output(shell::command(project, interpreter()).args(["-I", "-c", KEY]))?;
    Ok(project.target().join("test-wheels").join(key.trim()))
}

/// Whether the wheels are there, all of them and those of today's list.
pub(super) fn has_wheels(project: &Project) -> bool {
    let Ok(dir) = wheels_dir(project) else { return false };
    let read = |path: PathBuf| std::fs::read(path).ok();
    let wanted = read(list(project));
    wanted.is_some() && read(dir.join("requirements.txt")) == wanted
}

pub(super) fn download_wheels(project: &Project) -> Outcome {
    if has_wheels(project) {
        return Ok(());
    }
    let dir = wheels_dir(project)?;
    println!("Downloading the tests' wheels from the Python package index");
    let new = dir.with_extension(format!("new-{}", std::process::id()));
    // An environment of the interpreter itself, whose pip knows which wheels it takes.
    let environment = project.tools().join("wheels-python");
    make_environment(project, &interpreter(), &environment)?;
    std::fs::create_dir_all(&new).doing(|| format!("making {}", new.display()))?;
    let downloaded = download(project, &environment, &new);
    // Neither the environment nor half a download is of use to the next try; what failed already has words.
    let _ = std::fs::remove_dir_all(&environment);
    if let Err(failure) = downloaded {
        let _ = std::fs::remove_dir_all(&new);
        return Err(failure);
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir).doing(|| format!("removing {}", dir.display()))?;
    }
    std::fs::rename(&new, &dir).doing(|| format!("renaming {}", new.display()))
}

fn download(project: &Project, environment: &Path, into: &Path) -> Outcome {
    let list = list(project);
    let mut download = pip(project, environment);
    // Every requirement is in the list, and one that is not must not slip in.
    download.args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(into);
    shell::run(download.arg("--requirement").arg(&list))?;
    let script = project.root().join("tests/wheels/describe.py");
    shell::run(shell::command(project, environment.join("bin/python")).arg("-I").arg(script).arg(into))?;
    let copy = into.join("requirements.txt");
    let copied = std::fs::copy(&list, &copy);
    if copied.doing(|| format!("copying {}", list.display()))? == 0 {
        fail!("{} is empty", list.display());
    }
    Ok(())
}
