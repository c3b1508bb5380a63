//! The records of realizations, one for each target:
//!
//! ```text
//! CVS_HOME/realizations/KEY.json   what lies at the target; KEY is made of the target's path
//! CVS_HOME/realizations/KEY.lock   locked: alone by who changes the target, shared by who runs from it
//! TARGET/.cvs/realization.json     the mark that the target is ours: which home, which record
//! ```
//!
//! A record holds no list of files. It names the manifests that were written, and is a root of garbage collection, so
//! that the store can always say what cvs wrote at the target. Before a target is touched, its record says what it is
//! about to become (`writing`); when all of it is on disk, the record says so (`complete`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cvs_store::{Graft, ManifestId, RelPath, RootRef, RootSource, ViewId, path_json};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::RealizeError;
use crate::spec::{VersionId, VersionsDir};

const FORMAT: u32 = 1;

/// A realization, as its record has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Realization {
    pub(super) format: u32,
    /// What the mark in the target says too.
    pub(super) id: String,
    /// The version that was realized last.
    pub version: String,
    /// The directory.
    #[serde(with = "path_json")]
    pub target: PathBuf,
    /// What lies there, on disk and whole; none before the first realize came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Written>,
    /// What was begun since, and may lie there in part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writing: Vec<Written>,
    /// Steps in which the target's filesystem keeps times, in nanoseconds.
    pub(super) time_step: u32,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub(super) extra: Map<String, Value>,
}

/// A view that was written, or begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Its identity.
    pub view: ViewId,
    pub(super) grafts: Vec<Placed>,
    /// Models are copies (or clones), not links.
    #[serde(default)]
    pub(super) copied_models: bool,
    /// The boot in which it was begun; what a crash of the machine left has to be read before it is believed.
    pub(super) boot: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// A manifest of the view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Placed {
    #[serde(with = "path_json")]
    pub(super) path: PathBuf,
    pub(super) manifest: ManifestId,
    /// It lists the models.
    #[serde(default)]
    pub(super) models: bool,
}

impl Written {
    /// A view that is begun now. The files of the manifest `models` are linked to, unless they are to be copied.
    pub(super) fn begin(
        view: ViewId,
        grafts: &[Graft],
        models: Option<ManifestId>,
        copied_models: bool,
    ) -> Self {
        let place = |graft: &Graft| Placed {
            path: graft.path.as_path().to_owned(),
            manifest: graft.manifest,
            models: Some(graft.manifest) == models && graft.path.is_root(),
        };
        let grafts = grafts.iter().map(place).collect();
        Self { view, grafts, copied_models, boot: boot_id(), since: now() }
    }
}

impl Placed {
    pub(super) fn rel_path(&self) -> Result<RelPath, String> {
        RelPath::new(self.path.as_os_str().as_bytes()).map_err(|error| error.to_string())
    }
}

impl Realization {
    pub(super) fn new(version: &VersionId, target: &Path) -> Self {
        Self {
            format: FORMAT,
            id: unique(target),
            version: version.to_string(),
            target: target.to_owned(),
            complete: None,
            writing: Vec::new(),
            time_step: 1,
            extra: Map::new(),
        }
    }

    /// True when the target holds this view whole, and nothing else was begun since.
    pub fn holds(&self, view: ViewId) -> bool {
        self.writing.is_empty() && self.complete.as_ref().is_some_and(|written| written.view == view)
    }

    fn manifests(&self) -> Vec<ManifestId> {
        let written = self.complete.iter().chain(&self.writing);
        let mut all: Vec<ManifestId> = written.flat_map(|w| w.grafts.iter().map(|g| g.manifest)).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The mark in a target.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) format: u32,
    pub(super) id: String,
    #[serde(with = "path_json")]
    pub(super) home: PathBuf,
}

impl Mark {
    pub(super) fn of(realization: &Realization, home: &Path) -> Self {
        Self { format: FORMAT, id: realization.id.clone(), home: home.to_owned() }
    }
}

