//! One part at a time: from a pin or a source to content in the transaction.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::{BlobId, Intake, Store, StoreError, Transaction};
use md5::Md5;
use sha2::{Digest, Sha256};
use url::Url;

use super::event::{Event, Events, Why};
use crate::model_file;
use crate::source::http::{FetchedFile, HttpRequest};
use crate::source::{
    Expected, Hosts, NetworkLimits, SourceError, SourceEvent, SourceOptions, civitai, http, hub, local,
    object::Object, public_text,
};
use crate::spec::{Checksum, HubFile, LockedModel, ModelSource, ModelSpec, Part};

/// Read at once.
const BUFFER: usize = 1 << 20;

/// What all parts of one operation share.
pub(super) struct Fetcher<'a> {
    pub(super) store: &'a Store,
    pub(super) transaction: &'a Transaction,
    pub(super) events: Events<'a>,
    /// Set when the caller cancels, or another part failed.
    pub(super) stop: &'a AtomicBool,
    pub(super) limits: NetworkLimits,
    pub(super) offline: bool,
    pub(super) intake: Intake,
}

impl Fetcher<'_> {
    pub(super) fn with_options<R>(&self, part: &Part, work: impl FnOnce(&SourceOptions<'_>) -> R) -> R {
        let events = |event: SourceEvent<'_>| (self.events)(Event::Source { part, event });
        let options =
            SourceOptions { events: &events, cancel: self.stop, limits: self.limits, offline: self.offline };
        work(&options)
    }

    /// The content of a model: that of `pin`, if there is one, else what its source has.
    pub(super) fn model(
        &self,
        part: &Part,
        why: &Why,
        model: &ModelSpec,
        pin: Option<&LockedModel>,
    ) -> Result<LockedModel, SourceError> {
        (self.events)(Event::Fetching { part, why });
        let wanted = Wanted::of(model, pin);
        let found = match self.in_store(&wanted)? {
            Some(found) => found,
            None => self.bring(part, model, pin, &wanted)?,
        };
        let subject = model.path.to_string();
        wanted.verify(&found, &subject)?;
        (self.events)(Event::Fetched { part, files: 1, reused: found.reused });
        if !found.reused {
            self.look_into(part, &found.blob, &subject)?;
        }
        Ok(LockedModel {
            path: model.path.clone(),
            source: found
                .source
                .or_else(|| pin.map(|pin| pin.source.clone()))
                .unwrap_or_else(|| public_text(&model.source_text)),
            revision: found.revision.or_else(|| pin.and_then(|pin| pin.revision.clone())),
            size: found.size,
            sha256: found.sha256,
            blake3: found.blob,
            md5: wanted.expected.md5,
            etag: pin.and_then(|pin| pin.etag.clone()),
            extra: pin.map(|pin| pin.extra.clone()).unwrap_or_default(),
        })
    }

    /// The content by its checksum alone, when the store has it; nothing is asked of its source then.
    fn in_store(&self, wanted: &Wanted) -> Result<Option<Found>, SourceError> {
        let by_sha256 = wanted.expected.sha256.and_then(|sha256| self.store.index().by_sha256(&sha256));
        let Some(blob) = wanted.blob.or(by_sha256) else { return Ok(None) };
        let Some(size) = self.transaction.has_blob(&blob)? else { return Ok(None) };
        if wanted.expected.size.is_some_and(|expected| expected != size) {
            return Ok(None);
        }
        let known = wanted.expected.sha256.filter(|_| by_sha256 == Some(blob));
        match known {
            Some(sha256) if wanted.expected.md5.is_none() => {
                Ok(Some(Found { blob, size, sha256, md5: None, reused: true, source: None, revision: None }))
            }
            // Only the bytes can tell their other checksums.
            _ => match self.digest(&blob) {
                Ok((sha256, md5)) => {
                    self.store.index().put_sha256(&sha256, &blob);
                    let (source, revision) = (None, None);
                    Ok(Some(Found { blob, size, sha256, md5: Some(md5), reused: true, source, revision }))
                }
                // Staged by this transaction: not to be read yet.
                Err(SourceError::Store(StoreError::MissingBlob(_))) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Tells what a model that enters is, where that is not what it seems.
    fn look_into(&self, part: &Part, blob: &BlobId, name: &str) -> Result<(), SourceError> {
        let mut file = self.transaction.open_blob(blob)?;
        let unreadable = |error| StoreError::io("read", self.store.blob_path(blob), error);
        let info = model_file::inspect(&mut file, name).map_err(unreadable)?;
        for finding in &info.findings {
            (self.events)(Event::ModelFinding { part, finding });
        }
        Ok(())
    }

    /// From the first source that has it. What keeps every source from working ends the search at once.
    fn bring(
        &self,
        part: &Part,
        model: &ModelSpec,
        pin: Option<&LockedModel>,
        wanted: &Wanted,
    ) -> Result<Found, SourceError> {
        let mut failures = Vec::new();
        let count = model.sources().count();
        for (index, (text, source)) in model.sources().enumerate() {
            let brought = self.with_options(part, |options| {
                let found = self.try_source(text, source, model, pin, wanted, options);
                if let Err(error) = &found
                    && index + 1 < count
                    && is_of_source(error)
                {
                    (options.events)(SourceEvent::NextSource { reason: &error.to_string() });
                }
                found
            });
            match brought {
                Ok(found) => return Ok(found),
                Err(error) if is_of_source(&error) => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        match failures.len() {
            1 => Err(failures.remove(0)),
            _ => Err(SourceError::Mirrors { failures }),
        }
    }

    fn try_source(
        &self,
        text: &str,
        source: &ModelSource,
        model: &ModelSpec,
        pin: Option<&LockedModel>,
        wanted: &Wanted,
        options: &SourceOptions<'_>,
    ) -> Result<Found, SourceError> {
        let (store, transaction, expected) = (self.store, self.transaction, &wanted.expected);
        // The revision belongs to the source that it was found at.
        let pinned = pin.filter(|pin| {
            ModelSource::parse(&pin.source).is_ok_and(|known| known.identity() == source.identity())
        });
        let pinned = pinned.and_then(|pin| pin.revision.as_deref());
        let hub = |file: &HubFile, hosts: &Hosts| {
            let found = hub::fetch(store, transaction, file, pinned, expected, hosts, options)?;
            Ok::<_, SourceError>((found.file, found.commit))
        };
        let (file, revision) = match source {
            ModelSource::Local(path) => {
                (local::ingest(store, transaction, path, expected, self.intake, options)?, None)
            }
            ModelSource::Http(url) => {
                let hosts = Hosts::from_env()?;
                match hub::of_url(url, &hosts) {
                    Some(file) => hub(&file, &hosts)?,
                    None => (self.download(url.clone(), expected, options)?, None),
                }
            }
            ModelSource::Hub(file) => hub(file, &Hosts::from_env()?)?,
            ModelSource::Civitai(file) => {
                let name = model.path.to_string();
                let wanted = civitai::Wanted {
                    file,
                    pinned: pinned.and_then(|id| id.parse().ok()),
                    name: name.rsplit('/').next(),
                    expected,
                };
                let found = civitai::fetch(store, transaction, &wanted, &Hosts::from_env()?, options)?;
                (found.file, Some(found.version.to_string()))
            }
            ModelSource::Bucket(file) => {
                let object = Object::open(file)?;
                (http::fetch_object(store, transaction, &object, expected, options)?, None)
            }
        };
        let FetchedFile { blob, size, sha256, received } = file;
        // A download that found its bytes in the store knows their sha256 only; elsewhere md5 has been verified.
        let mut md5 = expected.md5;
        if expected.md5.is_some() && received == 0 && self.store.blob_size(&blob)?.is_some() {
            md5 = Some(self.digest(&blob)?.1);
        }
        let source = Some(public_text(text));
        let found = Found { blob, size, sha256, md5, reused: false, source, revision };
        wanted.verify(&found, &model.path.to_string())?;
        Ok(found)
    }

    fn download(
        &self,
        url: Url,
        expected: &Expected,
        options: &SourceOptions<'_>,
    ) -> Result<FetchedFile, SourceError> {
        let request = HttpRequest { url, headers: Default::default(), expected: *expected };
        http::fetch(self.store, self.transaction, &request, options)
    }

    /// SHA-256 and MD5 of a blob in the store.
    fn digest(&self, blob: &BlobId) -> Result<([u8; 32], [u8; 16]), SourceError> {
        let mut file = self.store.open_blob(blob)?;
        let (mut sha256, mut md5, mut buffer) = (Sha256::new(), Md5::new(), vec![0; BUFFER]);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(SourceError::Cancelled);
            }
            match file.read(&mut buffer) {
                Ok(0) => return Ok((sha256.finalize().into(), md5.finalize().into())),
                Ok(n) => {
                    sha256.update(&buffer[..n]);
                    md5.update(&buffer[..n]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(StoreError::io("read", self.store.blob_path(blob), source).into());
                }
            }
        }
    }
}

/// Whether a failure says something of the source, and not of this machine or the person.
fn is_of_source(error: &SourceError) -> bool {
    !matches!(
        error,
        SourceError::Cancelled
            | SourceError::Store(_)
            | SourceError::DiskFull { .. }
            | SourceError::Runtime { .. }
            | SourceError::Endpoint { .. }
            | SourceError::Token { .. }
    )
}

/// What a model's bytes must be.
struct Wanted {
    expected: Expected,
    blob: Option<BlobId>,
    checksums: Vec<Checksum>,
}

struct Found {
    blob: BlobId,
    size: u64,
    sha256: [u8; 32],
    /// None where nobody asked for it.
    md5: Option<[u8; 16]>,
    reused: bool,
    /// The source that it came from; none where the store had it.
    source: Option<String>,
    /// What that source's name stands for now.
    revision: Option<String>,
}

impl Wanted {
    fn of(model: &ModelSpec, pin: Option<&LockedModel>) -> Self {
        let mut expected = Expected {
            sha256: pin.map(|pin| pin.sha256),
            md5: pin.and_then(|pin| pin.md5),
            size: pin.map(|pin| pin.size),
        };
        let mut blob = pin.map(|pin| pin.blake3);
        for checksum in &model.checksums {
            match *checksum {
                Checksum::Sha256(sha256) => expected.sha256 = expected.sha256.or(Some(sha256)),
                Checksum::Md5(md5) => expected.md5 = expected.md5.or(Some(md5)),
                Checksum::Blake3(blake3) => blob = blob.or(Some(BlobId::from_bytes(blake3))),
            }
        }
        let pinned = pin.map(|pin| Checksum::Blake3(*pin.blake3.as_bytes()));
        Self { expected, blob, checksums: model.checksums.iter().copied().chain(pinned).collect() }
    }

    /// Every checksum, also those that a source does not know, or that stand beside another of their kind.
    fn verify(&self, found: &Found, subject: &str) -> Result<(), SourceError> {
        for checksum in &self.checksums {
            let actual = match checksum {
                Checksum::Sha256(_) => Checksum::Sha256(found.sha256),
                Checksum::Md5(_) => match found.md5 {
                    Some(md5) => Checksum::Md5(md5),
                    None => continue,
                },
                Checksum::Blake3(_) => Checksum::Blake3(*found.blob.as_bytes()),
            };
            if actual != *checksum {
                return Err(SourceError::Checksum {
                    subject: subject.to_owned(),
                    algorithm: checksum.kind(),
                    expected: checksum.to_hex(),
                    found: actual.to_hex(),
                });
            }
        }
        Ok(())
    }
}
