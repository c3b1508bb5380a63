//! Locks: what stays, what is resolved again, what is brought again.

use std::fs;

use cvs_store::BlobId;
use cvs_tests::HttpServer;
use cvs_versions::spec::Part;
use cvs_versions::{Event, LockOptions, Update, VersionsError};
use serde_json::json;

use super::{Bench, asked, blob_of, open, refreshed, vid};

fn offline() -> LockOptions<'static> {
    LockOptions { offline: true, ..LockOptions::default() }
}

#[test]
fn a_right_lock_is_left_alone_wherever_its_branches_went() {
    let bench = Bench::new();
    bench.create("v", &["alpha"], Vec::new()).unwrap();
    let text = fs::read(bench.spec_file("v")).unwrap();
    bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    fs::rename(bench.served(), bench.path("away")).unwrap();
    for options in [
        offline(),
        LockOptions { locked: true, ..offline() },
        LockOptions { thorough: true, ..offline() },
        LockOptions { thorough: true, locked: true, ..offline() },
    ] {
        let (report, heard) = asked(|events| bench.ws.lock(&vid("v"), &LockOptions { events, ..options }));
        let report = report.unwrap();
        assert!(report.unchanged && report.view.is_some());
        assert_eq!((report.new_objects, refreshed(&report), heard), (0, vec![], vec![]));
    }
    assert_eq!(fs::read(bench.spec_file("v")).unwrap(), text);
}

#[test]
fn an_edit_touches_its_part_alone() {
    let bench = Bench::new();
    let model = json!({"source": bench.file("m.pth", b"model"), "target_path": "models/vae/m.pth"});
    bench.create("v", &["alpha", "beta"], vec![model]).unwrap();
    let before = bench.locked("v");
    for name in ["core", "beta"] {
        bench.push(name, &[("more.py", "more\n")]);
    }
    let next = bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    bench.edit("v", |spec| spec["custom_nodes"][0]["commit"] = next.clone().into());

    let refused = bench.ws.lock(&vid("v"), &LockOptions { locked: true, ..Default::default() }).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "version v: the lock is out of date, and --locked forbids to change it: \
             node custom_nodes/alpha: at {next}, was HEAD"
        )
    );
    let (report, heard) =
        asked(|events| bench.ws.lock(&vid("v"), &LockOptions { events, ..Default::default() }));
    let report = report.unwrap();
    assert_eq!(refreshed(&report), [format!("node custom_nodes/alpha: at {next}, was HEAD")]);
    assert_eq!(heard, ["fetch node custom_nodes/alpha", "resolve node custom_nodes/alpha"]);
    assert!(!report.unchanged);
    // The changed file and its manifest.
    assert_eq!(report.new_objects, 2);
    let after = bench.locked("v");
    assert_eq!(after.custom_nodes[0].locked.pin(), next);
    assert_eq!((&after.comfy, &after.custom_nodes[1]), (&before.comfy, &before.custom_nodes[1]));
    assert_eq!((&after.models, after.models_manifest), (&before.models, before.models_manifest));

    // Moving and removing ask nobody.
    bench.edit("v", |spec| {
        spec["custom_nodes"].as_array_mut().unwrap().remove(1);
        spec["custom_nodes"][0]["target_dir"] = "custom_nodes/moved".into();
        spec["models"][0]["target_path"] = "models/vae/renamed.pth".into();
    });
    let report = bench.ws.lock(&vid("v"), &offline()).unwrap();
    assert_eq!(
        refreshed(&report),
        [
            "node custom_nodes/moved: moved from custom_nodes/alpha",
            "node custom_nodes/alpha: removed",
            "node custom_nodes/beta: removed",
            "model models/vae/renamed.pth: moved from models/vae/m.pth",
            "model models/vae/m.pth: removed",
        ]
    );
}

