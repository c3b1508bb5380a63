//! How objects enter the store.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use cvs_store::{BlobId, CommitStats, Intake, ManifestBuilder, Store, StoreError, StoredBlob};

use crate::support::{Home, damage, path, put_manifest};

/// Larger than what is read in one go, and than what is synced with the batch.
fn large() -> Vec<u8> {
    (0..9_500_000u32).map(|i| (i / 7) as u8).collect()
}

#[test]
fn the_same_bytes_are_stored_once() {
    let home = Home::new();
    let txn = home.store.begin("one").unwrap();
    let id = txn.put_bytes(b"hello").unwrap();
    assert_eq!(txn.put_bytes(b"hello").unwrap(), id);
    assert_eq!(txn.has_blob(&id).unwrap(), Some(5));
    assert_eq!(home.store.blob_size(&id).unwrap(), None, "nothing is visible before the commit");
    assert_eq!(txn.commit().unwrap(), CommitStats { new_objects: 1, new_bytes: 5, reused_objects: 0 });
    let other = home.store.begin("two").unwrap();
    let mut writer = other.blob_writer().unwrap();
    writer.write_all(b"hel").unwrap();
    writer.write_all(b"lo").unwrap();
    assert_eq!(writer.finish().unwrap(), StoredBlob { id, size: 5 });
    assert_eq!(other.commit().unwrap(), CommitStats { reused_objects: 1, ..Default::default() });
    let hex = id.to_hex();
    let stored = format!("blob/{}/{}", &hex[..2], &hex[2..]);
    assert_eq!(home.objects(), [(stored, b"hello".to_vec())].into());
    assert_eq!(fs::metadata(home.store.blob_path(&id)).unwrap().mode() & 0o7777, 0o444);
}

#[test]
fn two_transactions_stage_the_same_and_both_commit() {
    let home = Home::new();
    let (one, two) = (home.store.begin("one").unwrap(), home.store.begin("two").unwrap());
    let id = one.put_bytes(b"same").unwrap();
    two.put_bytes(b"same").unwrap();
    assert_eq!(one.commit().unwrap().new_objects, 1);
    assert_eq!(two.commit().unwrap(), CommitStats { reused_objects: 1, ..Default::default() });
    drop((one, two));
    assert_eq!(home.store.blob_size(&id).unwrap(), Some(4));
    assert_eq!(home.staged(), [""; 0]);
}

#[test]
fn what_is_not_committed_leaves_nothing() {
    let home = Home::new();
    let txn = home.store.begin("gone").unwrap();
    txn.put_bytes(b"x").unwrap();
    fs::write(txn.scratch_dir().unwrap().join("mine"), b"y").unwrap();
    let mut writer = txn.blob_writer().unwrap();
    writer.write_all(&large()).unwrap();
    drop(writer);
    assert_eq!(home.staged().len(), 1);
    drop(txn);
    assert_eq!(home.staged(), [""; 0]);
    assert!(home.objects().is_empty());
}

#[test]
fn every_way_in_gives_the_same_object() {
    for content in [Vec::new(), b"small".to_vec(), vec![7; 300_000], large()] {
        for how in [Intake::Copy, Intake::Move, Intake::HardLink] {
            let home = Home::new();
            let source = home.outside("source");
            fs::write(&source, &content).unwrap();
            let txn = home.store.begin("in").unwrap();
            let stored = txn.put_file(&source, how).unwrap();
            let case = format!("{how:?} of {} bytes", content.len());
            assert_eq!(stored, StoredBlob { id: BlobId::of(&content), size: content.len() as u64 }, "{case}");
            assert_eq!(fs::read(&source).unwrap(), content, "{case}: nothing has happened to the source yet");
            assert_eq!(fs::metadata(&source).unwrap().mode() & 0o7777, 0o644, "{case}");
            txn.commit().unwrap();
            let object = fs::metadata(home.store.blob_path(&stored.id)).unwrap();
            assert_eq!(object.mode() & 0o7777, 0o444, "{case}");
            assert!(source.exists(), "{case}: the source stays until something refers to the object");
            assert!(txn.remove_sources().is_empty(), "{case}");
            assert_eq!(source.exists(), how != Intake::Move, "{case}");
            if how == Intake::HardLink {
                assert_eq!(fs::metadata(&source).unwrap().ino(), object.ino(), "{case}");
            }
            drop(txn);
            assert!(home.fsck(false).damage.is_empty(), "{case}");
        }
    }
}

