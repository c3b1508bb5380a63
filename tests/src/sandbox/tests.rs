//! A shell stands for cvs: what is tested here is the world around it.

use std::time::Duration;

use super::{CvsCommand, TestEnvironment};
use crate::{available, wait_until};

fn shell(environment: &TestEnvironment, script: &str) -> CvsCommand {
    environment.command_with_deadline("sh", ["-c", script])
}

#[test]
fn a_command_sees_only_its_own_world() {
    let environment = TestEnvironment::new();
    let output = shell(&environment, "env | cut -d= -f1 | sort | tr '\\n' ' '").ok();
    assert_eq!(
        output.stdout.trim_end(),
        "CIVITAI_ENDPOINT CVS_HOME CVS_SKIP_PYTHON GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM GIT_TERMINAL_PROMPT HF_ENDPOINT HOME LANG PATH PWD \
         RUST_BACKTRACE TMPDIR TZ XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR XDG_STATE_HOME"
    );
    let output = shell(&environment, "pwd; echo $CVS_HOME; echo talk >&2; cat").input("read").ok();
    assert_eq!(environment.redact(&output.stdout), "$TEST\n$TEST/cvs\nread");
    assert_eq!(output.stderr, "talk\n");
}

#[test]
fn exit_codes_are_told_apart() {
    let environment = TestEnvironment::new();
    assert_eq!(shell(&environment, "exit 3").code(3).code(), Some(3));
    assert_eq!(shell(&environment, "exit 1").fails().code(), Some(1));
    assert_eq!(shell(&environment, "kill -9 $$").output().code(), None);
    for script in ["exit 0", "exit 101", "kill -9 $$"] {
        let result = std::panic::catch_unwind(|| shell(&environment, script).fails());
        assert!(result.is_err(), "{script}");
    }
    let late = || shell(&environment, "exec sleep 600").deadline(Duration::from_millis(50)).output();
    assert!(std::panic::catch_unwind(late).is_err());
}

#[test]
fn daemons_are_not_waited_for_and_do_not_outlive_the_environment() {
    let environment = TestEnvironment::new();
    shell(&environment, "sleep 600 & echo $! > pid").deadline(Duration::from_secs(30)).ok();
    let pid = std::fs::read_to_string(environment.path("pid")).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    assert!(std::path::Path::new(&stat).exists());
    assert_eq!(environment.processes(), [pid.trim().parse::<u32>().unwrap()]);
    let root = environment.root().to_owned();
    drop(environment);
    wait_until(Duration::from_secs(10), "the daemon is dead", || {
        // Whoever inherits it may be slow to reap it.
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    });
    assert!(!root.exists());
}

#[test]
fn a_small_disk_fills_up_and_goes_with_the_environment() {
    let environment = TestEnvironment::new();
    let Some(disk) = available(environment.small_disk("small disk", 64 * 1024)) else { return };
    assert_eq!(environment.mounts(), [disk.as_path()]);
    let error = std::fs::write(disk.join("big"), vec![1; 128 * 1024]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    drop(environment);
    assert!(!disk.exists());
}
