//! What a person reads when something is wrong, word by word: the errors that no other test meets.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cli_world::World;
use crate::running::LONG;

#[test]
fn every_command_says_what_is_wrong_and_what_to_do() {
    let world = World::new();
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0")]).ok();
    let nowhere = world.env.path("nowhere");
    for (args, stderr) in [
        (&["stop", "v"][..], "error: v does not run\nhint: `cvs ps` shows what runs\n"),
        (&["restart", "v"], "error: v does not run\nhint: `cvs ps` shows what runs\n"),
        (
            &["logs", "v"],
            "error: v has never run here\nhint: `cvs run-ui v` runs it; `cvs list` shows the versions that there are\n",
        ),
        (
            &["run-ui", "v", "--port", "0"],
            "error: v has no Python environment, and names no interpreter\nhint: name one in the spec: \
             `python.version`, or `env.COMFY_PYTHON` with a path\n",
        ),
        (
            &["realize", "v", "--remove"],
            "error: there is no realization at $TEST/cvs/realized/v\nhint: `cvs realize VERSION --target DIR` makes one\n",
        ),
        (&["model", "rm", "v", "x"], "error: version v has no part \"x\"; it has no part of that kind\n"),
        (
            &["fetch", "gs://b/x"],
            "error: gs://b/x: cannot use gs://b: Generic GCS error: GCP credential error: Unable to open service account \
             file from $TEST/nowhere: No such file or directory (os error 2)\nhint: docs/models.md names the variables that \
             hold the settings and credentials of buckets\n",
        ),
        (
            &["fetch", "ftp://h/x"],
            "error: the source: found \"ftp://h/x\"; expected `https://…`, `http://…`, `hf://ORG/REPO/PATH`, \
             `civitai://…`, `s3://…`, `gs://…`, `az://…`, `file://…` or an absolute path\nhint: docs/spec-v2.md says \
             how a spec is written\n",
        ),
        (&["import", "/dev/null", "--as", "x"], "error: /dev/null: neither a file nor a directory\n"),
    ] {
        let output = world.cvs(args).env("GOOGLE_SERVICE_ACCOUNT", &nowhere).fails();
        assert_eq!(world.env.redact(&output.stderr), stderr, "{args:?}");
        assert_eq!(output.stdout, "", "{args:?}");
    }
    let output = world.cvs(&["export", "v", "--format", "extra-model-paths"]).code(2);
    assert!(output.stderr.contains("--at <DIR>"), "{output}");

    world.env.write("home/.config/cvs/config.json", "{");
    let output = world.cvs(&["list"]).code(1);
    assert_eq!(
        world.env.redact(&output.stderr),
        "error: cannot use the configuration file $TEST/home/.config/cvs/config.json: EOF while parsing an object at line \
         1 column 1\nhint: it is a JSON object with the keys `home` and `versions_dir`, both optional\n"
    );
}

#[test]
fn what_is_wrong_with_an_install_is_named() {
    let world = World::new();
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &[]);
    let source = root.to_str().expect("temporary directories are UTF-8");
    let extra = world.env.path("extra.yaml");
    let extra = extra.to_str().expect("temporary directories are UTF-8");
    let import = ["import", source, "--as", "x", "--environment", "skip"];
    for (text, reason) in [
        ("[", "not valid YAML: unclosed bracket '[' at line 1, column 1"),
        ("- a", "a mapping of sections is expected"),
        ("m: 5", "m: a mapping of folders is expected"),
        ("m: {base_path: 5}", "m.base_path: a path is expected"),
        ("m: {loras: 5}", "m.loras: a path, or several on lines of their own, is expected"),
        ("m: {../x: ComfyUI}", "m.../x: no name of a folder"),
    ] {
        world.env.write("extra.yaml", text);
        let output = world.cvs(&import).args(["--extra-model-paths-config", extra]).code(1);
        let said = world.env.redact(&output.stderr);
        assert_eq!(said, format!("error: $TEST/extra.yaml: {reason}\n"), "{text}");
    }
    let output = world.cvs(&["import", source, "--as", "x", "--python", extra]).code(1);
    assert_eq!(
        world.env.redact(&output.stderr),
        "error: $TEST/extra.yaml is no Python environment: there is no site-packages in it\n"
    );
    assert!(!world.spec_file("x").exists());
}

/// A model that is written to all the time cannot be taken: neither of its contents is one.
#[test]
fn a_model_that_changes_all_the_time_is_told() {
    let world = World::new();
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &[]);
    let path = root.join("models/loras/busy.safetensors");
    fs::write(&path, vec![1; 64 << 20]).expect("writing a model");
    let (file, is_over) =
        (File::options().write(true).open(&path).expect("opening a model"), AtomicBool::new(false));
    let source = root.to_str().expect("temporary directories are UTF-8");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut count = 0_u64;
            let end = Instant::now() + LONG;
            while !is_over.load(Ordering::Relaxed) && Instant::now() < end {
                count += 1;
                file.write_all_at(&count.to_le_bytes(), 1 << 20).expect("writing into a model");
                // Often within the time that it takes to read so much, and no burden.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let output = world.cvs(&["import", source, "--as", "x", "--environment", "skip"]).output();
        is_over.store(true, Ordering::Relaxed);
        output
    });
    assert_eq!(
        (output.code(), world.env.redact(&output.stderr).lines().collect::<Vec<_>>()),
        (
            Some(1),
            vec![
                "error: $TEST/ComfyUI/models/loras/busy.safetensors changed while it was read, twice",
                "hint: end what writes there, and run the command again: it goes on where it stopped",
            ]
        )
    );
    assert!(!world.spec_file("x").exists());
}
