//! One HTTP request to a server on loopback, on a connection of its own.

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::http::{Headers, invalid, read_body, read_head};

const TIMEOUT: Duration = Duration::from_secs(60);

/// An answer, its body read to the end.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: Headers,
    /// The body, transfer coding removed.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; panics when it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Sends one request. An answer shorter than announced is an error of kind `UnexpectedEof`.
pub fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
    let address = url.strip_prefix("http://").ok_or_else(|| invalid("not an http:// URL"))?;
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut head = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut stream = BufReader::new(stream);
    let (first, headers) = read_head(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid("not a status line"))?;
    let has_body = method != "HEAD" && status != 304;
    let body = if has_body { read_body(&mut stream, &headers, true)? } else { Vec::new() };
    Ok(Reply { status, headers, body })
}

/// GET; panics when no answer comes.
#[track_caller]
pub fn get(url: &str) -> Reply {
    send("GET", url, &[], b"").unwrap_or_else(|error| panic!("GET {url}: {error}"))
}

/// POST of JSON; panics when no answer comes.
#[track_caller]
pub fn post_json(url: &str, body: &Value) -> Reply {
    let headers = [("Content-Type", "application/json")];
    send("POST", url, &headers, body.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("POST {url}: {error}"))
}
