//! Creating versions.

use cvs_store::{EntryKind, Intake, LowerId, View};
use cvs_tests::{Fault, GitDaemon, HttpServer, Wants};
use cvs_versions::source::NetworkLimits;
use cvs_versions::spec::NewSpec;
use cvs_versions::{CreateOptions, LockOptions, LockState, SpecError, VersionsError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bench, vid};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn paths(view: &View) -> Vec<String> {
    fn walk(view: &View, dir: LowerId, at: &str, found: &mut Vec<String>) {
        for (name, entry) in (0..view.child_count(dir)).filter_map(|at| view.child_at(dir, at)) {
            let path = format!("{at}{}", String::from_utf8_lossy(name));
            match view.entry(entry).unwrap().kind {
                EntryKind::Dir => walk(view, entry, &format!("{path}/"), found),
                _ => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(view, view.root(), "", &mut found);
    found
}

#[test]
fn everything_is_brought_pinned_and_composed() {
    let bench = Bench::new();
    let server = HttpServer::start();
    server.serve("/vae/x.safetensors", b"vae".to_vec());
    let local = bench.file("up.pth", b"upscaler");
    let models = vec![
        json!({"source": server.url("/vae/x.safetensors"), "checksum": sha256(b"vae")}),
        json!({"source": local, "target_path": "custom_nodes/alpha/up.pth"}),
    ];
    let report = bench.create("v", &["alpha", "beta"], models).unwrap();
    assert_eq!(report.path, bench.spec_file("v"));
    assert_eq!(report.kept_overlay, None);
    assert!(report.lock.view.is_some() && !report.lock.unchanged && report.lock.new_objects > 0);
    assert_eq!(
        super::refreshed(&report.lock),
        [
            "core: never locked",
            "node custom_nodes/alpha: never locked",
            "node custom_nodes/beta: never locked",
            "model models/vae/x.safetensors: never locked",
            "model custom_nodes/alpha/up.pth: never locked",
        ]
    );
    let ready = bench.ws.ensure(&vid("v"), &LockOptions { offline: true, ..Default::default() }).unwrap();
    assert!(ready.report.unchanged);
    assert_eq!(Some(ready.view_id), report.lock.view);
    let labels: Vec<String> =
        ready.grafts.iter().map(|g| format!("{} at {:?}", g.label, g.path.to_string())).collect();
    assert_eq!(
        labels,
        [
            "core at \"\"",
            "node alpha at \"custom_nodes/alpha\"",
            "node beta at \"custom_nodes/beta\"",
            "models at \"\"",
        ]
    );
    assert_eq!(
        paths(&ready.view),
        [
            "custom_nodes/alpha/__init__.py",
            "custom_nodes/alpha/shared.py",
            "custom_nodes/alpha/up.pth",
            "custom_nodes/beta/__init__.py",
            "custom_nodes/beta/shared.py",
            "main.py",
            "models/vae/x.safetensors",
            "nodes.py",
        ]
    );
    assert_eq!(bench.garbage(), 0);
}

#[test]
fn over_the_git_protocol() {
    let bench = Bench::new();
    let daemon = GitDaemon::start(&bench.served(), Wants::Reachable);
    let spec = NewSpec { repo: format!("{}@master", daemon.url("core")), ..bench.spec("v", &[], Vec::new()) };
    bench.ws.create(spec, &CreateOptions::default()).unwrap();
    assert_eq!(bench.locked("v").comfy.requested.as_deref(), Some("master"));
}

#[test]
fn an_existing_version_is_replaced_only_when_asked() {
    let bench = Bench::new();
    bench.create("v", &[], Vec::new()).unwrap();
    let before = std::fs::read(bench.spec_file("v")).unwrap();
    let error = bench.create("v", &["alpha"], Vec::new()).unwrap_err();
    assert!(matches!(error, VersionsError::Spec(SpecError::Exists { .. })), "{error}");
    assert_eq!(std::fs::read(bench.spec_file("v")).unwrap(), before);

    let pinned = bench.locked("v").comfy.pin();
    bench.push("core", &[("new.py", "new\n")]);
    std::fs::create_dir_all(bench.ws.overlay_dir(&vid("v"))).unwrap();
    let options = CreateOptions { replace: true, ..Default::default() };
    let report = bench.ws.create(bench.spec("v", &["alpha"], Vec::new()), &options).unwrap();
    assert_eq!(super::refreshed(&report.lock), ["node custom_nodes/alpha: added"]);
    assert_eq!(report.kept_overlay, Some(bench.ws.overlay_dir(&vid("v"))));
    assert_eq!(bench.locked("v").comfy.pin(), pinned);
}

#[test]
fn without_fetching_only_commits_are_pinned() {
    let bench = Bench::new();
    let model = json!({"source": bench.file("m.pth", b"model"), "target_path": "models/vae/m.pth"});
    let options = CreateOptions { fetch: false, ..Default::default() };
    let report = bench.ws.create(bench.spec("v", &["alpha"], vec![model]), &options).unwrap();
    assert_eq!((report.lock.view, report.lock.new_objects), (None, 0));
    let lock = bench.locked("v");
    assert_eq!(lock.comfy.pin().len(), 40);
    assert_eq!((lock.manifests().count(), lock.models.len()), (0, 0));
    assert_eq!(bench.ws.list().unwrap()[0].lock, LockState::Pinned);

    // The pin holds, whatever becomes of the branch before the content is brought.
    bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    bench.lock("v").unwrap();
    assert_eq!(bench.locked("v").custom_nodes[0].locked.pin(), lock.custom_nodes[0].locked.pin());
    assert_eq!(bench.ws.list().unwrap()[0].lock, LockState::Current);
}

#[test]
fn what_fails_publishes_nothing_and_names_its_place() {
    let bench = Bench::new();
    let server = HttpServer::start();
    server.serve("/x.safetensors", b"bytes".to_vec());
    server.fault("/gone.safetensors", Fault::Status(404, Vec::new()));
    let url = |path: &str| server.url(path);
    let absent = bench.path("absent.pth");
    let zeros = "0".repeat(64);
    let model = |source: &str, checksum: Option<&str>| json!({"source": source, "target_path": "models/vae/x.pth", "checksum": checksum});
    let local = bench.file("here.pth", b"abc");
    let local = local.to_str().unwrap();
    let cases: Vec<(Value, String)> = vec![
        (
            model(&url("/x.safetensors"), Some(&zeros)),
            format!(
                "models[0].source: {}: sha256 mismatch\n  expected {zeros}\n  found    {}",
                url("/x.safetensors"),
                sha256(b"bytes")
            ),
        ),
        (
            model(local, Some(&format!("blake3:{zeros}"))),
            format!(
                "models[0].source: models/vae/x.pth: blake3 mismatch\n  expected {zeros}\n  found    {}",
                cvs_store::BlobId::of(b"abc")
            ),
        ),
        (
            model(&url("/gone.safetensors"), None),
            format!("models[0].source: {}: not found (HTTP 404)", url("/gone.safetensors")),
        ),
        (
            model(absent.to_str().unwrap(), None),
            format!("models[0].source: opening {}: No such file or directory (os error 2)", absent.display()),
        ),
    ];
    for (model, expected) in cases {
        let error = bench.create("v", &[], vec![model]).unwrap_err();
        assert_eq!(error.to_string(), format!("version v: {expected}"));
        assert!(!bench.spec_file("v").exists());
    }
    assert_eq!(bench.garbage(), 0, "nothing entered the store");
}

#[test]
fn every_wrong_reference_is_told_at_once() {
    let bench = Bench::new();
    let mut spec = bench.spec("v", &["alpha", "beta"], Vec::new());
    spec.custom_nodes[0]["ref"] = "mastre".into();
    spec.custom_nodes[1]["repo"] = bench.url("nowhere").into();
    let error = bench.ws.create(spec, &CreateOptions::default()).unwrap_err();
    let VersionsError::Sources { failures, .. } = &error else { panic!("{error}") };
    let places: Vec<&str> = failures.iter().map(|failure| failure.place.as_str()).collect();
    assert_eq!(places, ["custom_nodes[0]", "custom_nodes[1]"]);
    assert!(error.to_string().starts_with("version v: 2 problems\n  custom_nodes[0]: "), "{error}");
}

#[test]
fn a_conflict_names_both_sides() {
    let bench = Bench::new();
    let mut spec = bench.spec("v", &["alpha"], Vec::new());
    spec.custom_nodes[0]["target_dir"] = "main.py".into();
    let error = bench.ws.create(spec, &CreateOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "version v: core and node alpha both have main.py");
    let model = json!({
        "source": bench.file("m.py", b"x"), "target_path": "custom_nodes/alpha/__init__.py"
    });
    let error = bench.create("v", &["alpha"], vec![model]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "version v: node alpha and models both have custom_nodes/alpha/__init__.py"
    );
    assert!(!bench.spec_file("v").exists());
}

#[test]
fn a_known_checksum_needs_no_source() {
    let bench = Bench::new();
    let local = bench.file("m.pth", b"model");
    bench.create("v", &[], vec![json!({"source": local, "target_path": "models/vae/m.pth"})]).unwrap();
    std::fs::remove_file(&local).unwrap();
    let blake3 = format!("blake3:{}", cvs_store::BlobId::of(b"model"));
    for (id, checksum) in [("a", sha256(b"model")), ("b", blake3)] {
        let model = json!({
            "source": "hf://o/r/m.pth", "target_path": "models/vae/n.pth", "checksum": checksum
        });
        let options = CreateOptions { offline: true, ..Default::default() };
        bench.ws.create(bench.spec(id, &[], vec![model]), &options).unwrap();
        assert_eq!(bench.locked(id).models[0].sha256.to_vec(), Sha256::digest(b"model").to_vec());
    }
    // An MD5 is verified even of what the store has.
    let wrong = format!("md5:{}", "0".repeat(32));
    let models = vec![
        json!({"source": "https://127.0.0.1:1/m.pth", "target_path": "models/a.pth", "checksum": sha256(b"model")}),
        json!({"source": "https://127.0.0.1:1/m.pth", "target_path": "models/a.pth", "checksum": wrong}),
    ];
    let error = bench.create("c", &[], models).unwrap_err().to_string();
    assert!(error.contains("models/a.pth: md5 mismatch"), "{error}");
}

#[test]
fn models_may_be_moved_in() {
    let bench = Bench::new();
    let local = bench.file("m.pth", b"model");
    let model = json!({"source": local, "target_path": "models/vae/m.pth"});
    let options = CreateOptions { intake: Intake::Move, ..Default::default() };
    bench.ws.create(bench.spec("v", &[], vec![model]), &options).unwrap();
    assert!(!local.exists());
    assert!(bench.lock("v").unwrap().unchanged);
}

#[test]
fn what_is_moved_in_stays_where_it_is_when_nothing_is_published() {
    let bench = Bench::new();
    let local = bench.file("m.pth", b"model");
    let options = CreateOptions { intake: Intake::Move, ..Default::default() };
    let model = json!({"source": local, "target_path": "custom_nodes/alpha/__init__.py"});
    let error = bench.ws.create(bench.spec("v", &["alpha"], vec![model]), &options).unwrap_err();
    assert!(matches!(error, VersionsError::Conflict { .. }), "{error}");
    assert_eq!(std::fs::read(&local).unwrap(), b"model");
    // The publishing itself may fail, too.
    let model = json!({"source": local, "target_path": "models/vae/m.pth"});
    std::fs::remove_dir_all(bench.ws.versions().path()).ok();
    std::fs::write(bench.ws.versions().path(), "no directory").unwrap();
    let error = bench.ws.create(bench.spec("v", &[], vec![model.clone()]), &options).unwrap_err();
    assert!(matches!(error, VersionsError::Spec(_)), "{error}");
    assert_eq!(std::fs::read(&local).unwrap(), b"model");
    std::fs::remove_file(bench.ws.versions().path()).unwrap();
    bench.ws.create(bench.spec("v", &[], vec![model]), &options).unwrap();
    assert!(!local.exists());
}

#[test]
fn a_cancel_publishes_nothing() {
    let bench = Bench::new();
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let options = CreateOptions { cancel: &cancel, ..Default::default() };
    let error = bench.ws.create(bench.spec("v", &[], Vec::new()), &options).unwrap_err();
    assert!(matches!(error, VersionsError::Cancelled), "{error}");
    assert!(!bench.spec_file("v").exists());
}

#[test]
fn many_parts_of_one_repository_do_not_meet_in_it() {
    let bench = Bench::new();
    let first = bench.git.run(&bench.served().join("alpha.git"), &["rev-parse", "HEAD"]);
    let second = bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    let daemon = GitDaemon::start(&bench.served(), Wants::Reachable);
    for (id, url) in [("local", bench.url("alpha")), ("served", daemon.url("alpha"))] {
        let node = |number: usize| {
            let commit = [&first, &second, "master"][number % 3];
            json!({"name": format!("n{number}"), "repo": url, "ref": commit})
        };
        // Another store each time, so that nothing is known.
        let other = super::open(&bench.path(id));
        let spec = NewSpec { custom_nodes: (0..9).map(node).collect(), ..bench.spec(id, &[], Vec::new()) };
        other.create(spec, &CreateOptions::default()).unwrap();
        let lock = other.read(&vid(id)).unwrap().spec().lock.clone().unwrap();
        for (number, node) in lock.custom_nodes.iter().enumerate() {
            assert_eq!(node.locked.pin(), [&first, &second, &second][number % 3].as_str());
        }
    }
}

#[test]
fn what_was_downloaded_before_a_failure_is_not_downloaded_again() {
    let bench = Bench::new();
    let server = HttpServer::start();
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    server.serve("/m.pth", bytes.clone());
    server.fault_times("/m.pth", 1, Fault::CutAfter(1 << 20));
    let model = json!({"source": server.url("/m.pth"), "target_path": "models/vae/m.pth"});
    let limits = NetworkLimits { attempts: 1, ..Default::default() };
    let create = || {
        let options = CreateOptions { limits, ..Default::default() };
        bench.ws.create(bench.spec("v", &["alpha"], vec![model.clone()]), &options)
    };
    let error = create().unwrap_err();
    assert!(error.to_string().starts_with("version v: models[0].source: "), "{error}");
    assert_eq!((bench.spec_file("v").exists(), bench.garbage()), (false, 0));
    create().unwrap();
    let ranges: Vec<bool> =
        server.requests_of("/m.pth").iter().map(|request| request.headers.get("range").is_some()).collect();
    assert_eq!(ranges, [false, true]);
    assert_eq!(bench.locked("v").models[0].size, bytes.len() as u64);
}

#[test]
fn an_install_script_is_not_run_where_nothing_can_show_it_the_version() {
    let bench = Bench::new();
    bench.push("alpha", &[("install.py", "raise SystemExit('it was run')\n")]);
    let mut new = bench.spec("v", &["alpha"], Vec::new());
    new.custom_nodes[0]["run_install"] = true.into();
    new.skip_python = true;
    let error = bench.ws.create(new, &CreateOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "version v: install.py of node alpha has to be run, and nothing here can show it the version"
    );
    assert!(!bench.spec_file("v").exists());
}
