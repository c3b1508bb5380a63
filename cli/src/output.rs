//! What the person sees: data on stdout, talk on stderr, both through here, so that progress bars and lines never
//! write over each other and a reader that went away (`cvs list | head`) is no failure.

use std::io::{self, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};
use tracing_subscriber::EnvFilter;

use crate::args::{ColorWhen, GlobalArgs};
use crate::error::CliError;
use crate::progress::{Progress, Show};
use crate::table::Table;

/// Where data and talk go. Clones share the progress display.
#[derive(Clone)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    data: Paint,
    talk: Paint,
    progress: Progress,
}

impl Output {
    pub(crate) fn new(args: &GlobalArgs) -> Self {
        let stderr_is_terminal = io::stderr().is_terminal();
        let show = match () {
            () if args.no_progress || args.quiet => Show::Nothing,
            // Bars and log lines would write over each other.
            () if stderr_is_terminal && args.verbose == 0 => Show::Bars,
            () => Show::Lines,
        };
        Self {
            json: args.json,
            quiet: args.quiet,
            data: Paint::new(args.color, io::stdout().is_terminal()),
            talk: Paint::new(args.color, stderr_is_terminal),
            progress: Progress::new(show),
        }
    }

    /// Whether data is to be printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether only data, warnings and errors are said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How text on stdout is painted.
    pub(crate) fn paint(&self) -> Paint {
        self.data
    }

    /// Prints data: whole lines, with their newlines.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        self.progress.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Stdout)
        })
    }

    /// Prints data that is no text of ours, byte by byte.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        self.progress.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::Stdout)
        })
    }

    /// Repeats on stderr what another program says.
    pub(crate) fn relay(&self, bytes: &[u8]) {
        self.progress.suspend(|| {
            let mut stderr = io::stderr().lock();
            // Who cannot be told cannot be told that either.
            let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
        });
    }

    /// Prints data in words, whatever stands in the names that they hold.
    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        self.data(&clean(text))
    }

    /// Prints data as JSON.
    pub(crate) fn json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Stdout(error.into()))?;
        self.data(&format!("{text}\n"))
    }

    /// Prints a table, or says `nothing` when it has no rows.
    pub(crate) fn table(&self, table: &Table, nothing: &str) -> Result<(), CliError> {
        if table.is_empty() {
            self.note(nothing);
            return Ok(());
        }
        self.data(&table.render(self.data))
    }

    /// Says what was done.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.talk_line(&clean(text));
        }
    }

    /// Says what is odd.
    pub(crate) fn warning(&self, text: &str) {
        self.talk_line(&format!("{} {}", self.talk.color(AnsiColor::Yellow, "warning:"), clean(text)));
    }

    /// Says what went wrong.
    pub(crate) fn error(&self, text: &str) {
        self.talk_line(&format!("{} {}", self.talk.color(AnsiColor::Red, "error:"), clean(text)));
    }

    /// Says what to do next.
    pub(crate) fn hint(&self, text: &str) {
        self.talk_line(&format!("{} {}", self.talk.color(AnsiColor::Cyan, "hint:"), clean(text)));
    }

    /// Asks, without a newline.
    pub(crate) fn prompt(&self, text: &str) {
        self.progress.suspend(|| {
            let mut stderr = io::stderr().lock();
            // Who cannot be told cannot be told that either.
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        });
    }

    fn talk_line(&self, text: &str) {
        self.prompt(&format!("{text}\n"));
    }
}

/// Names come from outside: an escape sequence in one must not reach the terminal. Lines stay lines.
pub(crate) fn clean(text: &str) -> String {
    let hidden = |c: char| c.is_control() && c != '\n';
    text.chars().map(|c| if hidden(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Colors, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    enabled: bool,
}

impl Paint {
    fn new(when: ColorWhen, is_terminal: bool) -> Self {
        let refused = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let enabled = match when {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => is_terminal && !refused() && !dumb(),
        };
        Self { enabled }
    }

    /// No colors.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { enabled: false }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.style(Style::new().bold(), text)
    }

    pub(crate) fn color(self, color: AnsiColor, text: &str) -> String {
        self.style(color.on_default().bold(), text)
    }

    fn style(self, style: Style, text: &str) -> String {
        if self.enabled { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Sends log lines to stderr: `CVS_LOG` when it is set, else what `--verbose` asks for. Warnings always come.
pub(crate) fn start_tracing(args: &GlobalArgs) {
    let ours = match args.verbose {
        0 => "warn",
        1 => "warn,cvs=info,cvs_cli=info,cvs_store=info,cvs_versions=info,cvs_fusefs=info",
        2 => "warn,cvs=debug,cvs_cli=debug,cvs_store=debug,cvs_versions=debug,cvs_fusefs=debug",
        _ => "trace",
    };
    let filter = match std::env::var("CVS_LOG").ok().filter(|text| !text.is_empty()) {
        Some(text) => EnvFilter::new(text),
        None => EnvFilter::new(ours),
    };
    // A second subscriber in one process is not possible, and the first one does.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(Paint::new(args.color, io::stderr().is_terminal()).enabled)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc\r\u{9b}31m"), "a\u{fffd}[2Jb\nc\u{fffd}\u{fffd}31m");
    }

    #[test]
    fn colors_are_there_or_not() {
        assert_eq!(Paint::plain().bold("x"), "x");
        assert_eq!(Paint::new(ColorWhen::Always, false).bold("x"), "\x1b[1mx\x1b[0m");
        assert_eq!(Paint::new(ColorWhen::Auto, false).color(AnsiColor::Red, "x"), "x");
        assert_eq!(Paint::new(ColorWhen::Never, true).color(AnsiColor::Red, "x"), "x");
    }
}
