//! Versions by the commands that need no mount: from creation to deletion, with gc, fsck and du beside them.

use std::process::Stdio;
use std::time::Duration;

use cvs_tests::{Fault, wait_until};
use serde_json::json;

use crate::cli_world::{CHECKPOINT, World, damage, model};

#[test]
fn a_version_is_created_whole() {
    let world = World::new();
    world.create("portrait");

    let listed = world.cvs(&["list", "--json"]).ok().json();
    assert_eq!(listed[0]["id"], "portrait");
    assert_eq!(listed[0]["lock"], "current");
    assert_eq!(listed[0]["core"]["commit"], world.repositories.commit_id("ComfyUI", "v0.2.0").as_str());
    let nodes: Vec<_> = ["plain", "patterns"]
        .into_iter()
        .zip(["v0.1.0", "master"])
        .map(|(name, revision)| json!([name, world.repositories.commit_id(name, revision)]))
        .collect();
    let found: Vec<_> = listed[0]["nodes"]
        .as_array()
        .expect("a list of nodes")
        .iter()
        .map(|node| json!([node["name"], node["commit"]]))
        .collect();
    assert_eq!(found, nodes);
    assert_eq!(listed[0]["model_bytes"], model().len());

    let report = world.cvs(&["validate", "portrait", "--deep", "--json"]).ok().json();
    let parts: Vec<_> =
        report["parts"].as_array().expect("parts").iter().map(|p| json!([p["part"], p["state"]])).collect();
    let present = |part: &str| json!([part, "present"]);
    assert_eq!(
        parts,
        [
            present("spec"),
            present("core"),
            present("node plain"),
            present("node patterns"),
            present(&format!("model {CHECKPOINT}")),
            present("view"),
        ]
    );
    assert_eq!(std::fs::read(world.model_object("portrait")).expect("reading an object"), model());
    world.assert_staging_is_clean();
}

#[test]
fn the_table_of_versions_is_for_people() {
    let world = World::new();
    assert_eq!(world.cvs(&["list"]).ok().stdout, "");
    world.create("portrait");
    world.write_spec("broken", "{");
    let commit = world.repositories.commit_id("ComfyUI", "v0.2.0");
    let output = world.cvs(&["list"]).ok();
    assert_eq!(
        output.stdout,
        format!(
            "VERSION   CORE    COMMIT        NODES  MODELS  MODEL SIZE  STATE\n\
             broken                                                     unreadable\n\
             portrait  v0.2.0  {}      2       1     195 KiB  ready\n",
            &commit[..12]
        )
    );
    assert_eq!(
        world.env.redact(&output.stderr),
        "warning: broken cannot be read: $TEST/cvs/versions/broken.json:1:1: not valid JSON: EOF while parsing an \
         object\n"
    );
}

