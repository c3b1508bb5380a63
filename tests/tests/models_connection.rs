//! The models connection of a mount: when there is one, what is said of it, and how both connections end.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use cvs_tests::{Missing, TestEnvironment, available, wait_until};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::mounted::{
    SOON, daemon, errno, fuse, ingest, is_running, kill_and_wait, log_of, mount, mounts_of, read, tree,
    umount, wait_gone, write,
};
use crate::ordinary::{Ordinary, program, succeeds};

const MODEL: &[u8] = &[7; 300_000];

fn one_connection(reason: &str) -> Value {
    json!({ "form": "one-connection", "reason": reason })
}

fn form(env: &TestEnvironment, id: &str) -> Value {
    mounts_of(env, id)[0]["models"].clone()
}

/// An environment with a version `v` that has a model, where its mounts have two connections.
fn with_passthrough() -> Option<TestEnvironment> {
    available(fuse())?;
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below"), ("models/model", MODEL)]);
    mount(&env, "v", "try", &[]);
    let found = form(&env, "v");
    umount(&env, "v");
    let passthrough = match found["reason"].as_str() {
        None => Ok(()),
        Some(reason) => Err(Missing(format!("passthrough ({reason})"))),
    };
    available(passthrough)?;
    Some(env)
}

fn detach(path: &Path) {
    umount2(path, MntFlags::empty()).unwrap_or_else(|error| panic!("unmounting {}: {error}", path.display()));
}