#[test]
fn an_update_gives_up_the_pins_that_it_names() {
    let bench = Bench::new();
    bench.create("v", &["alpha", "beta"], Vec::new()).unwrap();
    let before = bench.locked("v");
    let [core, alpha, beta] =
        ["core", "alpha", "beta"].map(|name| bench.push(name, &[("more.py", "more\n")]));
    let alpha_alone = ["alpha".to_owned()];
    let update = |update: Update<'_>| bench.ws.lock(&vid("v"), &LockOptions { update, ..Default::default() });
    let report = update(Update::Parts(&alpha_alone)).unwrap();
    assert_eq!(refreshed(&report), ["node custom_nodes/alpha: update asked for"]);
    let commits = || {
        let lock = bench.locked("v");
        let nodes = lock.custom_nodes.iter().map(|node| node.locked.pin());
        std::iter::once(lock.comfy.pin()).chain(nodes).collect::<Vec<_>>()
    };
    let old = before.custom_nodes[1].locked.pin();
    assert_eq!(commits(), [before.comfy.pin(), alpha.clone(), old.clone()]);
    update(Update::Everything).unwrap();
    assert_eq!(commits(), [core, alpha, beta]);
    assert_eq!(
        update(Update::Parts(&["gamma".to_owned()])).unwrap_err().to_string(),
        "version v has no part \"gamma\"; its parts are core, alpha, beta, python"
    );
}

#[test]
fn what_is_pinned_and_gone_is_brought_again() {
    let bench = Bench::new();
    let server = HttpServer::start();
    server.serve("/m.pth", b"model".to_vec());
    let model = json!({"source": server.url("/m.pth"), "target_path": "models/vae/m.pth"});
    bench.create("v", &["alpha"], vec![model]).unwrap();
    bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    let text = fs::read(bench.spec_file("v")).unwrap();
    let alpha = bench.locked("v").custom_nodes[0].locked.manifest.unwrap();
    let manifest = bench
        .ws
        .store()
        .home()
        .join("objects/manifest")
        .join(&alpha.to_string()[..2])
        .join(&alpha.to_string()[2..]);
    fs::remove_file(&manifest).unwrap();

    let (report, heard) =
        asked(|events| bench.ws.lock(&vid("v"), &LockOptions { events, locked: true, ..Default::default() }));
    let report = report.unwrap();
    assert_eq!(refreshed(&report), ["node custom_nodes/alpha: not in the store"]);
    assert_eq!(heard, ["fetch node custom_nodes/alpha"]);
    assert!(report.unchanged && manifest.exists());

    // A blob that is gone is seen by a thorough look.
    fs::remove_file(blob_of(&bench.ws, b"model")).unwrap();
    assert!(bench.lock("v").unwrap().unchanged);
    assert!(!blob_of(&bench.ws, b"model").exists());
    let thorough = LockOptions { thorough: true, ..Default::default() };
    let report = bench.ws.lock(&vid("v"), &thorough).unwrap();
    assert_eq!(refreshed(&report), ["model models/vae/m.pth: not in the store"]);
    assert!(report.unchanged && blob_of(&bench.ws, b"model").exists());
    assert_eq!(fs::read(bench.spec_file("v")).unwrap(), text);

    // Its server has other bytes by now: the pin holds.
    fs::remove_file(blob_of(&bench.ws, b"model")).unwrap();
    server.serve("/m.pth", b"MODEL".to_vec());
    let error = bench.ws.lock(&vid("v"), &thorough).unwrap_err().to_string();
    assert!(error.contains("models[0].source") && error.contains("mismatch"), "{error}");
    assert_eq!(fs::read(bench.spec_file("v")).unwrap(), text);
}

#[test]
fn offline_names_everything_that_is_missing() {
    let bench = Bench::new();
    let server = HttpServer::start();
    server.serve("/m.pth", b"model".to_vec());
    bench.create("v", &[], Vec::new()).unwrap();
    bench.edit("v", |spec| {
        spec["models"] = json!([
            {"source": server.url("/m.pth"), "target_path": "models/vae/m.pth"},
            {"source": server.url("/n.pth"), "target_path": "models/vae/n.pth"},
        ]);
    });
    let error = bench.ws.lock(&vid("v"), &offline()).unwrap_err();
    let VersionsError::Offline { missing, .. } = &error else { panic!("{error}") };
    let places: Vec<&str> = missing.iter().map(|missing| missing.place.as_str()).collect();
    assert_eq!(places, ["models[0].source", "models[1].source"]);
    assert_eq!(missing[0].part, Part::Model("models/vae/m.pth".to_owned()));
    assert_eq!(server.requests().len(), 0);
    // The spec's own word counts as much.
    bench.edit("v", |spec| spec["options"] = json!({"offline": true}));
    assert!(matches!(bench.lock("v").unwrap_err(), VersionsError::Offline { .. }));
    bench.edit("v", |spec| spec["options"] = json!({"skip_models": true}));
    assert!(bench.ws.lock(&vid("v"), &offline()).unwrap().unchanged);
}

