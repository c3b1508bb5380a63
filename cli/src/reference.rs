//! The reference of all commands, `docs/cli.md`, made from what the parser knows.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::args::Cli;

const HEAD: &str = "\
# Commands

This file is made from the program: `cargo run -p cvs-cli -- reference > docs/cli.md`.
";

/// All commands, one section each, with the options that every command takes in a section of their own.
pub(crate) fn render() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = format!("{HEAD}\n{}\n", prose(&root));
    text.push_str("\n| command | |\n|---|---|\n");
    for command in shown(&root) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let name = command.get_name();
        let _ = writeln!(text, "| [`{name}`](#cvs-{name}) | {} |", cell(&about));
    }
    text.push_str("\n## Global options\n\nEvery command takes these, before or after its name.\n");
    let globals: Vec<&Arg> = root.get_arguments().filter(|arg| arg.is_global_set()).collect();
    options(&globals, &mut text);
    for command in shown(&root) {
        section(command, &mut text);
    }
    text
}

fn shown(root: &Command) -> impl Iterator<Item = &Command> {
    root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn section(command: &Command, text: &mut String) {
    let mut usage = command.clone();
    let usage = usage.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let _ = write!(text, "\n## cvs {}\n\n```\n{usage}\n```\n\n{}\n", command.get_name(), prose(command));
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_global_set() && !arg.is_hide_set())
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    options(&own, text);
}

fn prose(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let about = sentence(&about);
    match command.get_after_help() {
        Some(after) => format!("{about}\n\n{after}"),
        None => about,
    }
}

/// The parser takes the full stop off the last sentence of a help text.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', ':', '!', '?', '`']) || text.is_empty() {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

fn options(args: &[&Arg], text: &mut String) {
    if args.is_empty() {
        return;
    }
    text.push('\n');
    for arg in args {
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = sentence(&help.replace("\n\n", ". ").replace('\n', " "));
        let _ = write!(text, "- {}: {help}", name(arg));
        if arg.get_action().takes_values() {
            let choices: Vec<String> =
                arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
            if !choices.is_empty() {
                let _ = write!(text, " One of {}.", choices.join(", "));
            }
            let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            if !defaults.is_empty() {
                let _ = write!(text, " Default: `{}`.", defaults.join(" "));
            }
        }
        if let Some(variable) = arg.get_env() {
            let _ = write!(text, " Variable: `{}`.", variable.to_string_lossy());
        }
        if matches!(arg.get_action(), ArgAction::Append) {
            text.push_str(" Can be given several times.");
        }
        text.push('\n');
    }
}

fn name(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let value = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
    let optional = arg.get_num_args().is_some_and(|range| range.takes_values() && range.min_values() == 0);
    let value = match (arg.get_long(), value.as_str()) {
        (None, _) => return format!("`{value}`"),
        (Some(_), "") => value,
        (Some(_), value) if optional => format!("[={value}]"),
        (Some(_), value) => format!(" {value}"),
    };
    let long = format!("`--{}{value}`", arg.get_long().unwrap_or_default());
    arg.get_short().map_or(long.clone(), |short| format!("`-{short}`, {long}"))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_parser_holds_together() {
        Cli::command().debug_assert();
    }

    /// The commands in the texts of this crate's files, with `x` for what is filled in.
    fn told(dir: &Path, commands: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                told(&path, commands);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
            // A text goes on behind a backslash at the end of a line.
            let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", "");
            for (at, _) in text.match_indices("`cvs ") {
                let Some((command, _)) = text[at + 1..].split_once(['`', '\n']) else { continue };
                let mut parts = command.split('{');
                let mut filled = parts.next().unwrap_or_default().to_owned();
                for part in parts {
                    filled.push('x');
                    filled.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
                }
                commands.push(filled);
            }
        }
    }

    #[test]
    fn every_command_that_a_message_tells_is_taken() {
        let mut commands = Vec::new();
        told(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut commands);
        assert!(commands.len() > 40, "{commands:?}");
        for command in commands {
            let words = shlex::split(&command).unwrap();
            match Cli::command().try_get_matches_from(words) {
                // Many name a command alone.
                Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => {
                    panic!("{command}: {error}")
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_file_says_what_the_program_says() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == render(), "docs/cli.md is old: `cargo run -p cvs-cli -- reference > docs/cli.md`");
    }
}
