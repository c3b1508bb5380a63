//! The table of a run, and below it the names behind its figures: what a filesystem fails or skips that native does
//! not first, for that is the filesystem's own.

use std::collections::BTreeMap;
use std::fmt;

use super::exceptions;
use super::site::Role;
use crate::table::Table;

/// Stands among the failures of a suite that crashed, or hung until it was killed.
pub(super) const UNFINISHED: &str = "(the suite did not end)";

/// What one suite found in one place of one filesystem.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    pub(super) skipped: Vec<String>,
    /// Why there are no results, where the suite could not be run to its end.
    pub(super) broken: Option<String>,
}

impl Tally {
    /// A suite that could not be run to its end.
    pub(super) fn broken(why: &str) -> Tally {
        let broken = Some(why.lines().next().unwrap_or_default().to_owned());
        Tally { failed: vec![UNFINISHED.to_owned()], broken, ..Tally::default() }
    }
}

/// What a suite found in one place of the filesystems, in the report's order; none where it was not run.
struct Row {
    suite: &'static str,
    place: String,
    tallies: Vec<Option<Tally>>,
}

/// Which of a tally's names.
type Kind = fn(&Tally) -> &[String];

/// Which of a filesystem's names: by what native has, and by whether they are excepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Alone,
    WithNative,
    Excepted,
}

