//! Several ranges of one file at once. Each connection takes the next few pieces that nobody has, writes them where
//! they belong, and marks them in the [`Journal`]; one thread follows behind with the checksums, over what is there
//! without a gap, so that it reads what has just been written. Memory is bounded by one chunk for each connection and
//! one buffer for the checksums.
//!
//! Every answer must be of the version of the file that the first one was of; when it is not, all stop, and the caller
//! starts anew. A server that lets in fewer connections gets fewer.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use reqwest::Response;
use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::watch;

use super::client::{Failure, Retries, answer, block_on, describe, judge, patient};
use super::download::{content_range, strong_etag};
use super::journal::Journal;
use super::link::Link;
use super::partial::{Origin, Partial};
use crate::source::digest::Digester;
use crate::source::error::{IoContext, SourceError};
use crate::source::event::SourceEvent;

/// Pieces that one request is for: few requests, and yet the file grows from its start.
const RUN: usize = 8;
/// Read at once for the checksums.
const READ: usize = 4 << 20;

/// How it ended, when not well.
#[derive(Debug)]
pub(super) enum End {
    /// The file is another one by now, or the server does not stand by its ranges. What is on disk is worthless.
    Worthless(&'static str),
    /// An error that leaves what is on disk for the next time.
    Failed(SourceError),
}

impl From<SourceError> for End {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

/// Why one range stopped.
enum Stop {
    Attempt(Failure),
    End(End),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Attempt(failure)
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::End(End::Failed(error))
    }
}

struct State {
    journal: Journal,
    /// Connections that have not ended.
    active: usize,
    end: Option<End>,
}

struct Ranges<'a> {
    link: &'a Link<'a>,
    origin: &'a Origin,
    length: u64,
    partial: &'a Partial,
    file: File,
    state: Mutex<State>,
    /// The journal changed, or all is over.
    moved: Condvar,
    halt: watch::Sender<bool>,
    /// Bytes on disk, for progress.
    present: AtomicU64,
    received: AtomicU64,
}

/// Brings all pieces that are missing, and gives the checksums of the whole. `first` is an answer that begins at the
/// start of the file; `received` is told what came over the network, whatever the end.
pub(super) fn bring(
    link: &Link<'_>,
    partial: &Partial,
    origin: &Origin,
    mut journal: Journal,
    first: Option<Response>,
    received: &mut u64,
) -> Result<Digester, End> {
    let length = origin.length.unwrap_or_default();
    let path = partial.part();
    let file = OpenOptions::new().read(true).write(true).open(&path).at("opening", &path)?;
    preallocate(&file, length, link, partial)?;
    let connections = link.options.limits.connections.max(1) as usize;
    let present = journal.present();
    // Taken now: another connection could be quicker than the one that has the answer.
    let mut first = first.and_then(|first| Some((journal.claim(RUN)?, first)));
    let ranges = Ranges {
        link,
        origin,
        length,
        partial,
        file,
        state: Mutex::new(State { journal, active: connections, end: None }),
        moved: Condvar::new(),
        halt: watch::Sender::new(false),
        present: AtomicU64::new(present),
        received: AtomicU64::new(0),
    };
    let digester = std::thread::scope(|scope| {
        let hasher = scope.spawn(|| ranges.hash());
        for _ in 0..connections {
            let first = first.take();
            let ranges = &ranges;
            scope.spawn(move || ranges.connection(first));
        }
        hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    *received += ranges.received.load(Ordering::Relaxed);
    let state = ranges.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (state.end, digester) {
        (Some(end), _) => Err(end),
        (None, digester) => Ok(digester?),
    }
}

/// All room at once: a full disk is told now, and the file lies in one piece.
fn preallocate(file: &File, length: u64, link: &Link<'_>, partial: &Partial) -> Result<(), SourceError> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(partial.disk_full(link.shown, length)),
        // Not every filesystem can.
        Err(_) => file.set_len(length).at("extending", &partial.part()),
    }
}

/// Whoever waits for a connection that panicked would wait for ever.
struct Alarm<'a>(&'a Ranges<'a>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(End::Failed(SourceError::Cancelled));
        }
    }
}

