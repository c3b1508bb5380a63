//! `cargo xtask fuzz`: each parser of what comes from outside under libFuzzer, for a while.
//!
//! A target starts from what earlier runs found worth keeping (under the target directory) and from the committed
//! samples, which are only read. An input that panics, takes too long or takes too much memory is a finding: it is
//! kept, told, and fails the command. Once mended, it belongs into the committed corpus, which the tests replay.
//!
//! cargo-fuzz builds with the toolchain of the repository. The sanitizers, which need another one, are left out: our
//! code has hardly any `unsafe`, and the targets watch their memory themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Outcome, fail};
use crate::project::Project;
use crate::setup::{self, Purpose};
use crate::shell::{self, Stream};
use crate::table::{Table, bytes};

const USAGE: &str = "usage: cargo xtask fuzz [--seconds N] [TARGET...]";
/// The crate of the targets.
const CRATE: &str = "tests/fuzz";
/// Of the whole process, the corpus in its memory included.
const MEMORY_MIB: u32 = 1024;
/// One input may take this long.
const INPUT_SECONDS: u32 = 10;
/// Longer inputs find nothing that these do not, later.
const LONGEST: u32 = 64 << 10;

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    let fuzz = Fuzz { project, dir: project.root().join(CRATE), work: project.target().join("fuzz") };
    let known = fuzz.targets()?;
    let mut seconds = 60;
    let mut chosen: Vec<&str> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => match args.next().and_then(|n| n.parse().ok()) {
                Some(n) if n > 0 => seconds = n,
                _ => fail!(usage, "--seconds takes a number from 1 up; {USAGE}"),
            },
            name if known.iter().any(|target| target == name) => chosen.push(name),
            other => fail!(usage, "there is no target '{other}'; {USAGE}\n\ntargets: {}", known.join(", ")),
        }
    }
    if chosen.is_empty() {
        chosen = known.iter().map(String::as_str).collect();
    }
    setup::ensure(project, Purpose::Fuzz)?;
    fuzz.build(&chosen)?;
    let mut table = Table::new(&["target", "executions", "a second", "corpus", "memory", "findings"]);
    let mut findings = Vec::new();
    for name in &chosen {
        println!("== {name}");
        let (row, found) = fuzz.target(name, seconds)?;
        table.row(row);
        findings.extend(found);
    }
    table.print();
    for file in &findings {
        let name = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        eprintln!("finding: {}; {} {0} shows it again", file.display(), fuzz.program(&name).display());
    }
    match findings.len() {
        0 => Ok(()),
        count => fail!("{count} inputs that fail"),
    }
}

struct Fuzz<'a> {
    project: &'a Project,
    dir: PathBuf,
    work: PathBuf,
}

