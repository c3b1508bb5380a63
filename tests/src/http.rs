//! HTTP/1.1 messages as bytes on a stream: what the servers and the client of this crate share.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use percent_encoding::percent_decode_str;

/// Header fields in the order they came; names compare without case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first field of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn push(&mut self, name: &str, value: impl fmt::Display) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// Replaces all fields of that name.
    pub(crate) fn set(&mut self, name: &str, value: impl fmt::Display) {
        self.remove(name);
        self.push(name, value);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// What follows `?`, as it came; empty without one.
    pub query: String,
    /// The header fields.
    pub headers: Headers,
    /// The body, transfer coding removed.
    pub body: Vec<u8>,
}

impl Request {
    /// Shorthand for the header field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub(crate) fn wants_close(&self) -> bool {
        self.headers.has_token("connection", "close")
    }
}

pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    // A line longer than this is an attack or a mistake, and no test makes either.
    if stream.take(64 * 1024).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let end = line.trim_end_matches(['\r', '\n']).len();
    if end == line.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(end);
    Ok(Some(line))
}

/// The first line and the header fields; `None` when the peer has closed.
pub(crate) fn read_head(stream: &mut impl BufRead) -> io::Result<Option<(String, Headers)>> {
    let Some(first) = read_line(stream)? else { return Ok(None) };
    let mut headers = Headers::default();
    loop {
        let line = read_line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some((first, headers)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header field without a colon"))?;
        headers.push(name, value.trim());
    }
}

/// The body that `headers` announce; `to_end` says whether one without a length goes on until the peer closes.
pub(crate) fn read_body(stream: &mut impl BufRead, headers: &Headers, to_end: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.has_token("transfer-encoding", "chunked") {
        loop {
            let line = read_line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid("a chunk without a size"))?;
            read_exactly(stream, size, &mut body)?;
            // After the last chunk this is the empty line that ends the trailer; nobody here sends one.
            read_line(stream)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match headers.get("content-length") {
        Some(length) => {
            let length = length.parse().map_err(|_| invalid("a Content-Length that is no number"))?;
            read_exactly(stream, length, &mut body)?;
        }
        None if to_end => {
            stream.read_to_end(&mut body)?;
        }
        None => {}
    }
    Ok(body)
}

fn read_exactly(stream: &mut impl BufRead, length: u64, into: &mut Vec<u8>) -> io::Result<()> {
    if stream.take(length).read_to_end(into)? as u64 == length {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Reads one request, answering `Expect: 100-continue` on `reply`; `None` when the peer has closed.
pub(crate) fn read_request(stream: &mut impl BufRead, reply: &mut impl Write) -> io::Result<Option<Request>> {
    let Some((first, headers)) = read_head(stream)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) =
        (words.next(), words.next(), words.next())
    else {
        return Err(invalid("not a request line"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if headers.has_token("expect", "100-continue") {
        reply.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = read_body(stream, &headers, false)?;
    Ok(Some(Request {
        method: method.to_owned(),
        path: percent_decode_str(path).decode_utf8_lossy().into_owned(),
        query: query.to_owned(),
        headers,
        body,
    }))
}

pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Writes the status line and the header fields.
pub(crate) fn write_head(stream: &mut impl Write, status: u16, headers: &Headers) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers.iter() {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let bytes = b"POST /a%20b?c=%20d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\
                      Expect: 100-continue\r\n\r\n3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\n\r\n\
                      GET / HTTP/1.1\r\n\r\n";
        let (mut stream, mut reply) = (&bytes[..], Vec::new());
        let request = read_request(&mut stream, &mut reply).unwrap().unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/a b", "c=%20d"));
        assert_eq!(request.body, b"abc0123456789");
        assert_eq!(reply, b"HTTP/1.1 100 Continue\r\n\r\n");
        let request = read_request(&mut stream, &mut reply).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.body.len()), ("GET", 0));
        assert!(read_request(&mut stream, &mut reply).unwrap().is_none());
    }

    #[test]
    fn broken_requests_are_errors() {
        for bytes in [
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert!(read_request(&mut bytes.as_bytes(), &mut Vec::new()).is_err(), "{bytes:?}");
        }
    }
}
