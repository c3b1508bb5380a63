//! Finding uv and running it: under our home, without the person's settings, and so that it can be stopped.
//!
//! uv runs in a process group of its own. A Ctrl-C at the terminal does not reach it; who is told of that sets the
//! cancel flag, and the whole group, builds of packages included, is ended.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::error::PythonError;
use super::event::{PythonEvent, PythonOptions};

/// The oldest uv that knows all that is asked of it.
pub const MINIMUM: (u32, u32, u32) = (0, 9, 0);

/// How soon a cancelled run is noticed.
const TICK: Duration = Duration::from_millis(50);
/// What a cancelled process group has left to end by itself.
const GRACE: Duration = Duration::from_secs(3);
/// Lines of output that are kept for an error.
const KEPT_LINES: usize = 400;

/// Settings of the person that say how the network is reached; all other settings of uv and pip are left behind.
const KEPT: [&str; 13] = [
    "UV_KEYRING_PROVIDER",
    "UV_CREDENTIALS_DIR",
    "UV_SYSTEM_CERTS",
    "UV_NATIVE_TLS",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_CONCURRENT_BUILDS",
    "UV_CONCURRENT_INSTALLS",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
];

/// A uv that is new enough, and the home it works in.
#[derive(Debug, Clone)]
pub struct Uv {
    program: PathBuf,
    version: String,
    state: PathBuf,
}

/// What a run of uv came to.
pub(super) struct Run {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    /// The last lines of stderr.
    pub(super) stderr: String,
}

impl Uv {
    /// The uv at `explicit`, else at `$CVS_UV`, else in the directories of `$PATH`. It keeps its cache, and interpreters
    /// that it downloads, in `home/uv`.
    ///
    /// # Errors
    /// [`PythonError::UvMissing`], [`PythonError::UvTooOld`].
    pub fn find(explicit: Option<&Path>, home: &Path) -> Result<Self, PythonError> {
        let named = || std::env::var_os("CVS_UV").filter(|name| !name.is_empty()).map(PathBuf::from);
        let looked = explicit.map(Path::to_owned).or_else(named).unwrap_or_else(|| PathBuf::from("uv"));
        let missing = || PythonError::UvMissing { looked: looked.clone() };
        let program = if looked.components().count() > 1 {
            std::path::absolute(&looked).map_err(|_| missing())?
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&path).map(|directory| directory.join(&looked));
            places.find(|place| place.is_file()).ok_or_else(missing)?
        };
        let asked = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        let said = asked.ok().filter(|output| output.status.success()).ok_or_else(missing)?.stdout;
        let said = String::from_utf8_lossy(&said);
        let version = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
        if parse(&version).is_none_or(|found| found < MINIMUM) {
            let (major, minor, patch) = MINIMUM;
            let minimum = format!("{major}.{minor}.{patch}");
            return Err(PythonError::UvTooOld { program, found: version, minimum });
        }
        Ok(Self { program, version, state: home.join("uv") })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its version, `0.13.9`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The directory that it keeps everything in.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A command of uv that works in `directory` and knows nothing of the person's projects and settings.
    pub(super) fn command(&self, directory: &Path, offline: bool) -> Command {
        let mut command = Command::new(&self.program);
        self.isolate(&mut command);
        command
            .current_dir(directory)
            .env("UV_CACHE_DIR", self.state.join("cache"))
            .env("UV_PYTHON_INSTALL_DIR", self.state.join("python"))
            .env("UV_NO_CONFIG", "1")
            .env("UV_NO_PROGRESS", "1")
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("UV_NO_SOURCES", "1")
            .env("UV_LINK_MODE", "hardlink")
            // Packages that are built here come out the same tomorrow, as far as their build lets them.
            .env("SOURCE_DATE_EPOCH", "1577836800")
            .env("PYTHONHASHSEED", "0")
            .env("NO_COLOR", "1");
        if offline {
            command.env("UV_OFFLINE", "1");
        }
        command
    }

    /// Takes away what would change the outcome: settings of uv, pip and Python, and a virtual environment that is active.
    fn isolate(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let Some(text) = name.to_str() else { continue };
            let foreign = ["UV_", "PIP_", "PYTHON", "CONDA"].iter().any(|prefix| text.starts_with(prefix))
                || text == "VIRTUAL_ENV";
            let credentials =
                text.starts_with("UV_INDEX_") && (text.ends_with("_USERNAME") || text.ends_with("_PASSWORD"));
            if foreign && !credentials && !KEPT.contains(&text) {
                command.env_remove(&name);
            }
        }
    }

    /// Runs `command` to its end. An exit with a failure is not an error here.
    pub(super) fn run(
        &self,
        operation: &'static str,
        command: &mut Command,
        options: &PythonOptions<'_>,
    ) -> Result<Run, PythonError> {
        options.check_cancel()?;
        // Not the command itself: it would be shown with its environment, and that with the passwords of indexes.
        let arguments: Vec<_> = command.get_args().collect();
        tracing::debug!(?arguments, "running uv");
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| PythonError::io("start", &self.program, source))?;
        let mut group = Group { child, ended: false };
        let stdout = group.child.stdout.take();
        let stdout = std::thread::spawn(move || {
            let mut text = Vec::new();
            stdout.map(|mut pipe| pipe.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        let (send, lines) = mpsc::channel();
        let stderr = group.child.stderr.take();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(stderr?);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                send.send(text).ok()?;
            }
            Some(())
        });
        let mut kept = std::collections::VecDeque::new();
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => {
                    options.event(PythonEvent::Uv { line: &line });
                    kept.push_back(line);
                    if kept.len() > KEPT_LINES {
                        kept.pop_front();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            options.check_cancel()?;
        }
        let status = loop {
            options.check_cancel()?;
            match group.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => std::thread::park_timeout(Duration::from_millis(1)),
                Err(source) => return Err(PythonError::io("wait for", &self.program, source)),
            }
        };
        group.ended = true;
        let stdout = stdout.join().unwrap_or_default();
        let stderr = Vec::from(kept).join("\n");
        tracing::debug!(operation, %status, "uv ended");
        Ok(Run { status, stdout, stderr })
    }
}

/// A process and all that it started; dropped before its end, they are ended.
struct Group {
    child: Child,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        let _ = kill_process_group(group, Signal::TERM);
        let until = Instant::now() + GRACE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = version.split('.').map(|part| {
        let digits = part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().ok()
    });
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            ("0.13.9", Some((0, 13, 9))),
            ("0.9.0-alpha.1", Some((0, 9, 0))),
            ("1.0", Some((1, 0, 0))),
            ("", None),
            ("uv", None),
        ] {
            assert_eq!(parse(text), version, "{text}");
        }
    }
}
