//! Every kind of damage is found, named with whom it hurts, and can be mended by putting the bytes again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cvs_store::{BlobId, DamageKind, FsckReport, IndexState, ObjectRef};

use crate::support::{Home, damage, put_manifest};

fn hurts(version: &str, paths: &[&str]) -> BTreeMap<String, Vec<String>> {
    [(version.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect())].into()
}

type Spoil = fn(&Path);

#[test]
fn damage_is_named_and_mended() {
    let flip: Spoil = |object| {
        let mut bytes = fs::read(object).unwrap();
        bytes[0] ^= 1;
        damage(object, &bytes);
    };
    let cut: Spoil = |object| damage(object, b"");
    let remove: Spoil = |object| fs::remove_file(object).unwrap();
    let replace_by_directory: Spoil = |object| {
        fs::remove_file(object).unwrap();
        fs::create_dir(object).unwrap();
    };
    for (name, spoil, of_manifest) in [
        ("flip", flip, false),
        ("cut", cut, false),
        ("remove", remove, false),
        ("directory", replace_by_directory, false),
        ("flip", flip, true),
        ("cut", cut, true),
        ("remove", remove, true),
    ] {
        let home = Home::new();
        home.version("sound", b"sound");
        let (id, blob) = home.version("hurt", b"content");
        let (object, path) = match of_manifest {
            true => (ObjectRef::Manifest(id), home.manifest_path(&id)),
            false => (ObjectRef::Blob(blob), home.store.blob_path(&blob)),
        };
        let size = if name == "cut" { 0 } else { fs::metadata(&path).unwrap().len() };
        spoil(&path);
        let report = home.fsck(false);
        let found = report.damage.first().unwrap_or_else(|| panic!("{name} was not found"));
        assert_eq!((report.damage.len(), report.roots), (1, 2), "{name}");
        assert_eq!(found.object, object, "{name}");
        assert_eq!(found.hurts, hurts("hurt", if of_manifest { &[] } else { &["file"] }), "{name}");
        match name {
            "remove" => assert_eq!(found.kind, DamageKind::Missing),
            "directory" => assert!(matches!(found.kind, DamageKind::Unreadable { .. }), "{:?}", found.kind),
            _ => assert_eq!(found.kind, DamageKind::WrongBytes { size }),
        }
        assert_eq!(found.quarantined, None);

        let report = home.fsck(true);
        let aside = report.damage[0].quarantined.clone();
        assert_eq!(aside.is_some(), name != "remove", "{name}");
        assert!(aside.is_none_or(|aside| aside.starts_with(home.store.home().join("quarantine"))));
        assert_eq!(home.fsck(false).damage[0].kind, DamageKind::Missing);

        let txn = home.store.begin("again").unwrap();
        txn.put_bytes(b"content").unwrap();
        put_manifest(&txn, &[("file", b"content")]);
        txn.commit().unwrap();
        let FsckReport { damage, blobs, manifests, .. } = home.fsck(false);
        assert_eq!((damage, blobs, manifests), (vec![], 2, 2), "{name}");
    }
}

#[test]
fn damage_that_hurts_nobody_is_named_too() {
    let home = Home::new();
    let (_, blob) = home.version("v", b"content");
    home.versions().delete("v");
    damage(&home.store.blob_path(&blob), b"other");
    let report = home.fsck(false);
    assert_eq!(report.damage.len(), 1);
    assert!(report.damage[0].hurts.is_empty());
}

#[test]
fn one_damaged_blob_hurts_every_version_and_every_path() {
    let home = Home::new();
    let txn = home.store.begin("v").unwrap();
    txn.put_bytes(b"shared").unwrap();
    let id = put_manifest(&txn, &[("a/one", b"shared"), ("b", b"shared")]);
    txn.commit().unwrap();
    home.versions().publish("one", &[id]);
    home.versions().publish("two", &[id]);
    damage(&home.store.blob_path(&BlobId::of(b"shared")), b"sharex");
    let mut expected = hurts("one", &["b", "a/one"]);
    expected.extend(hurts("two", &["b", "a/one"]));
    assert_eq!(home.fsck(false).damage[0].hurts, expected);
    assert_eq!(home.store.verify_blob(&BlobId::of(b"shared")).unwrap(), Some(false));
    assert_eq!(home.store.verify_blob(&BlobId::of(b"other")).unwrap(), None);
}

#[test]
fn a_manifest_with_a_right_hash_and_wrong_rules_is_malformed() {
    let home = Home::new();
    let mut bytes = cvs_store::ManifestBuilder::new().encode().unwrap();
    bytes[63] = 1;
    let id = cvs_store::ManifestId::of(&bytes);
    let path = home.manifest_path(&id);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    let report = home.fsck(false);
    assert!(matches!(report.damage[0].kind, DamageKind::Malformed { .. }), "{:?}", report.damage);
}

#[test]
fn the_index_is_checked_and_replaced() {
    let home = Home::new();
    let (id, blob) = home.version("v", b"content");
    let index = home.store.index();
    index.put_sha256(&[1; 32], &blob);
    index.put_sha256(&[2; 32], &BlobId::of(b"not there"));
    index.put_git_blobs(&[([3; 20], BlobId::of(b"nor this"))]);
    index.put_source("git:abc", &id);
    assert_eq!(home.fsck(false).index, IndexState::Sound { stale: 2 });
    assert_eq!(home.fsck(false).index, IndexState::Sound { stale: 0 });
    assert_eq!((index.by_sha256(&[1; 32]), index.by_sha256(&[2; 32])), (Some(blob), None));
    assert_eq!((index.source("git:abc"), index.git_blobs(&[[3; 20]])), (Some(id), vec![None]));

    let file = home.store.home().join("index.sqlite");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(home.store.home().join(format!("index.sqlite{suffix}")));
    }
    fs::write(&file, vec![0x5a; 20_000]).unwrap();
    let again = cvs_store::Store::open(home.store.home()).unwrap();
    let report = crate::support::fsck(&again, false);
    assert!(report.damage.is_empty());
    assert_eq!(again.index().by_sha256(&[1; 32]), None);
    again.index().put_sha256(&[1; 32], &blob);
    assert_eq!(again.index().by_sha256(&[1; 32]), Some(blob));
}
