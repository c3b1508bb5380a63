//! One job from its input to its outcome, on a ComfyUI that is kept running.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;

use super::error::Trouble;
use super::jobs::{JobStatus, Jobs, Outcome, Taken, WorkerState};
use super::payload::{Content, Input, OutputMode, Workflow};
use super::{Backend, Config, ServeEvent, Target};
use crate::comfy::{
    Client, Fetched, JobError, JobEvent, JobRequest, JobResult, OutputFile, collect, missing_or, run_job,
    safe_name,
};
use crate::fetch::{FetchError, fetch_within};
use crate::source::hex;
use crate::workflow::{Document, ObjectInfo, Prompt};

/// The largest workflow that is fetched, in bytes.
const WORKFLOW: usize = 32 << 20;

pub(super) struct Worker<'a, B: Backend> {
    config: &'a Config,
    jobs: &'a Jobs,
    backend: &'a mut B,
    events: &'a dyn Fn(ServeEvent<'_>),
    target: Option<Target>,
}

/// The job at hand.
struct Errand<'a> {
    id: &'a str,
    cancel: &'a AtomicBool,
    patience: Duration,
    begin: Instant,
}

impl Errand<'_> {
    fn left(&self) -> Duration {
        self.patience.saturating_sub(self.begin.elapsed())
    }

    fn fetch(&self, url: &Url, limit: usize) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        match fetch_within(url, &mut bytes, limit as u64, self.left(), self.cancel) {
            Ok(Some(_)) => Ok(bytes),
            Ok(None) => Err(Trouble::TimedOut { after: self.patience }),
            Err(FetchError::Cancelled) => Err(Trouble::Cancelled),
            Err(error) => Err(error.into()),
        }
    }

    fn check(&self) -> Result<(), Trouble> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Trouble::Cancelled)
        } else if self.left().is_zero() {
            Err(Trouble::TimedOut { after: self.patience })
        } else {
            Ok(())
        }
    }
}

