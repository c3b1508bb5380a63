//! The ways in which a mount ends: asked for, while it is in use, by somebody else's hand, and by a dead daemon.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use cvs_tests::{Missing, TestEnvironment, available, wait_for, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::mounted::{
    SOON, daemon, errno, fuse, ingest, is_running, kill_and_wait, listed_mounts, mount, mounts_of, read,
    tree, umount, wait_gone, write,
};

fn with_version() -> Option<TestEnvironment> {
    available(fuse())?;
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below"), ("large", &[7; 1 << 20])]);
    Some(env)
}

/// A process that works in a directory until it is killed, which dropping it does.
struct User(Child);

impl User {
    fn of(env: &TestEnvironment, dir: &Path) -> User {
        let mut command = env.command("sleep");
        let child = command.arg("600").current_dir(dir).spawn().expect("starting sleep");
        let user = User(child);
        let comm = format!("/proc/{}/comm", user.0.id());
        wait_until(SOON, "sleep runs", || fs::read(&comm).is_ok_and(|name| name == b"sleep\n"));
        user
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn by_its_path_or_by_its_version() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let daemon = daemon(&env, "v");
    let done = env.cvs(["umount", "mnt/v/"]).ok();
    assert_eq!(done.stderr, format!("v is unmounted from {}\n", dir.display()));
    assert!(!is_running(daemon), "umount waits for the daemon");
    assert_eq!(tree(&dir).len(), 0);

    let [one, two] = ["one", "two"].map(|name| mount(&env, "v", name, &["--read-only"]));
    let done = env.cvs(["umount", "v"]).ok();
    assert_eq!(
        done.stderr,
        format!("v is unmounted from {}\nv is unmounted from {}\n", one.display(), two.display())
    );
    env.cvs(["umount", "v"]).code(1);
    assert_eq!(env.mounts(), Vec::<std::path::PathBuf>::new());
    assert_eq!(env.processes(), Vec::<u32>::new());
}

#[test]
fn a_busy_mount_is_waited_for() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let user = User::of(&env, &dir);
    let name = format!("sleep (pid {})", user.0.id());
    let busy = env.cvs(["umount", "mnt/v", "--wait", "1s"]).code(4);
    let lines: Vec<_> = busy.stderr.lines().collect();
    assert_eq!(lines[0], format!("{} is in use by {name}; waiting", dir.display()));
    assert_eq!(lines[1], format!("error: {} is in use by {name}", dir.display()));
    assert!(lines[2].starts_with("hint: end what uses it, or `cvs umount --lazy"), "{busy}");
    assert_eq!(mounts_of(&env, "v")[0]["state"], "mounted");
    assert_eq!(read(dir.join("file")), b"below");

    // The user goes away while it waits.
    let mut command = env.cvs(["umount", "v", "--wait", "10m"]).into_command();
    let mut waiting = command.stderr(Stdio::piped()).spawn().expect("starting cvs");
    let mut stderr = waiting.stderr.take().expect("a pipe was asked for");
    let mut first = vec![0; lines[0].len() + 1];
    stderr.read_exact(&mut first).expect("reading what umount says");
    assert_eq!(String::from_utf8_lossy(&first), format!("{}\n", lines[0]));
    drop(user);
    let status = wait_for(SOON, "umount ends", || waiting.try_wait().expect("asking for a child"));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("reading what umount says");
    assert_eq!(rest, format!("v is unmounted from {}\n", dir.display()));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn lazily_it_is_out_of_sight_and_serves_who_has_files_open() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let daemon = daemon(&env, "v");
    let below = File::open(dir.join("large")).expect("opening a file");
    let mut written = File::create(dir.join("written")).expect("making a file");
    env.cvs(["umount", "v", "--lazy"]).ok();
    assert_eq!(tree(&dir).len(), 0);
    let mut bytes = vec![0; 1 << 20];
    below.read_exact_at(&mut bytes, 0).expect("reading from a hidden mount");
    assert_eq!(bytes, [7; 1 << 20]);
    written.write_all(b"late").expect("writing to a hidden mount");
    // Its overlay is still written to.
    env.cvs(["mount", "v", "mnt/v"]).code(4);
    drop((below, written));
    wait_gone(daemon);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("written")), b"late");
}

