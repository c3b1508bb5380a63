//! `cargo xtask demo`: builds the release `cvs` and shows the main job with it, end to end.
//!
//! The demonstration itself is a program of the tests' crate, which has the servers and the ComfyUI that it needs;
//! this only brings what is missing, builds both and hands over.

use crate::failure::{Failure, Outcome, fail};
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
    let mut demo = shell::command(project, project.release("demo"));
    demo.arg("--cvs").arg(project.release("cvs"));
    demo.arg("--dir").arg(project.target().join("demo"));
    // It has said itself which step failed, and why.
    shell::run(demo.args(args)).map_err(|_| Failure::reported())
}
