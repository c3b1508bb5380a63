//! Files over HTTP, straight into the store.
//!
//! The bytes pass once through sha256, BLAKE3 and, when asked, md5 while they are written below `staging/partial`
//! (see `http/partial.rs`); only when every checksum is right does the file itself move into the transaction. A cut, a
//! kill or a cancel leaves the partial, and the next call goes on from there: with `Range` and `If-Range`, so that a
//! file that changed on the server starts anew. Where the sha256 is known, and the store has it, nothing is asked of
//! the network at all. Calls block; they must not be made from within a tokio runtime.

mod client;
mod download;
mod journal;
mod link;
mod partial;
mod ranges;

use cvs_store::{BlobId, Store, Transaction};
use reqwest::header::HeaderMap;
use url::Url;

pub(crate) use self::client::is_downgrade;
pub(in crate::source) use self::client::{Failure, answer, get_json, head, patient, post_json};
use self::download::Download;
use self::link::Link;
use self::partial::{Done, Partial};
use super::digest::{Expected, hex, unhex};
use super::error::SourceError;
use super::event::SourceOptions;
use super::object::Object;
use super::redact::redact_url;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// Its address, `http` or `https`.
    pub url: Url,
    /// Headers for that host alone: a redirect to another origin drops them.
    pub headers: HeaderMap,
    /// What the bytes must be.
    pub expected: Expected,
}

/// A file that is in the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// Its bytes.
    pub blob: BlobId,
    /// Its size.
    pub size: u64,
    /// Its sha256.
    pub sha256: [u8; 32],
    /// Bytes that came over the network in this call.
    pub received: u64,
}

/// The blob of this sha256, if the store has it; claimed for the transaction.
pub(super) fn known(
    store: &Store,
    transaction: &Transaction,
    sha256: &[u8; 32],
) -> Result<Option<(BlobId, u64)>, SourceError> {
    let Some(blob) = store.index().by_sha256(sha256) else { return Ok(None) };
    Ok(transaction.has_blob(&blob)?.map(|size| (blob, size)))
}

/// Fetches one file into `transaction`, or finds it in the store.
pub fn fetch(
    store: &Store,
    transaction: &Transaction,
    request: &HttpRequest,
    options: &SourceOptions<'_>,
) -> Result<FetchedFile, SourceError> {
    if !matches!(request.url.scheme(), "http" | "https") {
        let url = redact_url(&request.url);
        return Err(SourceError::Address { url, reason: "not an http or https address" });
    }
    bring(store, transaction, request, None, options)
}

/// As [`fetch`], of a file in a bucket.
pub(crate) fn fetch_object(
    store: &Store,
    transaction: &Transaction,
    object: &Object,
    expected: &Expected,
    options: &SourceOptions<'_>,
) -> Result<FetchedFile, SourceError> {
    let request = HttpRequest { url: object.url().clone(), headers: HeaderMap::new(), expected: *expected };
    bring(store, transaction, &request, Some(object), options)
}

fn bring(
    store: &Store,
    transaction: &Transaction,
    request: &HttpRequest,
    object: Option<&Object>,
    options: &SourceOptions<'_>,
) -> Result<FetchedFile, SourceError> {
    let shown = redact_url(&request.url);
    options.check_cancel()?;
    let present = || -> Result<Option<FetchedFile>, SourceError> {
        let Some(sha256) = request.expected.sha256 else { return Ok(None) };
        let Some((blob, size)) = known(store, transaction, &sha256)? else { return Ok(None) };
        request.expected.verify_size(size, &shown)?;
        Ok(Some(FetchedFile { blob, size, sha256, received: 0 }))
    };
    if let Some(file) = present()? {
        return Ok(file);
    }
    options.check_online(&shown)?;
    let partial = Partial::lock(store.home(), &key(request), &shown, options)?;
    if partial.waited {
        if let Some(file) = present()? {
            return Ok(file);
        }
        // Without a checksum the other process tells what it found, if it has committed that since.
        if let Some(done) = partial.origin().and_then(|origin| origin.done)
            && let Some(sha256) = unhex(&done.sha256)
            && !request.expected.has_checksum()
            && let Some(size) = transaction.has_blob(&done.blob)?
        {
            request.expected.verify_size(size, &shown)?;
            return Ok(FetchedFile { blob: done.blob, size, sha256, received: 0 });
        }
    }
    let link = Link::new(request, object, &shown, options);
    let mut download = Download::open(&link, &partial)?;
    let found = client::block_on(download.run())??;
    let (origin, received) = download.close();
    let done = Done { blob: found.blob, sha256: hex(&found.sha256), size: found.size };
    let whole = partial.finish(origin, done)?;
    // What we hashed is what is adopted: nobody writes a finished file.
    let stored = transaction.adopt(&whole, found.blob, found.size)?;
    store.index().put_sha256(&found.sha256, &stored.id);
    Ok(FetchedFile { blob: stored.id, size: stored.size, sha256: found.sha256, received })
}

fn key(request: &HttpRequest) -> String {
    match &request.expected.sha256 {
        Some(sha256) => hex(sha256),
        None => {
            let mut url = request.url.clone();
            url.set_fragment(None);
            format!("url-{}", &blake3::hash(url.as_str().as_bytes()).to_hex()[..40])
        }
    }
}

#[cfg(test)]
mod ranges_tests;
#[cfg(test)]
mod tests;
