//! `cvs doctor`.

use clap::Args;
use clap::builder::styling::AnsiColor;
use cvs_store::path_json;
use serde_json::json;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::machine::{self, Finding, State};
use crate::output::clean;

/// Say what this machine can do, and what to do about what it cannot.
///
/// Ends with code 1 when something is missing that cvs cannot work without.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

pub(crate) fn run(context: &Context, _: &DoctorArgs) -> Result<Exit, CliError> {
    let findings = machine::examine(context);
    let output = context.output();
    if output.is_json() {
        output.json(&json!({ "home": path_json::value(context.home()), "checks": findings }))?;
    } else {
        let paint = output.paint();
        output.data(&text(&findings, |state, word| match state {
            State::Ok => paint.color(AnsiColor::Green, word),
            State::Absent => paint.color(AnsiColor::Yellow, word),
            State::Broken => paint.color(AnsiColor::Red, word),
        }))?;
    }
    let broken = findings.iter().any(|finding| finding.state == State::Broken);
    Ok(if broken { Exit::Failed } else { Exit::Ok })
}

fn text(findings: &[Finding], paint: impl Fn(State, &str) -> String) -> String {
    let widest = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { name, state, found, advice } in findings {
        let found = clean(found).replace('\n', " ");
        let word = match state {
            State::Ok => "ok",
            State::Absent => "--",
            State::Broken => "!!",
        };
        text.push_str(&format!("{}  {name:widest$}  {found}\n", paint(*state, word)));
        if let Some(advice) = advice {
            text.push_str(&format!("    {:widest$}  {advice}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_it_is_about() {
        let findings = [
            Finding::ok("fuse", "/dev/fuse can be opened"),
            Finding::absent("uv", "not found", "install it"),
            Finding::broken("store", "cannot be opened", "look at it"),
        ];
        assert_eq!(
            text(&findings, |_, word| word.to_owned()),
            "ok  fuse   /dev/fuse can be opened\n\
             --  uv     not found\n           install it\n\
             !!  store  cannot be opened\n           look at it\n"
        );
    }
}
