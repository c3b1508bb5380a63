//! Mounts and users who are not root: somebody else's, and their own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Output, Stdio};

use cvs_tests::{Missing, TestEnvironment, available};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, chown, geteuid};

use crate::mounted::{fuse, ingest, kill_and_wait, mount};

/// Somebody who owns nothing here.
const NOBODY: u32 = 65534;

/// Runs commands as an ordinary user: as somebody else when this is root.
///
/// Where only root may open `/dev/fuse` they get, in a mount namespace of their own, one that is open to all, as it is
/// on the machines of people.
struct Ordinary {
    /// Keeps the namespace.
    namespace: Option<Child>,
}

impl Ordinary {
    fn new(env: &TestEnvironment) -> Result<Ordinary, Missing> {
        fuse()?;
        program("setpriv")?;
        open_to_all(env);
        let mode = fs::metadata("/dev/fuse").expect("looking at /dev/fuse").mode();
        if !geteuid().is_root() || mode & 0o006 == 0o006 {
            return Ok(Ordinary { namespace: None });
        }
        let mut command = env.command("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-euc"]);
        command.arg("mknod -m 666 fuse c 10 229; mount --bind fuse /dev/fuse; echo ready; exec sleep 600");
        let mut child =
            command.stdout(Stdio::piped()).spawn().map_err(|error| Missing(format!("unshare ({error})")))?;
        let mut line = String::new();
        let pipe = child.stdout.take().expect("a pipe was asked for");
        BufReader::new(pipe).read_line(&mut line).expect("reading a pipe");
        if line == "ready\n" {
            return Ok(Ordinary { namespace: Some(child) });
        }
        child.wait().expect("waiting for a child");
        Err(Missing("/dev/fuse for ordinary users (mode 0666), or leave to make one".to_owned()))
    }

    /// Runs a command in the environment's root.
    fn run(&self, env: &TestEnvironment, program: impl AsRef<OsStr>, args: &[&str]) -> Output {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["nsenter", "--target", &namespace.id().to_string(), "--mount"].map(Into::into));
        }
        // Who enters a namespace is in its root.
        words.extend(["sh", "-c", "cd \"$0\" && exec \"$@\""].map(Into::into));
        words.push(env.root().into());
        if geteuid().is_root() {
            let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
            words.push("setpriv".into());
            words.extend(ids.map(Into::into));
            words.push("--clear-groups".into());
        }
        words.push(program.as_ref().to_owned());
        words.extend(args.iter().map(Into::into));
        env.command(&words[0]).args(&words[1..]).output().expect("starting a program")
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        if let Some(child) = &mut self.namespace {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Temporary directories are closed to others.
fn open_to_all(env: &TestEnvironment) {
    fs::set_permissions(env.root(), Permissions::from_mode(0o755)).expect("changing a mode");
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn program(name: &str) -> Result<(), Missing> {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(drop).map_err(|error| Missing(format!("{name} ({error})")))
}

/// A small version, `v`.
fn ingest_small(env: &TestEnvironment) {
    ingest(env, "v", &[("file", b"below"), ("dir/other", b"other")]);
}

#[test]
fn others_use_it_when_they_are_let() {
    let root =
        if geteuid().is_root() { Ok(()) } else { Err(Missing("root, to be somebody else".to_owned())) };
    let env = TestEnvironment::new();
    let ready = root.and_then(|()| fuse()).and_then(|()| program("setpriv"));
    let Some(()) = available(ready) else { return };
    open_to_all(&env);
    // The mount is made by root, so that it does not matter who may open /dev/fuse.
    let other = Ordinary { namespace: None };
    ingest_small(&env);
    let alone = mount(&env, "v", "alone", &["--read-only"]);
    let output = other.run(&env, "cat", &["mnt/alone/file"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    assert!(alone.join("file").exists());

    let shared = mount(&env, "v", "shared", &["--allow-other"]);
    assert_eq!(succeeds(&other.run(&env, "cat", &["mnt/shared/file"])), "below");
    // The modes count: it is not theirs.
    assert!(!other.run(&env, "touch", &["mnt/shared/file"]).status.success());
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("changing a mode");
    succeeds(&other.run(&env, "touch", &["mnt/shared/theirs"]));
    let theirs = fs::metadata(shared.join("theirs")).expect("looking at a file");
    assert_eq!((theirs.uid(), theirs.gid()), (NOBODY, NOBODY));
}

#[test]
fn an_ordinary_user_mounts() {
    let mut env = TestEnvironment::new();
    let ordinary = program("fusermount3").and_then(|()| Ordinary::new(&env));
    let Some(ordinary) = available(ordinary) else { return };
    let binary = env.path("cvs-program");
    fs::copy(env.cvs([""]).into_command().get_program(), &binary).expect("copying cvs");
    for dir in ["theirs", "theirs/home", "theirs/mnt"] {
        fs::create_dir_all(env.path(dir)).expect("making a directory");
        if geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            chown(&env.path(dir), Some(uid), Some(gid)).expect("giving a directory away");
        }
    }
    for (name, below) in
        [("HOME", "theirs/home"), ("TMPDIR", "theirs/home"), ("XDG_RUNTIME_DIR", "theirs/home")]
    {
        env.set_var(name, env.path(below));
    }
    env.write("source/file", "below");
    env.write("source/dir/other", "other");
    let cvs = |args: &[&str]| ordinary.run(&env, &binary, &[&["--home", "theirs/cvs"], args].concat());
    let shell = |script: &str| ordinary.run(&env, "sh", &["-euc", script]);

    succeeds(&cvs(&["debug", "ingest", "source", "--as", "v"]));
    succeeds(&cvs(&["mount", "v", "theirs/mnt"]));
    assert_eq!(succeeds(&shell("cat theirs/mnt/file")), "below");
    succeeds(&shell(
        "echo changed > theirs/mnt/file; mkdir theirs/mnt/new; mv theirs/mnt/dir theirs/mnt/new/",
    ));
    assert!(succeeds(&cvs(&["mounts"])).contains("mounted"));
    succeeds(&cvs(&["umount", "theirs/mnt"]));
    assert_eq!(succeeds(&shell("ls theirs/mnt")), "");
    succeeds(&cvs(&["mount", "v", "theirs/mnt"]));
    assert_eq!(succeeds(&shell("cat theirs/mnt/file theirs/mnt/new/dir/other")), "changed\nother");

    // A dead mount of theirs is theirs to clear.
    let mounts = succeeds(&cvs(&["mounts", "--json"]));
    let mounts: serde_json::Value = serde_json::from_str(&mounts).expect("JSON");
    let pid = mounts[0]["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("a pid");
    kill_and_wait(Pid::from_raw(pid), Signal::SIGKILL);
    assert!(succeeds(&cvs(&["mounts"])).contains("dead"));
    succeeds(&cvs(&["mount", "v", "theirs/mnt"]));
    assert_eq!(succeeds(&shell("cat theirs/mnt/file")), "changed\n");
    succeeds(&cvs(&["umount", "v"]));
    succeeds(&cvs(&["fsck"]));
}
