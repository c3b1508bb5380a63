//! `kill -9` of the process that serves a mount, before and after every system call by which an operation changes the
//! overlay: after the next mount what is there is what was before the operation or what is after it, with nothing of
//! the overlay's bookkeeping in it. Points are passed one by one until an operation has none left.
//!
//! With `CVS_TEST_LONG` all of them, in the tree and below `models/`; else every fifth, another fifth for each operation,
//! and below `models/` of what changes files. The library's own tests stop at every call each time, without a mount.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cvs_tests::{TestEnvironment, available};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, RenameFlags, XattrFlags};

use crate::chance::long;
use crate::mounted::{
    Entry, assert_objects_are_what_they_are_called, daemon, fuse, is_running, log_of, mount, tree, umount,
    wait_gone,
};

/// Copies of the tree that is changed, so that a mount need not be made anew for each operation.
const CASES: usize = 128;
/// Of the points of an operation, one in so many is tried in a short run.
const SAMPLE: usize = 5;

/// The places of cases: the tree, and what may have a connection of its own.
const TREE: &str = "";
const MODELS: &str = "models";

struct Operation {
    name: &'static str,
    before: fn(&Path) -> io::Result<()>,
    /// One change, by one system call.
    change: fn(&Path) -> io::Result<()>,
}

macro_rules! operations {
    ($($name:literal: $before:expr => $change:expr;)*) => {
        &[$(Operation { name: $name, before: $before, change: $change }),*]
    };
}

fn nothing(_: &Path) -> io::Result<()> {
    Ok(())
}

fn write(path: PathBuf) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(b"written", 3)?;
    file.sync_all()
}

fn unlink(paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(fs::remove_file)
}

fn swap(from: PathBuf, to: PathBuf) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?)
}

