//! Every file that people pass around, as a version: each format of a snapshot is mounted, each form of a workflow runs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cvs_tests::{CORE, Python, available, read_json, ui_workflow};
use serde_json::{Value, json};

use crate::cli_world::{World, model, sha256};
use crate::imports::{archive, publish, spec};
use crate::mounted::{fuse, mount, read, umount};
use crate::running::Runs;

fn import(world: &World, file: &str, bytes: impl AsRef<[u8]>, id: &str) -> Value {
    let file = world.env.write(file, bytes);
    let file = file.to_str().expect("temporary directories are UTF-8");
    let core = world.core("v0.2.0");
    let options = ["--as", id, "--repo", &core, "--environment", "skip", "--json"];
    world.cvs(&[&["import", file], &options[..]].concat()).ok().json()
}

#[test]
fn every_format_of_a_snapshot_becomes_a_version_that_is_mounted() {
    let Some(()) = available(fuse()) else { return };
    let mut world = World::new();
    let registry = world.web.url("");
    world.env.set_var("CVS_REGISTRY", &registry);
    publish(&world, "tidy", "1.2.3", archive(&[("__init__.py", b"tidy\n")]));
    let (plain, patterns) = (world.git.url("plain"), world.git.url("patterns"));
    let [old, new] = [("plain", "v0.1.0"), ("patterns", "v0.2.0")]
        .map(|(name, tag)| world.repositories.commit_id(name, tag));
    let (core, source, sum) =
        (world.repositories.commit_id(CORE, "v0.2.0"), world.web.url("/a.safetensors"), sha256(&model()));
    let manager = json!({
        "comfyui": core,
        "git_custom_nodes": { &plain: { "hash": old, "disabled": false }, &patterns: { "hash": new, "disabled": true } },
        "cnr_custom_nodes": { "tidy": "1.2.3" }, "file_custom_nodes": [], "pips": { "numpy==1.26.4": "" },
    });
    let yaml = format!(
        "# Of ComfyUI-Manager.\ncustom_nodes:\n  comfyui: {core}\n  git_custom_nodes:\n    {plain}:\n      hash: {old}\n      \
         disabled: false\n    {patterns}:\n      hash: {new}\n      disabled: true\n  cnr_custom_nodes:\n    tidy: 1.2.3\n  \
         file_custom_nodes: []\n  pips:\n    numpy==1.26.4: ''\n"
    );
    let desktop = json!({ "type": "comfyui-desktop-2-snapshot", "version": 2, "snapshots": [{
        "comfyui": { "ref": "master", "commit": core, "releaseTag": "v0.2.0" },
        "customNodes": [
            { "type": "git", "id": "plain", "dirName": "plain", "url": plain, "commit": old, "enabled": true },
            { "type": "git", "id": "patterns", "dirName": "patterns", "url": patterns, "commit": new, "enabled": false },
            { "type": "cnr", "id": "tidy", "dirName": "tidy", "version": "1.2.3", "enabled": true },
        ],
        "pipPackages": { "numpy": "1.26.4" }, "pythonVersion": "3.12.7" }] });
    let definition = json!({ "schema": "distribution-definition/0", "baseComfyVersion": "0.2.0",
        "customNodes": [
            { "name": "plain", "repository": plain, "gitRef": old },
            { "name": "tidy", "id": "tidy", "registryVersion": "1.2.3" },
        ],
        "models": [{ "type": "lora", "filename": "l.safetensors", "sha256": sum, "sizeBytes": model().len(), "sourceUri": source }],
        "pipDependencies": ["numpy==1.26.4"], "environment": { "os": "linux", "pythonVersion": "3.12" } });
    let lock = json!({ "basics": { "name": "x" }, "custom_nodes": manager, "models": [{
        "model": "l.safetensors", "url": source, "paths": [{ "path": "models/loras/l.safetensors" }],
        "hashes": [{ "hash": sum, "type": "SHA256" }], "type": "lora" }] });
    let old_lock = json!({ "schema_version": 1, "version_name": "x", "comfyui": { "repo": world.git.url(CORE), "commit": core },
        "custom_nodes": [{ "name": "Plain", "repo": plain, "commit": old, "path": "/old/custom_nodes/plain" }],
        "models": [{ "name": "l", "source": source, "target_path": "/old/models/loras/l.safetensors", "checksum": sum }],
        "python": { "version": "3.12.7", "packages": [{ "name": "numpy", "version": "1.26.4" }] } });
    for (id, file, text, nodes, has_model) in [
        ("manager", "m.json", manager.to_string(), ["tidy", "patterns.disabled"].as_slice(), false),
        ("yaml", "m.yaml", yaml, &["tidy", "patterns.disabled"], false),
        ("desktop", "d.json", desktop.to_string(), &["tidy", "patterns.disabled"], false),
        ("definition", "b.json", definition.to_string(), &["tidy"], true),
        ("lock", "comfy-lock.yaml", lock.to_string(), &["tidy", "patterns.disabled"], true),
        ("old", "lock.json", old_lock.to_string(), &[], true),
    ] {
        let report = import(&world, file, text, id);
        assert_eq!(report["import"]["questions"], json!([]), "{id}");
        assert_eq!(spec(&world, id)["python_packages"], json!(["numpy==1.26.4"]), "{id}");
        world.cvs(&["validate", id]).ok();
        is_mounted(&world, id, nodes, has_model);
    }
    // YAML says the same as JSON.
    let [mut one, mut other] = ["manager", "yaml"].map(|id| spec(&world, id));
    let text = |value: &Value| value["lock"]["view"].as_str().map(str::to_owned);
    assert_eq!(text(&one), text(&other));
    for spec in [&mut one, &mut other] {
        let spec = spec.as_object_mut().expect("a spec");
        spec.retain(|key, _| !matches!(key.as_str(), "lock" | "version_id"));
    }
    assert_eq!(one, other);

    // A spec of cvs itself, with its lock.
    let exported = world.cvs(&["export", "lock", "--format", "spec"]).ok().stdout;
    import(&world, "spec.json", exported, "spec");
    assert_eq!(spec(&world, "spec")["lock"]["view"], spec(&world, "lock")["lock"]["view"]);
    is_mounted(&world, "spec", &["tidy", "patterns.disabled"], true);
}

