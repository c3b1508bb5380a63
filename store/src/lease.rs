//! Leases: what a live process claims. A lease is a directory with two files:
//!
//! ```text
//! lease    JSON: kind, label, pid, boot id, start time of the process, and what its owner adds; locked while it lives
//! claims   33 bytes for each claimed object: `b` or `m`, then the id
//! ```
//!
//! A holder is dead when its lock can be taken *and* no process of this boot has its pid and start time; a lock alone
//! says too little on network filesystems, a pid alone too little anywhere. What the dead claimed holds nothing.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::{StoreError, write_error};
use crate::layout::{self, Key};
use crate::process::{boot_id, start_time};

/// Prefix of a lease directory that is still being made.
const NEW: &str = ".new-";
/// Prefix of a lease directory that is being removed. A lease ends by this rename, whole: were its files removed one by
/// one, a crash in between would leave a directory that nobody can tell from something else.
const GONE: &str = ".gone-";
/// Prefix of the lease of a mount whose holder is dead.
const DEAD: &str = ".dead-";
/// After this time an unfinished lease directory was left by a crash.
const NEW_IS_STALE: Duration = Duration::from_secs(3600);

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseKind {
    /// Objects on their way into the store.
    Transaction,
    /// A mounted view.
    Mount,
}

/// The content of a lease file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// What it is for.
    pub kind: LeaseKind,
    /// Its name for people.
    pub label: String,
    /// The holder.
    pub pid: u32,
    /// The boot in which `pid` has a meaning.
    pub boot_id: String,
    /// Start of the holder in clock ticks since that boot, which tells it from a later process with its pid.
    pub start_time: u64,
    /// Seconds since 1970 when the lease was taken.
    pub since: u64,
    /// What the owner of the lease adds.
    #[serde(default)]
    pub info: serde_json::Value,
    /// Where the lease lies.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// A lease held by this process. Dropping it ends it.
pub struct Lease {
    directory: PathBuf,
    info: LeaseInfo,
    /// Locked for as long as the lease lives.
    _lock: File,
    claims: Mutex<Claims>,
}

struct Claims {
    file: File,
    /// Bytes written: whole records only.
    len: u64,
    known: HashSet<Key>,
}

impl Lease {
    pub(crate) fn create(
        parent: &Path,
        kind: LeaseKind,
        label: &str,
        info: serde_json::Value,
    ) -> Result<Self, StoreError> {
        let pid = std::process::id();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{:x}-{pid}-{}", since.as_nanos(), layout::unique());
        let making = parent.join(format!("{NEW}{name}"));
        let directory = parent.join(&name);
        layout::make_dir(parent)?;
        fs::create_dir(&making).map_err(|e| write_error("create", &making, 4096, e))?;
        let info = LeaseInfo {
            kind,
            label: label.to_owned(),
            pid,
            boot_id: boot_id(),
            start_time: start_time(pid).unwrap_or(0),
            since: since.as_secs(),
            info,
            directory: directory.clone(),
        };
        // The directory gets its name when the lock is held: nobody ever sees a lease that is not locked.
        let made = (|| {
            let mut lock = File::create_new(making.join("lease"))?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            lock.write_all(&serde_json::to_vec_pretty(&info)?)?;
            let file = OpenOptions::new().append(true).create_new(true).open(making.join("claims"))?;
            fs::rename(&making, &directory)?;
            Ok((lock, file))
        })();
        match made {
            Ok((lock, file)) => {
                let claims = Mutex::new(Claims { file, len: 0, known: HashSet::new() });
                Ok(Self { directory, info, _lock: lock, claims })
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&making);
                Err(write_error("create", &making.join("lease"), 4096, error))
            }
        }
    }

    /// What the lease says of itself.
    pub fn info(&self) -> &LeaseInfo {
        &self.info
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Replaces what the owner adds, for instance when a mount has become usable.
    pub fn update(&mut self, info: serde_json::Value) -> Result<(), StoreError> {
        self.info.info = info;
        // The lock is on the open file, so the bytes change in place; readers take a torn file for one being written.
        let path = self.directory.join("lease");
        let bytes = serde_json::to_vec_pretty(&self.info).unwrap_or_default();
        let written = (|| {
            let mut file = &self._lock;
            io::Seek::rewind(&mut file)?;
            file.set_len(0)?;
            file.write_all(&bytes)
        })();
        written.map_err(|e| write_error("write", &path, bytes.len() as u64, e))
    }

    /// Records claims; how many are new. The caller holds the store's lock.
    pub(crate) fn claim(&self, keys: impl IntoIterator<Item = Key>) -> Result<u64, StoreError> {
        let mut claims = self.claims.lock().unwrap_or_else(|e| e.into_inner());
        let (mut fresh, mut records) = (Vec::new(), Vec::new());
        for key in keys {
            if claims.known.insert(key) {
                fresh.push(key);
                records.extend_from_slice(&key.encode());
            }
        }
        if records.is_empty() {
            return Ok(0);
        }
        if let Err(error) = claims.file.write_all(&records) {
            // Half a record would shift all that follow it, and what is not written is not claimed.
            let _ = claims.file.set_len(claims.len);
            fresh.iter().for_each(|key| {
                claims.known.remove(key);
            });
            return Err(write_error("write", &self.directory.join("claims"), records.len() as u64, error));
        }
        claims.len += records.len() as u64;
        Ok(fresh.len() as u64)
    }

    pub(crate) fn has_claimed(&self, key: Key) -> bool {
        self.claims.lock().unwrap_or_else(|e| e.into_inner()).known.contains(&key)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Ends a lease: at once for those who look, then its files go.
fn remove(directory: &Path) {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let gone = directory.with_file_name(format!("{GONE}{name}"));
    let _ = match fs::rename(directory, &gone) {
        Ok(()) => fs::remove_dir_all(gone),
        Err(_) => fs::remove_dir_all(directory),
    };
}

/// Keeps what the lease of a dead mount says, and nothing else that its directory holds.
fn bury(directory: &Path) {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => fs::remove_dir_all(path),
            false if entry.file_name() == "lease" => Ok(()),
            false => fs::remove_file(path),
        };
    }
    let _ = fs::rename(directory, directory.with_file_name(format!("{DEAD}{name}")));
}

