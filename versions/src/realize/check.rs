//! Comparing a realization with what was written: what was changed, added and removed since, and whether a model in the
//! store was written to through its link.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::{BlobId, RelPath, ViewId};
use rayon::prelude::*;
use serde::Serialize;

use super::error::{Change, ChangeKind, RealizeError, as_path};
use super::listing::{FileNode, Listing, Node};
use super::place::{Eye, Found, Target, content_is};
use super::plan::{is_bytecode, is_mutable};
use super::{mark_path, read_mark, resolve};
use crate::error::VersionsError;
use crate::workspace::{Event, Events, Workspace};

/// How a realization is checked.
#[derive(Clone, Copy)]
pub struct CheckOptions<'a> {
    /// Reads every file and every model, instead of those whose times say that they were touched.
    pub deep: bool,
    /// Hears of progress.
    pub events: Events<'a>,
    /// Set to true, by anyone at any time, to stop.
    pub cancel: &'a AtomicBool,
}

/// The state of a realization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetReport {
    /// The directory.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub target: PathBuf,
    /// The version that was realized there.
    pub version: String,
    /// The view that lies there; none when no realize came to its end.
    pub view: Option<ViewId>,
    /// False when a realize was begun and not completed.
    pub complete: bool,
    /// Files that were compared.
    pub files: u64,
    /// What differs, outside of the directories that belong to programs.
    pub changes: Vec<Change>,
    /// Models whose object in the store is not what it must be.
    pub damaged: Vec<DamagedModel>,
}

/// A model whose object in the store is damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedModel {
    /// Its path in the target.
    #[serde(serialize_with = "as_path")]
    pub path: RelPath,
    /// Its object.
    pub blob: BlobId,
    /// False when there is no such object.
    pub present: bool,
}

impl Workspace {
    /// Compares a realization with what was written there. Nothing is changed.
    ///
    /// # Errors
    /// [`RealizeError::Unknown`] when there is none at `target`.
    pub fn check_realization(
        &self,
        target: &Path,
        options: &CheckOptions<'_>,
    ) -> Result<TargetReport, VersionsError> {
        let path = resolve(target)?;
        let unknown = || RealizeError::Unknown { path: path.clone() };
        let realization = self.records().read(&path)?.ok_or_else(unknown)?;
        let mark = read_mark(&path)?.filter(|mark| mark.id == realization.id).ok_or_else(unknown)?;
        drop(mark);
        let finished = mtime_of(&mark_path(&path))?;
        let target = Target::open(&path).map_err(|error| RealizeError::io("open", &path, error))?;
        let written = realization.complete.as_ref().or(realization.writing.last()).ok_or_else(unknown)?;
        let listing = Listing::of(self.store(), written)?;
        let eye = Eye { store: self.store(), time_step: realization.time_step };
        let check = Check { eye, target: &target, listing: &listing, finished, options };
        Ok(TargetReport {
            target: path.clone(),
            version: realization.version.clone(),
            view: realization.complete.as_ref().map(|complete| complete.view),
            complete: realization.writing.is_empty(),
            files: listing.iter().filter(|(_, node)| matches!(node, Node::File(_))).count() as u64,
            changes: check.changes()?,
            damaged: check.damaged()?,
        })
    }
}

struct Check<'a> {
    eye: Eye<'a>,
    target: &'a Target,
    listing: &'a Listing,
    /// The target's own time of the end of the realize.
    finished: (i64, u32),
    options: &'a CheckOptions<'a>,
}

