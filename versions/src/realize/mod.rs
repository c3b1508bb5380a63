//! Realizing: the view of a version as plain files, where there is no FUSE or nobody may mount.
//!
//! *Promises.* What cvs writes at the target has the content, the mode and the time that a mount shows, so that
//! bytecode stays valid. Models are links into the store, or clones where the filesystem shares bytes between files.
//! Nothing that a program or a person wrote at the target is overwritten or removed: it stays, it is set aside when
//! that was asked for, or the realize is refused before it touched anything. A realize that is interrupted, by a power
//! cut too, is completed by the next; one of another version writes what differs.
//!
//! *Layout.* See `record`. In the target, `.cvs/` is ours: `realization.json` is the mark, `tmp/` what is being
//! written, `aside/TIME/` what was set aside. A realization is a root of garbage collection until it is removed.
//!
//! *Order.* The record says what is coming before the target is touched, and that it is complete when all of it is
//! durable. Locks: a target's, then the store's lease.

mod check;
mod error;
mod listing;
mod place;
mod plan;
mod record;
mod remove;
mod write;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cvs_store::{Lease, LeaseKind, ManifestId, RelPath, Store, ViewId};
use serde::Serialize;

pub use self::check::{CheckOptions, DamagedModel, TargetReport};
pub use self::error::{Change, ChangeKind, RealizeError};
pub(crate) use self::record::Records;
pub use self::record::{Realization, RealizationHold, Roots, Written};
pub use self::remove::RemoveReport;

use self::listing::{Listing, Node};
use self::place::{Eye, OWN, Target};
use self::plan::{Planner, Steps};
use self::record::{Mark, boot_id};
use self::write::Writer;
use crate::error::VersionsError;
use crate::spec::VersionId;
use crate::workspace::{Event, Events, Ready, Workspace};

static NEVER: AtomicBool = AtomicBool::new(false);

/// How a version is realized.
#[derive(Clone, Copy)]
pub struct RealizeOptions<'a> {
    /// Makes everything as the version has it: what differs is set aside, also where the version did not change.
    pub force: bool,
    /// Copies models, or links to them. None: as they are in the target, and links where there are none yet.
    pub copy_models: Option<bool>,
    /// Only says what would be done.
    pub dry_run: bool,
    /// Hears of progress.
    pub events: Events<'a>,
    /// Set to true, by anyone at any time, to stop.
    pub cancel: &'a AtomicBool,
}

impl Default for RealizeOptions<'_> {
    fn default() -> Self {
        Self { force: false, copy_models: None, dry_run: false, events: &|_| {}, cancel: &NEVER }
    }
}

/// What a realize did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RealizeReport {
    /// The version.
    pub id: VersionId,
    /// The directory.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub target: PathBuf,
    /// The view that lies there.
    pub view: ViewId,
    /// Nothing was to be done.
    pub unchanged: bool,
    /// All files, links to models included.
    pub files: u64,
    /// Files that were written.
    pub written_files: u64,
    /// Their bytes. Where the filesystem shares bytes between files they take no room.
    pub written_bytes: u64,
    /// True when files share their bytes with the store.
    pub cloned: bool,
    /// Models that were linked to.
    pub linked_models: u64,
    /// Links into the store lie there.
    pub has_links: bool,
    /// Files and links that were removed, because the version does not have them any more.
    pub removed: u64,
    /// What differs from the version, and stays.
    pub kept: Vec<Change>,
    /// What was in the way and is in `.cvs/aside` now.
    #[serde(serialize_with = "error::as_paths")]
    pub set_aside: Vec<RelPath>,
    /// What is in the way; only without `force`, and only in a report of what would be done.
    pub in_the_way: Vec<Change>,
}

/// What is known of a target before anything is done.
struct Situation {
    realization: Realization,
    /// Links lead to another home: this one was moved since.
    moved: bool,
    target: Option<Target>,
}

impl Workspace {
    /// Where a version is realized when nothing else is said.
    pub fn default_target(&self, id: &VersionId) -> PathBuf {
        self.store().home().join("realized").join(id.as_str())
    }

    /// All realizations, sorted by target.
    pub fn realizations(&self) -> Result<Vec<Realization>, VersionsError> {
        Ok(self.records().list()?)
    }

    /// The realizations of a version.
    pub fn realizations_of(&self, id: &VersionId) -> Result<Vec<Realization>, VersionsError> {
        let mut all = self.realizations()?;
        all.retain(|realization| realization.version == id.as_str());
        Ok(all)
    }

