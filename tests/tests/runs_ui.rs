//! `cvs run-ui` in the foreground: it answers, it writes where it should, and leaves nothing behind, however it ends.

use nix::sys::signal::Signal;

use crate::mounted::{mount, read, umount};
use crate::running::{Runs, assert_answers};

#[test]
fn it_answers_until_it_is_interrupted() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["plain"]);
    let mut ui = runs.start(&["run-ui", "v", "--port", "0"]);
    let url = ui.url();
    assert_answers(&url);
    ui.says("To see the GUI go to:");
    let run = runs.ps("v").expect("it is listed");
    assert_eq!(run["state"], "running");
    assert_eq!(run["detached"], false);
    assert_eq!(run["url"], *url);
    assert!(run["memory"].as_u64().expect("memory") > 1 << 20, "{run}");
    ui.signal(Signal::SIGINT);
    let (code, stdout, stderr) = ui.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, format!("{url}\n"));
    assert!(stderr.contains("Stopped server"), "{stderr}");
    runs.assert_nothing_left();
}

#[test]
fn a_mount_of_a_person_is_used_and_stays() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["self-writing"]);
    let dir = mount(&runs.world.env, "v", "v", &[]);
    let mut ui = runs.start(&["run-ui", "v", "--port", "0"]);
    ui.url();
    assert_eq!(runs.ps("v").expect("it is listed")["root"], *dir.to_str().expect("UTF-8"));
    ui.signal(Signal::SIGTERM);
    assert_eq!(ui.end().0, Some(0));
    let config = String::from_utf8(read(dir.join("custom_nodes/self-writing/config.ini"))).expect("UTF-8");
    assert!(config.contains("imports = 1\n"), "{config}");
    umount(&runs.world.env, "v");
    runs.assert_nothing_left();
}

#[test]
fn it_runs_from_plain_files() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["self-writing"]);
    let realized = runs.world.env.home().join("realized");
    let imports = |dir: &str| read(realized.join(dir).join("custom_nodes/self-writing/config.ini"));
    for (flags, imported) in [(&[][..], "imports = 1\n"), (&["--detach"], "imports = 2\n")] {
        let mut ui = runs.start(&[&["run-ui", "v", "--port", "0", "--no-fuse"], flags].concat());
        assert_answers(&ui.url());
        assert_eq!(runs.world.env.mounts(), Vec::<std::path::PathBuf>::new());
        assert!(String::from_utf8_lossy(&imports("v")).contains(imported));
        // Nobody may pull the files away under it.
        runs.cvs(&["realize", "v", "--remove"]).code(4);
        if flags.is_empty() {
            ui.signal(Signal::SIGINT);
        }
        assert_eq!(ui.end().0, Some(0));
        if !flags.is_empty() {
            runs.cvs(&["stop", "v"]).ok();
        }
        runs.assert_nothing_left();
    }

    let mut ui = runs.start(&["run-ui", "v", "--port", "0", "--no-fuse", "--ephemeral"]);
    assert_answers(&ui.url());
    assert!(String::from_utf8_lossy(&imports("v~ephemeral")).contains("imports = 1\n"));
    ui.signal(Signal::SIGINT);
    assert_eq!(ui.end().0, Some(0));
    assert!(!realized.join("v~ephemeral").exists());
    runs.assert_nothing_left();
}
