//! The rows of the table in docs/overlay.md that need a mount and several users or processes: each test is named in its
//! row. A script runs on a mounted version and on a plain copy of it, and must print the same; where the mount is
//! another filesystem than ext4 on purpose, what it prints is written here.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use cvs_tests::{TestEnvironment, available};
use nix::unistd::geteuid;

use crate::mounted::{fuse, ingest, mount, mounts_of, tree, umount};
use crate::ordinary::{Ordinary, open_to_all, program, succeeds};

const PRELUDE: &str = include_str!("semantics/prelude.py");

macro_rules! script {
    ($name:literal) => {
        include_str!(concat!("semantics/", $name, ".py"))
    };
}

/// A version, mounted for everybody, and a plain copy of it.
struct Pair {
    env: TestEnvironment,
    plain: PathBuf,
    mounted: PathBuf,
}

impl Pair {
    /// `None`, with a word, where this is not root, who alone can be everybody.
    #[track_caller]
    fn new() -> Option<Pair> {
        let root = || match geteuid().is_root() {
            true => Ok(()),
            false => Err(cvs_tests::Missing("root, to be somebody else".to_owned())),
        };
        available(fuse().and_then(|()| root()))?;
        let env = TestEnvironment::new();
        open_to_all(&env);
        store(&env);
        env.cvs(["debug", "ingest", "sources/v", "--as", "v"]).ok();
        let mounted = mount(&env, "v", "v", &["--allow-other"]);
        let plain = env.path("mnt/p");
        let copied = env.command("cp").arg("-a").args([&mounted, &plain]).output();
        succeeds(&copied.expect("starting cp"));
        Some(Pair { env, plain, mounted })
    }

    #[track_caller]
    fn run(&self, dir: &PathBuf, script: &str, args: &[&str]) -> String {
        let mut command = self.env.command("python3");
        command.arg("-Ic").arg(format!("{PRELUDE}\n{script}")).args(args).current_dir(dir);
        succeeds(&command.output().expect("starting python3"))
    }

    /// What a script prints on both.
    #[track_caller]
    fn same(&self, script: &str, args: &[&str]) -> String {
        let (plain, mounted) = (self.run(&self.plain, script, args), self.run(&self.mounted, script, args));
        assert_eq!(mounted, plain, "on the mount (left) and on plain files (right)");
        mounted
    }

    #[track_caller]
    fn mount_again(&self) {
        umount(&self.env, &self.mounted);
        mount(&self.env, "v", "v", &["--allow-other"]);
    }
}

/// Writes what the version of the tests here holds.
fn store(env: &TestEnvironment) {
    let source = env.path("sources/v");
    fs::create_dir_all(source.join("dir/sub")).expect("making a directory");
    let large = vec![b'l'; 20_000];
    let files: [(&str, &[u8]); 5] = [
        ("one", b"one of three"),
        ("file", b"below"),
        ("dir/other", b"other"),
        ("dir/sub/deep", b"deep"),
        ("large", &large),
    ];
    for (path, bytes) in files {
        fs::write(source.join(path), bytes).expect("writing a file");
    }
    for name in ["two", "dir/three"] {
        fs::hard_link(source.join("one"), source.join(name)).expect("linking a file");
    }
    symlink("file", source.join("link")).expect("making a symlink");
}

