//! Where outputs go: a directory, the answer itself, or a bucket.
//!
//! A run's directory appears whole. It is `.RUN.partial` while files come in, with `run.json` locked in it, and gets its
//! name when all are there; of a run that failed, `run.json` alone is left. In a bucket, `run.json` is written last.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cvs_versions::bucket::Bucket;
use cvs_versions::comfy::{self, Client, ClientError, Collected, JobError, OutputFile, Outputs};

use super::record::{BUCKET, hex};
use super::{JobsError, OutputRecord, RunRecord};
use crate::context::Context;
use crate::error::CliError;
use crate::progress::Unit;

/// What is written down about a run.
const RECORD: &str = "run.json";
/// What is younger than this may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Where outputs are to go.
pub(crate) enum Destination {
    /// Below this directory, each run in one of its own.
    Directory(PathBuf),
    /// Into the answer.
    Inline,
    /// Into a bucket, below this name.
    Bucket(Bucket, String),
}

impl Destination {
    /// Reads `--output`; `gcs` is a bucket that is named apart.
    pub(crate) fn parse(
        output: Option<&str>,
        version: &str,
        gcs: (Option<&str>, Option<&str>),
    ) -> Result<Self, CliError> {
        let bucket = |address: &str| {
            let bucket = Bucket::open(address).map_err(JobsError::from)?;
            Ok(Self::Bucket(bucket, version.to_owned()))
        };
        match output {
            None => Ok(Self::Directory(Path::new("outputs").join(version))),
            Some("base64") => Ok(Self::Inline),
            Some("gcs") => {
                let name = gcs.0.filter(|name| !name.is_empty()).ok_or_else(|| {
                    CliError::Usage("--output gcs needs a bucket: --gcs-bucket or GCS_BUCKET".to_owned())
                })?;
                bucket(&format!("gs://{name}/{}", gcs.1.unwrap_or_default().trim_matches('/')))
            }
            Some(address) if Bucket::is_address(address) => bucket(address),
            Some(address) if address.contains("://") => Err(CliError::Usage(format!(
                "--output {address}: expected a directory, base64, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
            ))),
            Some("") => Err(CliError::Usage("--output is empty".to_owned())),
            Some(directory) => Ok(Self::Directory(directory.into())),
        }
    }

    /// Makes ready for the outputs of a run.
    pub(crate) fn open<'a>(
        &'a self,
        context: &Context,
        record: &RunRecord,
    ) -> Result<Delivery<'a>, CliError> {
        let directory = match self {
            Self::Inline => None,
            Self::Directory(base) => Some(base.clone()),
            Self::Bucket(..) => Some(context.store()?.home().join("run/tmp")),
        };
        let Some(base) = directory else { return Ok(Delivery { to: self, partial: None, _held: None }) };
        fs::create_dir_all(&base).map_err(JobsError::io("make", &base))?;
        sweep(&base);
        let partial = base.join(format!(".{}.partial", record.run));
        fs::create_dir(&partial).map_err(JobsError::io("make", &partial))?;
        // The name is taken, should a node have made a file that is called the same.
        let record = partial.join(RECORD);
        let held = File::create_new(&record).map_err(JobsError::io("create", &record))?;
        // Where there are no locks, nobody sweeps either.
        let _ = held.try_lock();
        Ok(Delivery { to: self, partial: Some(partial), _held: Some(held) })
    }
}

/// The outputs of one run on their way. Dropped, what is half done is taken away.
pub(crate) struct Delivery<'a> {
    to: &'a Destination,
    partial: Option<PathBuf>,
    /// The record, locked: the directory is in somebody's hands.
    _held: Option<File>,
}