#[test]
fn a_lock_follows_edits_and_nothing_else() {
    let world = World::new();
    world.create("portrait");
    let spec = std::fs::read_to_string(world.spec_file("portrait")).expect("reading a spec");

    // The branch moves on; the lock does not.
    world.repositories.commit("patterns", "master", &[("new.py", Some(b"x = 1\n"))]);
    let output = world.cvs(&["lock", "portrait"]).ok();
    assert_eq!(output.stderr, "portrait: the lock is up to date\n");
    assert_eq!(std::fs::read_to_string(world.spec_file("portrait")).expect("reading a spec"), spec);

    // Nothing is asked of anybody for that.
    world.git.http().forget_requests();
    world.cvs(&["lock", "portrait", "--offline"]).ok();
    world.cvs(&["validate", "portrait"]).ok();
    assert_eq!(world.git.http().requests().len(), 0);

    world.edit_spec("portrait", "\"v0.1.0\"", "\"v0.2.0\"");
    let refused = world.cvs(&["lock", "portrait", "--locked"]).code(1);
    assert_eq!(
        refused.stderr,
        "error: version portrait: the lock is out of date, and --locked forbids to change it: node \
         custom_nodes/plain: at v0.2.0, was v0.1.0\nhint: `cvs lock portrait` brings the lock up to date\n"
    );
    let report = world.cvs(&["lock", "portrait", "--json"]).ok().json();
    assert_eq!(report["refreshed"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(report["unchanged"], false);

    let report = world.cvs(&["lock", "portrait", "--update=patterns", "--json"]).ok().json();
    assert!(report["new_objects"].as_u64().is_some_and(|n| n > 0), "{report}");
}

#[test]
fn no_fetch_pins_and_lock_brings_the_rest() {
    let world = World::new();
    world.cvs(&["create", "later", "--repo", &world.core("v0.1.0"), "--no-fetch"]).ok();
    assert_eq!(world.cvs(&["list", "--json"]).ok().json()[0]["lock"], "pinned");
    world.cvs(&["validate", "later", "--locked"]).code(1);
    world.cvs(&["lock", "later"]).ok();
    assert_eq!(world.cvs(&["list", "--json"]).ok().json()[0]["lock"], "current");
}

#[test]
fn a_clone_shares_everything_and_goes_alone() {
    let world = World::new();
    world.create("portrait");
    let before = world.objects();
    world.cvs(&["clone", "portrait", "next"]).ok();
    assert_eq!(world.objects(), before);
    let usage = world.cvs(&["du", "--json"]).ok().json();
    assert_eq!(usage["dedup_ratio"].as_f64().map(|ratio| ratio >= 2.0), Some(true), "{usage}");
    assert_eq!(usage["versions"][0]["unique_bytes"], 0);
    world.cvs(&["clone", "portrait", "next"]).code(1);
    world.cvs(&["clone", "portrait", "next", "--force"]).ok();

    world.edit_spec("next", "\"v0.1.0\"", "\"v0.2.0\"");
    world.cvs(&["lock", "next"]).ok();
    let with_both = world.objects();
    assert!(with_both.len() > before.len());
    let unique = world.cvs(&["du", "next", "--json"]).ok().json();
    assert_eq!(unique["versions"].as_array().map(Vec::len), Some(1));
    assert!(unique["versions"][0]["unique_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{unique}");

    world.cvs(&["delete", "next"]).ok();
    assert!(!world.spec_file("next").exists());
    let plan = world.cvs(&["gc", "--dry-run", "--json"]).ok().json();
    assert_eq!(plan["garbage_objects"], with_both.len() - before.len());
    assert_eq!(world.objects(), with_both);
    world.cvs(&["gc", "--grace", "0"]).ok();
    assert_eq!(world.objects(), before);
    world.cvs(&["fsck"]).ok();
}

#[test]
fn a_deletion_that_fails_tells_what_is_gone() {
    let world = World::new();
    world.create("portrait");
    let failed = world.cvs(&["delete", "portrait", "portrait"]).code(1);
    assert_eq!(
        world.env.redact(&failed.stderr),
        "deleted portrait: $TEST/cvs/versions/portrait.json\n\
         error: there is no version \"portrait\" in $TEST/cvs/versions\n\
         hint: `cvs list` shows the versions that there are\n"
    );
}

#[test]
fn what_gc_took_comes_back_from_the_trash() {
    let world = World::new();
    world.create("portrait");
    world.cvs(&["delete", "portrait"]).ok();
    let collected = world.cvs(&["gc", "--json"]).ok().json();
    assert!(collected["trashed_objects"].as_u64().is_some_and(|n| n > 0), "{collected}");
    assert_eq!(collected["deleted_objects"], 0);
    assert_eq!(world.objects(), Vec::<String>::new());
    world.create("again");
    world.cvs(&["validate", "again", "--deep"]).ok();
}

#[test]
fn damage_is_named_repaired_and_gone() {
    let world = World::new();
    world.create("portrait");
    let object = world.model_object("portrait");
    damage(&object);
    let report = world.cvs(&["fsck", "--json"]).code(3).json();
    let damaged = report["damage"].as_array().expect("a list of damage");
    assert_eq!(damaged.len(), 1, "{report}");
    assert_eq!(damaged[0]["hurts"], json!({ "portrait": [CHECKPOINT] }));
    world.cvs(&["validate", "portrait"]).ok();
    let deep = world.cvs(&["validate", "portrait", "--deep"]).code(3);
    assert!(deep.stdout.contains(&format!("model {CHECKPOINT}  damaged")), "{deep}");

    world.cvs(&["fsck", "--repair"]).ok();
    world.cvs(&["fsck"]).ok();
    assert_eq!(std::fs::read(&object).expect("reading an object"), model());

    // Its source is gone, so that nothing brings it back.
    damage(&object);
    world.web.remove("/a.safetensors");
    let output = world.cvs(&["fsck", "--repair"]).code(3);
    assert!(output.stdout.contains("  lost\n"), "{output}");
    let output = world.cvs(&["validate", "portrait", "--locked"]).code(3);
    assert!(output.stdout.contains(&format!("model {CHECKPOINT}  missing")), "{output}");
}

#[test]
fn a_missing_object_is_brought_again() {
    let world = World::new();
    world.create("portrait");
    std::fs::remove_file(world.model_object("portrait")).expect("removing an object");
    world.cvs(&["validate", "portrait", "--offline"]).code(3);
    world.cvs(&["fsck"]).code(3);
    world.cvs(&["lock", "portrait"]).ok();
    world.cvs(&["fsck"]).ok();
}

#[test]
fn an_index_of_garbage_is_replaced() {
    let world = World::new();
    world.create("portrait");
    for file in std::fs::read_dir(world.env.home()).expect("listing the home").flatten() {
        if file.file_name().to_string_lossy().starts_with("index.sqlite") {
            std::fs::write(file.path(), b"garbage").expect("writing the index");
        }
    }
    world.cvs(&["validate", "portrait", "--deep"]).ok();
    world.create("again");
    let report = world.cvs(&["fsck", "--json"]).ok().json();
    assert_eq!(report["damage"], json!([]));
    let report = world.cvs(&["fsck", "--rebuild-index", "--json"]).ok().json();
    assert_eq!(report["index"]["state"], "cleared");
    assert!(report["refill"]["git_blobs"].as_u64().is_some_and(|files| files > 0), "{report}");
}

#[test]
fn doctor_says_what_it_found_and_advises() {
    let world = World::new();
    let checks = world.cvs(&["doctor", "--json"]).output().json();
    let names: Vec<_> =
        checks["checks"].as_array().expect("checks").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "fuse",
            "mount",
            "passthrough",
            "landlock",
            "store",
            "space",
            "reflink",
            "xattrs",
            "index",
            "leases",
            "versions",
            "git",
            "uv"
        ]
    );
    for check in checks["checks"].as_array().into_iter().flatten() {
        assert_eq!(check["state"] == "ok", check["advice"].is_null(), "{check}");
    }
    world.assert_staging_is_clean();
    world.write_spec("broken", "[]");
    let output = world.cvs(&["doctor"]).code(1);
    assert!(output.stdout.contains("broken.json"), "{output}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let shell =
        format!("'{}' completions bash | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}", program(&world));
    let output = world.env.command("bash").args(["-c", &shell]).output().expect("starting bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn ctrl_c_leaves_nothing_half_done_and_the_next_run_goes_on() {
    let world = World::new();
    let bytes = vec![7; 1 << 20];
    world.web.serve("/slow.bin", bytes.clone());
    world.web.fault("/slow.bin", Fault::Drip(64 << 10, Duration::from_secs(1)));
    let model = format!("{}=models/slow.bin", world.web.url("/slow.bin"));
    let core = world.core("v0.2.0");
    let args = ["create", "slow", "--repo", &core, "--model", &model];
    let mut command = world.cvs(&args).into_command();
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starting cvs");
    wait_until(Duration::from_secs(60), "bytes of the download", || {
        world.web.bytes_sent("/slow.bin") > 128 << 10
    });
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sending a signal");
    let output = child.wait_with_output().expect("waiting for cvs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("error: interrupted\n"), "{said}");
    assert!(!world.spec_file("slow").exists());
    world.assert_staging_is_clean();

    world.web.heal("/slow.bin");
    world.web.forget_requests();
    let output = world.cvs(&args).ok();
    assert!(output.stderr.contains("model models/slow.bin: goes on after "), "{output}");
    let requests = world.web.requests_of("/slow.bin");
    assert!(requests.iter().any(|request| request.headers.get("Range").is_some()), "{requests:?}");
    assert_eq!(std::fs::read(world.model_object("slow")).expect("reading an object"), bytes);
}

#[test]
fn the_home_comes_from_flag_variable_file_and_default() {
    let world = World::new();
    let home = |arguments: &[&str], variable: &str| {
        let output = world.cvs(&["doctor", "--json"]).args(arguments).env("CVS_HOME", variable).output();
        world.env.redact(output.json()["home"].as_str().expect("a home"))
    };
    assert_eq!(home(&["--home", "flag"], "variable"), "flag");
    assert_eq!(home(&[], "variable"), "variable");
    assert_eq!(home(&[], ""), "$TEST/home/.local/share/cvs");
    world.env.write("home/.config/cvs/config.json", r#"{"home": "~/store"}"#);
    assert_eq!(home(&[], ""), "$TEST/home/store");
    world.env.write("home/.config/cvs/config.json", "{\"hme\": 1}");
    let output = world.cvs(&["list"]).env("CVS_HOME", "").code(1);
    assert!(output.stderr.contains("config.json: unknown field `hme`"), "{output}");
}

fn program(world: &World) -> String {
    let command = world.cvs(&[]).into_command();
    command.get_program().to_string_lossy().into_owned()
}
