//! What is shown, in the order in which a person meets it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cvs_tests::{
    Browser, CORE, GitHttpServer, HttpServer, Png, Repositories, SubmoduleUrl, Wants, safetensors,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stage::{Stage, files, size, space, time};

const CHECKPOINT: &str = "models/checkpoints/demo.safetensors";
const VAE: &str = "models/vae/demo-vae.safetensors";
const OUTPUT: &str = "output/demo_00001_.png";

/// 16 MiB of weights for the checkpoint, 4 MiB for the other.
const CHECKPOINT_VALUES: usize = 4 << 20;
const VAE_VALUES: usize = 1 << 20;

/// What stands in for the world outside: git repositories behind a server, a web server with a model.
struct World {
    repositories: Repositories,
    git: GitHttpServer,
    web: HttpServer,
    core: String,
    is_real: bool,
}

/// Shows everything; panics at the first thing that is not as it should be.
pub(crate) fn tell(repo: Option<String>) {
    let mut stage = Stage::new();
    let world = World::make(&stage, repo);
    let demo = stage.environment.path("mnt/portrait");
    let next = stage.environment.path("mnt/next");
    for dir in [&demo, &next] {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("making {}: {error}", dir.display()));
    }
    create(&mut stage, &world);
    mount(&mut stage, &demo);
    let picture = run(&mut stage, &world);
    outputs_stay(&stage, &demo, &picture);
    let before = objects(&stage);
    clone_and_change(&mut stage, &world, &demo, &next);
    take_back(&mut stage, &before);
    damage(&stage);
    stage.finish();
}

impl World {
    fn make(stage: &Stage, repo: Option<String>) -> World {
        let repositories = Repositories::build(&stage.environment.path("upstream"), &SubmoduleUrl::Relative);
        let git = GitHttpServer::start(repositories.served(), Wants::Reachable);
        let web = HttpServer::start();
        web.serve("/demo.safetensors", safetensors(1, CHECKPOINT_VALUES));
        stage.environment.write("Downloads/demo-vae.safetensors", safetensors(2, VAE_VALUES));
        let is_real = repo.is_some();
        let core = repo.unwrap_or_else(|| format!("{}@v0.2.0", git.url(CORE)));
        World { repositories, git, web, core, is_real }
    }
}

fn create(stage: &mut Stage, world: &World) {
    stage.heading("Describe a version and store it");
    let checksum = hex(&Sha256::digest(safetensors(1, CHECKPOINT_VALUES)));
    let models = json!([{
        "source": world.web.url("/demo.safetensors"),
        "target_path": CHECKPOINT,
        "checksum": format!("sha256:{checksum}"),
    }]);
    let text = format!("{models:#}\n");
    stage.environment.write("models.json", &text);
    stage.note(&format!("$ cat models.json\n{}", text.trim_end()));
    let plain = format!("{}@v0.1.0", world.git.url("plain"));
    let patterns = world.git.url("patterns");
    let packaged = world.git.url("needs-package");
    let vae = format!("Downloads/demo-vae.safetensors={VAE}");
    let mut args = vec!["create", "portrait", "--repo", &world.core];
    for node in [&plain, &patterns, &packaged] {
        args.extend(["--node", node]);
    }
    args.extend(["--model", &vae, "--models", "models.json"]);
    if world.is_real {
        // Which would otherwise be gigabytes for a device that this does not use.
        args.extend(["--torch-backend", "cpu"]);
    }
    let took = stage.cvs(&args);
    stage.cvs(&["validate", "portrait"]);
    stage.remember(format!(
        "created from four repositories, a submodule, two models and a Python environment in {}",
        time(took)
    ));
}

