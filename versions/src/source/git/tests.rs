//! Commits over every transport, from repositories that git made.

mod world;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use self::world::{Daemon, World, http_backend, lines};
use super::*;
use crate::source::digest::{Digester, hex};
use crate::source::event::SourceEvent;
use crate::source::test_server::{Reply, Server, file};

#[test]
fn a_commit_becomes_a_manifest() {
    let world = World::new();
    world.init("a");
    world.write("a", "main.py", b"print()\n");
    world.write("a", "dir/deep/é", b"x");
    world.write("a", "run.sh", b"#!/bin/sh\n");
    world.git("a", &["config", "core.fileMode", "true"]);
    world.git("a", &["add", "-A"]);
    world.git("a", &["update-index", "--chmod=+x", "run.sh"]);
    std::os::unix::fs::symlink("main.py", world.path("a").join("link")).unwrap();
    std::os::unix::fs::symlink("../../outside", world.path("a").join("dir/away")).unwrap();
    world.git("a", &["add", "link", "dir/away"]);
    world.git("a", &["commit", "-q", "-m", "c"]);
    let commit = world.git("a", &["rev-parse", "HEAD"]);
    let (found, stats) = world.ingest(&world.url("a"), &commit).unwrap();
    let expected = lines(&[
        ("644 main.py", "print()\n"),
        ("644 dir/deep/é", "x"),
        ("755 run.sh", "#!/bin/sh\n"),
        ("link link", "main.py"),
        ("link dir/away", "../../outside"),
    ]);
    assert_eq!(found, expected);
    assert_eq!(stats, GitStats { files: 5, blobs_read: 3, ..GitStats::default() });
    // A second time nothing is read, not even the repository.
    fs::remove_dir_all(world.path("a")).unwrap();
    let (again, stats) = world.ingest(&world.url("a"), &commit).unwrap();
    assert_eq!((again, stats.cached), (expected, true));
}

#[test]
fn the_next_commit_reads_only_what_changed() {
    let world = World::new();
    world.init("a");
    for i in 0..300 {
        world.write("a", &format!("d{}/f{i}", i % 7), format!("{i}").as_bytes());
    }
    let first = world.commit("a");
    assert_eq!(world.ingest(&world.url("a"), &first).unwrap().1.blobs_read, 300);
    world.write("a", "d0/f0", b"new");
    let second = world.commit("a");
    let (found, stats) = world.ingest(&world.url("a"), &second).unwrap();
    assert_eq!((stats.blobs_read, stats.blobs_known, stats.files), (1, 299, 300));
    assert_eq!(found["644 d0/f0"], "new");
}

#[test]
fn references_resolve_over_every_transport() {
    let world = World::new();
    let commits = world.history("a", 3);
    world.git("a", &["tag", "-a", "v1", "-m", "v1", &commits[1]]);
    world.git("a", &["branch", "old", &commits[0]]);
    world.git("a", &["update-ref", "refs/pull/1/head", &commits[0]]);
    let (daemon, server) = (Daemon::start(&world), {
        let backend = http_backend(world.dir.path().join("repos"));
        Server::start(move |request, _| backend(request))
    });
    for url in [world.url("a"), world.path("a").display().to_string(), daemon.url("a"), server.url("/a/.git")]
    {
        for (reference, commit, name) in [
            (None, &commits[2], "refs/heads/main"),
            (Some("main"), &commits[2], "refs/heads/main"),
            (Some("v1"), &commits[1], "refs/tags/v1"),
            (Some("old"), &commits[0], "refs/heads/old"),
            (Some("pull/1/head"), &commits[0], "refs/pull/1/head"),
            (Some(&commits[1][..9]), &commits[1], commits[1].as_str()),
            (Some(&commits[0][..7]), &commits[0], commits[0].as_str()),
            (Some(&commits[0]), &commits[0], commits[0].as_str()),
        ] {
            let found = world.resolve(&url, reference).unwrap_or_else(|e| panic!("{url} {reference:?}: {e}"));
            let expected = ResolvedCommit { commit: commit.clone(), reference: name.to_owned() };
            assert_eq!(found, expected, "{url} {reference:?}");
        }
        for unknown in ["mian1", "01234567"] {
            let error = world.resolve(&url, Some(unknown)).unwrap_err();
            assert!(matches!(error, SourceError::UnknownRef { .. }), "{url}: {error}");
            assert!(error.to_string().ends_with("the default branch is `main`"), "{error}");
        }
    }
}

