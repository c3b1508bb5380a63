//! What is done with whole versions.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use cvs_store::{Gc, LeaseKind};
use cvs_tests::wait_until;
use cvs_versions::{DeleteOptions, LockOptions, LockState, SpecError, Update, VersionsError};
use serde_json::json;

use super::{Bench, vid};

#[test]
fn one_bad_spec_hides_no_other() {
    let bench = Bench::new();
    assert_eq!(bench.ws.list().unwrap(), []);
    bench.create("b", &["alpha"], Vec::new()).unwrap();
    let commit = bench.locked("b").comfy.pin();
    let dir = bench.ws.versions().path().to_owned();
    fs::write(dir.join("a.json"), "{").unwrap();
    fs::write(dir.join("not a name.json"), "{}").unwrap();
    fs::write(dir.join("notes.txt"), "").unwrap();
    let list = bench.ws.list().unwrap();
    let lines: Vec<(String, bool, LockState)> =
        list.iter().map(|v| (v.id.clone(), v.error.is_some(), v.lock)).collect();
    assert_eq!(
        lines,
        [
            ("a".to_owned(), true, LockState::Missing),
            ("b".to_owned(), false, LockState::Current),
            ("not a name".to_owned(), true, LockState::Missing),
        ]
    );
    assert_eq!(
        serde_json::to_value(&list[1]).unwrap(),
        json!({
            "id": "b",
            "core": {"repo": bench.url("core"), "revision": "HEAD", "commit": commit},
            "nodes": [{
                "name": "alpha", "path": "custom_nodes/alpha", "repo": bench.url("alpha"),
                "revision": "HEAD", "commit": bench.locked("b").custom_nodes[0].locked.pin(),
            }],
            "models": 0,
            "model_bytes": 0,
            "lock": "current",
            "view": bench.locked("b").view,
            "error": null,
        })
    );
    bench.edit("b", |spec| spec["comfy"]["ref"] = "master".into());
    let list = bench.ws.list().unwrap();
    assert_eq!((list[1].lock, list[1].core.as_ref().unwrap().commit.clone()), (LockState::Stale, None));
}

#[test]
fn a_clone_shares_everything_and_outlives_its_origin() {
    let bench = Bench::new();
    bench.create("v", &["alpha"], Vec::new()).unwrap();
    assert_eq!(bench.ws.clone_version(&vid("v"), &vid("w")).unwrap(), bench.spec_file("w"));
    assert_eq!(bench.locked("w"), bench.locked("v"));
    assert!(matches!(
        bench.ws.clone_version(&vid("v"), &vid("w")).unwrap_err(),
        VersionsError::Spec(SpecError::Exists { .. })
    ));
    assert!(matches!(
        bench.ws.clone_version(&vid("x"), &vid("y")).unwrap_err(),
        VersionsError::Spec(SpecError::Unknown { .. })
    ));
    assert_eq!(bench.ws.store().leases().unwrap(), []);
    bench.create("old", &["beta"], Vec::new()).unwrap();
    fs::write(bench.spec_file("broken"), "{").unwrap();
    for name in ["old", "broken", "fresh"] {
        bench.ws.clone_over(&vid("v"), &vid(name)).unwrap();
        assert_eq!(bench.locked(name), bench.locked("v"));
    }
    bench.ws.delete(&vid("v"), &DeleteOptions::default()).unwrap();
    let gc = Gc::new(bench.ws.store(), bench.ws.roots(), Duration::ZERO);
    gc.execute(&gc.plan().unwrap()).unwrap();
    assert!(bench.lock("w").unwrap().unchanged);
}

#[test]
fn a_clone_of_what_is_only_pinned_is_pinned() {
    let bench = Bench::new();
    let options = cvs_versions::CreateOptions { fetch: false, ..Default::default() };
    bench.ws.create(bench.spec("v", &[], Vec::new()), &options).unwrap();
    bench.ws.clone_version(&vid("v"), &vid("w")).unwrap();
    assert_eq!(bench.locked("w").comfy.pin(), bench.locked("v").comfy.pin());
}

