//! The directory of specs: `<id>.json`, one per version, and nothing else that ends in `.json`.
//!
//! A spec is published whole or not at all: written beside its place, made durable, renamed, and the directory made
//! durable. Publishing and deleting hold the lock file `.cvs-lock` and compare the file with what was read, so that
//! nobody's edit is lost: neither that of another cvs nor that of an editor that saved in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cvs_store::{RootRef, RootSource};

use super::document::{self, SpecDocument};
use super::id::VersionId;
use super::lock::Lock;
use super::model::ReadOptions;
use super::reader::Findings;
use crate::error::{Origin, SpecError};

/// The environment variable that places the directory elsewhere than in the home.
pub const VERSIONS_DIR_VAR: &str = "CVS_VERSIONS_DIR";

const LOCK_FILE: &str = ".cvs-lock";
const TEMP_PREFIX: &str = ".cvs-tmp-";

/// The directory of specs.
#[derive(Debug, Clone)]
pub struct VersionsDir {
    dir: PathBuf,
}

/// The lock, held: nobody else publishes or deletes a spec meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// What one spec keeps alive.
#[derive(Debug, Clone)]
pub struct SpecRoot {
    /// The version.
    pub id: VersionId,
    /// Its file.
    pub path: PathBuf,
    /// Its lock; a version that was never locked keeps nothing.
    pub lock: Option<Lock>,
}

