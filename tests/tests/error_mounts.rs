//! What a person reads when a mount or a run does not come up, or another is in its way.

use std::fs;

use cvs_tests::{TestEnvironment, available, wait_until};
use nix::sys::signal::{Signal, kill};

use crate::chance::long;
use crate::cli_world::World;
use crate::mounted::{daemon, fuse, ingest, is_running, kill_and_wait, mount, mounts_of};
use crate::running::{LONG, Runs, pid};

#[test]
fn a_mount_that_does_not_come_up_is_told() {
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below")]);
    mount(&env, "v", "first", &[]);
    let holder = daemon(&env, "v");
    let refused = env.cvs(["mount", "v", "mnt/second"]).code(4);
    assert_eq!(
        env.redact(&refused.stderr),
        format!(
            "error: the overlay $TEST/cvs/overlays/v is in use by process {holder}\n\
             hint: `cvs mounts` shows where; unmount it, or use --read-only, --ephemeral or --overlay DIR\n\
             error: the mount of v did not come up: its process ended (exit status: 4); its log is \
             $TEST/cvs/run/log/mount-v.log\n"
        )
    );
}

/// Takes as long as a mount's process is waited for.
#[test]
fn a_process_that_outlives_its_mount_is_named() {
    if !long() {
        return;
    }
    let Some(()) = available(fuse()) else { return };
    let env = TestEnvironment::new();
    ingest(&env, "v", &[("file", b"below")]);
    let dir = mount(&env, "v", "my mount", &[]);
    let served_by = daemon(&env, "v");
    kill(served_by, Signal::SIGSTOP).expect("stopping the daemon");
    let told = env.cvs(["umount", "v"]).code(4);
    assert_eq!(
        env.redact(&told.stderr),
        format!(
            "error: process {served_by}, which served $TEST/mnt/my mount, has not ended yet\n\
             hint: `cvs umount --force '$TEST/mnt/my mount'` kills it; its log is in run/log of the home directory\n"
        )
    );
    env.cvs(["umount", "--force"]).arg(&dir).ok();
    assert!(!is_running(served_by));
    assert_eq!(mounts_of(&env, "v").len(), 0);
}

#[test]
fn what_is_in_the_way_of_a_run_is_named() {
    let Some(()) = available(fuse()) else { return };
    let world = World::new();
    let env = &world.env;
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0")]).ok();
    let run =
        |flags: &[&str]| env.redact(&world.cvs(&["run-ui", "v", "--port", "0"]).args(flags).fails().stderr);
    let missing =
        "hint: install it, or name another one in the spec: `python.version` or `env.COMFY_PYTHON`\n";
    for (wanted, place) in [("9.9.1", "in PATH"), ("/nowhere/python", "a file")] {
        let before = fs::read(world.spec_file("v")).expect("reading a spec");
        world.edit_spec("v", "\"env\": {}", &format!("\"env\": {{\"COMFY_PYTHON\": \"{wanted}\"}}"));
        let said = format!("error: v asks for the interpreter {wanted:?}, which is not {place}\n{missing}");
        assert_eq!(run(&[]), said);
        // The supervisor says it, and who asked hands it on.
        assert_eq!(run(&["--detach"]), said);
        fs::write(world.spec_file("v"), before).expect("writing a spec");
    }
    let dir = mount(env, "v", "mine", &[]);
    fs::create_dir_all(dir.join(".venv/bin")).expect("making a directory");
    std::os::unix::fs::symlink("/nowhere/python3", dir.join(".venv/bin/python")).expect("making a link");
    assert_eq!(
        run(&[]),
        "error: the environment of v is made for an interpreter that is not here: $TEST/mnt/mine/.venv/bin/python leads \
         to /nowhere/python3\nhint: `cvs lock v --update=python` makes the environment again for this machine; a link \
         that was written into the version by a run is to be removed where it is mounted\n"
    );
    world.edit_spec("v", "v0.2.0", "v0.1.0");
    assert_eq!(
        run(&["--quiet"]),
        "error: v is mounted at $TEST/mnt/mine, and its lock has changed since\nhint: `cvs umount $TEST/mnt/mine` first, \
         so that the new one is shown\n"
    );
}

#[test]
fn a_run_that_others_see_to_is_named() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    let hangs = "import time\ntime.sleep(600)\n";
    let node = runs.world.env.home().join("overlays/v/upper/custom_nodes/added.py");
    let dir = mount(&runs.world.env, "v", "writing", &[]);
    fs::write(dir.join("custom_nodes/added.py"), hangs).expect("writing a node");
    runs.cvs(&["umount", "v"]).ok();
    let ui = runs.start(&["run-ui", "v", "--port", "0", "--detach"]);
    let starts = || runs.ps("v").is_some_and(|run| run["state"] == "starting" && run["pid"].is_u64());
    wait_until(LONG, "ComfyUI is being started", starts);
    kill_and_wait(pid(&runs.ps("v").expect("it is listed")["supervisor"]), Signal::SIGKILL);
    let (code, stdout, stderr) = ui.end();
    assert_eq!(
        (code, stdout.as_str(), runs.world.env.redact(&stderr).as_str()),
        (
            Some(1),
            "",
            "error: the process that was to run v ended (signal: 9 (SIGKILL)); its log is \
             $TEST/cvs/run/log/run-v.log\nhint: `cvs stop v` clears away what it left\n"
        )
    );
    runs.cvs(&["stop", "v"]).ok();
    runs.assert_nothing_left();

    fs::remove_file(node).expect("removing a node");
    let mut ui = runs.start(&["run-ui", "v", "--port", "0"]);
    ui.url();
    let refused = runs.cvs(&["restart", "v"]).code(4);
    assert_eq!(
        refused.stderr,
        format!(
            "error: v is run by another command, process {}\nhint: end that, with Ctrl-C or `cvs stop`, and start it \
             again\n",
            ui.pid()
        )
    );
    runs.world.edit_spec("v", "v0.2.0", "v0.1.0");
    runs.world.env.write("w.json", r#"{"1": {"class_type": "A", "inputs": {}}}"#);
    let refused = runs.cvs(&["run-handler", "v", "-w", "w.json", "--quiet"]).code(4);
    assert_eq!(
        refused.stderr,
        "error: v runs with an older lock\nhint: `cvs restart v` starts it with the new one\n"
    );
    ui.signal(Signal::SIGINT);
    ui.end();
}
