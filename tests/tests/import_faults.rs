//! Imports of an install that are killed, that find the disk full, or that share files with the original: what the
//! original is afterwards, what of the version is there, and that the next attempt goes on.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use cvs_tests::{DiskImage, available, wait_until};
use nix::mount::{MsFlags, mount as mount2};
use serde_json::json;

use crate::chance::{Chance, long};
use crate::cli_world::{World, sha256};
use crate::import_story::everything;
use crate::kills::{assert_nothing_is_left_over, killed_after};
use crate::mounted::{blob_of, read};
use crate::running::LONG;

/// How often an import is killed: a few times, or 40 with `CVS_TEST_LONG` set.
fn kills() -> usize {
    if long() { 40 } else { 6 }
}

/// The core, a node that was changed, and an output.
fn install(world: &World) -> PathBuf {
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &["plain"]);
    world.env.write("ComfyUI/custom_nodes/plain/notes.txt", b"mine\n");
    world.env.write("ComfyUI/output/picture.png", b"picture");
    root
}

fn model(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join("models/loras").join(name);
    fs::write(&path, bytes).expect("writing a model");
    path
}

/// The arguments of an import without an environment.
fn import<'a>(root: &'a Path, id: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let root = root.to_str().expect("temporary directories are UTF-8");
    [&["import", root, "--as", id, "--environment", "skip"], more].concat()
}

/// Kills commands at random moments of the time that one takes, which the first is left to tell.
struct Killer {
    chance: Chance,
    longest: Option<Duration>,
    killed: usize,
}

impl Killer {
    fn new() -> Killer {
        Killer { chance: Chance::new(), longest: None, killed: 0 }
    }

    fn run(&mut self, world: &World, command: &[&str]) {
        let moment = self.longest.map_or(LONG, |longest| self.chance.time(longest));
        let start = Instant::now();
        match killed_after(world.cvs(command).into_command(), moment) {
            true => self.longest = Some(start.elapsed()),
            false => self.killed += 1,
        }
    }
}

#[test]
fn an_import_can_be_killed_and_run_again() {
    let world = World::new();
    let (root, mut killer) = (install(&world), Killer::new());
    for round in 0..kills() {
        // Something new to do each time.
        let (id, bytes) = (format!("v{round}"), killer.chance.bytes(3 << 20));
        model(&root, &format!("{round}.safetensors"), &bytes);
        world.env.write("ComfyUI/custom_nodes/plain/notes.txt", format!("{round}\n"));
        world.env.write(format!("ComfyUI/output/{round}.png"), &bytes[..100_000]);
        let before = everything(&root);
        let command = import(&root, &id, &["--with-outputs"]);
        killer.run(&world, &command);
        assert!(everything(&root) == before, "round {round}: the original is not what it was");
        world.cvs(&["fsck"]).ok();
        // What is published is whole; what is not, is not there at all.
        let is_published = world.spec_file(&id).exists();
        if is_published {
            world.cvs(&["validate", &id, "--offline", "--locked", "--deep"]).ok();
        }
        world.cvs(&import(&root, &id, &["--with-outputs", "--force"])).ok();
        world.cvs(&["validate", &id, "--offline", "--locked", "--deep"]).ok();
        assert!(everything(&root) == before, "round {round}: the original is not what it was");
        let upper = world.env.home().join("overlays").join(&id).join("upper/output");
        assert!(read(upper.join(format!("{round}.png"))) == bytes[..100_000], "round {round}");
    }
    assert!(killer.killed > 0, "every one of them ended before it was killed");
    assert_nothing_is_left_over(&world.env);
}

