//! `kill -9` at any moment loses nothing that was published or synced: of the process that serves a mount, of
//! `create`, and of `gc`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cvs_tests::{
    GitHttpServer, HttpServer, Repositories, SubmoduleUrl, TestEnvironment, Wants, available, wait_until,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::chance::{Chance, long, rounds};
use crate::crash_model::{Model, Op};
use crate::mounted::{
    Entry, SOON, assert_objects_are_what_they_are_called, daemon, fuse, log_of, mount, read, tree, umount,
    wait_gone,
};

/// Trees of the mount, each with a writer of its own. One may have a connection of its own.
const WRITERS: [&str; 4] = ["w0", "w1", "w2", "models/w3"];

/// How often the daemon is killed: 20 times, or 1,000 with `CVS_TEST_LONG` set.
fn kills() -> usize {
    if long() { 1000 } else { 20 }
}

/// What one writer knows: its tree, and what it did.
#[derive(Default)]
struct Writer {
    model: Model,
    history: Vec<Op>,
}

#[test]
fn what_was_acknowledged_survives_the_daemon() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let mut chance = Chance::new();
    let mut writers: Vec<Writer> = Vec::new();
    for tree in WRITERS {
        let mut model = Model::default();
        for dir in ["d0", "d1", "d2/d0", "d2/d1", "d3/d0/d0"] {
            for name in ["f0", "f1", "f2"] {
                let len = if name == "f2" { 200_000 } else { chance.below(10_000) };
                let (path, bytes) = (format!("{dir}/{name}"), chance.bytes(len));
                env.write(format!("lower/{tree}/{path}"), &bytes);
                model.add_file(&path, &bytes);
            }
        }
        writers.push(Writer { model, history: Vec::new() });
    }
    env.cvs(["debug", "ingest", "lower", "--as", "crash"]).ok();
    let dir = mount(&env, "crash", "crash", &[]);
    let mut operations = 0;
    for round in 0..kills() {
        let daemon = daemon(&env, "crash");
        let (count, delay) = (chance.below(200), chance.time(Duration::from_millis(3)));
        let done = AtomicUsize::new(0);
        let ends: Vec<(Model, Op)> = std::thread::scope(|scope| {
            let running: Vec<_> = writers
                .iter_mut()
                .zip(WRITERS)
                .map(|(writer, tree)| {
                    let (tree, mut chance, done) = (dir.join(tree), chance.fork(), &done);
                    let (model, history) = (writer.model.clone(), &mut writer.history);
                    scope.spawn(move || write_until_it_fails(model, &tree, &mut chance, done, history))
                })
                .collect();
            wait_until(SOON, "the writers get on", || {
                done.load(Ordering::Relaxed) >= count || running.iter().any(|writer| writer.is_finished())
            });
            spin(delay);
            kill(daemon, Signal::SIGKILL).expect("killing the daemon");
            running.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect()
        });
        operations += done.into_inner();
        wait_gone(daemon);
        mount(&env, "crash", "crash", &[]);

        for ((writer, tree), (before, op)) in writers.iter_mut().zip(WRITERS).zip(ends) {
            let tree = dir.join(tree);
            let candidates = before.possible(&op);
            let differences: Vec<_> =
                candidates.iter().map(|candidate| candidate.differences(&tree)).collect();
            let found = differences.iter().position(Vec::is_empty);
            let Some(found) = found else {
                panic!(
                    "round {round}: neither as before {op:?}: {:#?}\nnor as after: {:#?}\nlog:\n{}\nlast: {:?}",
                    differences[0],
                    differences[1],
                    log_of(&env, "crash"),
                    names(&writer.history[writer.history.len().saturating_sub(20)..]),
                )
            };
            writer.model = candidates.into_iter().nth(found).unwrap_or_default();
            writer.model.settle(&tree);
            writer.history.clear();
        }
    }
    eprintln!("{} kills, {operations} operations acknowledged", kills());
    umount(&env, &dir);
    mount(&env, "crash", "crash", &[]);
    for (writer, tree) in writers.iter().zip(WRITERS) {
        assert_eq!(writer.model.differences(&dir.join(tree)), Vec::<String>::new());
    }
    umount(&env, &dir);
    env.cvs(["fsck"]).ok();
    assert_objects_are_what_they_are_called(&env);
    let work = env.home().join("overlays/crash/work");
    assert_eq!(
        tree(&work).len(),
        1,
        "what killed processes left is gone, but for the whiteout that others link to"
    );
}

/// The model before the operation that was not acknowledged, and that operation.
fn write_until_it_fails(
    mut model: Model,
    dir: &Path,
    chance: &mut Chance,
    done: &AtomicUsize,
    history: &mut Vec<Op>,
) -> (Model, Op) {
    loop {
        let op = model.random_op(chance);
        history.push(op.clone());
        match op.apply(dir) {
            Ok(()) => model = model.after(&op),
            // Aborted while it waited, or asked when nobody was there any more.
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::EIO) => return (model, op),
                _ => panic!("{op:?}: {error}"),
            },
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn names(history: &[Op]) -> Vec<String> {
    let short = |op: &Op| format!("{op:?}").split(", bytes").next().unwrap_or_default().to_owned();
    history.iter().map(short).collect()
}

/// A moment within a moment: too short to be slept.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Starts a command in a process group of its own, and kills the group after so long; whether it ended by itself.
pub(crate) fn killed_after(mut command: Command, time: Duration) -> bool {
    let mut child: Child =
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting cvs");
    let end = Instant::now() + time;
    // The moment is the point of it, so that here a clock is waited for.
    let ended = loop {
        if child.try_wait().expect("asking for a child").is_some() {
            break true;
        }
        if Instant::now() >= end {
            break false;
        }
        std::thread::yield_now();
    };
    if !ended {
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGKILL).expect("killing a child");
        child.wait().expect("waiting for a child");
    }
    ended
}