impl Ranges<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything; the first reason counts.
    fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.halt.send_replace(true);
        self.moved.notify_all();
    }

    /// One connection, until there is nothing left to take.
    fn connection(&self, first: Option<(Range<u64>, Response)>) {
        let _alarm = Alarm(self);
        let (mut claimed, mut first) = first.unzip();
        loop {
            let claimed = claimed.take().or_else(|| {
                let mut state = self.state();
                let claimed = if state.end.is_some() { None } else { state.journal.claim(RUN) };
                if claimed.is_none() {
                    state.active -= 1;
                }
                claimed
            });
            let Some(run) = claimed else { return };
            match self.run(run, first.take()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(end) => return self.end(end),
            }
        }
    }

    /// Brings one run, in as many attempts as it takes. False when this connection is one too many.
    fn run(&self, run: Range<u64>, mut first: Option<Response>) -> Result<bool, End> {
        let mut at = run.start;
        let mut retries = Retries::new();
        loop {
            let before = at;
            let mut halted = self.halt.subscribe();
            let attempt = block_on(async {
                tokio::select! {
                    biased;
                    _ = halted.wait_for(|halt| *halt) => None,
                    done = self.attempt(&mut at, &run, first.take()) => Some(done),
                }
            })?;
            let failure = match attempt {
                None => return Ok(false),
                Some(Ok(())) => return Ok(true),
                Some(Err(Stop::End(end))) => return Err(end),
                Some(Err(Stop::Attempt(failure))) => failure,
            };
            if at > before {
                retries.progressed();
            }
            let crowded =
                matches!(failure, Failure::Transient(SourceError::HttpStatus { status: 429 | 503, .. }, _));
            if crowded {
                let mut state = self.state();
                if state.active > 1 {
                    state.active -= 1;
                    state.journal.release(&(at..run.end));
                    return Ok(false);
                }
            }
            let pause = block_on(async {
                tokio::select! {
                    biased;
                    _ = halted.wait_for(|halt| *halt) => None,
                    done = retries.next(failure, self.link.shown, self.link.options) => Some(done),
                }
            })?;
            match pause {
                None => return Ok(false),
                Some(next) => next?,
            }
        }
    }

    async fn attempt(&self, at: &mut u64, run: &Range<u64>, first: Option<Response>) -> Result<(), Stop> {
        let mut response = match first {
            Some(response) => response,
            None => self.ask(*at..run.end).await?,
        };
        let url = &self.link.request.url;
        while *at < run.end {
            let chunk = patient(response.chunk(), self.link.options, url).await?;
            let chunk = chunk.map_err(|error| describe(&error, url, self.link.options))?;
            let Some(chunk) = chunk else {
                let (received, expected) = (self.present.load(Ordering::Relaxed), self.length);
                let url = self.link.shown.to_owned();
                return Err(
                    Failure::Transient(SourceError::Truncated { url, received, expected }, None).into()
                );
            };
            self.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let wanted = usize::try_from(run.end - *at).unwrap_or(usize::MAX).min(chunk.len());
            self.write(&chunk[..wanted], *at, run)?;
            *at += wanted as u64;
            self.link.pace(wanted as u64).await?;
        }
        Ok(())
    }

    /// Asks for a range of that version of the file which the others are of.
    async fn ask(&self, range: Range<u64>) -> Result<Response, Stop> {
        let mut headers = HeaderMap::new();
        // A mirror has tags of its own; there the checksum decides.
        let tag = self.origin.etag.as_ref().filter(|_| self.origin.url == self.link.shown);
        if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(tag).ok()) {
            headers.insert(IF_RANGE, tag);
        }
        let value = format!("bytes={}-{}", range.start, range.end - 1);
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(RANGE, value);
        }
        let response = self.link.get(&headers).await?;
        let told = strong_etag(response.headers());
        let other = tag.is_some() && told.is_some() && told.as_ref() != tag;
        match response.status().as_u16() {
            206 => {
                let found = content_range(response.headers());
                let fits = found.is_some_and(|found| {
                    found.start == Some(range.start) && found.total.is_none_or(|total| total == self.length)
                });
                if other || !fits {
                    return Err(Stop::End(End::Worthless("the server sends a part of another file")));
                }
                if response.headers().get("content-encoding").is_some_and(|value| value != "identity") {
                    let error = answer(&self.link.request.url, "a content encoding that was not asked for");
                    return Err(error.into());
                }
                Ok(response)
            }
            200 if other || tag.is_none() => Err(Stop::End(End::Worthless("the file changed on the server"))),
            200 => Err(Stop::End(End::Worthless("the server does not keep to ranges"))),
            412 | 416 => Err(Stop::End(End::Worthless("the file changed on the server"))),
            code if (200..300).contains(&code) => {
                Err(answer(&self.link.request.url, format!("HTTP {code} instead of a range")).into())
            }
            _ => Err(judge(response.status(), response.headers(), &self.link.request.url).into()),
        }
    }

    fn write(&self, bytes: &[u8], at: u64, run: &Range<u64>) -> Result<(), SourceError> {
        let path = self.partial.part();
        if let Err(error) = self.file.write_all_at(bytes, at) {
            return Err(match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    self.partial.disk_full(self.link.shown, bytes.len() as u64)
                }
                _ => SourceError::Io { operation: "writing", path, source: error },
            });
        }
        let end = at + bytes.len() as u64;
        let mut state = self.state();
        state.journal.written(run.start..end).at("noting what is written of", &path)?;
        drop(state);
        self.moved.notify_all();
        let present = self.present.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        let total = Some(self.length);
        let bytes = present.min(self.length);
        self.link.options.event(SourceEvent::Receive { url: self.link.shown, bytes, total });
        Ok(())
    }

    /// The checksums of everything, in order, as soon as it is there.
    fn hash(&self) -> Result<Digester, SourceError> {
        let mut digester = Digester::new(self.link.request.expected.md5.is_some());
        let mut buffer = vec![0; READ];
        loop {
            let at = digester.size();
            if at == self.length {
                return Ok(digester);
            }
            let frontier = {
                let mut state = self.state();
                loop {
                    if state.end.is_some() {
                        return Ok(digester);
                    }
                    let frontier = state.journal.frontier(at);
                    if frontier > at {
                        break frontier;
                    }
                    state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let wanted = usize::try_from(frontier - at).unwrap_or(READ).min(READ);
            if let Err(source) = self.file.read_exact_at(&mut buffer[..wanted], at) {
                let path = self.partial.part();
                self.end(End::Failed(SourceError::Io { operation: "reading", path, source }));
                return Ok(digester);
            }
            digester.update(&buffer[..wanted]);
        }
    }
}
