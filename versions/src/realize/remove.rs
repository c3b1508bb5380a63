//! Removing a realization: what cvs wrote there and nobody changed since. What programs wrote stays, unless that was to
//! go too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cvs_store::RelPath;
use serde::Serialize;

use super::error::RealizeError;
use super::listing::Listing;
use super::place::{self, Eye, OWN, Target};
use super::plan::{Planner, Steps, is_bytecode};
use super::record::{Realization, boot_id};
use super::write::Writer;
use super::{is_of_another, mark_path, read_mark, resolve};
use crate::error::VersionsError;
use crate::workspace::Workspace;

/// What became of a realization, or would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoveReport {
    /// The directory.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub target: PathBuf,
    /// Files and links of ours that go.
    pub removed: u64,
    /// Files of programs, and files that were changed.
    pub others: u64,
    /// True when those go as well, and the directory itself.
    pub all: bool,
}

impl Workspace {
    /// Removes a realization. With `everything`, also what programs wrote there; otherwise that stays, in a directory
    /// that can be realized again.
    ///
    /// # Errors
    /// [`RealizeError::Unknown`] when there is none, [`RealizeError::Busy`] while something runs from it.
    pub fn remove_realization(
        &self,
        target: &Path,
        everything: bool,
        dry_run: bool,
    ) -> Result<RemoveReport, VersionsError> {
        let target = resolve(target)?;
        let _held = match dry_run {
            true => None,
            false => Some(self.records().hold(&target, true)?),
        };
        let Some(realization) = self.records().read(&target)? else {
            return Err(RealizeError::Unknown { path: target }.into());
        };
        Ok(self.remove_held(realization, everything, dry_run)?)
    }

    fn remove_held(
        &self,
        mut realization: Realization,
        everything: bool,
        dry_run: bool,
    ) -> Result<RemoveReport, RealizeError> {
        let path = realization.target.clone();
        let mut report = RemoveReport { target: path.clone(), removed: 0, others: 0, all: everything };
        // Somebody else's directory by now, or none: only the record is ours.
        let ours = match read_mark(&path)? {
            Some(mark) => mark.id == realization.id && !is_of_another(&mark, self.store().home(), &path)?,
            None => false,
        };
        if !ours {
            if !dry_run {
                self.records().remove(&path)?;
            }
            return Ok(report);
        }
        let target = Target::open(&path).map_err(|error| RealizeError::io("open", &path, error))?;
        let steps = self.steps(&realization, &target)?;
        report.removed = steps.unlink.len() as u64;
        report.others = count_files(&target, &RelPath::root())?.saturating_sub(report.removed);
        if dry_run {
            return Ok(report);
        }
        // After a crash in the middle, what is gone must not count as removed by somebody.
        realization.writing.extend(realization.complete.take());
        self.records().write(&realization)?;
        if everything {
            remove_all(&path).map_err(|error| RealizeError::io("remove", &path, error))?;
        } else {
            static NEVER: AtomicBool = AtomicBool::new(false);
            let writer = Writer::begin(self.store(), &target, false, &|_| {}, &NEVER)?;
            writer.run(&steps, &path.join(OWN))?;
            writer.clear_bytecode(&RelPath::root())?;
            self.leave_rest(&path)?;
        }
        self.records().remove(&path)?;
        Ok(report)
    }

    fn steps(&self, realization: &Realization, target: &Target) -> Result<Steps, RealizeError> {
        let base = match &realization.complete {
            Some(complete) => Some(Listing::of(self.store(), complete)?),
            None => None,
        };
        let boot = boot_id();
        let begun = realization.writing.iter();
        let begun: Vec<(Listing, bool)> = begun
            .map(|begun| Ok((Listing::of(self.store(), begun)?, begun.boot != boot)))
            .collect::<Result<_, RealizeError>>()?;
        let eye = Eye { store: self.store(), time_step: realization.time_step };
        let nothing = Listing::default();
        let planner = Planner {
            eye,
            target: Some(target),
            next: &nothing,
            base: base.as_ref(),
            begun: &begun,
            force: false,
        };
        planner.plan()
    }

    /// An empty directory goes; one in which something is left keeps our mark, and with it can be realized again.
    fn leave_rest(&self, path: &Path) -> Result<(), RealizeError> {
        let failed = |error: io::Error| RealizeError::io("remove", path, error);
        let own = path.join(OWN);
        if !place::is_empty(path).map_err(failed)? || own.join("aside").exists() {
            return Ok(());
        }
        fs::remove_file(mark_path(path)).map_err(failed)?;
        fs::remove_dir_all(own).map_err(failed)?;
        fs::remove_dir(path).map_err(failed)
    }
}

/// The mark goes last, so that what a crash leaves is still known as ours.
fn remove_all(target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            _ if entry.file_name() == OWN => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir_all(target.join(OWN))?;
    match fs::remove_dir(target) {
        // A volume is mounted there.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        removed => removed,
    }
}

fn count_files(target: &Target, dir: &RelPath) -> Result<u64, RealizeError> {
    let mut files = 0;
    for (path, is_dir) in target.list(dir)? {
        match (is_dir, path.as_bytes() == OWN.as_bytes()) {
            (_, true) => {}
            _ if is_bytecode(&path) => {}
            (true, _) => files += count_files(target, &path)?,
            (false, _) => files += 1,
        }
    }
    Ok(files)
}