#[test]
fn a_move_that_is_killed_loses_no_model() {
    let world = World::new();
    let (root, mut killer) = (install(&world), Killer::new());
    for round in 0..kills() {
        let id = format!("v{round}");
        let models: Vec<(PathBuf, Vec<u8>)> = (0..4)
            .map(|number| {
                let bytes = killer.chance.bytes(1 << 20);
                (model(&root, &format!("{round}-{number}.safetensors"), &bytes), bytes)
            })
            .collect();
        let command = import(&root, &id, &["--move"]);
        killer.run(&world, &command);
        let is_published = world.spec_file(&id).exists();
        for (path, bytes) in &models {
            let is_here = fs::read(path).is_ok_and(|found| found == *bytes);
            let is_stored = fs::read(blob_of(&world.env, bytes)).is_ok_and(|found| found == *bytes);
            assert!(is_here || (is_published && is_stored), "round {round}: {}", path.display());
        }
        // Collecting what nothing names takes none of it.
        world.cvs(&["gc", "--grace", "0"]).ok();
        if !is_published {
            assert!(models.iter().all(|(path, bytes)| read(path) == *bytes), "round {round}");
            world.cvs(&command).ok();
            assert!(models.iter().all(|(path, _)| !path.exists()), "round {round}");
        }
        world.cvs(&["validate", &id, "--offline", "--locked", "--deep"]).ok();
        assert!(models.iter().all(|(_, bytes)| read(blob_of(&world.env, bytes)) == *bytes), "round {round}");
    }
    assert!(killer.killed > 0, "every one of them ended before it was killed");
    assert_nothing_is_left_over(&world.env);
}

/// What was read stays read: a model that is in the store is known again by what its file is, and not opened.
#[test]
fn an_interrupted_import_reads_no_large_model_twice() {
    if !long() {
        return;
    }
    const LARGE: u64 = 300 << 20;
    let world = World::new();
    let root = install(&world);
    let sparse = |name: &str, first: &[u8]| {
        let path = model(&root, name, first);
        let file = File::options().write(true).open(&path).expect("opening a model");
        file.set_len(LARGE).expect("growing a model");
        path
    };
    let (first, second) = (sparse("a.safetensors", b"first"), sparse("b.safetensors", b"second"));
    let stored = || {
        world.objects().iter().any(|name| {
            fs::metadata(world.env.home().join("objects").join(name)).is_ok_and(|found| found.len() == LARGE)
        })
    };
    let mut command = world.cvs(&import(&root, "v", &[])).into_command();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting cvs");
    wait_until(Duration::from_secs(60), "a model is in the store", stored);
    child.kill().expect("killing cvs");
    child.wait().expect("waiting for cvs");
    assert!(!world.spec_file("v").exists(), "it ended before it was killed");

    // Other bytes behind the same size and time: whoever reads them again has another checksum.
    let names = world.objects();
    for path in [&first, &second] {
        let before = fs::metadata(path).expect("looking at a model");
        let file = File::options().write(true).open(path).expect("opening a model");
        std::os::unix::fs::FileExt::write_all_at(&file, b"other", 1000).expect("changing a model");
        file.set_modified(before.modified().expect("a time")).expect("setting a time");
    }
    world.cvs(&import(&root, "v", &[])).ok();
    let after = world.objects();
    let kept = names.iter().filter(|name| after.contains(name)).count();
    assert_eq!(kept, names.len());
    let shown = world.cvs(&["show", "v", "--json"]).ok().json();
    let models = shown["spec"]["lock"]["models"].as_array().expect("locked models");
    let known = models.iter().filter(|model| {
        let blake3 = model["blake3"].as_str().expect("a lock");
        names.contains(&format!("blob/{}/{}", &blake3[..2], &blake3[2..]))
    });
    assert!(known.count() >= 1, "{models:?}");
}

