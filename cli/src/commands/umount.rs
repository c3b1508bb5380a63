//! `cvs umount`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::mounts;

/// Take a mount down.
///
/// Waits for files that are in use and says who uses them. A mount whose process was killed is cleared.
#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// The mountpoint, or a version for all its mounts.
    #[arg(value_name = "DIR|VERSION")]
    target: OsString,

    /// End it now: whoever uses it gets errors.
    #[arg(long, conflicts_with = "lazy")]
    force: bool,

    /// Take it out of sight now; it ends when the last file is closed.
    #[arg(long)]
    lazy: bool,

    /// How long to wait for files that are in use.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = format::parse_duration)]
    wait: Duration,
}

pub(crate) fn run(context: &Context, args: &UmountArgs) -> Result<Exit, CliError> {
    let how = mounts::how(args.force, args.lazy);
    let store = context.store()?;
    for entry in mounts::find(store, &args.target)? {
        let path = entry.mountpoint().display().to_string();
        let mut waiting =
            |users: &str| context.output().note(&format!("{path} is in use by {users}; waiting"));
        mounts::take_down(&entry, how, args.wait, context.cancel(), &mut waiting)?;
        context.output().note(&format!("{} is unmounted from {path}", entry.version));
    }
    mounts::forget_gone(store)?;
    Ok(Exit::Ok)
}
