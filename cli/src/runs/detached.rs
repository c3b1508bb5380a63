//! A run that goes on without its command: a supervisor, which is this program again in a session of its own.
//!
//! The supervisor says one line of JSON on its standard output, [`Word`]: that the server answers, or why it does not.
//! Its talk is in `CVS_HOME/run/log/run-NAME.log`.
//!
//! A server that is tied to one command may be used by others meanwhile: each user holds a shared lock on the run's log,
//! and the supervisor that is to end takes the exclusive one first. Whoever cannot get a shared one comes too late.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use cvs_versions::Ready;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::RunsError;
use super::options::RunOptions;
use super::place::{self, PlaceArgs};
use super::record::{Found, Phase, Record, Records, name_of};
use super::supervise::already_runs;
use crate::context::Context;
use crate::error::{self, CliError, Exit};
use crate::logs;

/// Between two looks at whether the person wants it no more.
const POLL: Duration = Duration::from_millis(20);

/// How long a supervisor may take to write down that what it sees to has ended.
const WORD_OF_END: Duration = Duration::from_secs(5);

/// What a supervisor says to who started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// The server answers.
    Ready(Box<Record>),
    /// It does not, and nothing is left of it.
    Failed { message: String, hint: Option<String>, exit: u8 },
}

/// A running version.
pub(crate) struct Running {
    /// What is known of it.
    pub(crate) record: Record,
    /// Whether it ran before.
    pub(crate) was_warm: bool,
    /// The supervisor ends when its end of this pipe is the last one.
    tie: Option<(Child, ChildStdin)>,
    /// The log, locked against the end of the run.
    users: Option<File>,
}

impl Running {
    /// Where it answers.
    pub(crate) fn url(&self) -> &str {
        self.record.url.as_deref().unwrap_or_default()
    }

