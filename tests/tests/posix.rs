//! The short form of `cargo xtask posix`: suites that others wrote, on a mount in each of its forms.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use cvs_tests::{Missing, TestEnvironment, available, tool};
use nix::unistd::geteuid;

use crate::mounted::{assert_objects_are_what_they_are_called, fuse, ingest, mount, umount};

/// The flags that make each form of a mount.
const FORMS: [(&str, &[&str]); 2] =
    [("models", &["--allow-other"]), ("one", &["--allow-other", "--no-passthrough"])];

/// A directory of the overlay, one of the view, and the one that may have a connection of its own.
const PLACES: [&str; 3] = ["own", "merged", "models"];

const PJDFSTEST: &str = include_str!("../pjdfstest.toml");

/// What needs another limit of links than the C library knows for FUSE.
const SKIPPED: &str = "link::link_count_max";
/// What mounts the filesystem read-only, and runs by itself.
const READ_ONLY: &str = "erofs";

/// Stressors that verify what they do. Not among them is what writes for its whole time, which the disk decides.
const STRESSORS: [&str; 24] = [
    "access", "chattr", "chdir", "chmod", "chown", "dentry", "dir", "dirdeep", "fcntl", "filename", "flock",
    "fpunch", "fstat", "getdent", "inotify", "link", "lockf", "lockofd", "mknod", "open", "rename",
    "symlink", "utime", "xattr",
];

fn root(program: &str) -> Result<std::path::PathBuf, Missing> {
    fuse()?;
    match geteuid().is_root() {
        true => tool(program),
        false => Err(Missing("root, to be other users and to make devices".to_owned())),
    }
}

/// Runs a suite in each place of each form.
fn everywhere(run: impl Fn(&TestEnvironment, &str, &Path)) {
    for (form, flags) in FORMS {
        let env = TestEnvironment::new();
        fs::set_permissions(env.root(), Permissions::from_mode(0o755)).expect("changing a mode");
        ingest(&env, "v", &[("merged/file", b"lower"), ("models/file", b"lower")]);
        let dir = mount(&env, "v", "m", flags);
        fs::create_dir(dir.join(PLACES[0])).expect("making a directory");
        for place in PLACES {
            run(&env, &format!("{form}, {place}"), &dir.join(place));
        }
        umount(&env, &dir);
        assert_objects_are_what_they_are_called(&env);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn pjdfstest_on_a_mount() {
    let Some(program) = available(root("pjdfstest")) else { return };
    everywhere(|env, place, dir| {
        let other = env.small_disk("other", 16 << 20).expect("a second filesystem");
        let configs = [false, true].map(|remount| {
            env.write(format!("{remount}.toml"), PJDFSTEST.replace("REMOUNT", &remount.to_string()))
        });
        // Helpers of FUSE filesystems would mount a second time; remounting is for the kernel alone.
        let mount = env.write("bin/mount", "#!/bin/sh\nexec /bin/mount --internal-only \"$@\"\n");
        fs::set_permissions(&mount, Permissions::from_mode(0o755)).expect("changing a mode");
        let run = |configure: &dyn Fn(&mut Command)| {
            let mut command = env.command(&program);
            command.env("PATH", format!("{}:/usr/bin:/bin", env.path("bin").display()));
            command.arg("-s").arg(&other);
            configure(&mut command);
            text(&command.output().expect("starting pjdfstest"))
        };
        let results = |text: &str, word: &str| -> BTreeSet<String> {
            let with_word = text.lines().filter_map(|line| line.strip_suffix(word));
            with_word.map(|name| name.trim().to_owned()).collect()
        };
        // The suite binds sockets, whose paths must be short.
        let most = run(&|command| {
            command.arg("-c").arg(&configs[0]).args(["-p", "/proc/self/cwd"]).current_dir(dir);
        });
        let rest = run(&|command| {
            command.arg("-c").arg(&configs[1]).arg("-p").arg(dir).arg(READ_ONLY);
        });
        for text in [&most, &rest] {
            assert_eq!(results(text, " FAILED"), BTreeSet::new(), "{place}\n{text}");
        }
        let mut skipped = results(&most, " skipped");
        skipped.retain(|name| !name.contains(READ_ONLY));
        assert_eq!(skipped, BTreeSet::from([SKIPPED.to_owned()]), "{place}\n{most}");
        assert!(most.contains("Summary: 0 failed, 14 skipped, 384 passed"), "{place}\n{most}");
        assert!(rest.contains("Summary: 0 failed, 0 skipped, 13 passed"), "{place}\n{rest}");
    });
}

#[test]
fn stress_ng_on_a_mount() {
    let Some(program) = available(root("stress-ng")) else { return };
    everywhere(|env, place, dir| {
        let work = dir.join("stress");
        fs::create_dir(&work).expect("making a directory");
        let mut command = env.command(&program);
        command.arg("--temp-path").arg(&work).args(["--verify", "--timeout", "2"]);
        for stressor in STRESSORS {
            command.args([&format!("--{stressor}"), "1"]);
        }
        let output = command.output().expect("starting stress-ng");
        let said = text(&output);
        assert!(output.status.success() && !said.contains("skipping"), "{place}: {}\n{said}", output.status);
        assert_eq!(fs::read_dir(&work).expect("listing a directory").count(), 0, "{place}: something stays");
    });
}
