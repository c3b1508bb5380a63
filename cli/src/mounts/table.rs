//! The list of mounts, and making a mountpoint ready.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cvs_fusefs::{Connections, SUBTYPE};
use cvs_store::{LeaseKind, ProcessId, Store};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::control::{self, Report};
use super::{How, MountsError, mountinfo, unmount};
use crate::error::CliError;

/// What the daemon of a mount writes into its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountInfo {
    #[serde(with = "cvs_store::path_json")]
    pub(super) mountpoint: PathBuf,
    /// The filesystem's, as `0:51`; none until it is mounted. It tells the mount from others of the version that come to
    /// its place.
    #[serde(default)]
    pub(super) device: Option<String>,
    pub(super) view: String,
    pub(super) read_only: bool,
    pub(super) ephemeral: bool,
    /// Where what is written goes; none when nothing can be.
    #[serde(with = "cvs_store::path_json::option")]
    pub(super) overlay: Option<PathBuf>,
    /// None when it is served in the foreground.
    #[serde(with = "cvs_store::path_json::option")]
    pub(super) log: Option<PathBuf>,
    /// None until it is known.
    #[serde(default)]
    pub(super) models: Option<Models>,
}

/// How `models/` of a mount is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub(crate) enum Models {
    /// By a connection of its own, with passthrough.
    Passthrough,
    /// As everything else.
    OneConnection {
        /// Why.
        reason: String,
    },
}

impl From<&Connections> for Models {
    fn from(connections: &Connections) -> Self {
        match connections {
            Connections::Two => Self::Passthrough,
            Connections::One(refusal) => Self::OneConnection { reason: refusal.to_string() },
        }
    }
}

/// How a mount fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MountState {
    /// It is being made, or was detached while files are open.
    NotAttached,
    /// It can be used.
    Mounted,
    /// Its daemon is gone.
    Dead,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MountEntry {
    pub(crate) version: String,
    pub(crate) state: MountState,
    /// The daemon; none for a dead mount.
    pub(crate) pid: Option<u32>,
    /// Seconds since 1970.
    pub(crate) since: Option<u64>,
    #[serde(flatten)]
    pub(crate) info: MountInfo,
    /// What tells the daemon from a later process of its number.
    #[serde(skip)]
    pub(super) process: Option<ProcessId>,
    /// Where its lease lies, if it has one.
    #[serde(skip)]
    lease: Option<PathBuf>,
}

impl MountEntry {
    pub(crate) fn mountpoint(&self) -> &Path {
        &self.info.mountpoint
    }

    /// The view that it shows, in hexadecimal.
    pub(crate) fn view(&self) -> &str {
        &self.info.view
    }

    /// Where what is written goes.
    pub(crate) fn overlay(&self) -> Option<&Path> {
        self.info.overlay.as_deref()
    }

    /// How `models/` is served, as far as it is known.
    pub(crate) fn models(&self) -> Option<&Models> {
        self.info.models.as_ref()
    }

    /// Asks the daemon how the mount fares; none when there is nobody to ask.
    pub(crate) fn ask(&self) -> Option<io::Result<Report>> {
        control::ask(self.lease.as_deref()?).transpose()
    }

    /// `read-write`, `read-only` or `ephemeral`.
    pub(crate) fn mode(&self) -> &'static str {
        match (self.state, &self.info) {
            (MountState::Dead, _) => "",
            (_, info) if info.read_only => "read-only",
            (_, info) if info.ephemeral => "ephemeral",
            _ => "read-write",
        }
    }
}

/// The directory that may have a connection of its own.
pub(super) const MODELS: &str = "models";

/// Who has not answered by then does not.
const ANSWERS_IN: Duration = Duration::from_secs(2);

/// What the source of every mount begins with in /proc/mounts; the version follows.
const SOURCE: &str = "cvs:";

/// The source that /proc/mounts shows for a version.
pub(super) fn source_of(version: &str) -> String {
    format!("{SOURCE}{version}")
}

