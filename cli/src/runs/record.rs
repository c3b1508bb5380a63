//! What is known of runs, on disk: `CVS_HOME/run/ui/`.
//!
//! ```text
//! NAME.json   the record: what runs, who sees to it, where it is; replaced by renaming
//! NAME.lock   locked by whoever sees to the run, for as long as that process lives
//! ```
//!
//! NAME is the version's, with `~check` behind it for a check (`cvs validate --run`), which may stand beside a run. A
//! run whose lock can be taken, and whose supervisor is no living process, has been left behind. Only who holds the
//! lock writes or removes a record.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cvs_store::{ProcessId, Store};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::RunsError;
use super::options::RunOptions;

/// How long others may look at a lock that is to be taken.
const LOOKERS: Duration = Duration::from_millis(300);
/// Between two tries to take it.
const POLL: Duration = Duration::from_millis(5);

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// For a person with a browser.
    Ui,
    /// Kept warm for `cvs run-handler`.
    Handler,
    /// For `cvs serve`.
    Serve,
    /// For `cvs validate --run`.
    Check,
}

impl Role {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ui => "ui",
            Self::Handler => "handler",
            Self::Serve => "serve",
            Self::Check => "check",
        }
    }
}

/// How far a run is, by its supervisor's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub(crate) enum Phase {
    /// It does not answer yet.
    Starting,
    /// It has answered.
    Running,
    /// It was told to end.
    Stopping,
    /// It ended by itself, and everything of it is gone but this record and its log.
    Ended {
        /// The exit code; none when a signal ended it.
        code: Option<i32>,
        /// How it ended, in words.
        reason: String,
    },
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: String,
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    /// The process that sees to it.
    pub(crate) supervisor: ProcessId,
    /// False when it ends with the command that started it.
    pub(crate) detached: bool,
    /// The command for which another process sees to it, and which it ends with.
    #[serde(default)]
    pub(crate) tied_to: Option<u32>,
    /// ComfyUI, which leads a process group.
    pub(crate) comfy: Option<ProcessId>,
    /// `CVS_RUN` in the environment of everything that ComfyUI started.
    pub(crate) tag: String,
    pub(crate) url: Option<String>,
    pub(crate) view: String,
    /// Where it runs.
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) root: Option<PathBuf>,
    /// Where it is mounted for this run, if it is.
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) mount: Option<PathBuf>,
    /// Where it is realized for this run, if it is.
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) scratch: Option<PathBuf>,
    #[serde(with = "cvs_store::path_json")]
    pub(crate) log: PathBuf,
    /// Where in the log this run begins, in bytes.
    pub(crate) log_start: u64,
    /// Seconds since 1970.
    pub(crate) since: u64,
    pub(crate) options: RunOptions,
}

/// The name of a run's files.
pub(crate) fn name_of(version: &str, role: Role) -> String {
    match role {
        Role::Check => format!("{version}~check"),
        Role::Ui | Role::Handler | Role::Serve => version.to_owned(),
    }
}

/// All runs of a home.
pub(crate) struct Records {
    directory: PathBuf,
}

/// What is to be found under a name.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Somebody sees to it. There is no record while it begins or ends.
    Live(Option<Box<Record>>),
    /// It has ended by itself, or its supervisor has died. There is no record when it cannot be read.
    Left(Option<Box<Record>>),
}

impl Records {
    /// Those of the home of this store.
    pub(crate) fn of(store: &Store) -> Self {
        Self { directory: store.home().join("run/ui") }
    }

    /// Looks under a name.
    pub(crate) fn find(&self, name: &str) -> Result<Found, RunsError> {
        let path = self.path(name, "lock");
        let lock = match File::open(&path) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(RunsError::io("open", path)(error)),
        };
        // Shared, so that those who only look do not stand in each other's way.
        let locked = lock.is_some_and(|lock| {
            rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
        });
        let record = self.read(name)?.map(Box::new);
        Ok(match record {
            record if locked || record.as_deref().is_some_and(is_seen_to) => Found::Live(record),
            None if !self.path(name, "json").exists() => Found::Nothing,
            record => Found::Left(record),
        })
    }

    /// Takes the right to see to a run; none when somebody has it.
    pub(crate) fn hold(&self, name: &str) -> Result<Option<Held>, RunsError> {
        let deadline = Instant::now() + LOOKERS;
        loop {
            if let Some(held) = self.try_hold(name)? {
                return Ok(Some(held));
            }
            // It may be somebody who only looks.
            if self.read(name)?.is_some_and(|record| is_seen_to(&record)) || Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    fn try_hold(&self, name: &str) -> Result<Option<Held>, RunsError> {
        fs::create_dir_all(&self.directory).map_err(RunsError::io("create", &self.directory))?;
        let path = self.path(name, "lock");
        loop {
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let lock = lock.map_err(RunsError::io("open", &path))?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(RunsError::io("lock", &path)(errno.into())),
            }
            // Whoever ended while we opened it has taken the name away.
            if lock.metadata().map_err(RunsError::io("look at", &path))?.nlink() == 0 {
                continue;
            }
            // A lock says too little on a network filesystem.
            let seen_to = self.read(name)?.is_some_and(|record| is_seen_to(&record));
            let held = || Held { record: self.path(name, "json"), lock: path, _file: lock };
            return Ok((!seen_to).then(held));
        }
    }

    /// The record of a name.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Record>, RunsError> {
        let path = self.path(name, "json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Ok(Some(record)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "not a record of a run");
                    Ok(None)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RunsError::io("read", path)(error)),
        }
    }

    /// The names of all runs, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, RunsError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RunsError::io("list", &self.directory)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(RunsError::io("list", &self.directory))?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
            names.extend(stem.filter(|stem| !stem.starts_with('.')).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }
}

/// The right to see to a run. Dropping it gives it up; the record stays for others to find.
#[derive(Debug)]
pub(crate) struct Held {
    record: PathBuf,
    lock: PathBuf,
    /// Locked while this lives.
    _file: File,
}

impl Held {
    /// Writes the record.
    pub(crate) fn write(&self, record: &Record) -> Result<(), RunsError> {
        let bytes = serde_json::to_vec_pretty(record).unwrap_or_default();
        let temporary = hidden(&self.record);
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &self.record))
            .map_err(RunsError::io("write", &self.record))
    }

    /// Removes the record and gives up the lock.
    pub(crate) fn clear(self) -> Result<(), RunsError> {
        for path in [hidden(&self.record), self.record.clone(), self.lock.clone()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RunsError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether the process that sees to a run is there.
fn is_seen_to(record: &Record) -> bool {
    !matches!(record.phase, Phase::Ended { .. }) && record.supervisor.is_alive()
}

fn hidden(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}"))
}
