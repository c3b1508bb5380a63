//! What people have, as versions: an install, a snapshot, a workflow in a picture, nodes of the Registry.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use cvs_tests::{CORE, LIBRARY};
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::cli_world::{World, damage, model, sha256};

/// An install made by hand: three nodes of git (one changed, one with a commit of its own), one without, a single file,
/// and models in three places.
fn install(world: &World) -> std::path::PathBuf {
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &["plain", "patterns", "self-writing"]);
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a path in a tree has a parent"))
            .expect("making a directory");
        fs::write(path, bytes).expect("writing a file of the install");
    };
    write("custom_nodes/plain/notes.txt", b"mine\n");
    write("custom_nodes/loose/__init__.py", b"NODE_CLASS_MAPPINGS = {}\n");
    write("custom_nodes/single.py", b"NODE_CLASS_MAPPINGS = {}\n");
    write("custom_nodes/off.disabled/__init__.py", b"off\n");
    write("models/checkpoints/a.safetensors", &model());
    write("models/loras/half.part", b"half");
    write("output/picture.png", b"picture");
    write("comfyui.log", b"log");
    let extra = world.env.write("extra/loras/b.safetensors", b"lora");
    let base = extra.parent().and_then(Path::parent).expect("a base").display().to_string();
    write("extra_model_paths.yaml", format!("mine:\n  base_path: {base}\n  loras: loras\n").as_bytes());
    let git = world.repositories.git();
    git.run(&root.join("custom_nodes/self-writing"), &["commit", "-q", "--allow-empty", "-m", "Mine"]);
    root
}

fn import(world: &World, root: &Path, id: &str) -> Value {
    import_with(world, root, id, &[])
}

fn import_with(world: &World, root: &Path, id: &str, flags: &[&str]) -> Value {
    let root = root.to_str().expect("temporary directories are UTF-8");
    world.cvs(&["import", root, "--as", id, "--environment", "skip", "--json"]).args(flags).ok().json()
}

pub(crate) fn spec(world: &World, id: &str) -> Value {
    let text = fs::read_to_string(world.spec_file(id)).expect("reading a spec");
    serde_json::from_str(&text).expect("a spec is JSON")
}

#[test]
fn an_install_becomes_a_version() {
    let world = World::new();
    let root = install(&world);
    let before = fs::read(root.join("custom_nodes/plain/__init__.py")).expect("reading a node");
    // A submodule that is checked out needs no remote.
    fs::remove_dir_all(world.repositories.path(LIBRARY)).expect("removing a repository");
    let report = import(&world, &root, "mine");
    // What the import itself has brought counts, not only what locking adds.
    let bytes = report["created"]["lock"]["new_bytes"].as_u64().expect("bytes that are new");
    assert!(bytes >= model().len() as u64, "{bytes} bytes are new");
    let taken = report["import"]["taken"].as_array().expect("what was taken");
    let change = |part: &str| {
        let found = taken.iter().find(|taken| taken["part"] == part).unwrap_or_else(|| panic!("no {part}"));
        found["changes"].clone()
    };
    assert_eq!(change("core"), json!([]));
    assert_eq!(change("node custom_nodes/plain"), json!(["added notes.txt"]));
    let spec = spec(&world, "mine");
    let node = |name: &str| {
        let nodes = spec["custom_nodes"].as_array().expect("nodes");
        nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no node {name}")).clone()
    };
    assert_eq!(spec["comfy"]["commit"], world.repositories.commit_id(CORE, "v0.2.0").as_str());
    assert!(spec["comfy"].get("tree").is_none() && node("patterns").get("tree").is_none());
    assert_eq!(node("plain")["commit"], world.repositories.commit_id("plain", "v0.2.0").as_str());
    assert_eq!(node("plain")["tree"]["changes"], json!(["added notes.txt"]));
    assert_eq!(node("self-writing")["tree"]["unpublished"], true);
    assert_eq!(node("files in custom_nodes")["target_dir"], "$COMFY_HOME/custom_nodes");
    let models: Vec<_> =
        spec["models"].as_array().expect("models").iter().map(|m| m["target_path"].clone()).collect();
    assert_eq!(models, ["models/checkpoints/a.safetensors", "models/loras/b.safetensors"]);
    assert_eq!(spec["models"][0]["checksum"], format!("sha256:{}", sha256(&model())));
    assert_eq!(fs::read(root.join("custom_nodes/plain/__init__.py")).expect("reading a node"), before);

    // Once more, under another name: nothing is read or stored a second time.
    let objects = world.objects();
    import(&world, &root, "again");
    assert_eq!(world.objects(), objects);
}