impl VersionsDir {
    /// The directory at `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory that belongs to `home`: `versions/` in it, unless [`VERSIONS_DIR_VAR`] names another.
    pub fn of_home(home: &Path) -> Self {
        match std::env::var_os(VERSIONS_DIR_VAR).filter(|value| !value.is_empty()) {
            Some(dir) => Self::new(dir),
            None => Self::new(home.join("versions")),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The file of a version, whether it exists or not.
    pub fn file_of(&self, id: &VersionId) -> PathBuf {
        self.dir.join(id.file_name())
    }

    /// Reads and checks a spec.
    pub fn read(&self, id: &VersionId, options: ReadOptions) -> Result<SpecDocument, SpecError> {
        let path = self.file_of(id);
        let bytes = read_file(&path)?.ok_or_else(|| self.unknown(id))?;
        let origin = Origin::File(path);
        let text = document::utf8(&bytes, &origin, "JSON")?;
        Ok(SpecDocument::parse(text, origin, Some(id), options)?.read_from(bytes))
    }

    /// Lets the next publishing of a document replace the file of its version as it is now, whatever is in it, if there
    /// is one. Whether there was.
    pub fn replace_by(&self, document: &mut SpecDocument) -> Result<bool, SpecError> {
        document.base = read_file(&self.file_of(&document.spec().version_id))?;
        Ok(document.base.is_some())
    }

    /// The ids of all versions, sorted. A `.json` file whose name cannot be an id is an error; hidden files are not
    /// looked at.
    pub fn list(&self) -> Result<Vec<VersionId>, SpecError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(SpecError::io("list", &self.dir, error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| SpecError::io("list", &self.dir, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(stem) = name.strip_suffix(".json").filter(|_| !name.starts_with('.')) else { continue };
            if path.is_dir() {
                continue;
            }
            match VersionId::new(stem) {
                Ok(id) => ids.push(id),
                Err(error) => return Err(SpecError::Stray { reason: error.to_string(), path }),
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// The locks of all versions, for garbage collection. It fails closed: a file that cannot be read, is no JSON or
    /// has a damaged lock is an error that names it. What else may be wrong in a spec does not matter here.
    pub fn roots(&self) -> Result<Vec<SpecRoot>, SpecError> {
        let mut roots = Vec::new();
        for id in self.list()? {
            let path = self.file_of(&id);
            // A dangling link is listed and not there: its version is unknown, so collecting is not safe.
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => continue,
                Err(error) => return Err(SpecError::io("read", path, error)),
            };
            let origin = Origin::File(path.clone());
            let text = document::utf8(&bytes, &origin, "JSON")?;
            let root = document::object(&text, &origin)?;
            let mut findings = Findings::default();
            let lock = root
                .get("lock")
                .filter(|value| !value.is_null())
                .and_then(|value| Lock::read(value, &mut findings));
            if !findings.problems.is_empty() {
                return Err(SpecError::Invalid { origin, problems: findings.problems });
            }
            roots.push(SpecRoot { id, path, lock });
        }
        Ok(roots)
    }

    /// Makes a document the spec of its version. A new document wants that there is none yet; one that was read wants
    /// that its file is still what it was. After that the document counts as read from there.
    pub fn publish(&self, document: &mut SpecDocument) -> Result<(), SpecError> {
        self.create()?;
        let _held = self.hold()?;
        let id = document.spec().version_id.clone();
        let path = self.file_of(&id);
        match (read_file(&path)?, &document.base) {
            (None, None) => {}
            (Some(_), None) => return Err(SpecError::Exists { id: id.to_string(), path }),
            (found, Some(base)) if found.as_ref() == Some(base) => {}
            (_, Some(_)) => return Err(SpecError::Changed { path }),
        }
        // A link stays one: what it points to is replaced.
        let target = if path.is_symlink() {
            fs::canonicalize(&path).map_err(|error| SpecError::io("resolve", &path, error))?
        } else {
            path
        };
        let bytes = document.text().as_bytes().to_vec();
        replace(&target, &bytes)?;
        document.base = Some(bytes);
        Ok(())
    }

    /// Removes a spec. What it kept alive goes with the next garbage collection.
    pub fn delete(&self, id: &VersionId) -> Result<(), SpecError> {
        if !self.dir.is_dir() {
            return Err(self.unknown(id));
        }
        self.remove(&self.hold()?, id)
    }

    /// As [`Self::delete`], for who holds the lock.
    pub(crate) fn remove(&self, _held: &Held, id: &VersionId) -> Result<(), SpecError> {
        let path = self.file_of(id);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.unknown(id)),
            Err(error) => Err(SpecError::io("remove", path, error)),
        }
    }

    fn unknown(&self, id: &VersionId) -> SpecError {
        SpecError::Unknown { id: id.to_string(), dir: self.dir.clone() }
    }

    fn create(&self) -> Result<(), SpecError> {
        if self.dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).map_err(|error| SpecError::io("create", &self.dir, error))?;
        // Its own name is as durable as the spec in it must be.
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Waits for the lock. Its holders do nothing but compare, rename and write what is small. A file rather than the
    /// directory itself is locked, because network filesystems refuse an exclusive lock on what is open for reading.
    pub(crate) fn hold(&self) -> Result<Held, SpecError> {
        let path = self.dir.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| SpecError::io("open", &path, error))?;
        file.lock().map_err(|error| SpecError::io("lock", &path, error))?;
        self.sweep();
        Ok(Held { _file: file })
    }

    /// Removes what killed processes left behind: under the lock, no temporary file has an owner.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                // What cannot be removed is hidden and harms nobody.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// What garbage collection keeps for the versions of this directory: every manifest that a lock names.
impl RootSource for VersionsDir {
    fn roots(&self) -> Result<Vec<RootRef>, Box<dyn std::error::Error + Send + Sync>> {
        let to_ref = |root: SpecRoot| RootRef {
            name: root.id.to_string(),
            manifests: root.lock.iter().flat_map(Lock::manifests).collect(),
        };
        Ok(self.roots()?.into_iter().map(to_ref).collect())
    }
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, SpecError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SpecError::io("read", path, error)),
    }
}

/// Replaces a file atomically and durably. Its permissions stay.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), SpecError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.join(format!("{TEMP_PREFIX}{}-{name}", std::process::id()));
    let write = || -> io::Result<()> {
        // Where a link leads nobody sweeps, and ids of processes come again.
        match fs::remove_file(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temp)?;
        if let Ok(metadata) = fs::metadata(path) {
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    if let Err(error) = write() {
        // The first error is the one to report; the next sweep takes what stays.
        let _ = fs::remove_file(&temp);
        return Err(SpecError::io("write", path, error));
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), SpecError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| SpecError::io("make durable", dir, error))
}
