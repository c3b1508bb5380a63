//! Everything, where nothing can be mounted: in a namespace without `/dev/fuse`, without capabilities and with them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use cvs_tests::{Git, LET_GO, Missing, Output, Python, available};
use nix::unistd::geteuid;
use serde_json::Value;

use crate::cli_world::{CHECKPOINT, World, model, sha256};
use crate::running::assert_answers;

/// A node that tries to write into the model that it finds, in every way there is, and says what came of it.
const ATTACK: &str = r#"
import json, os
NODE_CLASS_MAPPINGS = {}
here = os.path.dirname(os.path.abspath(__file__))
link = os.path.join(here, "..", "..", "models", "checkpoints", "a.safetensors")
real = os.path.realpath(link)
def replace():
    other = os.path.join(here, "other")
    open(other, "w").write("other")
    os.rename(other, real)
def with_leave():
    os.chmod(real, 0o644)
    open(real, "r+b").write(b"x")
results = {}
for name, act in {
    "write": lambda: open(link, "r+b").write(b"x"),
    "truncate": lambda: os.truncate(link, 0),
    "open to replace": lambda: open(link, "w"),
    "chmod and write": with_leave,
    "rename over it": replace,
    "a file of its own": lambda: open(os.path.join(here, "own"), "w").write("x"),
}.items():
    try:
        act()
        results[name] = "done"
    except OSError as error:
        results[name] = type(error).__name__
json.dump(results, open(os.path.join(here, "results.json"), "w"))
"#;

/// What runs a command where there is no FUSE.
static SCRIPT: LazyLock<String> =
    LazyLock::new(|| format!(r#"{LET_GO} mount --bind /dev/null /dev/fuse; exec "$@""#));

/// A world without FUSE.
struct Bare {
    world: World,
    python: Python,
    /// With the capabilities of root, as containers often have them.
    capable: bool,
}

impl Bare {
    fn new(capable: bool) -> Result<Self, Missing> {
        let bare = Bare { world: World::new(), python: Python::for_core()?, capable };
        match bare.inside("true").status() {
            Ok(status) if status.success() => Ok(bare),
            tried => Err(Missing(format!("unshare and setpriv, and leave to make a namespace ({tried:?})"))),
        }
    }

    /// What stands before a command, so that it runs in the namespace.
    fn prefix(&self) -> Vec<&'static str> {
        let mut words = vec!["unshare", "--mount", "--propagation=private"];
        if !geteuid().is_root() {
            words.push("--map-root-user");
        }
        words.extend(["sh", "-euc", &SCRIPT, "sh"]);
        if !self.capable {
            words.extend(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]);
            words.push("--no-new-privs");
        }
        words
    }

    fn inside(&self, program: &str) -> Command {
        let prefix = self.prefix();
        let mut command = self.world.env.command(prefix[0]);
        command.args(&prefix[1..]).arg(program);
        command
    }

    #[track_caller]
    fn cvs(&self, code: i32, args: &[&str]) -> Output {
        self.world.env.cvs_behind(&self.prefix(), args).code(code)
    }

    /// A version with a model and a node that writes into it.
    fn create(&self) {
        let tree = self.world.env.path("attack");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("__init__.py"), ATTACK).unwrap();
        let git = Git::new();
        git.run(&tree, &["init", "-q"]);
        git.run(&tree, &["add", "-A"]);
        git.commit(&tree, "Attack");
        self.cvs(
            0,
            &[
                "create",
                "v",
                "--skip-python",
                "--repo",
                &self.world.core("v0.2.0"),
                "--node",
                &format!("file://{}", tree.display()),
                "--models",
                &self.world.models_list(&sha256(&model())),
                "--env",
                &format!("COMFY_PYTHON={}", self.python.program().display()),
            ],
        );
    }

    /// An install.py has to be shown the version.
    fn install_script_is_told(&self) {
        let spec = self.world.spec_file("v");
        let before = fs::read(&spec).unwrap();
        let tree = self.world.env.path("attack");
        fs::write(tree.join("install.py"), "").unwrap();
        let git = Git::new();
        git.run(&tree, &["add", "-A"]);
        git.commit(&tree, "Install");
        let mut edited: Value = serde_json::from_slice(&before).unwrap();
        edited["custom_nodes"][0]["run_install"] = true.into();
        fs::write(&spec, edited.to_string()).unwrap();
        let output = self.cvs(1, &["lock", "v", "--update"]);
        let said = self.world.env.redact(&output.stderr);
        let words = "error: version v: cannot show it to install.py of node attack: cannot mount at $TEST/cvs/staging/";
        assert!(said.contains(words), "{said}");
        let hint = "hint: `cvs doctor` says whether this machine can mount; `\"run_install\": false` leaves the script \
                    alone\n";
        assert!(said.ends_with(hint), "{said}");
        fs::write(&spec, before).unwrap();
    }

    fn realized(&self, below: &str) -> PathBuf {
        self.world.env.home().join("realized/v").join(below)
    }

    fn attacked(&self) -> Value {
        let path = self.realized("custom_nodes/attack/results.json");
        serde_json::from_slice(&fs::read(path).expect("the node was loaded")).unwrap()
    }
}

