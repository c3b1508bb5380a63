//! Running the suites' programs: to their end or to the end of our patience, several at once, with all that they
//! print kept in the log directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing, Failure, Outcome};
use crate::lab::Lab;
use crate::shell;

/// What a program that was killed has to be gone by. One that is not hangs in the filesystem.
const GRACE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A program to run.
pub(super) struct Job {
    /// The name of its log.
    pub(super) log: String,
    pub(super) command: Command,
    /// How long it may take before the filesystem is taken to hang.
    pub(super) patience: Duration,
}

/// What a program did.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

pub(super) fn log_dir(lab: &Lab) -> PathBuf {
    lab.dir().join("log")
}

/// Runs one program. That it fails is no failure here; that it cannot be started or does not end is one.
pub(super) fn finish(lab: &Lab, job: Job) -> Outcome<Finished> {
    let Job { log, mut command, patience } = job;
    let path = |ending: &str| log_dir(lab).join(format!("{}.{ending}", log.replace([' ', ',', '/'], "-")));
    let (out, err) = (path("log"), path("err"));
    for path in [&out, &err] {
        let file = File::create(path).doing(|| format!("making {}", path.display()))?;
        match path == &out {
            true => command.stdout(file),
            false => command.stderr(file),
        };
    }
    let shown = shell::shown(&command);
    let mut child = command.spawn().doing(|| format!("starting `{shown}`"))?;
    let begin = Instant::now();
    let mut killed = false;
    let status = loop {
        if let Some(status) = child.try_wait().doing(|| format!("waiting for `{shown}`"))? {
            break status;
        }
        if begin.elapsed() > patience && !killed {
            child.kill().doing(|| format!("killing `{shown}`"))?;
            killed = true;
        }
        if begin.elapsed() > patience + GRACE {
            return Err(Failure::new(format!("`{shown}` cannot be killed: the filesystem hangs")));
        }
        thread::sleep(POLL);
    };
    let read = |path: &Path| fs::read(path).doing(|| format!("reading {}", path.display()));
    let text = |path: &Path| read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Finished { status, stdout: text(&out)?, stderr: text(&err)? })
}

/// Runs programs, `width` at once, and returns what they did in their order.
pub(super) fn finish_all(lab: &Lab, width: usize, jobs: Vec<Job>) -> Outcome<Vec<Finished>> {
    let results: Vec<Mutex<Option<Outcome<Finished>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| {
                while let Some((at, job)) = next() {
                    let done = finish(lab, job);
                    if let Some(Ok(mut slot)) = results.get(at).map(Mutex::lock) {
                        *slot = Some(done);
                    }
                }
            });
        }
    });
    let lost = || Err(Failure::new("a program was not run: a thread broke down".to_owned()));
    results.into_iter().map(|slot| slot.into_inner().ok().flatten().unwrap_or_else(lost)).collect()
}
