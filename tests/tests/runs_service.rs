//! `cvs systemd`, and what a service manager is told.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use cvs_tests::{Missing, available};
use nix::sys::signal::Signal;

use crate::cli_world::World;
use crate::running::{LONG, Runs};

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let world = World::new();
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0"), "--skip-python"]).ok();
    world.cvs(&["systemd", "w"]).code(1);
    let unit = world
        .cvs(&[
            "systemd",
            "v",
            "--user",
            "--port",
            "9000",
            "--output-dir",
            "my pictures",
            "--",
            "--cpu",
            "$x",
        ])
        .ok()
        .stdout;
    let program = world.env.redact(&unit);
    let line = program.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command line");
    let (binary, arguments) = line.split_once(' ').expect("a program and its arguments");
    assert!(binary.starts_with('/') && binary.ends_with("/cvs"), "{binary}");
    // The root of a test is a path without anything to be quoted, its mark is not.
    assert_eq!(
        arguments,
        "--home $TEST/cvs --no-progress --color never run-ui v --locked --host 127.0.0.1 --port 9000 \
         --startup-timeout 180s --output-dir \"$TEST/my pictures\" -- --cpu \"$$x\""
    );
    for line in [
        "Type=notify",
        "KillMode=mixed",
        "Restart=on-failure",
        "TimeoutStartSec=240",
        "WantedBy=default.target",
    ] {
        assert!(unit.lines().any(|found| found == line), "no {line} in\n{unit}");
    }
    let Some(verify) = available(systemd_analyze()) else { return };
    for (name, flags) in [("user", &["--user"][..]), ("machine", &[])] {
        let unit = world.cvs(&["systemd", "v"]).args(flags).ok().stdout;
        let file = world.env.write(format!("units/comfyui-{name}.service"), unit);
        let mut command = world.env.command(verify);
        let output =
            command.arg("verify").arg("--man=no").arg(&file).output().expect("starting systemd-analyze");
        let said = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<_> = said.lines().filter(|line| line.contains("comfyui-")).collect();
        assert!(output.status.success() && ours.is_empty(), "{}: {said}", output.status);
    }
}

fn systemd_analyze() -> Result<&'static str, Missing> {
    let program = "/usr/bin/systemd-analyze";
    match fs::metadata(program) {
        Ok(_) => Ok(program),
        Err(error) => Err(Missing(format!("systemd-analyze ({error})"))),
    }
}

#[test]
fn the_service_manager_is_told() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    let path = runs.world.env.path("notify");
    let socket = UnixDatagram::bind(&path).expect("binding a socket");
    socket.set_read_timeout(Some(LONG)).expect("setting a time limit");
    let heard = || {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).expect("a word of the service");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let command = runs.cvs(&["run-ui", "v", "--port", "0"]).env("NOTIFY_SOCKET", &path);
    let mut command = command.into_command();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting cvs");
    assert_eq!(heard(), "READY=1");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("signalling a child");
    assert_eq!(heard(), "STOPPING=1");
    assert!(child.wait().expect("waiting for a child").success());
    runs.assert_nothing_left();
}
