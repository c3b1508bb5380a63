//! A checkout of our ComfyUI, and launches of it.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cvs_tests::{Python, Repositories, SubmoduleUrl, available};
use cvs_versions::comfy::{Directories, Flags, Launch, RunError, Server};
use tempfile::TempDir;

/// A checkout at v0.2.0 and its flags.
pub(crate) struct World {
    pub(crate) root: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) flags: Flags,
    pub(crate) dir: TempDir,
}

/// What differs from an ordinary start.
pub(crate) struct Given<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) args: &'a [&'a str],
    pub(crate) directories: Directories,
    pub(crate) env: &'a [(&'a str, &'a str)],
    pub(crate) timeout: Duration,
    pub(crate) cancel: &'a AtomicBool,
}

pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

impl Default for Given<'_> {
    fn default() -> Self {
        Given {
            host: "127.0.0.1",
            port: 0,
            args: &[],
            directories: Directories::default(),
            env: &[],
            timeout: Duration::from_secs(120),
            cancel: &NEVER,
        }
    }
}

impl World {
    /// `None`, with a word, where there is no Python.
    pub(crate) fn new(nodes: &[&str]) -> Option<World> {
        let python = available(Python::for_core())?.program();
        let dir = tempfile::tempdir().unwrap();
        let repositories = Repositories::build(&dir.path().join("git"), &SubmoduleUrl::Relative);
        let root = dir.path().canonicalize().unwrap().join("ComfyUI");
        repositories.check_out(&root, "v0.2.0", nodes);
        let flags = Flags::probe(&python, &root, &[]).unwrap();
        Some(World { root, python, log: dir.path().join("log/comfyui.log"), flags, dir })
    }

    /// Calls `act` with the launch that `given` describes.
    pub(crate) fn with<T>(&self, given: &Given<'_>, act: impl FnOnce(&Launch<'_>) -> T) -> T {
        let mut args = vec!["--cpu".to_owned()];
        args.extend(given.args.iter().map(|arg| (*arg).to_owned()));
        let env: Vec<(String, String)> =
            given.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        act(&Launch {
            root: &self.root,
            python: &self.python,
            wrapper: &[],
            host: given.host,
            port: given.port,
            args: &args,
            directories: &given.directories,
            env: &env,
            log: &self.log,
            flags: &self.flags,
            startup_timeout: given.timeout,
            cancel: given.cancel,
        })
    }

    pub(crate) fn start(&self, given: &Given<'_>) -> Result<Server, RunError> {
        self.with(given, |launch| launch.start(&|_| {}))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Adds a custom node of one file.
    pub(crate) fn add_node(&self, name: &str, source: &str) {
        std::fs::write(self.root.join("custom_nodes").join(name), source).unwrap();
    }

    /// Puts lines at the beginning of main.py.
    pub(crate) fn patch_main(&self, lines: &str) {
        let path = self.root.join("main.py");
        let main = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{lines}\n{main}")).unwrap();
    }
}

/// Whether there is such a process, and it is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}