/// The leases below `parent` of mounts whose holders died since the machine was started.
pub(crate) fn dead_mounts(parent: &Path) -> Result<Vec<LeaseInfo>, StoreError> {
    // Who died since anybody looked is found here.
    living(parent)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten() {
        let directory = entry.map_err(|e| StoreError::io("list", parent, e))?.path();
        let name = directory.file_name().unwrap_or_default();
        if !name.as_encoded_bytes().starts_with(DEAD.as_bytes()) {
            continue;
        }
        let info = fs::read(directory.join("lease")).ok();
        match info.and_then(|bytes| serde_json::from_slice::<LeaseInfo>(&bytes).ok()) {
            Some(info) if info.boot_id == boot_id() => found.push(LeaseInfo { directory, ..info }),
            _ => remove(&directory),
        }
    }
    Ok(found)
}

/// Removes the lease of a dead mount.
pub(crate) fn forget(info: &LeaseInfo) {
    let name = info.directory.file_name().unwrap_or_default();
    if name.as_encoded_bytes().starts_with(DEAD.as_bytes()) {
        remove(&info.directory);
    }
}

/// The claims of every living lease below `parent`; those of the dead are removed.
pub(crate) fn living_claims(parent: &Path) -> Result<Vec<(LeaseInfo, Vec<Key>)>, StoreError> {
    let mut all = Vec::new();
    for info in living(parent)? {
        let path = info.directory.join("claims");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // It ended while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        let keys = bytes.as_chunks::<33>().0.iter().filter_map(Key::decode).collect();
        all.push((info, keys));
    }
    Ok(all)
}

