//! Real programs on a mount. Each story is a script that runs twice, on a mounted version and on a plain copy of it:
//! what it prints must be the same, and so must everything that is there afterwards, and after the next mount.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use cvs_tests::{Missing, PackageIndex, Wheel, available, tool};

use crate::cli_world::World;
use crate::mounted::{assert_objects_are_what_they_are_called, fuse};
use crate::ordinary::{Ordinary, program, succeeds};

const SNAPSHOT: &str = include_str!("programs/snapshot.py");

/// One script of `programs/`, for `sh -euc`. It runs in the version, `$TOP`, and has a directory elsewhere, `$SIDE`.
struct Story {
    name: &'static str,
    script: &'static str,
    /// Programs that it needs besides those that everybody has.
    needs: &'static [&'static str],
    /// Ends of names of files whose bytes and times are not the same twice: they hold times, or random bytes.
    varies: &'static [&'static str],
    /// How the version is mounted.
    flags: &'static [&'static str],
}

/// Without the models connection everything is as on one filesystem: `models/` can be removed and moved, and who has a
/// model open sees what others write to it.
const ONE_CONNECTION: &[&str] = &["--no-passthrough"];

macro_rules! story {
    ($name:literal, $needs:expr, $varies:expr) => {
        story!($name, $needs, $varies, [])
    };
    ($name:literal, $needs:expr, $varies:expr, $flags:expr) => {
        Story {
            name: $name,
            script: include_str!(concat!("programs/", $name, ".sh")),
            needs: &$needs,
            varies: &$varies,
            flags: &$flags,
        }
    };
}

/// Where stories run: a version of our ComfyUI, the servers that they ask, and a plain copy of the version.
pub(crate) struct Stage {
    world: World,
    index: PackageIndex,
    /// Who mounts and runs everything, when it is not this process's user.
    ordinary: Option<Ordinary>,
    /// Below the environment's root, where who runs the stories may write.
    place: &'static str,
}

impl Stage {
    /// The version is one of our ComfyUI, or holds what a script makes.
    fn new(as_ordinary_user: bool, made_by: Option<&str>) -> Result<Stage, Missing> {
        fuse()?;
        let mut world = World::new();
        let ordinary = as_ordinary_user.then(|| Ordinary::new(&world.env)).transpose()?;
        if let Some(ordinary) = &ordinary {
            program("fusermount3")?;
            ordinary.settle(&mut world.env);
        }
        let index = PackageIndex::empty();
        for version in ["1.0", "2.0"] {
            let say = format!("VERSION = '{version}'\ndef say():\n    print('alpha says', VERSION)\n");
            let alpha = Wheel::new("alpha", version).module("alpha/__init__.py", say);
            index.add(&alpha.console_script("alpha-say", "alpha:say"));
            index.add(&Wheel::new("beta", version).requires("alpha"));
        }
        let place = if as_ordinary_user { "theirs" } else { "mine" };
        std::fs::create_dir_all(world.env.path(place)).expect("making a directory");
        let stage = Stage { world, index, ordinary, place };
        match made_by {
            Some(script) => {
                stage.sh(".", &format!("mkdir {}", stage.below("source")), &[]);
                stage.sh(&stage.below("source"), script, &[]);
                stage.cvs(&["debug", "ingest", &stage.below("source"), "--as", "v"]);
            }
            None => stage.create(),
        }
        stage.cvs(&["mount", "v", &stage.below("pristine"), "--read-only"]);
        stage.sh(".", &format!("cp -a {0}/pristine {0}/copied", stage.place), &[]);
        stage.cvs(&["umount", &stage.below("pristine")]);
        Ok(stage)
    }

    fn create(&self) {
        let models = self.world.models_list(&crate::cli_world::sha256(&crate::cli_world::model()));
        let (core, git) = (self.world.core("v0.2.0"), &self.world.git);
        let nodes = [format!("{}@v0.1.0", git.url("plain")), git.url("patterns")];
        let wanted = ["--node", &nodes[0], "--node", &nodes[1], "--models", &models];
        self.cvs(&[&["create", "v", "--repo", &core][..], &wanted].concat());
    }