/// True for the mount of a version; its models connection is not one.
fn is_ours(line: &mountinfo::Line) -> bool {
    // The type has our name behind it where fusermount3 made the mount, and not where we did.
    (line.kind == "fuse" || line.kind == format!("fuse.{SUBTYPE}"))
        && line.source.strip_prefix(SOURCE).is_some_and(|version| !version.contains('/'))
}

/// Where the models connection of a mount is.
pub(super) fn models_of(mountpoint: &Path) -> PathBuf {
    mountpoint.join(MODELS)
}

/// True for the mount of this version that has this device; where that is not known, for any.
fn is_mount(line: &mountinfo::Line, version: &str, device: Option<&str>) -> bool {
    line.source == source_of(version) && device.is_none_or(|device| line.device == device)
}

/// All mounts of this store, and the dead ones of whatever store.
pub(crate) fn list(store: &Store) -> Result<Vec<MountEntry>, CliError> {
    let (mut entries, others) = survey(store)?;
    entries.extend(others.into_iter().filter(|entry| entry.state == MountState::Dead));
    entries.sort_by(|a, b| (&a.version, a.mountpoint()).cmp(&(&b.version, b.mountpoint())));
    Ok(entries)
}

/// The mounts of this store, the dead ones included, and those that have no lease here.
fn survey(store: &Store) -> Result<(Vec<MountEntry>, Vec<MountEntry>), CliError> {
    let all = mountinfo::read()?;
    let has_models = |tree: &mountinfo::Line| {
        let (path, source) = (models_of(&tree.mountpoint), format!("{}/{MODELS}", tree.source));
        all.iter().any(|line| line.parent == tree.id && line.mountpoint == path && line.source == source)
    };
    let mut lines: Vec<mountinfo::Line> = all.iter().filter(|line| is_ours(line)).cloned().collect();
    let mut entries = Vec::new();
    let mut leases = Vec::new();
    // The youngest first: where it was mounted again after it was detached, the younger one is what can be seen.
    for mut lease in store.leases()?.into_iter().rev() {
        if lease.kind == LeaseKind::Mount {
            let info: MountInfo = serde_json::from_value(lease.info.take()).unwrap_or_default();
            leases.push((lease, info));
        }
    }
    let known: HashSet<String> = leases.iter().filter_map(|(_, info)| info.device.clone()).collect();
    for (lease, mut info) in leases {
        let line = lines.iter().rposition(|line| {
            line.mountpoint == info.mountpoint
                && is_mount(line, &lease.label, info.device.as_deref())
                // One that does not say which is its own has none of those that others say are theirs.
                && (info.device.is_some() || !known.contains(&line.device))
        });
        let state = if line.is_some() { MountState::Mounted } else { MountState::NotAttached };
        if let Some(line) = line.map(|line| lines.remove(line)) {
            info.device = Some(line.device.clone());
            if info.models == Some(Models::Passthrough) && !has_models(&line) {
                let reason = "the models connection has been unmounted".to_owned();
                info.models = Some(Models::OneConnection { reason });
            }
        }
        let process = ProcessId { pid: lease.pid, boot_id: lease.boot_id, start_time: lease.start_time };
        entries.push(MountEntry {
            version: lease.label,
            state,
            pid: Some(lease.pid),
            since: Some(lease.since),
            info,
            process: Some(process),
            lease: Some(lease.directory),
        });
    }
    for lease in store.dead_mounts()? {
        let info: MountInfo = serde_json::from_value(lease.info.clone()).unwrap_or_default();
        let line = lines.iter().rposition(|line| {
            let device = info.device.as_deref();
            line.mountpoint == info.mountpoint && device.is_some() && is_mount(line, &lease.label, device)
        });
        match line.map(|line| lines.remove(line)) {
            // Of another namespace's mounts nothing is known; what is there now is not what died.
            Some(line) if is_dead(&line.mountpoint) => entries.push(without_lease(line, MountState::Dead)),
            Some(line) => lines.push(line),
            None => store.forget_dead_mount(&lease),
        }
    }
    let others = lines.into_iter().map(|line| {
        let state = if is_dead(&line.mountpoint) { MountState::Dead } else { MountState::Mounted };
        without_lease(line, state)
    });
    Ok((entries, others.collect()))
}

