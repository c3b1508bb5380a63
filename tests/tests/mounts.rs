//! The flags of `cvs mount`, what it refuses, and what a mount needs and keeps.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cvs_tests::{TestEnvironment, available, wait_for, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli_world::World;
use crate::mounted::{
    SOON, daemon, errno, fuse, ingest, kill_and_wait, mount, mounts_of, read, tree, umount, wait_gone, write,
};

/// An environment with a small version, `v`.
fn with_version() -> Option<TestEnvironment> {
    available(fuse())?;
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below"), ("dir/other", b"other"), ("empty", b"")]);
    Some(env)
}

fn upper(env: &TestEnvironment) -> PathBuf {
    env.home().join("overlays/v/upper")
}

#[test]
fn in_the_foreground_signals_unmount() {
    let Some(env) = with_version() else { return };
    let dir = env.path("mnt/v");
    for (number, signal) in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().enumerate() {
        let mut command = env.cvs(["mount", "v", "--foreground"]).arg(&dir).into_command();
        let mut child = command.stderr(Stdio::null()).spawn().expect("starting cvs");
        wait_until(SOON, "it is mounted", || dir.join("file").exists());
        assert_eq!(mounts_of(&env, "v")[0]["pid"], child.id());
        write(dir.join(format!("written{number}")), "here");
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signalling a child");
        let status = wait_for(SOON, "it ends", || child.try_wait().expect("asking for a child"));
        assert_eq!(status.code(), Some(0), "{signal}");
        assert_eq!(tree(&dir).len(), 0);
        assert_eq!(mounts_of(&env, "v").len(), 0);
        assert_eq!(tree(&upper(&env)).len(), number + 1);
    }
}

#[test]
fn a_signal_while_files_are_open_hides_the_mount_until_they_are_closed() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let daemon = daemon(&env, "v");
    let mut file = File::create(dir.join("open")).expect("making a file");
    kill(daemon, Signal::SIGTERM).expect("signalling the daemon");
    let is_empty = || fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
    wait_until(SOON, "it is out of sight", is_empty);
    assert_eq!(mounts_of(&env, "v")[0]["state"], "not-attached");
    file.write_all(b"to the end").expect("writing to a hidden mount");
    drop(file);
    wait_gone(daemon);
    assert_eq!(read(upper(&env).join("open")), b"to the end");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let daemon = daemon(&env, "v");
    let mut file = File::create(dir.join("open")).expect("making a file");
    file.write_all(b"synced").and_then(|()| file.sync_all()).expect("writing");
    kill(daemon, Signal::SIGTERM).expect("signalling the daemon");
    wait_until(SOON, "it is out of sight", || mounts_of(&env, "v")[0]["state"] == "not-attached");
    kill_and_wait(daemon, Signal::SIGTERM);
    assert_eq!(errno(file.sync_all()), Errno::ENOTCONN as i32);
    assert_eq!(mounts_of(&env, "v").len(), 0);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("open")), b"synced");
}

#[test]
fn read_only_shows_what_is_specified_and_nothing_else() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "writable", &[]);
    write(dir.join("written"), "here");
    fs::remove_file(dir.join("file")).expect("removing a file");
    let read_only = mount(&env, "v", "read-only", &["--read-only"]);
    assert_eq!(read(read_only.join("file")), b"below");
    assert!(!read_only.join("written").exists());
    for result in [
        fs::write(read_only.join("new"), "x"),
        fs::write(read_only.join("file"), "x"),
        fs::remove_file(read_only.join("file")),
        fs::create_dir(read_only.join("new")),
        fs::rename(read_only.join("file"), read_only.join("dir/file")),
    ] {
        assert_eq!(errno(result), Errno::EROFS as i32);
    }
    let modes: Vec<_> = mounts_of(&env, "v").iter().map(|entry| entry["read_only"].clone()).collect();
    assert_eq!(modes, [true, false]);
    umount(&env, "v");
    assert_eq!(mounts_of(&env, "v").len(), 0);
    assert!(tree(&dir).is_empty() && tree(&read_only).is_empty());
}

