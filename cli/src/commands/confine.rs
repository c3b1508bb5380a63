//! `cvs confine`, for our own use: runs a program that cannot write below a directory.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::confine;
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Run a program that cannot write below a directory, whoever it runs as.
#[derive(Debug, Args)]
pub(crate) struct ConfineArgs {
    /// The directory.
    directory: PathBuf,

    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(_: &Context, args: &ConfineArgs) -> Result<Exit, CliError> {
    let failed = |program: &OsString| {
        let program = PathBuf::from(program);
        move |source| CliError::Confined { program, source }
    };
    let Some((program, arguments)) = args.command.split_first() else { return Ok(Exit::Usage) };
    confine::forbid_writes(&args.directory).map_err(failed(program))?;
    // In place of this process, whose number is known as that of the program.
    Err(failed(program)(Command::new(program).args(arguments).exec()))
}
