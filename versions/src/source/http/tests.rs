//! Downloads from a server that misbehaves.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::source::digest::Digester;
use crate::source::event::{NetworkLimits, SourceEvent};
use crate::source::test_server::{Reply, Server, file};

const LIMITS: NetworkLimits = NetworkLimits {
    connect_timeout: Duration::from_secs(2),
    stall_timeout: Duration::from_millis(400),
    attempts: 3,
    backoff: Duration::from_millis(1),
    backoff_limit: Duration::from_millis(5),
    connections: 4,
    split_from: 8 << 20,
    piece: 64 << 10,
    rate: None,
};

fn quick() -> SourceOptions<'static> {
    SourceOptions { limits: LIMITS, ..SourceOptions::default() }
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn expected(bytes: &[u8]) -> Expected {
    let mut digester = Digester::new(true);
    digester.update(bytes);
    let found = digester.finish();
    Expected { sha256: Some(found.sha256), md5: found.md5, size: Some(found.size) }
}

fn request(url: &str, expected: Expected) -> HttpRequest {
    HttpRequest { url: url.parse().unwrap(), headers: HeaderMap::new(), expected }
}

struct Home {
    dir: tempfile::TempDir,
    store: Store,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { dir, store }
    }

    /// One transaction, committed when the fetch succeeds.
    fn fetch(&self, request: &HttpRequest, options: &SourceOptions<'_>) -> Result<FetchedFile, SourceError> {
        let transaction = self.store.begin("test").unwrap();
        let file = fetch(&self.store, &transaction, request, options)?;
        transaction.commit().unwrap();
        assert!(transaction.remove_sources().is_empty());
        assert_eq!(self.store.blob_size(&file.blob).unwrap(), Some(file.size));
        Ok(file)
    }

    /// The names below `staging/partial`, keys shortened to what they end with.
    fn partials(&self) -> Vec<String> {
        let dir = self.dir.path().join("staging/partial");
        let mut names: Vec<String> = fs::read_dir(dir)
            .map(|entries| entries.map(|e| e.unwrap().path()).collect::<Vec<_>>())
            .unwrap_or_default()
            .iter()
            .map(|path| path.extension().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    fn read(&self, blob: &BlobId) -> Vec<u8> {
        fs::read(self.store.blob_path(blob)).unwrap()
    }
}

#[test]
fn a_file_is_fetched_once() {
    let (home, body) = (Home::new(), bytes(3_000_000));
    let served = body.clone();
    let server = Server::start(move |request, _| file(request, &served, "\"a\""));
    let seen = Mutex::new(0);
    let listen = |event: SourceEvent<'_>| {
        if let SourceEvent::Receive { bytes, total: Some(3_000_000), .. } = event {
            *seen.lock().unwrap() = bytes;
        }
    };
    let options = SourceOptions { events: &listen, ..quick() };
    let request = request(&server.url("/model"), expected(&body));
    let first = home.fetch(&request, &options).unwrap();
    assert_eq!((first.size, first.received, home.read(&first.blob) == body), (3_000_000, 3_000_000, true));
    assert_eq!(*seen.lock().unwrap(), 3_000_000);
    let again = home.fetch(&request, &SourceOptions { offline: true, ..quick() }).unwrap();
    assert_eq!(again, FetchedFile { received: 0, ..first });
    assert_eq!(server.requests().len(), 1);
    assert!(!home.partials().contains(&"part".to_owned()) && !home.partials().contains(&"whole".to_owned()));
}

#[test]
fn a_cut_is_resumed_from_where_it_was() {
    let (home, body) = (Home::new(), bytes(2_500_000));
    let served = body.clone();
    let server = Server::start(move |request, number| {
        let reply = file(request, &served, "\"a\"");
        if number < 3 { reply.cut(600_000) } else { reply }
    });
    let found = home.fetch(&request(&server.url("/m"), Expected::default()), &quick()).unwrap();
    assert!(home.read(&found.blob) == body);
    assert_eq!(found.received, 2_500_000);
    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().map(|r| (r.header("range"), r.header("if-range"))).collect();
    assert_eq!(
        ranges,
        [
            (None, None),
            (Some("bytes=600000-"), Some("\"a\"")),
            (Some("bytes=1200000-"), Some("\"a\"")),
            (Some("bytes=1800000-"), Some("\"a\"")),
        ]
    );
}