#[test]
fn a_symlink_gives_its_target_and_only_its_own_name_goes() {
    for how in [Intake::Copy, Intake::Move, Intake::HardLink] {
        let home = Home::new();
        let (target, link) = (home.outside("target"), home.outside("link"));
        fs::write(&target, b"model").unwrap();
        symlink("target", &link).unwrap();
        let txn = home.store.begin("link").unwrap();
        assert_eq!(txn.put_file(&link, how).unwrap().id, BlobId::of(b"model"));
        txn.commit().unwrap();
        assert!(txn.remove_sources().is_empty());
        let object = fs::symlink_metadata(home.store.blob_path(&BlobId::of(b"model"))).unwrap();
        assert!(object.is_file());
        assert_eq!(fs::read(&target).unwrap(), b"model");
        assert_eq!(link.is_symlink(), how != Intake::Move, "{how:?}");
    }
}

#[test]
fn a_move_spares_a_file_that_took_the_name_since() {
    let home = Home::new();
    let source = home.outside("source");
    fs::write(&source, b"old").unwrap();
    let txn = home.store.begin("move").unwrap();
    txn.put_file(&source, Intake::Move).unwrap();
    fs::remove_file(&source).unwrap();
    fs::write(&source, b"new").unwrap();
    txn.commit().unwrap();
    assert!(txn.remove_sources().is_empty());
    assert_eq!(fs::read(&source).unwrap(), b"new");
    assert_eq!(fs::read(home.store.blob_path(&BlobId::of(b"old"))).unwrap(), b"old");
}

#[test]
fn a_move_of_what_is_there_already_removes_the_source() {
    let home = Home::new();
    home.version("v", b"bytes");
    let source = home.outside("source");
    fs::write(&source, b"bytes").unwrap();
    let txn = home.store.begin("move").unwrap();
    txn.put_file(&source, Intake::Move).unwrap();
    assert_eq!(txn.commit().unwrap(), CommitStats { reused_objects: 1, ..Default::default() });
    assert!(txn.remove_sources().is_empty());
    assert!(!source.exists());
}

#[test]
fn a_finished_download_is_adopted() {
    let home = Home::new();
    let download = home.store.home().join("staging/partial/key.part");
    fs::create_dir_all(download.parent().unwrap()).unwrap();
    fs::write(&download, b"bytes").unwrap();
    let txn = home.store.begin("adopt").unwrap();
    let wrong = txn.adopt(&download, BlobId::of(b"bytes"), 4);
    assert!(matches!(wrong, Err(StoreError::Changed { .. })), "{wrong:?}");
    txn.adopt(&download, BlobId::of(b"bytes"), 5).unwrap();
    drop(txn);
    assert_eq!(fs::read(&download).unwrap(), b"bytes", "without a commit it stays what it was");
    let txn = home.store.begin("adopt").unwrap();
    txn.adopt(&download, BlobId::of(b"bytes"), 5).unwrap();
    assert!(txn.remove_sources().is_empty());
    assert!(download.exists(), "not committed yet");
    txn.commit().unwrap();
    assert!(txn.remove_sources().is_empty());
    assert!(!download.exists());
    assert_eq!(home.store.blob_size(&BlobId::of(b"bytes")).unwrap(), Some(5));
}