impl<'a, B: Backend> Worker<'a, B> {
    pub(super) fn new(
        config: &'a Config,
        jobs: &'a Jobs,
        backend: &'a mut B,
        events: &'a dyn Fn(ServeEvent<'_>),
    ) -> Self {
        Self { config, jobs, backend, events, target: None }
    }

    /// Whether there is a ComfyUI, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        self.target.is_some()
    }

    /// Looks whether it still lives.
    pub(super) fn look(&mut self) {
        if self.target.is_some() && !self.backend.is_alive() {
            self.lose("it ended by itself");
        }
    }

    /// Sees to it that there is one, or says why not.
    pub(super) fn prepare(&mut self) -> Result<(), String> {
        if self.target.is_none() {
            let target = self.backend.acquire().map_err(|error| error.to_string())?;
            self.jobs.set_worker(WorkerState::Ready);
            (self.events)(ServeEvent::Ready { base_url: &target.base_url });
            self.target = Some(target);
        }
        Ok(())
    }

    fn lose(&mut self, reason: &str) {
        self.target = None;
        self.jobs.set_worker(WorkerState::Initializing);
        self.backend.discard();
        (self.events)(ServeEvent::Lost { reason });
    }

    /// Runs a job, and sees to its end in the books.
    pub(super) fn run(&mut self, taken: Taken) {
        let Taken { id, input, cancel, patience } = taken;
        (self.events)(ServeEvent::Started { id: &id });
        let errand = Errand { id: &id, cancel: &cancel, patience, begin: Instant::now() };
        let done = self.carry_out(input, &errand);
        let outcome = match done {
            Ok((output, size)) => {
                Outcome { status: JobStatus::Completed, output: Some(output), error: None, size }
            }
            Err(trouble) => {
                let status = match &trouble {
                    Trouble::Cancelled | Trouble::Job(JobError::Cancelled) => JobStatus::Cancelled,
                    Trouble::TimedOut { .. } | Trouble::Job(JobError::TimedOut { .. }) => JobStatus::TimedOut,
                    _ => JobStatus::Failed,
                };
                Outcome::bad(status, trouble.to_string())
            }
        };
        let (status, error, ran) = self.jobs.finish(&id, outcome);
        (self.events)(ServeEvent::Ended { id: &id, status, error: error.as_deref(), ran });
    }

    fn carry_out(&mut self, input: Input, errand: &Errand<'_>) -> Result<(Value, usize), Trouble> {
        let Input { workflow, files, output_mode, allow_partial, .. } = input;
        let document = match workflow {
            Workflow::Here(document) => *document,
            Workflow::At(url) => {
                let bytes = errand.fetch(&url, WORKFLOW)?;
                Document::parse(&String::from_utf8_lossy(&bytes))?
            }
        };
        let mut contents = Vec::with_capacity(files.len());
        for file in files {
            let bytes = match file.content {
                Content::Bytes(bytes) => bytes,
                Content::At(url) => errand.fetch(&url, self.config.input_limit)?,
            };
            contents.push((file.name, bytes));
        }
        self.look();
        self.prepare().map_err(Trouble::Backend)?;
        let Some(target) = self.target.clone() else {
            return Err(Trouble::Backend("it is gone again".to_owned()));
        };
        let client = Client::new(&target.base_url)?;
        let (prompt, extra) = make_prompt(&client, document, contents, errand)?;
        let result = self.run_prompt(&client, &target, &prompt, extra.as_ref(), allow_partial, errand)?;
        match output_mode {
            OutputMode::Base64 => self.hand_over(&client, &result, errand),
            OutputMode::Directory => self.put_down(&client, &result, errand),
        }
    }

    fn run_prompt(
        &mut self,
        client: &Client,
        target: &Target,
        prompt: &Prompt,
        extra: Option<&Value>,
        allow_partial: bool,
        errand: &Errand<'_>,
    ) -> Result<JobResult, Trouble> {
        errand.check()?;
        let prompt = Value::Object(prompt.as_object().clone());
        let request = JobRequest {
            prompt: &prompt,
            extra_data: extra,
            allow_partial,
            respond_timeout: self.config.respond_timeout,
            total_timeout: Some(errand.left()),
            watch: None,
            log: target.log.as_deref(),
        };
        let prompt_id = std::cell::RefCell::new(String::new());
        let jobs = self.jobs;
        let note = |event: JobEvent<'_>| match event {
            JobEvent::Queued { prompt_id: id } => id.clone_into(&mut prompt_id.borrow_mut()),
            JobEvent::Node { id, class_type, .. } => {
                jobs.set_progress(errand.id, json!({ "node": id, "class_type": class_type }));
            }
            JobEvent::Progress { id, value, max } => {
                jobs.set_progress(errand.id, json!({ "node": id, "value": value, "max": max }));
            }
            _ => {}
        };
        let done = run_job(client, &request, &note, errand.cancel);
        match &done {
            Err(JobError::Gone { .. } | JobError::Died(_)) => self.lose("it died while a job ran"),
            Err(JobError::Silent { .. }) => self.lose("it gives no sign of life"),
            Err(JobError::Cancelled | JobError::TimedOut { .. }) => {
                // The next job must not wait for a node that does not look at interrupts.
                let still = client.queue().map_or(true, |queue| queue.has(&prompt_id.borrow()));
                if still {
                    self.lose("it goes on with a job that was cancelled");
                }
            }
            _ => {}
        }
        Ok(done?)
    }

    /// Puts the files into the answer.
    fn hand_over(
        &self,
        client: &Client,
        result: &JobResult,
        errand: &Errand<'_>,
    ) -> Result<(Value, usize), Trouble> {
        let limit = self.config.keep_bytes;
        let (mut entries, mut size) = (Vec::new(), 0);
        for file in files_of(result) {
            errand.check()?;
            // Four characters for three bytes.
            let left = limit.saturating_sub(size) / 4 * 3;
            let mut bytes = Bounded { bytes: Vec::new(), left, over: false };
            let name = Path::new(&file.file.filename);
            let fetched = client.view(&file.file, &mut bytes, name, errand.cancel);
            let fetched = fetched.map_err(|error| match bytes.over {
                true => Trouble::TooLarge { limit },
                false => Trouble::Job(missing_or(error, file)),
            })?;
            let data = STANDARD.encode(&bytes.bytes);
            size += data.len();
            entries.push(entry(file, &fetched, "base64", ("data", data.into())));
        }
        Ok((output(entries, result), size))
    }

    /// Puts the files into a directory.
    fn put_down(
        &self,
        client: &Client,
        result: &JobResult,
        errand: &Errand<'_>,
    ) -> Result<(Value, usize), Trouble> {
        let dir = self.config.output_dir.join(errand.id);
        fs::create_dir_all(&dir).map_err(|source| Trouble::Io {
            operation: "create",
            path: dir.clone(),
            source,
        })?;
        let files: Vec<OutputFile> = files_of(result).to_vec();
        let collected = collect(client, &files, &dir, &|_| {}, errand.cancel).inspect_err(|_| {
            // Half a result is none; the error says why.
            let _ = fs::remove_dir_all(&dir);
        })?;
        let entries = collected
            .iter()
            .map(|file| {
                let path = file.path.to_string_lossy().into_owned();
                entry(&file.output, &file.fetched, "path", ("path", path.into()))
            })
            .collect();
        Ok((output(entries, result), 0))
    }
}