#[test]
fn a_later_call_goes_on_with_the_partial() {
    let (home, body) = (Home::new(), bytes(1_000_000));
    let served = body.clone();
    let server = Server::start(move |request, number| {
        let reply = file(request, &served, "\"a\"");
        match number {
            0 => reply.cut(400_000),
            1 | 2 => Reply::new(503, "").with("Retry-After", 0),
            _ => reply,
        }
    });
    let request = request(&server.url("/m?token=secret"), Expected::default());
    let error =
        home.fetch(&request, &SourceOptions { limits: NetworkLimits { attempts: 2, ..LIMITS }, ..quick() });
    assert_eq!(
        error.unwrap_err().to_string(),
        format!("{}: the server answered HTTP 503", server.url("/m?token=***"))
    );
    assert_eq!(home.partials(), ["json", "part"]);
    let sidecar = fs::read_dir(home.dir.path().join("staging/partial"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .find(|text| text.starts_with(b"{"));
    assert!(!String::from_utf8(sidecar.unwrap()).unwrap().contains("secret"));
    let found = home.fetch(&request, &quick()).unwrap();
    assert_eq!(found.received, 600_000);
    assert!(home.read(&found.blob) == body);
    assert!(!home.partials().contains(&"part".to_owned()));
}

#[test]
fn a_changed_file_starts_anew() {
    let (home, old, new) = (Home::new(), bytes(800_000), bytes(900_000)[1..].to_vec());
    let served = new.clone();
    let server = Server::start(move |request, number| match number {
        0 => file(request, &old, "\"old\"").cut(300_000),
        _ => file(request, &served, "\"new\""),
    });
    let found = home.fetch(&request(&server.url("/m"), Expected::default()), &quick()).unwrap();
    assert!(home.read(&found.blob) == new);
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let (home, body) = (Home::new(), bytes(500_000));
    let served = body.clone();
    let server = Server::start(move |_, number| {
        let reply = Reply::new(200, served.clone());
        if number == 0 { reply.cut(100_000) } else { reply }
    });
    let found = home.fetch(&request(&server.url("/m"), Expected::default()), &quick()).unwrap();
    assert!(home.read(&found.blob) == body);
    // Nothing tells whether the file is the same, so nothing is asked for by range.
    assert!(server.requests().iter().all(|request| request.header("range").is_none()));
}

#[test]
fn a_wrong_checksum_enters_nothing() {
    let home = Home::new();
    let server = Server::start(|request, _| file(request, b"other", "\"a\""));
    let wanted = Expected { size: None, md5: None, ..expected(b"this") };
    let error = home.fetch(&request(&server.url("/m"), wanted), &quick()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: sha256 mismatch\n  expected {}\n  found    {}",
            server.url("/m"),
            hex(&wanted.sha256.unwrap()),
            hex(&expected(b"other").sha256.unwrap()),
        )
    );
    assert_eq!(home.partials(), [""; 0]);
    assert_eq!(home.store.blob_size(&BlobId::of(b"other")).unwrap(), None);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn damaged_bytes_on_disk_are_fetched_again() {
    let (home, body) = (Home::new(), bytes(700_000));
    let served = body.clone();
    let server = Server::start(move |request, number| {
        let reply = file(request, &served, "\"a\"");
        if number == 0 { reply.cut(300_000) } else { reply }
    });
    let request = request(&server.url("/m"), expected(&body));
    let once = NetworkLimits { attempts: 1, ..LIMITS };
    home.fetch(&request, &SourceOptions { limits: once, ..quick() }).unwrap_err();
    let dir = home.dir.path().join("staging/partial");
    let part = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension() == Some("part".as_ref()));
    fs::write(part.unwrap(), vec![0; 300_000]).unwrap();
    let found = home.fetch(&request, &quick()).unwrap();
    assert!(home.read(&found.blob) == body);
    assert_eq!(found.received, 400_000 + 700_000);
}

#[test]
fn failures_are_told_in_plain_words() {
    let home = Home::new();
    for (reply, expected, text, requests) in [
        (Reply::new(404, ""), Expected::default(), "not found (HTTP 404)", 1),
        (
            Reply::new(403, ""),
            Expected::default(),
            "access refused (HTTP 403); it may need a token, or the acceptance of a licence",
            1,
        ),
        (Reply::new(500, ""), Expected::default(), "the server answered HTTP 500", 3),
        (Reply::new(204, ""), Expected::default(), "unusable answer: HTTP 204 instead of a file", 1),
        (
            Reply::new(200, "x").with("Content-Encoding", "gzip"),
            Expected::default(),
            "unusable answer: a content encoding (\"gzip\") that was not asked for",
            1,
        ),
        (
            Reply::new(302, "").with("Location", "/again"),
            Expected::default(),
            "unusable answer: too many redirects",
            11,
        ),
        (
            Reply::new(302, "").with("Location", "file:///etc/passwd"),
            Expected::default(),
            "unusable answer: a redirect to no HTTP address",
            1,
        ),
        (
            Reply::new(200, "four"),
            Expected { size: Some(5), ..Expected::default() },
            "size mismatch: expected 5 bytes, found 4",
            1,
        ),
        (Reply::new(200, "four").cut(2), Expected::default(), "the connection ended after 2 of 4 bytes", 3),
        (Reply::new(200, "four").stall(1), Expected::default(), "nothing arrived for 0.4 s", 3),
    ] {
        let server = Server::start(move |_, _| reply.clone());
        let error = home.fetch(&request(&server.url("/m"), expected), &quick()).unwrap_err();
        let message = error.to_string();
        let (address, reason) = message.split_at(server.url("/").len());
        assert_eq!((address, reason.split_once(": ").unwrap().1), (&*server.url("/"), text));
        assert_eq!(server.requests().len(), requests, "{text}");
    }
}

#[test]
fn a_server_that_hangs_up_is_named() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/m", listener.local_addr().unwrap());
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            // What was not read would be reset, and no end.
            let _ = std::io::Read::read(&mut client, &mut [0; 4096]);
        }
    });
    let error = home.fetch(&request(&url, Expected::default()), &quick()).unwrap_err();
    assert!(matches!(error, SourceError::HttpTransfer { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("{url}: client error (SendRequest): connection closed before message completed")
    );
}

#[test]
fn an_unreachable_host_is_named() {
    let home = Home::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = home.fetch(&request(&format!("http://{free}/m"), Expected::default()), &quick()).unwrap_err();
    assert!(error.to_string().starts_with("127.0.0.1 is not reachable ("), "{error}");
    let offline = SourceOptions { offline: true, ..quick() };
    let error = home.fetch(&request("http://127.0.0.1:1/m", Expected::default()), &offline).unwrap_err();
    assert!(matches!(error, SourceError::Offline { .. }));
}

#[test]
fn credentials_stay_at_their_host() {
    let home = Home::new();
    let target = Server::start(|request, _| file(request, b"model", "\"a\""));
    let elsewhere = target.url("/file");
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/m" => Reply::new(307, "").with("Location", "/moved"),
        _ => Reply::new(302, "").with("Location", &elsewhere),
    });
    let mut request = request(&server.url("/m"), Expected::default());
    request.headers.insert("authorization", "Bearer secret".parse().unwrap());
    request.headers.insert("x-lfs-token", "secret".parse().unwrap());
    home.fetch(&request, &quick()).unwrap();
    for request in server.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer secret"));
    }
    for request in target.requests() {
        assert_eq!((request.header("authorization"), request.header("x-lfs-token")), (None, None));
    }
}

