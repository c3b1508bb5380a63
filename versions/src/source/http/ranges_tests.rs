//! Several ranges at once, from a server that keeps to them and from one that does not.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cvs_tests::{Fault, HttpServer};
use sha2::{Digest, Sha256};

use super::*;
use crate::source::event::{NetworkLimits, SourceEvent};

const LENGTH: usize = 6 << 20;
const PIECE: u64 = 64 << 10;
const LIMITS: NetworkLimits = NetworkLimits {
    connect_timeout: Duration::from_secs(2),
    stall_timeout: Duration::from_millis(500),
    attempts: 4,
    backoff: Duration::from_millis(1),
    backoff_limit: Duration::from_millis(5),
    connections: 4,
    split_from: 1 << 20,
    piece: PIECE,
    rate: None,
};

fn quick() -> SourceOptions<'static> {
    SourceOptions { limits: LIMITS, ..SourceOptions::default() }
}

fn bytes(seed: usize) -> Vec<u8> {
    (0..LENGTH).map(|i| ((i + seed) * 31 + i / 251) as u8).collect()
}

fn sha256(bytes: &[u8]) -> Expected {
    Expected { sha256: Some(Sha256::digest(bytes).into()), ..Expected::default() }
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
    web: HttpServer,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let web = HttpServer::start();
        web.serve("/m", bytes(0));
        Self { dir, store, web }
    }

    fn fetch(&self, expected: Expected, options: &SourceOptions<'_>) -> Result<FetchedFile, SourceError> {
        self.fetch_at("/m", expected, options)
    }

    fn fetch_at(
        &self,
        path: &str,
        expected: Expected,
        options: &SourceOptions<'_>,
    ) -> Result<FetchedFile, SourceError> {
        let url = self.web.url(path).parse().unwrap();
        let request = HttpRequest { url, headers: HeaderMap::new(), expected };
        let transaction = self.store.begin("test").unwrap();
        let file = fetch(&self.store, &transaction, &request, options)?;
        transaction.commit().unwrap();
        assert!(transaction.remove_sources().is_empty());
        Ok(file)
    }

    #[track_caller]
    fn assert_is(&self, file: &FetchedFile, bytes: &[u8]) {
        assert_eq!(file.sha256, sha256(bytes).sha256.unwrap());
        assert!(fs::read(self.store.blob_path(&file.blob)).unwrap() == bytes);
        assert_eq!(self.left(), [""; 0]);
    }

    /// What lies below `staging/partial`, but for the notes of what is done.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path().join("staging/partial")).into_iter().flatten();
        let names =
            names.map(|entry| entry.unwrap().path().extension().unwrap().to_str().unwrap().to_owned());
        let mut names: Vec<String> = names.filter(|name| name != "json" && name != "lock").collect();
        names.sort();
        names
    }

    /// Bytes in pieces that are done.
    fn present(&self) -> u64 {
        let entries = fs::read_dir(self.dir.path().join("staging/partial")).unwrap();
        let map =
            entries.map(|entry| entry.unwrap().path()).find(|path| path.extension() == Some("map".as_ref()));
        fs::read(map.unwrap()).unwrap().iter().filter(|byte| **byte == b'1').count() as u64 * PIECE
    }

    /// Fetches until so many bytes are there, and is cancelled then.
    fn stopped_after(&self, bytes_there: u64, expected: Expected) {
        let cancel = AtomicBool::new(false);
        let listen = |event: SourceEvent<'_>| {
            if let SourceEvent::Receive { bytes, .. } = event
                && bytes >= bytes_there
            {
                cancel.store(true, Ordering::Relaxed);
            }
        };
        let options = SourceOptions { events: &listen, cancel: &cancel, ..quick() };
        let error = self.fetch(expected, &options).unwrap_err();
        assert!(matches!(error, SourceError::Cancelled), "{error}");
        assert_eq!(self.left(), ["map", "part"]);
    }
}

#[test]
fn a_large_file_comes_in_ranges() {
    let world = World::new();
    let furthest = AtomicU64::new(0);
    let listen = |event: SourceEvent<'_>| {
        if let SourceEvent::Receive { bytes, total, .. } = event {
            assert_eq!(total, Some(LENGTH as u64));
            furthest.fetch_max(bytes, Ordering::Relaxed);
        }
    };
    let found = world.fetch(Expected::default(), &SourceOptions { events: &listen, ..quick() }).unwrap();
    world.assert_is(&found, &bytes(0));
    assert_eq!(furthest.load(Ordering::Relaxed), LENGTH as u64);
    let requests = world.web.requests();
    let ranges: Vec<&str> = requests.iter().filter_map(|request| request.header("range")).collect();
    // One plain request, whose answer is the first run; every other run is asked for once.
    assert_eq!((requests.len() - ranges.len(), ranges.len()), (1, LENGTH / (8 * PIECE as usize) - 1));
    assert!(
        requests
            .iter()
            .all(|request| request.header("range").is_some() == request.header("if-range").is_some())
    );
}

#[test]
fn what_was_done_before_a_stop_is_not_asked_for_again() {
    for expected in [Expected::default(), sha256(&bytes(0))] {
        let world = World::new();
        for target in [1, 2, 3] {
            world.stopped_after(target * (LENGTH as u64) / 4, expected);
        }
        let present = world.present();
        assert!(present > 0 && present < LENGTH as u64);
        world.web.forget_requests();
        let found = world.fetch(expected, &quick()).unwrap();
        world.assert_is(&found, &bytes(0));
        assert_eq!(found.received, LENGTH as u64 - present);
    }
}

