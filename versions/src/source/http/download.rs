//! One download: attempts until the file is whole, each going on where the last one stopped. A large file of which the
//! server gives ranges is split ([`super::ranges`]); what makes that worthless leads back here.

use std::fs::File;
use std::io::Write;

use reqwest::Response;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_RANGE, LAST_MODIFIED, RANGE,
};

use super::HttpRequest;
use super::client::{Failure, Retries, answer, describe, judge, patient};
use super::journal::Journal;
use super::link::{Link, text};
use super::partial::{Origin, Partial, boot_id};
use super::ranges::{self, End};
use crate::source::digest::{Digester, Digests};
use crate::source::error::{IoContext, SourceError};
use crate::source::event::{SourceEvent, SourceOptions};

/// Written and hashed at once. Large enough for hashing on several threads, small enough to lose without regret.
const BUFFER: usize = 1 << 20;

/// Splitting is given up after it was in vain so often.
const IN_VAIN: u32 = 2;

pub(super) struct Download<'a> {
    link: &'a Link<'a>,
    request: &'a HttpRequest,
    shown: &'a str,
    partial: &'a Partial,
    options: &'a SourceOptions<'a>,
    origin: Origin,
    file: File,
    digester: Digester,
    buffer: Vec<u8>,
    /// Bytes over the network.
    received: u64,
    /// The bytes on disk came by more than one answer, so that a wrong checksum may be the seam's fault.
    seam: bool,
    /// A wrong checksum led to a new start already; another one is the server's fault.
    restarted: bool,
    /// The pieces that an earlier attempt left.
    pieces: Option<Journal>,
    /// Pieces are on disk, or were begun.
    split: bool,
    /// How often pieces turned out to be worthless.
    in_vain: u32,
    /// Nothing needs to be asked: all bytes are on disk, and can be told right or wrong.
    complete: bool,
}

impl<'a> Download<'a> {
    /// Takes up what an earlier attempt left, where that can be trusted.
    pub(super) fn open(link: &'a Link<'a>, partial: &'a Partial) -> Result<Self, SourceError> {
        let Link { request, shown, options, .. } = *link;
        let with_md5 = request.expected.md5.is_some();
        let checked = request.expected.has_checksum();
        let fresh = Origin { url: shown.to_owned(), boot: boot_id(), ..Origin::default() };
        let left = partial.origin().filter(|origin| {
            let validated = origin.url == shown && (origin.etag.is_some() || origin.last_modified.is_some());
            checked || validated && (origin.done.is_some() || origin.boot == fresh.boot) || partial.waited
        });
        let (mut complete, mut pieces) = (false, None);
        let mut taken = None;
        if let Some(origin) = left {
            match &origin.done {
                None if origin.piece.is_some() => {
                    if let Some(journal) = partial.journal(&origin) {
                        let path = partial.part();
                        let file = File::open(&path).at("opening", &path)?;
                        pieces = Some(journal);
                        taken = Some((origin, file, Digester::new(with_md5)));
                    }
                }
                Some(done) => {
                    if let Some((file, digester)) = partial.reopen(&done.blob, with_md5, options)? {
                        complete = digester.size() == done.size && (checked || partial.waited);
                        taken = Some((origin, file, digester));
                    }
                }
                None => {
                    let (file, digester) = partial.resume(with_md5, options)?;
                    complete = checked && origin.length == Some(digester.size());
                    taken = Some((origin, file, digester));
                }
            }
        }
        let (origin, file, digester) = match taken {
            Some(taken) => taken,
            None => {
                let file = partial.start(&fresh)?;
                (fresh, file, Digester::new(with_md5))
            }
        };
        let offset = pieces.as_ref().map_or(digester.size(), Journal::present);
        if offset > 0 {
            options.event(SourceEvent::Resume { url: shown, offset });
        }
        let split = pieces.is_some();
        Ok(Self {
            link,
            request,
            shown,
            partial,
            options,
            origin,
            file,
            digester,
            buffer: Vec::with_capacity(BUFFER),
            received: 0,
            seam: offset > 0,
            restarted: false,
            pieces,
            split,
            in_vain: 0,
            complete,
        })
    }