/// Forgets the dead mounts of this store that are no longer there, which looking at them all does.
pub(crate) fn forget_gone(store: &Store) -> Result<(), CliError> {
    survey(store).map(drop)
}

/// What can be known of a mount from the kernel alone.
fn without_lease(line: mountinfo::Line, state: MountState) -> MountEntry {
    let version = line.source.strip_prefix(SOURCE).unwrap_or(&line.source).to_owned();
    let info = MountInfo { mountpoint: line.mountpoint, device: Some(line.device), ..MountInfo::default() };
    MountEntry { version, state, pid: None, since: None, info, process: None, lease: None }
}

/// True when what can be seen at a path is the mount of this version that has this device; where that is not known, any
/// of the version.
pub(super) fn shows(mountpoint: &Path, version: &str, device: Option<&str>) -> bool {
    top(mountpoint).is_some_and(|line| is_mount(&line, version, device))
}

/// What has been mounted over the mount of this version that has this device, where that mount is still there.
pub(super) fn hidden_by(mountpoint: &Path, version: &str, device: Option<&str>) -> Option<String> {
    let lines = mountinfo::read().ok()?;
    let mut there = lines.into_iter().rev().filter(|line| line.mountpoint == mountpoint);
    let top = there.next().filter(|top| !is_mount(top, version, device))?;
    // Some filesystems have no source, and say so.
    let what = if top.source == "none" { top.kind } else { top.source };
    there.any(|line| is_mount(&line, version, device)).then_some(what)
}

/// True when what can be seen at the models directory of a mountpoint is the models connection of the mount of ours that
/// can be seen there, and not something that somebody has put there.
pub(super) fn shows_models(mountpoint: &Path) -> bool {
    let (path, end) = (models_of(mountpoint), format!("/{MODELS}"));
    let Some(tree) = top(mountpoint) else { return false };
    top(&path).is_some_and(|line| {
        line.parent == tree.id
            && line.kind.starts_with("fuse")
            && line.source.starts_with(SOURCE)
            && line.source.ends_with(&end)
    })
}

/// Mounts by `mount`, while no other cvs mounts there, and returns the device, too.
pub(super) fn mount_alone<T, E: From<MountsError>>(
    mountpoint: &Path,
    mount: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Option<String>), E> {
    let taken = |what| MountsError::Occupied { path: mountpoint.to_owned(), what };
    let check = || match top(mountpoint) {
        Some(line) if is_ours(&line) => Err(taken(line.source)),
        _ => Ok(()),
    };
    // A mount that another makes from here on is what is opened and locked, so it is looked for again.
    check()?;
    let directory = fs::File::open(mountpoint).map_err(MountsError::io("open", mountpoint))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(taken("it is being mounted".to_owned()).into()),
        // Where directories cannot be locked there is nothing better than the look.
        _ => check()?,
    }
    let mounted = mount()?;
    Ok((mounted, top(mountpoint).filter(is_ours).map(|line| line.device)))
}

/// The mount that can be seen at a path.
fn top(path: &Path) -> Option<mountinfo::Line> {
    mountinfo::read().ok()?.into_iter().rev().find(|line| line.mountpoint == path)
}

/// True when the daemon behind a FUSE mountpoint is gone. One that does not answer is there.
fn is_dead(mountpoint: &Path) -> bool {
    let (tell, told) = mpsc::channel();
    let path = mountpoint.to_owned();
    // Left to itself where it waits for a process that was stopped.
    thread::spawn(move || {
        // Attributes may still be cached, the state of the filesystem is not.
        let _ = tell.send(matches!(rustix::fs::statvfs(&path), Err(rustix::io::Errno::NOTCONN)));
    });
    told.recv_timeout(ANSWERS_IN).unwrap_or(false)
}