    /// Keeps a realization from being changed or removed, for who runs from it. Many may.
    ///
    /// # Errors
    /// [`RealizeError::Busy`] while it is being changed, [`RealizeError::Unknown`] when there is none.
    pub fn hold_realization(&self, target: &Path) -> Result<RealizationHold, VersionsError> {
        let target = resolve(target)?;
        let held = self.records().hold(&target, false)?;
        match self.records().read(&target)? {
            Some(_) => Ok(held),
            None => Err(RealizeError::Unknown { path: target }.into()),
        }
    }

    /// Makes the view of a version at `target` (see [`Self::default_target`]), or makes what is there into it.
    ///
    /// # Errors
    /// [`RealizeError`]; with [`RealizeError::InTheWay`] and all that stands above it, the target is as it was.
    pub fn realize(
        &self,
        ready: &Ready,
        target: Option<&Path>,
        options: &RealizeOptions<'_>,
    ) -> Result<RealizeReport, VersionsError> {
        let id = &ready.spec.version_id;
        let target = self.fit_target(id, target)?;
        let _held = match options.dry_run {
            true => None,
            false => Some(self.records().hold(&target, true)?),
        };
        Ok(self.job(ready, options, target)?.run(false)?.0)
    }

    /// As [`Self::realize`], for who runs from the target: it stays as it is until the hold is dropped. Several may run
    /// from one target, as long as nothing is to be changed there.
    pub fn realize_held(
        &self,
        ready: &Ready,
        target: Option<&Path>,
        options: &RealizeOptions<'_>,
    ) -> Result<(RealizeReport, RealizationHold), VersionsError> {
        let target = self.fit_target(&ready.spec.version_id, target)?;
        let held = self.records().hold(&target, false)?;
        if let (report, true) = self.job(ready, options, target.clone())?.run(true)? {
            return Ok((report, held));
        }
        drop(held);
        let held = self.records().hold(&target, true)?;
        let (report, _) = self.job(ready, options, target)?.run(false)?;
        held.share()?;
        Ok((report, held))
    }

    fn fit_target(&self, id: &VersionId, target: Option<&Path>) -> Result<PathBuf, RealizeError> {
        let target = resolve(&target.map_or_else(|| self.default_target(id), Path::to_owned))?;
        check_place(self.store().home(), &target)?;
        // Whoever removes the outer one, with everything that programs wrote there, would remove the other.
        for other in self.records().list()?.iter().map(|other| (&other.target, &other.id)) {
            let (path, id) = other;
            let nested = *path != target && (path.starts_with(&target) || target.starts_with(path));
            if nested && read_mark(path)?.is_some_and(|mark| mark.id == *id) {
                let reason = "another version is realized in it, or around it";
                return Err(RealizeError::Unfit { path: target, reason });
            }
        }
        Ok(target)
    }

    fn job<'a>(
        &'a self,
        ready: &'a Ready,
        options: &'a RealizeOptions<'a>,
        target: PathBuf,
    ) -> Result<Job<'a>, VersionsError> {
        let id = &ready.spec.version_id;
        let manifests: Vec<ManifestId> = ready.grafts.iter().map(|graft| graft.manifest).collect();
        let label = format!("realize {id}");
        let info = serde_json::json!({ "target": target.to_string_lossy() });
        let lease = self.store().lease(LeaseKind::Transaction, &label, &manifests, info)?;
        // The lock stood until the lease was taken, so that nothing of it was collected.
        self.confirm(id, &ready.view)?;
        Ok(Job { store: self.store(), records: self.records(), ready, options, target, _lease: lease })
    }
}

struct Job<'a> {
    store: &'a Store,
    records: &'a Records,
    ready: &'a Ready,
    options: &'a RealizeOptions<'a>,
    target: PathBuf,
    _lease: Lease,
}