/// The core, `plain` at its first release, these nodes and no others, and the model.
#[track_caller]
fn is_mounted(world: &World, id: &str, nodes: &[&str], has_model: bool) {
    let dir = mount(&world.env, id, id, &["--read-only"]);
    let changes = |path: &str| String::from_utf8(read(dir.join(path).join("CHANGES.md"))).expect("UTF-8");
    assert_eq!(changes(""), "- 0.2.0\n- 0.1.0\n", "{id}");
    assert_eq!(changes("custom_nodes/plain"), "- 0.1.0\n", "{id}");
    let entries = fs::read_dir(dir.join("custom_nodes")).expect("listing nodes");
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("UTF-8"))
        .collect();
    let mut expected: Vec<&str> = nodes.iter().copied().chain(["plain"]).collect();
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected, "{id}");
    let path = dir.join("models/loras/l.safetensors");
    assert!(if has_model { read(path) == model() } else { !path.exists() }, "{id}");
    umount(&world.env, &dir);
}

/// A PNG with these texts, as Pillow writes them for ComfyUI.
fn png(graph: &Value, prompt: &Value) -> Vec<u8> {
    let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
    for (keyword, document) in [("prompt", prompt), ("workflow", graph)] {
        let data = format!("{keyword}\0{document}");
        picture.extend(u32::try_from(data.len()).expect("a short text").to_be_bytes());
        picture.extend(b"tEXt");
        picture.extend(data.as_bytes());
        picture.extend([0; 4]);
    }
    picture
}

/// A WebP by Pillow, with the fields of EXIF that ComfyUI has it write.
fn webp(python: &Python, graph: &Value, prompt: &Value, file: &Path) {
    let code = "import sys\nfrom PIL import Image\nimage = Image.new('RGB', (16, 8))\nexif = image.getexif()\n\
                exif[0x0110] = 'prompt:' + sys.argv[2]\nexif[0x010f] = 'workflow:' + sys.argv[3]\n\
                image.save(sys.argv[1], exif=exif)\n";
    let mut command = Command::new(python.program());
    command.args(["-c", code]).arg(file).args([prompt.to_string(), graph.to_string()]);
    assert!(command.stdin(Stdio::null()).status().expect("starting Python").success());
}

