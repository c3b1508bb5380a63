//! `cargo xtask posix`: public suites that ask whether a filesystem behaves as POSIX says, written by others and run on
//! a cvs mount and, in the same run, on the native filesystem and on the overlay filesystems that people use today.
//!
//! Every filesystem shows the same tree and is asked the same questions in the same places. What native fails too is
//! the suite's or the kernel's; what ours alone fails makes the command fail. The table is Markdown, made to be
//! pasted. All that the suites printed is kept in `target/posix/log`.

mod fsx;
mod pjdfstest;
mod report;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::failure::{Doing, Failure, Outcome, fail};
use crate::lab::Lab;
use crate::project::{Project, is_root};
use crate::setup::{self, Purpose};
use crate::shell;
use report::{Report, Tally};

const USAGE: &str = "usage: cargo xtask posix [--quick] [SUITE...]";

/// What a suite found on one filesystem, by place: the same places, in the same order, on every filesystem.
type Findings = Vec<(&'static str, Tally)>;

struct Suite {
    name: &'static str,
    about: &'static str,
    run: fn(&Lab, &Site) -> Outcome<Findings>,
}

const SUITES: &[Suite] = &[
    Suite { name: "pjdfstest", about: "what each system call does and refuses", run: pjdfstest::run },
    Suite { name: "fsx", about: "random operations on a file, against what it must hold", run: fsx::run },
];

/// A filesystem under test, and where it shows the tree.
struct Site {
    filesystem: &'static str,
    root: PathBuf,
}

/// A directory that each site makes for itself, on ours and on the peers alone in the upper layer.
const OWN: &str = "own";

/// A directory of the tree below, on ours and on the peers merged with the upper layer once something is written.
const MERGED: &str = "merged";

/// How long a suite may take, in seconds, before the filesystem is taken to hang.
const PATIENCE: &str = "600";

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    let mut quick = false;
    let mut names = Vec::new();
    for arg in args {
        match arg.as_str() {
            "--quick" => quick = true,
            name if SUITES.iter().any(|s| s.name == name) => names.push(name),
            other => fail!(usage, "there is no suite '{other}'; {USAGE}\n\n{}", listing()),
        }
    }
    if !is_root() {
        fail!("the suites change owners, make devices and mount overlayfs: run this as root");
    }
    setup::ensure(project, Purpose::Posix)?;
    shell::run(shell::cargo(project).args(["build", "--release", "--package", "cvs-cli", "--bin", "cvs"]))?;

    let lab = Lab::open(project, "posix", quick)?;
    let report = compare(&lab, |suite| names.is_empty() || names.contains(&suite.name));
    lab.clear();
    let report = report?;
    println!("{}\n{report}", facts(&lab)?);
    if report.native_is_better() {
        eprintln!("error: cvs fails what native passes; {} holds what was printed", log_dir(&lab).display());
        return Err(Failure::reported());
    }
    Ok(())
}

fn listing() -> String {
    SUITES.iter().map(|s| format!("  {:10} {}\n", s.name, s.about)).collect()
}

fn compare(lab: &Lab, wanted: impl Fn(&Suite) -> bool) -> Outcome<Report> {
    let logs = log_dir(lab);
    lab.empty(&logs)?;
    let sites = sites(lab)?;
    let mut report = Report::new(sites.iter().map(|site| site.filesystem).collect());
    for suite in SUITES.iter().filter(|suite| wanted(suite)) {
        for site in &sites {
            eprintln!("{} on {}", suite.name, site.filesystem);
            for (place, tally) in (suite.run)(lab, site)? {
                report.add(suite.name, place, tally);
            }
        }
    }
    Ok(report)
}

/// The same tree on every filesystem: ours first, native second. Native has a copy, so that what is written there does
/// not show through the others.
fn sites(lab: &Lab) -> Outcome<Vec<Site>> {
    let source = lab.work("source")?;
    fs::create_dir(source.join(MERGED)).doing(|| format!("making {}/{MERGED}", source.display()))?;
    fsx::furnish(&source.join(MERGED))?;
    let native = lab.dir().join("work").join("native");
    shell::quiet(lab.command("cp").arg("-a").arg(&source).arg(&native))?;
    shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(&source).args(["--as", "posix"]))?;
    let sites = vec![
        Site { filesystem: report::OURS, root: lab.mount("posix", &["--allow-other"])? },
        Site { filesystem: report::NATIVE, root: native },
        Site { filesystem: "overlayfs", root: lab.overlayfs(&source)? },
        Site { filesystem: "fuse-overlayfs", root: lab.fuse_overlayfs(&source)? },
    ];
    for site in &sites {
        let own = site.root.join(OWN);
        fs::create_dir(&own).doing(|| format!("making {}", own.display()))?;
    }
    Ok(sites)
}

/// What the table was made with.
fn facts(lab: &Lab) -> Outcome<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let native = shell::output(Command::new("findmnt").args(["-n", "-o", "FSTYPE", "-T"]).arg(lab.dir()))?;
    let mut facts = vec![format!("Linux {}", kernel.trim()), format!("native is {}", native.trim())];
    facts.push(shell::output(lab.cvs().arg("--version"))?.trim().to_owned());
    for program in ["fuse-overlayfs", "pjdfstest", "fsx"] {
        // fuse-overlayfs names what it is built upon too.
        let said = shell::output(lab.command(program).arg("--version"))?;
        let line = said.lines().find(|line| line.starts_with(program)).unwrap_or_default();
        facts.push(line.replace(": version", ""));
    }
    let size = if lab.is_quick() { "; quick: short runs" } else { "" };
    Ok(format!("{}{size}.\n", facts.join("; ")))
}

fn log_dir(lab: &Lab) -> PathBuf {
    lab.dir().join("log")
}

/// What a suite's program did.
struct Finished {
    status: ExitStatus,
    stdout: String,
}

/// Runs a suite's program to its end, or to the end of our patience, and keeps what it prints under `log`.
fn finish(lab: &Lab, log: &str, program: &str, args: impl FnOnce(&mut Command)) -> Outcome<Finished> {
    let mut command = lab.command("timeout");
    command.args(["--kill-after=10", PATIENCE, program]);
    args(&mut command);
    let out = command.output().doing(|| format!("starting `{}`", shell::shown(&command)))?;
    let path = log_dir(lab).join(format!("{}.log", log.replace(' ', "-")));
    write(&path, &[shell::shown(&command).as_bytes(), b"\n\n", &out.stdout, &out.stderr])?;
    Ok(Finished { status: out.status, stdout: String::from_utf8_lossy(&out.stdout).into_owned() })
}

fn write(path: &Path, parts: &[&[u8]]) -> Outcome {
    File::create(path)
        .and_then(|mut file| parts.iter().try_for_each(|part| file.write_all(part)))
        .doing(|| format!("writing {}", path.display()))
}