    /// Why it ended, when it has ended by itself. To be asked when it is gone: its supervisor may hear of that a moment
    /// later, and is given that moment.
    pub(crate) fn reason_of_end(&self, context: &Context) -> Option<String> {
        let records = Records::of(context.store().ok()?);
        let name = name_of(&self.record.version, self.record.role);
        let deadline = Instant::now() + WORD_OF_END;
        loop {
            match records.find(&name).ok()? {
                Found::Left(Some(record)) | Found::Live(Some(record)) => {
                    if let Phase::Ended { reason, .. } = record.phase {
                        return Some(reason);
                    }
                }
                Found::Live(None) | Found::Left(None) | Found::Nothing => return None,
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Ends it, when it is tied to this process, and waits until everything of it is gone; else leaves it running.
    /// Dropping it ends it likewise, without waiting.
    pub(crate) fn release(self) -> Result<(), CliError> {
        let Self { record, tie, users, .. } = self;
        drop(users);
        if let Some((mut supervisor, tie)) = tie {
            let others = File::open(&record.log)
                .is_ok_and(|log| matches!(log.try_lock(), Err(TryLockError::WouldBlock)));
            drop(tie);
            // The last of the others is the one that it ends with.
            if !others {
                supervisor.wait().map_err(RunsError::io("wait for the supervisor of", record.log))?;
            }
        }
        Ok(())
    }
}

/// How a running version is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It goes on when this process ends, for the next one.
    Warm,
    /// It ends with this process.
    Tied,
}

/// A running server of the version: the one that runs, or a new one. One that runs is taken as it is, whatever it was
/// started for, if it shows this view; one that is tied to another command goes on until its last user is done.
pub(crate) fn acquire(
    context: &Context,
    ready: &Ready,
    options: &RunOptions,
    keep: Keep,
) -> Result<Running, CliError> {
    let records = Records::of(context.store()?);
    let version = ready.spec.version_id.as_str();
    let name = name_of(version, options.role);
    loop {
        match records.find(&name)? {
            Found::Live(Some(record)) if record.phase == Phase::Running => {
                if record.view != ready.view_id.to_hex() {
                    return Err(RunsError::OldRun { version: version.to_owned() }.into());
                }
                // Else it is about to end.
                if let Some(users) = use_log(&record.log) {
                    return Ok(Running { record: *record, was_warm: true, tie: None, users: Some(users) });
                }
                context.check_cancel()?;
                thread::sleep(POLL);
            }
            // It is about to answer, or to end.
            Found::Live(_) => {
                context.check_cancel()?;
                thread::sleep(POLL);
            }
            Found::Nothing | Found::Left(_) => match start(context, ready, options, keep) {
                // Somebody was faster.
                Err(CliError::Runs(RunsError::Supervisor { exit: Exit::Busy, .. }))
                    if matches!(records.find(&name)?, Found::Live(_)) => {}
                done => return done,
            },
        }
    }
}

/// Fails when the version runs.
pub(crate) fn check_free(context: &Context, version: &str, options: &RunOptions) -> Result<(), CliError> {
    match Records::of(context.store()?).find(&name_of(version, options.role))? {
        Found::Live(record) => Err(already_runs(version, record.as_deref()).into()),
        Found::Nothing | Found::Left(_) => Ok(()),
    }
}

/// Starts a supervisor and waits until its server answers. The version's lock is up to date.
pub(crate) fn start(
    context: &Context,
    ready: &Ready,
    options: &RunOptions,
    keep: Keep,
) -> Result<Running, CliError> {
    let workspace = context.workspace()?;
    let id = &ready.spec.version_id;
    let RunOptions { role, ephemeral, no_fuse, lenient, .. } = *options;
    place::prepare(context, ready, &PlaceArgs { role, ephemeral, no_fuse, lenient })?;
    let path = logs::path(workspace.store().home(), &format!("run-{}", name_of(id.as_str(), options.role)));
    let log = logs::open(&path).map_err(|(op, source)| RunsError::io(op, &path)(source))?;
    let program = std::env::current_exe().map_err(RunsError::io("find", "the program itself"))?;
    let mut command = Command::new(&program);
    command.arg("--home").arg(workspace.store().home()).arg("--versions-dir");
    command.arg(std::path::absolute(workspace.versions().path()).map_err(CliError::WorkingDirectory)?);
    command.args(["--no-progress", "--color", "never"]);
    let mut arguments = options.arguments(id);
    // What stands behind `--` is ComfyUI's.
    arguments.insert(2, if keep == Keep::Tied { "--supervisor=tied" } else { "--supervisor=free" }.into());
    command.args(arguments).current_dir("/").stdout(Stdio::piped()).stderr(log);
    command.stdin(if keep == Keep::Tied { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(RunsError::io("start", &program))?;
    let word = hear(context, &mut child)?;
    match word {
        Some(Word::Ready(record)) => {
            let tie = child.stdin.take();
            let tie = tie.map(|tie| (child, tie));
            let users = use_log(&record.log);
            Ok(Running { record: *record, was_warm: false, tie, users })
        }
        word => {
            let status = child.wait().map_err(RunsError::io("wait for", &program))?;
            context.check_cancel()?;
            Err(match word {
                Some(Word::Failed { message, hint, exit }) => {
                    RunsError::Supervisor { message, hint, exit: Exit::of_code(exit) }
                }
                _ => {
                    let (version, status) = (id.to_string(), status.to_string());
                    RunsError::SupervisorEnded { version, status, log: path }
                }
            }
            .into())
        }
    }
}

/// Waits for the supervisor's word; none when it ended without one. When the person asks to stop, it is told so.
fn hear(context: &Context, child: &mut Child) -> Result<Option<Word>, CliError> {
    let (sender, words) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(pipe).read_line(&mut line);
            let _ = sender.send(read.ok().and_then(|_| serde_json::from_str(&line).ok()));
        });
    }
    let mut told = false;
    loop {
        match words.recv_timeout(POLL) {
            Ok(word) => return Ok(word),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                if context.cancel().load(Ordering::Relaxed) && !told {
                    told = true;
                    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
                }
            }
        }
    }
}

/// Leaves the session of who started this process, whose Ctrl-C is not meant for it.
pub(crate) fn leave_session() -> Result<(), CliError> {
    nix::unistd::setsid().map(drop).map_err(|errno| CliError::Signals(errno.into()))
}

/// Holds off the end of the run with this log; none when it has begun.
fn use_log(log: &Path) -> Option<File> {
    let file = File::open(log).ok()?;
    // Where there are no locks, nobody waits for one either.
    (!matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))).then_some(file)
}

/// Sets `stop` when who started this process is gone, and nobody else uses the run with this log.
pub(crate) fn stop_with_starter(log: PathBuf, stop: Arc<AtomicBool>) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let log = File::open(log);
        if let Ok(log) = &log {
            let _ = log.lock();
        }
        stop.store(true, Ordering::Relaxed);
        // Until this process ends, nobody else begins to use the run.
        std::mem::forget(log);
    });
}

/// Tells who started this process that the server answers.
pub(crate) fn say_ready(record: &Record) {
    say(&Word::Ready(Box::new(record.clone())));
}

/// Tells who started this process why there is no server.
pub(crate) fn say_failed(error: &CliError) {
    say(&Word::Failed { message: error::chain(error), hint: error.hint(), exit: error.exit().code() });
}

fn say(word: &Word) {
    let mut stdout = std::io::stdout();
    let line = serde_json::to_string(word).unwrap_or_default();
    // Who started us may be gone.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

/// The log of a run's supervisor.
pub(crate) fn log_path(context: &Context, name: &str) -> Result<PathBuf, CliError> {
    Ok(logs::path(context.store()?.home(), &format!("run-{name}")))
}
