//! Where people have what belongs to an install: beside it, in workspaces and portable packages, behind links, and in
//! directories that a file names.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli_world::World;
use crate::mounted::read;

/// What an import would take: each part and where it is from; and what it leaves out, with the reason.
fn dry_run(world: &World, source: &Path) -> (Vec<String>, Vec<String>) {
    let source = source.to_str().expect("temporary directories are UTF-8");
    let report = world.cvs(&["import", source, "--as", "x", "--dry-run", "--json"]).ok().json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = |list: &str, key: &str, value: &str| -> Vec<String> {
        let entries = report["import"][list].as_array().expect("a list").iter();
        entries.map(|one| world.env.redact(&format!("{}: {}", text(&one[key]), text(&one[value])))).collect()
    };
    (lines("taken", "part", "from"), lines("left_out", "path", "reason"))
}

#[test]
fn a_workspace_and_a_portable_package_are_installs() {
    let world = World::new();
    world.repositories.check_out(&world.env.path("w/ComfyUI"), "v0.2.0", &[]);
    let metadata = "Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n";
    for (environment, site, more) in [
        ("python_embeded", "Lib/site-packages", "python312._pth"),
        (".venv", "lib/python3.12/site-packages", "pyvenv.cfg"),
    ] {
        let dir = format!("w/{environment}");
        world.env.write(format!("{dir}/{more}"), "");
        world.env.write(format!("{dir}/{site}/alpha-1.0.dist-info/METADATA"), metadata);
        for from in ["w", "w/ComfyUI"] {
            let (taken, left_out) = dry_run(&world, &world.env.path(from));
            assert_eq!(taken, ["core: $TEST/w/ComfyUI".to_owned(), format!("python: $TEST/{dir}")], "{from}");
            let left_out: Vec<_> = left_out.iter().filter(|line| !line.contains("not asked for")).collect();
            assert_eq!(left_out, Vec::<&String>::new(), "{from}");
        }
        fs::remove_dir_all(world.env.path(dir)).expect("removing an environment");
    }
}

#[test]
fn models_are_taken_from_where_comfyui_would_take_them() {
    let world = World::new();
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &["plain"]);
    for path in
        ["ComfyUI/models/loras/a.safetensors", "first/loras/a.safetensors", "then/loras/a.safetensors"]
    {
        world.env.write(path, path);
    }
    world.env.write("then/loras/b.safetensors", "b");
    world.env.write("nodes/elsewhere/__init__.py", "");
    world.env.write("linked/__init__.py", "");
    symlink(world.env.path("linked"), root.join("custom_nodes/linked")).expect("linking a node");
    symlink(root.join("models"), root.join("models/loras/again")).expect("linking back");
    // A node has downloaded it for itself. What is small beside it is a file of the node.
    let own = root.join("custom_nodes/plain/weights/own.onnx");
    world.env.write("ComfyUI/custom_nodes/plain/weights/small.onnx", "small");
    File::create(&own).and_then(|file| file.set_len(10 << 20)).expect("writing a model");
    let base = |name: &str| world.env.path(name).display().to_string();
    let extra = json!({
        "then": { "base_path": base("then"), "loras": "loras\nnowhere" },
        "first": { "base_path": base("first"), "is_default": true, "loras": "loras" },
        "nodes": { "base_path": base("."), "custom_nodes": "nodes" },
    });
    world.env.write("ComfyUI/extra_model_paths.yaml", extra.to_string());
    let (taken, left_out) = dry_run(&world, &root);
    assert_eq!(
        taken,
        [
            "core: $TEST/ComfyUI",
            "node custom_nodes/linked: $TEST/linked",
            "node custom_nodes/plain: $TEST/ComfyUI/custom_nodes/plain",
            "node custom_nodes/elsewhere: $TEST/nodes/elsewhere",
            "model models/loras/a.safetensors: $TEST/first/loras/a.safetensors",
            "model models/loras/b.safetensors: $TEST/then/loras/b.safetensors",
            "model custom_nodes/plain/weights/own.onnx: $TEST/ComfyUI/custom_nodes/plain/weights/own.onnx",
        ]
    );
    let because = |words: &str| left_out.iter().filter(|line| line.contains(words)).count();
    assert_eq!(because("$TEST/first/loras/a.safetensors comes before it at models/loras/a.safetensors"), 2);
    assert_eq!(because("a link that leads back to a directory above it"), 1, "{left_out:#?}");
    assert_eq!(because("$TEST/then/nowhere: then.loras of $TEST/ComfyUI/extra_model_paths.yaml names it"), 1);
}

#[test]
fn what_programs_wrote_goes_into_the_overlay_when_it_is_asked_for() {
    let world = World::new();
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &[]);
    world.env.write("ComfyUI/user/default/workflows/mine.json", "{}");
    world.env.write("ComfyUI/input/mine.png", "mine");
    world.env.write("ComfyUI/output/made.png", "made");
    let source = root.to_str().expect("temporary directories are UTF-8");
    let import =
        ["import", source, "--as", "x", "--environment", "skip", "--with-user", "--with-inputs", "--json"];
    let report = world.cvs(&import).ok().json();
    // example.png is the core's own.
    let expected = json!({ "input": { "files": 1, "bytes": 4, "same": 1 }, "user": { "files": 1, "bytes": 2, "same": 0 } });
    assert_eq!(report["overlay"], expected);
    let upper = world.env.home().join("overlays/x/upper");
    assert_eq!(read(upper.join("user/default/workflows/mine.json")), b"{}");
    assert_eq!(read(upper.join("input/mine.png")), b"mine");
    assert!(!upper.join("output").exists() && !upper.join("input/example.png").exists());
}
