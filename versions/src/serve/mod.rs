//! Jobs over HTTP in the shape of RunPod's endpoints, run one after the other on a ComfyUI that stays warm.
//!
//! [`serve`] answers on a listener and runs the jobs on the thread that calls it, until it is told to stop. It knows
//! its ComfyUI through a [`Backend`], which starts it, and starts it anew when it is gone. Every job that was taken
//! comes to an end that `/status` tells, for as long as results are kept.
//!
//! *Locks.* There is one, around all jobs; nothing is waited for while it is held.

mod auth;
mod connections;
mod error;
mod http;
mod jobs;
mod payload;
mod worker;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use self::auth::Token;
pub use self::error::ServeError;
pub use self::jobs::{Counts, JobStatus};
use self::jobs::{Jobs, WorkerState};
pub use self::payload::OutputMode;
use self::worker::Worker;
use crate::runtime::runtime;
use crate::workflow::Document;

/// Between two looks at whether it is to stop.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks at whether an idle server still lives.
const LOOK: Duration = Duration::from_secs(1);
/// How long answers under way may take when everything else has ended.
const FAREWELL: Duration = Duration::from_secs(5);
/// The pauses between attempts to start a server that does not start: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How jobs are taken and run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The version that is served; a job may name it, and no other.
    pub version: String,
    /// What runs when a job brings no workflow.
    pub workflow: Option<Document>,
    /// What every request must carry, if anything.
    pub token: Option<Token>,
    /// How many jobs may wait.
    pub queue: usize,
    /// The largest body of a request, in bytes.
    pub body_limit: usize,
    /// The largest file that is fetched for a job, in bytes.
    pub input_limit: usize,
    /// How long a job may run when it does not say.
    pub job_timeout: Duration,
    /// How long ComfyUI may give no sign of life.
    pub respond_timeout: Duration,
    /// How long results are kept.
    pub keep: Duration,
    /// How many results are kept.
    pub keep_jobs: usize,
    /// How many bytes of results are kept; one result may not be larger.
    pub keep_bytes: usize,
    /// How results are handed over when a job does not say.
    pub output_mode: OutputMode,
    /// Where results go in the mode [`OutputMode::Directory`], each job's in a directory of its own.
    pub output_dir: PathBuf,
    /// How long the job that runs may go on when it is to stop.
    pub drain: Duration,
}

impl Config {
    /// The defaults for a version.
    pub fn new(version: &str, output_dir: PathBuf) -> Config {
        Config {
            version: version.to_owned(),
            workflow: None,
            token: None,
            queue: 32,
            body_limit: 20 << 20,
            input_limit: 256 << 20,
            job_timeout: Duration::from_secs(600),
            respond_timeout: crate::comfy::respond_timeout(),
            keep: Duration::from_secs(1800),
            keep_jobs: 200,
            keep_bytes: 1 << 30,
            output_mode: OutputMode::Base64,
            output_dir,
            drain: Duration::from_secs(30),
        }
    }
}

/// A ComfyUI that answers.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub base_url: String,
    /// Its log, where it is known: errors repeat its end.
    pub log: Option<PathBuf>,
}

/// Who sees to the ComfyUI. Called on the thread of [`serve`] only.
pub trait Backend {
    /// Why there is none.
    type Error: std::fmt::Display;
    /// The one that runs, or a new one.
    fn acquire(&mut self) -> Result<Target, Self::Error>;
    /// Whether the one last acquired still runs.
    fn is_alive(&mut self) -> bool;
    /// Takes down the one last acquired: it is dead, or does not do what it is told.
    fn discard(&mut self);
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Take no more, end what runs within the time that it has, and return.
    Drain,
    /// Return as soon as can be.
    Now,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum ServeEvent<'a> {
    /// ComfyUI answers.
    Ready {
        /// Where.
        base_url: &'a str,
    },
    /// ComfyUI is gone, or is taken down, and will be started anew.
    Lost {
        /// Why.
        reason: &'a str,
    },
    /// ComfyUI does not start.
    NotReady {
        /// Why.
        reason: &'a str,
        /// When it is tried again, unless a job comes before.
        again: Duration,
    },
    /// A job begins.
    Started {
        /// Its id.
        id: &'a str,
    },
    /// A job has come to its end.
    Ended {
        /// Its id.
        id: &'a str,
        /// Which.
        status: JobStatus,
        /// Why, if it was not a good one.
        error: Option<&'a str>,
        /// How long it ran.
        ran: Duration,
    },
}

