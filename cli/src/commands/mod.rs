//! The commands. Each is one file: an `Args` struct, whose documentation is its help, and `run`.

mod clone;
mod completions;
mod confine;
mod create;
mod debug;
mod delete;
mod doctor;
mod du;
mod export;
mod fetch;
mod fsck;
mod gc;
mod import;
mod list;
mod lock;
mod logs;
mod model;
mod mount;
mod mounts;
mod node;
mod package;
mod ps;
mod realize;
mod reference;
mod restart;
mod run_handler;
mod run_ui;
mod serve;
mod shared;
mod show;
mod stop;
mod systemd;
mod umount;
mod validate;
mod validate_run;

use clap::Subcommand;

pub(crate) use debug::command_line;
pub(crate) use mount::called_as_helper;

use crate::context::Context;
use crate::error::{CliError, Exit};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    // Boxed, because it has the most arguments by far.
    Create(Box<create::CreateArgs>),
    Import(Box<import::ImportArgs>),
    Export(export::ExportArgs),
    Node(node::NodeArgs),
    Package(package::PackageArgs),
    Fetch(fetch::FetchArgs),
    #[command(subcommand)]
    Model(model::ModelCommand),
    Lock(lock::LockArgs),
    Validate(validate::ValidateArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Clone(clone::CloneArgs),
    Delete(delete::DeleteArgs),
    Mount(mount::MountArgs),
    Realize(realize::RealizeArgs),
    Umount(umount::UmountArgs),
    Mounts(mounts::MountsArgs),
    RunUi(Box<run_ui::RunUiArgs>),
    RunHandler(Box<run_handler::RunHandlerArgs>),
    Serve(Box<serve::ServeArgs>),
    Ps(ps::PsArgs),
    Logs(logs::LogsArgs),
    Stop(stop::StopArgs),
    Restart(restart::RestartArgs),
    Systemd(systemd::SystemdArgs),
    Gc(gc::GcArgs),
    Fsck(fsck::FsckArgs),
    Du(du::DuArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Confine(confine::ConfineArgs),
    #[command(hide = true)]
    Debug(debug::DebugArgs),
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CliError> {
        match self {
            Self::Create(args) => create::run(context, &args),
            Self::Import(args) => import::run(context, &args),
            Self::Export(args) => export::run(context, &args),
            Self::Node(args) => node::run(context, &args),
            Self::Package(args) => package::run(context, &args),
            Self::Fetch(args) => fetch::run(context, &args),
            Self::Model(command) => model::run(context, &command),
            Self::Lock(args) => lock::run(context, &args),
            Self::Validate(args) => validate::run(context, &args),
            Self::List(args) => list::run(context, &args),
            Self::Show(args) => show::run(context, &args),
            Self::Clone(args) => clone::run(context, &args),
            Self::Delete(args) => delete::run(context, &args),
            Self::Mount(args) => mount::run(context, &args),
            Self::Realize(args) => realize::run(context, &args),
            Self::Umount(args) => umount::run(context, &args),
            Self::Mounts(args) => mounts::run(context, &args),
            Self::RunUi(args) => run_ui::run(context, &args),
            Self::RunHandler(args) => run_handler::run(context, &args),
            Self::Serve(args) => serve::run(context, &args),
            Self::Ps(args) => ps::run(context, &args),
            Self::Logs(args) => logs::run(context, &args),
            Self::Stop(args) => stop::run(context, &args),
            Self::Restart(args) => restart::run(context, &args),
            Self::Systemd(args) => systemd::run(context, &args),
            Self::Confine(args) => confine::run(context, &args),
            Self::Debug(args) => debug::run(context, &args),
            Self::Gc(args) => gc::run(context, &args),
            Self::Fsck(args) => fsck::run(context, &args),
            Self::Du(args) => du::run(context, &args),
            Self::Doctor(args) => doctor::run(context, &args),
            Self::Completions(args) => completions::run(context, &args),
            Self::Reference(args) => reference::run(context, &args),
        }
    }
}
