//! `cvs mount`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use cvs_versions::spec::{ReadOptions, VersionId};

use super::shared::EnsureArgs;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::mounts::{self, Daemon, Serve};
use crate::shell;

/// Show a version as a directory.
///
/// Brings the version's lock up to date first, mounts the version, and leaves a process behind that serves the mount
/// until `cvs umount`. What is written goes to the version's overlay and is there again at the next mount.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    /// Where: an empty directory, made when it is not there.
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,

    #[command(flatten)]
    ensure: EnsureArgs,

    /// Serve the mount in this process, until Ctrl-C.
    #[arg(long)]
    foreground: bool,

    /// Show the version as it is specified; nothing can be written, and nothing that was written before is shown.
    #[arg(long, conflicts_with_all = ["ephemeral", "overlay"])]
    read_only: bool,

    /// Throw away at the end what was written.
    #[arg(long, conflicts_with = "overlay")]
    ephemeral: bool,

    /// Keep what is written in this directory, not with the version.
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,

    /// Let other users use the mount, as the modes of its files allow.
    #[arg(long)]
    allow_other: bool,

    /// Serve `models/` as everything else, without a connection of its own that lets the kernel read models by itself.
    #[arg(long)]
    no_passthrough: bool,

    /// Threads that serve the mount.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,

    /// The log of this process, which is a daemon.
    #[arg(long, value_name = "FILE", hide = true)]
    log: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: &MountArgs) -> Result<Exit, CliError> {
    let is_daemon = args.log.is_some();
    let cleared = |path: &Path| {
        context.output().note(&format!("cleared the dead mount at {}", path.display()));
    };
    // A name that is misspelt makes no directory.
    context.versions_dir().read(&args.id, ReadOptions { lenient: args.ensure.lenient })?;
    let mountpoint = mounts::prepare(&args.mountpoint, cleared)?;
    if is_daemon {
        // Its starter's Ctrl-C is not meant for it.
        nix::unistd::setsid().map_err(|errno| CliError::Signals(errno.into()))?;
    }
    let ready = args.ensure.ensure(context, &args.id)?;
    if args.foreground {
        return foreground(context, args, mountpoint, ready.view);
    }
    drop(ready);
    let workspace = context.workspace()?;
    let absolute = |path: &Path| std::path::absolute(path).map_err(CliError::WorkingDirectory);
    Daemon {
        home: workspace.store().home(),
        versions_dir: absolute(workspace.versions().path())?,
        version: args.id.as_str(),
        mountpoint: &mountpoint,
        read_only: args.read_only,
        ephemeral: args.ephemeral,
        overlay: args.overlay.as_deref().map(absolute).transpose()?,
        allow_other: args.allow_other,
        threads: args.threads,
        passthrough: !args.no_passthrough,
        lenient: args.ensure.lenient,
    }
    .start()?;
    context.output().note(&format!("{} is mounted at {}", args.id, mountpoint.display()));
    Ok(Exit::Ok)
}

fn foreground(
    context: &Context,
    args: &MountArgs,
    mountpoint: PathBuf,
    view: cvs_store::View,
) -> Result<Exit, CliError> {
    let workspace = context.workspace()?;
    let threads = match args.threads {
        // One request may wait for the disk while others are answered.
        0 => std::thread::available_parallelism().map_or(4, |n| n.get().clamp(4, 16)),
        n => n,
    };
    let overlay = args.overlay.clone().unwrap_or_else(|| workspace.overlay_dir(&args.id));
    let serve = Serve {
        version: args.id.to_string(),
        mountpoint: mountpoint.clone(),
        read_only: args.read_only,
        ephemeral: args.ephemeral,
        overlay,
        allow_other: args.allow_other,
        threads,
        passthrough: !args.no_passthrough,
        log: args.log.clone(),
    };
    let is_daemon = args.log.is_some();
    let confirming = args.ensure.workspace(context)?;
    let confirm = |view: &cvs_store::View| Ok(confirming.confirm(&args.id, view)?);
    let (id, output) = (args.id.clone(), context.output().clone());
    mounts::serve(&serve, workspace.store(), view, context.cancel(), confirm, move |_| {
        if is_daemon {
            mounts::say_ready();
        } else {
            output.note(&format!("{id} is mounted at {}; Ctrl-C unmounts it", mountpoint.display()));
        }
    })?;
    Ok(Exit::Ok)
}

/// What is wrong with a command line with which mount(8) calls this program: the helper of FUSE filesystems takes what
/// comes before the colon of a mount's source for its program, also to remount, which is for the kernel alone.
pub(crate) fn called_as_helper(arguments: &[OsString]) -> Option<String> {
    let [_, source, mountpoint, ..] = arguments else { return None };
    source.as_bytes().strip_prefix(b"cvs:")?;
    let at = shell::word(Path::new(mountpoint));
    Some(format!("mount(8) cannot do this through cvs; remount with -i, as `mount -i -o remount,ro {at}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_by_mount_are_told_from_commands() {
        let said = |line: &[&str]| called_as_helper(&line.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(
            said(&["cvs", "cvs:v", "/mnt", "-o", "remount,ro,dev,suid"]).as_deref(),
            Some("mount(8) cannot do this through cvs; remount with -i, as `mount -i -o remount,ro /mnt`")
        );
        for command in [&["cvs", "mount", "v", "/mnt"][..], &["cvs", "cvs:v"], &["cvs"]] {
            assert_eq!(said(command), None);
        }
    }
}
