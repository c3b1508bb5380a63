//! Damage, full disks and foreign formats under a mount: an error for whom it concerns, a word in the log, and
//! everything else goes on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cvs_tests::{DiskImage, Missing, TestEnvironment, available};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount2};

use crate::mounted::{
    assert_objects_are_what_they_are_called, blob_of, change_object, daemon, errno, flip_byte, fuse, ingest,
    is_running, log_of, mount, mounts_of, object_name, read, tree, umount, write,
};

#[test]
fn a_damaged_blob_is_an_error_for_its_file_alone() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let names = ["missing", "cut", "grown", "whole", "replaced"];
    let content = |name: &str| name.repeat(20_000).into_bytes();
    let contents: Vec<_> = names.iter().map(|name| content(name)).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&contents).map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    ingest(&env, "v", &files);
    let dir = mount(&env, "v", "v", &[]);
    let blob = |name: &str| blob_of(&env, &content(name));
    for name in ["missing", "replaced"] {
        fs::remove_file(blob(name)).expect("removing an object");
    }
    change_object(&blob("cut"), |file| file.set_len(1000).expect("cutting an object"));
    change_object(&blob("grown"), |file| file.set_len(1_000_000).expect("growing an object"));

    for (name, problem) in [
        ("missing", "is missing"),
        ("replaced", "is missing"),
        ("cut", "has the wrong size"),
        ("grown", "has the wrong size"),
    ] {
        assert_eq!(errno(fs::read(dir.join(name))), Errno::EIO as i32, "{name}");
        // Neither can it be copied up; what is there stays what it is.
        let file = File::options().write(true).open(dir.join(name)).expect("opening for writing");
        assert_eq!(
            errno(file.write_all_at(b"x", 5).and_then(|()| file.sync_all())),
            Errno::EIO as i32,
            "{name}"
        );
        assert_eq!(
            fs::metadata(dir.join(name)).expect("looking at a file").len(),
            content(name).len() as u64
        );
        let object = object_name(&blob(name));
        let log = log_of(&env, "v");
        let line = log.lines().find(|line| line.contains(&object));
        let line = line.unwrap_or_else(|| panic!("{name}: nothing about {object} in the log:\n{log}"));
        assert!(line.contains(&format!("blob {problem}: run `cvs fsck`")), "{line}");
    }
    // Told to who asks, by file; and in the log with its file, once however often it is read.
    let told = |entry: &serde_json::Value| -> BTreeSet<String> {
        let damaged = entry["damaged"].as_array().expect("a list of objects").iter();
        damaged
            .map(|of| format!("{} {} {}", of["paths"][0], of["files"], of["problem"]).replace('"', ""))
            .collect()
    };
    let all = ["missing 1 is missing", "replaced 1 is missing", "cut 1 has the wrong size"];
    let all: BTreeSet<String> =
        all.into_iter().chain(["grown 1 has the wrong size"]).map(String::from).collect();
    assert_eq!(told(&mounts_of(&env, "v")[0]), all);
    let listed = env.cvs(["mounts"]).ok();
    assert!(
        listed
            .stderr
            .contains(&format!("warning: {}: 4 files cannot be read; run `cvs fsck`\n", dir.display()))
            && listed
                .stderr
                .contains(&format!("  cut: blob {} has the wrong size\n", object_name(&blob("cut")))),
        "{listed}"
    );
    let log = log_of(&env, "v");
    let lines =
        log.lines().filter(|line| line.contains("path=cut") || line.contains(&object_name(&blob("cut"))));
    assert_eq!(lines.count(), 1, "{log}");
    assert!(read(dir.join("whole")) == content("whole"));
    write(dir.join("whole"), "changed");
    // To be renamed it would have to be copied up.
    assert_eq!(errno(fs::rename(dir.join("cut"), dir.join("renamed"))), Errno::EIO as i32);
    assert!(dir.join("cut").exists() && !dir.join("renamed").exists());
    fs::remove_file(dir.join("grown")).expect("removing a damaged file");
    // Nothing of the old content is needed for this.
    write(dir.join("replaced"), "anew");
    assert_eq!(read(dir.join("replaced")), b"anew");
    assert!(is_running(daemon(&env, "v")));

    // Brought back, it is there without another mount.
    write(blob("missing"), content("missing"));
    assert!(read(dir.join("missing")) == content("missing"));
    assert_eq!(told(&mounts_of(&env, "v")[0]).len(), 3);
    env.cvs(["fsck"]).code(3);
    umount(&env, &dir);
}

