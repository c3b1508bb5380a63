//! `cvs`, the ComfyUI Version Store: arguments, output, progress and exit codes around the libraries.
//!
//! stdout is data, stderr is talk. Only this crate prints, only it adds hints, and [`error`] alone decides what a
//! failure's exit code is. A command is one file in [`commands`].

mod activity;
mod args;
mod commands;
mod config;
mod confine;
mod context;
mod error;
mod format;
mod jobs;
mod logs;
mod machine;
mod mounts;
mod output;
mod progress;
mod reference;
mod runs;
mod shell;
mod signals;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::Cli;
use crate::context::Context;
use crate::error::Exit;
use crate::output::Output;

fn main() -> ExitCode {
    // By itself clap shows the help only where no variable, such as CVS_HOME, stands for an option.
    if std::env::args_os().len() < 2 {
        // A stderr that is closed leaves nobody to tell.
        let _ = write!(io::stderr(), "{}", Cli::command().render_help());
        return Exit::Usage.into();
    }
    let arguments = commands::command_line(std::env::args_os().collect());
    if let Some(wrong) = commands::called_as_helper(&arguments) {
        let _ = writeln!(io::stderr(), "error: {wrong}");
        return Exit::Usage.into();
    }
    let cli = Cli::parse_from(arguments);
    let output = Output::new(&cli.global);
    let result = start(cli, &output);
    output.progress().stop();
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            error::report(&error, &output);
            error.exit().into()
        }
    }
}

fn start(cli: Cli, output: &Output) -> Result<Exit, error::CliError> {
    output::start_tracing(&cli.global);
    let cancel = signals::install()?;
    let context = Context::new(&cli.global, output.clone(), cancel)?;
    cli.command.run(&context)
}