    /// Brings the file to its end and verifies it. On a wrong checksum nothing of it remains.
    pub(super) async fn run(&mut self) -> Result<Digests, SourceError> {
        loop {
            self.complete().await?;
            let done = std::mem::replace(&mut self.digester, Digester::new(false)).finish();
            let same = self.origin.done.as_ref().is_none_or(|earlier| earlier.blob == done.blob);
            match self.request.expected.verify(&done, self.shown) {
                Ok(()) if same => return Ok(done),
                _ if !self.restarted && (self.seam || !same) => {
                    let url = self.shown.to_owned();
                    let origin = Origin { url, boot: boot_id(), ..Origin::default() };
                    self.restart("what was on disk does not lead to the right checksum", origin)?;
                    self.restarted = true;
                    self.complete = false;
                }
                Ok(()) => return Ok(done),
                Err(error) => {
                    self.partial.discard()?;
                    return Err(error);
                }
            }
        }
    }

    /// The origin for the sidecar, and the bytes that came over the network.
    pub(super) fn close(self) -> (Origin, u64) {
        (self.origin, self.received)
    }

    async fn complete(&mut self) -> Result<(), SourceError> {
        let mut retries = Retries::new();
        let mut furthest = self.digester.size();
        if let Some(journal) = self.pieces.take()
            && self.in_pieces(journal, None)?
        {
            return Ok(());
        }
        while !self.complete {
            let failure = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if let Err(error) = self.flush() {
                return self.give_up(error);
            }
            if self.digester.size() > furthest {
                furthest = self.digester.size();
                retries.progressed();
            }
            if let Err(error) = retries.next(failure, self.shown, self.options).await {
                return self.give_up(error);
            }
        }
        Ok(())
    }

    /// A partial outlives what may pass: cuts, cancels, kills. It goes when it is in the way.
    fn give_up(&self, error: SourceError) -> Result<(), SourceError> {
        let useless = self.digester.size() == 0 && self.buffer.is_empty() && !self.split;
        if useless || matches!(error, SourceError::DiskFull { .. } | SourceError::Size { .. }) {
            self.partial.discard()?;
        }
        Err(error)
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        let offset = self.digester.size();
        let own = self.range_headers(offset);
        let url = &self.request.url;
        let mut response = self.link.get(&own).await?;
        match response.status().as_u16() {
            200 => {
                self.begin(&response, offset)?;
                if self.may_split(&response) {
                    let journal = self.partial.split(&mut self.origin, self.options.limits.piece)?;
                    return match self.in_pieces(journal, Some(response))? {
                        true => Ok(()),
                        false => {
                            let error = answer(url, "the file kept changing while it was downloaded");
                            Err(Failure::Transient(error, Some(std::time::Duration::ZERO)))
                        }
                    };
                }
            }
            206 => self.go_on(&response, offset)?,
            416 if offset > 0 => {
                let whole = content_range(response.headers()).map_or(self.origin.length, |range| range.total);
                if whole == Some(offset) {
                    self.origin.length = whole;
                    return Ok(());
                }
                self.restart("the server has fewer bytes than are on disk", self.fresh(&response))?;
                let error = answer(url, "the resumed range does not exist");
                return Err(Failure::Transient(error, Some(std::time::Duration::ZERO)));
            }
            code if (200..300).contains(&code) => {
                return Err(answer(url, format!("HTTP {code} instead of a file")).into());
            }
            _ => return Err(judge(response.status(), response.headers(), url)),
        }
        loop {
            let read = patient(response.chunk(), self.options, url).await?;
            match read.map_err(|error| self.cut(&error))? {
                Some(chunk) => {
                    self.take(&chunk)?;
                    self.link.pace(chunk.len() as u64).await?;
                }
                None => break,
            }
        }
        self.flush()?;
        match self.origin.length {
            Some(expected) if expected != self.digester.size() => Err(self.truncated(expected)),
            _ => Ok(()),
        }
    }

