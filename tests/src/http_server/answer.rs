//! One answer of the [`super::HttpServer`]: what a good server would say, then what the faults make of it.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::{Body, Fault, Handler, Response, Shared};
use crate::http::{Headers, Request, write_head};

/// Bytes that go out in one write.
const STEP: usize = 256 * 1024;

enum Source {
    Content(Body, Headers),
    Route(Handler),
    Nothing,
}

/// Answers; true when the connection can go on.
pub(super) fn answer(request: &Request, stream: &mut TcpStream, shared: &Shared) -> io::Result<bool> {
    let faults = shared.take_faults(&request.path);
    let plan = match refuse(request, &faults, shared) {
        Some(response) => Plan::whole(response),
        None => match find(request, shared) {
            Source::Content(body, headers) => content(request, body, headers, &faults, shared),
            Source::Route(handler) => Plan::whole(handler(request)),
            Source::Nothing => Plan::whole(Response::new(404, "nothing is served here\n")),
        },
    };
    plan.send(request, &faults, stream, shared)
}

fn find(request: &Request, shared: &Shared) -> Source {
    let state = shared.state();
    if let Some((body, headers)) = state.content.get(&request.path) {
        return Source::Content(body.clone(), headers.clone());
    }
    match state.handlers.iter().find(|(prefix, _)| request.path.starts_with(prefix.as_str())) {
        Some((_, handler)) => Source::Route(handler.clone()),
        None => Source::Nothing,
    }
}

/// The faults that answer instead of the content.
fn refuse(request: &Request, faults: &[Fault], shared: &Shared) -> Option<Response> {
    for fault in faults {
        match fault {
            Fault::Status(status, headers) => {
                let response = Response::new(*status, format!("status {status}, as asked\n"));
                return Some(
                    headers.iter().fold(response, |response, (name, value)| response.header(name, value)),
                );
            }
            Fault::Redirect(status, to) => return Some(Response::new(*status, "").header("Location", to)),
            Fault::Require(name, value, status) if request.header(name) != Some(value) => {
                return Some(Response::new(*status, format!("{name} is not what it must be\n")));
            }
            Fault::Hang => {
                shared.hang();
                return Some(Response::new(503, ""));
            }
            Fault::Require(..)
            | Fault::CutAfter(_)
            | Fault::ContentLength(_)
            | Fault::Chunked
            | Fault::FlipByte(_)
            | Fault::Drip(..)
            | Fault::NoRanges
            | Fault::RangeFromStart
            | Fault::ChangingEtag
            | Fault::NoEtag => {}
        }
    }
    None
}

/// What is to be sent: `start..end` of the body.
struct Plan {
    status: u16,
    headers: Headers,
    body: Readable,
    start: u64,
    end: u64,
}

impl Plan {
    fn whole(response: Response) -> Plan {
        match Readable::open(response.body) {
            Ok(body) => {
                let end = body.len();
                Plan { status: response.status, headers: response.headers, body, start: 0, end }
            }
            Err(error) => Plan::whole(Response::new(500, format!("{error}\n"))),
        }
    }

