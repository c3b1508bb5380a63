//! The commands. Each is one file: an `Args` struct, whose documentation is its help, and `run`.

mod completions;
mod doctor;
mod du;
mod fsck;
mod gc;
mod reference;

use clap::Subcommand;

use crate::context::Context;
use crate::error::{CliError, Exit};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Gc(gc::GcArgs),
    Fsck(fsck::FsckArgs),
    Du(du::DuArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CliError> {
        match self {
            Self::Gc(args) => gc::run(context, &args),
            Self::Fsck(args) => fsck::run(context, &args),
            Self::Du(args) => du::run(context, &args),
            Self::Doctor(args) => doctor::run(context, &args),
            Self::Completions(args) => completions::run(context, &args),
            Self::Reference(args) => reference::run(context, &args),
        }
    }
}
