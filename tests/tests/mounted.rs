//! What the tests of mounts stand on: mounting as a person does, and looking at what is there.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cvs_tests::{Missing, TestEnvironment, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything here may take that is not said to take longer.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Whether this machine can mount at all.
pub(crate) fn fuse() -> Result<(), Missing> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => Err(Missing(format!("/dev/fuse, to mount ({error})"))),
    }
}

/// Mounts a version at `mnt/NAME` below the root and returns the mountpoint.
#[track_caller]
pub(crate) fn mount(env: &TestEnvironment, id: &str, name: &str, flags: &[&str]) -> PathBuf {
    let dir = env.path("mnt").join(name);
    env.cvs(["mount", id]).arg(&dir).args(flags).ok();
    dir
}

#[track_caller]
pub(crate) fn umount(env: &TestEnvironment, target: impl AsRef<std::ffi::OsStr>) {
    env.cvs(["umount"]).arg(target).ok();
}

/// What `cvs mounts` says of a version.
#[track_caller]
pub(crate) fn mounts_of(env: &TestEnvironment, id: &str) -> Vec<Value> {
    listed_mounts(env, &["mounts", "--json"], id)
}

/// The same by a command of one's own. Dead mounts of other tests are told, too, and left out here.
#[track_caller]
pub(crate) fn listed_mounts(env: &TestEnvironment, command: &[&str], id: &str) -> Vec<Value> {
    let mut all = env.cvs(command).ok().json();
    let all = all.as_array_mut().expect("a list of mounts");
    let is_here =
        |entry: &Value| entry["mountpoint"].as_str().is_some_and(|at| Path::new(at).starts_with(env.root()));
    all.retain(|entry| entry["version"] == id && is_here(entry));
    std::mem::take(all)
}

/// The process that serves the only mount of a version.
#[track_caller]
pub(crate) fn daemon(env: &TestEnvironment, id: &str) -> Pid {
    let mounts = mounts_of(env, id);
    let [entry] = mounts.as_slice() else { panic!("not one mount: {mounts:?}") };
    let pid = entry["pid"].as_i64().unwrap_or_else(|| panic!("no daemon: {entry}"));
    Pid::from_raw(i32::try_from(pid).expect("a pid"))
}

/// Kills a process, which is not a child of this one, and waits until it is gone.
pub(crate) fn kill_and_wait(pid: Pid, signal: Signal) {
    kill(pid, signal).unwrap_or_else(|error| panic!("killing {pid}: {error}"));
    wait_gone(pid);
}

pub(crate) fn wait_gone(pid: Pid) {
    wait_until(SOON, &format!("process {pid} ends"), || !is_running(pid));
}

/// Whether a process is there and not a zombie: under a container's first process orphans may stay that for a while.
pub(crate) fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']) || threads() > 1)
}

/// The log of the daemons of a version.
pub(crate) fn log_of(env: &TestEnvironment, id: &str) -> String {
    fs::read_to_string(env.home().join(format!("run/log/mount-{id}.log"))).unwrap_or_default()
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Dir,
    File(Vec<u8>),
    Link(PathBuf),
    /// A pipe, a socket or a device.
    Special,
}

/// Everything below a directory by its path.
#[track_caller]
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    add_tree(dir, dir, &mut found);
    found
}

#[track_caller]
fn add_tree(root: &Path, dir: &Path, found: &mut BTreeMap<String, Entry>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("listing {}: {error}", dir.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("listing {}: {error}", dir.display()));
        let (path, kind) = (entry.path(), entry.file_type().expect("the type of an entry"));
        let name = path.strip_prefix(root).expect("an entry lies below").to_string_lossy().into_owned();
        let what = if kind.is_dir() {
            add_tree(root, &path, found);
            Entry::Dir
        } else if kind.is_symlink() {
            Entry::Link(fs::read_link(&path).expect("reading a link"))
        } else if !kind.is_file() {
            Entry::Special
        } else {
            Entry::File(read(&path))
        };
        found.insert(name, what);
    }
}

#[track_caller]
pub(crate) fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

#[track_caller]
pub(crate) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::write(path, bytes).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}

/// The number of the error that an operation must end with.
#[track_caller]
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it has worked"),
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("not of the system: {error}")),
    }
}

/// Makes a version of a directory, written for it below the root.
#[track_caller]
pub(crate) fn ingest(env: &TestEnvironment, id: &str, files: &[(&str, &[u8])]) {
    let source = format!("sources/{id}");
    fs::create_dir_all(env.path(&source)).expect("making a directory");
    for (path, bytes) in files {
        env.write(format!("{source}/{path}"), bytes);
    }
    env.cvs(["debug", "ingest", &source, "--as", id]).ok();
}

/// The file of the blob that has these bytes.
pub(crate) fn blob_of(env: &TestEnvironment, bytes: &[u8]) -> PathBuf {
    let name = blake3::hash(bytes).to_hex();
    env.home().join("objects/blob").join(&name[..2]).join(&name[2..])
}

/// The name of an object: its path without the slash.
pub(crate) fn object_name(path: &Path) -> String {
    let part =
        |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    part(path.parent()).unwrap_or_default() + &part(Some(path)).unwrap_or_default()
}

/// Lets somebody else than cvs change an object, which is read-only to everyone but root.
#[track_caller]
pub(crate) fn change_object(path: &Path, change: impl FnOnce(&fs::File)) {
    let mode = |mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("changing a mode");
    mode(0o644);
    change(&fs::File::options().read(true).write(true).open(path).expect("opening an object"));
    mode(0o444);
}

/// Turns one byte in the middle of an object round.
#[track_caller]
pub(crate) fn flip_byte(path: &Path) {
    change_object(path, |file| {
        let at = file.metadata().expect("looking at an object").len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("reading an object");
        file.write_all_at(&[!byte[0]], at).expect("writing an object");
    });
}

/// Hashes every object of the store with no code of cvs: its name must be its hash.
#[track_caller]
pub(crate) fn assert_objects_are_what_they_are_called(env: &TestEnvironment) {
    let manifests = blake3::Hasher::new_derive_key("cvs 2026 store manifest v1");
    for (kind, hasher) in [("blob", blake3::Hasher::new()), ("manifest", manifests)] {
        let mut count = 0;
        for (path, entry) in tree(&env.home().join("objects").join(kind)) {
            if let Entry::File(bytes) = entry {
                let hash = hasher.clone().update(&bytes).finalize();
                assert_eq!(*path.replace('/', ""), *hash.to_hex(), "{kind}");
                count += 1;
            }
        }
        assert!(count > 0, "no {kind} in the store");
    }
}