#[test]
fn a_cancel_keeps_the_partial() {
    let (home, body) = (Home::new(), bytes(400_000));
    let served = body.clone();
    let server = Server::start(move |request, number| {
        let reply = file(request, &served, "\"a\"");
        if number == 0 { reply.stall(250_000) } else { reply }
    });
    let cancel = AtomicBool::new(false);
    let stop = |event: SourceEvent<'_>| {
        if let SourceEvent::Receive { bytes: 250_000, .. } = event {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let options = SourceOptions { events: &stop, cancel: &cancel, ..quick() };
    let request = request(&server.url("/m"), Expected::default());
    assert!(matches!(home.fetch(&request, &options), Err(SourceError::Cancelled)));
    assert_eq!(home.partials(), ["json", "part"]);
    assert_eq!(home.fetch(&request, &quick()).unwrap().received, 150_000);
}

#[test]
fn a_finished_file_survives_a_transaction_that_does_not() {
    let (home, body) = (Home::new(), bytes(200_000));
    let served = body.clone();
    let server = Server::start(move |request, _| file(request, &served, "\"a\""));
    for wanted in [expected(&body), Expected::default()] {
        let request = request(&server.url("/m"), wanted);
        let before = server.requests().len();
        {
            let transaction = home.store.begin("dies").unwrap();
            fetch(&home.store, &transaction, &request, &quick()).unwrap();
        }
        assert!(home.partials().contains(&"whole".to_owned()));
        let transaction = home.store.begin("lives").unwrap();
        let found = fetch(&home.store, &transaction, &request, &quick()).unwrap();
        assert_eq!(found.received, 0);
        assert_eq!(found.blob, BlobId::of(&body));
        // With a checksum nothing is asked; without one, whether the file is still the same.
        let asked = if wanted.has_checksum() { 1 } else { 2 };
        assert_eq!(server.requests().len() - before, asked);
    }
}

#[test]
fn one_of_two_downloads_and_the_other_takes_it() {
    let (home, body) = (Home::new(), bytes(300_000));
    let served = body.clone();
    let server = Server::start(move |request, _| file(request, &served, "\"a\""));
    let request = request(&server.url("/m"), Expected::default());
    let waiting = AtomicUsize::new(0);
    let listen = |event: SourceEvent<'_>| {
        if let SourceEvent::Wait { .. } = event {
            waiting.fetch_add(1, Ordering::SeqCst);
        }
    };
    let received: Vec<u64> = std::thread::scope(|scope| {
        // The lock is held until both are at it, so that at least one must wait.
        let hold = Partial::lock(home.dir.path(), &key(&request), "u", &quick()).unwrap();
        let (home, request, listen) = (&home, &request, &listen);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let options = SourceOptions { events: listen, ..quick() };
                    let store = Store::open(home.dir.path()).unwrap();
                    let transaction = store.begin("test").unwrap();
                    let found = fetch(&store, &transaction, request, &options).unwrap();
                    assert_eq!(found.blob, BlobId::of(&bytes(300_000)));
                    transaction.commit().unwrap();
                    assert!(transaction.remove_sources().is_empty());
                    found.received
                })
            })
            .collect();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while waiting.load(Ordering::SeqCst) < 2 {
            assert!(std::time::Instant::now() < deadline, "nobody waits");
            std::thread::yield_now();
        }
        drop(hold);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(received.iter().sum::<u64>(), 300_000);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_length_that_nobody_told_is_taken_as_it_comes() {
    let home = Home::new();
    let server = Server::start(|_, _| Reply { unannounced: true, ..Reply::new(200, "all of it") });
    let found = home.fetch(&request(&server.url("/m"), expected(b"all of it")), &quick()).unwrap();
    assert_eq!(found.size, 9);
}

#[test]
fn a_download_that_cannot_fit_is_refused_before_it_starts() {
    let home = Home::new();
    let server = Server::start(|_, _| Reply {
        unannounced: true,
        ..Reply::new(200, "x").with("Content-Length", u64::MAX / 4)
    });
    let error = home.fetch(&request(&server.url("/m"), Expected::default()), &quick()).unwrap_err();
    let SourceError::DiskFull { needed, directory, .. } = &error else { panic!("{error}") };
    assert_eq!(*needed, u64::MAX / 4);
    assert_eq!(directory, Path::new(&home.dir.path().join("staging/partial")));
    assert_eq!(home.partials(), [""; 0]);
}
