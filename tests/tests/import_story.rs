//! An install made by hand, as people have it: imported, mounted, compared with what it was, and run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cvs_tests::{CORE, PackageIndex, Png, available, get, safetensors, tool};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cli_world::{World, model};
use crate::mounted::{fuse, mount, read, umount};
use crate::running::Foreground;

/// A pickle of a small dictionary, as an embedding is one.
const EMBEDDING: &[u8] = b"\x80\x02}q\x00X\x04\x00\x00\x00nameq\x01X\x04\x00\x00\x00mineq\x02s.";

/// What `diff -r` says of the install and of its mount: docs/import.md has the same, in words.
const DIFFERENCES: &str = "\
Only in $MOUNT: .venv
Only in $INSTALL: comfyui.log
Only in $INSTALL: extra_model_paths.yaml
Only in $INSTALL/models/loras: half.safetensors.part
Only in $MOUNT/models/loras: put_loras_here
Only in $MOUNT/models/vae: extra.safetensors
Only in $INSTALL: temp
Only in $INSTALL: user
Only in $INSTALL: venv
";

/// Three nodes of git, one of them changed; five models, one behind a link and one elsewhere; an environment by uv; and
/// what running it leaves.
fn install(world: &World, index: &PackageIndex, uv: &Path) -> PathBuf {
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &["plain", "patterns", "needs-package"]);
    for name in [CORE, "plain", "patterns", "needs-package"] {
        let dir = if name == CORE { root.clone() } else { root.join("custom_nodes").join(name) };
        world.repositories.git().run(&dir, &["remote", "set-url", "origin", &world.git.url(name)]);
    }
    let shared = world.env.write("shared/clip.safetensors", safetensors(3, 9000));
    let extra = world.env.write("extra/vae/extra.safetensors", safetensors(4, 8000));
    let base = extra.parent().and_then(Path::parent).expect("a directory of models").display().to_string();
    for (path, bytes) in [
        ("models/checkpoints/a.safetensors", model()),
        ("models/loras/mine/b.safetensors", safetensors(2, 7000)),
        ("models/embeddings/mine.pt", EMBEDDING.to_vec()),
        ("models/loras/half.safetensors.part", b"half".to_vec()),
        ("extra_model_paths.yaml", format!("mine:\n  base_path: {base}\n  vae: vae\n").into_bytes()),
        ("custom_nodes/plain/notes.txt", b"mine\n".to_vec()),
        ("output/2025/picture.png", b"picture".to_vec()),
        ("user/default/comfy.settings.json", b"{}".to_vec()),
        ("comfyui.log", b"log".to_vec()),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a path in a tree has a parent"))
            .expect("making a directory");
        fs::write(path, bytes).expect("writing a file of the install");
    }
    symlink(shared, root.join("models/text_encoders/clip.safetensors")).expect("linking a model");
    fs::remove_file(root.join("models/loras/put_loras_here")).expect("removing a file of the core");
    let nodes = root.join("custom_nodes/plain/nodes.py");
    let text = fs::read_to_string(&nodes).expect("reading a node") + "\n# Mine.\n";
    fs::write(&nodes, text).expect("changing a node");

    let venv = root.join("venv");
    let uv = |args: &[&str]| {
        let mut command = world.env.command(uv);
        command.args(args).args(["--quiet", "--no-config"]).current_dir(&root);
        let output = command.output().expect("starting uv");
        assert!(output.status.success(), "uv {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    uv(&["venv", "venv"]);
    let lists = ["-r", "requirements.txt", "-r", "custom_nodes/needs-package/requirements.txt"];
    let place = ["--python", "venv/bin/python", "--index-url", &index.url()];
    uv(&[&["pip", "install"], &place[..], &lists].concat());
    // It has run: there are caches of Python everywhere.
    let mut command = world.env.command(venv.join("bin/python"));
    command.args(["main.py", "--cpu", "--quick-test-for-ci"]).current_dir(&root).stdin(Stdio::null());
    let output = command.output().expect("starting the install");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.env.write("ComfyUI/temp/preview.png", b"preview");
    root
}

/// Everything below a directory, with all that an import could change by mistake.
pub(crate) fn everything(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("listing a directory") {
            let path = entry.expect("an entry").path();
            let metadata = path.symlink_metadata().expect("looking at a file");
            let content = match () {
                () if metadata.is_dir() => Vec::new(),
                () if metadata.is_symlink() => {
                    fs::read_link(&path).expect("reading a link").into_os_string().into_encoded_bytes()
                }
                () => read(&path),
            };
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            let stamp = (metadata.mode(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), content);
            found.insert(path, stamp);
        }
    }
    found
}