#[test]
fn a_blob_that_is_cut_off_under_its_readers_is_told_once() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let content = vec![7; 16 << 20];
    ingest(&env, "v", &[("file", &content)]);
    let dir = mount(&env, "v", "v", &["--no-passthrough"]);
    let blob = blob_of(&env, &content);
    let file = File::open(dir.join("file")).expect("opening a file");
    let mut part = [0; 4096];
    let mut read_at = |at: u64| file.read_exact_at(&mut part, at).map(|()| part[0]);
    assert_eq!(read_at(0).expect("reading a whole blob"), 7);
    change_object(&blob, |file| file.set_len(8 << 20).expect("cutting an object"));
    for at in [12, 13, 12, 14].map(|mib: u64| mib << 20) {
        assert_eq!(errno(read_at(at)), Errno::EIO as i32);
    }
    let lines = |text: &str| log_of(&env, "v").lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("run `cvs fsck`"), lines("can be read again")), (1, 0), "{}", log_of(&env, "v"));
    fs::remove_file(&blob).expect("removing an object");
    write(&blob, &content);
    assert_eq!(read_at(12 << 20).expect("reading a blob that was brought back"), 7);
    assert_eq!((lines("run `cvs fsck`"), lines("can be read again")), (1, 1), "{}", log_of(&env, "v"));
    drop(file);
    umount(&env, &dir);
}

#[test]
fn another_byte_of_the_same_length_is_found_by_hashing() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let bytes = vec![1; 100_000];
    ingest(&env, "v", &[("a", &bytes), ("b", b"other")]);
    flip_byte(&blob_of(&env, &bytes));
    let dir = mount(&env, "v", "v", &["--read-only"]);
    assert_eq!(read(dir.join("b")), b"other");
    let report = env.cvs(["fsck", "--json"]).code(3).json();
    assert_eq!(report["damage"][0]["hurts"], serde_json::json!({ "v": ["a"] }));
    let deep = env.cvs(["validate", "v", "--deep", "--offline", "--locked"]).code(3);
    assert!(deep.stdout.contains("damaged"), "{deep}");
}

#[test]
fn a_full_disk_is_told_to_the_writer() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let Some(disk) = available(env.small_disk("disk", 4 << 20)) else { return };
    let large = b"0123456789abcdef".repeat(1 << 19);
    ingest(&env, "v", &[("large", &large), ("small", b"small")]);
    let overlay = disk.join("overlay");
    let flags = ["--overlay", overlay.to_str().expect("temporary directories are UTF-8")];
    let dir = mount(&env, "v", "v", &flags);

    // Larger than the disk: it cannot be copied up, and stays readable.
    let file = File::options().append(true).open(dir.join("large")).expect("opening for writing");
    let appended = (&file).write_all(b"more").and_then(|()| file.sync_all());
    assert_eq!(errno(appended), Errno::ENOSPC as i32);
    drop(file);
    assert!(read(dir.join("large")) == large);
    assert_eq!(upper_and_work(&overlay), BTreeSet::new());

    let mut file = File::create(dir.join("filling")).expect("making a file");
    let filled = (0..64).try_for_each(|_| file.write_all(&[1; 1 << 17])).and_then(|()| file.sync_all());
    assert_eq!(errno(filled), Errno::ENOSPC as i32);
    drop(file);
    // Reading goes on, and so does all else when there is room again.
    assert_eq!(read(dir.join("small")), b"small");
    fs::remove_file(dir.join("filling")).expect("removing a file on a full disk");
    write(dir.join("small"), "changed");
    write(dir.join("new"), vec![2; 1 << 20]);
    umount(&env, &dir);
    mount(&env, "v", "v", &flags);
    assert_eq!(read(dir.join("small")), b"changed");
    assert!(read(dir.join("new")) == vec![2; 1 << 20] && read(dir.join("large")) == large);
    assert!(!dir.join("filling").exists());
    umount(&env, &dir);
    env.cvs(["fsck"]).ok();
}