#[test]
fn files_that_were_found_are_never_replaced_by_their_commit() {
    let world = World::new();
    let root = install(&world);
    import(&world, &root, "mine");
    let lock = spec(&world, "mine")["lock"].clone();
    world.cvs(&["lock", "mine", "--update"]).ok();
    assert_eq!(spec(&world, "mine")["lock"]["view"], lock["view"]);

    // A damaged file of them comes back from where it was found, as long as it is there unchanged.
    let notes = |world: &World| {
        let objects = world.env.home().join("objects/blob");
        let names = world
            .objects()
            .into_iter()
            .filter_map(|name| name.strip_prefix("blob/").map(|n| objects.join(n)));
        names.into_iter().find(|path| fs::read(path).is_ok_and(|bytes| bytes == b"mine\n"))
    };
    damage(&notes(&world).expect("the object of notes.txt"));
    world.cvs(&["fsck", "--repair"]).ok();
    assert!(notes(&world).is_some());
    damage(&notes(&world).expect("the object of notes.txt"));
    fs::remove_dir_all(&root).expect("removing the install");
    let lost = world.cvs(&["fsck", "--repair"]).code(3);
    assert!(
        lost.stdout.contains("were taken as they were found")
            || lost.stderr.contains("were taken as they were found")
    );
    let refused = world.cvs(&["lock", "mine"]).fails();
    assert!(
        refused.stderr.contains("node custom_nodes/plain") || refused.stderr.contains("custom_nodes["),
        "{}",
        refused.stderr
    );
    assert_eq!(spec(&world, "mine")["lock"], lock);
}

#[test]
fn what_others_have_stays_theirs() {
    let world = World::new();
    let root = world.env.path("My ComfyUI");
    fs::rename(install(&world), &root).expect("renaming an install");
    let install = root.to_str().expect("temporary directories are UTF-8");
    let command =
        ["import", install, "--as", "mine", "--environment", "skip", "--with-outputs", "--move", "--force"];
    world.cvs(&command).ok();
    assert!(!root.join("models/checkpoints/a.safetensors").exists());
    assert!(world.env.path("extra/loras/b.safetensors").exists(), "it lies outside of the install");

    let written = world.env.home().join("overlays/mine/upper/output/picture.png");
    assert_eq!(fs::read(&written).expect("reading an output"), b"picture");
    world.cvs(&command).ok();
    fs::write(&written, b"of a run").expect("writing as a run does");
    let output = world.cvs(&command).fails();
    assert!(output.stderr.contains("output/picture.png"), "{}", output.stderr);
    assert_eq!(fs::read(&written).expect("reading an output"), b"of a run");

    // The version is there, and what goes on is said.
    assert!(output.stderr.contains("version mine is there, but without all of output"), "{}", output.stderr);
    let next = format!("`cvs import '{install}' --as mine --overlay-only --with-outputs` goes on");
    assert!(output.stderr.contains(&next), "{}", output.stderr);
    assert!(output.stdout.contains("not all of it could be taken"), "{}", output.stdout);
    fs::remove_file(&written).expect("removing what a run wrote");
    let command = ["import", install, "--as", "mine", "--overlay-only", "--with-outputs"];
    let report = world.cvs(&[&command[..], &["--json"]].concat()).ok().json();
    assert_eq!(report["overlay"]["output"]["files"], 1);
    assert_eq!(fs::read(&written).expect("reading an output"), b"picture");
}