    /// Whether the file is worth several ranges, and the server good for them: it must give them, and a tag by which
    /// all can be told to be of one file.
    fn may_split(&self, response: &Response) -> bool {
        let limits = &self.options.limits;
        let ranges = text(response.headers(), ACCEPT_RANGES).is_some_and(|ranges| ranges.trim() == "bytes");
        limits.connections > 1
            && self.in_vain < IN_VAIN
            && ranges
            && self.origin.etag.is_some()
            && self.origin.length.is_some_and(|length| length >= limits.split_from.max(limits.piece))
    }

    /// The pieces that are missing; false when all of them turned out to be worthless. It blocks, which nothing else
    /// on this thread is waiting behind.
    fn in_pieces(&mut self, journal: Journal, first: Option<Response>) -> Result<bool, SourceError> {
        self.split = true;
        match ranges::bring(self.link, self.partial, &self.origin, journal, first, &mut self.received) {
            Ok(digester) => {
                self.digester = digester;
                self.complete = true;
                Ok(true)
            }
            Err(End::Worthless(reason)) => {
                self.in_vain += 1;
                let fresh = Origin { url: self.shown.to_owned(), boot: boot_id(), ..Origin::default() };
                self.restart(reason, fresh)?;
                Ok(false)
            }
            Err(End::Failed(error)) => Err(self.give_up(error).err().unwrap_or(SourceError::Cancelled)),
        }
    }

    /// `Range` from `offset` on, bound to the version of the file that the bytes on disk belong to.
    fn range_headers(&mut self, offset: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if offset == 0 {
            return headers;
        }
        let validator = match &self.origin {
            origin if origin.url != self.shown => None,
            origin => origin.etag.as_ref().or(origin.last_modified.as_ref()),
        };
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        match validator {
            Some(validator) => set(IF_RANGE, validator),
            None if self.request.expected.has_checksum() => self.seam = true,
            // Nothing would tell whether the rest belongs to what is on disk: ask for the whole file.
            None => return headers,
        }
        set(RANGE, &format!("bytes={offset}-"));
        headers
    }

    /// The whole file comes.
    fn begin(&mut self, response: &Response, offset: u64) -> Result<(), SourceError> {
        self.refuse_encoding(response)?;
        let origin = self.fresh(response);
        if let Some(length) = origin.length {
            self.request.expected.verify_size(length, self.shown)?;
        }
        if offset > 0 {
            let reason = "the server sends the whole file again: it changed, or cannot be resumed";
            self.restart(reason, origin)?;
        } else {
            self.origin = origin;
            self.file = self.partial.start(&self.origin)?;
        }
        self.seam = false;
        self.check_room()
    }

    /// The rest of the file comes.
    fn go_on(&mut self, response: &Response, offset: u64) -> Result<(), Failure> {
        self.refuse_encoding(response)?;
        let range = content_range(response.headers());
        let told = strong_etag(response.headers());
        let fits = range.is_some_and(|range| {
            let same_length =
                self.origin.length.is_none() || range.total.is_none() || self.origin.length == range.total;
            range.start == Some(offset) && same_length
        });
        let same = self.origin.url != self.shown
            || self.origin.etag.is_none()
            || told.is_none()
            || self.origin.etag == told;
        if !fits || !same {
            let mut origin = self.fresh(response);
            origin.length = None;
            self.restart("the server sends a part of another file", origin)?;
            let error = answer(&self.request.url, "a range that was not asked for");
            return Err(Failure::Transient(error, None));
        }
        if self.origin.length.is_none() {
            self.origin.length = range.and_then(|range| range.total);
        }
        if let Some(length) = self.origin.length {
            self.request.expected.verify_size(length, self.shown)?;
        }
        Ok(self.check_room()?)
    }

