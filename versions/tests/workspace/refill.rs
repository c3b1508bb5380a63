//! An index that was lost knows again what the locks know.

use std::fs;
use std::sync::atomic::AtomicBool;

use cvs_store::BlobId;
use cvs_versions::{CreateOptions, RefillStats, Workspace};
use serde_json::json;

use super::{Bench, open};

/// A version with a model, and another look at its home.
fn version() -> (Bench, Workspace) {
    let bench = Bench::new();
    let model = bench.file("m.pth", b"model");
    bench.create("v", &["alpha"], vec![json!({"source": model, "target_path": "models/vae/m.pth"})]).unwrap();
    let other = open(bench.ws.store().home());
    (bench, other)
}

fn lose_index(ws: &Workspace) {
    let path = ws.store().index().path();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

#[test]
fn it_is_filled_from_the_locks_and_what_they_name() {
    let (bench, _) = version();
    lose_index(&bench.ws);
    let ws = open(bench.ws.store().home());
    let (index, lock) = (ws.store().index(), bench.locked("v"));
    let never = AtomicBool::new(false);
    let stats = ws.refill_index(false, &never).unwrap();
    assert_eq!(stats, RefillStats { commits: 2, models: 1, git_blobs: 0 });
    let key = |commit: &str| format!("git:{commit}");
    assert_eq!(index.source(&key(&lock.comfy.pin())), lock.comfy.manifest);
    let node = &lock.custom_nodes[0].locked;
    assert_eq!(index.source(&key(&node.pin())), node.manifest);
    assert_eq!(index.by_sha256(&lock.models[0].sha256), Some(BlobId::of(b"model")));

    // What `git hash-object` says of the node's only file.
    let oid = bench.git.run(&bench.served().join("alpha.git"), &["rev-parse", "HEAD:__init__.py"]);
    let oid: Vec<u8> = (0..20).map(|i| u8::from_str_radix(&oid[2 * i..2 * i + 2], 16).unwrap()).collect();
    let oid: [u8; 20] = oid.try_into().unwrap();
    assert_eq!(index.git_blobs(&[oid]), [None]);
    let stats = ws.refill_index(true, &never).unwrap();
    assert!(stats.git_blobs >= 2, "{stats:?}");
    assert_eq!(index.git_blobs(&[oid]), [Some(BlobId::of(b"alpha 1\n"))]);
}

#[test]
fn what_is_not_in_the_store_is_left_out() {
    let (bench, _) = version();
    fs::remove_file(bench.ws.store().blob_path(&BlobId::of(b"model"))).unwrap();
    fs::remove_file(bench.ws.store().blob_path(&BlobId::of(b"alpha 1\n"))).unwrap();
    lose_index(&bench.ws);
    let ws = open(bench.ws.store().home());
    let stats = ws.refill_index(true, &AtomicBool::new(false)).unwrap();
    assert_eq!((stats.commits, stats.models), (2, 0));
    bench.lock("v").unwrap();
}

#[test]
fn the_next_version_finds_what_the_last_one_brought() {
    let (bench, _) = version();
    lose_index(&bench.ws);
    let (ws, lock) = (open(bench.ws.store().home()), bench.locked("v"));
    // Neither the repositories nor the model are there to be asked.
    fs::remove_dir_all(bench.served()).unwrap();
    fs::remove_file(bench.path("m.pth")).unwrap();
    let checksum = format!("sha256:{}", hex(&lock.models[0].sha256));
    let model = json!({"source": "https://localhost/m.pth", "checksum": checksum});
    let mut spec = bench.spec("w", &[], vec![model]);
    spec.repo = format!("{}@{}", spec.repo, lock.comfy.pin());
    ws.create(spec, &CreateOptions { offline: true, ..Default::default() }).unwrap();
    assert!(ws.store().index().is_filled());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
