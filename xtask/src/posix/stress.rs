//! [stress-ng](https://github.com/ColinIanKing/stress-ng): each of its stressors does one thing to a filesystem as
//! fast as it can, and with `--verify` looks at what comes of it.

use std::time::Duration;

use super::program::{Finished, Job, finish_all};
use super::report::Tally;
use super::site::Role;
use super::{MODELS, OWN, Place, Run};
use crate::failure::{Doing, Outcome};

/// Those that work on files in the directory that they are given, of all versions; a version skips those that it does
/// not know. Left out are those of its class `filesystem` that work elsewhere (binderfs, bind-mount, eventfd, procfs).
const STRESSORS: &[&str] = &[
    "access",
    "acl",
    "aio",
    "aiol",
    "chattr",
    "chdir",
    "chmod",
    "chown",
    "chroot",
    "close",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dnotify",
    "dup",
    "fallocate",
    "fanotify",
    "fault",
    "fcntl",
    "fd-fork",
    "fiemap",
    "fifo",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inode-flags",
    "inotify",
    "io",
    "io-uring",
    "iomix",
    "ioprio",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockmix",
    "lockofd",
    "madvise",
    "metamix",
    "mincore",
    "mknod",
    "mmap",
    "mmapfiles",
    "mmapmany",
    "msync",
    "open",
    "readahead",
    "rename",
    "revio",
    "rmap",
    "rotate",
    "seek",
    "sendfile",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "truncate",
    "unlink",
    "utime",
    "verity",
    "xattr",
];

const PLACES: [Place; 2] = [OWN, MODELS];

/// How many run at once: most wait for the disk, and what the others do to the filesystem makes it no easier.
const WIDTH: usize = 16;
/// What a stressor may take beyond its time, to get ready and to clear up: some make many thousands of files.
const PATIENCE: Duration = Duration::from_secs(300);

/// Exit codes of stress-ng(1).
const NO_RESOURCE: i32 = 3;
const NOT_IMPLEMENTED: i32 = 4;

pub(super) fn run(run: &mut Run<'_>) -> Outcome {
    let seconds = run.seconds;
    for place in PLACES {
        // Where models have no connection of their own they are a directory like others, which costs its time twice.
        if place == MODELS && !run.site.has_models() {
            continue;
        }
        let dir = run.site.at(place).join("stress-ng");
        std::fs::create_dir(&dir).doing(|| format!("making {}", dir.display()))?;
        let job = |stressor: &&str| {
            let work = dir.join(stressor);
            std::fs::create_dir(&work).doing(|| format!("making {}", work.display()))?;
            let mut command = run.lab.command("stress-ng");
            // Relative: io-uring of 0.15 unlinks its file and then asks for it by name, beginning at the file itself.
            // Of an absolute name that is ENOENT on every filesystem, which counts as a failure; of a relative one
            // it is ENOTDIR, which does not.
            command.args(["--temp-path", "."]).current_dir(&work);
            command.args(["--verify", "--timeout", &seconds.to_string(), &format!("--{stressor}"), "1"]);
            if *stressor == "mmap" {
                command.arg("--mmap-file");
            }
            let log = format!("stress-ng {} {} {stressor}", run.site.filesystem, place.name);
            Ok(Job { log, command, patience: PATIENCE + Duration::from_secs(seconds) })
        };
        let jobs = STRESSORS.iter().map(job).collect::<Outcome<Vec<_>>>()?;
        let mut tally = Tally::default();
        for (stressor, end) in STRESSORS.iter().zip(finish_all(run.lab, WIDTH, jobs)?) {
            judge(&mut tally, stressor, &end);
        }
        run.found(place.name, tally);
        // What a peer cannot remove goes with its upper layer.
        if run.site.role != Role::Peer {
            std::fs::remove_dir_all(&dir).doing(|| format!("removing {}", dir.display()))?;
        }
    }
    Ok(())
}

/// A stressor that cannot do its work says so and ends well. A version that does not know it refuses the option.
fn judge(tally: &mut Tally, stressor: &str, end: &Finished) {
    let says = |text: &str| end.stderr.contains(text) || end.stdout.contains(text);
    match end.status.code() {
        _ if says("unrecognized option") => {}
        Some(0) if says("skipping") => tally.skipped.push(stressor.to_owned()),
        Some(0) if !says("fail:") => tally.passed += 1,
        Some(NO_RESOURCE | NOT_IMPLEMENTED) => tally.skipped.push(stressor.to_owned()),
        _ => tally.failed.push(stressor.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn what_a_stressor_says_is_judged() {
        let (passed, failed, skipped) = ((1, 0, 0), (0, 1, 0), (0, 0, 1));
        let cases = [
            (0, "stress-ng: info:  [1] successful run completed in 2.05s", passed),
            (0, "stress-ng: info:  [1] fiemap: FS_IOC_FIEMAP not supported, skipping stressor", skipped),
            (0, "stress-ng: fail:  [1] fstat: no such file", failed),
            (1 << 8, "stress-ng: unrecognized option '--metamix'", (0, 0, 0)),
            (2 << 8, "stress-ng: error: [1] terminated with an error, exit status=2", failed),
            (3 << 8, "", skipped),
            (4 << 8, "", skipped),
            (9, "", failed),
        ];
        for (raw, stderr, expected) in cases {
            let mut tally = Tally::default();
            let status = ExitStatus::from_raw(raw);
            judge(&mut tally, "it", &Finished { status, stdout: String::new(), stderr: stderr.to_owned() });
            assert_eq!((tally.passed, tally.failed.len(), tally.skipped.len()), expected, "{raw} {stderr}");
        }
    }
}