impl Check<'_> {
    fn changes(&self) -> Result<Vec<Change>, RealizeError> {
        let paths: Vec<&RelPath> = self.listing.iter().map(|(path, _)| path).collect();
        let found = self.target.look(&paths)?;
        let mut changes: BTreeMap<RelPath, ChangeKind> = BTreeMap::new();
        let mut suspects: Vec<(&RelPath, &FileNode)> = Vec::new();
        for ((path, node), found) in self.listing.iter().zip(&found) {
            if is_mutable(path) {
                continue;
            }
            match (found, node) {
                (Found::Below(_), _) => {}
                // What lay in a directory that is gone is gone with it.
                (Found::Nowhere, _) => {}
                (Found::Absent, _) => {
                    changes.insert(path.clone(), ChangeKind::Removed);
                }
                (found, node) if !self.eye.knows(found, node) => {
                    changes.insert(path.clone(), ChangeKind::Changed);
                }
                // A program can give a file its old time back, but not the time of its last change.
                (Found::File(stamp), Node::File(file))
                    if self.options.deep || stamp.ctime > self.finished =>
                {
                    suspects.push((path, file));
                }
                _ => {}
            }
        }
        let touched = suspects.par_iter().map(|(path, file)| {
            self.check_cancel()?;
            Ok((!self.target.has_content(path, &file.blob)?).then(|| (*path).clone()))
        });
        let touched: Vec<Option<RelPath>> = touched.collect::<Result<_, RealizeError>>()?;
        changes.extend(touched.into_iter().flatten().map(|path| (path, ChangeKind::Changed)));
        self.added(&RelPath::root(), &mut changes)?;
        Ok(changes.into_iter().map(|(path, kind)| Change { path, kind }).collect())
    }

    /// What cvs did not write. A directory of which nothing is ours is one line.
    fn added(&self, dir: &RelPath, changes: &mut BTreeMap<RelPath, ChangeKind>) -> Result<(), RealizeError> {
        for (path, is_dir) in self.target.list(dir)? {
            if is_mutable(&path) || is_bytecode(&path) {
                continue;
            }
            match self.listing.get(&path) {
                None => drop(changes.insert(path, ChangeKind::Added)),
                Some(Node::Dir) if is_dir => self.added(&path, changes)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// An object that was touched after it was linked to is read and hashed.
    fn damaged(&self) -> Result<Vec<DamagedModel>, RealizeError> {
        let linked: Vec<(&RelPath, &FileNode)> = self
            .listing
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File(file) if file.linked => Some((path, file)),
                _ => None,
            })
            .collect();
        let mut suspects = Vec::new();
        let mut damaged = Vec::new();
        for (path, file) in linked {
            let object = self.eye.store.blob_path(&file.blob);
            match object.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    damaged.push(DamagedModel { path: path.clone(), blob: file.blob, present: false });
                }
                Err(error) => return Err(RealizeError::io("look at", object, error)),
                Ok(metadata) => {
                    let ctime = (metadata.ctime(), metadata.ctime_nsec() as u32);
                    if self.options.deep || metadata.len() != file.size || ctime > self.finished {
                        suspects.push((path, file, object));
                    }
                }
            }
        }
        let (blobs, bytes) = (suspects.len() as u64, suspects.iter().map(|(_, file, _)| file.size).sum());
        (self.options.events)(Event::CheckFound { blobs, bytes });
        for (path, file, object) in suspects {
            self.check_cancel()?;
            let opened =
                std::fs::File::open(&object).map_err(|error| RealizeError::io("open", &object, error))?;
            // A disk that cannot give the bytes back is damage, not a reason to stop.
            if !content_is(opened, &file.blob).unwrap_or(false) {
                damaged.push(DamagedModel { path: path.clone(), blob: file.blob, present: true });
            }
            (self.options.events)(Event::Checked { bytes: file.size });
        }
        damaged.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(damaged)
    }

    fn check_cancel(&self) -> Result<(), RealizeError> {
        if self.options.cancel.load(Ordering::Relaxed) { Err(RealizeError::Cancelled) } else { Ok(()) }
    }
}

fn mtime_of(path: &Path) -> Result<(i64, u32), RealizeError> {
    let metadata = path.symlink_metadata().map_err(|error| RealizeError::io("look at", path, error))?;
    Ok((metadata.ctime(), metadata.ctime_nsec() as u32))
}