#[test]
fn an_ephemeral_mount_leaves_nothing() {
    let Some(env) = with_version() else { return };
    for killed in [false, true] {
        let dir = mount(&env, "v", "v", &["--ephemeral"]);
        write(dir.join("written"), "here");
        fs::remove_file(dir.join("file")).expect("removing a file");
        assert_eq!(tree(&dir).len(), 4);
        if killed {
            kill_and_wait(daemon(&env, "v"), Signal::SIGKILL);
        }
        umount(&env, &dir);
        assert!(!env.home().join("overlays/v").exists());
        env.cvs(["gc"]).ok();
        assert_eq!(tree(&env.home().join("run/leases")).len(), 0);
        let dir = mount(&env, "v", "v", &[]);
        assert_eq!(tree(&dir).len(), 4);
        umount(&env, &dir);
        fs::remove_dir_all(env.home().join("overlays/v")).expect("removing an overlay");
    }
}

#[test]
fn an_overlay_can_lie_elsewhere() {
    let Some(env) = with_version() else { return };
    for _ in 0..2 {
        // Relative to where the command runs.
        let dir = mount(&env, "v", "v", &["--overlay", "elsewhere"]);
        write(dir.join("file"), "changed");
        umount(&env, &dir);
    }
    assert_eq!(read(env.path("elsewhere/upper/file")), b"changed");
    assert!(!upper(&env).exists());
    let plain = mount(&env, "v", "v", &[]);
    assert_eq!(read(plain.join("file")), b"below");
    let beside = mount(&env, "v", "beside", &["--overlay", "elsewhere"]);
    assert_eq!(read(beside.join("file")), b"changed");
}

#[test]
fn one_overlay_has_one_writer() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let pid = daemon(&env, "v");
    let refused = env.cvs(["mount", "v", "mnt/second"]).code(4);
    let overlay = env.home().join("overlays/v");
    let expected = format!("error: the overlay {} is in use by process {pid}\n", overlay.display());
    assert!(refused.stderr.starts_with(&expected), "{refused}");
    assert_eq!(tree(&env.path("mnt/second")).len(), 0);
    for flags in [&["--read-only"][..], &["--ephemeral"], &["--overlay", "elsewhere"]] {
        let other = mount(&env, "v", "second", flags);
        assert_eq!(read(other.join("file")), b"below");
        umount(&env, &other);
    }
    umount(&env, &dir);
    mount(&env, "v", "second", &[]);
}

#[test]
fn places_where_nothing_can_be_mounted() {
    let Some(env) = with_version() else { return };
    env.write("full/file", "x");
    env.write("plain", "x");
    mount(&env, "v", "v", &["--read-only"]);
    for (version, dir, code, message) in [
        (
            "v",
            "mnt/v",
            4,
            "$TEST/mnt/v is a mountpoint already: cvs:v\nhint: `cvs umount $TEST/mnt/v` takes it down, or mount elsewhere\n",
        ),
        (
            "v",
            "full",
            1,
            "$TEST/full is not empty, and a mount would hide what is in it\nhint: name an empty directory, or one that does not exist yet\n",
        ),
        ("v", "plain", 1, "plain is not a directory\n"),
        ("v", "plain/below", 1, "cannot create plain/below: Not a directory (os error 20)\n"),
        (
            "unknown",
            "mnt/unknown",
            1,
            "there is no version \"unknown\" in $TEST/cvs/versions\nhint: `cvs list` shows the versions that there are\n",
        ),
    ] {
        let output = env.cvs(["mount", version, dir]).code(code);
        assert_eq!(env.redact(&output.stderr), format!("error: {message}"), "{version} {dir}");
    }
    assert!(!env.path("mnt/unknown").exists(), "an unknown version makes no mountpoint");
    let output = env.cvs(["umount", "mnt"]).code(1);
    assert_eq!(
        output.stderr,
        "error: mnt is neither a mountpoint of cvs nor a version that is mounted\nhint: `cvs mounts` lists what is \
         mounted\n"
    );
}

#[test]
fn mount_brings_the_lock_up_to_date_and_says_so() {
    let Some(()) = available(fuse()) else { return };
    let world = World::new();
    world.create("portrait");
    world.edit_spec("portrait", "\"v0.1.0\"", "\"v0.2.0\"");
    let dir = world.env.path("mnt");
    let refused = world.cvs(&["mount", "portrait", "mnt", "--locked"]).code(1);
    assert!(
        refused.stderr.contains("the lock is out of date, and --locked forbids to change it"),
        "{refused}"
    );
    let done = world.cvs(&["mount", "portrait", "mnt"]).ok();
    let lines: Vec<_> = done.stderr.lines().filter(|line| line.contains("portrait")).collect();
    assert!(lines[0].starts_with("brought up to date: portrait: "), "{done}");
    assert_eq!(*lines[1], format!("portrait is mounted at {}", dir.display()));
    let node = String::from_utf8(read(dir.join("custom_nodes/plain/__init__.py"))).expect("a text");
    assert!(node.contains("VERSION = \"0.2.0\""), "{node}");
    umount(&world.env, &dir);
    // The second time there is nothing to say, and nobody to ask.
    world.git.http().forget_requests();
    let done = world.cvs(&["mount", "portrait", "mnt", "--locked"]).ok();
    assert_eq!(done.stderr, format!("portrait is mounted at {}\n", dir.display()));
    assert_eq!(world.git.http().requests().len(), 0);
}

