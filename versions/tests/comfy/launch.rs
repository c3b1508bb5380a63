//! From the start to the end of a ComfyUI.

use std::cell::Cell;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cvs_tests::{get, wait_until};
use cvs_versions::comfy::{Directories, Flags, RunError};

use crate::support::{Given, World, is_alive};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn it_answers_when_start_returns_and_nothing_is_left_when_stop_does() {
    let Some(world) = World::new(&[]) else { return };
    // A child that ignores Ctrl-C, as a worker of a node may.
    world.add_node(
        "child.py",
        "import subprocess, sys\n\
         child = subprocess.Popen([sys.executable, '-c', \
         'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)'])\n\
         open('child.pid', 'w').write(str(child.pid))\n\
         NODE_CLASS_MAPPINGS = {}\n",
    );
    let directories = Directories {
        output: Some(world.dir.path().join("elsewhere/output")),
        temp: Some(world.dir.path().join("elsewhere")),
        ..Directories::default()
    };
    let env = [("CVS_TEST_SEEN", "yes"), ("PYTHONDONTWRITEBYTECODE", "1")];
    let pid = Cell::new(0);
    let mut server = world
        .with(&Given { directories, env: &env, ..Given::default() }, |launch| launch.start(&|p| pid.set(p)))
        .unwrap();
    assert_eq!((server.pid(), server.try_wait().unwrap()), (pid.get(), None));
    let stats = get(&format!("{}/system_stats", server.base_url())).json();
    let argv: Vec<&str> =
        stats["system"]["argv"].as_array().unwrap().iter().filter_map(|arg| arg.as_str()).collect();
    let output = world.dir.path().join("elsewhere/output").canonicalize().unwrap();
    let port = server.base_url().rsplit(':').next().unwrap().to_owned();
    let elsewhere = output.parent().unwrap().to_str().unwrap();
    assert_eq!(
        argv,
        [
            "main.py",
            "--cpu",
            "--output-directory",
            output.to_str().unwrap(),
            "--temp-directory",
            elsewhere,
            "--listen",
            "127.0.0.1",
            "--port",
            &port,
            "--disable-auto-launch",
        ]
    );
    assert!(world.dir.path().join("elsewhere/temp").is_dir());
    let environment = fs::read_to_string(format!("/proc/{}/environ", server.pid())).unwrap();
    assert!(environment.contains("CVS_TEST_SEEN=yes\0") && environment.contains("PYTHONUNBUFFERED=1\0"));
    let child: u32 = fs::read_to_string(world.root.join("child.pid")).unwrap().parse().unwrap();
    assert!(is_alive(child));

    let status = server.stop(SOON).unwrap();
    assert!(status.success(), "{status}: {}", world.log());
    assert!(world.log().contains("Stopped server"), "{}", world.log());
    assert!(!is_alive(pid.get()));
    wait_until(SOON, "its child is gone too", || !is_alive(child));
    assert!(!world.dir.path().join("elsewhere/temp").exists());
}

#[test]
fn what_ignores_ctrl_c_is_killed_after_the_grace() {
    let Some(world) = World::new(&[]) else { return };
    world.add_node(
        "deaf.py",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nNODE_CLASS_MAPPINGS = {}\n",
    );
    let server = world.start(&Given::default()).unwrap();
    let watch = server.watch();
    assert!(watch.ended().is_none());
    assert_eq!(server.stop(Duration::from_millis(300)).unwrap().signal(), Some(9));
    assert!(!is_alive(watch.pid()));
    let said = watch.ended().unwrap().to_string();
    assert!(said.starts_with("ComfyUI ended (signal 9): it was killed; "), "{said}");
    // Dropping one ends it as well.
    let server = world.start(&Given::default()).unwrap();
    let pid = server.pid();
    drop(server);
    assert!(!is_alive(pid));
}

#[test]
fn a_taken_port_is_told_with_its_holder() {
    let Some(world) = World::new(&[]) else { return };
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        match world.start(&Given { host, port, ..Given::default() }) {
            Err(RunError::PortTaken { port: told, holder: Some(holder), .. }) => {
                assert_eq!((told, holder.pid), (port, std::process::id()));
            }
            other => panic!("{host}: {:?}", other.map(|server| server.pid())),
        }
    }
    assert_eq!(world.log(), "");
    drop(listener);
    let server = world.start(&Given { host: "0.0.0.0", port, ..Given::default() }).unwrap();
    assert_eq!(server.base_url(), format!("http://127.0.0.1:{port}"));
}