#[test]
fn models_are_left_out_and_come_back() {
    let bench = Bench::new();
    let model = json!({"source": bench.file("m.pth", b"model"), "target_path": "models/vae/m.pth"});
    bench.create("v", &[], vec![model]).unwrap();
    let full = bench.locked("v").view;
    bench.edit("v", |spec| spec["options"] = json!({"skip_models": true}));
    let report = bench.lock("v").unwrap();
    assert_eq!(refreshed(&report), ["model models/vae/m.pth: removed"]);
    assert_ne!(report.view, full);
    assert_eq!(bench.locked("v").models_manifest, None);
    bench.edit("v", |spec| spec["options"] = json!({}));
    assert_eq!(bench.lock("v").unwrap().view, full);
}

#[test]
fn a_spec_from_another_machine_is_brought_whole() {
    let bench = Bench::new();
    let model = json!({"source": bench.file("m.pth", b"model"), "target_path": "models/vae/m.pth"});
    bench.create("v", &["alpha"], vec![model]).unwrap();
    for name in ["core", "alpha"] {
        bench.push(name, &[("more.py", "more\n")]);
    }
    let other = open(&bench.path("other"));
    fs::create_dir_all(other.versions().path()).unwrap();
    fs::copy(bench.spec_file("v"), other.versions().file_of(&vid("v"))).unwrap();
    let ready = other.ensure(&vid("v"), &LockOptions { locked: true, ..Default::default() }).unwrap();
    assert_eq!(
        refreshed(&ready.report),
        [
            "core: not in the store",
            "node custom_nodes/alpha: not in the store",
            "model models/vae/m.pth: not in the store",
        ]
    );
    assert!(ready.report.unchanged);
    assert_eq!(ready.lock, bench.locked("v"));
    assert!(other.store().blob_size(&BlobId::of(b"model")).unwrap().is_some());
}

#[test]
fn two_locks_at_once_agree() {
    let bench = Bench::new();
    bench.create("v", &["alpha"], Vec::new()).unwrap();
    bench.edit("v", |spec| {
        spec["custom_nodes"][0] = json!({"name": "beta", "repo": bench.url("beta")});
    });
    let reports = std::thread::scope(|scope| {
        let run = || bench.lock("v").unwrap();
        let threads = [(); 3].map(|()| scope.spawn(run));
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(reports.iter().any(|report| !report.unchanged));
    assert!(reports.iter().all(|report| report.view == bench.locked("v").view));
    assert!(bench.lock("v").unwrap().unchanged);
}

#[test]
fn an_edit_in_the_middle_is_taken_up() {
    let bench = Bench::new();
    bench.create("v", &["alpha"], Vec::new()).unwrap();
    bench.edit("v", |spec| spec["custom_nodes"][0]["ref"] = "master".into());
    let edited = std::sync::Once::new();
    let events = |event: Event<'_>| {
        if matches!(event, Event::Committing) {
            edited.call_once(|| {
                bench.edit("v", |spec| {
                    let beta = json!({"name": "beta", "repo": bench.url("beta")});
                    spec["custom_nodes"].as_array_mut().unwrap().push(beta);
                });
            });
        }
    };
    bench.ws.lock(&vid("v"), &LockOptions { events: &events, ..Default::default() }).unwrap();
    let names: Vec<String> = bench.locked("v").custom_nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["alpha", "beta"]);
    assert!(bench.lock("v").unwrap().unchanged);

    // Somebody who never stops is told so.
    let count = std::sync::atomic::AtomicU32::new(0);
    let events = |event: Event<'_>| {
        if matches!(event, Event::Committing) {
            let name = format!("n{}", count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            bench.edit("v", |spec| spec["custom_nodes"][1]["name"] = name.into());
        }
    };
    bench.edit("v", |spec| spec["custom_nodes"][1]["name"] = "other".into());
    let error = bench.ws.lock(&vid("v"), &LockOptions { events: &events, ..Default::default() }).unwrap_err();
    assert!(matches!(error, VersionsError::Unsteady { attempts: 5, .. }), "{error}");
}
