//! A real directory with everything that can be in one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cvs_store::{EntryKind, Intake, Manifest, ManifestId, RelPath, StoreError, TreeOptions, TreeStats};

use crate::support::{Home, path};

fn put(home: &Home, dir: &Path, cancel: bool) -> Result<(ManifestId, TreeStats), StoreError> {
    let told = AtomicU64::new(0);
    let (cancel, exclude) = (AtomicBool::new(cancel), |path: &RelPath| path.file_name() == Some(b".git"));
    let progress = |bytes| {
        told.fetch_add(bytes, Ordering::Relaxed);
    };
    let options =
        TreeOptions { intake: Intake::Copy, exclude: &exclude, progress: &progress, cancel: &cancel };
    let txn = home.store.begin("tree").unwrap();
    let (id, stats) = txn.put_tree(dir, &options)?;
    txn.commit().unwrap();
    assert_eq!(told.into_inner(), stats.bytes);
    Ok((id, stats))
}

fn listing(manifest: &Manifest) -> Vec<String> {
    let line = |(path, entry): (RelPath, cvs_store::Entry)| match entry.kind() {
        EntryKind::Dir => format!("{path}/ {:o}", entry.mode()),
        EntryKind::File => {
            format!("{path} {:o} {} bytes {} names", entry.mode(), entry.size(), entry.links())
        }
        EntryKind::Symlink => {
            format!("{path} -> {}", String::from_utf8_lossy(manifest.symlink_target(&entry).unwrap()))
        }
    };
    manifest.walk().map(line).collect()
}

#[test]
fn everything_in_a_directory_is_kept() {
    let home = Home::new();
    let dir = home.outside("tree");
    fs::create_dir_all(dir.join("sub/empty")).unwrap();
    fs::create_dir_all(dir.join(".git/objects")).unwrap();
    fs::write(dir.join("run"), "#!/bin/sh\n").unwrap();
    fs::write(dir.join("sub/data"), vec![1; 600_000]).unwrap();
    fs::write(dir.join("sub/größe"), "").unwrap();
    for (name, mode) in
        [("run", 0o755), ("sub/data", 0o640), ("sub/größe", 0o644), ("sub/empty", 0o700), ("sub", 0o755)]
    {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(dir.join("sub/data"), dir.join("also")).unwrap();
    symlink("../outside/of it", dir.join("link")).unwrap();
    symlink("sub", dir.join("to-dir")).unwrap();
    let pipe = dir.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();

    let (id, stats) = put(&home, &dir, false).unwrap();
    let expected = TreeStats { files: 4, bytes: 600_010, dirs: 2, symlinks: 2, skipped: vec![path("pipe")] };
    assert_eq!(stats, expected);
    let manifest = home.store.manifest(&id).unwrap();
    assert_eq!(
        listing(&manifest),
        [
            "also 640 600000 bytes 2 names",
            "link -> ../outside/of it",
            "run 755 10 bytes 1 names",
            "sub/ 755",
            "to-dir -> sub",
            "sub/data 640 600000 bytes 2 names",
            "sub/empty/ 700",
            "sub/größe 644 0 bytes 1 names",
        ]
    );
    assert_eq!(manifest.content_bytes(), 600_010);
    assert_eq!(put(&home, &dir, false).unwrap().0, id, "the same tree has the same id");
    let stopped = put(&home, &dir, true);
    assert!(matches!(stopped, Err(StoreError::Interrupted)), "{stopped:?}");
}

/// As deep as a path may be, on a thread with a small stack.
#[test]
fn a_deep_tree_is_no_trouble() {
    let home = Home::new();
    let deep = RelPath::new(vec!["d"; 1400].join("/")).unwrap();
    let deep_id = || {
        let txn = home.store.begin("deep").unwrap();
        let blob = txn.put_bytes(b"x").unwrap();
        let ids = ["one", "two"].map(|name| {
            let mut builder = cvs_store::ManifestBuilder::new();
            builder.file(&deep.join(name).unwrap(), 0o644, 1, blob).unwrap();
            txn.put_manifest(builder).unwrap()
        });
        txn.commit().unwrap();
        let grafts =
            ids.map(|manifest| cvs_store::Graft { path: RelPath::root(), manifest, label: String::new() });
        let view = cvs_store::View::compose(&home.store, &grafts).unwrap();
        let found = view.resolve(&deep.join("two").unwrap()).unwrap();
        assert_eq!(view.path(found), Some(deep.join("two").unwrap()));
    };
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(1 << 20);
        small.spawn_scoped(scope, deep_id).unwrap().join().unwrap();
    });
}
