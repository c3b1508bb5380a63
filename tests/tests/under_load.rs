//! Many at once, and many things held: no deadlock, and nothing is held when nobody holds it any more. What a mount
//! holds is what `cvs mounts --stats` says.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cvs_tests::{TestEnvironment, available, wait_for, wait_until};
use nix::errno::Errno;
use serde_json::Value;

use crate::chance::long;
use crate::mounted::{
    SOON, assert_objects_are_what_they_are_called, errno, fuse, ingest, listed_mounts, log_of, mount, read,
    tree, umount, write,
};

/// What `cvs mounts --stats` says of the only mount.
#[track_caller]
fn stats(env: &TestEnvironment) -> Value {
    let all = listed_mounts(env, &["mounts", "--stats", "--json"], "v");
    assert_eq!((&all[0]["answers"], all.len()), (&Value::Bool(true), 1), "{all:?}");
    all[0]["stats"].clone()
}

#[track_caller]
fn figure(stats: &Value, name: &str) -> i64 {
    stats[name].as_i64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// Waits until the mount holds no more than it did: what is closed goes back to the daemon when the kernel gets to it.
#[track_caller]
fn wait_for_baseline(env: &TestEnvironment, before: &Value) {
    let names = ["nodes", "unlinked_in_use", "open_files", "held_by_kernel", "copying_up"];
    // What is kept open to be used again is bounded, and no leak.
    let kept = |of: &Value| -> i64 {
        ["open_files", "open_directories", "open_objects"].iter().map(|name| figure(of, name)).sum()
    };
    let descriptors = |of: &Value| figure(of, "descriptors") - kept(of);
    wait_until(SOON, &format!("the mount holds what it held before: {before}"), || {
        let after = stats(env);
        let back = names.iter().all(|name| figure(&after, name) <= figure(before, name))
            && descriptors(&after) <= descriptors(before);
        if !back {
            eprintln!("{after}");
        }
        back
    });
    let grown = figure(&stats(env), "memory") - figure(before, "memory");
    assert!(grown < 16 << 20, "{grown} bytes more than before");
}

fn assert_clean(env: &TestEnvironment, version: &str) {
    let log = log_of(env, version);
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    env.cvs(["fsck"]).ok();
    assert_objects_are_what_they_are_called(env);
}

#[test]
fn a_thousand_open_files_outlive_copy_up_rename_and_unlink() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    const COUNT: usize = 1000;
    let content = |n: usize| format!("content of {n}").into_bytes();
    let files: Vec<(String, Vec<u8>)> =
        (0..COUNT).map(|n| (format!("d{}/f{n}", n % 7), content(n))).collect();
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    ingest(&env, "v", &listed);
    let dir = mount(&env, "v", "v", &[]);
    // Directories are looked at, copied up and written to before.
    for n in 0..7 {
        write(dir.join(format!("d{n}/warm")), "");
        fs::remove_file(dir.join(format!("d{n}/warm"))).expect("removing a file");
    }
    fs::create_dir(dir.join("moved")).expect("making a directory");
    tree(&dir);
    let before = stats(&env);

    let open =
        |path: &str| File::options().read(true).write(true).open(dir.join(path)).expect("opening a file");
    let handles: Vec<File> = files.iter().map(|(path, _)| open(path)).collect();
    let numbers: Vec<u64> =
        handles.iter().map(|file| file.metadata().expect("looking at it").ino()).collect();
    for (n, file) in handles.iter().enumerate() {
        // A third each: copied up by its own handle, by another, and not at all before it goes.
        match n % 3 {
            0 => file.write_all_at(b"C", 0).expect("writing"),
            1 => open(&files[n].0).write_all_at(b"C", 0).expect("writing"),
            _ => {}
        }
        fs::rename(dir.join(&files[n].0), dir.join(format!("moved/{n}"))).expect("renaming an open file");
        fs::remove_file(dir.join(format!("moved/{n}"))).expect("removing an open file");
    }
    assert_eq!(figure(&stats(&env), "unlinked_in_use"), COUNT as i64);
    for (n, file) in handles.iter().enumerate() {
        let mut expected = content(n);
        if n % 3 != 2 {
            expected[0] = b'C';
        }
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).expect("reading an unlinked file");
        assert_eq!(found, expected, "{n}");
        file.write_all_at(b"end", expected.len() as u64).expect("writing to an unlinked file");
        let metadata = file.metadata().expect("looking at an unlinked file");
        assert_eq!(
            (metadata.nlink(), metadata.ino(), metadata.len()),
            (0, numbers[n], expected.len() as u64 + 3)
        );
    }
    drop(handles);
    // The view's files are hidden now, which their directories remember.
    wait_for_baseline(&env, &before);
    umount(&env, &dir);
    assert_clean(&env, "v");
}

