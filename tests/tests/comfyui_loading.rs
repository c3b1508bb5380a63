//! Our ComfyUI from a plain checkout: directories, flags, nodes, and what stands in the log.

use std::fs;

use cvs_tests::{NODES, Python, available};
use serde_json::json;

use crate::support::{Checkout, lines_with};

#[test]
fn every_node_is_imported_and_failures_are_logged() {
    let Some(checkout) = Checkout::new(&NODES) else { return };
    fs::write(checkout.path("custom_nodes/notes.txt"), "not a node").unwrap();
    fs::write(checkout.path("custom_nodes/off.py.disabled"), "raise SystemExit").unwrap();
    fs::write(checkout.path("custom_nodes/empty.py"), "").unwrap();
    let (status, log) = checkout.launch(&["--quick-test-for-ci"]).run();
    assert!(status.success(), "{log}");
    let mut lines = lines_with(&log, &checkout.dir, &["seconds", "times for"]);
    assert_eq!(lines.remove(0), "Prestartup times for custom nodes:");
    assert_eq!(lines.remove(0), "seconds: $DIR/custom_nodes/prestartup");
    assert_eq!(lines.remove(0), "Import times for custom nodes:");
    lines.sort();
    assert_eq!(
        lines,
        [
            "seconds (IMPORT FAILED): $DIR/custom_nodes/broken",
            "seconds (IMPORT FAILED): $DIR/custom_nodes/empty.py",
            "seconds (IMPORT FAILED): $DIR/custom_nodes/installer",
            "seconds (IMPORT FAILED): $DIR/custom_nodes/needs-package",
            "seconds: $DIR/custom_nodes/patterns",
            "seconds: $DIR/custom_nodes/plain",
            "seconds: $DIR/custom_nodes/prestartup",
            "seconds: $DIR/custom_nodes/self-writing",
            "seconds: $DIR/custom_nodes/slow-import",
            "seconds: $DIR/custom_nodes/websocket_image_save.py",
        ],
        "{log}"
    );
    let mut reasons = lines_with(&log, &checkout.dir, &["Cannot import", "Skip "]);
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "Cannot import $DIR/custom_nodes/broken module for custom nodes: broken 0.2.0 is broken on purpose",
            "Cannot import $DIR/custom_nodes/installer module for custom nodes: run install.py first",
            "Cannot import $DIR/custom_nodes/needs-package module for custom nodes: No module named 'sortedcontainers'",
            "Skip $DIR/custom_nodes/empty.py module for custom nodes due to the lack of NODE_CLASS_MAPPINGS or \
             NODES_LIST (need one).",
        ]
    );
}

#[test]
fn nodes_write_where_they_are() {
    let Some(checkout) = Checkout::new(&["self-writing"]) else { return };
    for imports in 1..=2 {
        let (status, log) = checkout.launch(&["--quick-test-for-ci"]).run();
        assert!(status.success(), "{log}");
        let config = fs::read_to_string(checkout.path("custom_nodes/self-writing/config.ini")).unwrap();
        assert_eq!(config, format!("[default]\nimports = {imports}\nversion = 0.2.0\n\n"));
    }
    for path in
        ["web/extensions/self-writing/self-writing.js", "custom_nodes/self-writing/styles/default.txt"]
    {
        assert!(checkout.path(path).is_file(), "{path}");
    }
}

#[test]
fn a_failed_script_and_a_failed_extra_have_their_own_lines() {
    let Some(checkout) = Checkout::new(&["prestartup"]) else { return };
    fs::write(checkout.path("custom_nodes/prestartup/fail-prestartup"), "").unwrap();
    fs::write(checkout.path("comfy_extras/nodes_zzz.py"), "import nothing_like_it").unwrap();
    let (status, log) = checkout.launch(&["--quick-test-for-ci", "--log-stdout"]).run();
    assert!(status.success(), "{log}");
    assert_eq!(
        lines_with(&log, &checkout.dir, &["FAILED", "Failed"]),
        [
            "Failed to execute startup-script: $DIR/custom_nodes/prestartup/prestartup_script.py / asked to fail",
            "seconds (PRESTARTUP FAILED): $DIR/custom_nodes/prestartup",
            "IMPORT FAILED: nodes_zzz.py",
        ]
    );
}

