//! The hub in small, and caches on disk.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use cvs_tests::{HUB_COMMIT, Hub};

use super::*;
use crate::source::event::{NetworkLimits, SourceEvent};

const MODEL: &[u8] = b"the weights";
const CONFIG: &[u8] = b"{\"a\": 1}";

struct World {
    hub: Hub,
    dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let hub = Hub::start();
        hub.large("o/r", "a/m.safetensors", MODEL);
        hub.small("o/r", "config.json", CONFIG, &git_id(CONFIG));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        Self { hub, dir, store }
    }

    fn hosts(&self, more: &[(&str, &str)]) -> Hosts {
        let endpoint = self.hub.endpoint();
        let cache = self.dir.path().join("hub");
        let own = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HUB_CACHE", cache.to_str().unwrap())];
        Hosts::of(&[more, &own].concat()).unwrap()
    }

    fn fetch(&self, source: &str, expected: Expected, hosts: &Hosts) -> Result<Found, SourceError> {
        self.fetch_with(source, expected, hosts, &options())
    }

    fn fetch_with(
        &self,
        source: &str,
        expected: Expected,
        hosts: &Hosts,
        options: &SourceOptions<'_>,
    ) -> Result<Found, SourceError> {
        let ModelSource::Hub(file) = ModelSource::parse(source).unwrap() else { panic!("{source}") };
        let transaction = self.store.begin("test").unwrap();
        let found = fetch(&self.store, &transaction, &file, None, &expected, hosts, options)?;
        transaction.commit().unwrap();
        assert!(transaction.remove_sources().is_empty());
        assert_eq!(self.store.blob_size(&found.file.blob).unwrap(), Some(found.file.size));
        Ok(found)
    }

    /// Writes what another program's download would leave; `bytes` go into the blob of that name.
    fn cache(&self, path: &str, tag: &str, bytes: &[u8]) {
        let root = self.dir.path().join("hub/models--o--r");
        let entry = root.join("snapshots").join(HUB_COMMIT).join(path);
        for dir in [&root.join("blobs"), &root.join("refs"), entry.parent().unwrap()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(root.join("blobs").join(tag), bytes).unwrap();
        fs::write(root.join("refs/main"), HUB_COMMIT).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(tag), entry).unwrap();
    }

    fn bytes_of(&self, found: &Found) -> Vec<u8> {
        fs::read(self.store.blob_path(&found.file.blob)).unwrap()
    }
}

fn options() -> SourceOptions<'static> {
    let limits = NetworkLimits { attempts: 1, ..NetworkLimits::default() };
    SourceOptions { limits, ..SourceOptions::default() }
}

fn offline() -> SourceOptions<'static> {
    SourceOptions { offline: true, ..options() }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn git_id(bytes: &[u8]) -> String {
    git2::Oid::hash_object(git2::ObjectType::Blob, bytes).unwrap().to_string()
}

#[test]
fn a_file_is_asked_for_by_its_commit_and_a_token_stays_at_the_hub() {
    let world = World::new();
    let hosts = world.hosts(&[("HF_TOKEN", "hf_good")]);
    world.hub.gate("o/r", "hf_good");
    let found = world.fetch("hf://o/r/a/m.safetensors", Expected::default(), &hosts).unwrap();
    assert_eq!((found.commit.as_deref(), world.bytes_of(&found).as_slice()), (Some(HUB_COMMIT), MODEL));
    let asked: Vec<String> = world
        .hub
        .web
        .requests()
        .iter()
        .map(|r| format!("{} {} {:?}", r.method, r.path, r.header("authorization")))
        .collect();
    assert_eq!(
        asked,
        [
            "HEAD /o/r/resolve/main/a/m.safetensors Some(\"Bearer hf_good\")".to_owned(),
            format!("GET /o/r/resolve/{HUB_COMMIT}/a/m.safetensors Some(\"Bearer hf_good\")"),
        ]
    );
    let elsewhere = world.hub.cdn.requests();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].header("authorization"), None);
    let small = world.fetch("hf://o/r/config.json", Expected::default(), &hosts).unwrap();
    assert_eq!(world.bytes_of(&small), CONFIG);
}

