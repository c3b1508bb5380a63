//! The HTTP API of a ComfyUI, call by call. Each call blocks and has an end; nothing is tried twice.

mod error;
mod transfer;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Map, Value, json};
use url::Url;

pub use self::error::ClientError;
pub use self::transfer::{Fetched, Uploaded, safe_name};
use super::http::{self, Waited, patient};
use crate::runtime::runtime;

/// For calls that are answered from memory.
const SHORT: Duration = Duration::from_secs(30);
/// For calls that may import, hash or list much before they answer.
const LONG: Duration = Duration::from_secs(180);
/// The most that an answer in JSON may hold.
const ANSWER: usize = 512 << 20;
/// How much of an unexpected answer is repeated, in characters.
const EXCERPT: usize = 300;

pub(super) static NEVER: AtomicBool = AtomicBool::new(false);

/// A ComfyUI that answers at an address.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    host: String,
    port: u16,
}

/// What the server said to a prompt.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status: 200 when it was queued, 400 when it was refused.
    pub status: u16,
    /// The whole answer.
    pub body: Value,
}

/// The prompts that wait and that run, by their ids, the next first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Running; at most one.
    pub running: Vec<String>,
    /// Waiting.
    pub pending: Vec<String>,
}

impl Queue {
    /// Whether the prompt runs or waits.
    pub fn has(&self, prompt_id: &str) -> bool {
        self.running.iter().chain(&self.pending).any(|id| id == prompt_id)
    }
}

