//! What a collection takes, and what it leaves.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use cvs_store::{BlobId, Gc, GcStats, LeaseKind, StoreError};
use rustix::fs::FlockOperation;

use crate::support::{Home, Random, Versions, damage, files_below, put_manifest};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn it_keeps_what_versions_reach_and_takes_the_rest() {
    let home = Home::new();
    let (_, kept) = home.version("kept", b"kept");
    let (_, gone) = home.version("gone", b"gone!");
    assert_eq!(home.gc(Duration::ZERO), GcStats::default());
    home.versions().delete("gone");
    let before = files_below(home.store.home());
    let plan = home.plan();
    assert_eq!((plan.live_objects, plan.garbage_objects()), (2, 2));
    assert_eq!(plan.garbage().map(|(_, size)| size).sum::<u64>(), plan.garbage_bytes());
    let kinds: Vec<String> =
        plan.garbage().map(|(name, _)| name.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["manifest", "blob"], "a manifest never outlives its blobs, wherever a crash comes");
    assert_eq!(files_below(home.store.home()), before, "the plan is the dry run: it changes nothing");
    let stats = home.gc(Duration::ZERO);
    assert_eq!((stats.trashed_objects, stats.deleted_objects), (2, 2));
    assert_eq!(stats.deleted_bytes, plan.garbage_bytes());
    assert_eq!(home.store.blob_size(&kept).unwrap(), Some(4));
    assert_eq!(home.store.blob_size(&gone).unwrap(), None);
    assert_eq!(home.gc(Duration::ZERO), GcStats::default());
    assert!(home.fsck(false).damage.is_empty());
}

#[test]
fn a_hit_takes_back_from_the_trash() {
    let home = Home::new();
    let (id, blob) = home.version("v", b"content");
    home.versions().delete("v");
    assert_eq!(home.gc(DAY).trashed_objects, 2);
    assert!(home.objects().is_empty());
    let txn = home.store.begin("back").unwrap();
    assert!(txn.has_manifest(&id).unwrap());
    txn.commit().unwrap();
    home.versions().publish("v", &[id]);
    drop(txn);
    assert_eq!(home.gc(Duration::ZERO), GcStats::default());
    assert_eq!(fs::read(home.store.blob_path(&blob)).unwrap(), b"content");
    assert!(home.fsck(false).damage.is_empty());
}

#[test]
fn the_trash_is_kept_for_the_grace() {
    let home = Home::new();
    home.version("v", b"content");
    home.versions().delete("v");
    home.gc(DAY);
    assert_eq!(home.gc(DAY).deleted_objects, 0);
    let plan = home.plan();
    assert_eq!((plan.expired_objects, plan.garbage_objects()), (2, 0));
    assert_eq!(home.gc(Duration::ZERO).deleted_objects, plan.expired_objects);
}

#[test]
fn transactions_and_leases_keep_what_they_claim() {
    let home = Home::new();
    let (id, blob) = home.version("v", b"content");
    home.versions().delete("v");
    let txn = home.store.begin("hit").unwrap();
    assert_eq!(txn.has_blob(&blob).unwrap(), Some(7));
    assert_eq!(home.gc(Duration::ZERO).deleted_objects, 1, "only the manifest, which nobody claimed");
    let manifest = put_manifest(&txn, &[("file", b"content")]);
    assert_eq!(manifest, id);
    txn.commit().unwrap();
    assert_eq!(home.gc(Duration::ZERO), GcStats::default());
    let lease = home.store.lease(LeaseKind::Mount, "mount", &[id], serde_json::Value::Null).unwrap();
    drop(txn);
    assert_eq!(home.gc(Duration::ZERO), GcStats::default(), "a mount keeps all that its manifest reaches");
    assert_eq!(home.store.leases().unwrap().len(), 1);
    drop(lease);
    assert_eq!(home.gc(Duration::ZERO).deleted_objects, 2);
    let missing = home.store.lease(LeaseKind::Mount, "mount", &[id], serde_json::Value::Null);
    assert!(matches!(missing, Err(StoreError::MissingManifest(found)) if found == id));
}

#[test]
fn what_becomes_reachable_between_the_phases_is_spared() {
    let home = Home::new();
    let (id, _) = home.version("v", b"content");
    home.versions().delete("v");
    let versions = home.versions();
    let gc = Gc::new(&home.store, &versions, Duration::ZERO);
    let plan = gc.plan().unwrap();
    assert_eq!(plan.garbage_objects(), 2);
    home.versions().publish("again", &[id]);
    let stats = gc.execute(&plan).unwrap();
    assert_eq!((stats.spared_objects, stats.trashed_objects), (2, 0));
}

