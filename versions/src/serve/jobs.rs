//! The jobs: those that wait, the one that runs, and the results of those that have ended, for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::Config;
use super::error::Refusal;
use super::payload::Input;

/// Where a job is, in RunPod's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// It waits.
    InQueue,
    /// It runs.
    InProgress,
    /// It has its results.
    Completed,
    /// It has none.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It took too long.
    TimedOut,
}

impl JobStatus {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::InQueue => "IN_QUEUE",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }

    fn is_final(self) -> bool {
        !matches!(self, Self::InQueue | Self::InProgress)
    }
}

/// How many jobs have ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With results.
    pub completed: u64,
    /// Without.
    pub failed: u64,
    /// By somebody's wish.
    pub cancelled: u64,
    /// By a limit of time.
    pub timed_out: u64,
}

/// How the ComfyUI is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerState {
    Initializing,
    Ready,
    Unhealthy,
}

/// What a job came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: JobStatus,
    pub(super) output: Option<Value>,
    pub(super) error: Option<String>,
    /// Bytes that the output takes, roughly.
    pub(super) size: usize,
}

impl Outcome {
    pub(super) fn bad(status: JobStatus, error: impl Into<String>) -> Outcome {
        Outcome { status, output: None, error: Some(error.into()), size: 0 }
    }
}

/// A job that is to run now.
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) input: Input,
    pub(super) cancel: Arc<AtomicBool>,
    /// How long it may run.
    pub(super) patience: Duration,
}

struct Job {
    status: JobStatus,
    /// Taken away when it begins.
    input: Option<Input>,
    cancel: Arc<AtomicBool>,
    created: Instant,
    started: Option<Instant>,
    ended: Option<Instant>,
    progress: Option<Value>,
    output: Option<Arc<Value>>,
    error: Option<String>,
    size: usize,
    /// Becomes true at its end.
    done: watch::Sender<bool>,
}

struct Inner {
    jobs: HashMap<String, Job>,
    queue: VecDeque<String>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<String>,
    bytes: usize,
    running: Option<String>,
    /// The one that runs is to end, and not because somebody cancelled it.
    aborted: bool,
    draining: bool,
    worker: WorkerState,
    counts: Counts,
}

/// All jobs.
pub(super) struct Jobs {
    inner: Mutex<Inner>,
    /// There may be something to do.
    work: Condvar,
    version: String,
    queue: usize,
    keep: Duration,
    keep_jobs: usize,
    keep_bytes: usize,
}

const STOPPING: &str = "the server was stopped";

impl Jobs {
    pub(super) fn new(config: &Config) -> Jobs {
        let inner = Inner {
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            ended: VecDeque::new(),
            bytes: 0,
            running: None,
            aborted: false,
            draining: false,
            worker: WorkerState::Initializing,
            counts: Counts::default(),
        };
        Jobs {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            version: config.version.clone(),
            queue: config.queue,
            keep: config.keep,
            keep_jobs: config.keep_jobs,
            keep_bytes: config.keep_bytes,
        }
    }

    /// Queues a job; the receiver turns true at its end.
    pub(super) fn submit(
        &self,
        input: Input,
        prefix: &str,
    ) -> Result<(String, watch::Receiver<bool>), Refusal> {
        let mut inner = self.lock();
        if inner.draining {
            return Err(Refusal::Stopping);
        }
        if inner.queue.len() >= self.queue {
            return Err(Refusal::Full(inner.queue.len()));
        }
        let id = format!("{prefix}{}", Uuid::new_v4());
        let (done, receiver) = watch::channel(false);
        let job = Job {
            status: JobStatus::InQueue,
            input: Some(input),
            cancel: Arc::new(AtomicBool::new(false)),
            created: Instant::now(),
            started: None,
            ended: None,
            progress: None,
            output: None,
            error: None,
            size: 0,
            done,
        };
        inner.jobs.insert(id.clone(), job);
        inner.queue.push_back(id.clone());
        self.work.notify_all();
        Ok((id, receiver))
    }

