//! A directory in which a version can run: its mount, or plain files where nothing can be mounted.
//!
//! A version that a person has mounted is run from there, and stays mounted. Else it is mounted at
//! `CVS_HOME/run/mnt/NAME` for the time of the run. Where it cannot be mounted, it is realized in
//! `CVS_HOME/realized/ID`, which stays; `NAME~ephemeral` beside it is for one run. Whoever opens a place holds the run's
//! lock, so that what is found there was left behind by somebody who died.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use cvs_store::Store;
use cvs_versions::realize::{RealizationHold, RealizeError, RealizeOptions};
use cvs_versions::spec::{ReadOptions, VersionId};
use cvs_versions::{Event, Ready, VersionsError, Workspace};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::RunsError;
use super::record::{Role, name_of};
use crate::activity::Activity;
use crate::confine;
use crate::context::Context;
use crate::error::CliError;
use crate::machine;
use crate::mounts::{self, Daemon, How, MountState};

/// How long files may be in use after everything that we know of has ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at a mount that is about to be there.
const POLL: Duration = Duration::from_millis(20);

/// How a version is to be placed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaceArgs {
    /// Whose place it is.
    pub(crate) role: Role,
    /// What is written is thrown away.
    pub(crate) ephemeral: bool,
    /// Plain files even where a mount is possible.
    pub(crate) no_fuse: bool,
    /// How its spec is read.
    pub(crate) lenient: bool,
}

/// What a place is.
enum Kind {
    /// A mount that a person made.
    Mounted,
    /// A mount for this run.
    Private,
    /// Plain files, kept from being changed while this lives.
    Realized(#[allow(dead_code)] RealizationHold),
    /// Plain files for this run.
    Scratch(Option<RealizationHold>),
}

/// A directory in which a version can run. Dropping it closes it.
pub(crate) struct Place {
    root: PathBuf,
    kind: Kind,
    workspace: Workspace,
    open: bool,
    /// Programs can reach the store through links, and have to be kept from writing there.
    linked: bool,
}

impl Place {
    /// Makes a place for the version.
    pub(crate) fn open(
        context: &Context,
        ready: &Ready,
        how: &PlaceArgs,
        cancel: &AtomicBool,
    ) -> Result<Self, CliError> {
        let workspace = context.workspace()?;
        let store = workspace.store();
        let id = &ready.spec.version_id;
        let mountpoint = mountpoint(store, id.as_str(), how.role);
        clear(store, &mountpoint)?;
        let make = |root, kind| Self { root, kind, workspace: workspace.clone(), open: true, linked: false };
        let plain = || {
            let (root, kind, linked) = realize(context, ready, how, cancel)?;
            let mut place = make(root, kind);
            place.linked = linked && must_be_confined(context);
            Ok(place)
        };
        if how.no_fuse {
            return plain();
        }
        if !how.ephemeral {
            let overlay = workspace.overlay_dir(id);
            for entry in mounts::list(store)? {
                if entry.state != MountState::Mounted || entry.overlay() != Some(overlay.as_path()) {
                    continue;
                }
                let root = entry.mountpoint().to_owned();
                if entry.view() != ready.view_id.to_hex() {
                    return Err(RunsError::OldMount { version: id.to_string(), mountpoint: root }.into());
                }
                return Ok(make(root, Kind::Mounted));
            }
        }
        if let Err(reason) = machine::can_mount() {
            context.output().note(&format!("{id} is run from plain files: {reason}"));
            return plain();
        }
        let place = make(mounts::prepare(&mountpoint, |_| ())?, Kind::Private);
        Daemon {
            home: store.home(),
            versions_dir: std::path::absolute(workspace.versions().path())
                .map_err(CliError::WorkingDirectory)?,
            version: id.as_str(),
            mountpoint: &place.root,
            read_only: false,
            ephemeral: how.ephemeral,
            overlay: None,
            allow_other: false,
            threads: 0,
            passthrough: true,
            lenient: how.lenient,
        }
        .start()?;
        Ok(place)
    }

    /// What has to stand before the command line of a program that runs here.
    pub(crate) fn wrapper(&self) -> Result<Vec<OsString>, CliError> {
        if !self.linked {
            return Ok(Vec::new());
        }
        let objects = self.workspace.store().home().join("objects");
        Ok(confine::wrapper(&objects).map_err(RunsError::io("find", "the program itself"))?)
    }