impl Job<'_> {
    /// What was done, and whether the target is as it must be. Of many who share the target, nobody changes it.
    fn run(self, shared: bool) -> Result<(RealizeReport, bool), RealizeError> {
        let Self { ready, options, .. } = self;
        let Situation { mut realization, moved, target } = situation(
            self.store,
            self.records,
            &ready.spec.version_id,
            &self.target,
            options.dry_run || shared,
        )?;
        let cloned = shares_bytes(self.store, &self.target);
        let before = realization.complete.as_ref().or(realization.writing.last());
        let before = before.is_some_and(|written| written.copied_models);
        let copied_models = options.copy_models.unwrap_or(before) || cloned;
        let written = Written::begin(ready.view_id, &ready.grafts, ready.lock.models_manifest, copied_models);
        let as_it_stands = realization.holds(written.view)
            && realization.complete.as_ref().is_some_and(|found| found.copied_models == copied_models);
        let next = Listing::of(self.store, &written)?;
        if as_it_stands && !moved && !options.force {
            return Ok((self.report(&written, &next, &Steps::default(), cloned), true));
        }
        if shared {
            return Ok((self.report(&written, &next, &Steps::default(), cloned), false));
        }
        let mut base = match &realization.complete {
            Some(complete) => Some(Listing::of(self.store, complete)?),
            None => None,
        };
        if let Some(base) = base.as_mut().filter(|_| moved) {
            base.unlink_models();
        }
        let boot = boot_id();
        let begun =
            realization.writing.iter().map(|begun| Ok((Listing::of(self.store, begun)?, begun.boot != boot)));
        let begun: Vec<(Listing, bool)> = begun.collect::<Result<_, RealizeError>>()?;
        let eye = Eye { store: self.store, time_step: realization.time_step };
        let planner = Planner {
            eye,
            target: target.as_ref(),
            next: &next,
            base: base.as_ref(),
            begun: &begun,
            force: options.force,
        };
        let steps = planner.plan()?;
        let mut report = self.report(&written, &next, &steps, cloned);
        if options.dry_run {
            return Ok((report, false));
        }
        if !steps.in_the_way.is_empty() {
            return Err(RealizeError::InTheWay { path: self.target, changes: steps.in_the_way });
        }
        if !cloned {
            check_room(&self.target, &steps)?;
        }
        realization.version = ready.spec.version_id.to_string();
        // One more of the same would say nothing new, unless the machine has crashed since.
        realization.writing.retain(|begun| {
            (begun.view, begun.copied_models, &begun.boot)
                != (written.view, written.copied_models, &written.boot)
        });
        realization.writing.push(written.clone());
        self.records.write(&realization)?;
        let target = self.make_target(&mut realization, target)?;
        (options.events)(Event::Realizing { files: report.written_files, bytes: report.written_bytes });
        let wrote = |bytes| (options.events)(Event::Realized { bytes });
        let writer = Writer::begin(self.store, &target, cloned, &wrote, options.cancel)?;
        writer.run(&steps, &write::aside_dir(&self.target))?;
        writer.sync()?;
        realization.complete = Some(written);
        realization.writing.clear();
        // The mark's time tells what was touched later.
        self.mark(&realization)?;
        self.records.write(&realization)?;
        report.unchanged &= as_it_stands;
        Ok((report, true))
    }

    /// The directory, with our mark in it and the steps of its clock known.
    fn make_target(
        &self,
        realization: &mut Realization,
        target: Option<Target>,
    ) -> Result<Target, RealizeError> {
        let own = self.target.join(OWN);
        fs::create_dir_all(&own).map_err(|error| RealizeError::io("create", &own, error))?;
        self.mark(realization)?;
        let target = match target {
            Some(target) => target,
            None => {
                Target::open(&self.target).map_err(|error| RealizeError::io("open", &self.target, error))?
            }
        };
        realization.time_step = target.time_step()?;
        Ok(target)
    }

    fn mark(&self, realization: &Realization) -> Result<(), RealizeError> {
        let path = mark_path(&self.target);
        record::publish(&path, &record::to_json(&Mark::of(realization, self.store.home())))
            .map_err(|error| RealizeError::io("write", path, error))
    }

    fn report(&self, written: &Written, next: &Listing, steps: &Steps, cloned: bool) -> RealizeReport {
        let is_file = |node: &Node| matches!(node, Node::File(_));
        RealizeReport {
            id: self.ready.spec.version_id.clone(),
            target: self.target.clone(),
            view: written.view,
            unchanged: steps.is_nothing(),
            files: next.iter().filter(|(_, node)| is_file(node)).count() as u64,
            written_files: (steps.copies.len() + steps.links.len()) as u64,
            written_bytes: steps.bytes(),
            cloned,
            linked_models: steps
                .symlinks
                .iter()
                .filter(|(path, _)| next.get(path).is_some_and(is_file))
                .count() as u64,
            has_links: next.iter().any(|(_, node)| matches!(node, Node::File(file) if file.linked)),
            removed: steps.unlink.len() as u64,
            kept: steps.kept.clone(),
            set_aside: steps.aside.clone(),
            in_the_way: steps.in_the_way.clone(),
        }
    }
}