#[test]
fn a_commit_comes_alone_where_the_server_allows() {
    let world = World::new();
    let commits = world.history("a", 4);
    world.git("a", &["tag", "-a", "v1", "-m", "v1", &commits[1]]);
    let tag = world.git("a", &["rev-parse", "v1"]);
    let fetched = |url: &str, commit: &str, reference: Option<&str>| {
        // Each time from nothing: neither blobs nor commits are known.
        let fresh = World::new();
        let steps = Mutex::new(Vec::new());
        let listen = |event: SourceEvent<'_>| {
            if let SourceEvent::GitDeepen { what, .. } = event {
                steps.lock().unwrap().push(what.to_owned());
            }
        };
        let options = SourceOptions { events: &listen, ..SourceOptions::default() };
        let (found, _) = fresh.ingest_with(url, commit, reference, &options).unwrap();
        (found["644 file"].clone(), steps.into_inner().unwrap())
    };
    let daemon = Daemon::start(&world);
    let backend = http_backend(world.dir.path().join("repos"));
    let server = Server::start(move |request, _| backend(request));
    for url in [daemon.url("a"), server.url("/a/.git")] {
        let all = vec!["refs/heads/*".to_owned()];
        assert_eq!(fetched(&url, &commits[3], None), ("3\n".to_owned(), vec![]), "the tip");
        assert_eq!(fetched(&url, &commits[1], None), ("1\n".to_owned(), vec![]), "within a tag");
        assert_eq!(fetched(&url, &tag, None), ("1\n".to_owned(), vec![]), "the tag itself");
        assert_eq!(fetched(&url, &commits[0], None), ("0\n".to_owned(), all), "by the history");
        let named = vec!["refs/heads/main".to_owned()];
        assert_eq!(fetched(&url, &commits[0], Some("refs/heads/main")), ("0\n".to_owned(), named));
    }
    world.git("a", &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    for url in [daemon.url("a"), server.url("/a/.git")] {
        assert_eq!(fetched(&url, &commits[0], None), ("0\n".to_owned(), vec![]), "allowed");
    }
    let missing = "0123456789012345678901234567890123456789";
    for url in [world.url("a"), daemon.url("a"), server.url("/a/.git")] {
        let error = World::new().ingest(&url, missing).unwrap_err();
        let shown = GitUrl::parse(&url).unwrap().shown();
        assert_eq!(error.to_string(), format!("{shown} has no commit {missing}"));
    }
}

#[test]
fn submodules_are_part_of_the_manifest() {
    let world = World::new();
    let inner = world.history("inner", 2);
    world.init("lib");
    world.write("lib", "lib.py", b"lib");
    world.git("lib", &["submodule", "--quiet", "add", "../inner", "deep/inner"]);
    world.git("lib/deep/inner", &["checkout", "-q", &inner[0]]);
    world.commit("lib");
    world.init("top");
    world.write("top", "top.py", b"top");
    world.git("top", &["submodule", "--quiet", "add", "../lib", "libs/lib"]);
    let top = world.commit("top");
    let expected = lines(&[
        ("644 .gitmodules", "[submodule \"libs/lib\"]\n\tpath = libs/lib\n\turl = ../lib\n"),
        ("644 top.py", "top"),
        ("644 libs/lib/.gitmodules", "[submodule \"deep/inner\"]\n\tpath = deep/inner\n\turl = ../inner\n"),
        ("644 libs/lib/lib.py", "lib"),
        ("644 libs/lib/deep/inner/file", "0\n"),
    ]);
    let daemon = Daemon::start(&world);
    for url in [world.url("top"), daemon.url("top")] {
        let fresh = World::new();
        let (found, stats) = fresh.ingest(&url, &top).unwrap();
        assert_eq!((&found, stats.submodules), (&expected, 2));
        // Nothing that no version will ever refer to.
        assert_eq!(fresh.manifests(), 1);
    }
    // The next commit of the superproject finds its submodules in the store.
    world.ingest(&world.url("top"), &top).unwrap();
    world.write("top", "top.py", b"new");
    let next = world.commit("top");
    fs::remove_dir_all(world.path("lib")).unwrap();
    fs::remove_dir_all(world.path("inner")).unwrap();
    let (found, stats) = world.ingest(&world.url("top"), &next).unwrap();
    assert_eq!(found["644 libs/lib/deep/inner/file"], "0\n");
    assert_eq!((stats.blobs_read, stats.submodules), (1, 1));
}

