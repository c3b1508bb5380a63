//! The whole job as a new user does it: describe a version, mount it, run it from there, keep what it wrote, change a
//! clone, use both, delete one, and notice damage.

use std::collections::BTreeSet;
use std::path::Path;

use cvs_tests::{CORE, ComfyProcess, GitDaemon, Launch, Png, Python, Wants, available, safetensors};
use serde_json::{Value, json};

use crate::cli_world::{CHECKPOINT, World, model, sha256};
use crate::mounted::{
    Entry, assert_objects_are_what_they_are_called, blob_of, flip_byte, fuse, mount, object_name, read, tree,
    umount,
};

const VAE: &str = "models/vae/b.safetensors";
const PICTURE: &str = "output/story_00001_.png";

/// Loads both models, the checkpoint by its mapping, and uses the node that has a submodule.
fn workflow() -> Value {
    json!({
        "1": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "a.safetensors" } },
        "2": { "class_type": "VAELoader", "inputs": { "vae_name": "b.safetensors" } },
        "3": { "class_type": "CLIPTextEncode", "inputs": { "text": "a store", "clip": ["1", 1] } },
        "4": { "class_type": "EmptyLatentImage", "inputs": { "width": 64, "height": 32, "batch_size": 1 } },
        "5": { "class_type": "KSampler", "inputs": {
            "model": ["1", 0], "seed": 7, "steps": 4, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
            "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], "denoise": 1.0,
        } },
        "6": { "class_type": "VAEDecode", "inputs": { "samples": ["5", 0], "vae": ["2", 0] } },
        "7": { "class_type": "SaveImage", "inputs": { "images": ["6", 0], "filename_prefix": "story" } },
    })
}

/// A version with two nodes, one of which has a submodule, a model of the web with its checksum, and one of this disk.
fn create(world: &World, id: &str) {
    world.env.write("Downloads/b.safetensors", safetensors(2, 20_000));
    world
        .cvs(&["create", id, "--repo", &world.core("v0.2.0")])
        .args(["--node", &format!("{}@v0.1.0", world.git.url("plain"))])
        .args(["--node", &world.git.url("patterns")])
        .args(["--models", &world.models_list(&sha256(&model()))])
        .args(["--model", &format!("Downloads/b.safetensors={VAE}")])
        .ok();
}

fn start(world: &World, python: &Python, dir: &Path, name: &str) -> ComfyProcess {
    Launch { python, dir, args: &[], log: world.env.path(format!("{name}.log")) }.start()
}

/// Files of a mount apart from caches and what a running ComfyUI wrote.
fn specified(dir: &Path) -> Vec<(String, Entry)> {
    let own = |path: &str| {
        !["output", "temp", "user", "input"].contains(&path.split('/').next().unwrap_or_default())
            && !path.contains("__pycache__")
    };
    tree(dir).into_iter().filter(|(path, _)| own(path)).collect()
}

#[test]
fn the_whole_job() {
    let Some(python) = available(fuse().and_then(|()| Python::for_core())) else { return };
    let world = World::new();
    create(&world, "portrait");
    let portrait = mount(&world.env, "portrait", "portrait", &[]);
    assert_eq!(read(portrait.join(CHECKPOINT)), model());
    assert!(portrait.join("custom_nodes/patterns/vendor/pattern-lib").is_dir());

    let process = start(&world, &python, &portrait, "portrait");
    let known = process.get("/object_info").json();
    assert!(known.get("PatternCheckerboard").is_some(), "the node with a submodule: {}", process.log());
    let finished = process.run(&workflow());
    assert!(finished.is_success(), "{:#}", finished.history);
    process.stop();
    let picture = read(portrait.join(PICTURE));
    let png = Png::parse(&picture);
    assert_eq!(serde_json::from_str::<Value>(&png.texts["prompt"]).expect("JSON"), workflow());
    let upper = world.env.home().join("overlays/portrait/upper");
    assert_eq!(read(upper.join(PICTURE)), picture);
    let caches = tree(&upper).into_keys().filter(|path| path.ends_with(".pyc")).count();
    assert!(caches > 0, "Python keeps its caches in the mount");

    let before = tree(&portrait);
    umount(&world.env, &portrait);
    assert_eq!(tree(&portrait).len(), 0);
    mount(&world.env, "portrait", "portrait", &[]);
    assert!(tree(&portrait) == before, "another tree after umount and mount");

    // What Python cached is not taken for outdated: names, times and sizes are the same again.
    let process = start(&world, &python, &portrait, "again");
    assert_eq!(process.run(&workflow()).history["outputs"]["7"]["images"][0]["filename"], "story_00002_.png");
    process.stop();
    let rewritten = tree(&portrait)
        .into_iter()
        .filter(|(path, entry)| path.ends_with(".pyc") && before.get(path).is_some_and(|old| old != entry));
    assert_eq!(rewritten.count(), 0);

    // The manifest of a submodule by itself is kept for speed, and for no version.
    world.cvs(&["gc", "--grace", "0"]).ok();
    let only_portrait = objects(&world);
    let next = clone_and_change(&world, &portrait);
    both_run_at_once(&world, &python, &portrait, &next);
    delete_and_collect(&world, &next, &only_portrait);
    assert_eq!(read(portrait.join(PICTURE)), picture);
    damage_is_noticed(&world, &portrait);
}

fn objects(world: &World) -> BTreeSet<String> {
    world.objects().into_iter().collect()
}