#[test]
fn a_disk_without_room_for_names_undoes_every_change() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    // On a tmpfs every name counts.
    let Some(disk) = available(env.small_disk_with("disk", "size=4m,nr_inodes=24")) else { return };
    ingest(&env, "v", &[("d/a", b"a"), ("d/b", b"b"), ("e/c", b"c"), ("f", b"f")]);
    let overlay = disk.join("overlay");
    let flags = ["--overlay", overlay.to_str().expect("temporary directories are UTF-8")];
    let dir = mount(&env, "v", "v", &flags);
    write(dir.join("d/kept"), "kept");
    let fillers = (0..).find(|n| fs::write(disk.join(format!("filler{n}")), "").is_err()).unwrap_or_default();
    let before = tree(&dir);
    for (what, result) in [
        ("create", fs::write(dir.join("d/new"), "")),
        ("mkdir", fs::create_dir(dir.join("d/new"))),
        ("symlink", std::os::unix::fs::symlink("to", dir.join("d/new"))),
        ("link", fs::hard_link(dir.join("d/kept"), dir.join("d/new"))),
        (
            "copy-up",
            fs::set_permissions(dir.join("d/a"), std::os::unix::fs::PermissionsExt::from_mode(0o600)),
        ),
        ("copy-up of a directory", fs::write(dir.join("e/new"), "")),
        ("rename", fs::rename(dir.join("d/a"), dir.join("d/new"))),
        ("replace", fs::rename(dir.join("d/a"), dir.join("f"))),
        ("rename of a directory", fs::rename(dir.join("e"), dir.join("new"))),
        ("unlink", fs::remove_file(dir.join("d/b"))),
    ] {
        assert_eq!(errno(result), Errno::ENOSPC as i32, "{what}");
        assert!(tree(&dir) == before, "{what}");
    }
    // Said, but not ten times.
    let log = log_of(&env, "v");
    let said = log.lines().filter(|line| line.contains("No space left on device")).count();
    assert!((1..5).contains(&said), "{log}");
    umount(&env, &dir);
    (0..fillers).for_each(|n| fs::remove_file(disk.join(format!("filler{n}"))).expect("removing a filler"));
    mount(&env, "v", "v", &flags);
    assert!(tree(&dir) == before);
    fs::rename(dir.join("d/a"), dir.join("d/new")).expect("renaming with room");
    fs::remove_file(dir.join("d/b")).expect("unlinking with room");
    umount(&env, &dir);
    env.cvs(["fsck"]).ok();
    assert_objects_are_what_they_are_called(&env);
}

#[test]
fn a_disk_that_becomes_read_only_is_read() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let Some(mut disk) = available(DiskImage::make(&env.path("image"), 16 << 20)) else { return };
    let at = env.path("disk");
    disk.mount(&at, "errors=remount-ro");
    ingest(&env, "v", &[("below", b"below"), ("dir/other", b"other")]);
    let flags = ["--overlay", "disk/overlay"];
    let dir = mount(&env, "v", "v", &flags);
    write(dir.join("written"), "written");
    fs::File::open(dir.join("written")).and_then(|file| file.sync_all()).expect("syncing");
    disk.trigger_error();
    let before = tree(&dir);
    for (what, result) in [
        ("create", fs::write(dir.join("new"), "")),
        ("copy-up", fs::write(dir.join("below"), "changed")),
        ("write", fs::write(dir.join("written"), "changed")),
        ("rename", fs::rename(dir.join("written"), dir.join("new"))),
        ("unlink", fs::remove_file(dir.join("dir/other"))),
    ] {
        assert_eq!(errno(result), Errno::EROFS as i32, "{what}");
    }
    assert!(tree(&dir) == before);
    assert!(log_of(&env, "v").contains("Read-only file system"), "{}", log_of(&env, "v"));
    umount(&env, &dir);
    let refused = env.cvs(["mount", "v", "mnt/v"]).args(flags).code(1);
    assert!(refused.stderr.contains("Read-only file system"), "{refused}");
    // Checked, it is a disk as any other.
    disk.unmount();
    disk.check();
    disk.mount(&at, "errors=remount-ro");
    mount(&env, "v", "v", &flags);
    assert!(tree(&dir) == before);
    write(dir.join("below"), "changed");
    umount(&env, &dir);
    env.cvs(["fsck"]).ok();
}

#[test]
fn an_overlay_that_vanishes_does_not_take_the_rest_along() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("below", b"below"), ("dir/other", b"other")]);
    let dir = mount(&env, "v", "v", &[]);
    write(dir.join("written"), "written");
    let served_by = daemon(&env, "v");
    fs::remove_dir_all(env.home().join("overlays/v")).expect("removing an overlay");
    assert_eq!(read(dir.join("below")), b"below");
    assert_eq!(read(dir.join("dir/other")), b"other");
    assert_eq!(errno(fs::write(dir.join("new"), "")), Errno::ENOENT as i32);
    assert_eq!(errno(fs::write(dir.join("below"), "changed")), Errno::ENOENT as i32);
    assert_eq!(errno(fs::remove_file(dir.join("dir/other"))), Errno::ENOENT as i32);
    assert_eq!(read(dir.join("below")), b"below");
    assert!(is_running(served_by));
    umount(&env, &dir);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("below")), b"below");
    assert!(!dir.join("written").exists());
    umount(&env, &dir);
    assert!(!log_of(&env, "v").contains("panicked"));
    env.cvs(["fsck"]).ok();
}

