//! A headless browser: a page loaded as a person's would be, its scripts run, and the document that comes of it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Missing;
use crate::wait::wait_for;

/// Chromium or Google Chrome, with a profile of its own that goes with this value.
pub struct Browser {
    program: PathBuf,
    profile: TempDir,
}

impl Browser {
    /// The one that is installed.
    pub fn find() -> Result<Browser, Missing> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program =
            ["chromium", "google-chrome", "google-chrome-stable", "chrome"].into_iter().find_map(|name| {
                std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
            });
        let program =
            program.ok_or_else(|| Missing("a browser (`cargo xtask setup` brings Chromium)".to_owned()))?;
        Ok(Browser { program, profile: tempfile::tempdir().expect("making a temporary directory") })
    }

    /// Loads a page until its document holds all these words, and returns the document; panics with the last one when
    /// they are not there in time.
    #[track_caller]
    pub fn load(&self, url: &str, words: &[&str], deadline: Duration) -> String {
        let end = Instant::now() + deadline;
        let mut last = String::new();
        wait_for(deadline + Duration::from_secs(30), &format!("{url} shows {words:?}"), || {
            // The page gets a few seconds of its own time; what a busy machine does not manage in them, the next load
            // may.
            last = self.document(url);
            let is_there = words.iter().all(|word| last.contains(word));
            assert!(is_there || Instant::now() < end, "{url} does not show {words:?} but\n{last}");
            is_there.then_some(())
        });
        last
    }

    fn document(&self, url: &str) -> String {
        let mut command = Command::new(&self.program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
        ]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
        command.args(["--disable-sync", "--disable-extensions", "--no-proxy-server"]);
        command.arg(format!("--user-data-dir={}", self.profile.path().display()));
        command.args(["--virtual-time-budget=5000", "--dump-dom", url]);
        // Its own messages are about desktops that are not there.
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("starting {}: {error}", self.program.display()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