    fn below(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    #[track_caller]
    fn cvs(&self, args: &[&str]) -> String {
        match &self.ordinary {
            Some(ordinary) => succeeds(&ordinary.cvs(&self.world.env, args)),
            None => self.world.env.cvs(args).ok().stdout,
        }
    }

    /// Runs a script in a directory below the root.
    fn output(&self, dir: &str, script: &str, variables: &[(&str, &str)]) -> Output {
        let mut words = vec!["LC_ALL=C.UTF-8".to_owned()];
        words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        let script = format!("cd '{dir}'\nexec 2>&1\n{script}");
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.extend(["sh", "-euc", &script]);
        match &self.ordinary {
            Some(ordinary) => ordinary.run(&self.world.env, "env", &args),
            None => self.world.env.command("env").args(&args).output().expect("starting a program"),
        }
    }

    #[track_caller]
    fn sh(&self, dir: &str, script: &str, variables: &[(&str, &str)]) -> String {
        succeeds(&self.output(dir, script, variables))
    }

    /// Everything below a directory, a line each.
    #[track_caller]
    fn snapshot(&self, dir: &str, started: u64, varies: &[&str]) -> String {
        let script = format!("exec python3 -I -c \"$SNAPSHOT\" {started} {}", varies.join(" "));
        self.sh(dir, &script, &[("SNAPSHOT", SNAPSHOT)])
    }

    /// Tells one story on both; what is wrong, in words.
    fn tell(&self, story: &Story) -> Result<(), String> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Of the same length, as sizes of files with the path in them are compared.
        let [plain, mnt, overlay] =
            ["plain", "mount", "overlays"].map(|kind| self.below(&format!("{kind}/{}", story.name)));
        let prepare = format!("mkdir -p {0}/overlays {0}/plain; cp -a {0}/copied {plain}", self.place);
        self.sh(".", &prepare, &[]);
        let mount = || self.cvs(&[&["mount", "v", &mnt, "--overlay", &overlay], story.flags].concat());
        mount();
        let mut seen = Vec::new();
        for dir in [&plain, &mnt] {
            let side = format!("{dir}-side");
            self.sh(".", &format!("mkdir {side}"), &[]);
            let path = |below: &str| self.world.env.path(below).display().to_string();
            let (top, side) = (path(dir), path(&side));
            let uv = tool("uv").unwrap_or_default().display().to_string();
            let variables = [
                ("TOP", &*top),
                ("SIDE", &*side),
                ("GIT", &*self.world.git.base()),
                ("INDEX", &*self.index.url()),
                ("UV", &*uv),
            ];
            let output = self.output(dir, story.script, &variables);
            let text = String::from_utf8_lossy(&output.stdout).replace(&side, "$SIDE").replace(&top, "$TOP");
            let tree = self.snapshot(dir, started, story.varies);
            seen.push((format!("{text}{}\n", output.status), tree));
        }
        let (on_plain, on_mount) = (&seen[0], &seen[1]);
        if !on_plain.0.ends_with("exit status: 0\n") {
            return Err(format!("it does not work on plain files either:\n{}", on_plain.0));
        }
        compare("it printed", &on_plain.0, &on_mount.0)?;
        compare("it left", &on_plain.1, &on_mount.1)?;
        let before = self.snapshot(&mnt, u64::MAX, &[]);
        self.cvs(&["umount", &mnt]);
        mount();
        let after = self.snapshot(&mnt, u64::MAX, &[]);
        self.cvs(&["umount", &mnt]);
        compare("it left, after the next mount,", &before, &after)
    }
}

/// Runs what can be run here; panics with all that went wrong.
#[track_caller]
fn tell(as_ordinary_user: bool, stories: &[Story]) {
    tell_of(as_ordinary_user, None, stories);
}

