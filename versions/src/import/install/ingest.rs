//! Model files on their way into the store: several at once, hashed as they are read, and known again by device, inode,
//! size and time when an import is run a second time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use cvs_store::{BlobId, Intake, StoreError};
use serde_json::{Value, json};

use super::Importer;
use super::models::ModelFile;
use crate::import::error::ImportError;
use crate::import::report::Taken;
use crate::source::{Expected, SourceError, SourceEvent, SourceOptions, hex, local, unhex};
use crate::spec::{ReadOptions, VersionId};
use crate::workspace::{Event, jobs};

/// Names the keys of the index.
const CONTEXT: &str = "cvs 1 content of an imported file";
/// Files at once: one is read while another is synced.
const WORKERS: usize = 2;
/// Bytes after which what is there is made part of the store, so that an interruption loses no more than that.
const STEP: u64 = 256 << 20;

impl Importer<'_> {
    /// Takes the models in; their entries, in the same order.
    pub(super) fn models(&mut self, files: &[ModelFile]) -> Result<Vec<Value>, ImportError> {
        let bytes = files.iter().map(|file| file.size).sum();
        let mut entries = Vec::with_capacity(files.len());
        if !self.options.dry_run {
            (self.events)(Event::Importing { files: files.len() as u64, bytes });
            self.can_reflink(files)?;
        }
        let unsaved = AtomicU64::new(0);
        let this = &*self;
        let taken = jobs::run(files, WORKERS, |file| {
            if this.options.dry_run {
                return Ok(None);
            }
            let taken = this.model(file).map(Some);
            if unsaved.fetch_add(file.size, Ordering::Relaxed) + file.size >= STEP {
                unsaved.store(0, Ordering::Relaxed);
                this.commit()?;
            }
            taken
        });
        for (file, taken) in files.iter().zip(taken) {
            let source = file.source.display().to_string();
            let mut entry = json!({ "source": source, "target_path": file.target.to_string() });
            let mut how = "its bytes".to_owned();
            if let Some(sha256) = taken? {
                let sha256 = hex(&sha256);
                how = format!("sha256 {sha256}");
                entry["checksum"] = format!("sha256:{sha256}").into();
            }
            entries.push(entry);
            self.report.taken.push(Taken {
                part: format!("model {}", file.target),
                from: source,
                how,
                changes: Vec::new(),
                bytes: Some(file.size),
            });
        }
        self.commit()?;
        Ok(entries)
    }

    /// Adds the models that an earlier `--move` into the version took away from this install: the version that is
    /// replaced is all that names them.
    pub(super) fn moved_before(&mut self, id: &VersionId, entries: &mut Vec<Value>) {
        if self.options.intake != Intake::Move {
            return;
        }
        let Ok(before) = self.workspace.versions().read(id, ReadOptions::default()) else { return };
        for entry in before.root().get("models").and_then(Value::as_array).into_iter().flatten() {
            let field = |key: &str| entry.get(key).and_then(Value::as_str);
            let (Some(source), Some(target), Some(checksum)) =
                (field("source"), field("target_path"), field("checksum"))
            else {
                continue;
            };
            let is_gone = Path::new(source).starts_with(self.root) && !Path::new(source).exists();
            if is_gone && entries.iter().all(|known| known["target_path"] != target) {
                self.report.taken.push(Taken {
                    part: format!("model {target}"),
                    from: source.to_owned(),
                    how: format!("moved into the store before, {}", checksum.replacen(':', " ", 1)),
                    changes: Vec::new(),
                    bytes: None,
                });
                entries.push(entry.clone());
            }
        }
    }

    /// The sha256 of a model that is in the transaction now.
    fn model(&self, file: &ModelFile) -> Result<[u8; 32], ImportError> {
        let (path, index) = (&file.source, self.workspace.store().index());
        let failed = |source| ImportError::source(path, source);
        let metadata = fs::metadata(path).map_err(|error| ImportError::io("look at", path, error))?;
        let key = key(&metadata);
        // What lies elsewhere, behind a link or an extra path, others may use, too.
        let intake = match self.options.intake {
            Intake::Move if !is_below(path, self.root) => Intake::Copy,
            intake => intake,
        };
        if intake != Intake::Move
            && let [Some(blob)] = index.derived(&[key])[..]
            && let Some(sha256) = index.fact(&fact(&blob)).and_then(|text| unhex(&text))
            && self.transaction.has_blob(&blob).map_err(ImportError::store)? == Some(metadata.len())
        {
            index.put_sha256(&sha256, &blob);
            (self.events)(Event::Imported { bytes: metadata.len() });
            return Ok(sha256);
        }
        let told = AtomicU64::new(0);
        let events = |event: SourceEvent<'_>| {
            if let SourceEvent::Receive { bytes, .. } = event {
                let before = told.swap(bytes, Ordering::Relaxed);
                (self.events)(Event::Imported { bytes: bytes.saturating_sub(before) });
            }
        };
        let options = SourceOptions { events: &events, ..self.source_options() };
        let take = || {
            local::ingest(
                self.workspace.store(),
                self.transaction,
                path,
                &Expected::default(),
                intake,
                &options,
            )
        };
        let taken = match take() {
            // Somebody wrote it just now: once more, and no oftener.
            Err(SourceError::Changed { .. } | SourceError::Store(StoreError::Changed { .. })) => match take()
            {
                Err(SourceError::Changed { path } | SourceError::Store(StoreError::Changed { path })) => {
                    return Err(ImportError::Changed { path });
                }
                taken => taken.map_err(failed)?,
            },
            taken => taken.map_err(failed)?,
        };
        index.put_derived(&[(key, taken.blob)]);
        index.put_fact(&fact(&taken.blob), &hex(&taken.sha256));
        Ok(taken.sha256)
    }

    /// Whether the models can share their blocks with the store, where that was asked for.
    fn can_reflink(&self, files: &[ModelFile]) -> Result<(), ImportError> {
        if !self.options.reflink {
            return Ok(());
        }
        let probe = self.transaction.scratch_dir().map_err(ImportError::store)?.join("reflink");
        // Models lie on several filesystems where links or extra paths lead there: one of each tells.
        let mut devices = BTreeSet::new();
        for ModelFile { source: path, .. } in files {
            let device = fs::metadata(path).map_err(|error| ImportError::io("look at", path, error))?.dev();
            if !devices.insert(device) {
                continue;
            }
            let cloned = File::open(path).and_then(|source| clone_to(&source, &probe));
            let _ = fs::remove_file(&probe);
            cloned.map_err(|_| ImportError::NoReflink { path: path.clone() })?;
        }
        Ok(())
    }
}

fn clone_to(source: &File, target: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(File::create(target)?, source)?)
}

fn key(metadata: &fs::Metadata) -> [u8; 32] {
    let numbers = [
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
    ];
    blake3::derive_key(CONTEXT, numbers.map(u64::to_le_bytes).as_flattened())
}

/// Under which the index knows the sha256 of a blob.
fn fact(blob: &BlobId) -> String {
    format!("sha256:{blob}")
}

/// True when a file really lies in `root`, whatever links lead to it.
fn is_below(path: &Path, root: &Path) -> bool {
    match (path.canonicalize(), root.canonicalize()) {
        (Ok(path), Ok(root)) => path.starts_with(root),
        _ => false,
    }
}