fn chmod(path: PathBuf, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn allocate(path: PathBuf, flags: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    Ok(rustix::fs::fallocate(file, flags, at, len)?)
}

/// A time that no clock shows now.
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// The tree of a case: `f`, `g`, `d/f`, `d/sub/x`, `e/`, `h/`, `s@`, and one file called `l1`, `d/l2` and `d/sub/l3`.
fn make_tree(dir: &Path) {
    for sub in ["d/sub", "e", "h"] {
        fs::create_dir_all(dir.join(sub)).expect("making a directory");
    }
    for file in ["f", "g", "d/f", "d/sub/x", "l1"] {
        fs::write(dir.join(file), format!("content of {file}")).expect("writing a file");
    }
    symlink("g", dir.join("s")).expect("making a symlink");
    for name in ["d/l2", "d/sub/l3"] {
        fs::hard_link(dir.join("l1"), dir.join(name)).expect("making a link");
    }
}

const MAKING: &[Operation] = operations! {
    "create": nothing => |c| File::create_new(c.join("new")).map(drop);
    "create deep in the view": nothing => |c| File::create_new(c.join("d/sub/new")).map(drop);
    "create over a whiteout": |c| unlink(&[c.join("f")]) => |c| File::create_new(c.join("f")).map(drop);
    "mkdir": nothing => |c| fs::create_dir(c.join("d/new"));
    "mkdir over a whiteout": |c| fs::remove_dir(c.join("e")) => |c| fs::create_dir(c.join("e"));
    "symlink": nothing => |c| symlink("to", c.join("d/sub/new"));
    "symlink over a whiteout": |c| unlink(&[c.join("f")]) => |c| symlink("to", c.join("f"));
    "mknod": nothing => |c| {
        Ok(rustix::fs::mknodat(CWD, c.join("d/new"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)?)
    };
};

const CHANGING: &[Operation] = operations! {
    "write to a file of the view": nothing => |c| write(c.join("d/f"));
    "write to a file of three names": nothing => |c| write(c.join("d/l2"));
    "write to one of three names, one gone": |c| unlink(&[c.join("l1")]) => |c| write(c.join("d/l2"));
    "write to a new file": |c| fs::write(c.join("new"), "old content") => |c| write(c.join("new"));
    "truncate": nothing => |c| File::options().write(true).open(c.join("f"))?.set_len(2);
    "truncate to nothing": nothing => |c| File::create(c.join("d/f")).map(drop);
    "truncate a new file": |c| fs::write(c.join("new"), "old content")
        => |c| File::options().write(true).open(c.join("new"))?.set_len(4);
    "chmod": nothing => |c| chmod(c.join("d/f"), 0o640);
    "chmod a directory": nothing => |c| chmod(c.join("d/sub"), 0o750);
    "chown": nothing => |c| std::os::unix::fs::chown(c.join("f"), None, Some(rustix::process::getgid().as_raw()));
    "utimens": nothing => |c| File::open(c.join("d/sub/x"))?.set_times(FileTimes::new().set_modified(then()));
    "utimens of a symlink": nothing => |c| {
        let seconds = then().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, c.join("s"), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    };
    "setxattr": nothing => |c| Ok(rustix::fs::setxattr(c.join("f"), "user.x", b"y", XattrFlags::empty())?);
    "setxattr on a directory": nothing
        => |c| Ok(rustix::fs::setxattr(c.join("d"), "user.cvs.x", b"y", XattrFlags::empty())?);
    "removexattr": |c| Ok(rustix::fs::setxattr(c.join("f"), "user.x", b"y", XattrFlags::empty())?)
        => |c| Ok(rustix::fs::removexattr(c.join("f"), "user.x")?);
    "fallocate": nothing => |c| allocate(c.join("f"), FallocateFlags::empty(), 0, 5000);
    "fallocate a hole": nothing
        => |c| allocate(c.join("d/f"), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 2, 4);
    "copy_file_range": nothing => |c| {
        let (from, to) = (File::open(c.join("d/f"))?, File::options().write(true).open(c.join("g"))?);
        let copied = rustix::fs::copy_file_range(&from, Some(&mut 3), &to, Some(&mut 1), 8)?;
        if copied == 8 { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    };
    "fsync": |c| fs::write(c.join("g"), "not synced") => |c| File::open(c.join("g"))?.sync_all();
    "fdatasync": |c| fs::write(c.join("new"), "not synced") => |c| File::open(c.join("new"))?.sync_data();
    "fsync of a directory": |c| fs::write(c.join("d/new"), "") => |c| File::open(c.join("d"))?.sync_all();
};

const REMOVING: &[Operation] = operations! {
    "unlink a file of the view": nothing => |c| fs::remove_file(c.join("d/f"));
    "unlink one of three names": nothing => |c| fs::remove_file(c.join("d/sub/l3"));
    "unlink a copy": |c| write(c.join("f")) => |c| fs::remove_file(c.join("f"));
    "unlink a new file": |c| fs::write(c.join("d/new"), "") => |c| fs::remove_file(c.join("d/new"));
    "rmdir of the view": nothing => |c| fs::remove_dir(c.join("e"));
    "rmdir a copy": |c| chmod(c.join("e"), 0o700) => |c| fs::remove_dir(c.join("e"));
    "rmdir with whiteouts": |c| unlink(&[c.join("d/sub/x"), c.join("d/sub/l3")])
        => |c| fs::remove_dir(c.join("d/sub"));
    "rmdir a renamed one with whiteouts": |c| {
        fs::rename(c.join("d/sub"), c.join("new"))?;
        unlink(&[c.join("new/x"), c.join("new/l3")])
    } => |c| fs::remove_dir(c.join("new"));
    "link": nothing => |c| fs::hard_link(c.join("f"), c.join("d/new"));
    "link one of three names": nothing => |c| fs::hard_link(c.join("l1"), c.join("d/new"));
    "link over a whiteout": |c| unlink(&[c.join("d/f")]) => |c| fs::hard_link(c.join("f"), c.join("d/f"));
};

const RENAMING: &[Operation] = operations! {
    "rename": nothing => |c| fs::rename(c.join("f"), c.join("d/new"));
    "rename without replacing": nothing => |c| {
        Ok(rustix::fs::renameat_with(CWD, c.join("f"), CWD, c.join("h/new"), RenameFlags::NOREPLACE)?)
    };
    "rename one of three names": nothing => |c| fs::rename(c.join("d/l2"), c.join("new"));
    "replace a file of the view": nothing => |c| fs::rename(c.join("f"), c.join("d/f"));
    "replace one of three names": nothing => |c| fs::rename(c.join("f"), c.join("d/l2"));
    "replace a copy": |c| write(c.join("d/f")) => |c| fs::rename(c.join("f"), c.join("d/f"));
    "replace by a new file": |c| fs::write(c.join("d/new"), "saved") => |c| fs::rename(c.join("d/new"), c.join("f"));
    "replace a new file": |c| fs::write(c.join("d/new"), "") => |c| fs::rename(c.join("f"), c.join("d/new"));
    "rename over a whiteout": |c| unlink(&[c.join("d/f")]) => |c| fs::rename(c.join("f"), c.join("d/f"));
    "rename a new file over a whiteout": |c| {
        unlink(&[c.join("d/f")])?;
        fs::write(c.join("new"), "")
    } => |c| fs::rename(c.join("new"), c.join("d/f"));
    "exchange": nothing => |c| swap(c.join("f"), c.join("d/f"));
    "exchange a file and a directory": nothing => |c| swap(c.join("d/f"), c.join("e"));
};

const RENAMING_DIRECTORIES: &[Operation] = operations! {
    "rename a directory of the view": nothing => |c| fs::rename(c.join("d/sub"), c.join("new"));
    "rename a new directory over a whiteout": |c| {
        unlink(&[c.join("f")])?;
        fs::create_dir(c.join("d/new"))
    } => |c| fs::rename(c.join("d/new"), c.join("f"));
    "replace an empty directory": nothing => |c| fs::rename(c.join("d/sub"), c.join("e"));
    "replace an empty copy": |c| chmod(c.join("e"), 0o700) => |c| fs::rename(c.join("h"), c.join("e"));
    "replace an emptied directory by a new one": |c| {
        unlink(&[c.join("d/sub/x"), c.join("d/sub/l3")])?;
        fs::create_dir(c.join("new"))
    } => |c| fs::rename(c.join("new"), c.join("d/sub"));
    "replace an emptied directory": |c| unlink(&[c.join("d/sub/x"), c.join("d/sub/l3")])
        => |c| fs::rename(c.join("e"), c.join("d/sub"));
    "replace a new directory": |c| fs::create_dir(c.join("new")) => |c| fs::rename(c.join("d"), c.join("new"));
};

#[test]
fn making() {
    run("making", TREE, MAKING);
}

#[test]
fn changing() {
    run("changing", TREE, CHANGING);
}

#[test]
fn removing_and_linking() {
    run("removing", TREE, REMOVING);
}

#[test]
fn renaming() {
    run("renaming", TREE, RENAMING);
}

#[test]
fn renaming_directories() {
    run("directories", TREE, RENAMING_DIRECTORIES);
}

/// Where the kernel reads and writes files by itself, where it can.
#[test]
fn below_models() {
    run("changing", MODELS, CHANGING);
    if long() {
        for (version, operations) in [
            ("making", MAKING),
            ("removing", REMOVING),
            ("renaming", RENAMING),
            ("directories", RENAMING_DIRECTORIES),
        ] {
            run(version, MODELS, operations);
        }
    }
}

/// `place` is the directory that holds the cases.
fn run(version: &str, place: &str, operations: &[Operation]) {
    let Some(()) = available(fuse()) else { return };
    let mut env = TestEnvironment::new();
    let plan = env.path("plan");
    env.set_var("CVS_FAULT", &plan);
    for case in 0..CASES {
        make_tree(&env.path("lower").join(place).join(format!("c{case:03}")));
    }
    env.cvs(["debug", "ingest", "lower", "--as", version]).ok();
    let (mut points, mut killed) = (0, 0);
    for (number, operation) in operations.iter().enumerate() {
        let (all, tried) = try_operation(&env, version, place, &plan, operation, number);
        (points, killed) = (points + all, killed + tried);
        fs::remove_dir_all(env.home().join("overlays").join(version)).expect("removing an overlay");
    }
    let count = operations.len();
    let _ = writeln!(io::stderr(), "{version} {place}: {count} operations, {points} points, {killed} kills");
    env.cvs(["fsck"]).ok();
    assert_objects_are_what_they_are_called(&env);
}

/// Lets the daemon die at the points of an operation: how many it has, and at how many it died here.
fn try_operation(
    env: &TestEnvironment,
    version: &str,
    place: &str,
    plan: &Path,
    operation: &Operation,
    number: usize,
) -> (usize, usize) {
    let mountpoint = mount(env, version, version, &[]);
    let dir = mountpoint.join(place);
    // In the overlay from the beginning: to get there would be points of the first case alone.
    chmod(dir.clone(), 0o755).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
    let clean = dir.join("c000");
    (operation.before)(&clean).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
    let old = shown(&clean);
    // The number is more than there can be points, so what is left of it tells how many were passed.
    fs::write(plan, CASES.to_string()).expect("writing the plan");
    (operation.change)(&clean).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
    let left: usize = fs::read_to_string(plan).expect("reading the plan").parse().expect("a number");
    fs::remove_file(plan).expect("removing the plan");
    let (new, points) = (shown(&clean), CASES - left);
    assert!(points > 0, "{} passes no point: is this cvs a release build?", operation.name);
    assert!(points < CASES, "{} has more points than there are cases", operation.name);

    let mut killed = 0;
    // Behind one call is before the next, but for the last.
    let distinct = (0..points).filter(|point| point % 2 == 0 || point + 1 == points);
    for point in distinct.filter(|point| long() || (point / 2 + number).is_multiple_of(SAMPLE)) {
        let what = format!("{}, dead at point {point} of {points}", operation.name);
        let case = dir.join(format!("c{:03}", point + 1));
        (operation.before)(&case).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(shown(&case), old, "{what}, before");
        let served_by = daemon(env, version);
        fs::write(plan, point.to_string()).expect("writing the plan");
        let done = (operation.change)(&case);
        wait_gone(served_by);
        fs::remove_file(plan).expect("removing the plan");
        mount(env, version, version, &[]);
        let found = shown(&case);
        let fits = found == new || (done.is_err() && found == old);
        assert!(
            fits,
            "{what} ({done:?}):\nfound {found:#?}\nbefore {old:#?}\nafter {new:#?}\n{}",
            log_of(env, version)
        );
        let work = tree(&env.home().join("overlays").join(version).join("work"));
        assert_eq!(work.into_keys().collect::<Vec<_>>(), ["whiteout"], "{what}");
        killed += 1;
    }
    // Whatever died beside it, the first is what it was.
    assert_eq!(shown(&clean), new, "{}", operation.name);
    let served_by = daemon(env, version);
    umount(env, &mountpoint);
    assert!(!is_running(served_by));
    (points, killed)
}

/// What a case shows, by path.
fn shown(dir: &Path) -> BTreeMap<String, Shown> {
    let mut first_names = BTreeMap::new();
    tree(dir)
        .into_iter()
        .map(|(path, entry)| {
            let full = dir.join(&path);
            let metadata = fs::symlink_metadata(&full).expect("looking at what was listed");
            // Times of the view and those that were set count; that of a change is another each time.
            let age =
                SystemTime::now().duration_since(metadata.modified().expect("a time")).unwrap_or_default();
            let is_old = age > Duration::from_secs(86_400) && !metadata.is_dir();
            let first = first_names.entry(metadata.ino()).or_insert_with(|| path.clone()).clone();
            let shown = Shown {
                kind_and_mode: metadata.mode(),
                links: metadata.nlink(),
                owner: (metadata.uid(), metadata.gid()),
                mtime: is_old.then(|| (metadata.mtime(), metadata.mtime_nsec())),
                attributes: attributes(&full),
                first,
                entry,
            };
            (path, shown)
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Shown {
    entry: Entry,
    kind_and_mode: u32,
    links: u64,
    owner: (u32, u32),
    mtime: Option<(i64, i64)>,
    /// The first name of the same file.
    first: String,
    attributes: String,
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("listing attributes");
    String::from_utf8_lossy(&names[..len]).into_owned()
}
