//! What the tests of runs stand on: versions that the tests' Python runs, and what is left of a run.

use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::Duration;

use cvs_tests::{CvsCommand, Python, available, get, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cli_world::World;
use crate::mounted::fuse;

/// How long anything of a run may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A world in which versions can be run.
pub(crate) struct Runs {
    pub(crate) world: World,
    python: Python,
}

impl Runs {
    /// With what mounting and the core need, or a word why not.
    pub(crate) fn new() -> Option<Self> {
        let python = available(fuse().and_then(|()| Python::for_core()))?;
        Some(Self { world: World::new(), python })
    }

    /// A version with these nodes, run by the tests' Python.
    #[track_caller]
    pub(crate) fn create(&self, id: &str, nodes: &[&str]) {
        let python = format!("COMFY_PYTHON={}", self.python.program().display());
        let mut command = self.world.cvs(&["create", id, "--repo", &self.world.core("v0.2.0")]);
        command = command.args(["--env", &python, "--skip-python"]);
        for node in nodes {
            command = command.args(["--node", &self.world.git.url(node)]);
        }
        command.ok();
    }

    pub(crate) fn cvs(&self, args: &[&str]) -> CvsCommand {
        self.world.cvs(args)
    }

    /// Starts a command that goes on.
    #[track_caller]
    pub(crate) fn start(&self, args: &[&str]) -> Foreground {
        let mut command = self.world.cvs(args).into_command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Foreground::start(command)
    }

    /// What `cvs ps` says of a version.
    #[track_caller]
    pub(crate) fn ps(&self, id: &str) -> Option<Value> {
        let all = self.world.cvs(&["ps", "--json"]).ok().json();
        all.as_array().expect("a list").iter().find(|run| run["version"] == id).cloned()
    }

    /// Nothing is mounted, no process is left, and nothing is on record.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.world.env.mounts(), Vec::<PathBuf>::new());
        let processes = || self.world.env.processes();
        // A killed process may take a moment until its first one has waited for it.
        wait_until(LONG, "no process is left", || processes().is_empty());
        assert_eq!(self.world.cvs(&["ps", "--json"]).ok().json(), serde_json::json!([]));
        let left = |dir: &str| -> Vec<_> {
            let entries = std::fs::read_dir(self.world.env.home().join("run").join(dir));
            entries.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
        };
        assert_eq!(left("mnt"), Vec::<std::ffi::OsString>::new());
        assert_eq!(left("ui"), Vec::<std::ffi::OsString>::new());
    }
}

/// A pid out of JSON.
#[track_caller]
pub(crate) fn pid(value: &Value) -> Pid {
    let pid = value.as_i64().and_then(|pid| i32::try_from(pid).ok());
    Pid::from_raw(pid.unwrap_or_else(|| panic!("not a pid: {value}")))
}

/// Whether a ComfyUI answers at a URL.
#[track_caller]
pub(crate) fn assert_answers(url: &str) {
    assert_eq!(get(&format!("{url}/system_stats")).status, 200, "{url}");
}

/// A command that goes on until it is told to end.
pub(crate) struct Foreground {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// What comes out of a pipe, line by line.
struct Lines {
    seen: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Lines {
    fn of(pipe: impl std::io::Read + Send + 'static) -> Self {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let seen = std::sync::Arc::clone(&seen);
            let mut pipe = std::io::BufReader::new(pipe);
            move || {
                let mut line = String::new();
                while std::io::BufRead::read_line(&mut pipe, &mut line).is_ok_and(|n| n > 0) {
                    seen.lock().expect("nobody panics with it").push_str(&line);
                    line.clear();
                }
            }
        });
        Self { seen, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.seen.lock().expect("nobody panics with it").clone()
    }

    fn all(mut self) -> String {
        self.reader.take().expect("it is taken once").join().expect("reading a pipe");
        self.text()
    }
}

impl Foreground {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("starting cvs");
        let stdout: ChildStdout = child.stdout.take().expect("a pipe was asked for");
        let stderr: ChildStderr = child.stderr.take().expect("a pipe was asked for");
        Self { child, stdout: Lines::of(stdout), stderr: Lines::of(stderr) }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for the URL on stdout.
    #[track_caller]
    pub(crate) fn url(&mut self) -> String {
        wait_for(LONG, "run-ui prints the URL", || {
            let ended = self.child.try_wait().expect("asking for a child");
            let line = self.stdout.text().lines().next().map(str::to_owned);
            match ended.filter(|status| !status.success()) {
                Some(status) => panic!("run-ui ended: {status}\n{}", self.stderr.text()),
                None => line,
            }
        })
    }

    /// Waits until stderr holds a text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        wait_until(LONG, text, || self.stderr.text().contains(text));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signalling a child");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) {
        wait_for(LONG, "the command ends", || self.child.try_wait().expect("asking for a child"));
    }

    /// Waits for its end: its exit code, stdout and stderr.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String, String) {
        let status =
            wait_for(LONG, "the command ends", || self.child.try_wait().expect("asking for a child"));
        (status.code(), self.stdout.all(), self.stderr.all())
    }
}
