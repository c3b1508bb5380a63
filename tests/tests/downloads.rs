//! Downloads by the built `cvs`: ranges, kills, buckets, and the commands about models.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cvs_tests::{Nginx, S3Server, available, wait_until};
use serde_json::json;

use crate::cli_world::{World, model, sha256};

/// Large enough to come in ranges: 24 pieces and a bit.
const LARGE: usize = (48 << 20) + 12_345;
/// The size of a piece, which the map beside a partial counts.
const PIECE: u64 = 2 << 20;

fn bytes(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

/// The pieces that are done, as the map beside the partial has them.
fn done(partials: &Path) -> BTreeSet<u64> {
    let entries = fs::read_dir(partials).into_iter().flatten().flatten();
    let map = entries.map(|entry| entry.path()).find(|path| path.extension() == Some("map".as_ref()));
    let map = map.and_then(|map| fs::read(map).ok()).unwrap_or_default();
    map.iter().zip(0..).filter(|(byte, _)| **byte == b'1').map(|(_, piece)| piece).collect()
}

#[test]
fn a_download_that_is_killed_four_times_fetches_no_finished_piece_again() {
    let world = World::new();
    let large = bytes(LARGE);
    world.web.serve_file("/x.bin", world.env.write("served/x.bin", &large));
    let partials = world.env.home().join("staging/partial");
    let url = world.web.url("/x.bin");
    let mut finished = BTreeSet::new();
    for kill in 1..=4_usize {
        world.web.forget_requests();
        let mut command = world.cvs(&["fetch", &url, "--limit-rate", "12M"]).into_command();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting cvs");
        wait_until(Duration::from_secs(60), "more pieces are done", || done(&partials).len() >= kill * 4);
        child.kill().expect("killing cvs");
        child.wait().expect("waiting for cvs");
        assert_untouched(&world, &finished);
        let now = done(&partials);
        assert!(now.is_superset(&finished) && now.len() < LARGE / PIECE as usize, "{now:?}");
        finished = now;
    }
    world.web.forget_requests();
    let output = world.cvs(&["fetch", &url]).ok();
    assert!(output.stderr.contains("goes on after"), "{output}");
    assert_untouched(&world, &finished);
    assert_eq!(output.stdout, format!("{}  x.bin\n", sha256(&large)));
    world.assert_staging_is_clean();
}

/// No range that was asked for has a piece in it that was finished before.
#[track_caller]
fn assert_untouched(world: &World, finished: &BTreeSet<u64>) {
    for request in world.web.requests_of("/x.bin") {
        let Some(range) = request.header("range") else {
            assert!(finished.is_empty(), "the whole file was asked for again");
            continue;
        };
        let (first, last) = range[6..].split_once('-').expect("a range with two ends");
        let (first, last): (u64, u64) = (first.parse().expect("a number"), last.parse().expect("a number"));
        let again = (first / PIECE..=last / PIECE).find(|piece| finished.contains(piece));
        assert_eq!(again, None, "{range} asks for a finished piece again");
    }
}

#[test]
fn ctrl_c_keeps_what_is_there() {
    let world = World::new();
    let served = world.env.path("served");
    world.env.write("served/x.bin", bytes(LARGE));
    let Some(nginx) = available(Nginx::start(&served)) else { return };
    let partials = world.env.home().join("staging/partial");
    let url = nginx.url("/x.bin");
    let mut command = world.cvs(&["fetch", &url, "--limit-rate", "12M"]).into_command();
    let mut child = command.stderr(Stdio::null()).spawn().expect("starting cvs");
    wait_until(Duration::from_secs(60), "some pieces are done", || done(&partials).len() >= 4);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalling cvs");
    assert_eq!(child.wait().expect("waiting for cvs").code(), Some(130));
    assert!(done(&partials).len() >= 4);
    assert!(world.cvs(&["fetch", &url]).ok().stderr.contains("goes on after"));
}

#[test]
fn models_come_from_a_bucket_in_ranges_too() {
    let world = World::new();
    let Some(s3) = available(S3Server::start()) else { return };
    let large = bytes(LARGE);
    s3.put("models", "vae/x y.safetensors", &model());
    s3.put("models", "large.bin", &large);
    let cvs = |args: &[&str]| s3.variables().into_iter().fold(world.cvs(args), |c, (k, v)| c.env(k, v));
    let models = json!([
        { "source": "s3://models/vae/x y.safetensors" },
        { "source": "s3://models/large.bin", "target_path": "models/checkpoints/large.bin" },
    ]);
    let core = world.core("v0.2.0");
    cvs(&["create", "v", "--repo", &core, "--models", &models.to_string()]).ok();
    let listed = world.cvs(&["model", "ls", "v", "--json"]).ok().json();
    assert_eq!(
        [&listed[0]["sha256"], &listed[1]["sha256"], &listed[0]["uses"][0]["path"]],
        [&json!(sha256(&model())), &json!(sha256(&large)), &json!("models/vae/x y.safetensors")]
    );
    for (address, says) in [
        ("s3://models/none.bin", "s3://models/none.bin: not found (HTTP 404)"),
        ("s3://models/../x", "not the name of an object"),
    ] {
        let output = cvs(&["fetch", address]).code(1);
        assert!(output.stderr.contains(says), "{output}");
    }
    let output =
        cvs(&["fetch", "s3://models/large.bin"]).env("AWS_SECRET_ACCESS_KEY", "wrong-secret").code(1);
    assert!(output.stderr.contains("s3://models/large.bin: "), "{output}");
    assert!(!output.stderr.contains("wrong-secret"), "{output}");
}

/// Each by the variables that its own tools read; what the server is asked is what those of the two answer.
#[test]
fn models_come_from_the_buckets_of_google_and_azure_in_ranges() {
    let world = World::new();
    let large = bytes(LARGE);
    let base = world.web.url("");
    // Azurite's form of an endpoint, with the account in the path.
    let endpoint = world.web.url("/account");
    for (address, path, variables, authorization) in [
        (
            "gs://bucket/vae/x y.bin",
            "/bucket/vae/x y.bin",
            vec![("GOOGLE_BASE_URL", base.as_str()), ("GOOGLE_BEARER_TOKEN", "opens-it")],
            "Bearer opens-it",
        ),
        (
            "az://box/vae/x y.bin",
            "/account/box/vae/x y.bin",
            vec![
                ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
                ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                ("AZURE_STORAGE_ACCOUNT_KEY", "b3BlbnMtaXQ="),
            ],
            "SharedKey account:",
        ),
    ] {
        let cvs =
            |args: &[&str]| variables.iter().fold(world.cvs(args), |c, (name, value)| c.env(name, value));
        world.web.serve(path, large.clone());
        // Without it the client takes no answer for one of a bucket.
        world.web.set_header(path, "Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT");
        world.web.forget_requests();
        let fetched = cvs(&["fetch", address]).ok();
        assert_eq!(fetched.stdout, format!("{}  x y.bin\n", sha256(&large)));
        let asked = world.web.requests_of(path);
        let ranges = asked.iter().filter(|request| request.header("range").is_some()).count();
        assert!(ranges > 1, "{ranges} ranges were asked for");
        for request in &asked {
            let said = request.header("authorization").unwrap_or_default();
            assert!(said.starts_with(authorization), "{said}");
        }

        // Refused or gone: told with the address, and without what is secret.
        for (status, says) in [(403, "access refused"), (404, "not found (HTTP 404)")] {
            world.web.fault(path, cvs_tests::Fault::Status(status, Vec::new()));
            let output = cvs(&["fetch", address]).env("CVS_HOME", world.env.path(status.to_string())).code(1);
            assert!(output.stderr.contains(says) && output.stderr.contains("x%20y.bin"), "{output}");
            assert!(
                !output.stderr.contains("opens-it") && !output.stderr.contains("b3BlbnMtaXQ="),
                "{output}"
            );
            world.web.heal(path);
        }
        // The second of the two has its own store: what one has fetched is not fetched for the other.
        fs::remove_dir_all(world.env.home()).expect("removing the store");
    }
}

#[test]
fn models_are_added_listed_shown_and_removed() {
    let world = World::new();
    world.create("v");
    let spec = || fs::read_to_string(world.spec_file("v")).expect("reading a spec");
    let before = spec();
    world.web.serve("/b.safetensors", model());
    let source = world.web.url("/b.safetensors");

    // What cannot be brought changes nothing.
    let gone = world.web.url("/gone.safetensors");
    let output = world.cvs(&["model", "add", "v", &format!("{gone}=models/vae/")]).code(1);
    assert!(output.stderr.contains("/gone.safetensors: not found (HTTP 404)"), "{output}");
    assert_eq!(spec(), before);

    let added = format!("{gone}=models/vae/b.safetensors");
    let output = world
        .cvs(&["model", "add", "v", &added, "--mirror", &source])
        .args(["--checksum", &sha256(&model())]);
    let output = output.ok();
    assert!(output.stderr.contains("added to v: "), "{output}");
    let listed = world.cvs(&["model", "ls", "v"]).ok().stdout;
    let rows: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(rows, ["models/checkpoints/a.safetensors", "models/vae/b.safetensors"]);
    let all = world.cvs(&["model", "ls", "--all", "--json"]).ok().json();
    assert_eq!(
        (all["models"].as_array().map(Vec::len), &all["models"][0]["present"]),
        (Some(1), &json!(true))
    );
    assert_eq!(all["models"][0]["uses"].as_array().map(Vec::len), Some(2));

    let shown = world.cvs(&["model", "show", "v", "b.safetensors", "--json"]).ok().json();
    assert_eq!((&shown["format"], &shown["findings"]), (&json!("safetensors"), &json!([])));
    let text = world.cvs(&["model", "show", "v", "models/vae/b.safetensors"]).ok().stdout;
    assert!(
        text.starts_with("model     models/vae/b.safetensors\nformat    safetensors\ntensors   "),
        "{text}"
    );
    let output = world.cvs(&["model", "show", "v", "c.safetensors"]).code(2);
    assert!(output.stderr.contains("has no part \"c.safetensors\""), "{output}");

    world.cvs(&["model", "rm", "v", "b.safetensors"]).ok();
    assert!(!spec().contains("b.safetensors"));
    world.cvs(&["validate", "v"]).ok();
}

#[test]
fn what_runs_code_when_it_is_loaded_is_told() {
    let world = World::new();
    let evil = world.env.write("evil.pt", b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.");
    let page = world.env.write("page.safetensors", b"<!DOCTYPE html>");
    let core = world.core("v0.2.0");
    let create = world.cvs(&["create", "v", "--repo", &core]);
    let output =
        create.args(["--model", "evil.pt=models/vae/", "--model", "page.safetensors=models/vae/"]).ok();
    let says = "warning: model models/vae/evil.pt: loading it runs code: it imports os.system\n";
    assert!(output.stderr.contains(says), "{output}");
    let output = world.cvs(&["validate", "v"]).ok();
    for says in [
        "models[0]: models/vae/evil.pt: loading it runs code: it imports os.system",
        "models[1]: models/vae/page.safetensors: it is no safetensors file: it begins with \"<!DOCTYPE html>\"",
    ] {
        assert!(output.stderr.contains(says), "{output}");
    }
    let show = |path: &PathBuf| world.cvs(&["model", "show", "--file", path.to_str().expect("UTF-8")]).ok();
    assert!(show(&evil).stdout.contains("\nimports   os.system\n"));
    assert!(show(&page).stderr.contains("it is no safetensors file"));
}

#[test]
fn a_file_that_the_store_has_is_not_downloaded() {
    let world = World::new();
    world.create("v");
    world.web.forget_requests();
    let source = world.web.url("/a.safetensors");
    let target = format!("{source}=models/vae/other.safetensors");
    world.cvs(&["model", "add", "v", &target, "--checksum", &sha256(&model())]).ok();
    assert_eq!(world.web.requests_of("/a.safetensors").len(), 0);
}