#[test]
fn the_headers_are_enough_for_what_the_store_has_and_for_what_is_wrong() {
    let world = World::new();
    let hosts = world.hosts(&[]);
    let transaction = world.store.begin("test").unwrap();
    let blob = transaction.put_bytes(MODEL).unwrap();
    transaction.commit().unwrap();
    world.store.index().put_sha256(&sha256(MODEL), &blob);
    let found = world.fetch("hf://o/r/a/m.safetensors", Expected::default(), &hosts).unwrap();
    assert_eq!((found.file.received, world.hub.cdn.requests().len()), (0, 0));
    let url = world.hub.web.url("/o/r/resolve/main/a/m.safetensors");
    for (wrong, text) in [
        (
            Expected { sha256: Some([0; 32]), ..Expected::default() },
            format!(
                "{url}: sha256 mismatch\n  expected {}\n  found    {}",
                hex(&[0; 32]),
                hex(&sha256(MODEL))
            ),
        ),
        (
            Expected { size: Some(5), ..Expected::default() },
            format!("{url}: size mismatch: expected 5 bytes, found 11"),
        ),
    ] {
        let error = world.fetch("hf://o/r/a/m.safetensors", wrong, &hosts).err().unwrap();
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(world.hub.cdn.requests().len(), 0);
}

#[test]
fn a_cache_is_used_when_its_bytes_are_what_its_names_say() {
    for damaged in [false, true] {
        let world = World::new();
        let hosts = world.hosts(&[]);
        let change = |bytes: &[u8]| if damaged { b"other bytes".to_vec() } else { bytes.to_vec() };
        world.cache("a/m.safetensors", &hex(&sha256(MODEL)), &change(MODEL));
        world.cache("config.json", &git_id(CONFIG), &change(CONFIG));
        let told = Mutex::new(Vec::new());
        let listen = |event: SourceEvent<'_>| {
            if let SourceEvent::Found { path } = event {
                told.lock().unwrap().push(path.rsplit('/').next().unwrap().to_owned());
            }
        };
        let listening = SourceOptions { events: &listen, ..options() };
        for (source, bytes) in [("hf://o/r/a/m.safetensors", MODEL), ("hf://o/r/config.json", CONFIG)] {
            let found = world.fetch_with(source, Expected::default(), &hosts, &listening).unwrap();
            assert_eq!(
                (world.bytes_of(&found).as_slice(), found.commit.as_deref()),
                (bytes, Some(HUB_COMMIT))
            );
        }
        let expected = [hex(&sha256(MODEL)), git_id(CONFIG)];
        assert_eq!(told.into_inner().unwrap(), if damaged { vec![] } else { expected.to_vec() });
        let bodies = world.hub.web.requests().iter().filter(|request| request.method == "GET").count();
        assert_eq!(bodies, if damaged { 2 } else { 0 });
    }
}

#[test]
fn offline_a_cache_answers_by_itself() {
    let world = World::new();
    let hosts = world.hosts(&[]);
    let missing = world.fetch_with("hf://o/r/config.json", Expected::default(), &hosts, &offline());
    assert!(matches!(missing, Err(SourceError::Offline { .. })));
    world.cache("config.json", &git_id(CONFIG), CONFIG);
    for source in ["hf://o/r/config.json", &format!("hf://o/r@{HUB_COMMIT}/config.json")] {
        let found = world.fetch_with(source, Expected::default(), &hosts, &offline()).unwrap();
        assert_eq!((world.bytes_of(&found).as_slice(), found.commit.as_deref()), (CONFIG, Some(HUB_COMMIT)));
    }
    // A name that would lead out of the cache leads nowhere.
    let outside = HubFile {
        kind: HubKind::Model,
        repo: "o/r".to_owned(),
        revision: "../../../../etc".to_owned(),
        path: "passwd".to_owned(),
    };
    assert_eq!(cache::look_up(&outside, &outside.revision, &hosts), None);
    assert_eq!(world.hub.web.requests().len(), 0);
}

