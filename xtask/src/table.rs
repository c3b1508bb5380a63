//! Figures and the Markdown tables they stand in.

use std::fmt::Write as _;
use std::time::Duration;

/// The middle one of several measurements, or the mean of the two in the middle.
pub(crate) fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    match samples.len() {
        0 => Duration::ZERO,
        n if n % 2 == 1 => samples[n / 2],
        n => (samples[n / 2 - 1] + samples[n / 2]) / 2,
    }
}

/// A duration in the unit that a person would choose.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.01 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 { 0 } else { 2 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `value` as a multiple of `reference`.
pub(crate) fn ratio(value: Duration, reference: Duration) -> String {
    if reference.is_zero() {
        return "-".to_owned();
    }
    format!("{:.2}", value.as_secs_f64() / reference.as_secs_f64())
}

/// Whether an aim was reached, in words.
pub(crate) fn aim(what: &str, reached: bool) {
    println!("Aim: {what}: {}.\n", if reached { "reached" } else { "missed" });
}

/// A table whose first column is text and whose others are figures.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(|h| h.to_string()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        println!("{}", self.render());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().copied().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                // Writing to a String cannot fail.
                let _ = match column {
                    0 => write!(out, "| {cell:width$} "),
                    _ => write!(out, "| {cell:>width$} "),
                };
            }
            out.push_str("|\n");
            if number == 0 {
                for (column, width) in widths.iter().copied().enumerate() {
                    let line = "-".repeat(width + 1);
                    let _ = match column {
                        0 => write!(out, "|{line}-"),
                        _ => write!(out, "|{line}:"),
                    };
                }
                out.push_str("|\n");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let ms = |values: &[u64]| values.iter().map(|v| Duration::from_millis(*v)).collect::<Vec<_>>();
        assert_eq!(median(ms(&[9, 1, 5])), Duration::from_millis(5));
        assert_eq!(median(ms(&[1, 9, 3, 5])), Duration::from_millis(4));
        assert_eq!(median(ms(&[])), Duration::ZERO);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(time(Duration::from_secs(125)), "125 s");
        assert_eq!(time(Duration::from_millis(1234)), "1.23 s");
        assert_eq!(time(Duration::from_millis(43)), "43 ms");
        assert_eq!(time(Duration::from_micros(4300)), "4.3 ms");
        assert_eq!(time(Duration::from_micros(43)), "43 µs");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(4 << 30), "4.00 GiB");
        assert_eq!(bytes(250 << 20), "250 MiB");
        assert_eq!(ratio(Duration::from_secs(3), Duration::from_secs(2)), "1.50");
    }

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new(&["peer", "time"]);
        table.row(vec!["native".to_owned(), "1.00 s".to_owned()]);
        assert_eq!(table.render(), "| peer   |   time |\n|--------|-------:|\n| native | 1.00 s |\n");
    }
}
