//! The lines of the table and their aims.

use std::time::Duration;

use super::places::Form;
use crate::lab::Lab;
use crate::table::{Table, ratio, time};

/// What a line of times is measured by.
#[derive(Clone, Copy)]
pub(super) enum Aim {
    /// At most so many times as long as the native filesystem takes.
    Native(f64),
    /// At least this share of the native speed.
    NativeSpeed(f64),
    /// At most this share of the time that fuse-overlayfs takes.
    FuseOverlayfs(f64),
}

impl Aim {
    fn text(self) -> String {
        match self {
            Aim::Native(times) => format!("≤ {times} native"),
            Aim::NativeSpeed(share) => format!("≥ {share} of native speed"),
            Aim::FuseOverlayfs(share) => format!("≤ {share:.2} fuse-overlayfs"),
        }
    }

    /// Whether it is reached; nothing where there is nothing to compare with.
    fn is_met(self, times: &Times) -> Option<bool> {
        let of = |form| Some(times.of(Form::Cvs)?.as_secs_f64() / times.of(form)?.as_secs_f64());
        Some(match self {
            Aim::Native(limit) => of(Form::Native)? <= limit,
            Aim::NativeSpeed(share) => 1.0 / of(Form::Native)? >= share,
            Aim::FuseOverlayfs(share) => of(Form::FuseOverlayfs)? <= share,
        })
    }
}

/// What the places took.
#[derive(Default, Clone)]
pub(super) struct Times(pub(super) Vec<(Form, Duration)>);

impl Times {
    pub(super) fn of(&self, form: Form) -> Option<Duration> {
        self.0.iter().find(|(known, _)| *known == form).map(|(_, took)| *took)
    }

    /// The times of `form` as if they were those of the usual mount.
    pub(super) fn with_cvs_as(&self, form: Form) -> Times {
        let others = self.0.iter().filter(|(known, _)| *known != Form::Cvs && *known != form).copied();
        Times(self.of(form).map(|took| (Form::Cvs, took)).into_iter().chain(others).collect())
    }
}

pub(super) struct Report {
    table: Table,
    missed: usize,
    lines: usize,
    notes: Vec<String>,
}

impl Report {
    pub(super) fn new() -> Report {
        let heading = [
            "what",
            "cvs",
            "native",
            "overlayfs",
            "fuse-overlayfs",
            "cvs / native",
            "cvs / fuse-overlayfs",
            "aim",
            "",
        ];
        Report { table: Table::new(&heading), missed: 0, lines: 0, notes: Vec::new() }
    }

    /// A line of times.
    pub(super) fn times(&mut self, what: impl Into<String>, times: &Times, aims: &[Aim]) {
        let cell = |form| times.of(form).map_or("-".to_owned(), time);
        let of = |form| match (times.of(Form::Cvs), times.of(form)) {
            (Some(ours), Some(theirs)) => ratio(ours, theirs),
            _ => "-".to_owned(),
        };
        let text: Vec<String> = aims.iter().map(|aim| aim.text()).collect();
        let met: Option<Vec<bool>> = aims.iter().map(|aim| aim.is_met(times)).collect();
        let verdict = met.map(|met| met.into_iter().all(|met| met));
        let row = vec![
            what.into(),
            cell(Form::Cvs),
            cell(Form::Native),
            cell(Form::Overlayfs),
            cell(Form::FuseOverlayfs),
            of(Form::Native),
            of(Form::FuseOverlayfs),
            text.join(", "),
        ];
        self.line(row, verdict.filter(|_| !aims.is_empty()), aims.is_empty());
    }

    /// A line of one figure of ours.
    pub(super) fn figure(&mut self, what: impl Into<String>, figure: String, aim: &str, met: bool) {
        let dash = || "-".to_owned();
        let row = vec![what.into(), figure, dash(), dash(), dash(), dash(), dash(), aim.to_owned()];
        self.line(row, Some(met), false);
    }

    fn line(&mut self, mut row: Vec<String>, met: Option<bool>, no_aim: bool) {
        row.push(
            match met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None if no_aim => "",
                None => "not comparable",
            }
            .to_owned(),
        );
        self.lines += usize::from(met.is_some());
        self.missed += usize::from(met == Some(false));
        // Shown as it comes, too: the whole takes a while.
        eprintln!("    {}", row.iter().filter(|cell| *cell != "-").cloned().collect::<Vec<_>>().join(" | "));
        self.table.row(row);
    }

    /// A sentence below the table.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(super) fn print(&self, lab: &Lab) {
        self.table.print();
        for note in &self.notes {
            println!("{note}");
        }
        let kind = if lab.is_quick() { " (of a quick run: no proof of anything)" } else { "" };
        println!("\n{} of {} aims met{kind}.\n", self.lines - self.missed, self.lines);
    }
}