    /// The directory of main.py.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Takes down what was made. Who still uses it then gets errors.
    pub(crate) fn close(mut self) -> Result<(), CliError> {
        self.open = false;
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), CliError> {
        match &mut self.kind {
            Kind::Mounted | Kind::Realized(_) => Ok(()),
            Kind::Private => clear(self.workspace.store(), &self.root),
            Kind::Scratch(hold) => {
                drop(hold.take());
                discard(&self.workspace, &self.root)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = self.take_down()
        {
            tracing::warn!(root = %self.root.display(), %error, "cannot take down");
        }
    }
}

/// Does beforehand, where it is seen how far it is, what takes long in [`Place::open`]: writing plain files.
pub(crate) fn prepare(context: &Context, ready: &Ready, how: &PlaceArgs) -> Result<(), CliError> {
    if how.ephemeral || !(how.no_fuse || machine::can_mount().is_err()) {
        return Ok(());
    }
    realize(context, ready, how, context.cancel()).map(drop)
}

fn realize(
    context: &Context,
    ready: &Ready,
    how: &PlaceArgs,
    cancel: &AtomicBool,
) -> Result<(PathBuf, Kind, bool), CliError> {
    let workspace = context.workspace()?;
    let id = &ready.spec.version_id;
    let target = match how.ephemeral {
        true => scratch(workspace, id, how.role),
        false => workspace.default_target(id),
    };
    if how.ephemeral {
        discard(workspace, &target)?;
    }
    let activity = Activity::new(context);
    let events = |event: Event<'_>| activity.hear(event);
    let options = RealizeOptions { events: &events, cancel, ..RealizeOptions::default() };
    // The same rules for specs as when the lock was brought up to date.
    let reader = workspace.clone().reading(ReadOptions { lenient: how.lenient });
    let (report, hold) = reader.realize_held(ready, Some(&target), &options)?;
    drop(activity);
    let kind = if how.ephemeral { Kind::Scratch(Some(hold)) } else { Kind::Realized(hold) };
    Ok((report.target, kind, report.has_links))
}

/// True when programs would be able to write into models through their links, and can be kept from it.
fn must_be_confined(context: &Context) -> bool {
    if !confine::is_needed() {
        return false;
    }
    if !confine::is_possible() {
        context.output().warning(
            "this kernel cannot keep programs from writing into models through their links; \
             `cvs realize --copy-models` makes copies, `cvs validate VERSION --target DIR` tells what was written to",
        );
        return false;
    }
    true
}

/// Where a version is realized for one run.
pub(crate) fn scratch(workspace: &Workspace, id: &VersionId, role: Role) -> PathBuf {
    let name = format!("{}~ephemeral", name_of(id.as_str(), role));
    workspace.default_target(id).with_file_name(name)
}

/// Removes a realization for one run, with all that was written there.
pub(crate) fn discard(workspace: &Workspace, target: &Path) -> Result<(), CliError> {
    match workspace.remove_realization(target, true, false) {
        Err(VersionsError::Realize(RealizeError::Unknown { .. })) => {}
        removed => drop(removed?),
    }
    match std::fs::remove_dir_all(target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RunsError::io("remove", target)(error).into())
        }
        _ => Ok(()),
    }
}

/// Where a version is mounted for a run.
pub(crate) fn mountpoint(store: &Store, version: &str, role: Role) -> PathBuf {
    store.home().join("run/mnt").join(name_of(version, role))
}

/// Takes down whatever is mounted there for a run, and removes the directory.
pub(crate) fn clear(store: &Store, mountpoint: &Path) -> Result<(), CliError> {
    if mountpoint.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    let never = AtomicBool::new(false);
    let begun = Instant::now();
    loop {
        let entries = mounts::list(store)?;
        let Some(entry) = entries.iter().find(|entry| entry.mountpoint() == mountpoint) else { break };
        match (entry.state, entry.pid) {
            // Its daemon has begun and will mount, or end.
            (MountState::NotAttached, Some(pid)) => {
                if begun.elapsed() > PATIENCE {
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                }
                thread::sleep(POLL);
            }
            _ => {
                let mut waiting = |users: &str| tracing::info!(users, "waiting to unmount");
                let patience = PATIENCE.saturating_sub(begun.elapsed());
                match mounts::take_down(entry, How::Wait, patience, &never, &mut waiting) {
                    Err(mounts::MountsError::InUse { path, users }) => {
                        tracing::warn!(path = %path.display(), users, "still in use, and taken down");
                        mounts::take_down(entry, How::Force, PATIENCE, &never, &mut |_| ())?;
                    }
                    done => done?,
                }
            }
        }
    }
    match std::fs::remove_dir(mountpoint) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RunsError::io("remove", mountpoint)(error).into())
        }
        _ => Ok(()),
    }
}