/// A clone with another commit of one node, mounted beside the first.
fn clone_and_change(world: &World, portrait: &Path) -> std::path::PathBuf {
    world.cvs(&["clone", "portrait", "next"]).ok();
    let path = world.spec_file("next");
    let mut spec: Value = serde_json::from_slice(&read(&path)).expect("a spec is JSON");
    let plain = spec["custom_nodes"][0].as_object_mut().expect("a node");
    plain.shift_remove("ref");
    plain.insert("commit".to_owned(), world.repositories.commit_id("plain", "v0.2.0").into());
    world.env.write(&path, format!("{spec:#}\n"));
    world.cvs(&["lock", "next"]).ok();
    let next = mount(&world.env, "next", "next", &[]);

    let (old, new) = (specified(portrait), specified(&next));
    let differing: BTreeSet<_> = old
        .iter()
        .filter(|entry| !new.contains(entry))
        .chain(new.iter().filter(|entry| !old.contains(entry)))
        .map(|(path, _)| path.split('/').take(2).collect::<Vec<_>>().join("/"))
        .collect();
    assert_eq!(differing.into_iter().collect::<Vec<_>>(), ["custom_nodes/plain"]);
    assert!(!next.join(PICTURE).exists());

    let usage = world.cvs(&["du", "--json"]).ok().json();
    let number = |value: &Value| value.as_u64().expect("a number");
    for version in usage["versions"].as_array().expect("versions") {
        assert!(number(&version["unique_bytes"]) > 0, "{usage}");
        assert!(number(&version["unique_bytes"]) * 20 < number(&version["logical_bytes"]), "{usage}");
    }
    assert!(usage["dedup_ratio"].as_f64().is_some_and(|ratio| ratio > 1.9), "{usage}");
    next
}

fn both_run_at_once(world: &World, python: &Python, portrait: &Path, next: &Path) {
    let [first, second] =
        [(portrait, "first"), (next, "second")].map(|(dir, name)| start(world, python, dir, name));
    let [old, new] = [&first, &second].map(|process| process.run(&workflow()));
    assert!(old.is_success() && new.is_success());
    assert_eq!(new.history["outputs"]["7"]["images"][0]["filename"], "story_00001_.png");
    assert_eq!(old.history["outputs"]["7"]["images"][0]["filename"], "story_00003_.png");
    first.stop();
    second.stop();
}

fn delete_and_collect(world: &World, next: &Path, only_portrait: &BTreeSet<String>) {
    world.cvs(&["delete", "next"]).code(4);
    umount(&world.env, "next");
    assert_eq!(tree(next).len(), 0);
    let with_both = objects(world);
    world.cvs(&["delete", "next", "--overlay"]).ok();
    assert!(!world.env.home().join("overlays/next").exists());
    assert_eq!(objects(world), with_both);
    let plan = world.cvs(&["gc", "--dry-run", "--json"]).ok().json();
    assert_eq!(plan["garbage_objects"], with_both.len() - only_portrait.len());
    let freed = world.cvs(&["gc", "--grace", "0", "--json"]).ok().json();
    assert_eq!(freed["deleted_objects"], with_both.len() - only_portrait.len());
    assert_eq!(objects(world), *only_portrait);
    world.cvs(&["fsck"]).ok();
    assert_objects_are_what_they_are_called(&world.env);
}

fn damage_is_noticed(world: &World, portrait: &Path) {
    world.cvs(&["clone", "portrait", "third"]).ok();
    let object = blob_of(&world.env, &model());
    flip_byte(&object);
    let checked = world.cvs(&["fsck"]).code(3);
    assert!(
        checked.stdout.starts_with(&format!(
            "blob {}: its {} bytes have another hash\n  hurts portrait:\n    {CHECKPOINT}\n  hurts third:\n    \
             {CHECKPOINT}\n",
            object_name(&object),
            model().len()
        )),
        "{checked}"
    );
    // It does not matter that it is mounted.
    let deep = world.cvs(&["validate", "portrait", "--deep"]).code(3);
    assert!(deep.stdout.contains(&format!("model {CHECKPOINT}  damaged")), "{deep}");
    assert_eq!(read(portrait.join(VAE)), safetensors(2, 20_000));
    flip_byte(&object);
    world.cvs(&["fsck"]).ok();
    umount(&world.env, portrait);
}

/// By the git protocol as by HTTP: the same commits are the same objects, wherever they come from.
#[test]
fn another_server_of_the_same_repositories_brings_nothing_new() {
    let Some(()) = available(fuse()) else { return };
    let world = World::new();
    create(&world, "portrait");
    let before = objects(&world);
    let mirror = GitDaemon::start(world.repositories.served(), Wants::Reachable);
    world
        .cvs(&["create", "mirrored", "--repo", &format!("{}@v0.2.0", mirror.url(CORE))])
        .args(["--node", &format!("{}@v0.1.0", mirror.url("plain")), "--node", &mirror.url("patterns")])
        .args(["--models", &world.models_list(&sha256(&model()))])
        .args(["--model", &format!("Downloads/b.safetensors={VAE}")])
        .ok();
    assert_eq!(objects(&world), before);
    let [one, other] = ["portrait", "mirrored"].map(|id| mount(&world.env, id, id, &["--read-only"]));
    assert!(tree(&one) == tree(&other), "the same commits, another tree");
}
