//! `cargo xtask posix`: public suites that ask whether a filesystem behaves as POSIX says, written by others and run on
//! a cvs mount, in each of its forms, and in the same run on the native filesystem and on the overlay filesystems that
//! people use today.
//!
//! Every filesystem shows the same tree and is asked the same questions in the same places. What native fails too is
//! the suite's or the kernel's. What ours alone fails or skips makes the command fail, unless it is one of the
//! [`exceptions`], which the report names with their reasons. The table is Markdown, made to be pasted, and is printed
//! whatever breaks down on the way. All that the suites printed is kept in `target/posix/log`.

mod exceptions;
mod fsx;
mod pjdfstest;
mod program;
mod report;
mod site;
mod stress;

use std::fs;
use std::process::Command;

use crate::failure::{Failure, Outcome, fail};
use crate::lab::Lab;
use crate::project::{Project, is_root};
use crate::setup::{self, Purpose};
use crate::shell;
use program::log_dir;
use report::{Report, Tally};
use site::Site;

const USAGE: &str = "usage: cargo xtask posix [--quick] [--no-peers] [--seconds N] [SUITE...]";

struct Suite {
    name: &'static str,
    about: &'static str,
    run: fn(&mut Run<'_>) -> Outcome,
}

const SUITES: &[Suite] = &[
    Suite { name: "pjdfstest", about: "what each system call does and refuses", run: pjdfstest::run },
    Suite { name: "fsx", about: "random operations on a file, against what it must hold", run: fsx::run },
    Suite {
        name: "stress-ng",
        about: "each kind of operation as fast as it goes, verified",
        run: stress::run,
    },
];

/// Where in the tree a suite works.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    name: &'static str,
    /// From the root.
    dir: &'static str,
}

/// A directory that each site makes for itself, on ours and on the peers alone in the upper layer.
const OWN: Place = Place { name: "upper directory", dir: "own" };
/// A directory of the tree below, on ours and on the peers merged with the upper layer once something is written.
const MERGED: Place = Place { name: "lower directory", dir: "merged" };
const ROOT: Place = Place { name: "mount root", dir: "" };
/// The directory that ours may serve through a connection of its own.
const MODELS: Place = Place { name: "models/", dir: "models" };

/// A suite on a filesystem.
struct Run<'a> {
    lab: &'a Lab,
    site: &'a Site,
    /// How long a stressor runs.
    seconds: u64,
    found: Vec<(String, Tally)>,
}

impl Run<'_> {
    /// Tells what was found in a place; the same places, in the same order, on every filesystem.
    fn found(&mut self, place: impl Into<String>, tally: Tally) {
        self.found.push((place.into(), tally));
    }
}

struct Options {
    quick: bool,
    peers: bool,
    seconds: Option<u64>,
    suites: Vec<String>,
}

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    let options = parse(args)?;
    if !is_root() {
        fail!("the suites change owners, make devices and mount filesystems: run this as root");
    }
    setup::ensure(project, Purpose::Posix)?;
    Lab::build(project)?;
    let lab = Lab::open(project, "posix", options.quick)?;
    let report = compare(&lab, &options);
    lab.clear();
    let report = report?;
    println!("{}\n{report}", facts(&lab, &options)?);
    if report.native_is_better() {
        eprintln!("error: cvs fails what native passes; {} holds what was printed", log_dir(&lab).display());
        return Err(Failure::reported());
    }
    Ok(())
}

fn parse(args: &[String]) -> Outcome<Options> {
    let mut options = Options { quick: false, peers: true, seconds: None, suites: Vec::new() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--no-peers" => options.peers = false,
            "--seconds" => match args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0) {
                Some(seconds) => options.seconds = Some(seconds),
                None => fail!(usage, "--seconds takes a number above 0; {USAGE}"),
            },
            name if SUITES.iter().any(|s| s.name == name) => options.suites.push(name.to_owned()),
            other => fail!(usage, "there is no suite '{other}'; {USAGE}\n\n{}", listing()),
        }
    }
    Ok(options)
}

fn listing() -> String {
    SUITES.iter().map(|s| format!("  {:10} {}\n", s.name, s.about)).collect()
}

fn seconds(lab: &Lab, options: &Options) -> u64 {
    options.seconds.unwrap_or(lab.size(5, 1))
}

fn compare(lab: &Lab, options: &Options) -> Outcome<Report> {
    lab.empty(&log_dir(lab))?;
    let sites = site::sites(lab, options.peers)?;
    let mut report = Report::new(sites.iter().map(|site| (site.filesystem, site.role)).collect());
    let wanted = |suite: &&Suite| options.suites.is_empty() || options.suites.iter().any(|n| n == suite.name);
    for suite in SUITES.iter().filter(wanted) {
        for (at, site) in sites.iter().enumerate() {
            eprintln!("{} on {}", suite.name, site.filesystem);
            let seconds = seconds(lab, options);
            let mut run = Run { lab, site, seconds, found: Vec::new() };
            if let Err(failure) = (suite.run)(&mut run) {
                eprintln!("error: {}", failure.message());
                run.found("(broke down)", Tally::broken(failure.message()));
            }
            for (place, tally) in run.found {
                report.add(suite.name, &place, at, tally);
            }
        }
    }
    Ok(report)
}

/// What the table was made with.
fn facts(lab: &Lab, options: &Options) -> Outcome<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let below = shell::output(Command::new("findmnt").args(["-n", "-o", "FSTYPE", "-T"]).arg(lab.dir()))?;
    let mut facts = vec![
        format!("Linux {}", kernel.trim()),
        format!("native is ext4, and the overlays lie on {}", below.trim()),
        shell::output(lab.cvs().arg("--version"))?.trim().to_owned(),
    ];
    for program in ["fuse-overlayfs", "pjdfstest", "fsx", "stress-ng"] {
        // fuse-overlayfs names what it is built upon too, stress-ng what it was built with.
        let said = shell::output(lab.command(program).arg("--version"))?;
        let line = said.lines().find(|line| line.starts_with(program)).unwrap_or_default();
        let line = line.split(" (").next().unwrap_or_default();
        facts.push(line.replace(": version", "").replace(", version", ""));
    }
    facts.push(format!("fsx {}", fsx::about(lab)));
    facts.push(format!("stress-ng {} s a stressor", seconds(lab, options)));
    Ok(format!("{}.\n", facts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_suites() {
        let parse = |args: &[&str]| parse(&args.iter().map(|a| a.to_string()).collect::<Vec<_>>());
        let options = parse(&["--quick", "fsx", "--seconds", "60"]).unwrap();
        assert!(options.quick && options.peers);
        assert_eq!((options.seconds, options.suites), (Some(60), vec!["fsx".to_owned()]));
        assert!(!parse(&["--no-peers"]).unwrap().peers);
        for bad in [&["--seconds"][..], &["--seconds", "0"], &["--seconds", "fsx"], &["xfstests"]] {
            assert_eq!(parse(bad).err().map(|failure| failure.code()), Some(2), "{bad:?}");
        }
    }
}
