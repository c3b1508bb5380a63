//! The Python environment of a version: resolved, built, mounted, and used as a person uses it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use cvs_tests::{CvsCommand, Git, PackageIndex, TestEnvironment, Wheel, available};
use serde_json::{Value, json};

use crate::mounted::{fuse, mount, umount};

/// The module of the package that everything here needs.
const ALPHA: &str = "VERSION = '1.0'\ndef say():\n    print('alpha says', VERSION)\n";

/// A home, a package index, and repositories of a core and nodes that need packages.
struct World {
    env: TestEnvironment,
    git: Git,
    index: PackageIndex,
}

impl World {
    fn new() -> Option<World> {
        available(fuse())?;
        let mut env = TestEnvironment::new();
        available(env.use_python())?;
        let index = available(PackageIndex::start())?;
        let world = World { env, git: Git::new(), index };
        let say = "VERSION = '1.0'\ndef say():\n    print('alpha says', VERSION)\n";
        world.index.add(
            &Wheel::new("alpha", "1.0")
                .module("alpha/__init__.py", say)
                .console_script("alpha-say", "alpha:say"),
        );
        world.index.add(&Wheel::new("beta", "1.0").requires("alpha"));
        world.index.add(&Wheel::new("beta", "2.0").requires("alpha"));
        world.repo(
            "core",
            &[
                ("main.py", "import helper\nimport alpha\nprint(helper.WORD, alpha.VERSION)\n"),
                ("helper.py", "WORD = 'one'\n"),
                ("requirements.txt", "alpha\n"),
            ],
        );
        world.repo("gamma", &[("__init__.py", "import beta\n"), ("requirements.txt", "beta<2\n")]);
        Some(world)
    }

    /// A repository of one commit, or one commit more.
    fn repo(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let tree = self.env.path("git").join(name);
        for (path, text) in files {
            self.env.write(Path::new("git").join(name).join(path), text);
        }
        if !tree.join(".git").exists() {
            self.git.run(&tree, &["init", "-q"]);
        }
        self.git.run(&tree, &["add", "-A"]);
        self.git.commit(&tree, "Change");
        tree
    }

    fn creating(&self, id: &str, nodes: &[&str]) -> CvsCommand {
        let git = |name: &str| self.env.path("git").join(name).display().to_string();
        let mut command =
            self.env.cvs(["create", id, "--repo", &git("core"), "--index-url", &self.index.url()]);
        for node in nodes {
            command = command.args(["--node", &git(node)]);
        }
        command
    }

    fn lock(&self, id: &str) -> Value {
        self.env.cvs(["show", id, "--json"]).ok().json()["spec"]["lock"].clone()
    }

    /// The locked packages and their versions, without what is always there.
    fn packages(&self, id: &str) -> BTreeMap<String, String> {
        let lock = self.lock(id);
        let packages = lock["python"]["pylock"]["packages"].as_array().expect("locked packages").clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = packages.iter().map(|package| (text(&package["name"]), text(&package["version"])));
        all.filter(|(name, _)| !matches!(name.as_str(), "pip" | "setuptools")).collect()
    }

    fn edit(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.env.home().join("versions").join(format!("{id}.json"));
        let mut spec: Value =
            serde_json::from_slice(&fs::read(&path).expect("reading a spec")).expect("JSON");
        edit(&mut spec);
        fs::write(&path, serde_json::to_vec_pretty(&spec).expect("JSON")).expect("writing a spec");
    }

    fn upper(&self, id: &str) -> PathBuf {
        self.env.home().join("overlays").join(id).join("upper")
    }
}

