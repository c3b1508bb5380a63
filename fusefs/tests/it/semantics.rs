//! Single promises of docs/overlay.md that the comparison with a plain directory does not reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cvs_fusefs::{FsError, Ino, Kind, Make, MountError, Overlay, RenameMode, SetAttr};
use cvs_store::{BlobId, ManifestId};

use crate::support::{World, at, content, list, me};

fn world(files: &[&str]) -> (World, ManifestId) {
    let world = World::new();
    let manifest = tree(&world, "lower", files);
    (world, manifest)
}

/// Stores a tree of files whose content is their path.
fn tree(world: &World, name: &str, files: &[&str]) -> ManifestId {
    let lower = world.beside(name);
    fs::create_dir(&lower).unwrap();
    for file in files {
        let path = lower.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    world.store_tree(&lower)
}

fn open(world: &World, manifest: ManifestId) -> Overlay {
    world.overlay(world.view(&[("", manifest)]), "overlay")
}

fn names(overlay: &Overlay, dir: &str) -> Vec<String> {
    let listed = list(overlay, at(overlay, dir).ino).unwrap();
    listed.into_iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
}

fn rename(overlay: &Overlay, from: (&str, &str), to: (&str, &str)) -> Result<(), FsError> {
    let (from_dir, to_dir) = (at(overlay, from.0).ino, at(overlay, to.0).ino);
    overlay.rename(from_dir, from.1.as_bytes(), to_dir, to.1.as_bytes(), RenameMode::Replace)
}

#[test]
fn an_overlay_has_one_mount() {
    let (world, manifest) = world(&["f"]);
    let first = open(&world, manifest);
    let second = Overlay::new(
        world.store.clone(),
        world.view(&[("", manifest)]),
        Some(&world.beside("overlay")),
        true,
    );
    let Err(MountError::OverlayBusy { path, pid }) = second else { panic!("opened twice") };
    assert_eq!((path, pid), (world.beside("overlay"), std::process::id().to_string()));
    drop(first);
    open(&world, manifest);
}

#[test]
fn a_format_of_the_future_is_refused() {
    let (world, manifest) = world(&["f"]);
    drop(open(&world, manifest));
    fs::write(world.beside("overlay/format"), "2\n").unwrap();
    let found = Overlay::new(
        world.store.clone(),
        world.view(&[("", manifest)]),
        Some(&world.beside("overlay")),
        true,
    );
    assert!(matches!(found, Err(MountError::UnknownFormat { found, .. }) if found == "2"));
}

#[test]
fn what_was_written_outlives_a_change_of_the_view() {
    let (world, old) = world(&["d/kept", "d/gone", "hidden", "was-dir/f", "was-file"]);
    let overlay = open(&world, old);
    overlay.write_at(at(&overlay, "d/gone").ino, 0, b"written", false).unwrap();
    overlay.unlink(Ino::ROOT, b"hidden").unwrap();
    overlay.write_at(at(&overlay, "was-dir/f").ino, 0, b"w", false).unwrap();
    overlay.write_at(at(&overlay, "was-file").ino, 0, b"W", false).unwrap();
    rename(&overlay, ("", "d"), ("", "moved")).unwrap();
    drop(overlay);
    let new = tree(&world, "newer", &["d/kept", "d/more", "hidden", "was-dir", "was-file/f"]);
    let overlay = open(&world, new);
    assert_eq!(names(&overlay, ""), ["moved", "was-dir", "was-file"]);
    // The renamed directory still merges with the one of the view that it came from.
    assert_eq!(names(&overlay, "moved"), ["gone", "kept", "more"]);
    assert_eq!(content(&overlay, at(&overlay, "moved/gone").ino).unwrap(), b"written");
    assert_eq!(at(&overlay, "was-dir").kind, Kind::Dir);
    assert_eq!(names(&overlay, "was-dir"), ["f"]);
    assert_eq!(at(&overlay, "was-file").kind, Kind::File);
}

#[test]
fn a_damaged_object_is_an_input_error_until_it_is_whole() {
    let (world, manifest) = world(&["missing", "short"]);
    let path = |text: &str| -> PathBuf { world.store.blob_path(&BlobId::of(text.as_bytes())) };
    let (away, object) = (world.beside("away"), path("missing"));
    fs::rename(&object, &away).unwrap();
    fs::set_permissions(path("short"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path("short"), "sho").unwrap();
    let overlay = open(&world, manifest);
    for (name, problem) in [("missing", "is missing"), ("short", "has the wrong size")] {
        let blob = BlobId::of(name.as_bytes());
        let ino = at(&overlay, name).ino;
        let mut buffer = [0; 7];
        let error = overlay.read_at(ino, 0, &mut buffer).unwrap_err();
        assert_eq!(error, FsError::Damaged { blob, problem });
        assert_eq!(error.errno(), rustix::io::Errno::IO.raw_os_error());
        // Nothing is copied up that is not whole, and nothing is half there.
        assert_eq!(overlay.write_at(ino, 0, b"x", false), Err(error));
        assert_eq!(fs::read_dir(world.beside("overlay/upper")).unwrap().count(), 0);
    }
    fs::rename(&away, &object).unwrap();
    assert_eq!(content(&overlay, at(&overlay, "missing").ino).unwrap(), b"missing");
    overlay.unlink(Ino::ROOT, b"short").unwrap();
}

#[test]
fn a_blob_that_is_cut_off_while_it_is_open_is_an_input_error() {
    let (world, manifest) = world(&["file"]);
    let overlay = open(&world, manifest);
    let ino = at(&overlay, "file").ino;
    assert_eq!(content(&overlay, ino).unwrap(), b"file");
    let blob = BlobId::of(b"file");
    let object = world.store.blob_path(&blob);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::OpenOptions::new().write(true).open(&object).unwrap().set_len(2).unwrap();
    let error = overlay.read_at(ino, 0, &mut [0; 4]).unwrap_err();
    assert_eq!(error, FsError::Damaged { blob, problem: "is cut off" });
    let error = overlay.read_at(ino, 0, &mut [0; 4]).unwrap_err();
    assert_eq!(error, FsError::Damaged { blob, problem: "has the wrong size" });
    let told = || overlay.stats().damaged.iter().map(|of| of.problem).collect::<Vec<_>>();
    assert_eq!(told(), ["has the wrong size"]);
    fs::write(&object, "file").unwrap();
    assert_eq!(content(&overlay, ino).unwrap(), b"file");
    assert_eq!(told(), [""; 0]);
}

#[test]
fn attributes_of_our_own_are_out_of_reach() {
    let (world, manifest) = world(&["d/f"]);
    let overlay = open(&world, manifest);
    let dir = at(&overlay, "d").ino;
    overlay.setxattr(dir, b"user.cvs.whiteout", b"y", 0).unwrap();
    overlay.setxattr(dir, b"user.cvs.origin", b"elsewhere", 0).unwrap();
    assert_eq!(overlay.listxattr(dir, me()).unwrap(), b"user.cvs.whiteout\0user.cvs.origin\0");
    let acl = overlay.setxattr(dir, b"system.posix_acl_default", b"", 0);
    assert_eq!(acl, Err(FsError::NotSupported));
    drop(overlay);
    let overlay = open(&world, manifest);
    let dir = at(&overlay, "d").ino;
    assert_eq!(overlay.getxattr(dir, b"user.cvs.origin").unwrap(), b"elsewhere");
    assert_eq!(names(&overlay, "d"), ["f"]);
    overlay.removexattr(dir, b"user.cvs.origin").unwrap();
    assert_eq!(overlay.getxattr(dir, b"user.cvs.origin"), Err(FsError::NoAttribute));
    drop(overlay);
    assert_eq!(names(&open(&world, manifest), "d"), ["f"]);
}

#[test]
fn numbers_stay_over_copy_up_and_rename() {
    let (world, manifest) = world(&["d/f", "d/e/g"]);
    let overlay = open(&world, manifest);
    let before = ["d", "d/f", "d/e", "d/e/g"].map(|path| at(&overlay, path).ino);
    rename(&overlay, ("", "d"), ("", "D")).unwrap();
    rename(&overlay, ("D", "f"), ("", "F")).unwrap();
    overlay.setattr(before[3], SetAttr { size: Some(1), ..SetAttr::default() }, me()).unwrap();
    assert_eq!(["D", "F", "D/e", "D/e/g"].map(|path| at(&overlay, path).ino), before);
}

#[test]
fn a_directory_cannot_be_moved_into_itself() {
    let (world, manifest) = world(&["d/e/f"]);
    let overlay = open(&world, manifest);
    assert_eq!(rename(&overlay, ("", "d"), ("d/e", "d")), Err(FsError::Invalid));
    let made = overlay.make(Ino::ROOT, b"new", Make::Dir, 0o755, me()).unwrap().ino;
    let swapped = overlay.rename(Ino::ROOT, b"d", at(&overlay, "d/e").ino, b"f", RenameMode::Exchange);
    assert_eq!(swapped, Err(FsError::Invalid));
    rename(&overlay, ("", "new"), ("d/e", "new")).unwrap();
    assert_eq!(overlay.parent(made), Ok(at(&overlay, "d/e").ino));
}