    fn refuse_encoding(&self, response: &Response) -> Result<(), SourceError> {
        match response.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding.as_bytes() != b"identity" => Err(answer(
                &self.request.url,
                format!("a content encoding ({encoding:?}) that was not asked for"),
            )),
            _ => Ok(()),
        }
    }

    fn fresh(&self, response: &Response) -> Origin {
        let headers = response.headers();
        Origin {
            url: self.shown.to_owned(),
            etag: strong_etag(headers),
            last_modified: text(headers, LAST_MODIFIED),
            length: text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            boot: boot_id(),
            piece: None,
            done: None,
        }
    }

    fn restart(&mut self, reason: &str, origin: Origin) -> Result<(), SourceError> {
        self.options.event(SourceEvent::Restart { url: self.shown, reason });
        self.file = self.partial.start(&origin)?;
        self.origin = origin;
        self.digester = Digester::new(self.request.expected.md5.is_some());
        self.buffer.clear();
        self.seam = false;
        self.split = false;
        Ok(())
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), SourceError> {
        self.received += chunk.len() as u64;
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        let bytes = self.digester.size() + self.buffer.len() as u64;
        self.options.event(SourceEvent::Receive { url: self.shown, bytes, total: self.origin.length });
        match self.request.expected.size {
            Some(expected) if bytes > expected => {
                Err(SourceError::Size { subject: self.shown.to_owned(), expected, found: bytes })
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), SourceError> {
        if let Err(source) = self.file.write_all(&self.buffer) {
            let full =
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
            if full {
                return Err(self.disk_full());
            }
            return Err(SourceError::Io { operation: "writing", path: self.partial.part(), source });
        }
        self.digester.update(&self.buffer);
        self.buffer.clear();
        Ok(())
    }

    /// Better now than after an hour.
    fn check_room(&self) -> Result<(), SourceError> {
        match self.origin.length {
            Some(length) if length.saturating_sub(self.digester.size()) > self.partial.free() => {
                Err(self.disk_full())
            }
            _ => Ok(()),
        }
    }

    fn disk_full(&self) -> SourceError {
        let written = self.digester.size();
        let needed =
            self.origin.length.map_or(self.buffer.len() as u64, |length| length.saturating_sub(written));
        self.partial.disk_full(self.shown, needed)
    }

    /// The body broke off.
    fn cut(&self, error: &reqwest::Error) -> Failure {
        match self.origin.length {
            Some(expected) => self.truncated(expected),
            None => describe(error, &self.request.url, self.options),
        }
    }

    fn truncated(&self, expected: u64) -> Failure {
        let received = self.digester.size() + self.buffer.len() as u64;
        let url = self.shown.to_owned();
        Failure::Transient(SourceError::Truncated { url, received, expected }, None)
    }
}

/// `If-Range` takes no weak tags (RFC 9110, 13.1.5).
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    text(headers, ETAG).filter(|etag| etag.starts_with('"'))
}

/// `Content-Range: bytes START-END/TOTAL`, either side of the slash possibly `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) start: Option<u64>,
    pub(super) total: Option<u64>,
}

pub(super) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let value = text(headers, CONTENT_RANGE)?;
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some(ContentRange {
        start: range.split_once('-').and_then(|(start, _)| start.trim().parse().ok()),
        total: total.trim().parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (value, start, total) in [
            ("bytes 5-9/10", Some(5), Some(10)),
            ("bytes 0-0/*", Some(0), None),
            ("bytes */10", None, Some(10)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(value));
            assert_eq!(content_range(&headers), Some(ContentRange { start, total }), "{value}");
        }
    }

    #[test]
    fn weak_tags_do_not_resume() {
        for (etag, taken) in [("\"a\"", true), ("W/\"a\"", false), ("a", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, HeaderValue::from_static(etag));
            assert_eq!(strong_etag(&headers).is_some(), taken, "{etag}");
        }
    }
}