#[test]
fn flags() {
    let Some(checkout) = Checkout::new(&["plain", "prestartup"]) else { return };
    for (args, code, words) in [
        (&["--no-such-flag"][..], 2, &["unrecognized arguments: --no-such-flag"][..]),
        (
            &["--help"],
            0,
            &["--base-directory", "--disable-mmap", "--quick-test-for-ci", "--whitelist-custom-nodes"],
        ),
        (&["--front-end-root", "/nowhere"], 2, &["--front-end-root: /nowhere is not a directory"]),
        (
            &["--quick-test-for-ci", "--disable-all-custom-nodes"],
            0,
            &["Skipping plain due to disable_all_custom_nodes and whitelist_custom_nodes"],
        ),
        (
            &["--quick-test-for-ci", "--disable-all-custom-nodes", "--whitelist-custom-nodes", "plain"],
            0,
            &["Skipping prestartup due to", "seconds: "],
        ),
    ] {
        let (status, log) = checkout.launch(args).run();
        assert_eq!(status.code(), Some(code), "{args:?}\n{log}");
        for word in words {
            assert!(log.contains(word), "{args:?}: no {word:?} in\n{log}");
        }
    }
}

#[test]
fn the_base_directory_holds_everything_that_is_written() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    let base = checkout.path("elsewhere");
    fs::create_dir_all(base.join("custom_nodes")).unwrap();
    fs::create_dir_all(base.join("temp")).unwrap();
    fs::write(base.join("temp/old"), "").unwrap();
    let base_text = base.to_str().unwrap();
    let process = checkout.start(&["--base-directory", base_text]);
    assert!(base.join("temp").is_dir() && !base.join("temp/old").exists());
    let image = json!({
        "1": { "class_type": "EmptyImage", "inputs": { "width": 8, "height": 8, "batch_size": 1, "color": 255 } },
        "2": { "class_type": "SaveImage", "inputs": { "images": ["1", 0], "filename_prefix": "a/b" } },
        "3": { "class_type": "PreviewImage", "inputs": { "images": ["1", 0] } },
    });
    let finished = process.run(&image);
    assert!(finished.is_success(), "{:#}", finished.history);
    let shown = &finished.history["outputs"]["3"]["images"][0];
    assert!(base.join("temp").join(shown["filename"].as_str().unwrap()).is_file());
    assert!(base.join("output/a/b_00001_.png").is_file());
    assert!(process.stop().contains("Stopped server"));
    for (path, is_there) in
        [("input", true), ("user/default", true), ("user/comfyui.db", true), ("temp", false)]
    {
        assert_eq!(base.join(path).exists(), is_there, "{path}");
    }
    for path in ["user", "temp", "output/a"] {
        assert!(!checkout.path(path).exists(), "{path}");
    }
}

#[test]
fn a_database_of_a_newer_version_ends_an_older_one() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    let (status, log) = checkout.launch(&["--quick-test-for-ci"]).run();
    assert!(status.success(), "{log}");
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db:\n    \
                  print(db.execute('PRAGMA journal_mode').fetchone()[0])\n    \
                  db.execute(\"UPDATE alembic_version SET version_num = '9999_later'\")\n";
    let database = checkout.path("user/comfyui.db");
    let output = std::process::Command::new(checkout.python.program())
        .args(["-c", script])
        .arg(database)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "wal\n");
    let (status, log) = checkout.launch(&["--quick-test-for-ci"]).run();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Can't locate revision identified by '9999_later'"), "{log}");
}

#[test]
fn a_node_with_its_package_and_one_with_its_submodule_run() {
    let Some(python) = available(Python::with(&["needs-package"])) else { return };
    let nodes = ["needs-package", "patterns", "prestartup"];
    let Some(checkout) = Checkout::with_python(&nodes, python) else { return };
    let process = checkout.start(&[]);
    assert!(!process.log().contains("FAILED"), "{}", process.log());
    let finished = process.run(&json!({
        "1": { "class_type": "NeedsPackageSort", "inputs": { "words": "c a b" } },
        "2": { "class_type": "PreviewAny", "inputs": { "source": ["1", 0] } },
        "3": { "class_type": "PrestartupReport", "inputs": {} },
        "4": { "class_type": "PreviewAny", "inputs": { "source": ["3", 0] } },
        "5": { "class_type": "PatternCheckerboard", "inputs": { "width": 16, "height": 8, "square": 8 } },
        "6": { "class_type": "SaveImage", "inputs": { "images": ["5", 0], "filename_prefix": "board" } },
    }));
    let outputs = &finished.history["outputs"];
    assert_eq!(outputs["2"], json!({ "text": ["a b c"] }));
    assert_eq!(outputs["4"], json!({ "text": ["False"] }), "the script ran before numpy was imported");
    assert_eq!(outputs["6"]["images"][0]["filename"], "board_00001_.png");
}
