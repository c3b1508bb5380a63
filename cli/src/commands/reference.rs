//! `cvs reference`, hidden: what `docs/cli.md` is made of.

use clap::Args;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::reference;

/// Print the reference of all commands as Markdown.
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {}

pub(crate) fn run(context: &Context, _: &ReferenceArgs) -> Result<Exit, CliError> {
    context.output().data(&reference::render())?;
    Ok(Exit::Ok)
}