#[test]
fn what_is_checked_out_is_not_fetched() {
    let world = World::new();
    let inner = world.history("inner", 2);
    let model = b"the weights";
    world.init("lib");
    world.git("lib", &["config", "filter.lfs.clean", "cat"]);
    world.git("lib", &["submodule", "--quiet", "add", "../inner", "deep/inner"]);
    let mut digester = Digester::new(false);
    digester.update(model);
    let oid = hex(&digester.finish().sha256);
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 11\n");
    world.write("lib", ".gitattributes", b"*.bin filter=lfs -text\n");
    world.write("lib", "m.bin", pointer.as_bytes());
    world.commit("lib");
    world.init("top");
    world.git("top", &["submodule", "--quiet", "add", "../lib", "libs/lib"]);
    let top = world.commit("top");
    fs::create_dir(world.path("machine")).unwrap();
    let from = world.path("top").display().to_string();
    world.git("machine", &["clone", "-q", "--recurse-submodules", &from, "install"]);
    // As git-lfs leaves it, in the submodule's own repository.
    let kept = format!("machine/install/.git/modules/libs/lib/lfs/objects/{}/{}", &oid[..2], &oid[2..4]);
    world.write(&kept, &oid, model);
    for gone in ["top", "lib", "inner"] {
        fs::remove_dir_all(world.path(gone)).unwrap();
    }
    let offline = SourceOptions { offline: true, ..SourceOptions::default() };
    let ingest = |world: &World, checkout: &Path| {
        let checkout = checkout.to_owned();
        let url = "https://host.invalid/o/top";
        world.brought(|transaction| ingest_checkout(transaction, url, &top, &checkout, &offline))
    };
    let install = world.path("machine/install");
    let (found, stats) = ingest(&world, &install).unwrap();
    assert_eq!(found["644 libs/lib/deep/inner/file"], "1\n");
    assert_eq!(found["644 libs/lib/m.bin"], "the weights");
    assert_eq!((stats.submodules, stats.lfs_files), (2, 1));

    // Other bytes than the pointer says are none, and a commit that is not here is fetched.
    world.write(&kept, &oid, b"not weights");
    let error = ingest(&World::new(), &install).unwrap_err().to_string();
    assert!(error.contains("submodule `libs/lib`") && error.contains("offline"), "{error}");
    world.write(&kept, &oid, model);
    world.git("machine/install/libs/lib/deep/inner", &["checkout", "-q", &inner[0]]);
    fs::remove_dir_all(install.join("libs/lib/deep/inner")).unwrap();
    let error = ingest(&World::new(), &install).unwrap_err().to_string();
    assert!(error.contains("submodule `deep/inner`") && error.contains("offline"), "{error}");
}

#[test]
fn threads_of_one_transaction_share_what_they_fetch() {
    let world = World::new();
    let commits = world.history("a", 8);
    let daemon = Daemon::start(&world);
    for url in [world.url("a"), daemon.url("a")] {
        let fresh = World::new();
        let transaction = fresh.store.begin("test").unwrap();
        std::thread::scope(|scope| {
            for commit in &commits {
                scope.spawn(|| {
                    let options = SourceOptions::default();
                    let scratch = transaction.scratch_dir().unwrap();
                    let found = resolve(&url, Some("main"), &scratch, &options).unwrap();
                    assert_eq!(found.commit, commits[7]);
                    let found = ingest(&transaction, &url, commit, Some("main"), &options).unwrap();
                    assert_eq!(found.stats.files, 1);
                });
            }
        });
        transaction.commit().unwrap();
        drop(transaction);
        assert_eq!(fresh.manifests(), 8);
    }
}