/// What does not need other users is the same in a mount through fusermount3.
#[test]
fn mounts_of_ordinary_users_have_the_same() {
    let mut env = TestEnvironment::new();
    let ordinary = program("fusermount3").and_then(|()| Ordinary::new(&env));
    let Some(ordinary) = available(ordinary) else { return };
    ordinary.settle(&mut env);
    store(&env);
    succeeds(&ordinary.cvs(&env, &["debug", "ingest", "sources/v", "--as", "v"]));
    for (name, script) in [
        ("readers", script!("readers")),
        ("numbers", script!("numbers")),
        ("hard-links", script!("hard-links")),
        ("directory-times", script!("directory-times")),
        ("locks", script!("locks")),
        ("direct", script!("direct")),
        ("names", script!("names")),
    ] {
        succeeds(&ordinary.cvs(&env, &["mount", "v", "theirs/mnt", "--ephemeral"]));
        let plain = format!("theirs/{name}");
        succeeds(&ordinary.run(&env, "cp", &["-a", "theirs/mnt", &plain]));
        let said = [plain.as_str(), "theirs/mnt"].map(|dir| {
            let text = format!("import os\nos.chdir('{dir}')\n{PRELUDE}\n{script}");
            succeeds(&ordinary.run(&env, "sh", &["-c", "exec python3 -Ic \"$0\"", &text]))
        });
        assert_eq!(said[1], said[0], "{name}: on the mount (left) and on plain files (right)");
        succeeds(&ordinary.cvs(&env, &["umount", "v"]));
    }
}

#[test]
fn open_readers_and_mappings_see_what_another_writes() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.same(script!("readers"), &[]);
    assert!(said.contains("b'BELOW' b'BELOW'\nb'mapOW' b'mapOW' b'mapOW'\n3 b'map'\n"), "{said}");
}

#[test]
fn inode_numbers_stay_while_it_is_mounted() {
    let Some(pair) = Pair::new() else { return };
    assert_eq!(pair.same(script!("numbers"), &[]), "True 1\nTrue\nTrue\nTrue\nTrue True\nTrue\n");
}

#[test]
fn hard_links_stay_links_when_one_is_written_and_at_the_next_mount() {
    let Some(pair) = Pair::new() else { return };
    let links = "{4} {b'through the second'}\n1\n";
    assert_eq!(pair.same(script!("hard-links"), &[]), format!("3\n{links}"));
    pair.mount_again();
    assert_eq!(pair.same(script!("hard-links"), &["again"]), format!("after a mount\n{links}"));
}

#[test]
fn reading_does_not_move_atime() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.run(&pair.mounted, script!("atime"), &[]);
    assert_eq!(said, "file True\ndir/other True\ndir True\n1500000000.0 1600000000.0\nTrue\n");
}

#[test]
fn the_mtime_of_a_file_of_the_version_is_that_of_its_content() {
    let Some(pair) = Pair::new() else { return };
    ingest(&pair.env, "w", &[("elsewhere/copy", b"below"), ("changed", b"below!")]);
    let other = mount(&pair.env, "w", "w", &[]);
    let mtime = |path: PathBuf| {
        let meta = fs::metadata(path).expect("looking at a file");
        (meta.mtime(), meta.mtime_nsec())
    };
    let first = mtime(pair.mounted.join("file"));
    assert_eq!(mtime(other.join("elsewhere/copy")), first);
    assert_ne!(mtime(other.join("changed")), first);
    let years = 1_577_836_800..1_735_689_600;
    assert!(years.contains(&first.0), "2020 to 2024: {first:?}");
}

#[test]
fn times_of_directories_move_with_their_entries_alone() {
    let Some(pair) = Pair::new() else { return };
    let size = |dir: &str| fs::metadata(pair.mounted.join(dir)).expect("looking at a directory").len();
    let dirs = ["", "dir", "dir/sub"];
    assert_eq!(dirs.map(size), [4096; 3]);
    let said = pair.same(script!("directory-times"), &[]);
    assert_eq!(dirs.map(size), [4096; 3]);
    assert!(
        said.starts_with("write False False\nwrite again False False\nwrite below False False\n"),
        "{said}"
    );
}

#[test]
fn modes_and_owners_decide() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.same(script!("permissions"), &[]);
    assert!(
        said.starts_with("of the version b'below' EACCES\nEACCES EACCES EACCES\nEPERM EPERM\n"),
        "{said}"
    );
}

#[test]
fn setuid_and_setgid_are_cleared_by_writes() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.same(script!("setid"), &[]);
    assert!(said.starts_with("write-0 1 0o777\n"), "{said}");
}