impl Client {
    /// For the server at `base_url`, as `http://127.0.0.1:8188`. Nothing is asked yet.
    pub fn new(base_url: &str) -> Result<Client, ClientError> {
        let wrong = |reason: &'static str| ClientError::Address { address: base_url.to_owned(), reason };
        let url: Url = base_url.parse().map_err(|_| wrong("it is no URL"))?;
        if url.scheme() != "http" {
            return Err(wrong("a ComfyUI is spoken to over http://"));
        }
        let host = url.host_str().ok_or_else(|| wrong("it names no host"))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| wrong("it names no port"))?;
        Ok(Client { base: base_url.trim_end_matches('/').to_owned(), host, port })
    }

    /// The address that it was made with.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (self.host.trim_matches(['[', ']']), self.port)
    }

    /// `GET /system_stats`: versions, memory, devices.
    pub fn system_stats(&self) -> Result<Value, ClientError> {
        self.get("/system_stats", SHORT, &NEVER)
    }

    /// `GET /object_info`: every node class and its inputs.
    pub fn object_info(&self) -> Result<Map<String, Value>, ClientError> {
        match self.get("/object_info", LONG, &NEVER)? {
            Value::Object(classes) => Ok(classes),
            _ => Err(self.unexpected("/object_info", "not a JSON object")),
        }
    }

    /// `POST /prompt`. A refusal (400) is an [`Answer`], not an error.
    pub fn prompt(
        &self,
        prompt: &Value,
        prompt_id: &str,
        client_id: &str,
        extra_data: Option<&Value>,
        cancel: &AtomicBool,
    ) -> Result<Answer, ClientError> {
        let mut body = json!({ "prompt": prompt, "prompt_id": prompt_id, "client_id": client_id });
        if let Some(extra) = extra_data {
            body["extra_data"] = extra.clone();
        }
        let request = self.request(reqwest::Method::POST, "/prompt")?.json(&body);
        let (status, text) = self.call("/prompt", request, LONG, cancel)?;
        match (status.as_u16(), serde_json::from_slice(&text)) {
            (status @ (200 | 400), Ok(body)) => Ok(Answer { status, body }),
            _ => Err(self.refused("/prompt", status, &text)),
        }
    }

    /// `GET /history/ID`: what became of a prompt, once it is done.
    pub fn history(&self, prompt_id: &str) -> Result<Option<Value>, ClientError> {
        self.history_within(prompt_id, SHORT, &NEVER)
    }

    pub(super) fn history_within(
        &self,
        prompt_id: &str,
        patience: Duration,
        cancel: &AtomicBool,
    ) -> Result<Option<Value>, ClientError> {
        match self.get(&format!("/history/{}", escaped(prompt_id)), patience, cancel)? {
            Value::Object(mut found) => Ok(found.remove(prompt_id)),
            _ => Err(self.unexpected("/history", "not a JSON object")),
        }
    }

    /// `GET /queue`.
    pub fn queue(&self) -> Result<Queue, ClientError> {
        self.queue_within(SHORT, &NEVER)
    }

    pub(super) fn queue_within(&self, patience: Duration, cancel: &AtomicBool) -> Result<Queue, ClientError> {
        let answer = self.get("/queue", patience, cancel)?;
        let ids = |key: &str| -> Option<Vec<String>> {
            // Each entry is a list: number, prompt id, prompt, extra data, outputs.
            let mut entries: Vec<(f64, String)> = answer
                .get(key)?
                .as_array()?
                .iter()
                .filter_map(|entry| {
                    Some((entry.get(0)?.as_f64().unwrap_or(0.0), entry.get(1)?.as_str()?.to_owned()))
                })
                .collect();
            entries.sort_by(|a, b| a.0.total_cmp(&b.0));
            Some(entries.into_iter().map(|(_, id)| id).collect())
        };
        match (ids("queue_running"), ids("queue_pending")) {
            (Some(running), Some(pending)) => Ok(Queue { running, pending }),
            _ => Err(self.unexpected("/queue", "no lists of what runs and waits")),
        }
    }

    /// Takes a prompt out of the queue, or interrupts it when it is what runs; nobody else's is touched. Answers
    /// whether it is gone by now. An interrupt takes effect at the node's next look, and one that comes just before a
    /// prompt begins is lost: call again until it is gone.
    pub fn cancel(&self, prompt_id: &str) -> Result<bool, ClientError> {
        self.cancel_within(prompt_id, SHORT)
    }

    pub(super) fn cancel_within(&self, prompt_id: &str, patience: Duration) -> Result<bool, ClientError> {
        // One that runs, or is unknown, stays as it is.
        self.post("/queue", &json!({ "delete": [prompt_id] }), patience)?;
        let queue = self.queue_within(patience, &NEVER)?;
        if queue.running.iter().any(|id| id == prompt_id) {
            // A server of before autumn 2025 ignores the id and interrupts what runs, so that it was asked just before.
            self.post("/interrupt", &json!({ "prompt_id": prompt_id }), patience)?;
            return Ok(false);
        }
        Ok(!queue.has(prompt_id))
    }

    /// `POST /free`: asks for models to be unloaded and memory to be given back.
    pub fn free(&self) -> Result<(), ClientError> {
        self.post("/free", &json!({ "unload_models": true, "free_memory": true }), SHORT)
    }

    fn post(&self, path: &str, body: &Value, patience: Duration) -> Result<(), ClientError> {
        let request = self.request(reqwest::Method::POST, path)?.json(body);
        let (status, text) = self.call(path, request, patience, &NEVER)?;
        if status.is_success() { Ok(()) } else { Err(self.refused(path, status, &text)) }
    }

    fn get(&self, path: &str, patience: Duration, cancel: &AtomicBool) -> Result<Value, ClientError> {
        let (status, text) = self.call(path, self.request(reqwest::Method::GET, path)?, patience, cancel)?;
        if !status.is_success() {
            return Err(self.refused(path, status, &text));
        }
        serde_json::from_slice(&text).map_err(|error| self.unexpected(path, format!("not JSON: {error}")))
    }

    fn request(&self, method: reqwest::Method, path: &str) -> Result<RequestBuilder, ClientError> {
        let client = http::client().map_err(|source| ClientError::Runtime { source })?;
        Ok(client.request(method, format!("{}{path}", self.base)))
    }

    /// Sends a request and reads its whole answer.
    fn call(
        &self,
        path: &str,
        request: RequestBuilder,
        patience: Duration,
        cancel: &AtomicBool,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let exchange = async {
            let mut response = request.send().await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > ANSWER {
                    return Ok(None);
                }
            }
            Ok::<_, reqwest::Error>(Some((response.status(), body)))
        };
        match self.block_on(patient(exchange, patience, cancel))? {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(self.unexpected(path, format!("more than {ANSWER} bytes"))),
            Ok(Err(error)) => Err(self.failed(path, &error)),
            Err(waited) => Err(self.gave_up(path, waited, patience)),
        }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, ClientError> {
        let runtime = runtime().map_err(|source| ClientError::Runtime { source })?;
        Ok(runtime.block_on(future))
    }

    fn gave_up(&self, path: &str, waited: Waited, patience: Duration) -> ClientError {
        match waited {
            Waited::Cancelled => ClientError::Cancelled,
            Waited::TooLong => ClientError::Timeout { url: self.shown(path), after: patience },
        }
    }

    fn failed(&self, path: &str, error: &reqwest::Error) -> ClientError {
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            detail = inner.to_string();
            cause = inner.source();
        }
        if error.is_connect() {
            ClientError::Unreachable { url: self.shown(path), detail }
        } else {
            ClientError::Broken { url: self.shown(path), detail }
        }
    }

    fn refused(&self, path: &str, status: StatusCode, text: &[u8]) -> ClientError {
        let body: String = String::from_utf8_lossy(text).trim().chars().take(EXCERPT).collect();
        ClientError::Status { url: self.shown(path), status: status.as_u16(), body }
    }

    fn unexpected(&self, path: &str, reason: impl Into<String>) -> ClientError {
        ClientError::Unexpected { url: self.shown(path), reason: reason.into() }
    }

    fn shown(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// Text as one segment of a path or one value of a query.
pub(super) fn escaped(text: &str) -> impl std::fmt::Display + '_ {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}