/// What the server is to run: the editor's format converted, inputs uploaded and put in their places.
fn make_prompt(
    client: &Client,
    document: Document,
    files: Vec<(String, Vec<u8>)>,
    errand: &Errand<'_>,
) -> Result<(Prompt, Option<Value>), Trouble> {
    errand.check()?;
    let ask = || Ok::<_, Trouble>(ObjectInfo::new(client.object_info()?));
    let (mut prompt, info, graph) = match document {
        Document::Prompt(prompt) => (prompt, if files.is_empty() { None } else { Some(ask()?) }, None),
        Document::Graph(graph) => {
            let info = ask()?;
            // Choices in texts are made anew for each job, as the editor does.
            let prompt = graph.convert(&info, &mut random)?.prompt;
            (prompt, Some(info), Some(Value::Object(graph.as_object().clone())))
        }
    };
    // Nodes write it into their files; with other inputs it would tell of another picture.
    let extra = graph.filter(|_| files.is_empty());
    let extra = extra.map(|graph| json!({ "extra_pnginfo": { "workflow": graph } }));
    for (name, bytes) in files {
        errand.check()?;
        let inputs = prompt.inputs_of_file(&name, info.as_ref())?;
        let uploaded = client.upload_bytes(bytes, &name, errand.cancel)?;
        for (node, input) in inputs {
            prompt.set_file(&node, &input, &uploaded.reference());
        }
    }
    Ok((prompt, extra))
}

/// A number below `count`.
fn random(count: usize) -> usize {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    usize::try_from(high % (count.max(1) as u64)).unwrap_or(0)
}

/// The files that are handed over: those that are kept, or the previews where there are no others.
fn files_of(result: &JobResult) -> &[OutputFile] {
    match result.outputs.files.as_slice() {
        [] => &result.outputs.temporary,
        files => files,
    }
}

fn entry(file: &OutputFile, fetched: &Fetched, how: &str, content: (&str, Value)) -> Value {
    let mut entry = Map::new();
    let name = safe_name(&file.file.filename);
    for (key, value) in [
        ("filename", name.into()),
        ("type", how.into()),
        (content.0, content.1),
        ("node", file.node.as_str().into()),
        ("class_type", file.class_type.as_str().into()),
        ("kind", file.kind.as_str().into()),
        ("subfolder", file.file.subfolder.as_str().into()),
        ("folder", file.file.folder.as_str().into()),
        ("size", fetched.size.into()),
        ("sha256", hex(&fetched.sha256).into()),
    ] {
        entry.insert(key.to_owned(), value);
    }
    Value::Object(entry)
}

fn output(images: Vec<Value>, result: &JobResult) -> Value {
    let mut output = json!({ "images": images });
    if !result.outputs.texts.is_empty() {
        output["texts"] = json!(result.outputs.texts);
    }
    if !result.left_out.is_empty() {
        output["left_out"] = json!(result.left_out);
    }
    output
}

/// Bytes in memory, up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
    /// Whether there were more.
    over: bool,
}

impl Write for Bounded {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if chunk.len() > self.left {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.left -= chunk.len();
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
