//! `run.json`: what ran, with what, how long, and what came of it. Everything to run it again is in it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use cvs_versions::comfy::{JobError, NodeProblem, OutputText};
use cvs_versions::workflow::{Note, Seed};
use jiff::{Timestamp, Zoned};
use serde::Serialize;
use serde_json::{Map, Value};

use super::JobsError;

/// The shape of `run.json`.
const SCHEMA: u32 = 1;

/// The kind of a failure to write into a bucket.
pub(super) const BUCKET: &str = "bucket";

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct RunRecord {
    pub(crate) schema: u32,
    /// Its name, that of its directory.
    pub(crate) run: String,
    pub(crate) status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Failure>,
    pub(crate) version: String,
    /// The id of the view that ran.
    pub(crate) view: String,
    /// Where the workflow is from.
    pub(crate) source: String,
    pub(crate) started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finished: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_id: Option<String>,
    pub(crate) timings: Timings,
    pub(crate) seeds: Vec<Seed>,
    /// `--set`, as given.
    pub(crate) set: Vec<String>,
    pub(crate) inputs: Vec<InputRecord>,
    /// What the conversion did without being asked.
    pub(crate) notes: Vec<Note>,
    /// Nodes that the server left out, which was allowed.
    pub(crate) left_out: Vec<NodeProblem>,
    pub(crate) outputs: Vec<OutputRecord>,
    pub(crate) texts: Vec<OutputText>,
    /// The prompt as it was sent.
    pub(crate) workflow: Map<String, Value>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Success,
    /// Some outputs were left out, which was allowed.
    Partial,
    Failed,
    Cancelled,
}

/// Why it failed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Failure {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    traceback: Vec<String>,
    /// What is wrong with single nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeProblem>,
}

/// Seconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Timings {
    /// Until a server answered.
    pub(crate) server: f64,
    /// Whether it ran before.
    pub(crate) warm: bool,
    /// In the queue.
    pub(crate) queued: f64,
    /// From start to end, by the server's clock.
    pub(crate) run: f64,
    /// Until the outputs were where they belong.
    pub(crate) collect: f64,
    /// What each node took, as heard.
    pub(crate) nodes: Map<String, Value>,
}

/// A file that was put in the place of another.
#[derive(Debug, Serialize)]
pub(crate) struct InputRecord {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) input: String,
    pub(crate) source: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) uploaded: String,
}

/// A file that came of it.
#[derive(Debug, Serialize)]
pub(crate) struct OutputRecord {
    pub(crate) node: String,
    pub(crate) class: String,
    /// The node's name for it: `images`, `gifs`, `audio`, ….
    pub(crate) kind: String,
    /// `output`, or `temp` for a preview.
    #[serde(rename = "type")]
    pub(crate) folder: String,
    /// Its name in the run's directory.
    pub(crate) file: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    /// Its address in a bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// Its bytes, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<String>,
}

impl RunRecord {
    /// A run that begins now.
    pub(crate) fn new(version: String, view: String, source: String) -> Self {
        let now = Zoned::now();
        let run = format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), random() & 0xffff);
        Self {
            schema: SCHEMA,
            run,
            status: Status::Failed,
            error: None,
            version,
            view,
            source,
            started: now.timestamp().to_string(),
            finished: None,
            prompt_id: None,
            timings: Timings::default(),
            seeds: Vec::new(),
            set: Vec::new(),
            inputs: Vec::new(),
            notes: Vec::new(),
            left_out: Vec::new(),
            outputs: Vec::new(),
            texts: Vec::new(),
            workflow: Map::new(),
        }
    }

    /// Writes down that it is over.
    pub(crate) fn finish(&mut self) {
        self.finished = Some(Timestamp::now().to_string());
    }

    /// The text of `run.json`.
    pub(crate) fn text(&self) -> String {
        // Every part of it has a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Writes down that it failed.
    pub(crate) fn fail(&mut self, error: &JobsError) {
        self.status = if error.is_interrupted() { Status::Cancelled } else { Status::Failed };
        self.outputs.clear();
        self.error = Some(Failure::of(error));
    }
}

impl Failure {
    fn of(error: &JobsError) -> Self {
        let message = crate::error::chain(error);
        let plain = |kind| Self { kind, message: message.clone(), ..Self::default() };
        let JobsError::Job(job) = error else {
            return plain(match error {
                _ if error.is_interrupted() => "cancelled",
                JobsError::Bucket(_) => BUCKET,
                _ => "outputs",
            });
        };
        match &**job {
            JobError::Failed(failure) => Self {
                node: Some(failure.node.clone()),
                class: Some(failure.class_type.clone()),
                exception: Some(failure.exception.clone()),
                message: failure.message.clone(),
                traceback: failure.traceback.clone(),
                ..plain("execution_error")
            },
            JobError::Rejected { nodes, .. } => Self { nodes: nodes.clone(), ..plain("rejected") },
            JobError::Partial { nodes } => Self { nodes: nodes.clone(), ..plain("partial") },
            JobError::Interrupted { node } => Self { node: node.clone(), ..plain("interrupted") },
            JobError::Unsuccessful => plain("unsuccessful"),
            JobError::NoOutput => plain("no_output"),
            JobError::Lost => plain("lost"),
            JobError::MissingFile { .. } => plain("missing_file"),
            JobError::Died(_) | JobError::Gone { .. } => plain("server_died"),
            JobError::Silent { .. } => plain("silent"),
            JobError::TimedOut { .. } => plain("timeout"),
            JobError::Cancelled => plain("cancelled"),
            JobError::Client(_) => plain(if error.is_interrupted() { "cancelled" } else { "server" }),
        }
    }
}

/// Seconds, to the millisecond.
pub(crate) fn seconds(length: Duration) -> f64 {
    (length.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A number that nobody can foretell: the keys of a hasher are new for each.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