#[test]
fn what_was_hashed_is_linked_in_unread_unless_it_was_written_since() {
    let home = Home::new();
    let source = home.outside("source");
    fs::write(&source, b"bytes").unwrap();
    let before = fs::metadata(&source).unwrap();
    let hashed = StoredBlob { id: BlobId::of(b"bytes"), size: 5 };
    for how in [Intake::HardLink, Intake::Move, Intake::Copy] {
        let txn = home.store.begin("hashed").unwrap();
        assert_eq!(txn.put_hashed(&source, how, hashed, &before).unwrap(), hashed);
    }
    let later = before.modified().unwrap() + Duration::from_secs(1);
    fs::write(&source, b"other").unwrap();
    fs::File::options().write(true).open(&source).unwrap().set_modified(later).unwrap();
    for how in [Intake::HardLink, Intake::Move, Intake::Copy] {
        let txn = home.store.begin("hashed").unwrap();
        let changed = txn.put_hashed(&source, how, hashed, &before);
        assert!(matches!(changed, Err(StoreError::Changed { .. })), "{how:?}: {changed:?}");
        assert_eq!(txn.has_blob(&hashed.id).unwrap(), None, "nothing goes by a name that is not its own");
    }
}

#[test]
fn only_regular_files_enter() {
    let home = Home::new();
    let pipe = home.outside("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let txn = home.store.begin("odd").unwrap();
    for (source, how) in [(&pipe, Intake::Copy), (&pipe, Intake::Move), (&home.outside(""), Intake::Copy)] {
        let refused = txn.put_file(source, how);
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    }
    txn.commit().unwrap();
    assert!(home.objects().is_empty());
}

#[test]
fn a_manifest_is_there_when_all_it_lists_is_there() {
    let home = Home::new();
    let (id, blob) = home.version("v", b"content");
    let has = || home.store.begin("look").unwrap().has_manifest(&id).unwrap();
    assert!(has());
    let object = home.store.blob_path(&blob);
    damage(&object, b"cut");
    assert!(!has(), "a blob of another size is not what the manifest lists");
    fs::remove_file(&object).unwrap();
    assert!(!has());
    let txn = home.store.begin("again").unwrap();
    txn.put_bytes(b"content").unwrap();
    assert!(txn.has_manifest(&id).unwrap(), "staged counts");
    txn.commit().unwrap();
    drop(txn);
    assert!(has());
    damage(&home.manifest_path(&id), b"no manifest");
    assert!(!has());
    fs::remove_file(home.manifest_path(&id)).unwrap();
    assert!(!has());
}

#[test]
fn putting_again_mends_what_is_damaged() {
    let home = Home::new();
    let (id, blob) = home.version("v", b"content");
    let object = home.store.blob_path(&blob);
    let manifest = fs::read(home.manifest_path(&id)).unwrap();
    let mut flipped = manifest.clone();
    flipped[70] ^= 1;
    // A blob shows its damage by its size; a manifest, which is small, is read.
    for (bad_blob, bad_manifest) in [(&b"cut"[..], &manifest[..]), (b"content", &flipped), (b"cut", b"")] {
        damage(&object, bad_blob);
        damage(&home.manifest_path(&id), bad_manifest);
        let txn = home.store.begin("mend").unwrap();
        txn.put_bytes(b"content").unwrap();
        assert_eq!(put_manifest(&txn, &[("file", b"content")]), id);
        txn.commit().unwrap();
        drop(txn);
        assert_eq!(fs::read(&object).unwrap(), b"content");
        assert_eq!(fs::read(home.manifest_path(&id)).unwrap(), manifest);
    }
}

#[test]
fn a_manifest_of_blobs_that_are_not_there_is_refused() {
    let home = Home::new();
    let txn = home.store.begin("v").unwrap();
    let listing = |size| {
        let mut builder = ManifestBuilder::new();
        builder.file(&path("f"), 0o644, size, BlobId::of(b"abc")).unwrap();
        builder
    };
    let missing = txn.put_manifest(listing(3));
    assert!(matches!(missing, Err(StoreError::MissingBlob(id)) if id == BlobId::of(b"abc")), "{missing:?}");
    txn.put_bytes(b"abc").unwrap();
    let wrong = txn.put_manifest(listing(4));
    assert!(matches!(wrong, Err(StoreError::WrongSize { listed: 4, found: 3, .. })), "{wrong:?}");
    txn.put_manifest(listing(3)).unwrap();
}

#[test]
fn a_transaction_goes_on_after_a_commit() {
    let home = Home::new();
    let txn = home.store.begin("long").unwrap();
    let one = txn.put_bytes(b"one").unwrap();
    txn.commit().unwrap();
    let two = txn.put_bytes(b"two").unwrap();
    assert_eq!(txn.commit().unwrap().new_objects, 1);
    home.gc(Duration::ZERO);
    for id in [one, two] {
        assert!(home.store.blob_size(&id).unwrap().is_some(), "it stays a lease on all that it committed");
    }
}

#[test]
fn a_failed_commit_spends_the_transaction() {
    let home = Home::new();
    let txn = home.store.begin("fails").unwrap();
    txn.put_bytes(b"x").unwrap();
    // A file where the directory of the object has to be.
    let object = home.store.blob_path(&BlobId::of(b"x"));
    fs::write(object.parent().unwrap(), b"").unwrap();
    assert!(txn.commit().is_err());
    fs::remove_file(object.parent().unwrap()).unwrap();
    assert!(txn.commit().is_err());
    drop(txn);
    assert_eq!(home.staged(), [""; 0]);
}

#[test]
fn an_unknown_format_is_refused_and_left_alone() {
    let home = Home::new();
    home.version("v", b"content");
    let format = home.store.home().join("format");
    let known = fs::read_to_string(&format).unwrap();
    assert_eq!(known, "{\"format\":1,\"features\":[]}\n");
    for unknown in ["{\"format\":2}", "{\"format\":1,\"features\":[\"packs\"]}", "", "1"] {
        fs::write(&format, unknown).unwrap();
        let refused = Store::open(home.store.home());
        assert!(matches!(refused, Err(StoreError::UnknownFormat { .. })), "{unknown:?}");
        assert_eq!(fs::read_to_string(&format).unwrap(), unknown);
    }
    fs::remove_file(&format).unwrap();
    assert!(Store::open(home.store.home()).is_err(), "objects without a format are not ours");
}

#[test]
fn many_open_a_new_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let start = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                Store::open(&dir.path().join("new/home")).unwrap();
            });
        }
    });
}

/// Every commit of a new store makes directories that the others make too.
#[test]
fn many_commit_to_a_new_store_at_once() {
    for _ in 0..20 {
        let home = Home::new();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let (home, start) = (&home, &start);
                scope.spawn(move || {
                    let txn = home.store.begin("v").unwrap();
                    for at in 0..64_u8 {
                        txn.put_bytes(&[at]).unwrap();
                        txn.put_bytes(&[at, thread]).unwrap();
                    }
                    start.wait();
                    txn.commit().unwrap();
                });
            }
        });
        assert_eq!(cvs_store::usage(&home.store, &[]).unwrap().stored_objects, 64 * 5);
    }
}

#[test]
fn an_unreadable_file_is_an_error_that_names_it() {
    let home = Home::new();
    let source = home.outside("missing");
    let txn = home.store.begin("v").unwrap();
    let error = txn.put_file(&source, Intake::Copy).unwrap_err().to_string();
    assert_eq!(error, format!("cannot open {}: No such file or directory (os error 2)", source.display()));
    fs::create_dir(&source).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    let error = txn.put_file(&source, Intake::Copy).unwrap_err().to_string();
    assert_eq!(error, format!("cannot open {}: not a regular file", source.display()));
}