/// A program that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hammer(dir: &Path, time: Duration) -> u64 {
    let start = |seed: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hammer"));
        command.arg(dir).args([seed.to_string(), time.as_millis().to_string()]);
        Running(command.stdout(Stdio::piped()).spawn().expect("starting a hammer"))
    };
    let mut running: Vec<Running> = (0..16).map(start).collect();
    let mut done = 0;
    for child in &mut running {
        let status =
            wait_for(time + 3 * SOON, "a hammer ends", || child.0.try_wait().expect("asking for a child"));
        assert!(status.success(), "{status}");
        let said = std::io::read_to_string(child.0.stdout.take().expect("a pipe")).expect("reading a pipe");
        done += said.trim().parse::<u64>().expect("a number");
    }
    done
}

#[test]
fn sixteen_processes_in_one_directory() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let files: Vec<(String, &[u8])> = (0..8).map(|n| (format!("d/n{n}"), &b"below"[..])).collect();
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
    ingest(&env, "v", &listed);
    let dir = mount(&env, "v", "v", &[]);
    let clean = |path: &Path| {
        for entry in fs::read_dir(path).expect("listing a directory") {
            let path = entry.expect("listing a directory").path();
            let is_dir = path.symlink_metadata().expect("looking at a file").is_dir();
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("removing {}: {error}", path.display()));
        }
    };
    // Once to warm up: what a mount keeps for good, threads and buffers, it has then.
    hammer(&dir.join("d"), Duration::from_secs(1));
    clean(&dir.join("d"));
    let before = stats(&env);
    let time = if long() { Duration::from_secs(180) } else { Duration::from_secs(4) };
    let done = hammer(&dir.join("d"), time);
    eprintln!("{done} operations in {time:?}");
    clean(&dir.join("d"));
    wait_for_baseline(&env, &before);
    assert_eq!(tree(&dir.join("d")).len(), 0);
    umount(&env, &dir);
    mount(&env, "v", "v", &[]);
    assert_eq!(tree(&dir.join("d")).len(), 0);
    umount(&env, &dir);
    assert_clean(&env, "v");
}

#[test]
fn few_descriptors_are_enough() {
    let prlimit = Command::new("prlimit").arg("--version").stdout(Stdio::null()).status();
    let prlimit = prlimit.map(drop).map_err(|error| cvs_tests::Missing(format!("prlimit ({error})")));
    let (Some(()), Some(())) = (available(fuse()), available(prlimit)) else { return };
    let env = TestEnvironment::new();
    let files: Vec<(String, Vec<u8>)> =
        (0..400).map(|n| (format!("d{}/f{n}", n % 40), format!("{n}").into_bytes())).collect();
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    ingest(&env, "v", &listed);
    let dir = env.path("mnt/v");
    let at = dir.to_str().expect("temporary directories are UTF-8");
    env.cvs_behind(&["prlimit", "--nofile=128:128"], &["mount", "v", at]).ok();
    for (path, bytes) in &files {
        assert!(read(dir.join(path)) == *bytes, "{path}");
        write(dir.join(path), "changed");
        write(dir.join(format!("{path}.new")), bytes);
    }
    assert_eq!(figure(&stats(&env), "descriptors_limit"), 128);
    // More unlinked files in use than there can be descriptors: some must stay, and all can be read.
    let open: Vec<File> = files
        .iter()
        .map(|(path, _)| File::open(dir.join(format!("{path}.new"))).expect("opening a file"))
        .collect();
    let results: Vec<_> =
        files.iter().map(|(path, _)| fs::remove_file(dir.join(format!("{path}.new")))).collect();
    let refused = results.into_iter().filter_map(Result::err).map(|error| errno::<()>(Err(error)));
    let refused: Vec<i32> = refused.collect();
    assert!((300..400).contains(&refused.len()), "{} refused", refused.len());
    assert!(refused.iter().all(|number| *number == Errno::EMFILE as i32), "{refused:?}");
    for (file, (path, bytes)) in open.iter().zip(&files) {
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, 0).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(found == *bytes, "{path}");
    }
    drop(open);
    wait_until(SOON, "descriptors are given back", || fs::write(dir.join("room"), "").is_ok());
    for (path, _) in &files {
        let new = dir.join(format!("{path}.new"));
        if new.exists() {
            wait_until(SOON, "a file can be removed", || fs::remove_file(&new).is_ok());
        }
        assert!(read(dir.join(path)) == b"changed", "{path}");
    }
    assert!(log_of(&env, "v").contains("Too many open files"), "{}", log_of(&env, "v"));
    umount(&env, &dir);
    env.cvs(["fsck"]).ok();
}
