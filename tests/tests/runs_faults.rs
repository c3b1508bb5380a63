//! Runs that go wrong: at the start, under signals, and when one of their processes is killed. Whatever it was, nothing
//! of them stays, or `cvs stop` and the next start bring it back to nothing.

use std::net::TcpListener;

use cvs_tests::wait_until;
use nix::sys::signal::{Signal, kill};

use crate::mounted::{kill_and_wait, mount, umount, wait_gone, write};
use crate::running::{LONG, Runs, pid};

/// Writes a node into the overlay of a version.
fn write_node(runs: &Runs, id: &str, text: &str) {
    let dir = mount(&runs.world.env, id, "writing", &[]);
    write(dir.join("custom_nodes/added.py"), text);
    umount(&runs.world.env, id);
}

const HANGS: &str = "import time\nprint('hanging', flush=True)\ntime.sleep(600)\n";

#[test]
fn a_taken_port_is_refused() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("binding a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for flags in [&[][..], &["--detach"]] {
        let done = runs.cvs(&["run-ui", "v", "--port", &port]).args(flags).code(1);
        let words = format!("error: port {port} of 127.0.0.1 is taken by process {}", std::process::id());
        assert!(done.stderr.starts_with(&words), "{done}");
        assert_eq!(done.stdout, "");
        runs.assert_nothing_left();
    }
}

#[test]
fn a_crash_at_the_start_is_told() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    write_node(&runs, "v", "import os\nprint('about to fail', flush=True)\nos._exit(7)\n");
    for flags in [&[][..], &["--detach"]] {
        let done = runs.cvs(&["run-ui", "v", "--port", "0"]).args(flags).code(1);
        assert!(done.stderr.contains("error: ComfyUI ended (exit code 7)"), "{done}");
        assert_eq!(done.stderr.matches("about to fail").count(), 1, "{done}");
        runs.assert_nothing_left();
    }
    // An argument that this ComfyUI does not know is found before it is started.
    let done = runs.cvs(&["run-ui", "v", "--port", "0", "--", "--no-such-flag"]).code(2);
    assert!(done.stderr.contains("does not know the argument --no-such-flag"), "{done}");
    runs.assert_nothing_left();
}

#[test]
fn a_start_that_takes_too_long_is_given_up() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    write_node(&runs, "v", HANGS);
    for flags in [&[][..], &["--detach"]] {
        let command = runs.cvs(&["run-ui", "v", "--port", "0"]).args(flags).env("COMFY_STARTUP_TIMEOUT", "3");
        let done = command.code(1);
        assert!(done.stderr.contains("error: ComfyUI did not answer within 3s"), "{done}");
        assert_eq!(done.stderr.matches("hanging").count(), 1, "{done}");
        runs.assert_nothing_left();
    }
}

#[test]
fn a_start_that_is_interrupted_leaves_nothing() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    write_node(&runs, "v", HANGS);
    for flags in [&[][..], &["--detach"]] {
        let args = [&["run-ui", "v", "--port", "0"], flags].concat();
        let ui = runs.start(&args);
        let log = runs.world.env.home().join("run/log/ui-v.log");
        let hangs = || runs.ps("v").is_some_and(|run| run["state"] == "starting" && run["pid"].is_u64());
        wait_until(LONG, "ComfyUI is being started", hangs);
        wait_until(LONG, "the node hangs", || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with("hanging\n"))
        });
        ui.signal(Signal::SIGINT);
        let (code, stdout, stderr) = ui.end();
        assert_eq!((code, stdout.as_str()), (Some(130), ""), "{stderr}");
        runs.assert_nothing_left();
        std::fs::remove_file(&log).expect("removing a log");
    }
}

#[test]
fn a_second_interrupt_does_not_wait() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    write_node(&runs, "v", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n");
    let mut ui = runs.start(&["run-ui", "v", "--port", "0"]);
    ui.url();
    ui.signal(Signal::SIGINT);
    wait_until(LONG, "it is stopping", || runs.ps("v").is_some_and(|run| run["state"] == "stopping"));
    // However many come, it stays to clear away.
    for _ in 0..5 {
        ui.signal(Signal::SIGINT);
    }
    assert_eq!(ui.end().0, Some(0));
    runs.assert_nothing_left();
}

/// Whose death is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Supervisor,
    MountDaemon,
}

#[test]
fn what_a_killed_process_leaves_is_cleared_away() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    // It leaves the group, and nobody but its tag knows whose it is.
    write_node(&runs, "v", "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n");
    let again = ["run-ui", "v", "--port", "0", "--detach"];
    for (victim, detach, way) in [
        (Victim::Supervisor, true, &["stop", "v"][..]),
        (Victim::Supervisor, true, &again),
        (Victim::Supervisor, false, &again),
        (Victim::MountDaemon, true, &["stop", "v"]),
    ] {
        let mut ui = runs.start(if detach { &again } else { &again[..4] });
        ui.url();
        let run = runs.ps("v").expect("it is listed");
        match victim {
            Victim::Supervisor => {
                kill_and_wait_for(&mut ui, detach, pid(&run["supervisor"]));
                wait_gone(pid(&run["pid"]));
                assert_eq!(runs.ps("v").expect("it is listed")["state"], "supervisor-died");
                assert!(!runs.world.env.mounts().is_empty());
            }
            Victim::MountDaemon => {
                let mounts = runs.cvs(&["mounts", "--json"]).ok().json();
                kill_and_wait(pid(&mounts[0]["pid"]), Signal::SIGKILL);
            }
        }
        runs.cvs(way).ok();
        if way[0] != "stop" {
            assert_eq!(runs.ps("v").expect("it is listed")["state"], "running");
            runs.cvs(&["stop", "v"]).ok();
        }
        runs.assert_nothing_left();
    }
}

fn kill_and_wait_for(ui: &mut crate::running::Foreground, detach: bool, supervisor: nix::unistd::Pid) {
    if detach {
        kill_and_wait(supervisor, Signal::SIGKILL);
    } else {
        // It is a child of this process, which waits for it.
        kill(supervisor, Signal::SIGKILL).expect("killing a child");
        ui.wait();
    }
}
