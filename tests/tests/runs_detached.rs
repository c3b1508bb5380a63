//! Runs that go on without their command: listed, read, stopped, started again.

use cvs_tests::wait_until;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::mounted::{is_running, kill_and_wait, wait_gone};
use crate::running::{LONG, Runs, assert_answers, pid};

#[test]
fn it_is_listed_read_and_stopped() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["plain"]);
    runs.cvs(&["stop", "v"]).code(1);
    runs.cvs(&["logs", "v"]).code(1);
    let started = runs.cvs(&["run-ui", "v", "--port", "0", "--detach", "--json"]).ok().json();
    let url = started["url"].as_str().expect("a URL").to_owned();
    assert_answers(&url);
    let run = runs.ps("v").expect("it is listed");
    assert_eq!(run["state"], "running");
    assert_eq!(run["detached"], true);
    assert_eq!((&run["url"], &run["pid"]), (&started["url"], &started["pid"]));
    assert!(run["uptime"].as_u64().is_some_and(|seconds| seconds < 600), "{run}");

    let log = runs.cvs(&["logs", "v"]).ok().stdout;
    assert!(log.contains("To see the GUI go to:") && !log.contains("=== cvs"), "{log}");
    let lines: Vec<_> = log.lines().collect();
    let last = runs.cvs(&["logs", "v", "-n", "2"]).ok().stdout;
    assert!(last.lines().count() >= 2 && last.starts_with(lines[lines.len() - 2]), "{log}\n---\n{last}");

    // There is one overlay, and it says who has it.
    let again = runs.cvs(&["run-ui", "v", "--port", "0"]).code(4);
    assert_eq!(
        again.stderr,
        format!(
            "error: v runs already, at {url} (process {})\nhint: `cvs stop v` ends it; `cvs clone v NEW` makes a \
             version that runs beside it\n",
            run["supervisor"]
        )
    );
    let follow = runs.start(&["logs", "v", "--follow"]);
    runs.cvs(&["stop", "v"]).ok();
    let (code, stdout, stderr) = follow.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("Stopped server"), "{stdout}");
    assert!(!is_running(pid(&run["pid"])) && !is_running(pid(&run["supervisor"])));
    runs.assert_nothing_left();
    assert!(runs.cvs(&["logs", "v"]).ok().stdout.contains("Stopped server"));
}

#[test]
fn two_versions_run_side_by_side() {
    let Some(runs) = Runs::new() else { return };
    runs.create("a", &["plain"]);
    runs.cvs(&["clone", "a", "b"]).ok();
    let urls = ["a", "b"].map(|id| {
        let args =
            ["run-ui", id, "--port", "0", "--detach", "--temp-dir", "scratch", "--user-dir", "settings"];
        runs.cvs(&args).ok().stdout.trim_end().to_owned()
    });
    urls.iter().for_each(|url| assert_answers(url));
    assert_ne!(urls[0], urls[1]);
    for id in ["a", "b"] {
        // ComfyUI removes its `temp` when it starts and when it ends.
        assert!(runs.world.env.path("scratch").join(id).join("temp").is_dir(), "{id}");
        let upper = runs.world.env.home().join("overlays").join(id).join("upper");
        assert!(upper.join("user/comfyui.db").is_file(), "{id}");
    }
    assert!(runs.world.env.path("settings/default").is_dir());
    assert!(!runs.world.env.path("settings/comfyui.db").exists());
    // What runs cannot be deleted.
    let refused = runs.cvs(&["delete", "b", "--yes"]).code(4);
    assert!(refused.stderr.contains("hint: end it first: `cvs stop`"), "{refused}");
    let stopped = runs.cvs(&["stop", "--all"]).ok();
    assert_eq!(stopped.stderr, "a has ended\nb has ended\n");
    assert_eq!(runs.cvs(&["stop", "--all"]).ok().stderr, "nothing runs\n");
    runs.assert_nothing_left();
}

#[test]
fn a_restart_takes_an_edit_in() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["plain"]);
    let directory = runs.world.env.path("pictures");
    let before =
        runs.cvs(&["run-ui", "v", "--port", "0", "--detach", "--output-dir", "pictures"]).ok().stdout;
    let first = runs.ps("v").expect("it is listed");
    runs.world.edit_spec("v", "\"ref\": \"v0.2.0\"", "\"ref\": \"v0.1.0\"");
    let after = runs.cvs(&["restart", "v"]).ok();
    let second = runs.ps("v").expect("it is listed");
    assert_eq!(second["state"], "running");
    assert_ne!(first["view"], second["view"], "{before}{}", after.stdout);
    assert!(!is_running(pid(&first["supervisor"])));
    let log = runs.cvs(&["logs", "v"]).ok().stdout;
    assert!(log.contains(&format!("Setting output directory to: {}", directory.display())), "{log}");
    runs.cvs(&["stop", "v"]).ok();
    runs.cvs(&["restart", "v"]).code(1);
    runs.assert_nothing_left();
}

#[test]
fn a_crash_is_shown_until_it_is_seen_to() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    for way in [&["stop", "v"][..], &["restart", "v"]] {
        runs.cvs(&["run-ui", "v", "--port", "0", "--detach"]).ok();
        let run = runs.ps("v").expect("it is listed");
        kill_and_wait(pid(&run["pid"]), Signal::SIGKILL);
        wait_gone(pid(&run["supervisor"]));
        assert_eq!(runs.world.env.mounts(), Vec::<std::path::PathBuf>::new());
        let run = runs.ps("v").expect("it is listed");
        assert_eq!(
            (&run["state"], &run["code"], &run["pid"]),
            (&json!("crashed"), &json!(null), &json!(null))
        );
        assert!(run["reason"].as_str().is_some_and(|reason| reason.contains("killed")), "{run}");
        let done = runs.cvs(way).ok();
        if way[0] == "stop" {
            assert_eq!(done.stderr, "v had ended by itself\n");
        } else {
            assert_eq!(runs.ps("v").expect("it is listed")["state"], "running");
            runs.cvs(&["stop", "v"]).ok();
        }
        runs.assert_nothing_left();
    }
}

#[test]
fn what_is_ephemeral_is_thrown_away() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["self-writing"]);
    runs.cvs(&["run-ui", "v", "--port", "0", "--detach", "--ephemeral"]).ok();
    let root = runs.ps("v").expect("it is listed")["root"].as_str().expect("a path").to_owned();
    let config = std::path::Path::new(&root).join("custom_nodes/self-writing/config.ini");
    let written = || std::fs::read_to_string(&config).is_ok_and(|text| text.contains("imports = 1\n"));
    wait_until(LONG, "the node writes", written);
    runs.cvs(&["stop", "v"]).ok();
    assert!(!runs.world.env.home().join("overlays/v/upper/custom_nodes").exists());
    runs.assert_nothing_left();
}

#[test]
fn one_that_hangs_is_shown_as_such() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    runs.cvs(&["run-ui", "v", "--port", "0", "--detach"]).ok();
    let run = runs.ps("v").expect("it is listed");
    kill(pid(&run["pid"]), Signal::SIGSTOP).expect("stopping a process");
    assert_eq!(runs.ps("v").expect("it is listed")["state"], "not-answering");
    let table = runs.cvs(&["ps"]).ok().stdout;
    assert!(table.contains("not answering"), "{table}");
    // It cannot heed what it is asked, and is killed after its grace.
    runs.cvs(&["stop", "v"]).ok();
    runs.assert_nothing_left();
}