#[test]
fn submodules_that_lead_nowhere_are_named() {
    let world = World::new();
    let other = world.history("other", 1).remove(0);
    world.init("a");
    let url = world.url("a");
    let module = |url: &str| format!("[submodule \"s\"]\n\tpath = s\n\turl = {url}\n");
    let gone = "0123456789012345678901234567890123456789";
    let commit = |modules: Option<&str>, id: &str| {
        let mut tree = format!("160000 commit {id}\ts\n");
        if let Some(text) = modules {
            let blob = world.git_with("a", &["hash-object", "-w", "--stdin"], text.as_bytes());
            tree += &format!("100644 blob {blob}\t.gitmodules\n");
        }
        world.raw_commit("a", &tree)
    };
    for (modules, id, text) in [
        (None, &*other, "the commit has no `.gitmodules` that gives its url"),
        (Some(String::new()), &other, "`.gitmodules` gives no url for it"),
        (
            Some(module("ext::sh -c true")),
            &other,
            "ext::sh -c true: remote helpers (`name::address`) run programs and are refused",
        ),
        (
            Some(module("--upload-pack=x")),
            &other,
            "--upload-pack=x: a repository address must not begin with `-`",
        ),
    ] {
        let commit = commit(modules.as_deref(), id);
        let error = world.ingest(&url, &commit).unwrap_err().to_string();
        let path = world.path("a");
        assert_eq!(error, format!("submodule `s` of {} at {commit}: {text}", path.display()));
    }
    let commit = commit(Some(&module("../other")), gone);
    let error = world.ingest(&url, &commit).unwrap_err().to_string();
    let (a, other) = (world.path("a"), world.path("other"));
    assert_eq!(error, format!("submodule `s` of {}: {} has no commit {gone}", a.display(), other.display()));
}

#[test]
fn hostile_trees_are_refused() {
    let world = World::new();
    world.history("a", 1);
    let blob = world.git_with("a", &["hash-object", "-w", "--stdin"], b"x");
    let empty = world.git_with("a", &["hash-object", "-w", "--stdin"], b"");
    for (line, text) in [
        (format!("100644 blob {blob}\t.."), "the names `.` and `..` are not allowed"),
        (format!("100644 blob {blob}\t.git"), "`.git`: a tree may not hold a `.git`"),
        (format!("100644 blob {blob}\t.GiT"), "`.GiT`: a tree may not hold a `.git`"),
        (format!("120000 blob {empty}\tlink"), "`link`: a symlink without a target"),
        (format!("100644 blob {blob}\t{}", "n".repeat(256)), "a name longer than 255 bytes"),
    ] {
        let commit = world.raw_commit("a", &format!("{line}\n"));
        let error = world.ingest(&world.url("a"), &commit).unwrap_err().to_string();
        assert!(error.contains(&commit) && error.ends_with(text), "{error}");
    }
}

