//! The commit: what is staged becomes durable, then visible, then durable under its name.
//!
//! The batch is synced as a whole, renamed into `objects/`, and the directories it appeared in are synced before
//! [`Transaction::commit`] returns. A crash before the renames leaves a staging directory that the next transaction
//! removes; between them, objects that nothing refers to yet, which gc removes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, RenameFlags};

use crate::error::{StoreError, write_error};
use crate::id::ManifestId;
use crate::layout::{self, Key};
use crate::stamp::Stamp;
use crate::store::{Hold, size_of};
use crate::txn::{Source, Staged, Transaction};

/// Up to this many files or directories are synced one by one; more, by one `syncfs`.
const SYNC_ONE_BY_ONE: usize = 8;
/// Objects renamed under one hold of the store's lock.
const COMMIT_CHUNK: usize = 4096;

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Objects that were new.
    pub new_objects: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Distinct objects that were there already and are now claimed.
    pub reused_objects: u64,
}

impl Transaction {
    /// Makes everything staged so far durable, then visible, then durable under its name. The transaction can go on
    /// after that, and stays a lease on all of it.
    ///
    /// # Errors
    /// After a failed sync nobody can tell what is on disk: the transaction is spent, and every later commit fails too.
    pub fn commit(&self) -> Result<CommitStats, StoreError> {
        let _alone = self.committing.lock().unwrap_or_else(|e| e.into_inner());
        if self.failed.load(Ordering::Acquire) {
            let spent = io::Error::other("an earlier commit of this transaction failed");
            return Err(StoreError::io("commit", self.lease.directory(), spent));
        }
        self.try_commit().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn try_commit(&self) -> Result<CommitStats, StoreError> {
        let staged = self.take_staged();
        self.sync_files(&staged)?;
        let mut stats =
            CommitStats { reused_objects: self.hits.swap(0, Ordering::Relaxed), ..Default::default() };
        let mut touched = self.take_unsettled();
        for chunk in staged.chunks(COMMIT_CHUNK) {
            let _shared = self.store.lock(Hold::Shared)?;
            self.lease.claim(chunk.iter().map(|(key, _)| *key))?;
            for (key, object) in chunk {
                if self.publish(*key, object, &mut touched)? {
                    stats.new_objects += 1;
                    stats.new_bytes += object.size;
                } else {
                    stats.reused_objects += 1;
                }
            }
        }
        if touched.len() > SYNC_ONE_BY_ONE {
            self.sync_filesystem(0)?;
        } else {
            touched.iter().try_for_each(|dir| layout::sync_dir(dir))?;
        }
        Ok(stats)
    }

    /// Removes the files that were moved in and are committed, if they still are what was taken. To be called when what
    /// refers to their objects is published: before that, gc would take what may be their only copy. Returns those that
    /// could not be removed, and why; nothing is wrong with their objects.
    pub fn remove_sources(&self) -> Vec<(PathBuf, io::Error)> {
        let _alone = self.committing.lock().unwrap_or_else(|e| e.into_inner());
        // What is staged has no other name that counts.
        if self.failed.load(Ordering::Acquire) || self.has_staged() {
            return Vec::new();
        }
        let removed = self.take_sources().into_iter().map(|source| (remove_source(&source), source.path));
        removed.filter_map(|(removed, path)| Some((path, removed.err()?))).collect()
    }

    fn sync_files(&self, staged: &[(Key, Staged)]) -> Result<(), StoreError> {
        let pending: Vec<&Staged> = staged.iter().map(|(_, s)| s).filter(|s| !s.durable).collect();
        if pending.len() > SYNC_ONE_BY_ONE {
            return self.sync_filesystem(pending.iter().map(|object| object.size).sum());
        }
        for object in pending {
            let synced = File::open(&object.path).and_then(|file| file.sync_data());
            synced.map_err(|e| write_error("sync", &object.path, object.size, e))?;
        }
        Ok(())
    }

    fn sync_filesystem(&self, bytes: u64) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.root).map_err(|e| write_error("sync", self.store.home(), bytes, e.into()))
    }

    /// Gives a staged object its name; false when a sound object had it already.
    fn publish(
        &self,
        key: Key,
        object: &Staged,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<bool, StoreError> {
        let target = self.store.layout().object(key);
        let failed = |error: io::Error| write_error("publish", &target, object.size, error);
        let rename = |flags| {
            rustix::fs::renameat_with(CWD, &object.path, CWD, &target, flags).map_err(io::Error::from)
        };
        if object.protect {
            // Who shares the file with the store may need to know that it is a program: that much of the mode stays.
            let mode = fs::symlink_metadata(&object.path).map_err(failed)?.permissions().mode();
            let locked_away = fs::Permissions::from_mode(0o444 | mode & 0o111);
            fs::set_permissions(&object.path, locked_away).map_err(failed)?;
        }
        let shard = target.parent().unwrap_or(&target);
        touched.insert(shard.to_owned());
        loop {
            match rename(RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(true),
                // Without its shard; by now another commit may have made that.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && object.path.symlink_metadata().is_ok() =>
                {
                    match fs::create_dir(shard) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                            return Err(failed(error));
                        }
                        _ => touched.extend(shard.parent().map(Path::to_owned)),
                    }
                }
                // Its directory is synced all the same: whoever made the name may not have done so yet.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && self.is_sound(key, object, &target)? =>
                {
                    let _ = fs::remove_file(&object.path);
                    return Ok(false);
                }
                // A damaged object is replaced. So is an equal one where a filesystem knows no RENAME_NOREPLACE.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        || error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) =>
                {
                    rename(RenameFlags::empty()).map_err(failed)?;
                    return Ok(true);
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// True when what lies at `target` can stand for `object`. Blobs are compared by size, manifests, which are small
    /// and which everything hangs on, by their hash.
    fn is_sound(&self, key: Key, object: &Staged, target: &Path) -> Result<bool, StoreError> {
        Ok(size_of(target)? == Some(object.size)
            && match key {
                Key::Blob(_) => true,
                Key::Manifest(id) => self.store.manifest(&ManifestId::from_bytes(id)).is_ok(),
            })
    }
}

/// Removes a file that was moved in, unless another one has its name by now.
fn remove_source(source: &Source) -> io::Result<()> {
    let removed = match fs::symlink_metadata(&source.path) {
        Ok(metadata) if Stamp::of(&metadata) == source.stamp => fs::remove_file(&source.path),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
