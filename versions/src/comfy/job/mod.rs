//! One prompt, from its submission to its end.
//!
//! It is followed by the websocket, for what there is to show, and by the history, for what became of it: the socket
//! may break at any time without harm. Whatever ends the following other than the prompt's own end (a cancel, a time
//! limit), our prompt is taken out of the server first, and no other.

mod error;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

pub use self::error::{Complaint, JobError, NodeFailure, NodeProblem};
use super::client::{Client, ClientError};
use super::log;
use super::outputs::Outputs;
use super::process::Watch;
use super::socket::{Heard, Socket};

/// How long the websocket may take to connect before the prompt is submitted without it.
const SOCKET: Duration = Duration::from_secs(5);
/// How long one look for events waits.
const TICK: Duration = Duration::from_millis(25);
/// Between two questions to the history: while the socket tells what happens, while it does not, and when it said that
/// the end has come.
const POLL_HEARING: Duration = Duration::from_secs(2);
const POLL_DEAF: Duration = Duration::from_millis(300);
const POLL_ENDING: Duration = Duration::from_millis(10);
/// How long one such question may take. A node that holds Python's lock keeps the server from answering for a while.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two questions whether the prompt is still queued.
const LOOK_FOR_LOSS: Duration = Duration::from_secs(5);
/// How long nobody may listen before the server counts as gone.
const GONE: Duration = Duration::from_secs(3);
/// How long a cancelled prompt is waited for; a node need not look at the interrupt.
const CANCEL: Duration = Duration::from_secs(10);

/// A prompt to run.
pub struct JobRequest<'a> {
    /// The workflow in API format.
    pub prompt: &'a Value,
    /// `extra_data`: what nodes store in files besides the prompt, such as `{"extra_pnginfo": {"workflow": …}}`.
    pub extra_data: Option<&'a Value>,
    /// Whether outputs that cannot run may be left out.
    pub allow_partial: bool,
    /// How long the server may give no sign of life.
    pub respond_timeout: Duration,
    /// How long the whole may take, waiting in the queue included.
    pub total_timeout: Option<Duration>,
    /// The server's process, where it is ours.
    pub watch: Option<&'a Watch>,
    /// The server's log, where it is known: errors repeat its end.
    pub log: Option<&'a Path>,
}

/// What happens to a prompt. Only what the socket tells comes as it happens, and none of it is sure to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum JobEvent<'a> {
    /// The server has it.
    Queued {
        /// Its id there.
        prompt_id: &'a str,
    },
    /// It runs.
    Started,
    /// These nodes are known from an earlier run.
    Cached {
        /// How many.
        nodes: usize,
    },
    /// A node begins.
    Node {
        /// Its id.
        id: &'a str,
        /// Its class.
        class_type: &'a str,
        /// Its title, where it has one.
        title: Option<&'a str>,
    },
    /// A node is so far.
    Progress {
        /// Its id.
        id: &'a str,
        /// Steps done.
        value: f64,
        /// Of so many.
        max: f64,
    },
    /// A node has put something out.
    Executed {
        /// Its id.
        id: &'a str,
    },
    /// The socket broke; the prompt goes on.
    Unheard,
    /// The socket is back.
    Heard,
}

/// A prompt that ended well.
#[derive(Clone, Debug)]
pub struct JobResult {
    /// Its id.
    pub prompt_id: String,
    /// What it put out; not empty.
    pub outputs: Outputs,
    /// What was left out; empty unless that was allowed.
    pub left_out: Vec<NodeProblem>,
    /// How long it waited for its turn.
    pub queued: Duration,
    /// How long it ran, by the server's clock where it tells.
    pub ran: Duration,
}