#[test]
fn lfs_files_are_what_they_point_to() {
    let world = World::new();
    world.init("a");
    let model = b"the weights".to_vec();
    let sha256 = {
        let mut digester = Digester::new(false);
        digester.update(&model);
        hex(&digester.finish().sha256)
    };
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {}\n", model.len());
    world.write("a", "m/.gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n");
    world.write("a", "m/model.bin", pointer.as_bytes());
    world.write("a", "fixture.txt", pointer.as_bytes());
    // Without the LFS filter, so that the pointers are committed as they are.
    world.git("a", &["config", "filter.lfs.clean", "cat"]);
    let commit = world.commit("a");
    let lost = pointer.replace(&sha256, &"0".repeat(64));
    world.write("a", "m/lost.bin", lost.as_bytes());
    let broken = world.commit("a");

    // From disk the object cannot be had, and the error says so.
    let error = world.ingest(&world.url("a"), &commit).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}: `m/model.bin` is kept in Git LFS ({sha256}): Git LFS is fetched from https and http remotes only; \
             use such an address",
            world.path("a").display()
        )
    );

    let backend = http_backend(world.dir.path().join("repos"));
    let oid = sha256.clone();
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/a/.git/info/lfs/objects/batch" => {
            assert_eq!(request.header("accept"), Some("application/vnd.git-lfs+json"));
            let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let host = request.header("host").unwrap();
            let objects: Vec<_> = asked["objects"].as_array().unwrap().iter().map(|object| {
                if object["oid"] == oid.as_str() {
                    let header = serde_json::json!({"X-Key": "k"});
                    let href = format!("http://{host}/object");
                    serde_json::json!({"oid": oid, "actions": {"download": {"href": href, "header": header}}})
                } else {
                    serde_json::json!({"oid": object["oid"], "error": {"code": 404, "message": "gone"}})
                }
            }).collect();
            Reply::new(200, serde_json::json!({"transfer": "basic", "objects": objects}).to_string())
        }
        "/object" => {
            assert_eq!(request.header("x-key"), Some("k"));
            file(request, &model, "\"m\"")
        }
        _ => backend(request),
    });
    let url = server.url("/a/.git");
    let (found, stats) = world.ingest(&url, &commit).unwrap();
    assert_eq!(found["644 m/model.bin"], "the weights");
    assert_eq!(found["644 fixture.txt"], pointer);
    assert_eq!(stats.lfs_files, 1);

    let error = world.ingest(&url, &broken).unwrap_err().to_string();
    let zeros = "0".repeat(64);
    assert_eq!(
        error,
        format!("{url}: `m/lost.bin` is kept in Git LFS ({zeros}): the server has it not: gone (404)")
    );
    // What the store has by its sha256 needs no server.
    world.git("a", &["rm", "-q", "m/lost.bin", "fixture.txt"]);
    let next = world.commit("a");
    let (found, _) = world.ingest(&world.url("a"), &next).unwrap();
    assert_eq!(found["644 m/model.bin"], "the weights");
}

#[test]
fn failures_are_told_in_plain_words() {
    let world = World::new();
    world.init("empty");
    let daemon = Daemon::start(&world);
    let server = Server::start(|request, _| match &request.target {
        target if target.starts_with("/private") => {
            Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"")
        }
        target if target.starts_with("/broken") => Reply::new(500, ""),
        target if target.starts_with("/page") => Reply::new(200, "<html>").with("Content-Type", "text/html"),
        _ => Reply::new(404, ""),
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, text) in [
        (server.url("/none"), "repository not found or private"),
        (server.url("/private"), "access refused"),
        (server.url("/broken"), "listing the references of"),
        (server.url("/page"), "listing the references of"),
        (daemon.url("none"), "repository not found or private"),
        (format!("git://{free}/a"), "127.0.0.1 is not reachable"),
        (format!("http://user:secret@{free}/a"), "127.0.0.1 is not reachable"),
        (world.url("none"), "repository not found or private"),
        (world.url("empty"), "the repository is empty"),
        (daemon.url("empty"), "the repository is empty"),
    ] {
        let error = world.resolve(&url, Some("main")).unwrap_err().to_string();
        assert!(error.contains(text), "{url}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_cancel_or_being_offline_stops_before_the_network() {
    let world = World::new();
    let commit = world.history("a", 1).remove(0);
    let daemon = Daemon::start(&world);
    let cancel = AtomicBool::new(true);
    let options = SourceOptions { cancel: &cancel, ..SourceOptions::default() };
    let error = world.ingest_with(&daemon.url("a"), &commit, None, &options).unwrap_err();
    assert!(matches!(error, SourceError::Cancelled));
    let options = SourceOptions { offline: true, ..SourceOptions::default() };
    let error = world.ingest_with(&daemon.url("a"), &commit, None, &options).unwrap_err();
    assert!(matches!(error, SourceError::Offline { .. }), "{error}");
    // A repository of this machine is no network, and what the store has needs none.
    world.ingest_with(&world.url("a"), &commit, None, &options).unwrap();
    assert!(world.ingest_with(&daemon.url("a"), &commit, None, &options).unwrap().1.cached);
}
