//! Good answers and broken ones, over the crate's own client.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{Fault, HttpServer, Response};
use crate::{get, send};

const CONTENT: &[u8] = b"0123456789";

fn served() -> (HttpServer, String) {
    let server = HttpServer::start();
    server.serve("/x", CONTENT);
    let url = server.url("/x");
    (server, url)
}

#[test]
fn ranges() {
    let (_server, url) = served();
    for (range, status, body, content_range) in [
        ("bytes=0-", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=8-99", 206, "89", Some("bytes 8-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=x-", 200, "0123456789", None),
        ("bytes=0-1,3-4", 200, "0123456789", None),
    ] {
        let reply = send("GET", &url, &[("Range", range)], b"").unwrap();
        let got = (reply.status, String::from_utf8(reply.body).unwrap(), reply.headers.get("content-range"));
        assert_eq!(got, (status, body.to_owned(), content_range), "{range}");
    }
}

#[test]
fn conditions() {
    let (server, url) = served();
    let etag = get(&url).headers.get("etag").unwrap().to_owned();
    let range = ("Range", "bytes=5-");
    let status = |headers: &[(&str, &str)]| send("GET", &url, headers, b"").unwrap().status;
    assert_eq!(status(&[("If-None-Match", &etag)]), 304);
    assert_eq!(status(&[("If-None-Match", "\"other\"")]), 200);
    assert_eq!(status(&[range, ("If-Range", &etag)]), 206);
    assert_eq!(status(&[range, ("If-Range", "\"other\"")]), 200);
    server.serve("/x", &b"other"[..]);
    assert_eq!(status(&[range, ("If-Range", &etag)]), 200);
    server.set_header("/x", "ETag", "\"mine\"");
    assert_eq!(get(&url).headers.get("etag"), Some("\"mine\""));
    let head = send("HEAD", &url, &[], b"").unwrap();
    assert_eq!((head.headers.get("content-length"), head.body.len()), (Some("5"), 0));
    server.remove("/x");
    assert_eq!(get(&url).status, 404);
}

#[test]
fn faults_that_still_answer() {
    let retry = || vec![("Retry-After", "2".to_owned())];
    for (fault, headers, status, body, field) in [
        (Fault::Status(429, retry()), &[][..], 429, "status 429, as asked\n", ("retry-after", Some("2"))),
        (Fault::Redirect(302, "/y".into()), &[], 302, "", ("location", Some("/y"))),
        (Fault::FlipByte(1), &[], 200, "0\u{ce}23456789", ("content-length", Some("10"))),
        (Fault::FlipByte(1), &[("Range", "bytes=1-2")], 206, "\u{ce}2", ("content-length", Some("2"))),
        (Fault::NoRanges, &[("Range", "bytes=1-2")], 200, "0123456789", ("accept-ranges", None)),
        (
            Fault::RangeFromStart,
            &[("Range", "bytes=8-")],
            206,
            "0123456789",
            ("content-range", Some("bytes 0-9/10")),
        ),
        (Fault::Chunked, &[], 200, "0123456789", ("content-length", None)),
        (Fault::NoEtag, &[], 200, "0123456789", ("etag", None)),
        (Fault::ChangingEtag, &[], 200, "0123456789", ("etag", Some("\"answer-0\""))),
        (
            Fault::Require("X-Token", "a".into(), 401),
            &[],
            401,
            "X-Token is not what it must be\n",
            ("etag", None),
        ),
        (
            Fault::Require("X-Token", "a".into(), 401),
            &[("x-token", "a")],
            200,
            "0123456789",
            ("location", None),
        ),
        (Fault::ContentLength(4), &[], 200, "0123", ("content-length", Some("4"))),
    ] {
        let (server, url) = served();
        server.fault("/x", fault.clone());
        let reply = send("GET", &url, headers, b"").unwrap();
        let text: String = reply.body.iter().map(|byte| char::from(*byte)).collect();
        assert_eq!((reply.status, text.as_str()), (status, body), "{fault:?}");
        assert_eq!(reply.headers.get(field.0), field.1, "{fault:?}");
    }
}

#[test]
fn faults_that_break_the_connection() {
    for fault in [Fault::CutAfter(4), Fault::ContentLength(11)] {
        let (server, url) = served();
        server.fault_times("/x", 1, fault.clone());
        let error = send("GET", &url, &[], b"").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{fault:?}");
        let sent = if matches!(fault, Fault::CutAfter(_)) { 4 } else { 10 };
        assert_eq!(server.bytes_sent("/x"), sent);
        assert_eq!(get(&url).body, CONTENT, "the fault was for one request");
    }
}

#[test]
fn a_drip_is_slow_and_a_hang_ends_with_the_server() {
    let (server, url) = served();
    server.fault("/x", Fault::Drip(2, Duration::from_millis(20)));
    let start = Instant::now();
    assert_eq!(get(&url).body, CONTENT);
    assert!(start.elapsed() >= Duration::from_millis(80));
    server.heal("/x");
    server.fault("/x", Fault::Hang);
    let hanging = std::thread::spawn(move || send("GET", &url, &[], b""));
    crate::wait_until(Duration::from_secs(10), "the request has come", || {
        server.requests_of("/x").len() == 2
    });
    drop(server);
    assert!(hanging.join().unwrap().is_err());
}

#[test]
fn files_routes_and_the_record_of_requests() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("big");
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|number| number as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let server = HttpServer::start();
    server.serve_file("/a b", &file);
    server.route("/api/", |request| Response::json(&serde_json::json!({ "path": request.path })));
    server.route("/api/v1/", |request| Response::new(201, request.body.clone()));
    assert!(get(&server.url("/a%20b")).body == bytes);
    assert_eq!(get(&server.url("/api/x")).json(), serde_json::json!({ "path": "/api/x" }));
    let reply = send("POST", &server.url("/api/v1/y?z=1"), &[("X-A", "b")], b"body").unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (201, &b"body"[..]));
    let last = &server.requests()[2];
    assert_eq!((last.method.as_str(), last.query.as_str(), last.header("x-a")), ("POST", "z=1", Some("b")));
    server.forget_requests();
    assert_eq!(server.requests().len(), 0);
}
