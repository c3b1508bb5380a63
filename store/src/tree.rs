//! Taking a whole directory into the store as one manifest.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::StoreError;
use crate::id::ManifestId;
use crate::manifest::ManifestBuilder;
use crate::relpath::RelPath;
use crate::txn::Transaction;
use crate::writer::Intake;

/// How a directory is taken in.
pub struct TreeOptions<'a> {
    /// How its files enter.
    pub intake: Intake,
    /// True for what is left out, a directory with all below it.
    pub exclude: &'a (dyn Fn(&RelPath) -> bool + Sync),
    /// Told the bytes of each file as it is stored.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Set by the caller to stop.
    pub cancel: &'a AtomicBool,
}

/// What was taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeStats {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories below the root.
    pub dirs: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Sockets, pipes and devices, which a manifest does not hold.
    pub skipped: Vec<RelPath>,
}

struct File {
    path: RelPath,
    mode: u32,
    /// Device and inode, when the file has more than one name.
    links: Option<(u64, u64)>,
}

impl Transaction {
    /// Stores the directory `root` and everything in it. Symlinks are kept, never followed. Names of one file (hard
    /// links) stay names of one file.
    ///
    /// # Errors
    /// Names that cannot be stored, files that cannot be read, a full disk, [`StoreError::Interrupted`].
    pub fn put_tree(
        &self,
        root: &Path,
        options: &TreeOptions<'_>,
    ) -> Result<(ManifestId, TreeStats), StoreError> {
        let mut builder = ManifestBuilder::new();
        let mut stats = TreeStats::default();
        let mut files = Vec::new();
        let mut pending = vec![RelPath::root()];
        while let Some(directory) = pending.pop() {
            scan(root, &directory, options, &mut builder, &mut files, &mut pending, &mut stats)?;
        }
        stats.skipped.sort();

        let mut first_names: HashMap<(u64, u64), RelPath> = HashMap::new();
        let (mut links, mut contents) = (Vec::new(), Vec::new());
        for file in files {
            match file.links.map(|key| first_names.entry(key)) {
                Some(std::collections::hash_map::Entry::Occupied(first)) => {
                    links.push((file, first.get().clone()))
                }
                Some(std::collections::hash_map::Entry::Vacant(slot)) => {
                    slot.insert(file.path.clone());
                    contents.push(file);
                }
                None => contents.push(file),
            }
        }
        let stored: Vec<_> = contents
            .par_iter()
            .map(|file| {
                if options.cancel.load(Ordering::Relaxed) {
                    return Err(StoreError::Interrupted);
                }
                let stored = self.put_file(&root.join(file.path.as_path()), options.intake)?;
                (options.progress)(stored.size);
                Ok(stored)
            })
            .collect::<Result<_, StoreError>>()?;
        let bad = |source| StoreError::Manifest { context: root.display().to_string(), source };
        for (file, stored) in contents.iter().zip(stored) {
            stats.bytes += stored.size;
            builder.file(&file.path, file.mode, stored.size, stored.id).map_err(bad)?;
        }
        for (file, to) in &links {
            builder.hard_link(&file.path, to).map_err(bad)?;
        }
        Ok((self.put_manifest(builder)?, stats))
    }
}

/// Lists one directory; those in it are `pending`.
fn scan(
    root: &Path,
    at: &RelPath,
    options: &TreeOptions<'_>,
    builder: &mut ManifestBuilder,
    files: &mut Vec<File>,
    pending: &mut Vec<RelPath>,
    stats: &mut TreeStats,
) -> Result<(), StoreError> {
    let directory = root.join(at.as_path());
    let listed = fs::read_dir(&directory).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut entries = listed.map_err(|e| StoreError::io("list", &directory, e))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if options.cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Interrupted);
        }
        let name: OsString = entry.file_name();
        let path = at
            .join(name.as_bytes())
            .map_err(|source| StoreError::Path { context: directory.display().to_string(), source })?;
        if (options.exclude)(&path) {
            continue;
        }
        let metadata = entry.metadata().map_err(|e| StoreError::io("look at", entry.path(), e))?;
        let bad = |source| StoreError::Manifest { context: entry.path().display().to_string(), source };
        let kind = metadata.file_type();
        if kind.is_dir() {
            stats.dirs += 1;
            builder.dir(&path, metadata.mode()).map_err(bad)?;
            pending.push(path);
        } else if kind.is_symlink() {
            stats.symlinks += 1;
            let target =
                fs::read_link(entry.path()).map_err(|e| StoreError::io("read link", entry.path(), e))?;
            builder.symlink(&path, &target.into_os_string().into_vec()).map_err(bad)?;
        } else if kind.is_file() {
            stats.files += 1;
            let links = (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()));
            files.push(File { path, mode: metadata.mode(), links });
        } else {
            stats.skipped.push(path);
        }
    }
    Ok(())
}