/// Mounts, and returns what is to be seen there.
fn mount(stage: &mut Stage, demo: &Path) {
    stage.heading("Mount it");
    let took = stage.cvs(&["mount", "portrait", "mnt/portrait"]);
    stage.cvs(&["mounts"]);
    let shown = files(demo);
    let logical: u64 = shown.values().sum();
    let count = shown.len();
    stage.remember(format!("mounted in {}: {count} files, {}", time(took), size(logical)));
    let stored = space(&stage.environment.home().join("objects"));
    stage.remember(format!("stored in {}", size(stored)));
    let python = demo.join(".venv/bin/python");
    let script = "import aiohttp, numpy, safetensors; print(numpy.__file__)";
    stage.note(&format!("$ {} -c '{script}'", python.display()));
    let output = stage.environment.command(&python).args(["-c", script]).output();
    let output = output.unwrap_or_else(|error| panic!("starting {}: {error}", python.display()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    stage.note(said.trim_end());
    let place = demo.join(".venv").to_string_lossy().into_owned();
    stage.check("its Python is in the mount, and has what the core requires", said.starts_with(&place));
    stage.cvs(&["umount", "mnt/portrait"]);
    stage.check("the mountpoint is empty", files(demo).is_empty());
}

/// Starts the program, loads its page, runs a workflow, and returns the bytes of the picture that it made.
fn run(stage: &mut Stage, world: &World) -> Vec<u8> {
    stage.heading("Run it");
    let ui = ["run-ui", "portrait", "--detach", "--port", "0"];
    let (url, took) = if world.is_real {
        stage.cvs_says(&[&ui[..], &["--", "--cpu"]].concat())
    } else {
        stage.cvs_says(&ui)
    };
    stage.remember(format!("ComfyUI answered {} after `cvs run-ui`", time(took)));
    stage.cvs(&["ps"]);
    page(stage, world, &url);

    let workflow = stage.environment.write("workflow.json", format!("{:#}\n", workflow(world.is_real)));
    let workflow = workflow.to_str().expect("temporary directories are UTF-8");
    let took = stage.cvs(&["run-handler", "portrait", "--workflow", workflow, "--output", "pictures"]);
    stage.remember(format!("a workflow ran and brought its picture in {}", time(took)));
    let pictures = stage.environment.path("pictures");
    let found = files(&pictures);
    let name = found.keys().find(|name| name.ends_with(".png"));
    let picture = read(&pictures.join(name.expect("a picture among the outputs")));
    let png = Png::parse(&picture);
    stage.check(
        &format!("the picture is there, {} by {} pixels, its workflow inside", png.width, png.height),
        png.texts.contains_key("prompt"),
    );
    stage.check("and what made it", found.keys().any(|name| name.ends_with("run.json")));
    stage.cvs(&["logs", "portrait", "-n", "3"]);
    stage.cvs(&["stop", "portrait"]);
    stage.check("nothing runs, nothing is mounted", stage.environment.mounts().is_empty());
    picture
}

/// What a browser shows at the address.
fn page(stage: &Stage, world: &World, url: &str) {
    match Browser::find() {
        Err(missing) => stage.note(&format!("(the page is not loaded: this needs {})", missing.0)),
        Ok(browser) => {
            let words: &[&str] = if world.is_real { &["ComfyUI"] } else { &["connected as page", "plain"] };
            browser.load(&format!("{url}/"), words, Duration::from_secs(60));
            stage.check("its page loads in a browser", true);
        }
    }
}

fn outputs_stay(stage: &Stage, demo: &Path, picture: &[u8]) {
    stage.heading("What it wrote stays with the version");
    stage.cvs(&["mount", "portrait", "mnt/portrait"]);
    stage.check(&format!("{OUTPUT} is there, byte for byte"), read(&demo.join(OUTPUT)) == picture);
}

fn clone_and_change(stage: &mut Stage, world: &World, demo: &Path, next: &Path) {
    stage.heading("Clone it, change one node, use both at once");
    let before = space(&stage.environment.home().join("objects"));
    let took = stage.cvs(&["clone", "portrait", "next"]);
    stage.remember(format!("cloned in {}", time(took)));
    let commit = world.repositories.commit_id("plain", "v0.2.0");
    edit_node(&stage.environment.home().join("versions/next.json"), "plain", &commit);
    stage.note(&format!("(versions/next.json: the commit of node 'plain' is now {commit})"));
    stage.cvs(&["lock", "next"]);
    stage.cvs(&["mount", "next", "mnt/next"]);
    stage.cvs(&["mounts"]);
    let version = |dir: &Path| {
        let text = read(&dir.join("custom_nodes/plain/__init__.py"));
        String::from_utf8_lossy(&text).lines().find(|line| line.starts_with("VERSION")).map(str::to_owned)
    };
    let [old, new] = [version(demo), version(next)];
    stage.check(
        "each mount has its own commit of the node",
        old.as_deref() == Some("VERSION = \"0.1.0\"") && new.as_deref() == Some("VERSION = \"0.2.0\""),
    );
    stage.check("what was written into the one is not in the other", !next.join(OUTPUT).exists());
    stage.cvs(&["du"]);
    let grown = space(&stage.environment.home().join("objects")).saturating_sub(before);
    stage.check(&format!("the second version added {} to the store", size(grown)), grown < 1 << 20);
    stage.remember(format!("a second version with another commit of one node added {}", size(grown)));
}

fn take_back(stage: &mut Stage, before: &BTreeSet<String>) {
    stage.heading("Delete the clone");
    stage.cvs(&["umount", "next"]);
    let with_both = objects(stage);
    stage.cvs(&["delete", "next", "--overlay"]);
    stage.cvs(&["gc", "--dry-run", "--grace", "0"]);
    stage.cvs(&["gc", "--grace", "0"]);
    let after = objects(stage);
    let freed = with_both.difference(&after).count();
    stage.check(
        &format!("gc took the {freed} objects that only the clone used, and nothing else"),
        freed > 0 && after == *before,
    );
    stage.cvs(&["fsck"]);
    stage.remember(format!("gc removed exactly the {freed} objects of the deleted version"));
}

fn damage(stage: &Stage) {
    stage.heading("Damage the store");
    stage.cvs(&["umount", "portrait"]);
    let blobs = stage.environment.home().join("objects/blob");
    let (largest, len) =
        files(&blobs).into_iter().max_by_key(|(_, len)| *len).expect("a store with blobs in it");
    let id = largest.replace('/', "");
    stage.note(&format!("(a byte in the middle of {id} is flipped)"));
    flip_byte(&blobs.join(&largest), len / 2);
    let (output, _) = stage.cvs_code(3, &["fsck"]);
    let said = format!("{}{}", output.stdout, output.stderr);
    stage.check(
        "fsck names the object and the version that it hurts",
        said.contains(&id) && said.contains("portrait"),
    );
    flip_byte(&blobs.join(&largest), len / 2);
    stage.note("(the byte is flipped back)");
    stage.cvs(&["fsck"]);
}

/// A picture made with everything that the version brought; of the real core only what runs without real weights.
fn workflow(is_real: bool) -> Value {
    let save = |images: Value| {
        let inputs = json!({ "images": images, "filename_prefix": "demo" });
        json!({ "class_type": "SaveImage", "inputs": inputs })
    };
    if is_real {
        let inputs = json!({ "width": 64, "height": 64, "batch_size": 1, "color": 0x336699 });
        return json!({ "1": { "class_type": "EmptyImage", "inputs": inputs }, "2": save(json!(["1", 0])) });
    }
    json!({
        "1": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "demo.safetensors" } },
        "2": { "class_type": "VAELoader", "inputs": { "vae_name": "demo-vae.safetensors" } },
        "3": { "class_type": "CLIPTextEncode", "inputs": { "text": "a store", "clip": ["1", 1] } },
        "4": { "class_type": "EmptyLatentImage", "inputs": { "width": 256, "height": 256, "batch_size": 1 } },
        "5": { "class_type": "KSampler", "inputs": {
            "model": ["1", 0], "seed": 7, "steps": 4, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
            "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], "denoise": 1.0,
        } },
        "6": { "class_type": "VAEDecode", "inputs": { "samples": ["5", 0], "vae": ["2", 0] } },
        "7": save(json!(["6", 0])),
    })
}