#[test]
fn a_file_that_changed_starts_anew() {
    let world = World::new();
    world.stopped_after(LENGTH as u64 / 2, Expected::default());
    world.web.serve("/m", bytes(7));
    let told = Mutex::new(Vec::new());
    let listen = |event: SourceEvent<'_>| {
        if let SourceEvent::Restart { reason, .. } = event {
            told.lock().unwrap().push(reason.to_owned());
        }
    };
    let found = world.fetch(Expected::default(), &SourceOptions { events: &listen, ..quick() }).unwrap();
    world.assert_is(&found, &bytes(7));
    assert_eq!(told.into_inner().unwrap(), ["the file changed on the server"]);
}

#[test]
fn a_tag_that_lies_is_found_out_by_the_checksum() {
    let world = World::new();
    world.web.set_header("/m", "ETag", "\"always\"");
    world.stopped_after(LENGTH as u64 / 2, sha256(&bytes(7)));
    world.web.serve("/m", bytes(7));
    world.web.set_header("/m", "ETag", "\"always\"");
    let found = world.fetch(sha256(&bytes(7)), &quick()).unwrap();
    world.assert_is(&found, &bytes(7));
}

#[test]
fn faults_of_single_ranges_pass() {
    for (name, faults) in [
        ("cut", vec![(5, Fault::CutAfter(100_000))]),
        (
            "busy",
            vec![
                (1, Fault::CutAfter(9_999_999)),
                (2, Fault::Status(503, vec![("Retry-After", "0".to_owned())])),
            ],
        ),
        ("silent", vec![(1, Fault::CutAfter(9_999_999)), (1, Fault::Hang)]),
        ("slow", vec![(3, Fault::Drip(100_000, Duration::from_millis(20)))]),
    ] {
        let world = World::new();
        world.stopped_after(PIECE * 4, Expected::default());
        for (times, fault) in faults {
            world.web.fault_times("/m", times, fault);
        }
        let found =
            world.fetch(Expected::default(), &quick()).unwrap_or_else(|error| panic!("{name}: {error}"));
        world.assert_is(&found, &bytes(0));
    }
}

#[test]
fn a_server_without_manners_is_taken_in_one_piece() {
    for fault in [Fault::NoRanges, Fault::RangeFromStart, Fault::ChangingEtag, Fault::NoEtag] {
        let world = World::new();
        world.web.fault("/m", fault.clone());
        let found = world.fetch(Expected::default(), &quick());
        let found = found.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        world.assert_is(&found, &bytes(0));
    }
}

#[test]
fn wrong_bytes_leave_nothing() {
    let world = World::new();
    world.web.fault("/m", Fault::FlipByte(LENGTH as u64 - 1));
    let error = world.fetch(sha256(&bytes(0)), &quick()).unwrap_err();
    assert!(matches!(error, SourceError::Checksum { algorithm: "sha256", .. }), "{error}");
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn a_server_that_refuses_for_good_leaves_what_is_there() {
    let world = World::new();
    world.stopped_after(LENGTH as u64 / 2, Expected::default());
    let present = world.present();
    for (status, text) in [(404, "not found (HTTP 404)"), (429, "the server answered HTTP 429")] {
        world.web.fault("/m", Fault::Status(status, vec![("Retry-After", "0".to_owned())]));
        let error = world.fetch(Expected::default(), &quick()).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {text}", world.web.url("/m")));
        world.web.heal("/m");
    }
    assert!(world.present() >= present);
    world.assert_is(&world.fetch(Expected::default(), &quick()).unwrap(), &bytes(0));
}

#[test]
fn ranges_go_at_once_where_the_first_answer_was_led_and_back_when_that_runs_out() {
    let world = World::new();
    let other = HttpServer::start();
    other.serve("/signed", bytes(0));
    world.web.fault("/m", Fault::Redirect(302, other.url("/signed")));
    let found = world.fetch(Expected::default(), &quick()).unwrap();
    world.assert_is(&found, &bytes(0));
    assert_eq!(world.web.requests().len(), 1);

    let world = World::new();
    world.web.fault("/m", Fault::Redirect(302, other.url("/signed")));
    world.stopped_after(LENGTH as u64 / 4, Expected::default());
    world.web.forget_requests();
    let refuse = || Fault::Status(403, Vec::new());
    let ran_out = AtomicBool::new(false);
    let listen = |event: SourceEvent<'_>| {
        if matches!(event, SourceEvent::Receive { .. }) && !ran_out.swap(true, Ordering::Relaxed) {
            other.fault_times("/signed", 1, refuse());
        }
    };
    // One connection, so that its second request is the one that is refused.
    let limits = NetworkLimits { connections: 1, ..LIMITS };
    let found =
        world.fetch(Expected::default(), &SourceOptions { events: &listen, limits, ..quick() }).unwrap();
    world.assert_is(&found, &bytes(0));
    assert_eq!(world.web.requests().len(), 2);

    let world = World::new();
    world.web.fault("/m", Fault::Redirect(302, other.url("/signed")));
    other.fault("/signed", refuse());
    let error = world.fetch(Expected::default(), &quick()).unwrap_err();
    assert!(matches!(error, SourceError::HttpAccess { status: 403, .. }), "{error}");
}

#[test]
fn a_rate_is_kept_by_all_connections_together() {
    let world = World::new();
    let rate = std::num::NonZeroU64::new(12 << 20);
    let options = SourceOptions { limits: NetworkLimits { rate, ..LIMITS }, ..quick() };
    let begun = Instant::now();
    let found = world.fetch(Expected::default(), &options).unwrap();
    let took = begun.elapsed();
    world.assert_is(&found, &bytes(0));
    // Half a second at the rate; the last pieces need not be waited for.
    assert!(took > Duration::from_millis(400), "{took:?}");
}