#[test]
fn nothing_is_left_out_in_silence() {
    let world = World::new();
    let root = install(&world);
    let elsewhere = world.env.write("more/nodes/odd.py", b"odd\n");
    let elsewhere = elsewhere.parent().expect("a file has a directory");
    fs::create_dir_all(elsewhere.join("plain")).expect("making a directory");
    let mut extra = fs::read_to_string(root.join("extra_model_paths.yaml")).expect("reading the paths");
    extra += &format!("more:\n  custom_nodes: {}\n", elsewhere.display());
    fs::write(root.join("extra_model_paths.yaml"), extra).expect("writing the paths");
    fs::create_dir_all(root.join("custom_nodes/.disabled")).expect("making a directory");
    fs::write(root.join("custom_nodes/.disabled/off.py"), "off\n").expect("writing a node");
    let _ = fs::remove_dir_all(root.join("input"));
    for link in ["custom_nodes/gone", "models/loras/lost.safetensors", "input"] {
        std::os::unix::fs::symlink("nowhere", root.join(link)).expect("making a link");
    }
    for pipe in ["api.fifo", "custom_nodes/plain/two.fifo", "custom_nodes/plain/one.fifo", "output/a/x.fifo"]
    {
        let path = root.join(pipe);
        fs::create_dir_all(path.parent().expect("a path in a tree has a parent"))
            .expect("making a directory");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("making a pipe");
    }
    let report = import_with(&world, &root, "mine", &["--with-outputs"]);
    let left: Vec<(String, String)> = report["import"]["left_out"]
        .as_array()
        .expect("what was left out")
        .iter()
        .map(|left| (left["path"].to_string(), left["reason"].as_str().unwrap_or_default().to_owned()))
        .collect();
    let plain = root.join("custom_nodes/plain").display().to_string();
    let specials = format!("a socket, pipe or device, the first of 2 in {plain}");
    for (path, reason) in [
        (root.join("custom_nodes/gone"), "a link that leads nowhere"),
        (root.join("models/loras/lost.safetensors"), "a link that leads nowhere"),
        (root.join("input"), "a link that leads nowhere"),
        (root.join("api.fifo"), "a socket, pipe or device"),
        (root.join("custom_nodes/plain/one.fifo"), &specials),
        (root.join("output/a/x.fifo"), "a socket, pipe or device"),
        (
            elsewhere.join("odd.py"),
            "a file of a directory of nodes elsewhere, of which directories are taken",
        ),
        (elsewhere.join("plain"), "another directory is custom_nodes/plain already"),
    ] {
        let path = json!(path).to_string();
        assert!(
            left.iter().any(|one| *one == (path.clone(), reason.to_owned())),
            "{path} {reason}: {left:?}"
        );
    }
    let nodes = spec(&world, "mine")["custom_nodes"].clone();
    let off = nodes
        .as_array()
        .expect("nodes")
        .iter()
        .find(|node| node["name"] == "files in custom_nodes/.disabled");
    let off = off.expect("an entry for files that are switched off");
    assert_eq!(off["target_dir"], "$COMFY_HOME/custom_nodes/.disabled");
    world.cvs(&["validate", "mine", "--deep"]).ok();
}

#[test]
fn what_is_no_install_or_description_is_told() {
    let world = World::new();
    let empty = world.env.path("empty");
    fs::create_dir_all(&empty).expect("making a directory");
    let odd = world.env.write("odd.json", "{\"x\": 1}");
    let broken = world.env.write("broken.json", "{");
    let picture = world.env.write("picture.png", b"\x89PNG\r\n\x1a\n");
    let bytes = world.env.write("bytes.bin", [0xff, 0xfe, 0]);
    let several = json!({ "type": "comfyui-desktop-2-snapshot", "version": 2, "snapshots": [{}, {}] });
    let several = world.env.write("several.json", several.to_string());
    for (path, said) in [
        (&empty, "is not a ComfyUI install: there is no main.py in it, nor in its ComfyUI/"),
        (&odd, "it is no snapshot, lock, spec or workflow that is known"),
        (&broken, "not valid JSON"),
        (&picture, "a file that could hold a workflow, and holds none"),
        (&bytes, "neither text nor a file of a kind that ComfyUI writes workflows into (byte 0 is no UTF-8)"),
        (&several, "snapshots: there are 2; say which one, from 1 to 2"),
        (&world.env.path("missing"), "No such file or directory"),
    ] {
        let path = path.to_str().expect("temporary directories are UTF-8");
        let failed = world.cvs(&["import", path, "--as", "x", "--offline"]).code(1);
        assert!(failed.stderr.contains(said), "{path}: {}", failed.stderr);
        assert!(!world.spec_file("x").exists());
    }
}

/// A zip of the Registry.
pub(crate) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, stored).expect("beginning an entry");
        zip.write_all(bytes).expect("writing an entry");
    }
    zip.finish().expect("ending a zip").into_inner()
}

/// Serves a node as the Registry does.
pub(crate) fn publish(world: &World, id: &str, version: &str, zip: Vec<u8>) {
    let url = world.web.url(&format!("/{id}-{version}.zip"));
    world.web.serve(&format!("/{id}-{version}.zip"), zip);
    let answer = json!({ "node_id": id, "version": version, "downloadUrl": url, "dependencies": [] });
    world.web.serve(&format!("/nodes/{id}/install"), answer.to_string());
}