fn packages(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

#[track_caller]
fn run(world: &World, program: PathBuf, dir: &Path, args: &[&str]) -> String {
    let output = world.env.command(program).args(args).current_dir(dir).output().expect("starting a program");
    said(&output)
}

#[track_caller]
fn said(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {stdout}{stderr}", output.status);
    stdout.trim_end().to_owned()
}

fn python(dir: &Path) -> PathBuf {
    dir.join(".venv/bin/python")
}

#[test]
fn an_environment_runs_from_any_mountpoint_and_writes_to_its_overlay() {
    let Some(world) = World::new() else { return };
    world.creating("v", &["gamma"]).ok();
    assert_eq!(world.packages("v"), packages(&[("alpha", "1.0"), ("beta", "1.0")]));
    let report = world.env.cvs(["validate", "v", "--json"]).ok().json();
    let part = report["parts"].as_array().expect("parts").iter().find(|part| part["part"] == "python");
    assert_eq!(part.expect("a part for Python")["state"], "present");

    for name in ["here", "there"] {
        let dir = mount(&world.env, "v", name, &[]);
        let where_from = run(&world, python(&dir), &dir, &["-c", "import beta; print(beta.__file__)"]);
        assert!(where_from.starts_with(dir.join(".venv/lib").to_str().unwrap()), "{where_from}");
        assert_eq!(run(&world, python(&dir), &dir, &["main.py"]), "one 1.0");
        assert_eq!(run(&world, dir.join(".venv/bin/alpha-say"), &dir, &[]), "alpha says 1.0");
        let listed = run(&world, dir.join(".venv/bin/pip"), &dir, &["--version"]);
        assert!(listed.contains(dir.join(".venv").to_str().unwrap()), "{listed}");
        // All of it was compiled before: nothing had to be written.
        let upper = world.upper("v");
        assert!(!upper.join(".venv").exists() && !upper.join("__pycache__").exists());
        umount(&world.env, &dir);
    }

    // What is installed in the mount goes to the overlay, and is there again.
    let dir = mount(&world.env, "v", "here", &[]);
    let (index, uv) =
        (world.index.url(), cvs_tests::tool("uv").unwrap_or_else(|_| unreachable!("found above")));
    let pip =
        ["install", "-q", "--no-input", "--disable-pip-version-check", "--index-url", &index, "beta==2.0"];
    run(&world, dir.join(".venv/bin/pip"), &dir, &pip);
    umount(&world.env, &dir);
    let dir = mount(&world.env, "v", "there", &[]);
    let version = ["-c", "import beta; print(beta.VERSION)"];
    assert_eq!(run(&world, python(&dir), &dir, &version), "2.0");
    let venv = python(&dir);
    let back =
        ["pip", "install", "-q", "--python", venv.to_str().unwrap(), "--index-url", &index, "beta==1.0"];
    run(&world, uv, &dir, &back);
    assert_eq!(run(&world, python(&dir), &dir, &version), "1.0");
    umount(&world.env, &dir);
    assert!(world.upper("v").join(".venv").exists());
    world.env.cvs(["fsck"]).ok();
}

#[test]
fn an_edit_in_the_mount_runs() {
    let Some(world) = World::new() else { return };
    world.creating("v", &["gamma"]).ok();
    let dir = mount(&world.env, "v", "v", &[]);
    assert_eq!(run(&world, python(&dir), &dir, &["main.py"]), "one 1.0");
    let cached = dir.join("__pycache__");
    assert!(fs::read_dir(&cached).expect("shipped bytecode").count() > 0);
    // As long as it was, and changed all the same.
    fs::write(dir.join("helper.py"), "WORD = 'two'\n").expect("editing a file");
    assert_eq!(run(&world, python(&dir), &dir, &["main.py"]), "two 1.0");
    // An editor's save by rename, and a file put back to what it was.
    fs::write(dir.join("helper.new"), "WORD = 'three'\n").expect("writing a file");
    fs::rename(dir.join("helper.new"), dir.join("helper.py")).expect("renaming a file");
    assert_eq!(run(&world, python(&dir), &dir, &["main.py"]), "three 1.0");
    fs::write(dir.join("helper.py"), "WORD = 'one'\n").expect("editing a file");
    assert_eq!(run(&world, python(&dir), &dir, &["main.py"]), "one 1.0");
    // Of a package, too.
    let site = dir.join(".venv/lib").read_dir().expect("lib").flatten().next().expect("python3.x").path();
    fs::write(site.join("site-packages/alpha/__init__.py"), "VERSION = '9.9'\n").expect("editing a package");
    assert_eq!(run(&world, python(&dir), &dir, &["main.py"]), "one 9.9");
    umount(&world.env, &dir);
}

#[test]
fn the_same_lock_gives_the_same_manifest_in_another_home() {
    let Some(world) = World::new() else { return };
    world.creating("v", &["gamma"]).ok();
    let lock = world.lock("v");
    let text = fs::read_to_string(world.env.home().join("versions/v.json")).expect("reading a spec");
    world.env.write("other/versions/v.json", &text);
    let other = world.env.path("other");
    world.env.cvs(["--home"]).arg(&other).args(["lock", "v", "--locked"]).ok();
    world.env.cvs(["--home"]).arg(&other).args(["validate", "v", "--deep", "--locked"]).ok();
    // And resolved from nothing.
    world.env.cvs(["--home"]).arg(&other).args(["lock", "v", "--update=python"]).ok();
    let again: Value =
        world.env.cvs(["--home"]).arg(&other).args(["show", "v", "--json"]).ok().json()["spec"]["lock"]
            .clone();
    assert_eq!(again["python"]["manifest"], lock["python"]["manifest"]);
    assert_eq!(again["view"], lock["view"]);
}

#[test]
fn a_lock_follows_what_is_required_and_nothing_else() {
    let Some(world) = World::new() else { return };
    world.creating("v", &[]).ok();
    assert_eq!(world.packages("v"), packages(&[("alpha", "1.0")]));
    world.index.add(&Wheel::new("alpha", "1.5"));
    assert!(world.env.cvs(["lock", "v"]).ok().stderr.contains("up to date"));

    // A package more: what was locked stays as it was.
    world.edit("v", |spec| spec["python_packages"] = json!(["beta"]));
    let output = world.env.cvs(["lock", "v", "--locked"]).code(1);
    assert!(output.stderr.contains("packages beta"), "{output}");
    let output = world.env.cvs(["validate", "v", "--locked"]).code(1);
    assert!(output.stdout.contains("python"), "{output}");
    world.env.cvs(["lock", "v"]).ok();
    assert_eq!(world.packages("v"), packages(&[("alpha", "1.0"), ("beta", "2.0")]));

    // A node that wants less, and one whose requirements do not count.
    let gamma = world.env.path("git/gamma");
    world.edit("v", |spec| spec["custom_nodes"] = json!([{ "repo": gamma }]));
    world.env.cvs(["lock", "v"]).ok();
    assert_eq!(world.packages("v"), packages(&[("alpha", "1.0"), ("beta", "1.0")]));
    world.edit("v", |spec| spec["custom_nodes"][0]["install_requirements"] = json!(false));
    world.env.cvs(["lock", "v", "--update=python"]).ok();
    assert_eq!(world.packages("v"), packages(&[("alpha", "1.5"), ("beta", "2.0")]));

    // The node's own list changes with its commit.
    world.edit("v", |spec| spec["custom_nodes"][0]["install_requirements"] = json!(true));
    world.repo("gamma", &[("requirements.txt", "beta>1\n")]);
    world.env.cvs(["lock", "v"]).ok();
    assert_eq!(world.packages("v")["beta"], "1.0");
    world.env.cvs(["lock", "v", "--update=gamma"]).ok();
    assert_eq!(world.packages("v")["beta"], "2.0");

    // Without Python there is no environment, and it comes back.
    world.edit("v", |spec| spec["options"] = json!({ "skip_python": true }));
    world.env.cvs(["lock", "v"]).ok();
    assert_eq!(world.lock("v")["python"], Value::Null);
    world.edit("v", |spec| spec["options"] = json!({}));
    world.env.cvs(["lock", "v"]).ok();
    assert_eq!(world.packages("v")["beta"], "2.0");
}

#[test]
fn a_conflict_names_who_disagrees() {
    let Some(world) = World::new() else { return };
    world.repo("delta", &[("__init__.py", ""), ("requirements.txt", "beta>=2\n")]);
    world.repo("idle", &[("__init__.py", ""), ("requirements.txt", "alpha\n")]);
    let output = world.creating("v", &["gamma", "idle", "delta"]).code(1);
    for word in ["node gamma wants beta<2", "node delta wants beta>=2", "hint: "] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
    assert!(!output.stderr.contains("node idle"), "{output}");
    assert!(!world.env.home().join("versions/v.json").exists());
}

#[test]
fn two_versions_share_what_they_have_in_common() {
    let Some(world) = World::new() else { return };
    // Random enough not to be a neighbour's.
    let big: Vec<u8> = (0..400_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let alpha = Wheel::new("alpha", "1.6").module("alpha/big.bin", big);
    world.index.add(&alpha);
    world.creating("one", &[]).ok();
    world.creating("two", &["gamma"]).ok();
    // The index does not say how long its files keep, as many do not; they are taken once all the same.
    assert_eq!(world.index.server().requests_of(&world.index.file(&alpha.file_name())).len(), 1);
    let usage = world.env.cvs(["du", "--json"]).ok().json();
    let versions = usage["versions"].as_array().expect("versions");
    let two = versions.iter().find(|version| version["name"] == "two").expect("the second version");
    let (all, own) = (two["logical_bytes"].as_u64().unwrap(), two["unique_bytes"].as_u64().unwrap());
    // The node and beta are its own, and the manifests of environment and bytecode.
    assert!(all > 400_000 && own < all / 10, "{usage}");

    // What gc takes from the store, uv's cache may still hold, and gives up when asked.
    for id in ["one", "two"] {
        world.env.cvs(["delete", id, "--yes"]).ok();
    }
    let freed = world.env.cvs(["gc", "--grace", "0"]).ok();
    assert!(freed.stderr.contains("cvs gc --uv-cache"), "{freed}");
    let freed = world.env.cvs(["gc", "--uv-cache", "--json"]).ok().json();
    assert!(freed["uv_cache"]["bytes"].as_u64().is_some_and(|bytes| bytes > 400_000), "{freed}");
    assert!(!world.env.cvs(["gc", "--grace", "0"]).ok().stderr.contains("--uv-cache"));
    world.creating("one", &[]).ok();
    world.env.cvs(["validate", "one", "--deep"]).ok();
}

#[test]
fn wheels_of_a_directory_do_without_a_network() {
    let Some(world) = World::new() else { return };
    world.creating("first", &["gamma"]).ok();
    // Everything is in uv's cache now: another version of the same needs no network.
    let gone = world.index.url();
    let World { env, index, .. } = world;
    index.stop();
    let git = |name: &str| env.path("git").join(name).display().to_string();
    let create =
        |id: &str| env.cvs(["create", id, "--repo", &git("core"), "--index-url", &gone, "--offline"]);
    create("second").args(["--node", &git("gamma")]).ok();
    let output = create("third").args(["--package", "epsilon"]).code(1);
    assert!(output.stderr.contains("offline") && output.stderr.contains("epsilon"), "{output}");
    let wheel = Wheel::new("epsilon", "1.0");
    env.write(Path::new("wheels").join(wheel.file_name()), wheel.bytes());
    create("third").args(["--package", "epsilon", "--wheels"]).arg(env.path("wheels")).ok();
    let dir = mount(&env, "third", "third", &["--offline"]);
    let output = env.command(python(&dir)).args(["-c", "import epsilon; print(epsilon.VERSION)"]).output();
    assert_eq!(said(&output.expect("starting Python")), "1.0");
    umount(&env, &dir);
}

#[test]
fn an_interpreter_that_is_gone_is_told_and_replaced() {
    let Some(world) = World::new() else { return };
    world.creating("v", &[]).ok();
    let before = world.lock("v");
    world.edit("v", |spec| {
        spec["lock"]["python"]["interpreter"]["path"] = json!("/nonexistent/python3");
    });
    let output = world.env.cvs(["validate", "v", "--locked", "--json"]).code(3);
    assert!(output.stdout.contains("/nonexistent/python3"), "{output}");
    world.env.cvs(["lock", "v"]).ok();
    assert_eq!(world.lock("v"), before);
    let output = world.creating("w", &[]).args(["--python", "3.99"]).code(1);
    assert!(output.stderr.contains("3.99"), "{output}");
}

#[test]
fn without_uv_the_way_out_is_said() {
    let Some(mut world) = World::new() else { return };
    world.env.set_var("CVS_UV", "/nonexistent/uv");
    let output = world.creating("v", &[]).code(1);
    assert!(output.stderr.contains("uv is needed") && output.stderr.contains("pip install uv"), "{output}");
    world.creating("v", &[]).arg("--skip-python").ok();
    let doctor = world.env.cvs(["doctor"]).output();
    assert!(doctor.stdout.contains("no Python environment is built"), "{doctor}");
}

#[test]
fn install_py_runs_when_the_spec_says_so() {
    let Some(world) = World::new() else { return };
    let script = "import alpha, os, pathlib\n\
                  pathlib.Path('made.txt').write_text('by install.py with alpha ' + alpha.VERSION)\n\
                  pathlib.Path(os.environ['COMFYUI_PATH'], 'outside.txt').write_text('elsewhere')\n";
    world.repo("setup", &[("__init__.py", ""), ("install.py", script)]);
    world.creating("v", &["setup"]).ok();
    let output = world.env.cvs(["validate", "v"]).ok();
    assert!(output.stderr.contains("custom_nodes[0]") && output.stderr.contains("run_install"), "{output}");

    world.edit("v", |spec| spec["custom_nodes"][0]["run_install"] = json!(true));
    let output = world.env.cvs(["lock", "v"]).ok();
    assert!(output.stderr.contains("outside.txt"), "{output}");
    let dir = mount(&world.env, "v", "v", &["--locked"]);
    let made = fs::read_to_string(dir.join("custom_nodes/setup/made.txt")).expect("what install.py wrote");
    assert_eq!(made, "by install.py with alpha 1.0");
    assert!(!dir.join("outside.txt").exists());
    umount(&world.env, &dir);
    assert!(!world.upper("v").join("custom_nodes").exists());
    assert!(world.env.cvs(["lock", "v"]).ok().stderr.contains("up to date"));

    // A script that fails fails the lock, with its words.
    world.repo("setup", &[("install.py", "raise SystemExit('no such luck')\n")]);
    let output = world.env.cvs(["lock", "v", "--update=setup"]).code(1);
    assert!(output.stderr.contains("node setup") && output.stderr.contains("no such luck"), "{output}");
    let dir = mount(&world.env, "v", "v", &["--locked"]);
    assert!(dir.join("custom_nodes/setup/made.txt").exists());
    umount(&world.env, &dir);
    world.edit("v", |spec| spec["custom_nodes"][0]["run_install"] = json!(false));
    world.env.cvs(["lock", "v"]).ok();
    let dir = mount(&world.env, "v", "v", &["--locked"]);
    assert!(!dir.join("custom_nodes/setup/made.txt").exists());
    umount(&world.env, &dir);
}

/// The object shares its bytes with uv's cache, so that what damages the one damages the other.
#[test]
fn a_damaged_package_is_brought_back() {
    let Some(world) = World::new() else { return };
    world.creating("v", &[]).ok();
    let lock = world.lock("v");
    let objects = world.env.home().join("objects");
    let blob = blake3::hash(ALPHA.as_bytes()).to_string();
    let object = objects.join("blob").join(&blob[..2]).join(&blob[2..]);
    let text = fs::read_to_string(&object).expect("the object of a module");
    let mut permissions = fs::metadata(&object).expect("its mode").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(&object, permissions).expect("making it writable");
    fs::write(&object, text.replace("1.0", "6.6")).expect("damaging it");
    let output = world.env.cvs(["fsck"]).code(3);
    assert!(output.to_string().contains(&blob), "{output}");
    world.env.cvs(["fsck", "--repair"]).ok();
    world.env.cvs(["validate", "v", "--deep", "--locked"]).ok();

    // The environment as a whole, and bytecode.
    let manifest = lock["python"]["manifest"].as_str().expect("an environment");
    fs::remove_file(objects.join("manifest").join(&manifest[..2]).join(&manifest[2..])).expect("removing it");
    let bytecode = lock["python"]["sources"][0]["bytecode"].as_str().expect("bytecode");
    fs::remove_file(objects.join("manifest").join(&bytecode[..2]).join(&bytecode[2..])).expect("removing it");
    world.env.cvs(["fsck"]).code(3);
    world.env.cvs(["fsck", "--repair"]).ok();
    world.env.cvs(["validate", "v", "--deep", "--locked"]).ok();
    assert_eq!(world.lock("v"), lock);
}
