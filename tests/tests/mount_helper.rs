//! `cvs debug overlay` as a helper of mount(8): what suites made for overlay filesystems run on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cvs_tests::{LET_GO, Missing, TestEnvironment, available};
use nix::unistd::geteuid;

use crate::mounted::fuse;

/// Root is needed for a mount namespace, in which the program can be in the path that mount.fuse3(8) looks into while
/// the machine's stays as it is.
fn helpers() -> Result<(), Missing> {
    fuse()?;
    if !geteuid().is_root() {
        return Err(Missing("root, to call mount".to_owned()));
    }
    match Path::new("/sbin/mount.fuse3").exists() && Path::new("/usr/local/sbin").is_dir() {
        true => Ok(()),
        false => Err(Missing("mount.fuse3, of Debian's package fuse3, and /usr/local/sbin".to_owned())),
    }
}

/// Puts the program where the helper finds it, then runs the lines of a script, in the environment's root.
fn script(env: &TestEnvironment, lines: &str) -> Result<String, String> {
    let program = env.cvs(["--version"]).into_command().get_program().to_owned();
    let prepare = "set -eu; mount -t tmpfs tmpfs /usr/local/sbin; ln -s \"$1\" /usr/local/sbin/cvs-overlay\n";
    let mut command: Command = env.command("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &format!("{LET_GO}{prepare}{lines}"),
        "sh",
    ]);
    let done = command.arg(program).current_dir(env.root()).stdin(Stdio::null()).output();
    let done = done.expect("starting unshare");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

const MOUNT: &str = "mount -t fuse.cvs-overlay none mnt -o lowerdir=lower,upperdir=upper,workdir=work";

#[test]
fn any_directory_is_mounted_over_another_and_again() {
    let Some(()) = available(helpers()) else { return };
    let env = TestEnvironment::new();
    for (path, bytes) in [("lower/dir/kept", "kept"), ("lower/dir/gone", "gone"), ("lower/file", "old\n")] {
        env.write(path, bytes);
    }
    env.write("upper/before", "there before");
    for dir in ["work", "mnt"] {
        fs::create_dir(env.path(dir)).expect("making a directory");
    }
    // The daemon's lock is free when it is gone.
    let lines = format!(
        "{MOUNT}\n\
         echo new >> mnt/file; rm mnt/dir/gone; mkdir mnt/made; echo inside > mnt/made/file\n\
         umount mnt; test ! -e mnt/file\n\
         {MOUNT},ro\n\
         touch mnt/refused 2>/dev/null && exit 1\n\
         umount mnt\n\
         {MOUNT}\n\
         findmnt -n -o FSTYPE,SOURCE mnt | tr -s ' '; cat mnt/file mnt/made/file; cd mnt; find . | sort; cd ..\n\
         umount mnt; flock work/overlay/lock true"
    );
    let seen = script(&env, &lines).unwrap_or_else(|error| panic!("{error}"));
    let expected = "fuse.cvs cvs:overlay\nold\nnew\ninside\n\
                    .\n./before\n./dir\n./dir/kept\n./file\n./made\n./made/file\n";
    assert_eq!(seen, expected);

    // What docs/overlay.md says of upper/: real names, and a whiteout, which hides an entry of the view.
    assert_eq!(fs::read_to_string(env.path("upper/file")).unwrap(), "old\nnew\n");
    assert_eq!(fs::metadata(env.path("upper/dir/gone")).unwrap().len(), 0);
    assert!(!env.path("upper/dir/kept").exists());
    assert_eq!(fs::read_to_string(env.path("lower/file")).unwrap(), "old\n");
}

#[test]
fn what_cannot_be_mounted_is_refused_with_a_word() {
    let Some(()) = available(helpers()) else { return };
    let env = TestEnvironment::new();
    for dir in ["lower", "upper", "other", "work", "mnt"] {
        fs::create_dir(env.path(dir)).expect("making a directory");
    }
    let cases = [
        (MOUNT.replace("lowerdir=lower,", ""), "-o lowerdir=DIR is missing"),
        (
            MOUNT.replace("=lower", "=lower:other"),
            "lowerdir names several directories; only one is supported",
        ),
        (MOUNT.replace("=upper", "=absent"), "cannot resolve absent: No such file or directory (os error 2)"),
        (format!("{MOUNT},index=on"), "there is no mount option 'index=on'"),
        (
            format!("{MOUNT}; umount mnt; {}", MOUNT.replace("=upper", "=other")),
            "workdir ROOT/work is that of another upperdir, ROOT/upper",
        ),
    ];
    for (lines, expected) in cases {
        let error = script(&env, &lines).expect_err(&lines);
        let root = env.root().canonicalize().expect("resolving the root");
        let error = error.replace(&root.display().to_string(), "ROOT");
        assert!(error.lines().any(|line| line == format!("error: {expected}")), "{lines}\n{error}");
    }
}