#[test]
fn a_full_disk_is_told_and_an_import_goes_on_when_there_is_room() {
    let world = World::new();
    let Some(home) = available(world.env.small_disk("cvs", 24 << 20)) else { return };
    let (root, mut chance) = (install(&world), Chance::new());
    for name in ["a", "b", "c"] {
        model(&root, &format!("{name}.safetensors"), &chance.bytes(12 << 20));
    }
    let before = everything(&root);
    let failed = world.cvs(&import(&root, "v", &[])).fails();
    let said = world.env.redact(&failed.stderr);
    assert!(said.contains(".safetensors: no space left for the store at $TEST/cvs: "), "{failed}");
    assert!(said.contains("\nhint: make room on the filesystem of $TEST/cvs; "), "{failed}");
    assert!(!world.spec_file("v").exists());
    assert!(everything(&root) == before, "the original is not what it was");
    world.assert_staging_is_clean();

    mount2(None::<&str>, &home, None::<&str>, MsFlags::MS_REMOUNT, Some("size=100m")).expect("making room");
    world.cvs(&import(&root, "v", &[])).ok();
    world.cvs(&["validate", "v", "--offline", "--locked", "--deep"]).ok();
    assert!(everything(&root) == before, "the original is not what it was");
}

/// Nothing of what the original is, but the permissions of a model that the store has, too.
#[test]
fn a_hard_link_shares_a_model_and_outlives_the_version() {
    let world = World::new();
    let root = install(&world);
    let (bytes, output) = (vec![7; 100_000], root.join("output/picture.png"));
    let path = model(&root, "a.safetensors", &bytes);
    let before = everything(&root);
    world.cvs(&import(&root, "v", &["--hardlink", "--with-outputs"])).ok();
    let mut expected = before;
    let stamp = expected.get_mut(&path).expect("the model");
    let object = fs::metadata(blob_of(&world.env, &bytes)).expect("looking at an object");
    assert_eq!((object.ino(), object.nlink()), (stamp.1, 2));
    stamp.0 = 0o100_444;
    assert!(everything(&root) == expected, "more than the permissions of the model has changed");
    let stored = world.env.home().join("overlays/v/upper/output/picture.png");
    assert_ne!(
        fs::metadata(stored).expect("an output").ino(),
        fs::metadata(&output).expect("an output").ino()
    );

    world.cvs(&["delete", "v"]).ok();
    world.cvs(&["gc", "--grace", "0"]).ok();
    assert!(everything(&root) == expected, "the model went with the version");
}

#[test]
fn where_links_and_shared_blocks_cannot_be_had() {
    let world = World::new();
    let root = install(&world);
    let bytes = vec![7; 100_000];
    model(&root, "a.safetensors", &bytes);
    let before = everything(&root);
    if let Some(_home) = available(world.env.small_disk("cvs", 24 << 20)) {
        // Hard links do not lead to another filesystem: a copy, and the original is only read.
        world.cvs(&import(&root, "linked", &["--hardlink"])).ok();
        assert!(read(blob_of(&world.env, &bytes)) == bytes);
        assert!(everything(&root) == before, "the original is not what it was");

        // Blocks cannot be shared with it, either: that was asked for by name, and is an error.
        let failed = world.cvs(&import(&root, "shared", &["--reflink"])).code(1);
        let says =
            "models/loras/a.safetensors and the store share no filesystem that can share blocks (reflink)";
        assert!(failed.stderr.contains(says) && failed.stderr.contains("hint: "), "{failed}");
        assert!(!world.spec_file("shared").exists());
        assert!(everything(&root) == before, "the original is not what it was");

        // A move is a copy and a removal, when the version is there.
        world.cvs(&import(&root, "moved", &["--move"])).ok();
        assert!(!root.join("models/loras/a.safetensors").exists());
        world.cvs(&["validate", "moved", "--offline", "--locked", "--deep"]).ok();
    }
    let failed = world.cvs(&import(&root, "x", &["--move", "--hardlink"])).code(2);
    assert!(failed.stderr.contains("cannot be used with"), "{failed}");
}