/// Files with something in them, below the two directories of an overlay.
fn upper_and_work(overlay: &Path) -> BTreeSet<String> {
    let has_bytes =
        |path: &String| fs::metadata(overlay.join(path)).is_ok_and(|m| m.is_file() && m.len() > 0);
    let below = ["upper", "work"].map(|name| {
        tree(&overlay.join(name)).into_keys().map(move |path| format!("{name}/{path}")).collect::<Vec<_>>()
    });
    below.into_iter().flatten().filter(has_bytes).collect()
}

#[test]
fn a_filesystem_without_attributes_holds_no_overlay() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below")]);
    let disk = env.path("disk");
    fs::create_dir(&disk).expect("making a directory");
    let mounted = mount2(Some("ramfs"), &disk, Some("ramfs"), MsFlags::empty(), None::<&str>);
    let mounted = mounted.map_err(|_| Missing("mounting needs CAP_SYS_ADMIN (root)".to_owned()));
    let Some(()) = available(mounted) else { return };
    let output = env.cvs(["mount", "v", "mnt", "--overlay", "disk/overlay"]).code(1);
    assert!(
        env.redact(&output.stderr).starts_with(
            "error: the filesystem of $TEST/disk/overlay has no extended attributes (user.*), which an overlay needs\n\
             hint: place it elsewhere with --overlay DIR or --home DIR\n"
        ),
        "{output}"
    );
    assert_eq!(tree(&env.path("mnt")).len(), 0);
    mount(&env, "v", "v", &["--read-only"]);
}

#[test]
fn the_index_does_not_matter_to_a_mount() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below")]);
    let garbage = || {
        for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            write(env.home().join(name), "garbage");
        }
    };
    garbage();
    let dir = mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("file")), b"below");
    garbage();
    write(dir.join("file"), "changed");
    umount(&env, &dir);
    env.cvs(["fsck"]).ok();
}

#[test]
fn newer_formats_are_refused() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below")]);
    let dir = mount(&env, "v", "v", &[]);
    write(dir.join("written"), "here");
    umount(&env, &dir);

    let overlay_format = env.home().join("overlays/v/format");
    let known = read(&overlay_format);
    write(&overlay_format, "99\n");
    let output = env.cvs(["mount", "v", "mnt/v"]).code(1);
    assert!(
        env.redact(&output.stderr).starts_with(
            "error: the overlay $TEST/cvs/overlays/v has format \"99\", which this version of cvs does not know\n\
             hint: use the version of cvs that wrote it\n"
        ),
        "{output}"
    );
    assert_eq!(read(env.home().join("overlays/v/upper/written")), b"here");
    write(&overlay_format, known);

    let store_format = env.home().join("format");
    let known = read(&store_format);
    for newer in ["{\"format\":2,\"features\":[]}\n", "{\"format\":1,\"features\":[\"packs\"]}\n", "garbage"]
    {
        write(&store_format, newer);
        let before = tree(&env.home());
        for command in [&["mount", "v", "mnt/v"][..], &["fsck"], &["gc", "--grace", "0"], &["mounts"]] {
            let output = env.cvs(command).code(1);
            assert!(
                output.stderr.contains("use the version of cvs that wrote it, or a newer one"),
                "{output}"
            );
        }
        assert!(tree(&env.home()) == before, "something was written into a store of another format");
    }
    write(&store_format, known);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("written")), b"here");
}

#[test]
fn a_damaged_manifest_is_no_version() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below")]);
    ingest(&env, "other", &[("other", b"whole")]);
    let spec: serde_json::Value =
        serde_json::from_slice(&read(env.home().join("versions/v.json"))).expect("a spec is JSON");
    let id = spec["lock"]["comfy"]["manifest"].as_str().expect("a manifest").to_owned();
    flip_byte(&env.home().join("objects/manifest").join(&id[..2]).join(&id[2..]));
    let output = env.cvs(["mount", "v", "mnt/v", "--offline"]).fails();
    assert!(output.stderr.starts_with("core: not in the store\nerror: version v: comfy: "), "{output}");
    assert_eq!(tree(&env.path("mnt/v")).len(), 0);
    let dir = mount(&env, "other", "other", &[]);
    assert_eq!(read(dir.join("other")), b"whole");
    let checked = env.cvs(["fsck"]).code(3);
    assert!(checked.stdout.contains(&id), "{checked}");
}
