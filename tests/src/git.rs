//! The `git` program, cut off from the person's configuration, with a fixed author and a clock of its own: the same
//! steps give the same commit ids on every machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// 2025-01-01T00:00:00Z; every commit comes one minute after the one before.
const EPOCH: u64 = 1_735_689_600;

/// A runner of git commands with one clock.
#[derive(Debug, Default)]
pub struct Git {
    commits: AtomicU64,
}

impl Git {
    /// A runner whose clock stands at the start.
    pub fn new() -> Self {
        Git::default()
    }

    /// A git command in `dir`, hermetic, not yet run.
    pub fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new("git");
        isolate(&mut command);
        let now = format!("{} +0000", EPOCH + 60 * self.commits.load(Ordering::Relaxed));
        command.env("GIT_AUTHOR_DATE", &now).env("GIT_COMMITTER_DATE", &now);
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A Tester");
            command.env(format!("GIT_{who}_EMAIL"), "tester@example.com");
        }
        for setting in [
            "init.defaultBranch=master",
            "protocol.file.allow=always",
            "advice.detachedHead=false",
            "gc.auto=0",
        ] {
            command.args(["-c", setting]);
        }
        command.current_dir(dir);
        command
    }

    /// Runs a command and returns what it prints, without the last newline; panics when it fails.
    #[track_caller]
    pub fn run(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.command(dir).args(args).stdin(Stdio::null()).output().expect("starting git");
        assert!(
            output.status.success(),
            "git {args:?} in {}: {}\n{}",
            dir.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let mut text = String::from_utf8(output.stdout).expect("git prints UTF-8 here");
        text.truncate(text.trim_end_matches('\n').len());
        text
    }

    /// Commits what is staged, moves the clock, and returns the new commit's id.
    #[track_caller]
    pub fn commit(&self, dir: &Path, message: &str) -> String {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.run(dir, &["commit", "-q", "-m", message]);
        self.run(dir, &["rev-parse", "HEAD"])
    }
}

/// Takes away every variable and every file that would let a git program see the person's settings.
pub(crate) fn isolate(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TEMPLATE_DIR", "")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C");
}
