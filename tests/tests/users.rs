//! Mounts and users who are not root: somebody else's, and their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use cvs_tests::{Missing, TestEnvironment, available};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};

use crate::mounted::{fuse, ingest, kill_and_wait, mount};
use crate::ordinary::{ANOTHER, NOBODY, Ordinary, open_to_all, program, succeeds};

/// A small version, `v`.
fn ingest_small(env: &TestEnvironment) {
    ingest(env, "v", &[("file", b"below"), ("dir/other", b"other")]);
}

#[test]
fn others_use_it_when_they_are_let() {
    let root =
        if geteuid().is_root() { Ok(()) } else { Err(Missing("root, to be somebody else".to_owned())) };
    let env = TestEnvironment::new();
    let ready = root.and_then(|()| fuse()).and_then(|()| program("setpriv"));
    let Some(()) = available(ready) else { return };
    open_to_all(&env);
    // The mount is made by root, so that it does not matter who may open /dev/fuse.
    let other = Ordinary::in_this_namespace(NOBODY);
    ingest_small(&env);
    let alone = mount(&env, "v", "alone", &["--read-only"]);
    let output = other.run(&env, "cat", &["mnt/alone/file"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    assert!(alone.join("file").exists());

    let shared = mount(&env, "v", "shared", &["--allow-other"]);
    assert_eq!(succeeds(&other.run(&env, "cat", &["mnt/shared/file"])), "below");
    // The modes count: it is not theirs.
    assert!(!other.run(&env, "touch", &["mnt/shared/file"]).status.success());
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("changing a mode");
    succeeds(&other.run(&env, "touch", &["mnt/shared/theirs"]));
    let theirs = fs::metadata(shared.join("theirs")).expect("looking at a file");
    assert_eq!((theirs.uid(), theirs.gid()), (NOBODY, NOBODY));
}

#[test]
fn an_ordinary_user_mounts() {
    let mut env = TestEnvironment::new();
    let ordinary = program("fusermount3").and_then(|()| Ordinary::new(&env));
    let Some(ordinary) = available(ordinary) else { return };
    ordinary.settle(&mut env);
    env.write("source/file", "below");
    env.write("source/dir/other", "other");
    env.write("source/gone", "to be removed");
    let cvs = |args: &[&str]| ordinary.cvs(&env, args);
    let shell = |script: &str| ordinary.run(&env, "sh", &["-euc", script]);

    succeeds(&cvs(&["debug", "ingest", "source", "--as", "v"]));
    succeeds(&cvs(&["mount", "v", "theirs/mnt"]));
    assert_eq!(succeeds(&shell("cat theirs/mnt/file")), "below");
    succeeds(&shell(
        "cd theirs/mnt; echo changed > file; mkdir new; mv dir new/; ln file linked; chmod 400 file; rm gone
        umask 077; echo private > private; chmod 0 private; setfattr -n user.note -v kept new",
    ));
    assert!(succeeds(&cvs(&["mounts"])).contains("mounted"));
    // It is nobody else's, not even root's.
    if geteuid().is_root() {
        for uid in [ANOTHER, 0] {
            let output = ordinary.run_as(uid, &env, "cat", &["theirs/mnt/file"]);
            assert!(
                String::from_utf8_lossy(&output.stderr).contains("Permission denied"),
                "{uid}: {output:?}"
            );
        }
    }
    let shown = "cd theirs/mnt; cat linked new/dir/other; stat -c '%n %a %h' file private new; ls
        getfattr --only-values -n user.note new";
    let before = succeeds(&shell(shown));
    let modes = "changed\notherfile 400 2\nprivate 0 1\nnew 755 3\nfile\nlinked\nnew\nprivate\nkept";
    assert_eq!(before, modes);
    succeeds(&cvs(&["umount", "theirs/mnt"]));
    assert_eq!(succeeds(&shell("ls theirs/mnt")), "");
    succeeds(&cvs(&["mount", "v", "theirs/mnt"]));
    assert_eq!(succeeds(&shell(shown)), before);

    // A dead mount of theirs is theirs to clear.
    let mounts = succeeds(&cvs(&["mounts", "--json"]));
    let mounts: serde_json::Value = serde_json::from_str(&mounts).expect("JSON");
    let pid = mounts[0]["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("a pid");
    kill_and_wait(Pid::from_raw(pid), Signal::SIGKILL);
    assert!(succeeds(&cvs(&["mounts"])).contains("dead"));
    succeeds(&cvs(&["mount", "v", "theirs/mnt"]));
    assert_eq!(succeeds(&shell(shown)), before);
    succeeds(&cvs(&["umount", "v"]));
    succeeds(&cvs(&["fsck"]));
}

/// Whether an ordinary user may let others in is said by `/etc/fuse.conf`, of which they see one of their own here.
#[test]
fn an_ordinary_user_lets_others_in_where_fuse_conf_allows_it() {
    for (line, allowed) in [("# user_allow_other", false), ("user_allow_other", true)] {
        let mut env = TestEnvironment::new();
        let root =
            if geteuid().is_root() { Ok(()) } else { Err(Missing("root, to be somebody else".to_owned())) };
        let ready = root.and_then(|()| fuse()).and_then(|()| program("fusermount3"));
        let conf = format!("echo '{line}' > fuse.conf; mount --bind fuse.conf /etc/fuse.conf;");
        let Some(ordinary) = available(ready.and_then(|()| Ordinary::in_namespace(&env, &conf))) else {
            return;
        };
        open_to_all(&env);
        ordinary.settle(&mut env);
        env.write("source/file", "below");
        succeeds(&ordinary.cvs(&env, &["debug", "ingest", "source", "--as", "v"]));
        let mounted = ordinary.cvs(&env, &["mount", "v", "theirs/mnt", "--allow-other"]);
        if !allowed {
            let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
            assert!(!mounted.status.success() && said.contains("user_allow_other"), "{said}");
            continue;
        }
        succeeds(&mounted);
        for uid in [ANOTHER, 0] {
            assert_eq!(succeeds(&ordinary.run_as(uid, &env, "cat", &["theirs/mnt/file"])), "below");
        }
        let written = ordinary.run_as(ANOTHER, &env, "touch", &["theirs/mnt/file"]);
        assert!(!written.status.success(), "it is not theirs");
        succeeds(&ordinary.cvs(&env, &["umount", "v"]));
    }
}