/// The living leases below `parent`; what the dead left is removed.
pub(crate) fn living(parent: &Path) -> Result<Vec<LeaseInfo>, StoreError> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(StoreError::io("list", parent, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("list", parent, e))?;
        let directory = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(GONE.as_bytes()) {
            let _ = fs::remove_dir_all(&directory);
            continue;
        }
        if entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes()) {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if age.is_some_and(|age| age > NEW_IS_STALE) {
                let _ = fs::remove_dir_all(&directory);
            }
            continue;
        }
        if entry.file_name().as_encoded_bytes().starts_with(DEAD.as_bytes()) {
            continue;
        }
        let path = directory.join("lease");
        let file = match File::open(&path) {
            Ok(file) => file,
            // Not a lease, or it ended while we looked.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(StoreError::io("open", path, error)),
        };
        let info = io::read_to_string(&file)
            .map_err(|e| StoreError::io("read", &path, e))
            .map(|text| serde_json::from_str::<LeaseInfo>(&text).ok())?;
        let unlocked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if unlocked && !info.as_ref().is_some_and(holder_lives) {
            // The lock is held while the remains go, so that two cleaners do not meet in them.
            match info {
                Some(info) if info.kind == LeaseKind::Mount && info.boot_id == boot_id() => bury(&directory),
                _ => remove(&directory),
            }
            continue;
        }
        match info {
            Some(info) => found.push(LeaseInfo { directory, ..info }),
            // Locked but torn: its owner is rewriting it at this moment. Its claims count all the same.
            None => found.push(LeaseInfo {
                kind: LeaseKind::Transaction,
                label: directory.display().to_string(),
                pid: 0,
                boot_id: String::new(),
                start_time: 0,
                since: 0,
                info: serde_json::Value::Null,
                directory,
            }),
        }
    }
    found.sort_by(|a, b| (a.since, &a.directory).cmp(&(b.since, &b.directory)));
    Ok(found)
}

fn holder_lives(info: &LeaseInfo) -> bool {
    info.boot_id == boot_id() && start_time(info.pid).is_some_and(|start| start == info.start_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lease =
            Lease::create(dir.path(), LeaseKind::Mount, "wan", serde_json::json!({"at": "/x"})).unwrap();
        lease.claim([Key::Blob([1; 32]), Key::Blob([1; 32]), Key::Manifest([2; 32])]).unwrap();
        let claims = living_claims(dir.path()).unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].0.label, "wan");
        assert_eq!(claims[0].1, [Key::Blob([1; 32]), Key::Manifest([2; 32])]);
        drop(lease);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Leaves what a holder left that died.
    fn died(parent: &Path, name: &str, lease: &Lease, boot_id: &str) -> PathBuf {
        let directory = parent.join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("claims"), [b'b'; 40]).unwrap();
        fs::create_dir(directory.join("upper")).unwrap();
        let info = lease.info();
        let info = LeaseInfo { start_time: info.start_time + 1, boot_id: boot_id.to_owned(), ..info.clone() };
        fs::write(directory.join("lease"), serde_json::to_vec(&info).unwrap()).unwrap();
        directory
    }

    #[test]
    fn what_the_dead_claimed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let null = serde_json::Value::Null;
        let lease = Lease::create(dir.path(), LeaseKind::Transaction, "dead", null).unwrap();
        let copy = died(dir.path(), "copy", &lease, &boot_id());
        assert_eq!(living(dir.path()).unwrap().len(), 1);
        assert!(!copy.exists());
        assert_eq!(dead_mounts(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_dead_mount_is_remembered_until_it_is_forgotten_or_the_machine_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let what = serde_json::json!({"at": "/x"});
        let lease = Lease::create(dir.path(), LeaseKind::Mount, "wan", what.clone()).unwrap();
        let now = died(dir.path(), "now", &lease, &boot_id());
        died(dir.path(), "earlier", &lease, "another boot");
        for _ in 0..2 {
            assert_eq!(living_claims(dir.path()).unwrap(), [(lease.info().clone(), vec![])]);
            let dead = dead_mounts(dir.path()).unwrap();
            assert_eq!(dead.len(), 1, "{dead:?}");
            assert_eq!((dead[0].label.as_str(), &dead[0].info), ("wan", &what));
            assert!(!now.exists());
            assert_eq!(fs::read_dir(&dead[0].directory).unwrap().count(), 1, "the lease alone");
        }
        // Only what is dead is forgotten, and so it is when the machine has been started since.
        forget(lease.info());
        let dead = dead_mounts(dir.path()).unwrap().remove(0);
        let renamed = LeaseInfo { boot_id: "another boot".to_owned(), ..dead.clone() };
        fs::write(dead.directory.join("lease"), serde_json::to_vec(&renamed).unwrap()).unwrap();
        assert_eq!(dead_mounts(dir.path()).unwrap(), []);
        died(dir.path(), "again", &lease, &boot_id());
        forget(&dead_mounts(dir.path()).unwrap().remove(0));
        assert_eq!(dead_mounts(dir.path()).unwrap(), []);
        assert_eq!(living(dir.path()).unwrap().len(), 1);
    }
}
