//! `cvs serve`: jobs over HTTP on a version, from the command that a person types.

use std::fs;

use cvs_tests::{get, post_json, send, wait_for};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::running::{LONG, Runs, pid};

fn picture(color: u32) -> Value {
    let inputs = json!({ "width": 16, "height": 8, "batch_size": 1, "color": color });
    json!({
        "1": { "class_type": "EmptyImage", "inputs": inputs },
        "2": { "class_type": "SaveImage", "inputs": { "images": ["1", 0], "filename_prefix": "x" } },
    })
}

#[test]
fn jobs_are_taken_until_it_is_stopped_whatever_becomes_of_comfyui() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    let mut spec: Value = serde_json::from_slice(&fs::read(runs.world.spec_file("v")).unwrap()).unwrap();
    spec["workflow"] = picture(7);
    fs::write(runs.world.spec_file("v"), spec.to_string()).unwrap();
    let results = runs.world.env.path("results");
    let mut server =
        runs.start(&["serve", "v", "--port", "0", "--output-dir", results.to_str().unwrap(), "--queue", "4"]);
    let url = server.url();
    let run = |input: Value| post_json(&format!("{url}/runsync"), &json!({ "input": input })).json();

    // The spec's own workflow, and another, into a directory.
    let answer = run(json!({}));
    assert_eq!(answer["status"], "COMPLETED", "{answer:#}");
    assert!(answer["output"]["images"][0]["data"].as_str().unwrap().starts_with("iVBORw0KGgo"));
    let answer = run(json!({ "workflow": picture(1), "output_mode": "directory" }));
    let path = answer["output"]["images"][0]["path"].as_str().unwrap_or_else(|| panic!("{answer:#}"));
    assert!(fs::read(path).unwrap().starts_with(b"\x89PNG"));
    assert!(std::path::Path::new(path).starts_with(results.canonicalize().unwrap()), "{path}");

    // ComfyUI dies while nothing runs: it is started anew, and the next job notices nothing.
    let row = runs.ps("v").expect("it is listed");
    let comfy = pid(&row["pid"]);
    kill(comfy, Signal::SIGKILL).unwrap();
    server.says("ComfyUI is started anew: it ended by itself");
    wait_for(LONG, "it is ready again", || {
        let health = get(&format!("{url}/health")).json();
        (health["workers"]["ready"] == 1).then_some(())
    });
    assert_eq!(run(json!({ "workflow": picture(2) }))["status"], "COMPLETED");
    assert_ne!(pid(&runs.ps("v").expect("it is listed")["pid"]), comfy);

    server.signal(Signal::SIGTERM);
    let (code, _, stderr) = server.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.ends_with("3 completed, 0 failed, 0 cancelled, 0 timed out\n"), "{stderr}");
    runs.assert_nothing_left();
}

#[test]
fn a_token_is_asked_for_and_a_public_address_needs_one() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &[]);
    let refused = runs.cvs(&["serve", "v", "--host", "0.0.0.0", "--port", "0"]).code(2);
    assert_eq!(
        refused.stderr,
        "error: 0.0.0.0:0 can be reached from other machines, and there is no token that requests must carry\n\
         hint: put one into CVS_SERVE_TOKEN or a file (--token-file), or say --without-token if everybody may\n"
    );
    let short = runs.cvs(&["serve", "v", "--port", "0"]).env("CVS_SERVE_TOKEN", "short").code(2);
    assert!(short.stderr.starts_with("error: the token is shorter than 16 characters\n"), "{short}");

    let token = runs.world.env.write("token", "a-token-of-some-length\n");
    let mut server = runs.start(&["serve", "v", "--port", "0", "--token-file", token.to_str().unwrap()]);
    let url = format!("{}/health", server.url());
    assert_eq!(get(&url).status, 401);
    let headers = [("Authorization", "Bearer a-token-of-some-length")];
    assert_eq!(send("GET", &url, &headers, b"").unwrap().status, 200);
    // Whoever is killed leaves nothing behind, either.
    server.signal(Signal::SIGKILL);
    server.wait();
    wait_for(LONG, "ComfyUI is gone with it", || {
        runs.world.env.mounts().is_empty().then_some(()).filter(|()| runs.world.env.processes().is_empty())
    });
    runs.assert_nothing_left();
}