/// The boxes of a film in which ffmpeg has written metadata under names of their own, as ComfyUI asks it to.
fn mp4(graph: &Value, prompt: &Value) -> Vec<u8> {
    let atom = |kind: &[u8], content: &[u8]| {
        let length = u32::try_from(content.len() + 8).expect("a short film").to_be_bytes();
        [&length[..], kind, content].concat()
    };
    let (mut keys, mut list) = (vec![0, 0, 0, 0, 0, 0, 0, 2], Vec::new());
    for (number, (name, document)) in [("prompt", prompt), ("workflow", graph)].into_iter().enumerate() {
        keys.extend(atom(b"mdta", name.as_bytes()));
        let data = [b"\0\0\0\x01\0\0\0\0", document.to_string().as_bytes()].concat();
        list.extend(atom(&[0, 0, 0, number as u8 + 1], &atom(b"data", &data)));
    }
    let meta = [atom(b"hdlr", &[0; 24]), atom(b"keys", &keys), atom(b"ilst", &list)].concat();
    [atom(b"ftyp", b"isomiso2"), atom(b"mdat", &[9; 4000]), atom(b"moov", &atom(b"meta", &meta))].concat()
}

#[test]
fn every_form_of_a_workflow_becomes_a_version_that_runs_it() {
    let Some(mut runs) = Runs::new() else { return };
    let Some(python) = available(Python::for_core()) else { return };
    let (registry, program) = (runs.world.web.url(""), python.program());
    runs.world.env.set_var("CVS_REGISTRY", &registry);
    runs.world.env.set_var("COMFY_PYTHON", &program);
    let world = &runs.world;
    world.create("known");
    // As it is published: a file where the repository has a link.
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("comfyui/nodes/plain");
    let files = ["__init__.py", "nodes.py", "data/current.json"].map(|name| (name, read(plain.join(name))));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    publish(world, "plain", "0.2.0", archive(&files));

    // The node says where it is from, the document where a model is.
    let mut graph = read_json(&ui_workflow("tint"));
    for node in graph["nodes"].as_array_mut().expect("nodes") {
        if node["type"] == "PlainTint" {
            node["properties"]["ver"] = "0.2.0".into();
        }
    }
    graph["models"] = json!([{ "name": "b.safetensors", "url": world.web.url("/a.safetensors"),
        "directory": "vae", "hash": sha256(&model()), "hash_type": "SHA256" }]);
    // The prompt names a model that a version here has.
    let prompt = |class: &str, more: Value| {
        let mut inputs = json!({ "image": ["1", 0] });
        inputs.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({
            "1": { "class_type": "LoadImage", "inputs": { "image": "example.png" } },
            "2": { "class_type": class, "inputs": inputs },
            "3": { "class_type": "SaveImage", "inputs": { "images": ["2", 0], "filename_prefix": "x" } },
            "4": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "a.safetensors" } },
        })
    };
    let alone = prompt("ImageInvert", json!({}));
    let tint = prompt("PlainTint", json!({ "colour": "green" }));
    let file = world.env.path("x.webp");
    webp(&python, &graph, &tint, &file);
    let both = ["models/checkpoints/a.safetensors", "models/vae/b.safetensors"];
    for (id, file, bytes, workflow, models) in [
        ("ui", "x.ui.json", graph.to_string().into_bytes(), &graph, &both[1..]),
        ("api", "x.api.json", alone.to_string().into_bytes(), &alone, &both[..1]),
        ("png", "x.png", png(&graph, &tint), &tint, &both[..]),
        ("webp", "x.webp", read(&file), &tint, &both[..]),
        ("mp4", "x.mp4", mp4(&graph, &tint), &tint, &both[..]),
    ] {
        let report = import(world, file, bytes, id);
        assert_eq!(report["import"]["questions"], json!([]), "{id}");
        let made = spec(world, id);
        assert_eq!(made["workflow"], *workflow, "{id}");
        let nodes = if id == "api" { json!(null) } else { json!("registry:plain") };
        assert_eq!(made["custom_nodes"][0]["repo"], nodes, "{id}");
        let mut targets: Vec<&str> = made["models"]
            .as_array()
            .expect("models")
            .iter()
            .filter_map(|model| model["target_path"].as_str())
            .collect();
        targets.sort_unstable();
        assert_eq!(targets, models, "{id}");
        world.cvs(&["validate", id]).ok();
        let record = runs.cvs(&["run-handler", id, "--json"]).ok().json();
        assert_eq!(record["status"], "success", "{id}: {record:#}");
        assert_eq!(record["outputs"][0]["class"], "SaveImage", "{id}: {record:#}");
    }
    runs.assert_nothing_left();
}
