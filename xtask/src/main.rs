//! The repository's own commands, run as `cargo xtask COMMAND`.
//!
//! This crate has no dependencies: it must build on a machine that has nothing but Rust and a C compiler,
//! because it is what brings the rest. One command is one module with a `run` function; what they share is in
//! [`project`] (where things are), [`shell`] (running programs), [`lab`] (where filesystems are compared), [`table`]
//! (what comes of it) and [`failure`] (how a command fails).

mod bench;
mod demo;
mod failure;
mod fuzz;
mod lab;
mod posix;
mod project;
mod setup;
mod shell;
mod table;
mod test;
mod tidy;

use std::process::ExitCode;

use failure::{Outcome, fail};
use project::Project;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup [--check]            install what the project needs on Debian or Ubuntu; --check only looks
  test [--long] [FILTER...]  every check and every test; with FILTERs, only the tests whose names match
  demo [--repo URL[@REF]]    the main job, end to end, on the tests' own ComfyUI or on the one at URL
  bench [--runs N] [--quick] [--version ID] [--size GIB] [NAME...|fs:PART...]
                             compare with what people use today; without NAMEs, all of them; `run` can start
                             a version of yours, `import` takes GIB for the size of its install
  posix [--quick] [--no-peers] [--seconds N] [SUITE...]
                             public POSIX suites on a mount and on other filesystems; without SUITEs, all of
                             them; N seconds for each stressor; needs root
  fuzz [--seconds N] [TARGET...]
                             fuzz the parsers of what comes from outside, each for a minute or N seconds
  tidy                       the repository's own rules
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    match dispatch(&command, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A failure without words has been reported already, line by line.
            if !failure.message().is_empty() {
                eprintln!("error: {}", failure.message());
            }
            ExitCode::from(failure.code())
        }
    }
}

fn dispatch(command: &str, args: &[String]) -> Outcome {
    let project = Project::find()?;
    match command {
        "setup" => setup::run(&project, args),
        "test" => test::run(&project, args),
        "demo" => demo::run(&project, args),
        "bench" => bench::run(&project, args),
        "posix" => posix::run(&project, args),
        "fuzz" => fuzz::run(&project, args),
        "tidy" => tidy::run(&project, args),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        "" => fail!(usage, "which command?\n\n{USAGE}"),
        other => fail!(usage, "there is no command '{other}'\n\n{USAGE}"),
    }
}