#[test]
fn by_force_it_ends_at_once() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let daemon = daemon(&env, "v");
    let below = File::open(dir.join("large")).expect("opening a file");
    let written = File::create(dir.join("written")).expect("making a file");
    written.write_all_at(b"synced", 0).and_then(|()| written.sync_all()).expect("writing");
    let user = User::of(&env, &dir);
    env.cvs(["umount", "v", "--force"]).ok();
    assert!(!is_running(daemon));
    let error = errno(below.read_at(&mut [0; 100], 0));
    assert!([Errno::ENOTCONN as i32, Errno::ECONNABORTED as i32].contains(&error), "{error}");
    drop((below, written, user));
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("written")), b"synced");
}

/// A process whose request is never answered cannot be killed, so the mount must be what ends it.
#[test]
fn a_stopped_daemon_is_told_and_cleared_by_force() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    write(dir.join("written"), "here");
    kill(served_by, Signal::SIGSTOP).expect("stopping the daemon");
    let waiting = |words: &[&str]| {
        let mut command = env.command(words[0]);
        command.args(&words[1..]).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        User(command.spawn().expect("starting a program"))
    };
    let path = dir.join("new").display().to_string();
    let mut stuck = waiting(&["touch", &path]);
    let wchan = format!("/proc/{}/stack", stuck.0.id());
    wait_until(SOON, "touch waits for the mount", || {
        fs::read_to_string(&wchan).is_ok_and(|stack| stack.contains("fuse"))
    });
    stuck.0.kill().expect("killing touch");

    let listed = env.cvs(["mounts"]).ok();
    let line = format!("warning: {}: its process does not answer", dir.display());
    assert!(listed.stderr.contains(&line), "{listed}");
    assert_eq!(mounts_of(&env, "v")[0]["answers"], false);
    env.cvs(["umount", "mnt/v", "--force"]).ok();
    assert!(!is_running(served_by));
    wait_for(SOON, "touch ends", || stuck.0.try_wait().expect("asking for a child"));
    assert_eq!(mounts_of(&env, "v").len(), 0);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("written")), b"here");
}

#[test]
fn a_stopped_daemon_of_another_store_holds_nobody_up() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    kill(served_by, Signal::SIGSTOP).expect("stopping the daemon");
    assert!(listed_mounts(&env, &["--home", "other", "mounts", "--json"], "v").is_empty());
    env.cvs(["--home", "other", "umount", "--force"]).arg(&dir).ok();
    assert_eq!(tree(&dir).len(), 0);
    // Its own store still knows of the process, and ends it.
    assert_eq!(mounts_of(&env, "v")[0]["state"], "not-attached");
    env.cvs(["umount", "--force", "v"]).ok();
    assert!(!is_running(served_by));
}

#[test]
fn a_stopped_user_is_cleared_by_force() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let user = User::of(&env, &dir);
    let pid = nix::unistd::Pid::from_raw(user.0.id().cast_signed());
    kill(pid, Signal::SIGSTOP).expect("stopping a user");
    let busy = env.cvs(["umount", "v", "--wait", "0"]).code(4);
    assert!(busy.stderr.contains(&format!("in use by sleep (pid {pid})")), "{busy}");
    env.cvs(["umount", "v", "--force"]).ok();
    assert_eq!(mounts_of(&env, "v").len(), 0);
    kill_and_wait(pid, Signal::SIGKILL);
}