/// The same, of a version that a script makes.
#[track_caller]
fn tell_of(as_ordinary_user: bool, made_by: Option<&str>, stories: &[Story]) {
    let Some(stage) = available(Stage::new(as_ordinary_user, made_by)) else { return };
    let mut wrong = Vec::new();
    for story in stories {
        let needs = || story.needs.iter().try_for_each(|name| program(name));
        if available(needs()).is_none() {
            continue;
        }
        if let Err(what) = stage.tell(story) {
            wrong.push(format!("== {}: {what}", story.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.cvs(&["fsck"]);
    if stage.ordinary.is_none() {
        assert_objects_are_what_they_are_called(&stage.world.env);
    }
}

/// The lines that only one of two texts has.
fn compare(what: &str, plain: &str, mount: &str) -> Result<(), String> {
    if plain == mount {
        return Ok(());
    }
    let only = |of: &str, not: &str, mark: &str| {
        let lines = of.lines().filter(|line| !not.lines().any(|other| other == *line));
        lines.take(40).map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    Err(format!("{what}\n{}{}", only(plain, mount, "plain:"), only(mount, plain, "mount:")))
}

#[test]
fn programs_copy_and_pack() {
    tell(false, &[story!("copies", ["rsync"], []), story!("trees", ["zip", "unzip"], [], *ONE_CONNECTION)]);
}

#[test]
fn programs_edit_and_compile() {
    tell(
        false,
        &[story!("edits", [], []), story!("make", ["make"], []), story!("maps", [], [], *ONE_CONNECTION)],
    );
}

#[test]
fn programs_keep_repositories_and_databases() {
    // The index of git holds times.
    let git = story!("git", [], [".git/index", "/index", ".rev", ".idx", ".pack", "logs/HEAD"]);
    tell(false, &[git, story!("sqlite", [], [".db"])]);
}

#[test]
fn programs_change_what_is_stored() {
    // Times are in the index of git; a database that is written to has a counter of its own.
    let stored =
        story!("stored", ["rsync", "make"], [".git/index", ".db", "-shm", "-wal", ".pack", ".idx", ".rev"]);
    tell_of(false, Some(include_str!("programs/lower.sh")), &[stored]);
}

#[test]
fn programs_cross_into_models() {
    tell(false, &[story!("models", ["rsync", "zip", "unzip"], [])]);
}

#[test]
fn programs_of_an_ordinary_user() {
    let copies = story!("copies", ["rsync"], []);
    let trees = story!("trees", ["zip", "unzip"], [], *ONE_CONNECTION);
    let [edits, maps] = [story!("edits", [], []), story!("maps", [], [], *ONE_CONNECTION)];
    tell(true, &[copies, trees, edits, maps, story!("make", ["make"], []), story!("sqlite", [], [".db"])]);
}

/// What inotify tells of a script's work in a directory.
fn told(dir: &Path, script: &str) -> Vec<String> {
    use rustix::fs::inotify;
    let queue = inotify::init(inotify::CreateFlags::NONBLOCK).expect("making a queue");
    let interesting = inotify::WatchFlags::ALL_EVENTS
        - (inotify::WatchFlags::ACCESS | inotify::WatchFlags::OPEN | inotify::WatchFlags::CLOSE_NOWRITE);
    let watched = ["", "comfy", "main.py", "app"];
    let numbers = watched
        .map(|path| inotify::add_watch(&queue, dir.join(path), interesting).expect("watching what is there"));
    let status = Command::new("sh").args(["-euc", script]).current_dir(dir).status();
    assert!(status.expect("starting sh").success());
    let mut space = [const { std::mem::MaybeUninit::uninit() }; 4096];
    let mut events = inotify::Reader::new(&queue, &mut space);
    let mut told = Vec::new();
    while let Ok(event) = events.next() {
        let place = numbers.iter().position(|number| *number == event.wd()).map(|at| watched[at]);
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        told.push(format!("{place:?} {name:?} {:?}", event.events()));
    }
    told
}

#[test]
fn inotify_tells_of_changes() {
    let Some(stage) = available(Stage::new(false, None)) else { return };
    let script = "echo more >> main.py; echo new > comfy/new; mv comfy/new comfy/newer; mv comfy/newer .; rm newer
        chmod 600 main.py; touch comfy/utils.py; mv main.py moved.py; echo again > main.py; mv -f main.py moved.py
        sed -i s/a/b/ nodes.py; mkdir made; rmdir made; ln nodes.py linked; ln -s nodes.py link; rm -r app
        truncate -s 0 server.py; mv comfy renamed; : > renamed/utils.py";
    stage.cvs(&["mount", "v", "mine/mnt", "--ephemeral"]);
    let [plain, mounted] = ["mine/copied", "mine/mnt"].map(|dir| told(&stage.world.env.path(dir), script));
    // The second name of sed's file is chosen by chance.
    let known = |events: Vec<String>| -> Vec<String> {
        events.into_iter().filter(|event| !event.contains("\"sed")).collect()
    };
    let (plain, mounted) = (known(plain), known(mounted));
    assert!(plain.len() > 30, "{plain:#?}");
    assert_eq!(mounted, plain, "on the mount (left) and on plain files (right)");
    stage.cvs(&["umount", "v"]);
}

#[test]
fn programs_install_python_packages() {
    tell(false, &[story!("python", [], [".pyc", "RECORD"])]);
}