/// The directory of records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn new(home: &Path) -> Self {
        Self { dir: home.join("realizations") }
    }

    fn file_of(&self, target: &Path) -> PathBuf {
        self.dir.join(key(target) + ".json")
    }

    /// The record of a target.
    pub(crate) fn read(&self, target: &Path) -> Result<Option<Realization>, RealizeError> {
        let path = self.file_of(target);
        match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RealizeError::io("read", path, error)),
        }
    }

    /// All of them, sorted by target. One that cannot be read is an error: what it keeps is not known.
    pub(crate) fn list(&self) -> Result<Vec<Realization>, RealizeError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RealizeError::io("list", &self.dir, error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| RealizeError::io("list", &self.dir, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || !name.ends_with(".json") {
                continue;
            }
            match fs::read(&path) {
                Ok(bytes) => all.push(parse(&path, &bytes)?),
                // Removed while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RealizeError::io("read", path, error)),
            }
        }
        all.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(all)
    }

    /// Publishes a record; it is durable when this returns.
    pub(super) fn write(&self, realization: &Realization) -> Result<(), RealizeError> {
        self.make()?;
        let path = self.file_of(&realization.target);
        publish(&path, &to_json(realization)).map_err(|error| RealizeError::io("write", &path, error))
    }

    pub(super) fn remove(&self, target: &Path) -> Result<(), RealizeError> {
        let path = self.file_of(target);
        fs::remove_file(&path)
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|error| RealizeError::io("remove", path, error))
    }

    fn make(&self) -> Result<(), RealizeError> {
        fs::create_dir_all(&self.dir).map_err(|error| RealizeError::io("create", &self.dir, error))
    }

    /// Takes the lock of a target without waiting: alone to change it, shared to run from it.
    pub(super) fn hold(&self, target: &Path, alone: bool) -> Result<RealizationHold, RealizeError> {
        self.make()?;
        let path = self.dir.join(key(target) + ".lock");
        let failed = |error: io::Error| RealizeError::io("lock", &path, error);
        let mut file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let how = match alone {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&file, how) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(RealizeError::Busy { path: target.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // Only a word for whoever is refused; that it cannot be written harms nobody.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = writeln!(file, "{}", std::process::id());
        Ok(RealizationHold { file })
    }
}

/// A realization that is not changed or removed as long as this lives. Locks of the kernel: the end of the process ends
/// it, whatever that end was.
#[derive(Debug)]
pub struct RealizationHold {
    file: File,
}

impl RealizationHold {
    /// Lets others run from the target as well.
    pub(super) fn share(&self) -> Result<(), RealizeError> {
        rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockShared)
            .map_err(|errno| RealizeError::io("lock", "the record of the realization", errno))
    }
}

impl Drop for RealizationHold {
    fn drop(&mut self) {
        // Closing would not do while a child that another thread is just starting still has the descriptor.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// What keeps objects alive besides leases: the locks of all specs, and all realizations.
#[derive(Debug, Clone)]
pub struct Roots {
    pub(crate) versions: VersionsDir,
    pub(crate) records: Records,
}

impl RootSource for Roots {
    fn roots(&self) -> Result<Vec<RootRef>, Box<dyn std::error::Error + Send + Sync>> {
        let mut roots: BTreeMap<String, Vec<ManifestId>> = BTreeMap::new();
        // Realizations first: one that is removed meanwhile was rooted by its spec as well, or is garbage at last.
        for realization in self.records.list()? {
            roots.entry(realization.version.clone()).or_default().extend(realization.manifests());
        }
        for root in RootSource::roots(&self.versions)? {
            let manifests = roots.entry(root.name).or_default();
            manifests.extend(root.manifests);
        }
        let to_ref = |(name, mut manifests): (String, Vec<ManifestId>)| {
            manifests.sort();
            manifests.dedup();
            RootRef { name, manifests }
        };
        Ok(roots.into_iter().map(to_ref).collect())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Realization, RealizeError> {
    let bad = |reason: String| RealizeError::Record { path: path.to_owned(), reason };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    // Before its fields, which another format may have otherwise.
    match value.get("format").and_then(Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        found => {
            let found = found.map_or("no format".to_owned(), |format| format!("format {format}"));
            return Err(bad(format!("it has {found}, this program knows format {FORMAT}")));
        }
    }
    let realization: Realization = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
    for placed in realization.complete.iter().chain(&realization.writing).flat_map(|w| &w.grafts) {
        placed.rel_path().map_err(bad)?;
    }
    Ok(realization)
}

pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Writes beside, makes durable, renames, makes the name durable.
pub(super) fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn key(target: &Path) -> String {
    blake3::hash(target.as_os_str().as_bytes()).to_hex()[..16].to_owned()
}

fn unique(target: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    hasher.update(&since.unwrap_or_default().as_nanos().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes()).update(target.as_os_str().as_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