#[test]
fn a_dead_mount_is_told_and_cleared() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    write(dir.join("written"), "here");
    let kill_daemon = || kill_and_wait(daemon(&env, "v"), Signal::SIGKILL);
    kill_daemon();
    assert_eq!(errno(fs::read_dir(&dir)), Errno::ENOTCONN as i32);
    let dead = mounts_of(&env, "v");
    assert_eq!(
        (&dead[0]["state"], &dead[0]["pid"], &dead[0]["mountpoint"], dead.len()),
        (&json!("dead"), &json!(null), &json!(dir), 1)
    );
    // Nobody lives there who would need the version or hold the overlay.
    let elsewhere = mount(&env, "v", "elsewhere", &[]);
    umount(&env, &elsewhere);
    umount(&env, &dir);
    assert_eq!(tree(&dir).len(), 0);

    mount(&env, "v", "v", &[]);
    kill_daemon();
    let done = env.cvs(["mount", "v", "mnt/v"]).ok();
    assert_eq!(
        env.redact(&done.stderr),
        "cleared the dead mount at $TEST/mnt/v\nv is mounted at $TEST/mnt/v\n"
    );
    assert_eq!(mounts_of(&env, "v").len(), 1);
    kill_daemon();
    env.cvs(["umount", "v"]).ok();
    assert_eq!(mounts_of(&env, "v").len(), 0);
    env.cvs(["delete", "v"]).ok();
}

#[test]
fn dead_mounts_of_another_store_are_cleared_by_their_path_alone() {
    let Some(env) = with_version() else { return };
    let [ours, theirs] = [mount(&env, "v", "ours", &["--read-only"]), env.path("mnt/theirs")];
    let other = |args: &[&str]| env.cvs(["--home", "other"]).args(args);
    other(&["debug", "ingest", "sources/v", "--as", "v"]).ok();
    other(&["mount", "v", "mnt/theirs"]).ok();
    let listed = listed_mounts(&env, &["--home", "other", "mounts", "--json"], "v");
    let pid = listed[0]["pid"].as_i64().expect("a daemon");
    kill_and_wait(Pid::from_raw(pid as i32), Signal::SIGKILL);

    let done = env.cvs(["umount", "v"]).ok();
    assert_eq!(done.stderr, format!("v is unmounted from {}\n", ours.display()));
    let refused = env.cvs(["umount", "v"]).code(1);
    assert_eq!(
        env.redact(&refused.stderr),
        "error: v is not mounted by this store; the dead mount at $TEST/mnt/theirs is of another\n\
         hint: `cvs umount $TEST/mnt/theirs` clears it\n"
    );
    assert_eq!(errno(fs::read_dir(&theirs)), Errno::ENOTCONN as i32);
    other(&["umount", "v"]).ok();
    assert_eq!(tree(&theirs).len(), 0);
    other(&["umount", "v"]).code(1);
}

#[test]
fn somebody_elses_umount_ends_the_daemon_too() {
    let umount8 = Command::new("umount").arg("--version").stdout(Stdio::null()).status();
    let umount8 = umount8.map(drop).map_err(|error| Missing(format!("umount ({error})")));
    let Some(()) = available(umount8) else { return };
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    write(dir.join("written"), "here");
    let status = env.command("umount").arg(&dir).status().expect("starting umount");
    assert!(status.success());
    wait_gone(served_by);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("written")), b"here");
    // So does the daemon end when it is asked by a signal.
    let served_by = daemon(&env, "v");
    kill(served_by, Signal::SIGTERM).expect("signalling the daemon");
    wait_gone(served_by);
    assert_eq!(tree(&dir).len(), 0);
}

#[test]
fn one_of_another_store_goes_by_its_path() {
    let Some(env) = with_version() else { return };
    // A name that no other test mounts: their dead mounts are told to everybody.
    ingest(&env, "of-one-store", &[("file", b"below")]);
    let dir = mount(&env, "of-one-store", "v", &[]);
    let served_by = daemon(&env, "of-one-store");
    let refused = env.cvs(["--home", "other", "umount", "of-one-store"]).code(1);
    assert!(refused.stderr.contains("of-one-store is neither a mountpoint of cvs nor"), "{refused}");
    assert!(listed_mounts(&env, &["--home", "other", "mounts", "--json"], "of-one-store").is_empty());
    let done = env.cvs(["--home", "other", "umount"]).arg(&dir).ok();
    assert_eq!(done.stderr, format!("of-one-store is unmounted from {}\n", dir.display()));
    wait_gone(served_by);
}