#[test]
fn a_root_that_cannot_be_read_stops_it() {
    let home = Home::new();
    let (id, _) = home.version("v", b"content");
    home.version("garbage", b"garbage");
    home.versions().delete("garbage");
    let versions = home.versions();
    let gc = Gc::new(&home.store, &versions, Duration::ZERO);
    let before = home.objects();
    let sound = fs::read(home.manifest_path(&id)).unwrap();
    let plan = gc.plan().unwrap();
    damage(&home.manifest_path(&id), b"damaged");
    assert!(matches!(gc.plan(), Err(StoreError::UnreadableRoot { root, .. }) if root == "v"));
    fs::remove_file(home.manifest_path(&id)).unwrap();
    assert!(matches!(gc.plan(), Err(StoreError::UnreadableRoot { .. })));
    fs::write(home.manifest_path(&id), sound).unwrap();
    fs::write(home.store.home().join("versions/broken"), "no id").unwrap();
    assert!(matches!(gc.plan(), Err(StoreError::Roots(_))));
    assert!(matches!(gc.execute(&plan), Err(StoreError::Roots(_))), "the second phase reads the roots again");
    assert_eq!(home.objects(), before);
}

#[test]
fn downloads_that_were_given_up_go() {
    let home = Home::new();
    let partial = home.store.home().join("staging/partial");
    fs::create_dir_all(&partial).unwrap();
    let put = |name: &str, days: u32| {
        let file = File::create(partial.join(name)).unwrap();
        file.set_len(10).unwrap();
        file.set_modified(SystemTime::now() - DAY * days).unwrap();
        file
    };
    put("old.part", 15);
    put("old.json", 30);
    put("young.part", 13);
    put("young.json", 20);
    put("held.part", 15);
    let lock = put("held.lock", 15);
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let plan = home.plan();
    assert_eq!((plan.partial_files, plan.partial_bytes), (2, 20));
    let stats = home.gc(Duration::ZERO);
    assert_eq!((stats.partial_files, stats.partial_bytes), (2, 20));
    let left: Vec<_> = files_below(&partial).into_keys().collect();
    assert_eq!(left, ["held.lock", "held.part", "young.json", "young.part"]);
    drop(home.store.begin("transaction").unwrap());
    assert_eq!(home.staged(), ["partial"], "a directory without a lease is nobody's to clean");
}

/// Transactions and collections beside each other, for as many rounds as it takes: whatever a transaction that
/// committed holds is there, and stays there once it is published.
#[test]
fn nothing_that_is_held_is_taken() {
    let home = Home::new();
    let done = AtomicBool::new(false);
    let store = &home.store;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    let versions = Versions::below(store.home());
                    let mut random = Random(writer);
                    for _ in 0..60 {
                        let contents: Vec<Vec<u8>> =
                            (0..4).map(|_| format!("content {}", random.below(12)).into_bytes()).collect();
                        let names: Vec<String> = (0..4).map(|n| format!("f{n}")).collect();
                        let files: Vec<(&str, &[u8])> = names
                            .iter()
                            .map(String::as_str)
                            .zip(contents.iter().map(Vec::as_slice))
                            .collect();
                        let txn = store.begin("hammer").unwrap();
                        for content in &contents {
                            txn.put_bytes(content).unwrap();
                        }
                        let id = put_manifest(&txn, &files);
                        txn.commit().unwrap();
                        let here = || {
                            store.manifest(&id).unwrap();
                            for content in &contents {
                                let path = store.blob_path(&BlobId::of(content));
                                assert_eq!(&fs::read(path).unwrap(), content);
                            }
                        };
                        here();
                        let name = format!("writer-{writer}");
                        versions.publish(&name, &[id]);
                        drop(txn);
                        here();
                        if random.below(3) == 0 {
                            versions.delete(&name);
                        }
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut trashed = 0;
            while !done.load(Ordering::Relaxed) {
                let grace = if trashed % 2 == 0 { Duration::ZERO } else { DAY };
                trashed += home.gc(grace).trashed_objects;
            }
            trashed
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0, "the collections had something to take");
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(home.fsck(false).damage.is_empty());
}