#[test]
fn access_control_lists_are_refused() {
    let Some(pair) = Pair::new() else { return };
    assert_eq!(pair.run(&pair.mounted, script!("acl"), &[]), "ENOTSUP ENOTSUP\nENOTSUP []\n");
}

#[test]
fn locks_hold_between_processes_and_over_copy_up() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.same(script!("locks"), &[]);
    assert!(said.starts_with("file flock ['EAGAIN', 'got', 'got', 'got', 'got']\n"), "{said}");
}

#[test]
fn direct_io_and_the_page_cache_agree() {
    let Some(pair) = Pair::new() else { return };
    pair.same(script!("direct"), &[]);
}

#[test]
fn files_without_a_name_are_refused_and_python_does_without() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.run(&pair.mounted, script!("unnamed"), &[]);
    let names = "['dir', 'file', 'large', 'link', 'one', 'two']";
    assert_eq!(said, format!("ENOTSUP\nb'x' 0\nTrue True\n{names}\n"));
}

/// What the models connection makes different from one filesystem.
#[test]
fn models_are_a_filesystem_of_their_own_and_readers_keep_what_they_opened() {
    let Some(pair) = Pair::new() else { return };
    let files: [(&str, &[u8]); 3] = [("models/model", b"below and more"), ("file", b""), ("dir/f", b"")];
    ingest(&pair.env, "m", &files);
    let dir = mount(&pair.env, "m", "m", &[]);
    let form = mounts_of(&pair.env, "m")[0]["models"].clone();
    if form["form"] != "passthrough" {
        assert!(std::env::var_os("CVS_TEST_REQUIRE_PASSTHROUGH").is_none(), "{form}");
        return eprintln!("skipped: {form}");
    }
    let said = "written 3 b'NEWow'\nwho had it open b'below' b'below' 0\nnumber False\n\
                written again 5 b'AGAIN' True\na mountpoint False\nEXDEV EXDEV EXDEV\nEBUSY EBUSY\n\
                moved b'AGAIN' 256 ['models'] []\n";
    assert_eq!(pair.run(&dir, script!("models"), &[]), said);
    umount(&pair.env, &dir);
    mount(&pair.env, "m", "m", &[]);
    assert_eq!(tree(&dir).into_keys().collect::<Vec<_>>(), ["models"]);
    umount(&pair.env, &dir);
}

#[test]
fn free_space_is_that_of_where_the_overlay_lies() {
    let Some(pair) = Pair::new() else { return };
    let disk = pair.env.path("disk");
    let image = pair.env.write("image", b"");
    let cut = fs::File::options().write(true).open(&image).and_then(|file| file.set_len(32 << 20));
    cut.expect("making an image");
    fs::create_dir(&disk).expect("making a directory");
    let run =
        |program: &str, args: &[&str]| pair.env.command(program).args(args).output().expect("starting it");
    succeeds(&run("mkfs.ext4", &["-q", "-N", "1000", "image"]));
    let mounted = run("mount", &["-o", "loop", "image", "disk"]);
    let missing = || cvs_tests::Missing(format!("a loop device: {mounted:?}"));
    let Some(()) = available(mounted.status.success().then_some(()).ok_or_else(missing)) else { return };
    let dir = mount(&pair.env, "v", "small", &["--overlay", "disk/overlay"]);
    fs::write(dir.join("new"), vec![b'n'; 1 << 20]).expect("writing a file");
    let space = |path: &PathBuf| {
        let found = rustix::fs::statvfs(path).expect("asking for free space");
        (found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
    };
    let found = space(&dir);
    assert_eq!(found, space(&disk));
    assert!(found.1 * found.0 < 32 << 20 && found.4 < 2000, "{found:?}");
    umount(&pair.env, &dir);
}

#[test]
fn names_have_case_and_limits() {
    let Some(pair) = Pair::new() else { return };
    let said = pair.same(script!("names"), &[]);
    assert!(said.starts_with("b'below' b'capital' False ENOENT\n"), "{said}");
    pair.mount_again();
    assert_eq!(fs::read(pair.mounted.join("FILE")).expect("reading a file"), b"capital");
}