pub(super) struct Report {
    filesystems: Vec<(&'static str, Role)>,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(filesystems: Vec<(&'static str, Role)>) -> Report {
        Report { filesystems, rows: Vec::new() }
    }

    /// Adds what was found on the filesystem with this position in the report's order.
    pub(super) fn add(&mut self, suite: &'static str, place: &str, filesystem: usize, tally: Tally) {
        let at = self.rows.iter().position(|row| row.suite == suite && row.place == place);
        let at = at.unwrap_or_else(|| {
            let tallies = vec![None; self.filesystems.len()];
            self.rows.push(Row { suite, place: place.to_owned(), tallies });
            self.rows.len() - 1
        });
        self.rows[at].tallies[filesystem] = Some(tally);
    }

    /// Whether ours fails or skips something that native passes and that is no exception.
    pub(super) fn native_is_better(&self) -> bool {
        let kinds: [Kind; 2] = [|tally| &tally.failed, |tally| &tally.skipped];
        let ours = (0..self.filesystems.len()).filter(|at| self.filesystems[*at].1 == Role::Ours);
        ours.into_iter().any(|at| kinds.iter().any(|kind| !self.lines(at, *kind, Share::Alone).is_empty()))
    }

    /// The names of one kind and share that a filesystem has, one line for each suite and set of places.
    fn lines(&self, filesystem: usize, of: Kind, share: Share) -> Vec<String> {
        let (shown, role) = self.filesystems[filesystem];
        let native = self.filesystems.iter().position(|(_, role)| *role == Role::Native);
        let names_of = |row: &Row, at: Option<usize>| -> Vec<String> {
            at.and_then(|at| row.tallies[at].as_ref()).map(|tally| of(tally).to_vec()).unwrap_or_default()
        };
        // By suite, so that a name that two suites share stays two.
        let mut places: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for row in &self.rows {
            let natives = names_of(row, native);
            for name in names_of(row, Some(filesystem)) {
                // That native did not end excuses nobody: it says nothing of the other tests.
                let has = if name != UNFINISHED && natives.contains(&name) {
                    Share::WithNative
                } else if role == Role::Ours && exceptions::find(row.suite, &name).is_some() {
                    Share::Excepted
                } else {
                    Share::Alone
                };
                if has == share {
                    places.entry((row.suite, name)).or_default().push(&row.place);
                }
            }
        }
        let mut names: BTreeMap<(&str, Vec<&str>), Vec<String>> = BTreeMap::new();
        for ((suite, name), places) in places {
            names.entry((suite, places)).or_default().push(name);
        }
        let line = |((suite, places), mut names): ((&str, Vec<&str>), Vec<String>)| {
            let run = |row: &&Row| row.suite == suite && row.tallies[filesystem].is_some();
            let all = self.rows.iter().filter(run).count();
            let places =
                if places.len() > 1 && places.len() == all { "everywhere" } else { &places.join(" + ") };
            if share == Share::Excepted {
                for name in &mut names {
                    let reason = exceptions::find(suite, name).map_or("", |exception| exception.reason);
                    *name = format!("{name} ({reason})");
                }
            }
            format!("- {shown}, {suite}, {places}: {}", names.join(", "))
        };
        names.into_iter().map(line).collect()
    }

    /// Why suites could not be run to their end.
    fn breakdowns(&self) -> Vec<String> {
        let of_row = |row: &Row| {
            let tallies = self.filesystems.iter().zip(row.tallies.clone());
            let line = |((shown, _), tally): (&(&str, Role), Option<Tally>)| {
                Some(format!("- {shown}, {}: {}", row.suite, tally?.broken?))
            };
            tallies.filter_map(line).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heading = vec!["passed / failed / skipped"];
        heading.extend(self.filesystems.iter().map(|(shown, _)| *shown));
        let mut table = Table::new(&heading);
        for row in &self.rows {
            let cell = |tally: &Option<Tally>| match tally {
                Some(t) => format!("{} / {} / {}", t.passed, t.failed.len(), t.skipped.len()),
                None => "-".to_owned(),
            };
            let mut cells = vec![format!("{}, {}", row.suite, row.place)];
            cells.extend(row.tallies.iter().map(cell));
            table.row(cells);
        }
        write!(f, "{}", table.render())?;
        let (failed, skipped): (Kind, Kind) = (|tally| &tally.failed, |tally| &tally.skipped);
        let lists = [
            ("Failed, where native does not fail", failed, Share::Alone),
            ("Failed, where native does not fail, and excepted", failed, Share::Excepted),
            ("Failed, as on native", failed, Share::WithNative),
            ("Skipped, where native does not skip", skipped, Share::Alone),
            ("Skipped, where native does not skip, and excepted", skipped, Share::Excepted),
            ("Skipped, as on native", skipped, Share::WithNative),
        ];
        let lists = lists.map(|(title, of, share)| {
            let of_filesystem = |at| self.lines(at, of, share);
            (title, (0..self.filesystems.len()).flat_map(of_filesystem).collect::<Vec<_>>())
        });
        for (title, lines) in lists.into_iter().chain([("Broken down", self.breakdowns())]) {
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

    const FILESYSTEMS: [(&str, Role); 2] = [("cvs", Role::Ours), ("native", Role::Native)];

    fn tally(passed: usize, failed: &[&str], skipped: &[&str]) -> Tally {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Tally { passed, failed: owned(failed), skipped: owned(skipped), broken: None }
    }

    #[test]
    fn a_report_names_what_is_behind_its_figures() {
        let mut report = Report::new(FILESYSTEMS.to_vec());
        report.add("stress-ng", "here", 0, tally(6, &["c", "b", "a"], &["s", "fiemap"]));
        report.add("stress-ng", "there", 0, tally(8, &["c"], &["s"]));
        report.add("stress-ng", "here", 1, tally(9, &["b"], &[]));
        report.add("stress-ng", "there", 1, tally(10, &[], &[]));
        report.add("fsx", "(broke down)", 0, Tally::broken("it hangs\nfor ever"));
        assert_eq!(
            report.to_string(),
            "\
| passed / failed / skipped |       cvs |     native |
|---------------------------|----------:|-----------:|
| stress-ng, here           | 6 / 3 / 2 |  9 / 1 / 0 |
| stress-ng, there          | 8 / 1 / 1 | 10 / 0 / 0 |
| fsx, (broke down)         | 0 / 1 / 0 |          - |

Failed, where native does not fail:

- cvs, fsx, (broke down): (the suite did not end)
- cvs, stress-ng, here: a
- cvs, stress-ng, everywhere: c

Failed, as on native:

- cvs, stress-ng, here: b
- native, stress-ng, here: b

Skipped, where native does not skip:

- cvs, stress-ng, everywhere: s

Skipped, where native does not skip, and excepted:

- cvs, stress-ng, here: fiemap (FUSE has no FS_IOC_FIEMAP)

Broken down:

- cvs, fsx: it hangs
"
        );
    }

    #[test]
    fn only_what_native_passes_counts_against_ours() {
        type Names = &'static [&'static str];
        let cases: [(Names, Names, Names, bool); 7] = [
            (&[], &[], &[], false),
            (&[], &[], &["a"], false),
            (&["a"], &[], &["a"], false),
            (&["a"], &[], &["b"], true),
            (&[], &["a"], &[], true),
            (&[], &["fiemap"], &[], false),
            (&[UNFINISHED], &[], &[UNFINISHED], true),
        ];
        for (failed, skipped, native, better) in cases {
            let mut report = Report::new(FILESYSTEMS.to_vec());
            report.add("stress-ng", "root", 0, tally(1, failed, skipped));
            report.add("stress-ng", "root", 1, tally(1, native, &[]));
            assert_eq!(report.native_is_better(), better, "{failed:?} {skipped:?} {native:?}");
        }
    }
}