/// Looks at the record and the mark: whether the target is ours, and what we know of it.
fn situation(
    store: &Store,
    records: &Records,
    id: &VersionId,
    path: &Path,
    dry_run: bool,
) -> Result<Situation, RealizeError> {
    let failed = |operation| move |error| RealizeError::io(operation, path, error);
    let record = records.read(path)?;
    let mark = read_mark(path)?;
    let is_empty = match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(RealizeError::Unfit { path: path.to_owned(), reason: "it is not a directory" });
        }
        _ => place::is_empty(path).map_err(failed("list"))?,
    };
    let moved = mark.as_ref().is_some_and(|mark| mark.home != store.home());
    let mut realization = match (record, mark) {
        (Some(record), Some(mark)) if record.id == mark.id && !is_of_another(&mark, store.home(), path)? => {
            record
        }
        (_, Some(mark)) if moved => {
            return Err(RealizeError::Foreign { path: path.to_owned(), home: mark.home });
        }
        // What was left when a realization was removed, or a realize that got no further than its record.
        (_, Some(_)) => Realization::new(id, path),
        (_, None) if is_empty => Realization::new(id, path),
        (_, None) => return Err(RealizeError::NotEmpty { path: path.to_owned() }),
    };
    let target = match path.exists() {
        true => Some(Target::open(path).map_err(failed("open"))?),
        false => None,
    };
    if let Some(target) = target.as_ref().filter(|_| !is_empty && !dry_run) {
        realization.time_step = target.time_step()?;
    }
    Ok(Situation { realization, moved, target })
}

fn mark_path(target: &Path) -> PathBuf {
    target.join(OWN).join("realization.json")
}

/// True when the home that the mark names is there and knows the target still: ours is a copy of that one, with copies
/// of its records. One that was moved left nothing behind.
fn is_of_another(mark: &Mark, home: &Path, target: &Path) -> Result<bool, RealizeError> {
    // One home can be mounted at two places.
    let identity = |home: &Path| fs::metadata(home).ok().map(|found| (found.dev(), found.ino()));
    if mark.home == home || identity(&mark.home) == identity(home) {
        return Ok(false);
    }
    Ok(Records::new(&mark.home).read(target)?.is_some_and(|theirs| theirs.id == mark.id))
}

/// The mark, unless somebody else has put something in the place of its directory.
fn read_mark(target: &Path) -> Result<Option<Mark>, RealizeError> {
    let own = target.join(OWN);
    if own.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
        return Err(RealizeError::Unfit { path: target.to_owned(), reason: "its .cvs is not a directory" });
    }
    let path = mark_path(target);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(mark) => Ok(Some(mark)),
            Err(error) => Err(RealizeError::Record { path, reason: error.to_string() }),
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(RealizeError::io("read", path, error)),
    }
}

/// The path with every symlink resolved, so that one directory has one record. It need not exist.
fn resolve(target: &Path) -> Result<PathBuf, RealizeError> {
    let absolute = std::path::absolute(target).map_err(|error| RealizeError::io("resolve", target, error))?;
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        match fs::canonicalize(existing) {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !existing.is_symlink() => {}
            Err(error) => return Err(RealizeError::io("resolve", existing, error)),
        }
        match (existing.file_name(), existing.parent()) {
            (Some(name), Some(parent)) => {
                missing.push(name.to_owned());
                existing = parent;
            }
            _ => {
                let reason = "it cannot be resolved";
                return Err(RealizeError::Unfit { path: absolute.clone(), reason });
            }
        }
    }
}

/// Our own directories are no place for a version.
fn check_place(home: &Path, target: &Path) -> Result<(), RealizeError> {
    let reason = match target.strip_prefix(home) {
        Ok(inside) if inside.starts_with("realized") && inside.components().count() > 1 => return Ok(()),
        Ok(_) => "it lies in the home directory of cvs",
        Err(_) if home.starts_with(target) => "the home directory of cvs lies in it",
        Err(_) => return Ok(()),
    };
    Err(RealizeError::Unfit { path: target.to_owned(), reason })
}

/// True when files of the store can share their bytes with files at the target.
fn shares_bytes(store: &Store, target: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let existing = target.ancestors().find_map(device);
    if existing.is_none() || existing != device(store.home()) {
        return false;
    }
    let staging = store.home().join("staging");
    let path = |end: &str| staging.join(format!(".clone-{}.{end}", std::process::id()));
    let (from, to) = (path("from"), path("to"));
    let probe = || -> io::Result<()> {
        fs::write(&from, b"cvs")?;
        Ok(rustix::fs::ioctl_ficlone(fs::File::create(&to)?, fs::File::open(&from)?)?)
    };
    let shared = probe().is_ok();
    let _ = (fs::remove_file(&from), fs::remove_file(&to));
    shared
}

fn check_room(target: &Path, steps: &Steps) -> Result<(), RealizeError> {
    let Some(existing) = target.ancestors().find(|path| path.exists()) else { return Ok(()) };
    let Ok(found) = rustix::fs::statvfs(existing) else { return Ok(()) };
    let block = found.f_frsize.max(512);
    let of_files = steps.copies.iter().map(|write| write.file.size.div_ceil(block) * block);
    let needed = of_files.sum::<u64>() + (steps.mkdir.len() + steps.symlinks.len()) as u64 * block;
    let available = found.f_bavail.saturating_mul(block);
    if needed > available {
        return Err(RealizeError::NoRoom { path: existing.to_owned(), needed, available });
    }
    Ok(())
}