    /// Begins the next job; waits for one, at most so long.
    pub(super) fn take(&self, patience: Duration) -> Option<Taken> {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        loop {
            while let Some(id) = inner.queue.pop_front() {
                let Some(job) = inner.jobs.get_mut(&id) else { continue };
                let Some(input) = job.input.take() else { continue };
                let waited = job.created.elapsed();
                let left = input.ttl.map_or(Duration::MAX, |ttl| ttl.saturating_sub(waited));
                if left.is_zero() {
                    let outcome = Outcome::bad(JobStatus::TimedOut, "it waited longer than it was to live");
                    self.conclude(&mut inner, &id, outcome);
                    continue;
                }
                job.status = JobStatus::InProgress;
                job.started = Some(Instant::now());
                let (cancel, patience) = (Arc::clone(&job.cancel), input.timeout.min(left));
                inner.running = Some(id.clone());
                return Some(Taken { id, input, cancel, patience });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || inner.draining {
                return None;
            }
            inner = self.work.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How far the job that runs is.
    pub(super) fn set_progress(&self, id: &str, progress: Value) {
        if let Some(job) = self.lock().jobs.get_mut(id) {
            job.progress = Some(progress);
        }
    }

    /// Ends the job that runs, and answers how it ended: one that was cancelled meanwhile stays so.
    pub(super) fn finish(&self, id: &str, mut outcome: Outcome) -> (JobStatus, Option<String>, Duration) {
        let mut inner = self.lock();
        inner.running = None;
        if inner.aborted && outcome.status == JobStatus::Cancelled {
            outcome = Outcome::bad(JobStatus::Failed, STOPPING);
        }
        self.conclude(&mut inner, id, outcome);
        let Some(job) = inner.jobs.get(id) else {
            return (JobStatus::Cancelled, None, Duration::ZERO);
        };
        let ran = job.started.map_or(Duration::ZERO, |started| started.elapsed());
        (job.status, job.error.clone(), ran)
    }

    /// Cancels a job that has not ended. False when there is none of that id.
    pub(super) fn cancel(&self, id: &str) -> bool {
        let mut inner = self.lock();
        let Some(job) = inner.jobs.get(id) else { return false };
        job.cancel.store(true, Ordering::Relaxed);
        inner.queue.retain(|waiting| waiting != id);
        self.conclude(&mut inner, id, Outcome::bad(JobStatus::Cancelled, "cancelled"));
        true
    }

    /// Takes no more, and fails those that wait.
    pub(super) fn drain(&self) {
        let mut inner = self.lock();
        inner.draining = true;
        while let Some(id) = inner.queue.pop_front() {
            self.conclude(&mut inner, &id, Outcome::bad(JobStatus::Failed, STOPPING));
        }
        self.work.notify_all();
    }

    /// Cancels the one that runs, as a failure.
    pub(super) fn abort(&self) {
        let mut inner = self.lock();
        inner.aborted = true;
        if let Some(job) = inner.running.as_ref().and_then(|id| inner.jobs.get(id)) {
            job.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Whether no more will come.
    pub(super) fn is_drained(&self) -> bool {
        self.lock().draining
    }

    /// Nobody will run anything any more.
    pub(super) fn close(&self) {
        self.drain();
    }

    pub(super) fn set_worker(&self, state: WorkerState) {
        self.lock().worker = state;
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// What `/status` says.
    pub(super) fn view(&self, id: &str) -> Option<Value> {
        let (mut view, output) = {
            let mut inner = self.lock();
            self.evict(&mut inner);
            let job = inner.jobs.get(id)?;
            let mut view = Map::new();
            let mut time = |key: &str, from: Option<Instant>, to: Option<Instant>| {
                if let (Some(from), Some(to)) = (from, to) {
                    let length = to.saturating_duration_since(from).as_millis();
                    view.insert(key.to_owned(), Value::from(u64::try_from(length).unwrap_or(u64::MAX)));
                }
            };
            time("delayTime", Some(job.created), job.started);
            time("executionTime", job.started, job.ended);
            view.insert("id".to_owned(), id.into());
            view.insert("status".to_owned(), job.status.word().into());
            let error = job.error.clone().filter(|_| job.status != JobStatus::Cancelled);
            let progress = job.progress.clone().filter(|_| job.status == JobStatus::InProgress);
            for (key, value) in [("error", error.map(Value::from)), ("progress", progress)] {
                if let Some(value) = value {
                    view.insert(key.to_owned(), value);
                }
            }
            if job.started.is_some() {
                view.insert("workerId".to_owned(), self.version.as_str().into());
            }
            (view, job.output.clone())
        };
        if let Some(output) = output {
            // It may be large, so that it is copied when the lock is free.
            view.insert("output".to_owned(), Value::clone(&output));
        }
        Some(Value::Object(view))
    }

    /// What `/health` says.
    pub(super) fn health(&self) -> Value {
        let inner = self.lock();
        let running = u64::from(inner.running.is_some());
        let is = |state: WorkerState| u64::from(inner.worker == state);
        let ready = is(WorkerState::Ready);
        json!({
            "jobs": {
                "completed": inner.counts.completed,
                "failed": inner.counts.failed + inner.counts.timed_out,
                "inProgress": running,
                "inQueue": inner.queue.len(),
                "retried": 0,
            },
            "workers": {
                "idle": ready - running.min(ready),
                "initializing": is(WorkerState::Initializing),
                "ready": ready,
                "running": running,
                "throttled": 0,
                "unhealthy": is(WorkerState::Unhealthy),
            },
        })
    }

    fn conclude(&self, inner: &mut Inner, id: &str, outcome: Outcome) {
        let Some(job) = inner.jobs.get_mut(id).filter(|job| !job.status.is_final()) else { return };
        job.status = outcome.status;
        job.ended = Some(Instant::now());
        job.input = None;
        job.output = outcome.output.map(Arc::new);
        job.error = outcome.error;
        job.size = outcome.size;
        // Nobody waits for most of them.
        job.done.send_replace(true);
        match outcome.status {
            JobStatus::Completed => inner.counts.completed += 1,
            JobStatus::Cancelled => inner.counts.cancelled += 1,
            JobStatus::TimedOut => inner.counts.timed_out += 1,
            JobStatus::Failed | JobStatus::InQueue | JobStatus::InProgress => inner.counts.failed += 1,
        }
        inner.bytes += outcome.size;
        inner.ended.push_back(id.to_owned());
        self.evict(inner);
    }

    /// Forgets results, the oldest first, that are too old or too many; never the newest.
    fn evict(&self, inner: &mut Inner) {
        while let Some(id) = inner.ended.front() {
            let age = inner.jobs.get(id).and_then(|job| job.ended).map(|ended| ended.elapsed());
            let is_old = age.is_none_or(|age| age >= self.keep);
            let are_many = inner.ended.len() > self.keep_jobs || inner.bytes > self.keep_bytes;
            if !(is_old || are_many && inner.ended.len() > 1) {
                return;
            }
            let Some(id) = inner.ended.pop_front() else { return };
            if let Some(job) = inner.jobs.remove(&id) {
                inner.bytes -= job.size;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::payload::parse;

    fn jobs(change: impl FnOnce(&mut Config)) -> Jobs {
        let mut config = Config::new("v", "/out".into());
        change(&mut config);
        Jobs::new(&config)
    }

    fn input(policy: &str) -> Input {
        let body = format!(r#"{{"input":{{"workflow_url":"http://x"}},"policy":{policy}}}"#);
        parse(body.as_bytes(), &Config::new("v", "/out".into())).unwrap()
    }

    fn done(size: usize) -> Outcome {
        Outcome { status: JobStatus::Completed, output: Some(json!({})), error: None, size }
    }

    fn status(jobs: &Jobs, id: &str) -> Option<String> {
        jobs.view(id).map(|view| view["status"].as_str().unwrap().to_owned())
    }

    #[test]
    fn jobs_go_through_their_states() {
        let jobs = jobs(|config| config.queue = 2);
        let (first, done_first) = jobs.submit(input("{}"), "").unwrap();
        let (second, _) = jobs.submit(input("{}"), "sync-").unwrap();
        assert!(second.starts_with("sync-"));
        assert_eq!(jobs.submit(input("{}"), "").unwrap_err(), Refusal::Full(2));
        let taken = jobs.take(Duration::ZERO).unwrap();
        assert_eq!(taken.id, first);
        jobs.set_progress(&first, json!({ "node": "3" }));
        let view = jobs.view(&first).unwrap();
        assert_eq!((&view["status"], &view["progress"]["node"]), (&json!("IN_PROGRESS"), &json!("3")));
        assert!(view["delayTime"].is_u64() && view["executionTime"].is_null());
        let health = jobs.health();
        assert_eq!((&health["jobs"]["inProgress"], &health["jobs"]["inQueue"]), (&json!(1), &json!(1)));
        assert_eq!(jobs.finish(&first, done(0)).0, JobStatus::Completed);
        assert!(*done_first.borrow());
        let view = jobs.view(&first).unwrap();
        assert!(view["executionTime"].is_u64() && view["progress"].is_null() && view["output"].is_object());

        // Cancelled while it waits: it never runs.
        assert!(jobs.cancel(&second));
        assert!(jobs.take(Duration::ZERO).is_none());
        assert_eq!(status(&jobs, &second).unwrap(), "CANCELLED");
        // Cancelled while it runs: that stays, whatever it comes to.
        let (third, _) = jobs.submit(input("{}"), "").unwrap();
        let taken = jobs.take(Duration::ZERO).unwrap();
        assert!(jobs.cancel(&third) && taken.cancel.load(Ordering::Relaxed));
        assert_eq!(jobs.finish(&third, done(0)).0, JobStatus::Cancelled);
        // One that has ended stays as it is.
        assert!(jobs.cancel(&first) && !jobs.cancel("unknown"));
        assert_eq!(status(&jobs, &first).unwrap(), "COMPLETED");
        assert_eq!(jobs.counts(), Counts { completed: 1, cancelled: 2, ..Counts::default() });
    }

    #[test]
    fn waiting_has_a_limit_and_so_has_the_end() {
        let jobs = jobs(|_| {});
        let (late, _) = jobs.submit(Input { ttl: Some(Duration::ZERO), ..input("{}") }, "").unwrap();
        assert!(jobs.take(Duration::ZERO).is_none());
        assert_eq!(status(&jobs, &late).unwrap(), "TIMED_OUT");
        let (running, _) = jobs.submit(input(r#"{"executionTimeout":5000,"ttl":600000}"#), "").unwrap();
        let (waiting, _) = jobs.submit(input("{}"), "").unwrap();
        let taken = jobs.take(Duration::ZERO).unwrap();
        assert_eq!(taken.patience, Duration::from_secs(5));
        jobs.drain();
        assert!(jobs.is_drained() && !taken.cancel.load(Ordering::Relaxed));
        assert_eq!(jobs.submit(input("{}"), "").unwrap_err(), Refusal::Stopping);
        assert_eq!(jobs.view(&waiting).unwrap()["error"], "the server was stopped");
        jobs.abort();
        assert!(taken.cancel.load(Ordering::Relaxed));
        let outcome = Outcome::bad(JobStatus::Cancelled, "cancelled");
        assert_eq!(jobs.finish(&running, outcome).0, JobStatus::Failed);
    }

    #[test]
    fn results_are_kept_within_bounds() {
        let end = |jobs: &Jobs, size: usize| {
            let (id, _) = jobs.submit(input("{}"), "").unwrap();
            jobs.take(Duration::ZERO).unwrap();
            jobs.finish(&id, done(size));
            id
        };
        let few = jobs(|config| config.keep_jobs = 2);
        let ids = [1, 1, 1].map(|size| end(&few, size));
        assert_eq!(ids.each_ref().map(|id| few.view(id).is_some()), [false, true, true]);
        let small = jobs(|config| config.keep_bytes = 100);
        let ids = [60, 60, 1000].map(|size| end(&small, size));
        assert_eq!(ids.each_ref().map(|id| small.view(id).is_some()), [false, false, true]);
        let short = jobs(|config| config.keep = Duration::ZERO);
        assert!(short.view(&end(&short, 1)).is_none());
    }
}