/// What `diff -r` prints, without the lines about repositories and about caches of Python.
fn differences(install: &Path, mounted: &Path) -> String {
    let output = Command::new("diff").env("LC_ALL", "C").arg("-r").args([install, mounted]).output();
    let output = output.expect("starting diff");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("paths of tests are UTF-8");
    let of = |path: &Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
    let text = text.replace(&of(install), "$INSTALL").replace(&of(mounted), "$MOUNT");
    let repositories =
        text.lines().filter(|line| line.starts_with("Only in $INSTALL") && line.ends_with(": .git"));
    assert_eq!(repositories.count(), 5, "the core, three nodes, and a submodule: {text}");
    let is_told = |line: &&str| !line.ends_with(": .git") && !line.contains("__pycache__");
    text.lines().filter(is_told).fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn an_install_made_by_hand_becomes_a_version_that_runs() {
    let Some(()) = available(fuse()) else { return };
    let mut world = World::new();
    let (Some(()), Some(uv)) = (available(world.env.use_python()), available(tool("uv"))) else { return };
    let Some(index) = available(PackageIndex::start()) else { return };
    let root = install(&world, &index, &uv);
    let before = everything(&root);
    world.git.http().forget_requests();

    let source = root.to_str().expect("temporary directories are UTF-8");
    let refused = world.cvs(&["import", source, "--as", "mine", "--environment", "take"]).code(2);
    assert!(refused.stderr.contains("[possible values: rebuild, skip]"), "{refused}");
    let url = index.url();
    let import =
        ["import", source, "--as", "mine", "--environment", "rebuild", "--with-outputs", "--index-url", &url];
    let imported = world.cvs(&import).ok();
    assert!(everything(&root) == before, "the original is not what it was");
    let asked: Vec<String> = world.git.http().requests().into_iter().map(|request| request.path).collect();
    assert!(
        asked.iter().all(|path| !path.contains("/plain.git")),
        "commits that are there were fetched: {asked:?}"
    );
    assert!(imported.stdout.contains("changed since"), "{imported}");
    world.cvs(&["validate", "mine", "--offline"]).ok();

    let mounted = mount(&world.env, "mine", "mine", &[]);
    assert_eq!(differences(&root, &mounted), DIFFERENCES);
    for (path, bytes) in [
        ("models/text_encoders/clip.safetensors", safetensors(3, 9000)),
        ("models/vae/extra.safetensors", safetensors(4, 8000)),
    ] {
        assert!(read(mounted.join(path)) == bytes && !mounted.join(path).is_symlink(), "{path}");
    }

    runs(&world, &mounted);
    umount(&world.env, &mounted);
    assert!(everything(&root) == before, "the original is not what it was");
}

/// The editor answers, with all nodes; a prompt of the changed one is run.
fn runs(world: &World, mounted: &Path) {
    let mut command = world.cvs(&["run-ui", "mine", "--port", "0", "--", "--cpu"]).into_command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ui = Foreground::start(command);
    let known: Value = get(&format!("{}/object_info", ui.url())).json();
    for class in ["PlainTint", "PatternCheckerboard", "KSampler"] {
        assert!(known.get(class).is_some(), "no {class} in {known}");
    }
    ui.signal(Signal::SIGINT);
    let (code, _, log) = ui.end();
    assert!(code == Some(0) && !log.contains("IMPORT FAILED"), "{log}");

    let prompt = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "example.png" } },
        "2": { "class_type": "PlainTint", "inputs": { "colour": "green", "image": ["1", 0] } },
        "3": { "class_type": "SaveImage", "inputs": { "filename_prefix": "imported", "images": ["2", 0] } },
    });
    let workflow = world.env.write("prompt.json", prompt.to_string());
    let workflow = workflow.to_str().expect("temporary directories are UTF-8");
    let record = world.cvs(&["run-handler", "mine", "--workflow", workflow, "--json"]).ok().json();
    assert_eq!(record["status"], "success", "{record:#}");
    let picture = read(mounted.join("output/2025/picture.png"));
    assert_eq!(picture, b"picture");
    let file = record["outputs"][0]["file"].as_str().expect("an output");
    let made =
        fs::read_dir(world.env.path("outputs/mine")).expect("the runs").flatten().next().expect("a run");
    let png = read(made.path().join(file));
    assert_eq!(serde_json::from_str::<Value>(&Png::parse(&png).texts["prompt"]).expect("JSON"), prompt);
}