#[test]
fn a_detached_mount_is_not_taken_for_the_one_that_came_to_its_place() {
    let Some(env) = with_version() else { return };
    ingest(&env, "w", &[("other", b"w")]);
    let dir = mount(&env, "v", "dir", &[]);
    let served_by = daemon(&env, "v");
    let open = File::open(dir.join("file")).expect("opening a file");
    env.cvs(["umount", "--lazy", "v"]).ok();
    mount(&env, "w", "dir", &[]);
    let states = || ["v", "w"].map(|id| mounts_of(&env, id)[0]["state"].clone());
    assert_eq!(states(), ["not-attached", "mounted"]);
    env.cvs(["umount", "--lazy", "v"]).ok();
    assert_eq!(states(), ["not-attached", "mounted"]);
    assert_eq!(read(dir.join("other")), b"w");
    let done = env.cvs(["umount", "dir"]).current_dir(env.path("mnt")).ok();
    assert_eq!(done.stderr, format!("w is unmounted from {}\n", dir.display()));
    drop(open);
    wait_gone(served_by);
}

#[test]
fn a_detached_mount_takes_no_younger_one_of_its_version_along() {
    let Some(env) = with_version() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let older = daemon(&env, "v");
    let open = File::open(dir.join("file")).expect("opening a file");
    env.cvs(["umount", "--lazy", "v"]).ok();
    mount(&env, "v", "v", &["--ephemeral"]);
    let told = || mounts_of(&env, "v").iter().map(|of| of["state"].clone()).collect::<Vec<_>>();
    assert_eq!(told(), ["mounted", "not-attached"]);
    // A first signal unmounts what can be seen, a second ends the process whatever is open.
    wait_until(SOON, "the process of the detached mount ends", || {
        let _ = kill(older, Signal::SIGTERM);
        !is_running(older)
    });
    assert_eq!(told(), ["mounted"]);
    assert_eq!(read(dir.join("file")), b"below");
    drop(open);
    umount(&env, &dir);
}

#[test]
fn what_somebody_has_mounted_over_a_mount_stays() {
    let Some(env) = with_version() else { return };
    ingest(&env, "w", &[("other", b"w")]);
    let dir = mount(&env, "v", "dir", &[]);
    let cover =
        || nix::mount::mount(Some("theirs"), &dir, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>);
    let Some(()) = available(cover().map_err(|error| Missing(format!("a tmpfs ({error})")))) else {
        return umount(&env, "v");
    };
    mount(&env, "w", "dir", &[]);
    // The upper one goes, and then nobody waits for the one below, or takes what is between.
    let hidden = env.cvs(["umount", "mnt/dir"]).code(4);
    let expected = "w is unmounted from $TEST/mnt/dir
error: $TEST/mnt/dir is hidden: theirs is mounted over it
hint: take that down first: `umount $TEST/mnt/dir`
";
    assert_eq!(env.redact(&hidden.stderr), expected);
    for flags in [&["--lazy"][..], &["--force"], &[]] {
        env.cvs(["umount", "v"]).args(flags).code(4);
    }
    assert_eq!(env.mounts(), [&*dir, &*dir]);

    // Nor when the ones below and above are dead.
    mount(&env, "w", "dir", &[]);
    for id in ["v", "w"] {
        kill_and_wait(daemon(&env, id), Signal::SIGKILL);
    }
    env.cvs(["umount", "mnt/dir"]).code(4);
    assert_eq!(env.mounts(), [&*dir, &*dir]);
    nix::mount::umount(&dir).expect("unmounting what is ours");
    umount(&env, "mnt/dir");
    assert_eq!(env.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn of_two_that_mount_at_one_place_at_once_one_does() {
    let Some(env) = with_version() else { return };
    for _ in 0..5 {
        let both = thread::scope(|scope| {
            let mount = || env.cvs(["mount", "v", "mnt/v", "--ephemeral"]).output();
            [scope.spawn(mount), scope.spawn(mount)].map(|one| one.join().expect("a thread that mounts"))
        });
        let mut codes = both.each_ref().map(|said| said.code());
        codes.sort();
        assert!(codes == [Some(0), Some(1)] || codes == [Some(0), Some(4)], "{both:?}");
        assert_eq!(mounts_of(&env, "v").len(), 1);
        umount(&env, "mnt/v");
        assert_eq!(env.mounts(), Vec::<std::path::PathBuf>::new());
    }
}
