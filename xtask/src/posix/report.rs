//! The table of a run, and below it the names behind its figures: what a filesystem fails or skips that native does
//! not first, for that is the filesystem's own.

use std::collections::BTreeMap;
use std::fmt;

use crate::table::Table;

pub(super) const OURS: &str = "cvs";
pub(super) const NATIVE: &str = "native";

/// Stands among the failures of a suite that crashed, or hung until it was killed.
pub(super) const UNFINISHED: &str = "(the suite did not end)";

/// What one suite found in one place of one filesystem.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    pub(super) skipped: Vec<String>,
}

/// What a suite found in one place of every filesystem, in the report's order.
struct Row {
    suite: &'static str,
    place: &'static str,
    tallies: Vec<Tally>,
}

/// Which of a tally's names.
type Kind = fn(&Tally) -> &[String];

pub(super) struct Report {
    filesystems: Vec<&'static str>,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(filesystems: Vec<&'static str>) -> Report {
        Report { filesystems, rows: Vec::new() }
    }

    /// Adds the next filesystem's result to a row. Filesystems come in the report's order.
    pub(super) fn add(&mut self, suite: &'static str, place: &'static str, tally: Tally) {
        match self.rows.iter_mut().find(|row| row.suite == suite && row.place == place) {
            Some(row) => row.tallies.push(tally),
            None => self.rows.push(Row { suite, place, tallies: vec![tally] }),
        }
    }

    /// Whether ours fails something that native passes.
    pub(super) fn native_is_better(&self) -> bool {
        !self.lines(OURS, |tally| &tally.failed, false).is_empty()
    }

    /// The names of one kind that a filesystem has and that native has too (`shared`) or has not, one line for each
    /// suite and set of places.
    fn lines<'a>(&'a self, filesystem: &str, of: Kind, shared: bool) -> Vec<String> {
        let at = |filesystem| self.filesystems.iter().position(|name| *name == filesystem);
        let names_of = |row: &'a Row, at: Option<usize>| at.and_then(|at| row.tallies.get(at)).map(of);
        // By suite, so that a name that two suites share stays two.
        let mut places: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for row in &self.rows {
            let native = names_of(row, at(NATIVE));
            for name in names_of(row, at(filesystem)).into_iter().flatten() {
                // That native did not end excuses nobody: it says nothing of the other tests.
                let has = name != UNFINISHED && native.is_some_and(|names| names.contains(name));
                if has == shared {
                    places.entry((row.suite, name)).or_default().push(row.place);
                }
            }
        }
        let mut names: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
        for ((suite, name), places) in places {
            names.entry((suite, places)).or_default().push(name);
        }
        let line = |((suite, places), names): ((&str, Vec<&str>), Vec<&str>)| {
            let all = self.rows.iter().filter(|row| row.suite == suite).count();
            let places = if places.len() > 1 && places.len() == all {
                "everywhere".to_owned()
            } else {
                places.join(" + ")
            };
            format!("- {filesystem}, {suite}, {places}: {}", names.join(", "))
        };
        names.into_iter().map(line).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heading = vec!["passed / failed / skipped"];
        heading.extend(&self.filesystems);
        let mut table = Table::new(&heading);
        for row in &self.rows {
            let cell = |t: &Tally| format!("{} / {} / {}", t.passed, t.failed.len(), t.skipped.len());
            let mut cells = vec![format!("{}, {}", row.suite, row.place)];
            cells.extend(row.tallies.iter().map(cell));
            table.row(cells);
        }
        write!(f, "{}", table.render())?;
        let lists: [(&str, Kind, bool); 3] = [
            ("Failed, where native does not fail", |tally| &tally.failed, false),
            ("Failed, as on native", |tally| &tally.failed, true),
            ("Skipped, where native does not skip", |tally| &tally.skipped, false),
        ];
        for (title, of, shared) in lists {
            let lines: Vec<String> =
                self.filesystems.iter().flat_map(|filesystem| self.lines(filesystem, of, shared)).collect();
            if !lines.is_empty() {
                write!(f, "\n{title}:\n\n{}\n", lines.join("\n"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: usize, failed: &[&str], skipped: &[&str]) -> Tally {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Tally { passed, failed: owned(failed), skipped: owned(skipped) }
    }

    #[test]
    fn a_report_names_what_is_behind_its_figures() {
        let mut report = Report::new(vec![OURS, NATIVE]);
        report.add("suite", "here", tally(6, &["c", "b", "a"], &["s"]));
        report.add("suite", "there", tally(8, &["c"], &["s"]));
        report.add("suite", "here", tally(9, &["b"], &[]));
        report.add("suite", "there", tally(10, &[], &[]));
        assert_eq!(
            report.to_string(),
            "\
| passed / failed / skipped |       cvs |     native |
|---------------------------|----------:|-----------:|
| suite, here               | 6 / 3 / 1 |  9 / 1 / 0 |
| suite, there              | 8 / 1 / 1 | 10 / 0 / 0 |

Failed, where native does not fail:

- cvs, suite, here: a
- cvs, suite, everywhere: c

Failed, as on native:

- cvs, suite, here: b
- native, suite, here: b

Skipped, where native does not skip:

- cvs, suite, everywhere: s
"
        );
    }

    #[test]
    fn only_what_native_passes_counts_against_ours() {
        let cases: [(&[&str], &[&str], bool); 5] = [
            (&[], &[], false),
            (&[], &["a"], false),
            (&["a"], &["a"], false),
            (&["a"], &["b"], true),
            (&[UNFINISHED], &[UNFINISHED], true),
        ];
        for (ours, native, better) in cases {
            let mut report = Report::new(vec![OURS, NATIVE]);
            report.add("suite", "root", tally(1, ours, &[]));
            report.add("suite", "root", tally(1, native, &[]));
            assert_eq!(report.native_is_better(), better, "{ours:?} {native:?}");
        }
    }
}
