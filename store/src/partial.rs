//! Unfinished downloads below `staging/partial/`: whoever downloads owns them, and goes on with them after a cut. gc
//! takes those that nobody touched for two weeks.
//!
//! The files of one download share the name before the first dot; `<name>.lock` is locked by a process that works on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::error::StoreError;

/// A download that nobody touched for this long was given up.
const GIVEN_UP: Duration = Duration::from_secs(14 * 24 * 3600);

/// The files of a download that was given up.
pub(crate) struct Stale {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
    lock: PathBuf,
}

/// The downloads below `directory` that were given up and that no process holds.
pub(crate) fn stale(directory: &Path) -> Result<Vec<Stale>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", directory, error)),
    };
    let mut downloads: BTreeMap<String, (Stale, bool)> = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("list", directory, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stem = name.split('.').next().unwrap_or_default().to_owned();
        let metadata = match entry.metadata() {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("look at", entry.path(), error)),
        };
        let idle = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        let lock = directory.join(format!("{stem}.lock"));
        let fresh = || (Stale { files: Vec::new(), bytes: 0, lock }, true);
        let (download, old) = downloads.entry(stem).or_insert_with(fresh);
        download.files.push(entry.path());
        download.bytes += metadata.len();
        *old &= idle >= GIVEN_UP;
    }
    let old = downloads.into_values().filter_map(|(download, old)| old.then_some(download));
    old.filter_map(|download| match download.hold(false) {
        Ok(Some(_)) => Some(Ok(download)),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    })
    .collect()
}

impl Stale {
    /// Takes the lock of the download, if it has one or gets one; none when another process has it.
    fn hold(&self, make: bool) -> Result<Option<Option<File>>, StoreError> {
        let file = match File::options().read(true).write(make).create(make).truncate(false).open(&self.lock)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) => return Err(StoreError::io("open", &self.lock, error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Some(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(StoreError::io("lock", &self.lock, error)),
        }
    }

    /// Removes the files, the lock last; none when a process went on with the download meanwhile.
    pub(crate) fn remove(&self) -> Result<Option<u64>, StoreError> {
        let Some(_held) = self.hold(true)? else { return Ok(None) };
        for path in self.files.iter().filter(|path| **path != self.lock).chain([&self.lock]) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("delete", path, error));
                }
                _ => {}
            }
        }
        Ok(Some(self.bytes))
    }
}