#[test]
fn create_can_be_killed_and_run_again() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let repositories = Repositories::build(&env.path("upstream"), &SubmoduleUrl::Relative);
    let git = GitHttpServer::start(repositories.served(), Wants::Reachable);
    let web = HttpServer::start();
    let mut chance = Chance::new();
    let mut published: Vec<(String, Vec<u8>, Vec<u8>)> = Vec::new();
    let mut longest = Duration::from_millis(400);
    let mut kills = 0;
    for round in 0..rounds() {
        let (id, model, text) = (format!("v{round}"), chance.bytes(1 << 20), chance.bytes(5000));
        web.serve("/model", model.clone());
        for name in ["plain", "patterns"] {
            repositories.commit(name, "master", &[("new", Some(&text))]);
        }
        let create = || {
            env.cvs(["create", &id, "--repo", &git.url("plain"), "--node", &git.url("patterns")])
                .args(["--model", &format!("{}=models/m", web.url("/model"))])
        };
        let ended = killed_after(create().into_command(), chance.time(longest));
        kills += usize::from(!ended);
        // It may have published what it had to, and been killed then.
        let spec = env.home().join(format!("versions/{id}.json"));
        if !spec.exists() {
            env.cvs(["fsck"]).ok();
            let start = Instant::now();
            create().ok();
            longest = start.elapsed() * 5 / 4;
        }
        env.cvs(["fsck"]).ok();
        env.cvs(["validate", &id, "--offline", "--locked"]).ok();
        published.push((id, model, text));
    }
    assert!(kills > 0, "every one of them ended before it was killed");
    assert_nothing_is_left_over(&env);
    for (id, model, text) in published {
        let dir = mount(&env, &id, "mounted", &["--read-only"]);
        assert!(read(dir.join("models/m")) == model, "{id}");
        assert!(read(dir.join("new")) == text && read(dir.join("custom_nodes/patterns/new")) == text, "{id}");
        umount(&env, &dir);
    }
}

#[test]
fn gc_can_be_killed() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    let mut chance = Chance::new();
    let common = chance.bytes(3000);
    let mut alive: Vec<String> = Vec::new();
    let mut longest = Duration::from_millis(60);
    for round in 0..rounds() {
        let id = format!("v{round}");
        for file in 0..30 {
            env.write(format!("sources/{id}/d{}/own{file}", file % 4), format!("{round} {file}"));
        }
        env.write(format!("sources/{id}/common"), &common);
        env.write(format!("sources/{id}/pair"), format!("{}", round / 2));
        env.cvs(["debug", "ingest", &format!("sources/{id}"), "--as", &id]).ok();
        alive.push(id);
        if alive.len() > 3 {
            let gone = alive.remove(chance.below(alive.len()));
            env.cvs(["delete", &gone]).ok();
        }
        let start = Instant::now();
        let grace = chance.pick(&["0", "0", "7d"]).unwrap_or("0");
        if killed_after(env.cvs(["gc", "--grace", grace]).into_command(), chance.time(longest)) {
            longest = start.elapsed() * 5 / 4;
        }
        let report = env.cvs(["fsck", "--json"]).ok().json();
        assert_eq!((&report["damage"], &report["roots"]), (&json!([]), &json!(alive.len())), "{report}");
    }
    for id in &alive {
        let dir = mount(&env, id, "mounted", &["--read-only"]);
        assert!(tree(&dir) == tree(&env.path(format!("sources/{id}"))), "{id}");
        umount(&env, &dir);
    }

    // What the killed ones had not done, a whole one does: a store that never had the others is the same.
    env.cvs(["gc", "--grace", "0"]).ok();
    assert_nothing_is_left_over(&env);
    for id in &alive {
        env.cvs(["--home", "other", "debug", "ingest", &format!("sources/{id}"), "--as", id]).ok();
    }
    let objects = |home: &Path| -> Vec<String> {
        let files =
            tree(&home.join("objects")).into_iter().filter(|(_, entry)| matches!(entry, Entry::File(_)));
        files.map(|(path, _)| path).collect()
    };
    assert_eq!(objects(&env.home()), objects(&env.path("other")));
    assert_objects_are_what_they_are_called(&env);
}

/// Neither of transactions nor of collections. A lease that was killed while it was made stays for an hour, since it
/// cannot be told from one that is being made.
pub(crate) fn assert_nothing_is_left_over(env: &TestEnvironment) {
    env.cvs(["gc", "--grace", "0"]).ok();
    for dir in ["staging", "trash", "run/leases"] {
        let names: Vec<_> = fs::read_dir(env.home().join(dir))
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        let left: Vec<_> = names
            .iter()
            .filter(|name| *name != "partial" && !name.to_string_lossy().starts_with(".new-"))
            .collect();
        assert!(left.is_empty(), "left in {dir}: {left:?}");
    }
}
