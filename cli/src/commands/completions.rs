//! `cvs completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Print completions for a shell.
///
/// For bash: `cvs completions bash > ~/.local/share/bash-completion/completions/cvs`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cvs", &mut script);
    context.output().data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