#[test]
fn a_version_lives_its_life_without_fuse_and_capabilities() {
    let Some(bare) = available(Bare::new(false)) else { return };
    bare.create();
    bare.install_script_is_told();
    bare.cvs(0, &["validate", "v", "--offline"]);
    let target = bare.realized("");
    let output = bare.cvs(0, &["realize", "v", "--offline"]);
    assert_eq!(output.stdout.trim_end(), target.to_str().unwrap().trim_end_matches('/'));
    bare.cvs(0, &["validate", "v", "--target", target.to_str().unwrap()]);

    let output = bare.cvs(0, &["run-ui", "v", "--port", "0", "--detach"]);
    assert_answers(output.stdout.trim_end());
    // Nothing pulls the files away from under it.
    bare.cvs(4, &["delete", "v"]);
    bare.cvs(0, &["stop", "v"]);

    let workflow = concat!(env!("CARGO_MANIFEST_DIR"), "/comfyui/workflows/text_to_image.api.json");
    let outputs = bare.world.env.path("outputs");
    let set = ["--set", "CheckpointLoaderSimple.ckpt_name=a.safetensors"];
    let output = ["--output", outputs.to_str().unwrap()];
    bare.cvs(0, &[&["run-handler", "v", "--workflow", workflow], &set[..], &output[..]].concat());
    assert_eq!(fs::read_dir(&outputs).unwrap().count(), 1);

    // The programs' own files stay; the rest goes, and nothing keeps the objects.
    bare.cvs(0, &["delete", "v"]);
    assert!(bare.realized("custom_nodes/attack/own").exists());
    assert!(!bare.realized("main.py").exists());
    bare.cvs(0, &["gc", "--grace", "0"]);
    let objects = bare.world.env.home().join("objects/blob");
    let left: usize = fs::read_dir(objects)
        .unwrap()
        .map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(left, 0);
}

/// That the kernel can keep programs from writing.
fn landlock() -> Result<(), Missing> {
    const LIST: &str = "/sys/kernel/security/lsm";
    match fs::read_to_string(LIST) {
        Ok(modules) if !modules.contains("landlock") => Err(Missing(format!("landlock in {LIST}"))),
        // The list need not be mounted; then the kernel is asked by the test itself.
        _ => Ok(()),
    }
}

/// Root does not heed that an object is read-only.
#[test]
fn nobody_writes_into_the_store_through_a_link() {
    let root = if geteuid().is_root() { Ok(()) } else { Err(Missing("root".to_owned())) };
    let Some(bare) = available(root.and_then(|()| landlock()).and_then(|()| Bare::new(true))) else { return };
    bare.create();
    let output = bare.cvs(0, &["run-ui", "v", "--port", "0", "--detach"]);
    assert_answers(output.stdout.trim_end());
    bare.cvs(0, &["stop", "v"]);
    assert!(bare.realized(CHECKPOINT).is_symlink());
    assert_eq!(
        bare.attacked(),
        serde_json::json!({
            "write": "PermissionError",
            "truncate": "PermissionError",
            "open to replace": "PermissionError",
            "chmod and write": "PermissionError",
            "rename over it": "OSError",
            "a file of its own": "done",
        })
    );
    assert_eq!(fs::read(bare.realized(CHECKPOINT)).unwrap(), model());
    // Whoever writes there all the same is found out.
    fs::write(bare.realized(CHECKPOINT), "not a model").unwrap();
    let target = bare.realized("");
    let output = bare.cvs(3, &["validate", "v", "--target", target.to_str().unwrap()]);
    assert!(output.stdout.starts_with(&format!("damaged  {CHECKPOINT} (blob ")), "{}", output.stdout);
}