/// Runs a prompt and follows it to its end.
pub fn run_job(
    client: &Client,
    request: &JobRequest<'_>,
    events: &dyn Fn(JobEvent<'_>),
    cancel: &AtomicBool,
) -> Result<JobResult, JobError> {
    let client_id = Uuid::new_v4().simple().to_string();
    let socket = Socket::open(client, &client_id).map_err(|source| ClientError::Runtime { source })?;
    let begin = Instant::now();
    let mut job = Job {
        client,
        request,
        events,
        cancel,
        prompt_id: Uuid::new_v4().to_string(),
        socket,
        hearing: false,
        deaf: false,
        ending: false,
        begin,
        started: None,
        alive: begin,
        unreachable: None,
    };
    job.await_socket()?;
    let left_out = job.submit(&client_id)?;
    match job.follow() {
        Ok((outputs, ran)) => {
            let queued = job.started.unwrap_or(begin) - begin;
            Ok(JobResult { prompt_id: job.prompt_id, outputs, left_out, queued, ran })
        }
        Err(error) => {
            if matches!(error, JobError::Cancelled | JobError::TimedOut { .. } | JobError::Silent { .. }) {
                job.withdraw();
            }
            Err(error)
        }
    }
}

struct Job<'a> {
    client: &'a Client,
    request: &'a JobRequest<'a>,
    events: &'a dyn Fn(JobEvent<'_>),
    cancel: &'a AtomicBool,
    prompt_id: String,
    socket: Socket,
    /// Whether the socket is connected.
    hearing: bool,
    /// Whether it was tried to connect, in vain, or the connection broke.
    deaf: bool,
    /// Whether the socket told that the prompt is done.
    ending: bool,
    begin: Instant,
    started: Option<Instant>,
    /// The last sign of life.
    alive: Instant,
    /// Since when nobody listens.
    unreachable: Option<Instant>,
}

