//! [pjdfstest](https://crates.io/crates/pjdfstest): each system call with what it must do and what it must refuse, to
//! root and to other users.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::program::{Finished, Job, finish};
use super::report::{Tally, UNFINISHED};
use super::{MERGED, MODELS, OWN, Place, ROOT, Run};
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::project::find_program;
use crate::shell;

/// Features that a Linux filesystem can have and that the suite does not take for granted. Timestamps are told apart
/// by sleeping: 10 ms are more than a tick of any kernel clock.
const CONFIG: &str = include_str!("../../../tests/pjdfstest.toml");

/// The suite works in temporary directories that it makes in each of these.
const PLACES: [Place; 4] = [OWN, MERGED, ROOT, MODELS];

/// What the tests that mount the filesystem read-only have in their names. A filesystem with a file that is unlinked
/// and open cannot be mounted so, and other tests leave such files: these run by themselves.
const READ_ONLY: &str = "erofs";

const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn run(run: &mut Run<'_>) -> Outcome {
    let config = run.lab.work("config")?;
    for remount in [false, true] {
        let (path, text) = (config_path(&config, remount), CONFIG.replace("REMOUNT", &remount.to_string()));
        std::fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
    }
    let other = run.lab.work("other-filesystem")?;
    shell::quiet(run.lab.command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&other))?;
    let done = PLACES.iter().try_for_each(|place| in_place(run, *place, &config, &other));
    shell::quiet(run.lab.command("umount").arg(&other))?;
    done
}

fn config_path(config: &Path, remount: bool) -> std::path::PathBuf {
    config.join(if remount { "pjdfstest-remount.toml" } else { "pjdfstest.toml" })
}

fn in_place(run: &mut Run<'_>, place: Place, config: &Path, other: &Path) -> Outcome {
    let start = |remount: bool, arguments: &dyn Fn(&mut Command)| {
        let mut command = suite(run.lab, config)?;
        command.arg("-c").arg(config_path(config, remount)).arg("-s").arg(other);
        arguments(&mut command);
        let part = if remount { " read-only" } else { "" };
        let log = format!("pjdfstest {} {}{part}", run.site.filesystem, place.name);
        finish(run.lab, Job { log, command, patience: PATIENCE })
    };
    let dir = run.site.at(place);
    // By a short name: the suite binds sockets, whose paths must fit into 108 bytes wherever a checkout lies.
    let most = start(false, &|command| {
        command.args(["-p", "/proc/self/cwd"]).current_dir(&dir);
    })?;
    // By its path, in which the suite looks for the mount.
    let rest = start(true, &|command| {
        command.arg("-p").arg(&dir).arg(READ_ONLY);
    })?;
    let tally = joined(&most, &rest)?;
    run.found(place.name, tally);
    Ok(())
}

/// The suite's program, for which `mount` is one that calls no helpers: remounting is the kernel's work, and the
/// helpers of FUSE filesystems want to mount a second time.
fn suite(lab: &Lab, config: &Path) -> Outcome<Command> {
    let programs = config.join("bin");
    let wrapper = programs.join("mount");
    if !wrapper.exists() {
        let Some(mount) = find_program("mount") else { fail!("there is no `mount` in PATH") };
        std::fs::create_dir_all(&programs).doing(|| format!("making {}", programs.display()))?;
        let text = format!("#!/bin/sh\nexec {} --internal-only \"$@\"\n", mount.display());
        std::fs::write(&wrapper, text).doing(|| format!("writing {}", wrapper.display()))?;
        shell::quiet(lab.command("chmod").arg("755").arg(&wrapper))?;
    }
    let mut command = lab.command(lab.tool("pjdfstest"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = [programs].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(dirs).unwrap_or_default());
    Ok(command)
}

/// The results of both parts: a test that one of them leaves out is in the other.
fn joined(most: &Finished, rest: &Finished) -> Outcome<Tally> {
    let (mut all, rest) = (tally(&most.stdout)?, tally(&rest.stdout)?);
    all.skipped.retain(|name| !name.contains(READ_ONLY));
    all.passed += rest.passed;
    all.failed.extend(rest.failed);
    all.skipped.extend(rest.skipped);
    Ok(all)
}

/// Reads a result for each test, `NAME WORD` with text below it, and checks them against the line that ends the run:
/// `Summary: 0 failed, 22 skipped, 376 passed, 0 expected failures, 398 total`.
fn tally(text: &str) -> Outcome<Tally> {
    let mut tally = Tally::default();
    for line in text.lines().filter(|line| !line.starts_with('\t')) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "ok"] => tally.passed += 1,
            [name, "FAILED"] => tally.failed.push(name.to_owned()),
            [name, "skipped"] => tally.skipped.push(name.to_owned()),
            _ => {}
        }
    }
    let counted = format!(
        "Summary: {} failed, {} skipped, {} passed, ",
        tally.failed.len(),
        tally.skipped.len(),
        tally.passed
    );
    match text.lines().rev().find(|line| line.starts_with("Summary: ")) {
        Some(summary) if summary.starts_with(&counted) => {}
        Some(summary) => fail!("pjdfstest says '{summary}', but its results add up to '{counted}'"),
        None => tally.failed.push(UNFINISHED.to_owned()),
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let results = "chmod::ctime::fifo          ok\n\
                       open::etxtbsy               FAILED\n\
                       \tassertion failed: `left == right`\n\
                       chown::erofs_named          skipped\n\
                       \tRemounts (allow_remount) are not allowed in the configuration file\n";
        let seen = Tally {
            passed: 1,
            failed: vec!["open::etxtbsy".to_owned()],
            skipped: vec!["chown::erofs_named".to_owned()],
            ..Tally::default()
        };
        let whole =
            format!("{results}\nSummary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n");
        assert_eq!(tally(&whole).unwrap(), seen);

        let cut = tally(results).unwrap();
        assert_eq!(cut.failed, ["open::etxtbsy", UNFINISHED]);

        let other =
            format!("{results}Summary: 2 failed, 1 skipped, 1 passed, 0 expected failures, 4 total\n");
        assert_eq!(
            tally(&other).unwrap_err().message(),
            "pjdfstest says 'Summary: 2 failed, 1 skipped, 1 passed, 0 expected failures, 4 total', \
             but its results add up to 'Summary: 1 failed, 1 skipped, 1 passed, '"
        );
    }
}