impl Fuzz<'_> {
    /// The names of the targets: each has its samples.
    fn targets(&self) -> Outcome<Vec<String>> {
        let names = files(&self.dir.join("corpus"))?;
        Ok(names.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn triple(&self) -> Outcome<String> {
        let told = shell::output(shell::command(self.project, "rustc").arg("-vV"))?;
        match told.lines().find_map(|line| line.strip_prefix("host: ")) {
            Some(triple) => Ok(triple.to_owned()),
            None => fail!("`rustc -vV` does not say the host: {told}"),
        }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.work.join("bin").join(name)
    }

    /// Builds the chosen targets, with the coverage that libFuzzer is led by.
    fn build(&self, chosen: &[&str]) -> Outcome {
        let triple = self.triple()?;
        for name in chosen {
            let mut cargo = shell::cargo(self.project);
            cargo.args(["fuzz", "build", "--sanitizer", "none", "--strip-dead-code"]);
            cargo.args(["--features", "libfuzzer", "--fuzz-dir"]).arg(&self.dir);
            cargo.arg("--target-dir").arg(&self.work).arg(name);
            // The program runs for a minute; what makes a release small and fast takes longer than that.
            for (name, value) in
                [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "2"), ("STRIP", "none")]
            {
                cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
            }
            shell::run(&mut cargo)?;
            let (built, program) = (self.work.join(&triple).join("release").join(name), self.program(name));
            fs::create_dir_all(self.work.join("bin"))
                .doing(|| "making the programs' directory".to_owned())?;
            fs::copy(&built, &program).doing(|| format!("copying {}", built.display()))?;
        }
        Ok(())
    }

    /// Runs one target: its row of the table, and what it found.
    fn target(&self, name: &str, seconds: u32) -> Outcome<(Vec<String>, Vec<PathBuf>)> {
        let [corpus, findings, scratch] =
            ["corpus", "findings", "scratch"].map(|part| self.work.join(part).join(name));
        // What an earlier run found is told again only when it is found again.
        for dir in [&findings, &scratch] {
            if dir.exists() {
                fs::remove_dir_all(dir).doing(|| format!("emptying {}", dir.display()))?;
            }
        }
        for dir in [&corpus, &findings, &scratch] {
            fs::create_dir_all(dir).doing(|| format!("making {}", dir.display()))?;
        }
        let mut command = Command::new(self.program(name));
        command.arg(format!("-max_total_time={seconds}"));
        command.args([format!("-rss_limit_mb={MEMORY_MIB}"), format!("-timeout={INPUT_SECONDS}")]);
        command.args([format!("-max_len={LONGEST}"), "-print_final_stats=1".to_owned()]);
        command.arg(format!("-artifact_prefix={}/", findings.display()));
        command.arg(&corpus).arg(self.dir.join("corpus").join(name));
        // A target that needs files makes them here.
        command.env("TMPDIR", &scratch).current_dir(&scratch).stdin(std::process::Stdio::null());
        let mut stats = Stats::default();
        let log = self.work.join(format!("{name}.log"));
        let mut said = String::new();
        let status = shell::listen(&mut command, Stream::Stderr, |line| {
            stats.read(line);
            said.push_str(line);
            said.push('\n');
        })?;
        fs::write(&log, &said).doing(|| format!("writing {}", log.display()))?;
        let found = files(&findings)?;
        if !found.is_empty() {
            // The panic and what libFuzzer says of it; the rest is progress.
            said.lines().filter(|line| !line.starts_with('#')).for_each(|line| eprintln!("{line}"));
        } else if !status.success() {
            fail!("{name} ended with {status} and kept no input; {} says what it said", log.display());
        }
        fs::remove_dir_all(&scratch).doing(|| format!("removing {}", scratch.display()))?;
        let row = vec![
            name.to_owned(),
            stats.executions.to_string(),
            stats.rate.to_string(),
            files(&corpus)?.len().to_string(),
            bytes(stats.peak_mib << 20),
            found.len().to_string(),
        ];
        Ok((row, found))
    }
}

/// What libFuzzer says of a run at its end: `stat::number_of_executed_units: 1234`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stats {
    executions: u64,
    rate: u64,
    peak_mib: u64,
}

impl Stats {
    fn read(&mut self, line: &str) {
        let Some((name, value)) = line.strip_prefix("stat::").and_then(|rest| rest.split_once(':')) else {
            return;
        };
        let Ok(value) = value.trim().parse() else { return };
        match name {
            "number_of_executed_units" => self.executions = value,
            "average_exec_per_sec" => self.rate = value,
            "peak_rss_mb" => self.peak_mib = value,
            _ => {}
        }
    }
}

/// What a directory holds, in the order of the names.
fn files(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).doing(|| format!("listing {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.doing(|| format!("listing {}", dir.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_run() {
        let mut stats = Stats::default();
        for line in [
            "#2097152\tpulse  cov: 1194 ft: 3201 corp: 207/11Kb exec/s: 699050 rss: 449Mb",
            "stat::number_of_executed_units: 2541683",
            "stat::average_exec_per_sec:     42361",
            "stat::new_units_added:          612",
            "stat::peak_rss_mb:              453",
        ] {
            stats.read(line);
        }
        assert_eq!(stats, Stats { executions: 2_541_683, rate: 42_361, peak_mib: 453 });
    }
}
