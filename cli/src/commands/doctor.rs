//! `cvs doctor`.

use clap::Args;

use crate::context::Context;
use crate::error::{CliError, Exit};

/// Say what this machine can do, and what to do about what it cannot.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

pub(crate) fn run(context: &Context, _: &DoctorArgs) -> Result<Exit, CliError> {
    context.output().data(&format!("home: {}\n", context.home().display()))?;
    Ok(Exit::Ok)
}
