//! `cvs model …`: the models of versions.

mod add;
mod ls;
mod rm;
mod show;

use clap::Subcommand;

use crate::context::Context;
use crate::error::{CliError, Exit};

/// List, inspect, add and remove models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    Add(Box<add::AddArgs>),
    Rm(rm::RmArgs),
    #[command(alias = "list")]
    Ls(ls::LsArgs),
    Show(show::ShowArgs),
}

pub(crate) fn run(context: &Context, command: &ModelCommand) -> Result<Exit, CliError> {
    match command {
        ModelCommand::Add(args) => add::run(context, args),
        ModelCommand::Rm(args) => rm::run(context, args),
        ModelCommand::Ls(args) => ls::run(context, args),
        ModelCommand::Show(args) => show::run(context, args),
    }
}