#[test]
fn the_form_is_told() {
    let Some(env) = with_passthrough() else { return };
    ingest(&env, "none", &[("file", b"below")]);
    ingest(&env, "file", &[("models", b"a file")]);
    symlink("elsewhere", env.path("sources/none/models")).expect("making a symlink");
    env.cvs(["debug", "ingest", "sources/none", "--as", "link"]).ok();
    let passthrough = json!({ "form": "passthrough" });
    let no_directory = one_connection("there is no directory models");
    for (id, flags, expected) in [
        ("v", &[][..], &passthrough),
        ("v", &["--read-only"], &passthrough),
        ("v", &["--ephemeral"], &passthrough),
        ("v", &["--no-passthrough"], &one_connection("passthrough is turned off")),
        ("none", &[], &no_directory),
        ("file", &[], &no_directory),
        ("link", &[], &no_directory),
    ] {
        let dir = mount(&env, id, "mnt", flags);
        assert_eq!(&form(&env, id), expected, "{id} {flags:?}");
        let listed = env.cvs(["mounts"]).ok();
        let (word, line) = match expected["reason"].as_str() {
            None => ("passthrough", String::new()),
            Some(reason) => ("one connection", format!("{} has one connection: {reason}\n", dir.display())),
        };
        assert!(listed.stdout.contains(word), "{listed}");
        assert_eq!(listed.stderr, line);
        let log = log_of(&env, id);
        let logged = expected["reason"].as_str().map_or("with passthrough", |reason| reason);
        assert!(log.lines().last().is_some_and(|line| line.contains(logged)), "{log}");
        if id == "v" {
            assert_eq!(read(dir.join("models/model")), MODEL);
        }
        umount(&env, id);
        assert_eq!(env.mounts(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn without_the_capability_there_is_one_connection() {
    let mut env = TestEnvironment::new();
    let ordinary = program("fusermount3").and_then(|()| Ordinary::new(&env));
    let Some(ordinary) = available(ordinary) else { return };
    ordinary.settle(&mut env);
    env.write("source/models/model", MODEL);
    let cvs = |args: &[&str]| succeeds(&ordinary.cvs(&env, args));
    cvs(&["debug", "ingest", "source", "--as", "v"]);
    cvs(&["mount", "v", "theirs/mnt"]);
    let mounts: Value = serde_json::from_str(&cvs(&["mounts", "--json"])).expect("JSON");
    let reason = "passthrough needs CAP_SYS_ADMIN, and that outside of user namespaces";
    assert_eq!(mounts[0]["models"], one_connection(reason));
    let size = succeeds(&ordinary.run(&env, "sh", &["-euc", "cat theirs/mnt/models/model | wc -c"]));
    assert_eq!(size.trim(), "300000");
    cvs(&["umount", "v"]);
}

#[test]
fn root_of_a_user_namespace_has_one_connection() {
    let Some(env) = with_passthrough() else { return };
    let new_namespaces = ["--user", "--map-root-user", "--mount"];
    let possible = Command::new("unshare").args(new_namespaces).arg("true").status();
    let possible = match possible {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Missing(format!("user namespaces (unshare: {status})"))),
        Err(error) => Err(Missing(format!("unshare ({error})"))),
    };
    let Some(()) = available(possible) else { return };
    let program = env.cvs([""]).into_command().get_program().to_owned();
    let script = "\"$0\" mount v mnt/inside && \"$0\" mounts --json && cat mnt/inside/models/model | wc -c \
                  && \"$0\" umount v";
    let mut command = env.command("unshare");
    command.args(new_namespaces).args(["sh", "-euc", script]).arg(program);
    let output = command.output().expect("starting unshare");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("CAP_SYS_ADMIN, and that outside of user namespaces"), "{output:?}");
    assert!(said.trim_end().ends_with("300000"), "{output:?}");
}

#[test]
fn both_connections_end_together() {
    let Some(env) = with_passthrough() else { return };
    let dir = mount(&env, "v", "v", &[]);
    assert_eq!(env.mounts().len(), 2);
    let served_by = daemon(&env, "v");
    // Its own models connection is no mount of its own.
    env.cvs(["umount"]).arg(dir.join("models")).code(1);
    let mounts = mounts_of(&env, "v");
    assert_eq!(mounts.len(), 1, "{mounts:?}");

    // While a model is open, neither goes.
    let open = File::open(dir.join("models/model")).expect("opening a model");
    env.cvs(["umount", "v", "--wait", "0s"]).code(4);
    assert_eq!(form(&env, "v"), json!({ "form": "passthrough" }));
    assert_eq!(env.mounts().len(), 2);
    drop(open);
    // Nor while something of the tree is.
    let open = File::open(dir.join("file")).expect("opening a file");
    env.cvs(["umount", "v", "--wait", "0s"]).code(4);
    assert_eq!(form(&env, "v"), json!({ "form": "passthrough" }));
    drop(open);
    umount(&env, "v");
    assert!(!is_running(served_by));
    assert_eq!(env.mounts().len(), 0);
    assert_eq!(tree(&dir).len(), 0);
}

#[test]
fn one_that_was_taken_down_by_hand_leaves_a_whole_mount() {
    let Some(env) = with_passthrough() else { return };
    let dir = mount(&env, "v", "v", &[]);
    write(dir.join("models/new"), "new");
    write(dir.join("models/model"), "changed");
    detach(&dir.join("models"));
    let model = dir.join("models/model");
    wait_until(SOON, "the tree connection shows models", || model.exists());
    assert_eq!(form(&env, "v"), one_connection("the models connection has been unmounted"));
    assert_eq!((read(dir.join("models/new")), read(&model)), (b"new".to_vec(), b"changed".to_vec()));
    fs::rename(&model, dir.join("model")).expect("no boundary is left");
    umount(&env, "v");

    // Detached while a model is open: it is read to its end, and so long nobody else sees the directory.
    let dir = mount(&env, "v", "v", &[]);
    let open = File::open(dir.join("models/new")).expect("opening a model");
    umount2(&dir.join("models"), MntFlags::MNT_DETACH).expect("detaching");
    assert_eq!(errno(fs::read(dir.join("models/new"))), Errno::EBUSY as i32);
    let mut bytes = [0; 3];
    open.read_exact_at(&mut bytes, 0).expect("reading what is detached");
    drop(open);
    wait_until(SOON, "the tree connection shows models", || dir.join("models/new").exists());
    let served_by = daemon(&env, "v");
    umount(&env, "v");
    assert!(!is_running(served_by));
}

#[test]
fn lazily_and_by_force_with_a_model_open() {
    let Some(env) = with_passthrough() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    let open = File::open(dir.join("models/model")).expect("opening a model");
    env.cvs(["umount", "v", "--lazy"]).ok();
    assert_eq!(env.mounts().len(), 0);
    let mut bytes = vec![0; MODEL.len()];
    open.read_exact_at(&mut bytes, 0).expect("reading what is detached");
    assert_eq!(bytes, MODEL);
    assert!(is_running(served_by), "its lease keeps the model");
    drop(open);
    wait_gone(served_by);

    let dir = mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    let open = File::open(dir.join("models/model")).expect("opening a model");
    env.cvs(["umount", "v", "--force"]).ok();
    assert!(!is_running(served_by));
    assert_eq!(env.mounts().len(), 0);
    // The kernel reads by itself what it was given.
    open.read_exact_at(&mut bytes, 0).expect("reading what the kernel has");
    assert_eq!(errno(open.sync_all()), Errno::ENOTCONN as i32);
}

#[test]
fn signals_take_both_down() {
    let Some(env) = with_passthrough() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    kill(served_by, Signal::SIGTERM).expect("signalling the daemon");
    wait_gone(served_by);
    assert_eq!(env.mounts().len(), 0);

    mount(&env, "v", "v", &[]);
    let served_by = daemon(&env, "v");
    let open = File::open(dir.join("models/model")).expect("opening a model");
    kill(served_by, Signal::SIGTERM).expect("signalling the daemon");
    wait_until(SOON, "both are out of sight", || env.mounts().is_empty());
    assert!(is_running(served_by));
    // A second one ends it at once.
    kill_and_wait(served_by, Signal::SIGTERM);
    drop(open);
}

#[test]
fn a_dead_daemon_leaves_two_that_are_cleared_as_one() {
    let Some(env) = with_passthrough() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let open = File::open(dir.join("models/model")).expect("opening a model");
    let kill_daemon = || kill_and_wait(daemon(&env, "v"), Signal::SIGKILL);
    kill_daemon();
    let mut bytes = vec![0; MODEL.len()];
    open.read_exact_at(&mut bytes, 0).expect("the kernel reads by itself");
    assert_eq!(bytes, MODEL);
    assert_eq!(errno(fs::read_dir(dir.join("models"))), Errno::ENOTCONN as i32);
    let dead = mounts_of(&env, "v");
    assert_eq!((&dead[0]["state"], dead.len()), (&json!("dead"), 1));
    let done = env.cvs(["mount", "v", "mnt/v"]).ok();
    assert_eq!(
        env.redact(&done.stderr),
        "cleared the dead mount at $TEST/mnt/v\nv is mounted at $TEST/mnt/v\n"
    );
    drop(open);
    kill_daemon();
    umount(&env, "v");
    assert_eq!(env.mounts().len(), 0);

    // One of the two is left: the models connection was taken down by hand.
    mount(&env, "v", "v", &[]);
    kill_daemon();
    detach(&dir.join("models"));
    umount(&env, &dir);
    assert_eq!(env.mounts().len(), 0);
    mount(&env, "v", "v", &[]);
    assert_eq!(read(dir.join("models/model")), MODEL);
    umount(&env, "v");
}

/// Truncating by opening for reading reaches us before the kernel looks who executes the file.
#[test]
fn what_is_executed_is_not_truncated() {
    let Some(env) = with_passthrough() else { return };
    let dir = mount(&env, "v", "v", &[]);
    let program = dir.join("models/program");
    let sleep = ["/usr/bin/sleep", "/bin/sleep"].map(Path::new).into_iter().find(|path| path.exists());
    fs::copy(sleep.expect("sleep is everywhere"), &program).expect("copying a program");
    let size = fs::metadata(&program).expect("looking at a program").len();
    let mut running = Command::new(&program).arg("600").spawn().expect("starting the program");
    let truncate = || open(&program, OFlag::O_RDONLY | OFlag::O_TRUNC, Mode::empty()).map(drop);
    let length = || fs::metadata(&program).expect("looking at a program").len();
    assert_eq!((truncate(), length()), (Err(Errno::ETXTBSY), size));
    assert!(running.try_wait().expect("asking for a child").is_none(), "it still runs");
    running.kill().expect("killing a child");
    running.wait().expect("waiting for a child");
    assert_eq!((truncate(), length()), (Ok(()), 0));
    umount(&env, &dir);
}