    fn send(
        mut self,
        request: &Request,
        faults: &[Fault],
        stream: &mut TcpStream,
        shared: &Shared,
    ) -> io::Result<bool> {
        let mut end = self.end;
        let (mut keep, mut chunked, mut step, mut pause) = (true, false, STEP, None);
        let mut length = Some(self.end - self.start);
        for fault in faults {
            match fault {
                Fault::CutAfter(count) if *count < self.end - self.start => {
                    end = end.min(self.start + count);
                    keep = false;
                }
                Fault::ContentLength(announced) => {
                    length = Some(*announced);
                    keep = false;
                }
                Fault::Chunked => chunked = true,
                Fault::FlipByte(offset) => self.body.flipped.push(*offset),
                Fault::Drip(bytes, time) => (step, pause) = ((*bytes).max(1), Some(*time)),
                _ => {}
            }
        }
        if chunked {
            length = None;
            self.headers.set("Transfer-Encoding", "chunked");
        }
        if let Some(length) = length
            && self.status != 304
        {
            self.headers.set("Content-Length", length);
        }
        if !keep {
            self.headers.set("Connection", "close");
        }
        write_head(stream, self.status, &self.headers)?;
        if request.method == "HEAD" || self.status == 304 {
            return Ok(keep);
        }
        let mut buffer = vec![0; step.min(STEP)];
        let mut offset = self.start;
        while offset < end {
            let count = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let piece = &mut buffer[..count];
            self.body.read_at(piece, offset)?;
            if chunked {
                write!(stream, "{count:x}\r\n")?;
            }
            stream.write_all(piece)?;
            if chunked {
                stream.write_all(b"\r\n")?;
            }
            offset += count as u64;
            *shared.state().sent.entry(request.path.clone()).or_default() += count as u64;
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
        // A cut body stays without its last chunk.
        if chunked && end == self.end {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(keep)
    }
}

struct Readable {
    body: Opened,
    flipped: Vec<u64>,
}

enum Opened {
    Bytes(std::sync::Arc<[u8]>),
    File(File, std::fs::Metadata),
}

impl Readable {
    fn open(body: Body) -> io::Result<Readable> {
        let body = match body {
            Body::Bytes(bytes) => Opened::Bytes(bytes),
            Body::File(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                Opened::File(file, metadata)
            }
        };
        Ok(Readable { body, flipped: Vec::new() })
    }

    fn len(&self) -> u64 {
        match &self.body {
            Opened::Bytes(bytes) => bytes.len() as u64,
            Opened::File(_, metadata) => metadata.len(),
        }
    }

    /// Of the content; of inode, size and time where the content is a file.
    fn etag(&self) -> String {
        match &self.body {
            Opened::Bytes(bytes) => {
                let digest = Sha256::digest(bytes);
                let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
                format!("\"{hex}\"")
            }
            Opened::File(_, metadata) => {
                format!("\"{:x}-{:x}-{:x}\"", metadata.ino(), metadata.len(), metadata.mtime_nsec())
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.body {
            Opened::Bytes(bytes) => {
                let start = usize::try_from(offset).expect("an offset within a slice");
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
            }
            Opened::File(file, _) => file.read_exact_at(buffer, offset)?,
        }
        for flipped in &self.flipped {
            if let Some(byte) =
                flipped.checked_sub(offset).and_then(|at| buffer.get_mut(usize::try_from(at).ok()?))
            {
                *byte = !*byte;
            }
        }
        Ok(())
    }
}

fn content(request: &Request, body: Body, own: Headers, faults: &[Fault], shared: &Shared) -> Plan {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Plan::whole(Response::new(405, "").header("Allow", "GET, HEAD"));
    }
    let body = match Readable::open(body) {
        Ok(body) => body,
        Err(error) => return Plan::whole(Response::new(500, format!("{error}\n"))),
    };
    let size = body.len();
    let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
    let mut headers = Headers::default();
    headers.push("Content-Type", "application/octet-stream");
    headers.push("ETag", body.etag());
    for (name, value) in own.iter() {
        headers.set(name, value);
    }
    if has(|fault| matches!(fault, Fault::ChangingEtag)) {
        headers.set("ETag", format!("\"answer-{}\"", shared.answers.fetch_add(1, Ordering::Relaxed)));
    }
    if has(|fault| matches!(fault, Fault::NoEtag)) {
        headers.remove("ETag");
    }
    let etag = headers.get("ETag");
    if let Some(asked) = request.header("If-None-Match")
        && etag.is_some_and(|etag| asked == "*" || asked.split(',').any(|one| one.trim() == etag))
    {
        return Plan { status: 304, headers, body, start: 0, end: 0 };
    }
    let ranges = !has(|fault| matches!(fault, Fault::NoRanges | Fault::Chunked));
    let unchanged = request.header("If-Range").is_none_or(|asked| Some(asked) == etag);
    if ranges {
        headers.push("Accept-Ranges", "bytes");
    }
    let range =
        request.header("Range").filter(|_| ranges && unchanged).and_then(|range| parse_range(range, size));
    match range {
        None => Plan { status: 200, headers, body, start: 0, end: size },
        Some(Err(())) => {
            Plan::whole(Response::new(416, "").header("Content-Range", &format!("bytes */{size}")))
        }
        Some(Ok((start, end))) => {
            let from_start = has(|fault| matches!(fault, Fault::RangeFromStart));
            let (start, end) = if from_start { (0, size) } else { (start, end) };
            headers.push("Content-Range", format_args!("bytes {start}-{}/{size}", end.saturating_sub(1)));
            Plan { status: 206, headers, body, start, end }
        }
    }
}

/// `start..end` of a single range; `None` for what a server may ignore, an error for a range outside.
fn parse_range(value: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(size)),
    };
    Some(if start < end { Ok((start, end)) } else { Err(()) })
}
