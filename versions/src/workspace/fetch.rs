//! One part at a time: from a pin or a source to content in the transaction.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use cvs_store::{BlobId, Intake, ManifestId, Store, StoreError, Transaction};
use md5::Md5;
use sha2::{Digest, Sha256};
use url::Url;

use super::event::{Event, Events, Why};
use crate::source::http::{FetchedFile, HttpRequest};
use crate::source::{Expected, NetworkLimits, SourceError, SourceEvent, SourceOptions, git, http, local};
use crate::spec::{Checksum, LockedModel, ModelSource, ModelSpec, Part};

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
    fn with_options<R>(&self, part: &Part, work: impl FnOnce(&SourceOptions<'_>) -> R) -> R {
        let events = |event: SourceEvent<'_>| (self.events)(Event::Source { part, event });
        let options =
            SourceOptions { events: &events, cancel: self.stop, limits: self.limits, offline: self.offline };
        work(&options)
    }

    /// The commit that `reference` names in the repository at `url` now, and its full name.
    pub(super) fn resolve(
        &self,
        part: &Part,
        url: &str,
        reference: Option<&str>,
    ) -> Result<git::ResolvedCommit, SourceError> {
        let scratch = self.transaction.scratch_dir()?;
        self.with_options(part, |options| git::resolve(url, reference, &scratch, options))
    }

    /// The content of a commit.
    pub(super) fn commit(
        &self,
        part: &Part,
        why: &Why,
        url: &str,
        commit: &str,
        reference: Option<&str>,
    ) -> Result<(String, ManifestId), SourceError> {
        (self.events)(Event::Fetching { part, why });
        let ingest = self
            .with_options(part, |options| git::ingest(self.transaction, url, commit, reference, options))?;
        let (files, reused) = (ingest.stats.files, ingest.stats.cached);
        (self.events)(Event::Fetched { part, files, reused });
        Ok((ingest.commit, ingest.manifest))
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
            None => self.bring(part, model, &wanted)?,
        };
        let subject = model.path.to_string();
        wanted.verify(&found, &subject)?;
        (self.events)(Event::Fetched { part, files: 1, reused: found.reused });
        Ok(LockedModel {
            path: model.path.clone(),
            source: model.source_text.clone(),
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
                Ok(Some(Found { blob, size, sha256, md5: None, reused: true }))
            }
            // Only the bytes can tell their other checksums.
            _ => match self.digest(&blob) {
                Ok((sha256, md5)) => {
                    self.store.index().put_sha256(&sha256, &blob);
                    Ok(Some(Found { blob, size, sha256, md5: Some(md5), reused: true }))
                }
                // Staged by this transaction: not to be read yet.
                Err(SourceError::Store(StoreError::MissingBlob(_))) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    fn bring(&self, part: &Part, model: &ModelSpec, wanted: &Wanted) -> Result<Found, SourceError> {
        let expected = &wanted.expected;
        let FetchedFile { blob, size, sha256, received } =
            self.with_options(part, |options| match (&model.source, http_url(&model.source_text)) {
                (ModelSource::Local(path), _) => {
                    local::ingest(self.store, self.transaction, path, expected, self.intake, options)
                }
                (ModelSource::Http(url), _) => self.download(url.clone(), expected, options),
                (ModelSource::Hub(_) | ModelSource::Civitai(_), Some(url)) => {
                    self.download(url, expected, options)
                }
                (ModelSource::Hub(_), None) => Err(unsupported(
                    model,
                    "hf:// is not supported yet in this version of cvs; give the file's https:// address, or a \
                     checksum of a file that the store has",
                )),
                (ModelSource::Civitai(_), None) => Err(unsupported(
                    model,
                    "civitai:// is not supported yet in this version of cvs; give the file's https:// address, \
                     or a checksum of a file that the store has",
                )),
            })?;
        // A download that found its bytes in the store knows their sha256 only; elsewhere md5 has been verified.
        let mut md5 = expected.md5;
        if expected.md5.is_some() && received == 0 && self.store.blob_size(&blob)?.is_some() {
            md5 = Some(self.digest(&blob)?.1);
        }
        Ok(Found { blob, size, sha256, md5, reused: false })
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

fn http_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

fn unsupported(model: &ModelSpec, reason: &'static str) -> SourceError {
    // The query may carry a token.
    let url = model.source_text.split('?').next().unwrap_or_default().to_owned();
    SourceError::Address { url, reason }
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
