//! `cvs mounts`.

use clap::Args;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::mounts::{self, Models, MountState};
use crate::table::{Align, Table};

/// List what is mounted.
///
/// MODELS says how `models/` is served: with passthrough the kernel reads models by itself, at the speed of the disk; with
/// one connection they are read through cvs.
///
/// A `dead` mount is one whose process was killed; `cvs umount DIR`, or mounting there again, clears it.
#[derive(Debug, Args)]
pub(crate) struct MountsArgs {}

pub(crate) fn run(context: &Context, _args: &MountsArgs) -> Result<Exit, CliError> {
    let entries = mounts::list(context.store()?)?;
    if context.output().is_json() {
        context.output().json(&entries)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new([
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("MODE", Align::Left),
        ("MODELS", Align::Left),
        ("PID", Align::Right),
        ("MOUNTPOINT", Align::Left),
    ]);
    for entry in &entries {
        let state = match entry.state {
            MountState::NotAttached => "not attached",
            MountState::Mounted => "mounted",
            MountState::Dead => "dead",
        };
        table.row([
            entry.version.clone(),
            state.to_owned(),
            entry.mode().to_owned(),
            match entry.models() {
                Some(Models::Passthrough) => "passthrough".to_owned(),
                Some(Models::OneConnection { .. }) => "one connection".to_owned(),
                None => String::new(),
            },
            entry.pid.map_or_else(String::new, |pid| pid.to_string()),
            entry.mountpoint().display().to_string(),
        ]);
    }
    context.output().table(&table, "nothing is mounted")?;
    for entry in &entries {
        if let Some(Models::OneConnection { reason }) = entry.models() {
            let at = entry.mountpoint().display();
            context.output().note(&format!("{at} has one connection: {reason}"));
        }
    }
    Ok(Exit::Ok)
}
