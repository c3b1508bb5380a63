//! `cvs validate --run`: what each node came to, beside a run of the same version.

use std::fs;

use serde_json::json;

use crate::running::Runs;

#[test]
fn every_node_is_reported() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["plain", "broken", "prestartup", "needs-package", "self-writing"]);
    runs.cvs(&["run-ui", "v", "--port", "0", "--detach"]).ok();
    let config = runs.world.env.home().join("overlays/v/upper/custom_nodes/self-writing/config.ini");
    let before = fs::read_to_string(&config).expect("the run has written");

    let report = runs.cvs(&["validate", "v", "--run", "--json"]).code(1).json();
    assert_eq!((&report["ok"], &report["failure"]), (&json!(false), &json!(null)));
    let mut found: Vec<_> = report["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| {
            assert!(node["seconds"].is_f64(), "{node}");
            let text = |key: &str| node[key].as_str().unwrap_or("-");
            format!("{} {}: {} {}", text("name"), text("path"), text("state"), text("reason"))
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "- custom_nodes/websocket_image_save.py: loaded -",
            "broken custom_nodes/broken: import-failed ImportError: broken 0.2.0 is broken on purpose",
            "needs-package custom_nodes/needs-package: import-failed ModuleNotFoundError: No module named \
             'sortedcontainers'",
            "plain custom_nodes/plain: loaded -",
            "prestartup custom_nodes/prestartup: loaded -",
            "self-writing custom_nodes/self-writing: loaded -",
        ]
    );
    assert_eq!(fs::read_to_string(&config).expect("reading"), before, "what it wrote is thrown away");
    assert_eq!(runs.ps("v").expect("it is listed")["state"], "running");
    runs.cvs(&["stop", "v"]).ok();

    let table = runs.cvs(&["validate", "v", "--run"]).code(1).stdout;
    assert!(table.starts_with("NODE  ") && table.contains("\nbroken  "), "{table}");
    runs.assert_nothing_left();
}

#[test]
fn what_loads_is_right_and_what_crashes_says_why() {
    let Some(runs) = Runs::new() else { return };
    runs.create("v", &["plain"]);
    runs.cvs(&["validate", "v", "--run"]).ok();
    runs.assert_nothing_left();
    runs.world.edit_spec(
        "v",
        "\"options\":",
        "\"args\": [\"--front-end-root\", \"/nowhere\"],\n  \"options\":",
    );
    let done = runs.cvs(&["validate", "v", "--run"]).code(1);
    assert!(done.stderr.contains("--front-end-root: /nowhere is not a directory"), "{done}");
    assert!(done.stdout.contains("plain  not loaded"), "{done}");
    runs.assert_nothing_left();
}