impl Delivery<'_> {
    /// Brings the outputs from the server, and writes them into the record.
    pub(crate) fn collect(
        &self,
        context: &Context,
        client: &Client,
        outputs: &Outputs,
        record: &mut RunRecord,
        cancel: &AtomicBool,
    ) -> Result<(), JobsError> {
        let files: Vec<OutputFile> = outputs.files.iter().chain(&outputs.temporary).cloned().collect();
        let task = context.progress().task("collecting", Unit::Bytes);
        match &self.partial {
            None => {
                for file in &files {
                    let mut bytes = Vec::new();
                    let name = Path::new(&file.file.filename);
                    let fetched = client.view(&file.file, &mut bytes, name, cancel);
                    let fetched = fetched.map_err(|error| missing_or(error, file))?;
                    task.add(fetched.size);
                    let mut output = describe(file, comfy::safe_name(&file.file.filename), &fetched);
                    output.data = Some(BASE64_STANDARD.encode(&bytes));
                    record.outputs.push(output);
                }
            }
            Some(directory) => {
                let each = |file: &Collected| task.add(file.fetched.size);
                for file in comfy::collect(client, &files, directory, &each, cancel)? {
                    let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    record.outputs.push(describe(&file.output, name, &file.fetched));
                }
            }
        }
        if let (Destination::Bucket(bucket, below), Some(directory)) = (self.to, &self.partial) {
            let task = context.progress().task(format!("uploading to {bucket}"), Unit::Bytes);
            task.set_total(record.outputs.iter().map(|output| output.size).sum());
            for output in &mut record.outputs {
                let name = format!("{below}/{}/{}", record.run, output.file);
                let file = directory.join(&output.file);
                output.url = Some(bucket.put_file(&name, &file, &|bytes| task.add(bytes), cancel)?);
            }
        }
        Ok(())
    }

    /// Ends a run, well or not, by its record. What is returned are the places of its outputs.
    pub(crate) fn finish(mut self, record: &RunRecord) -> Result<Vec<String>, JobsError> {
        let Some(partial) = self.partial.take() else { return Ok(Vec::new()) };
        let kept = Kept(partial);
        match self.to {
            Destination::Inline => Ok(Vec::new()),
            // Where nothing could be written, the record cannot either.
            Destination::Bucket(..) if record.error.as_ref().is_some_and(|e| e.kind == BUCKET) => {
                Ok(Vec::new())
            }
            Destination::Bucket(bucket, below) => {
                bucket.put(&format!("{below}/{}/{RECORD}", record.run), record.text().into_bytes())?;
                Ok(record.outputs.iter().filter_map(|output| output.url.clone()).collect())
            }
            Destination::Directory(base) => {
                if record.error.is_some() {
                    kept.empty()?;
                }
                let file = kept.0.join(RECORD);
                fs::write(&file, record.text()).map_err(JobsError::io("write", &file))?;
                let whole = base.join(&record.run);
                fs::rename(&kept.0, &whole).map_err(JobsError::io("name", &whole))?;
                let place = |output: &OutputRecord| whole.join(&output.file).display().to_string();
                Ok(record.outputs.iter().map(place).collect())
            }
        }
    }

    /// Where the record of a run is, when it is a file.
    pub(crate) fn record_path(to: &Destination, record: &RunRecord) -> Option<PathBuf> {
        match to {
            Destination::Directory(base) => Some(base.join(&record.run).join(RECORD)),
            Destination::Inline | Destination::Bucket(..) => None,
        }
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        drop(self.partial.take().map(Kept));
    }
}

/// A directory that goes with all that is in it, unless it has got another name.
struct Kept(PathBuf);

impl Kept {
    fn empty(&self) -> Result<(), JobsError> {
        let entries = fs::read_dir(&self.0).map_err(JobsError::io("list", &self.0))?;
        for entry in entries {
            let path = entry.map_err(JobsError::io("list", &self.0))?.path();
            fs::remove_file(&path).map_err(JobsError::io("remove", &path))?;
        }
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What cannot be removed has a name that says what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Takes away what commands have left that were killed: directories whose record nobody holds. A young one may not be
/// held yet.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_partial =
            name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".partial"));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_partial
            && age().is_some_and(|age| age >= YOUNG)
            && File::open(entry.path().join(RECORD)).is_ok_and(|record| record.try_lock().is_ok())
        {
            tracing::info!(path = %entry.path().display(), "left by a command that was killed, and removed");
            // It is in nobody's way; the next one tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The error of a download; that a listed file is not there is one of the job.
fn missing_or(error: ClientError, output: &OutputFile) -> JobsError {
    match error {
        ClientError::Status { status: 404, .. } => {
            JobError::MissingFile { output: Box::new(output.clone()) }.into()
        }
        error => error.into(),
    }
}

fn describe(file: &OutputFile, name: String, fetched: &comfy::Fetched) -> OutputRecord {
    OutputRecord {
        node: file.node.clone(),
        class: file.class_type.clone(),
        kind: file.kind.clone(),
        folder: file.file.folder.clone(),
        file: name,
        size: fetched.size,
        sha256: hex(&fetched.sha256),
        url: None,
        data: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_what_the_dead_have_left_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - 2 * YOUNG;
        let make = |name: &str, old_enough: bool| {
            let dir = base.path().join(name);
            fs::create_dir(&dir).unwrap();
            let record = File::create(dir.join(RECORD)).unwrap();
            if old_enough {
                File::open(&dir).unwrap().set_modified(old).unwrap();
            }
            record
        };
        let held = make(".held.partial", true);
        held.try_lock().unwrap();
        make(".left.partial", true);
        make(".young.partial", false);
        make("20260101-000000-abcd", true);
        fs::create_dir(base.path().join(".no-record.partial")).unwrap();
        sweep(base.path());
        let mut names: Vec<_> =
            fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".held.partial", ".no-record.partial", ".young.partial", "20260101-000000-abcd"]);
    }
}
