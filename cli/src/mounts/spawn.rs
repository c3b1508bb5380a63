//! Starting the daemon of a mount: this program again, in a session of its own, with its talk in a log file.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::MountsError;
use super::serve::READY;
use crate::logs;

/// A mount that a process of its own is to serve. Paths are absolute.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    pub(crate) home: &'a Path,
    pub(crate) versions_dir: PathBuf,
    pub(crate) version: &'a str,
    pub(crate) mountpoint: &'a Path,
    pub(crate) read_only: bool,
    pub(crate) ephemeral: bool,
    /// Where what is written goes, when that is not with the version.
    pub(crate) overlay: Option<PathBuf>,
    pub(crate) allow_other: bool,
    /// As many as are good when it is zero.
    pub(crate) threads: usize,
    /// `models/` may have a connection of its own.
    pub(crate) passthrough: bool,
    pub(crate) lenient: bool,
}

impl Daemon<'_> {
    /// Starts the daemon and waits until its mount can be used. The version's lock is up to date.
    pub(crate) fn start(&self) -> Result<(), MountsError> {
        let log = logs::path(self.home, &format!("mount-{}", self.version));
        launch(self.arguments(), &log, self.version)
    }

    /// The command line of the daemon: the foreground command, which asks nobody.
    fn arguments(&self) -> Vec<OsString> {
        let mut line: Vec<OsString> = ["--home".into(), self.home.into()].into();
        line.extend(["--versions-dir".into(), self.versions_dir.clone().into()]);
        line.extend(["--no-progress", "-v", "--color", "never", "mount"].map(OsString::from));
        line.extend([self.version.into(), self.mountpoint.into()]);
        line.extend(["--foreground", "--locked", "--offline"].map(OsString::from));
        for (flag, given) in [
            ("--lenient", self.lenient),
            ("--read-only", self.read_only),
            ("--ephemeral", self.ephemeral),
            ("--allow-other", self.allow_other),
            ("--no-passthrough", !self.passthrough),
        ] {
            if given {
                line.push(flag.into());
            }
        }
        if let Some(overlay) = &self.overlay {
            line.extend(["--overlay".into(), overlay.into()]);
        }
        line.extend(["--threads".into(), self.threads.to_string().into()]);
        line
    }
}

/// Starts a daemon, whose command line takes `--log FILE`, and waits until its mount can be used. `label` is what is
/// said to be mounted.
pub(crate) fn launch(arguments: Vec<OsString>, log: &Path, label: &str) -> Result<(), MountsError> {
    let file = logs::open(log).map_err(|(op, source)| MountsError::io(op, log)(source))?;
    let begin = file.metadata().map(|m| m.len()).unwrap_or(0);
    let program = std::env::current_exe().map_err(MountsError::io("find", "the program itself"))?;
    let mut child = Command::new(&program)
        .args(arguments)
        .arg("--log")
        .arg(log)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(MountsError::io("start", &program))?;
    let ready = child.stdout.take().is_some_and(|pipe| {
        let mut line = String::new();
        BufReader::new(pipe).read_line(&mut line).is_ok_and(|_| line.trim() == READY)
    });
    if ready {
        return Ok(());
    }
    // The pipe ended without the word: so did the daemon.
    let status = child.wait().map_err(MountsError::io("wait for", &program))?;
    logs::show_since(log, begin);
    Err(MountsError::DidNotStart { version: label.to_owned(), log: log.to_owned(), status })
}