#[test]
fn a_deletion_frees_its_own_and_keeps_what_was_written_unless_asked() {
    let bench = Bench::new();
    bench.create("v", &["alpha"], Vec::new()).unwrap();
    bench.create("w", &[], Vec::new()).unwrap();
    let overlay = bench.ws.overlay_dir(&vid("v"));
    fs::create_dir_all(overlay.join("upper/output")).unwrap();
    fs::write(overlay.join("upper/output/x.png"), [0; 5000]).unwrap();
    fs::write(overlay.join("format"), "not written by anybody in a mount").unwrap();

    let dry = DeleteOptions { overlay: true, dry_run: true };
    let report = bench.ws.delete(&vid("v"), &dry).unwrap();
    assert_eq!(report.overlay.as_ref().map(|o| (o.files, o.deleted)), Some((1, true)));
    assert!(bench.spec_file("v").exists() && overlay.exists());

    let info = json!({"mountpoint": "/mnt/v"});
    let lease = bench.ws.store().lease(LeaseKind::Mount, "v", &[], info).unwrap();
    let busy = bench.ws.delete(&vid("v"), &DeleteOptions::default()).unwrap_err();
    assert_eq!(busy.to_string(), format!("version v is mounted at /mnt/v (process {})", std::process::id()));
    drop(lease);

    let report = bench.ws.delete(&vid("v"), &DeleteOptions::default()).unwrap();
    let kept = report.overlay.unwrap();
    assert!(!kept.deleted && kept.bytes >= 5000 && overlay.exists());
    assert_eq!(bench.garbage(), 3, "two files of alpha and its manifest");
    assert!(matches!(
        bench.ws.delete(&vid("v"), &DeleteOptions::default()).unwrap_err(),
        VersionsError::Spec(SpecError::Unknown { .. })
    ));

    // A spec that cannot be read can be deleted all the same.
    fs::write(bench.spec_file("v"), "{").unwrap();
    let report = bench.ws.delete(&vid("v"), &DeleteOptions { overlay: true, dry_run: false }).unwrap();
    assert!(report.overlay.unwrap().deleted);
    assert_eq!(fs::read_dir(overlay.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_mount_that_begins_and_a_deletion_know_of_each_other() {
    let bench = Bench::new();
    bench.create("v", &["alpha"], Vec::new()).unwrap();
    let mount = || {
        let ready = bench.ws.ensure(&vid("v"), &LockOptions::default()).unwrap();
        let manifests: Vec<_> = ready.grafts.iter().map(|graft| graft.manifest).collect();
        (ready.view, manifests)
    };
    let lease =
        |manifests: &[_]| bench.ws.store().lease(LeaseKind::Mount, "v", manifests, json!({})).unwrap();
    let (view, manifests) = mount();
    // The mount takes its lease while the deletion waits to look for one.
    let held = fs::File::create(bench.ws.versions().path().join(".cvs-lock")).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let deletion = scope.spawn(|| bench.ws.delete(&vid("v"), &DeleteOptions::default()));
        wait_until(Duration::from_secs(20), "the deletion waits", || {
            let waiting = fs::read_to_string("/proc/locks").unwrap();
            let inode = format!(":{} ", held.metadata().unwrap().ino());
            waiting.lines().any(|line| line.contains("->") && line.contains(&inode))
        });
        let _lease = lease(&manifests);
        held.unlock().unwrap();
        assert!(matches!(deletion.join().unwrap().unwrap_err(), VersionsError::Busy { .. }));
        bench.ws.confirm(&vid("v"), &view).unwrap();
    });
    // The lock changes, and then the version goes, before the mount takes its lease.
    bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    bench.ws.lock(&vid("v"), &LockOptions { update: Update::Everything, ..Default::default() }).unwrap();
    let changed = bench.ws.confirm(&vid("v"), &view).unwrap_err();
    assert!(matches!(changed, VersionsError::Spec(SpecError::Changed { .. })), "{changed}");
    bench.ws.delete(&vid("v"), &DeleteOptions::default()).unwrap();
    let gone = bench.ws.confirm(&vid("v"), &view).unwrap_err();
    assert!(matches!(gone, VersionsError::Spec(SpecError::Unknown { .. })), "{gone}");
}

#[test]
fn what_a_killed_deletion_left_is_in_nobodys_way() {
    let bench = Bench::new();
    bench.create("v", &[], Vec::new()).unwrap();
    let overlay = bench.ws.overlay_dir(&vid("v"));
    // In a container every cvs may have the same pid.
    for name in ["v".to_owned(), format!(".gone-v-{}", std::process::id())] {
        fs::create_dir_all(overlay.with_file_name(name).join("upper/output")).unwrap();
    }
    bench.ws.delete(&vid("v"), &DeleteOptions { overlay: true, dry_run: false }).unwrap();
    assert_eq!(fs::read_dir(overlay.parent().unwrap()).unwrap().count(), 0);
}
