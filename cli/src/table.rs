//! Columns of text for people. Scripts take `--json`.

use crate::output::{Paint, clean};

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table under one line of headings, its columns two spaces apart and as wide as their widest cell.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row, of one cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell).replace('\n', " ")).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The whole table, each line with its newline and without white space at its end.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|(heading, _)| width(heading)).collect();
        for row in &self.rows {
            for (cell, widest) in row.iter().zip(&mut widths) {
                *widest = width(cell).max(*widest);
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (index, (cell, (_, align))) in cells.zip(&self.columns).enumerate() {
                if index > 0 {
                    line.push_str("  ");
                }
                let pad = " ".repeat(widths[index].saturating_sub(width(cell)));
                match align {
                    Align::Left => line.extend([cell, &pad]),
                    Align::Right => line.extend([&pad, cell]),
                }
            }
            line.truncate(line.trim_end().len());
            line
        };
        let headings = line(&mut self.columns.iter().map(|(heading, _)| *heading));
        let mut text = format!("{}\n", paint.bold(&headings));
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
            text.push('\n');
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table =
            Table::new([("VERSION", Align::Left), ("SIZE", Align::Right), ("STATE", Align::Left)]);
        table.row(["wan".to_owned(), "12.3 MiB".to_owned(), "ready".to_owned()]);
        table.row(["flux-next-one".to_owned(), "1 B".to_owned(), String::new()]);
        table.row(["ev\x1bil".to_owned(), "0 B".to_owned(), "größe\nx".to_owned()]);
        assert_eq!(
            table.render(Paint::plain()),
            "VERSION            SIZE  STATE\n\
             wan            12.3 MiB  ready\n\
             flux-next-one       1 B\n\
             ev\u{fffd}il               0 B  größe x\n"
        );
    }
}
