//! [pjdfstest](https://crates.io/crates/pjdfstest): each system call with what it must do and what it must refuse, to
//! root and to other users.

use super::report::{Tally, UNFINISHED};
use super::{Findings, MERGED, OWN, Site, finish, write};
use crate::failure::{Outcome, fail};
use crate::lab::Lab;

/// Features that a Linux filesystem can have and that the suite does not take for granted. Timestamps are told apart
/// by sleeping: 10 ms are more than a tick of any kernel clock.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// The suite works in temporary directories that it makes in each of these.
const PLACES: [(&str, &str); 3] = [("own directory", OWN), ("merged directory", MERGED), ("mount root", "")];

pub(super) fn run(lab: &Lab, site: &Site) -> Outcome<Findings> {
    let config = lab.work("config")?.join("pjdfstest.toml");
    write(&config, &[CONFIG.as_bytes()])?;
    let mut found = Vec::new();
    for (place, dir) in PLACES {
        let log = format!("pjdfstest {} {place}", site.filesystem);
        let end = finish(lab, &log, "pjdfstest", |command| {
            // By a short name: the suite binds sockets, whose paths must fit into 108 bytes wherever a checkout lies.
            command.arg("-c").arg(&config).args(["-p", "/proc/self/cwd"]).current_dir(site.root.join(dir));
        })?;
        found.push((place, tally(&end.stdout)?));
    }
    Ok(found)
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