#[test]
fn a_mount_keeps_what_it_needs() {
    let Some(env) = with_version() else { return };
    ingest(&env, "other", &[("only-here", b"for nobody else")]);
    let dir = mount(&env, "v", "v", &[]);
    let output = env.cvs(["delete", "v"]).code(4);
    assert!(output.stderr.contains("hint: end it first: `cvs stop`"), "{output}");
    for id in ["v", "other"] {
        fs::rename(env.home().join(format!("versions/{id}.json")), env.path(id)).expect("moving a spec away");
    }
    let freed = env.cvs(["gc", "--grace", "0", "--json"]).ok().json();
    assert_eq!(freed["deleted_objects"], 2, "a blob and a manifest of the other: {freed}");
    assert_eq!(read(dir.join("file")), b"below");
    assert_eq!(read(dir.join("dir/other")), b"other");
    fs::rename(dir.join("dir"), dir.join("moved")).expect("renaming a directory of the view");
    umount(&env, &dir);
    let freed = env.cvs(["gc", "--grace", "0", "--json"]).ok().json();
    assert_eq!(freed["deleted_objects"], 4);
}

#[test]
fn a_hundred_thousand_entries() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    env.cvs(["debug", "synth", "many", "--entries", "100000"]).ok();
    let start = Instant::now();
    let dir = mount(&env, "many", "many", &[]);
    // The aim is a tenth of a second with an optimised program on an idle machine; this is neither.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let mut files = 0;
    for outer in fs::read_dir(&dir).expect("listing the mount").flatten() {
        for inner in fs::read_dir(outer.path()).expect("listing a directory").flatten() {
            files += fs::read_dir(inner.path()).expect("listing a directory").count();
        }
    }
    assert_eq!(files, 100_000);
    assert_eq!(read(dir.join("d9/d99/file042")), b"042");
    write(dir.join("d9/d99/file042"), "changed");
    let moved = env.command("mv").args([dir.join("d3"), dir.join("e3")]).status();
    assert!(moved.expect("starting mv").success());
    umount(&env, &dir);
    // Ten thousand files went by two entries.
    let upper: Vec<_> = tree(&env.home().join("overlays/many/upper")).into_keys().collect();
    assert_eq!(upper, ["d3", "d9", "d9/d99", "d9/d99/file042", "e3"]);
    let dir = mount(&env, "many", "many", &[]);
    assert_eq!(read(dir.join("d9/d99/file042")), b"changed");
    assert_eq!(read(dir.join("e3/d0/file099")), b"099");
    assert!(!dir.join("d3").exists());
}

#[test]
fn names_of_directories_are_any_bytes() {
    let Some(()) = available(fuse()) else { return };
    let mut env = TestEnvironment::new();
    for odd in [&b"a b\nc\td\\e\\040"[..], b"\xff \xfe"] {
        let name = OsStr::from_bytes(odd);
        env.set_var("CVS_HOME", env.path("homes").join(name));
        env.write("source/file", "below");
        env.cvs(["debug", "ingest", "source", "--as", "v"]).ok();
        let dir = env.path("mnt").join(name);
        env.cvs(["mount", "v"]).arg(&dir).ok();
        assert_eq!(read(dir.join("file")), b"below");
        let mounts = env.cvs(["mounts", "--json"]).ok().json();
        let expected = match dir.to_str() {
            Some(text) => serde_json::json!(text),
            None => serde_json::json!(dir.as_os_str().as_bytes()),
        };
        assert_eq!((&mounts[0]["mountpoint"], &mounts[0]["state"]), (&expected, &"mounted".into()));
        env.cvs(["umount"]).arg(&dir).ok();
        assert_eq!(tree(&dir).len(), 0);
        for command in [&["show", "v"][..], &["clone", "v", "w"], &["doctor"], &["delete", "v", "w"]] {
            env.cvs(command).arg("--json").ok().json();
        }
    }
}