impl Job<'_> {
    /// Waits for the socket for a while; without it, events are missed and nothing else.
    fn await_socket(&mut self) -> Result<(), JobError> {
        while !self.hearing && !self.deaf && self.begin.elapsed() < SOCKET {
            self.check()?;
            self.listen(TICK);
        }
        Ok(())
    }

    /// Queues the prompt; what the server would leave out is the value.
    fn submit(&mut self, client_id: &str) -> Result<Vec<NodeProblem>, JobError> {
        let JobRequest { prompt, extra_data, allow_partial, .. } = *self.request;
        let answer = match self.client.prompt(prompt, &self.prompt_id, client_id, extra_data, self.cancel) {
            Ok(answer) => answer,
            // It may be queued all the same, under our id; what became of it is told like that of any other.
            Err(ClientError::Broken { .. } | ClientError::Timeout { .. }) => return Ok(Vec::new()),
            Err(ClientError::Cancelled) => {
                self.withdraw();
                return Err(JobError::Cancelled);
            }
            Err(error) => return Err(self.died().unwrap_or(JobError::Client(error))),
        };
        let nodes = NodeProblem::read_all(&answer.body["node_errors"]);
        if answer.status != 200 {
            return Err(JobError::Rejected { complaint: Complaint::read(&answer.body["error"]), nodes });
        }
        // A server of before summer 2025 gives an id of its own.
        if let Some(id) = answer.body["prompt_id"].as_str() {
            id.clone_into(&mut self.prompt_id);
        }
        if !nodes.is_empty() && !allow_partial {
            self.withdraw();
            return Err(JobError::Partial { nodes });
        }
        self.alive = Instant::now();
        (self.events)(JobEvent::Queued { prompt_id: &self.prompt_id });
        Ok(nodes)
    }

    /// Waits for the prompt's entry in the history.
    fn follow(&mut self) -> Result<(Outputs, Duration), JobError> {
        let mut polled: Option<Instant> = None;
        let mut looked = Instant::now();
        loop {
            self.listen(TICK.min(if self.ending { POLL_ENDING } else { TICK }));
            self.check()?;
            let pause = match (self.ending, self.hearing) {
                (true, _) => POLL_ENDING,
                (false, true) => POLL_HEARING,
                (false, false) => POLL_DEAF,
            };
            if polled.is_some_and(|polled| polled.elapsed() < pause) {
                continue;
            }
            let entry = self.client.history_within(&self.prompt_id, self.patience(), self.cancel);
            polled = Some(Instant::now());
            if let Some(entry) = self.sort_out(entry)?.flatten() {
                return self.conclude(&entry);
            }
            if looked.elapsed() >= LOOK_FOR_LOSS && self.unreachable.is_none() {
                looked = Instant::now();
                let queue = self.client.queue_within(self.patience(), self.cancel);
                if self.sort_out(queue)?.is_some_and(|queue| !queue.has(&self.prompt_id)) {
                    // It may have ended between the two questions.
                    let entry = self.client.history_within(&self.prompt_id, self.patience(), self.cancel);
                    match self.sort_out(entry)? {
                        Some(Some(entry)) => return self.conclude(&entry),
                        Some(None) => return Err(JobError::Lost),
                        None => {}
                    }
                }
            }
        }
    }

    /// How long one question may take: not longer than what is left of any limit.
    fn patience(&self) -> Duration {
        let silence = self.request.respond_timeout.saturating_sub(self.alive.elapsed());
        let total = self.request.total_timeout.map(|after| after.saturating_sub(self.begin.elapsed()));
        ANSWER.min(silence).min(total.unwrap_or(ANSWER)).max(TICK)
    }

    /// Takes in what the socket tells, and waits for the first of it.
    fn listen(&mut self, wait: Duration) {
        let mut next = match self.socket.heard.recv_timeout(wait) {
            Ok(heard) => Some(heard),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // The thread is gone; the history remains.
                self.hearing = false;
                std::thread::sleep(wait);
                None
            }
        };
        while let Some(heard) = next {
            self.take_in(heard);
            next = self.socket.heard.try_recv().ok();
        }
    }

    fn take_in(&mut self, heard: Heard) {
        match heard {
            Heard::Nothing => {
                if self.hearing {
                    (self.events)(JobEvent::Unheard);
                }
                (self.hearing, self.deaf) = (false, true);
                return;
            }
            Heard::Connected => {
                if self.deaf {
                    (self.events)(JobEvent::Heard);
                }
                (self.hearing, self.deaf) = (true, false);
            }
            Heard::Message(kind, data) => self.tell(&kind, &data),
            Heard::Other => {}
        }
        self.alive = Instant::now();
    }

    fn tell(&mut self, kind: &str, data: &Value) {
        let prompt = self.request.prompt;
        // An interrupt is told to everyone, whosever prompt it was.
        if data["prompt_id"].as_str().is_some_and(|id| id != self.prompt_id) {
            return;
        }
        // What runs may be a part of a node, which the prompt does not hold.
        let node = |key: &str| {
            let id = data[key].as_str()?;
            if prompt.get(id).is_some() { Some(id) } else { data["display_node"].as_str().or(Some(id)) }
        };
        let event = match (kind, node("node")) {
            ("execution_start", _) => {
                self.started = Some(Instant::now());
                JobEvent::Started
            }
            ("execution_cached", _) => {
                JobEvent::Cached { nodes: data["nodes"].as_array().map_or(0, Vec::len) }
            }
            ("executing", Some(id)) => JobEvent::Node {
                id,
                class_type: prompt[id]["class_type"].as_str().unwrap_or_default(),
                title: prompt[id]["_meta"]["title"].as_str(),
            },
            ("progress", Some(id)) => JobEvent::Progress {
                id,
                value: data["value"].as_f64().unwrap_or(0.0),
                max: data["max"].as_f64().unwrap_or(0.0),
            },
            ("executed", Some(id)) => JobEvent::Executed { id },
            ("executing" | "execution_success" | "execution_error" | "execution_interrupted", _) => {
                self.ending = data["prompt_id"].is_string();
                return;
            }
            _ => return,
        };
        (self.events)(event);
    }

    /// What ends the following, other than the prompt's end.
    fn check(&self) -> Result<(), JobError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(JobError::Cancelled);
        }
        if let Some(died) = self.died() {
            return Err(died);
        }
        if let Some(after) = self.request.total_timeout.filter(|after| self.begin.elapsed() >= *after) {
            return Err(JobError::TimedOut { after });
        }
        if self.unreachable.is_some_and(|since| since.elapsed() >= GONE) {
            let tail = self.request.log.map_or_else(Vec::new, |path| log::tail(path, 0, log::TAIL));
            return Err(JobError::Gone { url: self.client.base_url().to_owned(), tail });
        }
        let after = self.request.respond_timeout;
        if self.alive.elapsed() >= after { Err(JobError::Silent { after }) } else { Ok(()) }
    }

    fn died(&self) -> Option<JobError> {
        self.request.watch.and_then(Watch::ended).map(JobError::Died)
    }

    /// An answer is a sign of life. Its lack is not an error yet; what can be told from it is kept.
    fn sort_out<T>(&mut self, answer: Result<T, ClientError>) -> Result<Option<T>, JobError> {
        match answer {
            Ok(value) => {
                self.alive = Instant::now();
                self.unreachable = None;
                Ok(Some(value))
            }
            Err(ClientError::Cancelled) => Err(JobError::Cancelled),
            Err(ClientError::Unreachable { .. }) => {
                self.unreachable.get_or_insert_with(Instant::now);
                Ok(None)
            }
            Err(ClientError::Broken { .. } | ClientError::Timeout { .. }) => Ok(None),
            Err(ClientError::Status { status: 500.., .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn conclude(&mut self, entry: &Value) -> Result<(Outputs, Duration), JobError> {
        while let Ok(heard) = self.socket.heard.try_recv() {
            self.take_in(heard);
        }
        let messages = entry["status"]["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let of_kind = |kind: &str| messages.iter().find(|message| message[0] == kind).map(|found| &found[1]);
        if let Some(error) = of_kind("execution_error") {
            let field = |key: &str| error[key].as_str().unwrap_or_default().trim().to_owned();
            let frames = error["traceback"].as_array().into_iter().flatten();
            return Err(JobError::Failed(Box::new(NodeFailure {
                node: field("node_id"),
                class_type: field("node_type"),
                exception: field("exception_type"),
                message: field("exception_message"),
                traceback: frames.filter_map(Value::as_str).map(str::to_owned).collect(),
            })));
        }
        if let Some(interrupted) = of_kind("execution_interrupted") {
            let node = interrupted["node_id"].as_str().map(str::to_owned);
            return Err(JobError::Interrupted { node });
        }
        // Servers of before 2024 tell no status of a success.
        let status = &entry["status"];
        if !status.is_null() && status["status_str"] != "success" {
            return Err(JobError::Unsuccessful);
        }
        let outputs = Outputs::read(&entry["outputs"], self.request.prompt);
        if outputs.is_empty() {
            return Err(JobError::NoOutput);
        }
        let time = |kind: &str| of_kind(kind).and_then(|data| data["timestamp"].as_u64());
        let by_server = time("execution_start").zip(time("execution_success"));
        let ran = match by_server {
            Some((start, end)) => Duration::from_millis(end.saturating_sub(start)),
            None => self.started.unwrap_or(self.begin).elapsed(),
        };
        Ok((outputs, ran))
    }

    /// Takes our prompt out of the server, as far as that can be had in a short time.
    fn withdraw(&self) {
        let deadline = Instant::now() + CANCEL;
        let mut pause = TICK;
        while Instant::now() < deadline && self.died().is_none() {
            // It goes on until its node looks at the interrupt.
            if self.client.cancel_within(&self.prompt_id, CANCEL / 2).unwrap_or(true) {
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(CANCEL / 20);
        }
    }
}
