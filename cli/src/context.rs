//! What a command is given: where things are, how to talk, and when to stop.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use cvs_store::Store;
use cvs_versions::Workspace;
use cvs_versions::spec::VersionsDir;

use crate::args::GlobalArgs;
use crate::config::{self, Places};
use crate::error::CliError;
use crate::output::Output;
use crate::progress::Progress;

/// Between two looks at whether the person stopped the program instead of answering.
const ANSWER_POLL: Duration = Duration::from_millis(50);

/// One run of the program. The store is opened when it is first asked for.
pub(crate) struct Context {
    places: Places,
    output: Output,
    cancel: Arc<AtomicBool>,
    workspace: OnceCell<Workspace>,
}

impl Context {
    pub(crate) fn new(args: &GlobalArgs, output: Output, cancel: Arc<AtomicBool>) -> Result<Self, CliError> {
        Ok(Self { places: config::places(args)?, output, cancel, workspace: OnceCell::new() })
    }

    /// The home directory as it was named; it need not exist.
    pub(crate) fn home(&self) -> &Path {
        &self.places.home
    }

    /// Where data, talk and progress go.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    pub(crate) fn progress(&self) -> &Progress {
        self.output.progress()
    }

    /// Set when the person asked to stop.
    pub(crate) fn cancel(&self) -> &Arc<AtomicBool> {
        &self.cancel
    }

    /// Fails when the person asked to stop.
    pub(crate) fn check_cancel(&self) -> Result<(), CliError> {
        if self.cancel.load(Ordering::Relaxed) { Err(CliError::Interrupted) } else { Ok(()) }
    }

    /// Home, store and specs, made when there are none.
    pub(crate) fn workspace(&self) -> Result<&Workspace, CliError> {
        if let Some(workspace) = self.workspace.get() {
            return Ok(workspace);
        }
        let workspace = Workspace::open(self.home(), Some(self.versions_path()))?;
        Ok(self.workspace.get_or_init(|| workspace))
    }

    /// The store, made when there is none.
    pub(crate) fn store(&self) -> Result<&Store, CliError> {
        Ok(self.workspace()?.store())
    }

    /// The directory of specs.
    pub(crate) fn versions_dir(&self) -> VersionsDir {
        VersionsDir::new(self.versions_path())
    }

    fn versions_path(&self) -> PathBuf {
        self.places.versions.clone().unwrap_or_else(|| self.home().join("versions"))
    }

    /// Whether a person can be asked: both what is asked and the answer go through a terminal.
    pub(crate) fn can_ask(&self) -> bool {
        use std::io::IsTerminal;
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !self.output.is_json()
    }

    /// Asks a question that is answered by yes or no; no is the default.
    pub(crate) fn ask(&self, question: &str) -> Result<bool, CliError> {
        self.output.prompt(&format!("{question} [y/N] "));
        let (sender, answers) = mpsc::channel();
        // Reading goes on after a signal, so it has a thread of its own; that ends with the process.
        thread::spawn(move || {
            let mut answer = String::new();
            let read = std::io::stdin().read_line(&mut answer);
            // Nobody listens any more when the person has stopped the program.
            let _ = sender.send(read.map(|_| answer));
        });
        loop {
            match answers.recv_timeout(ANSWER_POLL) {
                Ok(answer) => {
                    let answer = answer.map_err(CliError::Stdin)?;
                    return Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if self.cancel.load(Ordering::Relaxed) {
                        self.output.prompt("\n");
                        return Err(CliError::Interrupted);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }
}