/// The install and the home of cvs lie on one filesystem that can share blocks: the bytes are on the disk once after an
/// import, and still once when the version writes a little into them; nobody sees what another has written.
#[test]
fn shared_blocks_are_on_the_disk_once() {
    const SIZE: usize = 64 << 20;
    let world = World::new();
    let Some(mut disk) = available(DiskImage::make_sharing(&world.env.path("image"), 512 << 20)) else {
        return;
    };
    let at = world.env.path("disk");
    disk.mount(&at, "");
    let root = at.join("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &["plain"]);
    let bytes = Chance::new().bytes(SIZE);
    let path = model(&root, "a.safetensors", &bytes);
    let home = at.join("home").display().to_string();
    let cvs = |args: &[&str]| world.cvs(&[&["--home", &home], args].concat());
    let used = || {
        let disk = nix::sys::statvfs::statvfs(&at).expect("looking at the disk");
        (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
    };
    let before = (everything(&root), used());
    cvs(&import(&root, "v", &["--reflink"])).ok();
    assert!(everything(&root) == before.0, "the original is not what it was");
    assert!(used() < before.1 + SIZE as u64 / 2, "{} bytes more", used() - before.1);

    // Who has the original writes into it, which the store does not see.
    let original = File::options().write(true).open(&path).expect("opening the model");
    original.write_all_at(b"changed", 0).expect("writing into the model");
    drop(original);
    cvs(&["validate", "v", "--offline", "--locked", "--deep"]).ok();

    let mountpoint = world.env.path("mnt");
    fs::create_dir(&mountpoint).expect("making a mountpoint");
    let place = mountpoint.to_str().expect("temporary directories are UTF-8");
    cvs(&["mount", "v", place]).ok();
    let shown = mountpoint.join("models/loras/a.safetensors");
    assert!(read(&shown) == bytes, "the mount shows something else");
    let written = File::options().write(true).open(&shown).expect("opening the model in the mount");
    written.write_all_at(b"of the version", SIZE as u64 - 14).expect("writing into the model of the version");
    drop(written);
    assert!(used() < before.1 + SIZE as u64 / 2, "{} bytes more after copy-up", used() - before.1);
    cvs(&["umount", place]).ok();
    cvs(&["fsck"]).ok();
    assert!(read(&path)[7..] == bytes[7..], "the original has what the version wrote");
    disk.detach();
}

#[test]
fn a_move_takes_models_only_when_the_version_is_there() {
    let world = World::new();
    let root = install(&world);
    let (one, other) = (model(&root, "a.safetensors", b"one"), model(&root, "b.safetensors", b"other"));
    // No environment can be made of this: there is no uv.
    let refused = ["import", root.to_str().expect("UTF-8"), "--as", "v", "--move"];
    let refused = world.cvs(&refused).env("CVS_UV", "/nowhere/uv").fails();
    assert!(refused.stderr.contains("uv"), "{refused}");
    assert!(!world.spec_file("v").exists());
    assert_eq!((read(&one), read(&other)), (b"one".to_vec(), b"other".to_vec()));
    world.cvs(&["gc", "--grace", "0"]).ok();
    assert_eq!((read(&one), read(&other)), (b"one".to_vec(), b"other".to_vec()));

    let rest = |root: &Path| {
        let mut all = everything(root);
        all.retain(|path, _| path.is_file() && !path.starts_with(root.join("models/loras")));
        all
    };
    let before = rest(&root);
    world.cvs(&import(&root, "v", &["--move", "--with-outputs"])).ok();
    assert!(!one.exists() && !other.exists());
    assert!(rest(&root) == before, "more than the models was taken away");
    let listed = world.cvs(&["model", "ls", "v", "--json"]).ok().json();
    assert_eq!(
        [&listed[0]["sha256"], &listed[1]["sha256"]],
        [&json!(sha256(b"one")), &json!(sha256(b"other"))]
    );

    // The version is all that has them: one that takes its place has them, too.
    model(&root, "c.safetensors", b"third");
    world.cvs(&import(&root, "v", &["--move", "--force"])).ok();
    world.cvs(&["gc", "--grace", "0"]).ok();
    world.cvs(&["validate", "v", "--offline", "--deep"]).ok();
    let listed = world.cvs(&["model", "ls", "v", "--json"]).ok().json();
    let of = |number: usize| &listed[number]["sha256"];
    let bytes: [&[u8]; 3] = [b"third", b"one", b"other"];
    assert_eq!([of(0), of(1), of(2)], bytes.map(|bytes| json!(sha256(bytes))).each_ref());
}
