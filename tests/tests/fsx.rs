//! fsx, the file system exerciser: random operations on one file, each checked against what the file must hold, on new
//! files and on files of the view.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cvs_tests::{TestEnvironment, available, tool, wait_for};

use crate::mounted::{assert_objects_are_what_they_are_called, fuse, ingest, mount, read, tree, umount};

const OPERATIONS: &str = "20000";
const SEEDS: [u64; 3] = [1, 20, 300];

/// Everything that fsx can do. No length is 0, which posix_fallocate refuses and fsx does not expect.
const ANY: &str = "
flen = 262144
[opsize]
max = 65536
min = 1
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 3
fsync = 0.2
fdatasync = 0.2
invalidate = 1
punch_hole = 2
sendfile = 3
posix_fallocate = 1
copy_file_range = 3
posix_fadvise = 1
";

/// Everything that leaves the file as long as it is; fsx does not cut it at its start then.
const IN_PLACE: &str = "
flen = 262144
blockmode = true
[opsize]
max = 65536
min = 1
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
fsync = 0.2
fdatasync = 0.2
invalidate = 1
punch_hole = 2
sendfile = 3
posix_fallocate = 0
truncate = 0
close_open = 0
copy_file_range = 3
posix_fadvise = 1
";

/// One run for each seed, in parallel on files of their own; panics with what fsx says of the first difference.
fn exercise(env: &TestEnvironment, program: &Path, config: &str, file: impl Fn(u64) -> PathBuf) {
    let config = env.write("fsx.toml", config);
    let runs = SEEDS.map(|seed| {
        let artifacts = env.path(format!("fsx-{seed}"));
        std::fs::create_dir_all(&artifacts).expect("making a directory");
        let log = std::fs::File::create(artifacts.join("log")).expect("making a log");
        let mut command: Command = env.command(program);
        command.args(["-N", OPERATIONS, "-S", &seed.to_string(), "-f"]).arg(&config);
        command.arg("-P").arg(&artifacts).arg(file(seed));
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("duplicating a descriptor")).stdout(log);
        (seed, artifacts, command.spawn().expect("starting fsx"))
    });
    for (seed, artifacts, mut child) in runs {
        let status =
            wait_for(Duration::from_secs(300), "fsx ends", || child.try_wait().expect("asking for a child"));
        let log = String::from_utf8_lossy(&read(artifacts.join("log"))).into_owned();
        assert!(status.success(), "seed {seed}: {status}\n{log}");
    }
}

fn run(name: &str, config: &str, of_the_view: bool) {
    let Some(program) = available(fuse().and_then(|()| tool("fsx"))) else { return };
    let env = TestEnvironment::new();
    let before: Vec<u8> = (0..262_144u32).map(|at| (at % 251) as u8).collect();
    ingest(&env, "v", &[("file1", &before), ("file20", &before), ("dir/file300", &before)]);
    let dir = mount(&env, "v", name, &[]);
    exercise(&env, &program, config, |seed| match (of_the_view, seed) {
        (false, _) => dir.join(format!("new{seed}")),
        (true, 300) => dir.join("dir/file300"),
        (true, _) => dir.join(format!("file{seed}")),
    });
    // What the page cache held is what comes back after it is gone.
    let written = tree(&dir);
    umount(&env, &dir);
    mount(&env, "v", name, &[]);
    assert!(tree(&dir) == written, "the files are others after umount and mount");
    umount(&env, &dir);
    assert_objects_are_what_they_are_called(&env);
    env.cvs(["fsck"]).ok();
}

#[test]
fn fsx_on_new_files() {
    run("new", ANY, false);
}

#[test]
fn fsx_on_files_of_the_view() {
    run("below", ANY, true);
}

#[test]
fn fsx_in_place_on_files_of_the_view() {
    run("in-place", IN_PLACE, true);
}
