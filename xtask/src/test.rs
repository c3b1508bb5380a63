//! `cargo xtask test`: everything that must hold before a change is taken.
//!
//! Set-up, then the checks (format, the repository's own rules, lints, documentation), then every test of the
//! workspace against a freshly built `cvs`. A failed check does not hide the tests: all run, and the command ends
//! with one line, `N passed, N failed`, which counts the tests and, as one failure each, the steps that failed.
//! With filters only the tests whose names match run, and the checks do not.

use std::process::Command;

use crate::failure::{Failure, Outcome, fail};
use crate::project::{Project, find_program};
use crate::setup::{self, Purpose};
use crate::shell::{self, Stream};
use crate::tidy;

/// What the runners counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

struct Options {
    long: bool,
    filters: Vec<String>,
}

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    let options = parse(args)?;
    let ci = std::env::var("CI").is_ok_and(|v| v == "true" || v == "1");
    setup::ensure(project, Purpose::Test)?;
    if ci && !std::path::Path::new("/dev/fuse").exists() {
        fail!(
            "this machine has no /dev/fuse, and with CI=true no test may be skipped; load the fuse module, or unset CI"
        );
    }

    let mut tally = Tally::default();
    if options.filters.is_empty() {
        checks(project, &mut tally);
    }
    // One build of everything, so that the end-to-end tests find a `cvs` as new as they are.
    let built = step("build", &mut tally, || {
        shell::run(cargo(project, &options, ci).args(["build", "--workspace", "--all-targets"]))
    });
    if built {
        for mut runner in runners(project, &options, ci) {
            runner.run(&mut tally);
        }
        if tally == Tally::default() && !options.filters.is_empty() {
            fail!("no test has a name that contains {}", options.filters.join(" or "));
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 { Ok(()) } else { Err(Failure::reported()) }
}

fn parse(args: &[String]) -> Outcome<Options> {
    let mut options = Options { long: false, filters: Vec::new() };
    for arg in args {
        match arg.as_str() {
            "--long" => options.long = true,
            flag if flag.starts_with('-') => {
                fail!(usage, "there is no flag '{flag}'; usage: cargo xtask test [--long] [FILTER...]")
            }
            filter => options.filters.push(filter.to_owned()),
        }
    }
    Ok(options)
}

fn checks(project: &Project, tally: &mut Tally) {
    step("format", tally, || {
        shell::run(shell::cargo(project).args(["fmt", "--all", "--check"]))
            .map_err(|_| Failure::new("`cargo fmt --all` puts it right".to_owned()))
    });
    step("tidy", tally, || tidy::run(project, &[]));
    step("lints", tally, || {
        let mut cmd = shell::cargo(project);
        shell::run(cmd.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    step("documentation", tally, || {
        let mut cmd = shell::cargo(project);
        shell::run(
            cmd.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
}

/// Runs one step under its heading; one that fails is told at once and counted.
fn step(name: &str, tally: &mut Tally, body: impl FnOnce() -> Outcome) -> bool {
    println!("== {name}");
    let Err(failure) = body() else { return true };
    if !failure.message().is_empty() {
        eprintln!("error: {}", failure.message());
    }
    tally.failed += 1;
    false
}

/// A cargo command with the environment that our tests read.
fn cargo(project: &Project, options: &Options, ci: bool) -> Command {
    let mut cmd = shell::cargo(project);
    if ci {
        cmd.env("CVS_TEST_REQUIRE_FUSE", "1");
    }
    if options.long {
        cmd.env("CVS_TEST_LONG", "1");
    }
    cmd
}

struct Runner {
    name: &'static str,
    command: Command,
    stream: Stream,
    read: fn(&str) -> Option<Tally>,
}

/// cargo-nextest where it is installed, with cargo's own runner for documentation tests, which nextest leaves out.
fn runners(project: &Project, options: &Options, ci: bool) -> Vec<Runner> {
    let libtest = |args: &[&str]| {
        let mut command = cargo(project, options, ci);
        command.args(["test", "--workspace", "--no-fail-fast"]).args(args);
        command.arg("--").args(&options.filters);
        command
    };
    if find_program("cargo-nextest").is_none() {
        let command = libtest(&[]);
        return vec![Runner { name: "tests", command, stream: Stream::Stdout, read: libtest_summary }];
    }
    let mut command = cargo(project, options, ci);
    command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass", "--"]);
    command.args(&options.filters);
    vec![
        Runner { name: "tests", command, stream: Stream::Stderr, read: nextest_summary },
        Runner {
            name: "documentation tests",
            command: libtest(&["--doc"]),
            stream: Stream::Stdout,
            read: libtest_summary,
        },
    ]
}

impl Runner {
    fn run(&mut self, tally: &mut Tally) {
        println!("== {}", self.name);
        let mut seen = Tally::default();
        let status = shell::tee(&mut self.command, self.stream, |line| {
            if let Some(part) = (self.read)(line) {
                seen.passed += part.passed;
                seen.failed += part.failed;
            }
        });
        let broken = match status {
            Ok(status) => (!status.success()).then(|| format!("`{}`: {status}", shell::shown(&self.command))),
            Err(failure) => Some(failure.message().to_owned()),
        };
        // A runner can fail without a failed test: it did not build, or was killed.
        if let Some(why) = broken
            && seen.failed == 0
        {
            eprintln!("error: {why}");
            seen.failed = 1;
        }
        tally.passed += seen.passed;
        tally.failed += seen.failed;
    }
}

/// libtest's closing line: `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
fn libtest_summary(line: &str) -> Option<Tally> {
    let line = without_colours(line);
    let counts = line.trim_start().strip_prefix("test result: ")?;
    Some(Tally { passed: count_before(counts, " passed")?, failed: count_before(counts, " failed")? })
}

/// nextest's closing line: `Summary [ 0.013s] 4 tests run: 3 passed (1 leaky), 1 failed, 0 skipped`. What ran and
/// did not pass failed, by whatever name (timed out, could not be started).
fn nextest_summary(line: &str) -> Option<Tally> {
    let line = without_colours(line);
    let counts = line.trim_start().strip_prefix("Summary [")?;
    let (_, counts) = counts.split_once(']')?;
    // Interrupted, it says how many of how many ran: `2/4 tests run`.
    let ran = counts.trim_start().split([' ', '/']).next()?.parse::<u64>().ok()?;
    let passed = count_before(counts, " passed").unwrap_or(0);
    Some(Tally { passed, failed: ran.saturating_sub(passed) })
}

/// The number directly before `word`.
fn count_before(text: &str, word: &str) -> Option<u64> {
    let before = &text[..text.find(word)?];
    let digits = before.rfind(|c: char| !c.is_ascii_digit()).map_or(before, |at| &before[at + 1..]);
    digits.parse().ok()
}

/// The line without the escape sequences that colour it.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, tail)| tail);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64) -> Option<Tally> {
        Some(Tally { passed, failed })
    }

    #[test]
    fn summaries_of_cargo_test() {
        let ok =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        let cases = [
            (ok, tally(12, 0)),
            ("test result: \x1b[31mFAILED\x1b[0m. 2 passed; 7 failed; 0 ignored; 0 measured", tally(2, 7)),
            ("test spec::tests::reads ... ok", None),
            ("running 3 tests", None),
        ];
        for (line, expected) in cases {
            assert_eq!(libtest_summary(line), expected, "{line}");
        }
    }

    #[test]
    fn summaries_of_nextest() {
        let coloured = "\x1b[32;1m     Summary\x1b[0m [   2.468s] \x1b[1m21\x1b[0m tests run: \x1b[1m21\x1b[0m \
                        \x1b[32;1mpassed\x1b[0m, \x1b[1m0\x1b[0m skipped";
        let cases = [
            ("     Summary [   0.013s] 4 tests run: 3 passed (1 leaky), 1 failed, 0 skipped", tally(3, 1)),
            ("     Summary [   0.013s] 5 tests run: 3 passed, 1 failed, 1 timed out, 2 skipped", tally(3, 2)),
            ("     Summary [   0.005s] 2/4 tests run: 1 passed, 1 failed, 0 skipped", tally(1, 1)),
            ("     Summary [   0.005s] 1 test run: 0 passed, 1 failed, 0 skipped", tally(0, 1)),
            ("     Summary [   0.005s] 0 tests run: 0 passed, 7 skipped", tally(0, 0)),
            (coloured, tally(21, 0)),
            ("        PASS [   0.004s] xtask test::tests::summaries_of_nextest", None),
        ];
        for (line, expected) in cases {
            assert_eq!(nextest_summary(line), expected, "{line}");
        }
    }

    #[test]
    fn flags_and_filters() {
        let strings = |args: &[&str]| args.iter().map(|a| a.to_string()).collect::<Vec<_>>();
        let options = parse(&strings(&["--long", "gc", "fsck"])).unwrap();
        assert!(options.long);
        assert_eq!(options.filters, ["gc", "fsck"]);
        assert_eq!(parse(&strings(&["--lnog"])).err().map(|f| f.code()), Some(2));
    }
}