#[test]
fn a_snapshot_brings_nodes_of_git_and_of_the_registry() {
    let mut world = World::new();
    let registry = world.web.url("");
    world.env.set_var("CVS_REGISTRY", &registry);
    publish(&world, "tidy", "1.2.3", archive(&[("__init__.py", b"tidy\n"), ("A.py", b"1"), ("a.py", b"2")]));
    let plain = world.repositories.commit_id("plain", "v0.1.0");
    let snapshot = json!({
        "comfyui": world.repositories.commit_id(CORE, "v0.2.0"),
        "git_custom_nodes": { world.git.url("plain"): { "hash": plain, "disabled": true } },
        "cnr_custom_nodes": { "tidy": "1.2.3", "gone": "1.0.0" },
        "file_custom_nodes": [{ "filename": "one.py", "disabled": false }],
        "pips": {},
    });
    let file = world.env.write("snapshot.json", snapshot.to_string());
    let file = file.to_str().expect("temporary directories are UTF-8");
    let core = world.core("v0.2.0");
    world.cvs(&["import", file, "--as", "snap", "--repo", &core, "--environment", "skip"]).ok();
    let made = spec(&world, "snap");
    assert_eq!(made["custom_nodes"][0]["target_dir"], "$COMFY_HOME/custom_nodes/plain.disabled");
    assert_eq!(made["custom_nodes"][1], json!({ "repo": "registry:tidy", "ref": "1.2.3" }));
    let questions: Vec<_> =
        made["questions"].as_array().expect("questions").iter().map(|q| q["name"].clone()).collect();
    assert_eq!(questions, ["one.py", "gone"]);
    let locked = &made["lock"]["custom_nodes"][1];
    assert_eq!((&locked["version"], &locked["commit"]), (&json!("1.2.3"), &Value::Null));
    assert!(locked["archive"]["sha256"].is_string());
    let validated = world.cvs(&["validate", "snap"]).code(1);
    assert!(validated.stdout.contains("where is the node one.py?"), "{}", validated.stdout);

    let exported = world.cvs(&["export", "snap", "--format", "manager-snapshot"]).ok().json();
    let mut expected = snapshot;
    expected["cnr_custom_nodes"] = json!({ "tidy": "1.2.3" });
    expected["file_custom_nodes"] = json!([]);
    assert_eq!(exported, expected);
}

#[test]
fn nodes_and_packages_are_added_and_removed_or_nothing_changes() {
    let mut world = World::new();
    let registry = world.web.url("");
    world.env.set_var("CVS_REGISTRY", &registry);
    world.create("v");
    publish(&world, "tidy", "1.0.0", archive(&[("__init__.py", b"tidy\n")]));
    publish(&world, "evil", "1.0.0", archive(&[("../evil.py", b"x")]));
    let text = |world: &World| fs::read_to_string(world.spec_file("v")).expect("reading a spec");
    let before = text(&world);
    for (args, said) in [
        (["node", "add", "v", "registry:evil"], "the archive is refused: `../evil.py`"),
        (["node", "add", "v", "registry:none"], "has no node `none`"),
        (["node", "add", "v", "?"], "expected `https://"),
        (["node", "rm", "v", "none"], "has no node \"none\"; it has plain, patterns"),
        (["package", "rm", "v", "none"], "has no package \"none\""),
        (["package", "add", "v", "--pre"], "unexpected argument"),
    ] {
        let failed = world.cvs(&args).fails();
        assert!(failed.stderr.contains(said), "{args:?}: {}", failed.stderr);
        assert_eq!(text(&world), before);
    }
    world.cvs(&["node", "add", "v", "registry:tidy@1.0.0"]).ok();
    let listed = world.cvs(&["node", "ls", "v", "--json"]).ok().json();
    assert_eq!((&listed[2]["repo"], &listed[2]["commit"]), (&json!("registry:tidy"), &json!("1.0.0")));
    world.cvs(&["node", "rm", "v", "tidy"]).ok();
    assert_eq!(text(&world), before);
    world.cvs(&["package", "add", "v", "numpy<2", "--no-lock"]).ok();
    world.cvs(&["package", "add", "v", "NumPy==1.26.4", "scipy", "--no-lock"]).ok();
    assert_eq!(world.cvs(&["package", "ls", "v", "--json"]).ok().json(), json!(["NumPy==1.26.4", "scipy"]));
    world.cvs(&["package", "rm", "v", "numpy", "scipy", "--no-lock"]).ok();
    assert_eq!(world.cvs(&["package", "ls", "v", "--json"]).ok().json(), json!([]));
}

