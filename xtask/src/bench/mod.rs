//! `cargo xtask bench`: named comparisons with what people use today, each a table of one run.
//!
//! Every figure stands beside its peers', measured in the same run, on the same data, on the same disk, in turns, so
//! that what slows the machine slows all of them. A figure is the median of several rounds. Data is made once under
//! `target/bench/data` and kept; stores and mounts are made anew for each benchmark and taken away after it.
//! Tables are Markdown, made to be pasted.
//!
//! The `cvs` measured is this checkout's release build, or the program that the variable CVS_BIN names.

mod check;
mod data;
mod disk;
mod download;
mod fs;
mod import;
mod ingest;
mod machine;
mod measure;
mod mount;
mod read;
mod run;
mod walk;

use crate::failure::{Outcome, fail};
use crate::lab::Lab;
use crate::project::Project;
use crate::setup::{self, Purpose};

struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&Lab) -> Outcome,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "ingest",
        about: "taking 30,000 small files, and one of 4 GiB, into the store",
        run: ingest::run,
    },
    Bench {
        name: "download",
        about: "a model of 4 GiB from nginx on loopback, against aria2c and curl",
        run: download::run,
    },
    Bench {
        name: "import",
        about: "an install of 20 GiB, or what fits twice, from the disk, against b3sum",
        run: import::run,
    },
    Bench { name: "read", about: "reading a 4 GiB file through the mount", run: read::run },
    Bench { name: "walk", about: "listing and reading 30,000 files through the mount", run: walk::run },
    Bench { name: "mount", about: "time to mount, and memory, by number of entries", run: mount::run },
    Bench {
        name: "fs",
        about: "the mount against the native filesystem, overlayfs and fuse-overlayfs",
        run: fs::run,
    },
    Bench { name: "disk", about: "space of ten versions that differ in one node each", run: disk::run },
    Bench { name: "run", about: "starting ComfyUI from the mount, and by run-ui", run: run::run },
    Bench {
        name: "environment",
        about: "making a Python environment whose wheels are in uv's cache",
        run: run::environment,
    },
    Bench { name: "realize", about: "a version on plain files", run: run::realize },
    Bench { name: "check", about: "gc --dry-run and fsck over 100,000 objects", run: check::run },
];

const USAGE: &str =
    "usage: cargo xtask bench [--runs N] [--quick] [--version ID] [--size GIB] [NAME...|fs:PART...]";

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    let mut runs = None;
    let mut quick = false;
    let mut version = None;
    let mut gib = None;
    let (mut names, mut parts) = (Vec::new(), Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => quick = true,
            "--runs" => match args.next().and_then(|n| n.parse().ok()) {
                Some(n) if n > 0 => runs = Some(n),
                _ => fail!(usage, "--runs takes a number from 1 up; {USAGE}"),
            },
            "--version" => match args.next() {
                Some(id) => version = Some(id.clone()),
                None => fail!(usage, "--version takes a version of yours, which `run` starts; {USAGE}"),
            },
            "--size" => match args.next().and_then(|n| n.parse().ok()) {
                Some(n) if n > 0 => gib = Some(n),
                _ => fail!(usage, "--size takes a number of GiB, the size of what `import` imports; {USAGE}"),
            },
            name if BENCHES.iter().any(|b| b.name == name) => names.push(name),
            part if fs::parts().any(|name| part.strip_prefix("fs:") == Some(name)) => {
                names.push("fs");
                parts.extend(part.strip_prefix("fs:").map(str::to_owned));
            }
            other => fail!(usage, "there is no benchmark '{other}'; {USAGE}\n\n{}", listing()),
        }
    }
    setup::ensure(project, Purpose::Bench)?;
    Lab::build(project)?;

    let lab = Lab::open(project, "bench", quick)?.with_runs(runs.unwrap_or(if quick { 1 } else { 5 }));
    let lab = lab.with_version(version).with_parts(parts).with_gib(gib);
    println!("{}", machine::facts(&lab)?);
    let mut failed = Vec::new();
    for bench in BENCHES.iter().filter(|b| names.is_empty() || names.contains(&b.name)) {
        println!("## {}: {}\n", bench.name, bench.about);
        // One benchmark that fails costs its own figures, not those of an hour's others.
        let outcome = (bench.run)(&lab);
        lab.clear();
        if let Err(failure) = outcome {
            eprintln!("error: {}: {}\n", bench.name, failure.message());
            failed.push(bench.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { fail!("without figures: {}", failed.join(", ")) }
}

fn listing() -> String {
    let parts = fs::parts().map(|name| format!("  fs:{name:8} of that, this part\n"));
    BENCHES.iter().map(|b| format!("  {:11} {}\n", b.name, b.about)).chain(parts).collect()
}