#[test]
fn what_the_hub_refuses_is_told_in_its_own_terms() {
    let world = World::new();
    world.hub.large("o/gated", "m.bin", MODEL);
    world.hub.gate("o/gated", "hf_other");
    let url = |path: &str| world.hub.web.url(path);
    let (none, wrong) = (world.hosts(&[]), world.hosts(&[("HUGGINGFACE_TOKEN", "hf_wrong")]));
    for (hosts, source, text) in [
        (
            &none,
            "hf://o/gated/m.bin",
            format!(
                "{}: access refused (HTTP 401): its conditions are to be accepted first; no token was sent",
                url("/o/gated/resolve/main/m.bin")
            ),
        ),
        (
            &wrong,
            "hf://o/gated/m.bin",
            format!(
                "{}: access refused (HTTP 403): its conditions are to be accepted first; the token that was sent does \
                 not open it",
                url("/o/gated/resolve/main/m.bin")
            ),
        ),
        (
            &none,
            "hf://o/private/m.bin",
            format!("{}: access refused (HTTP 401); no token was sent", url("/o/private/resolve/main/m.bin")),
        ),
        (
            &wrong,
            "hf://o/private/m.bin",
            format!("{}: there is no repository o/private", url("/o/private/resolve/main/m.bin")),
        ),
        (
            &none,
            "hf://o/r@v9/config.json",
            format!("{}: o/r has no revision v9", url("/o/r/resolve/v9/config.json")),
        ),
        (
            &none,
            "hf://o/r/a%20b.json",
            format!("{}: o/r has no file a b.json", url("/o/r/resolve/main/a%20b.json")),
        ),
    ] {
        let error = world.fetch(source, Expected::default(), hosts).err().unwrap();
        assert_eq!(error.to_string(), text);
        if let SourceError::Closed { page, .. } = error {
            assert!(page.starts_with(&url("/o/")), "{page}");
        }
    }
}

#[test]
fn the_password_of_an_endpoint_does_not_show() {
    let world = World::new();
    world.hub.large("o/gated", "m.bin", MODEL);
    world.hub.gate("o/gated", "hf_other");
    let endpoint = world.hub.endpoint().replacen("://", "://me:S3CRET@", 1);
    let hosts = world.hosts(&[("HF_ENDPOINT", &endpoint), ("HF_TOKEN", "")]);
    let error = world.fetch("hf://o/gated/m.bin", Expected::default(), &hosts).err().unwrap();
    assert!(matches!(&error, SourceError::Closed { .. }), "{error}");
    assert!(!format!("{error:?} {error} {hosts:?}").contains("S3CRET"), "{error:?}");
}

#[test]
fn headers_are_read_for_what_they_are() {
    let headers = |pairs: &[(&'static str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        pairs.collect::<HeaderMap>()
    };
    let (long, short) = ("ab".repeat(32), "cd".repeat(20));
    for (given, size, content) in [
        (
            headers(&[
                ("x-linked-etag", &format!("\"{long}\"")),
                ("x-linked-size", "7"),
                ("content-length", "9"),
            ]),
            Some(7),
            Some(Content::Sha256([0xab; 32])),
        ),
        (
            headers(&[("x-linked-etag", &long), ("content-length", "9")]),
            None,
            Some(Content::Sha256([0xab; 32])),
        ),
        (
            headers(&[("etag", &format!("W/\"{short}\"")), ("content-length", "9")]),
            Some(9),
            Some(Content::Git([0xcd; 20])),
        ),
        (headers(&[("etag", "\"x\""), ("x-repo-commit", "main")]), None, None),
    ] {
        assert_eq!(Facts::of(&given), Facts { commit: None, size, content }, "{given:?}");
    }
}

#[test]
fn a_web_address_of_the_endpoint_is_a_file_of_the_hub() {
    for (endpoint, url, is_hub) in [
        ("http://127.0.0.1:9", "http://127.0.0.1:9/o/r/blob/main/x.bin", true),
        ("https://mirror/hf", "https://mirror/hf/o/r/resolve/main/x.bin", true),
        ("https://mirror/hf", "https://mirror/o/r/x.bin", false),
        ("https://mirror", "http://mirror/o/r/resolve/main/x.bin", false),
    ] {
        let hosts = Hosts::of(&[("HF_ENDPOINT", endpoint)]).unwrap();
        assert_eq!(of_url(&url.parse().unwrap(), &hosts).is_some(), is_hub, "{url}");
    }
}