#[test]
fn arguments_and_directories_that_a_commit_does_not_know() {
    let Some(mut world) = World::new(&[]) else { return };
    let refused = |world: &World, given: &Given<'_>| {
        let error = world.start(given).err().unwrap();
        assert_eq!(world.log(), "");
        error.to_string()
    };
    assert_eq!(
        refused(&world, &Given { args: &["--disable-metdata"], ..Given::default() }),
        "this ComfyUI does not know the argument --disable-metdata; it knows --disable-metadata, --disable-mmap"
    );
    assert_eq!(
        refused(&world, &Given { args: &["--port", "1"], ..Given::default() }),
        "the argument --port cannot be passed on: cvs sets it; use its own --host and --port"
    );
    world.flags = world.flags.iter().filter(|flag| *flag != "--user-directory").map(str::to_owned).collect();
    let directories = Directories { user: Some(world.dir.path().join("user")), ..Directories::default() };
    assert_eq!(
        refused(&world, &Given { directories, ..Given::default() }),
        "this ComfyUI cannot have its user directory elsewhere: it does not know --user-directory"
    );
    fs::write(world.root.join("main.py"), "import nothing_like_it\n").unwrap();
    let Err(RunError::Help { status, tail }) = Flags::probe(&world.python, &world.root, &[]) else {
        panic!("no help comes of a program that fails");
    };
    assert_eq!(status, "exit code 1");
    assert_eq!(tail.last().unwrap(), "ModuleNotFoundError: No module named 'nothing_like_it'");
}

#[test]
fn a_crash_at_the_start_is_told_with_its_reason() {
    let Some(world) = World::new(&[]) else { return };
    let main = fs::read_to_string(world.root.join("main.py")).unwrap();
    for (lines, reason) in [
        (
            "import nothing_like_it",
            "ComfyUI ended (exit code 1): the Python module nothing_like_it is missing: no package of its \
             environment provides it",
        ),
        ("raise AssertionError('odd')", "ComfyUI ended (exit code 1): AssertionError: odd"),
        ("raise SystemExit(0)", "ComfyUI ended (exit code 0): its log does not say why"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "ComfyUI ended (signal 9): it was killed; usually the kernel does that when memory runs out",
        ),
    ] {
        world.patch_main(lines);
        let said = world.start(&Given::default()).err().unwrap().to_string();
        assert_eq!(said.lines().next().unwrap(), reason);
        assert_eq!(said.contains("\n  | Traceback"), reason.contains("exit code 1"), "{said}");
        fs::write(world.root.join("main.py"), &main).unwrap();
    }
    // A database that a newer one has left.
    let server = world.start(&Given::default()).unwrap();
    server.stop(SOON).unwrap();
    let newer = "import sqlite3; c = sqlite3.connect('user/comfyui.db'); \
                 c.execute(\"UPDATE alembic_version SET version_num = '9999_newer'\"); c.commit()";
    let done = std::process::Command::new(&world.python)
        .args(["-c", newer])
        .current_dir(&world.root)
        .status()
        .unwrap();
    assert!(done.success());
    let said = world.start(&Given::default()).err().unwrap().to_string();
    assert!(said.contains("its database was written by a newer ComfyUI"), "{said}");
}

#[test]
fn a_start_that_takes_too_long_or_is_given_up_leaves_nothing() {
    let Some(world) = World::new(&[]) else { return };
    world.patch_main("import time; print('so slow', flush=True); time.sleep(600)");
    let pid = Cell::new(0);
    let error = world
        .with(&Given { timeout: Duration::from_millis(700), ..Given::default() }, |launch| {
            launch.start(&|started| pid.set(started))
        })
        .err()
        .unwrap();
    assert!(!is_alive(pid.get()));
    let said = error.to_string();
    assert!(said.starts_with("ComfyUI did not answer within 700ms\nThe last lines"), "{said}");
    assert!(said.contains("\n  | so slow"), "{said}");

    let cancel = AtomicBool::new(false);
    let error = world
        .with(&Given { cancel: &cancel, ..Given::default() }, |launch| {
            launch.start(&|started| {
                pid.set(started);
                cancel.store(true, Ordering::Relaxed);
            })
        })
        .err()
        .unwrap();
    assert!(matches!(error, RunError::Cancelled));
    assert!(!is_alive(pid.get()));
}

#[test]
fn a_quick_test_ends_by_itself() {
    let Some(world) = World::new(&["broken"]) else { return };
    let status = world.with(&Given::default(), |launch| launch.quick_test(&|_| {})).unwrap();
    assert!(status.success());
    assert!(world.log().contains("(IMPORT FAILED)"), "{}", world.log());
}
