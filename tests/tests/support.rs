//! What several modules need.

use std::path::{Path, PathBuf};

use cvs_tests::{ComfyProcess, Launch, Python, Repositories, SubmoduleUrl, available, safetensors};
use tempfile::TempDir;

/// A plain checkout of the core and some nodes, with a Python environment; no cvs is part of it.
pub(crate) struct Checkout {
    pub(crate) dir: PathBuf,
    pub(crate) python: Python,
    temporary: TempDir,
}

impl Checkout {
    /// At v0.2.0; `None`, with a word, where there is no Python environment.
    #[track_caller]
    pub(crate) fn new(nodes: &[&str]) -> Option<Checkout> {
        Checkout::with_python(nodes, available(Python::for_core())?)
    }

    #[track_caller]
    pub(crate) fn with_python(nodes: &[&str], python: Python) -> Option<Checkout> {
        let temporary = tempfile::tempdir().expect("making a temporary directory");
        let repositories = Repositories::build(&temporary.path().join("git"), &SubmoduleUrl::Relative);
        let root = temporary.path().canonicalize().expect("the real path of a directory just made");
        let dir = root.join("ComfyUI");
        repositories.check_out(&dir, "v0.2.0", nodes);
        Some(Checkout { dir, python, temporary })
    }

    /// Puts a small model into `models/checkpoints`.
    pub(crate) fn add_checkpoint(&self, name: &str, seed: u64) {
        let path = self.dir.join("models/checkpoints").join(name);
        std::fs::write(path, safetensors(seed, 5000)).expect("writing a model");
    }

    pub(crate) fn launch<'a>(&'a self, args: &'a [&'a str]) -> Launch<'a> {
        Launch { python: &self.python, dir: &self.dir, args, log: self.temporary.path().join("log") }
    }

    pub(crate) fn start(&self, args: &[&str]) -> ComfyProcess {
        self.launch(args).start()
    }

    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }
}

/// The lines of a log that hold one of the words, times cut off and the directory shown as `$DIR`.
pub(crate) fn lines_with(log: &str, dir: &Path, words: &[&str]) -> Vec<String> {
    let dir = dir.to_str().expect("temporary directories are UTF-8");
    log.lines()
        .filter(|line| words.iter().any(|word| line.contains(word)))
        .map(|line| {
            line.replace(dir, "$DIR").trim_start_matches([' ', '.', '0', '1', '2', '3', '4', '5']).to_owned()
        })
        .collect()
}