/// Binds the address. One that others can reach is refused without a token, unless `open` says that this is meant.
pub fn bind(address: SocketAddr, token: Option<&Token>, open: bool) -> Result<TcpListener, ServeError> {
    if !address.ip().is_loopback() && token.is_none() && !open {
        return Err(ServeError::Public { address });
    }
    TcpListener::bind(address).map_err(|source| ServeError::Bind { address, source })
}

/// Serves until `stop` says otherwise, and returns how jobs ended. `stop` is asked often, from another thread.
pub fn serve<B: Backend>(
    listener: TcpListener,
    config: Config,
    backend: &mut B,
    events: &dyn Fn(ServeEvent<'_>),
    stop: &(dyn Fn() -> Stop + Sync),
) -> Result<Counts, ServeError> {
    let runtime = runtime().map_err(|source| ServeError::Runtime { source })?;
    listener.set_nonblocking(true).map_err(|source| ServeError::Runtime { source })?;
    let jobs = Arc::new(Jobs::new(&config));
    let config = Arc::new(config);
    let app = http::router(Arc::clone(&config), Arc::clone(&jobs));
    let (farewell, told) = tokio::sync::oneshot::channel::<()>();
    let mut answering = runtime.spawn(connections::answer(listener, app, told));
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| watch(stop, &jobs, config.drain, &finished));
        work(&config, &jobs, backend, events, &|| answering.is_finished());
        finished.store(true, Ordering::Relaxed);
    });
    jobs.close();
    drop(farewell);
    let ended = runtime.block_on(async { tokio::time::timeout(FAREWELL, &mut answering).await });
    match ended {
        // Somebody reads his answer very slowly.
        Err(_) => answering.abort(),
        Ok(Ok(done)) => done.map_err(|source| ServeError::Runtime { source })?,
        Ok(Err(source)) => return Err(ServeError::Runtime { source: std::io::Error::other(source) }),
    }
    Ok(jobs.counts())
}

/// Drains the jobs when it is to stop, and cancels the one that runs when its time is over.
fn watch(stop: &(dyn Fn() -> Stop + Sync), jobs: &Jobs, patience: Duration, finished: &AtomicBool) {
    let mut since: Option<Instant> = None;
    while !finished.load(Ordering::Relaxed) {
        match stop() {
            Stop::No => {}
            Stop::Drain => {
                let since = *since.get_or_insert_with(Instant::now);
                jobs.drain();
                if since.elapsed() >= patience {
                    jobs.abort();
                }
            }
            Stop::Now => {
                jobs.drain();
                jobs.abort();
            }
        }
        std::thread::sleep(TICK);
    }
}

/// Runs job after job until there are to be no more.
fn work<B: Backend>(
    config: &Config,
    jobs: &Jobs,
    backend: &mut B,
    events: &dyn Fn(ServeEvent<'_>),
    deaf: &dyn Fn() -> bool,
) {
    let mut worker = Worker::new(config, jobs, backend, events);
    let mut pause = BACKOFF.0;
    let mut next_start = Instant::now();
    // Without a listener no job can come any more.
    while !jobs.is_drained() && !deaf() {
        worker.look();
        if !worker.is_ready() && Instant::now() >= next_start {
            match worker.prepare() {
                Ok(()) => pause = BACKOFF.0,
                Err(reason) => {
                    jobs.set_worker(WorkerState::Unhealthy);
                    events(ServeEvent::NotReady { reason: &reason, again: pause });
                    next_start = Instant::now() + pause;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
        if let Some(taken) = jobs.take(LOOK) {
            worker.run(taken);
        }
    }
}