/// Writes another commit for a node into a spec, as a person would in an editor.
fn edit_node(path: &Path, node: &str, commit: &str) {
    let mut spec: Value = serde_json::from_slice(&read(path)).expect("a spec is JSON");
    let nodes = spec["custom_nodes"].as_array_mut().expect("a spec with nodes");
    let entry = nodes
        .iter_mut()
        .filter_map(Value::as_object_mut)
        .find(|entry| entry["repo"].as_str().is_some_and(|repo| repo.ends_with(&format!("/{node}.git"))))
        .unwrap_or_else(|| panic!("no node '{node}' in {}", path.display()));
    entry.remove("ref");
    entry.insert("commit".to_owned(), commit.into());
    fs::write(path, format!("{spec:#}\n"))
        .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

/// The names of all objects of the store.
fn objects(stage: &Stage) -> BTreeSet<String> {
    files(&stage.environment.home().join("objects")).into_keys().collect()
}

fn flip_byte(path: &PathBuf, at: u64) {
    let doing = |error: std::io::Error| -> () { panic!("changing {}: {error}", path.display()) };
    // Objects are read-only, which binds everyone but root.
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap_or_else(doing);
    let mut byte = [0];
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .and_then(|file| {
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[!byte[0]], at)
        })
        .unwrap_or_else(doing);
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap_or_else(doing);
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