/// Makes a mountpoint ready: a directory that is there (made when it is not), empty, free of dead mounts, with its path
/// absolute. `cleared` hears of a dead mount that was taken away.
pub(crate) fn prepare(mountpoint: &Path, cleared: impl FnOnce(&Path)) -> Result<PathBuf, MountsError> {
    if is_dead(mountpoint) {
        let path = absolute(mountpoint)?;
        match top(&path) {
            // Somebody else's is theirs to clear.
            Some(line) if !is_ours(&line) => {
                return Err(MountsError::Occupied { path, what: line.source });
            }
            _ => {}
        }
        unmount::detach(&path)?;
        cleared(&path);
    }
    match fs::create_dir_all(mountpoint) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(MountsError::NotADirectory { path: mountpoint.to_owned() });
        }
        Err(error) => return Err(MountsError::io("create", mountpoint)(error)),
    }
    let path = fs::canonicalize(mountpoint).map_err(MountsError::io("resolve", mountpoint))?;
    if let Some(line) = top(&path).filter(is_ours) {
        return Err(MountsError::Occupied { path, what: line.source });
    }
    match fs::read_dir(&path).map(|mut entries| entries.next()) {
        Ok(None) => Ok(path),
        Ok(Some(_)) => Err(MountsError::NotEmpty { path }),
        Err(error) => Err(MountsError::io("list", path)(error)),
    }
}

/// The absolute path of something that may not answer: its parent does.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, MountsError> {
    if let Ok(path) = fs::canonicalize(path) {
        return Ok(path);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(MountsError::io("resolve", parent))?;
    Ok(match path.file_name() {
        Some(name) => parent.join(name),
        None => parent,
    })
}

/// The mounts that `target` means: one by its path, of whatever store, or all of a version of this one.
pub(crate) fn find(store: &Store, target: &OsStr) -> Result<Vec<MountEntry>, CliError> {
    let (mut ours, others) = survey(store)?;
    ours.sort_by(|a, b| a.mountpoint().cmp(b.mountpoint()));
    let path = absolute(Path::new(target)).ok();
    let is_there = |entry: &&MountEntry| path.as_deref() == Some(entry.mountpoint());
    let attached = |entry: &&MountEntry| entry.state != MountState::NotAttached;
    let of_version = |entry: &&MountEntry| target == entry.version.as_str();
    let mut found: Vec<MountEntry> =
        ours.iter().chain(&others).filter(is_there).filter(attached).cloned().collect();
    if found.is_empty() {
        found = ours.iter().filter(is_there).cloned().collect();
    }
    if found.is_empty() {
        found = ours.iter().filter(of_version).cloned().collect();
    }
    if found.is_empty() {
        let mut dead = others.iter().filter(|entry| entry.state == MountState::Dead);
        if let Some(entry) = dead.find(of_version) {
            let path = entry.mountpoint().to_owned();
            return Err(MountsError::OfAnotherStore { version: entry.version.clone(), path }.into());
        }
        return Err(MountsError::NotMounted { target: target.to_string_lossy().into_owned() }.into());
    }
    // Of several at one place, the one that can be seen comes first.
    found.sort_by_cached_key(|of| {
        let path = of.mountpoint().to_owned();
        let is_shown = shows(&path, &of.version, of.info.device.as_deref());
        (path, !is_shown)
    });
    Ok(found)
}

/// How `take_down` is told to go about it, by what the person asked for.
pub(crate) fn how(force: bool, lazy: bool) -> How {
    match (force, lazy) {
        (true, _) => How::Force,
        (false, true) => How::Lazy,
        (false, false) => How::Wait,
    }
}
