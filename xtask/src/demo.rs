//! `cargo xtask demo`: builds the release `cvs` and shows the main job with it, end to end.
//!
//! The demonstration itself is a program of the tests' crate, which has the servers and the ComfyUI that it needs;
//! this only brings what is missing, builds both and hands over.

use std::os::unix::process::CommandExt;

use crate::failure::{Doing, Outcome, fail};
use crate::project::Project;
use crate::setup::{self, Purpose};
use crate::shell;

const USAGE: &str = "usage: cargo xtask demo [--repo URL[@REF]]";

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    match args {
        [] => {}
        [flag, _url] if flag == "--repo" => {}
        _ => fail!(usage, "{USAGE}"),
    }
    setup::ensure(project, Purpose::Test)?;
    shell::run(shell::cargo(project).args([
        "build",
        "--release",
        "--package",
        "cvs-cli",
        "--bin",
        "cvs",
        "--package",
        "cvs-tests",
        "--bin",
        "demo",
    ]))?;
    let dir = project.target().join("demo");
    std::fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
    let mut demo = shell::command(project, project.release("demo"));
    demo.args(args).env("CVS_BIN", project.release("cvs")).env("TMPDIR", dir);
    // It takes our place, so that Ctrl-C is its to handle: it has mounts to take down.
    let error = demo.exec();
    fail!("cannot start `{}`: {error}", shell::shown(&demo))
}