#[test]
fn what_signs_an_address_is_not_kept() {
    let mut world = World::new();
    let registry = world.web.url("");
    world.env.set_var("CVS_REGISTRY", &registry);
    world.create("v");
    let zip = archive(&[("__init__.py", b"signed\n")]);
    publish(&world, "signed", "1.0.0", zip.clone());
    let url = world.web.url("/signed-1.0.0.zip?X-Amz-Signature=S3CRET&a=1");
    let answer = json!({ "version": "1.0.0", "downloadUrl": url });
    world.web.serve("/nodes/signed/install", answer.to_string());
    let added = world.cvs(&["node", "add", "v", "registry:signed@1.0.0"]).ok();
    let text = fs::read_to_string(world.spec_file("v")).expect("reading a spec");
    assert!(text.contains("X-Amz-Signature=***&a=1") && !text.contains("S3CRET"), "{text}");
    assert!(!format!("{}{}", added.stdout, added.stderr).contains("S3CRET"));

    // The Registry signs another one when the files have to come again.
    let asked = world.web.requests_of("/nodes/signed/install").len();
    let objects = world.env.home().join("objects/blob");
    let names: Vec<_> = world.objects();
    let paths = names.iter().filter_map(|name| name.strip_prefix("blob/").map(|name| objects.join(name)));
    let mut damaged = 0;
    for path in paths.filter(|path| fs::read(path).is_ok_and(|bytes| bytes == b"signed\n" || bytes == zip)) {
        damage(&path);
        damaged += 1;
    }
    assert_eq!(damaged, 2);
    world.cvs(&["fsck", "--repair"]).ok();
    assert_eq!(world.web.requests_of("/nodes/signed/install").len(), asked + 1);
    world.cvs(&["validate", "v", "--deep"]).ok();
}

#[test]
fn a_picture_becomes_the_default_workflow() {
    let world = World::new();
    world.create("known");
    let graph = json!({ "nodes": [
        { "id": 1, "type": "CheckpointLoaderSimple", "properties": { "cnr_id": "comfy-core", "ver": "0.2.0" },
          "widgets_values": ["a.safetensors"] },
        { "id": 2, "type": "LoraLoader", "properties": {}, "widgets_values": ["none.safetensors", 1.0] },
        { "id": 3, "type": "Unheard", "properties": {}, "widgets_values": [] },
        { "id": 4, "type": "PlainTint", "properties": { "aux_id": "someone/plain", "ver": "0123456789abcdef0123456789abcdef01234567" } },
    ], "links": [] });
    let prompt = json!({ "1": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "a.safetensors" } } });
    let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
    for (keyword, document) in [("workflow", &graph), ("prompt", &prompt)] {
        let data = format!("{keyword}\0{document}");
        picture.extend(u32::try_from(data.len()).expect("a short text").to_be_bytes());
        picture.extend(b"tEXt");
        picture.extend(data.as_bytes());
        picture.extend([0; 4]);
    }
    let file = world.env.write("picture.png", picture);
    let file = file.to_str().expect("temporary directories are UTF-8");
    let report = world.cvs(&["import", file, "--as", "x", "--dry-run", "--offline", "--json"]).ok().json();
    let parts: Vec<_> =
        report["import"]["taken"].as_array().expect("parts").iter().map(|t| t["part"].clone()).collect();
    assert_eq!(parts, ["core", "node plain", "model models/checkpoints/a.safetensors"]);
    assert_eq!(
        report["import"]["questions"],
        json!([
            "which node has the class Unheard? Node 3 of the workflow does not say",
            "where does the model none.safetensors come from? LoraLoader 2 names it, and no version here has it",
        ])
    );
    let alone = world.env.write("alone.json", prompt.to_string());
    let alone = alone.to_str().expect("temporary directories are UTF-8");
    let core = world.core("v0.2.0");
    world.cvs(&["import", alone, "--as", "y", "--repo", &core, "--environment", "skip"]).ok();
    assert_eq!(spec(&world, "y")["workflow"], prompt);
    assert_eq!(spec(&world, "y")["models"][0]["checksum"], format!("sha256:{}", sha256(&model())));
    world.cvs(&["validate", "y"]).ok();
}
