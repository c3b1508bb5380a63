//! `cvs run-handler`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use cvs_versions::Ready;
use cvs_versions::comfy::{self, Client, JobError, JobRequest};
use cvs_versions::spec::VersionId;
use cvs_versions::workflow::ObjectInfo;
use serde_json::{Value, json};

use super::run_ui::timeout;
use super::shared::EnsureArgs;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::jobs::{
    self, Delivery, Destination, Follower, Inputs, JobsError, RunRecord, Source, Status, Uploads, random,
    seconds,
};
use crate::progress::Unit;
use crate::runs::{self, Keep, Role, RunOptions, Running};

/// Run a workflow once, and collect what it makes.
///
/// Brings the version's lock up to date, starts its ComfyUI (or uses the one that runs), submits the workflow, follows
/// it, and collects every output into a directory of its own, `outputs/VERSION/RUN/`, with a `run.json` that says what
/// ran, with which seeds and inputs, and what came of it. The paths of the outputs are printed.
///
/// The workflow is in the API format or in that of the editor, which is converted with what the running server says of
/// its nodes. It fails unless ComfyUI says success and there is output.
#[derive(Debug, Args)]
pub(crate) struct RunHandlerArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    /// The workflow: a file, an address, or - for standard input. Without it, that of the spec.
    #[arg(long, short, value_name = "FILE|URL|-")]
    workflow: Option<String>,

    /// Put a file in the place of another: NAME is the file's name in the workflow, or NODE.INPUT. May be repeated.
    #[arg(long = "input", short, value_name = "NAME=FILE|URL")]
    inputs: Vec<String>,

    /// Set an input of a node, which is named by its id, its title or its class. May be repeated.
    #[arg(long = "set", short, value_name = "NODE.INPUT=VALUE")]
    sets: Vec<String>,

    /// Give every seed another value, which run.json tells.
    #[arg(long)]
    random_seed: bool,

    /// Where outputs go: a directory, in which every run gets one of its own; base64, for JSON that holds them; a
    /// bucket. Without it, OUTPUT_MODE, else outputs/VERSION.
    #[arg(long, short, value_name = "DIR|base64|s3://BUCKET/PREFIX|gs://BUCKET/PREFIX")]
    output: Option<String>,

    /// The bucket of `--output gcs`.
    #[arg(long, value_name = "BUCKET", env = "GCS_BUCKET", hide_env_values = true)]
    gcs_bucket: Option<String>,

    /// The beginning of names in the bucket of `--output gcs`.
    #[arg(long, value_name = "PREFIX", env = "GCS_PREFIX", hide_env_values = true)]
    gcs_prefix: Option<String>,

    /// Write what would be printed to this file.
    #[arg(long, value_name = "FILE")]
    out_file: Option<PathBuf>,

    /// Run what can be run when ComfyUI refuses a part of the workflow.
    #[arg(long)]
    allow_partial: bool,

    /// How long the workflow may take, as a duration or in seconds.
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<Duration>,

    /// Leave ComfyUI running for the next workflow; `cvs ps` shows it, `cvs stop` ends it.
    #[arg(long)]
    keep_alive: bool,

    /// Throw away at the end what was written into the version.
    #[arg(long)]
    ephemeral: bool,

    /// Use plain files, even where the version can be mounted.
    #[arg(long)]
    no_fuse: bool,

    #[command(flatten)]
    ensure: EnsureArgs,

    /// Arguments for ComfyUI, behind those of the spec.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &RunHandlerArgs) -> Result<Exit, CliError> {
    // What can be found wrong before a server has started, is.
    let mode = std::env::var("OUTPUT_MODE").ok().filter(|mode| !mode.is_empty());
    let gcs = (args.gcs_bucket.as_deref(), args.gcs_prefix.as_deref());
    let output = args.output.as_deref().or(mode.as_deref());
    let destination = Destination::parse(output, args.id.as_str(), gcs)?;
    let inputs = Inputs::parse(&args.inputs)?;
    let given = args.workflow.as_deref().map(|name| Source::named(context, name)).transpose()?;
    let ready = args.ensure.ensure(context, &args.id)?;
    if given.is_none() && ready.spec.workflow.is_none() {
        return Err(JobsError::NoWorkflow { version: args.id.to_string() }.into());
    }

    let begun = Instant::now();
    let running = acquire(context, args, &ready)?;
    let server = begun.elapsed();
    let job = Job { context, args, ready: &ready, running: &running, destination: &destination };
    let done = job.run(given, &inputs, server);
    let released = running.release();
    let done = done?;
    released?;
    Ok(done)
}

fn acquire(context: &Context, args: &RunHandlerArgs, ready: &Ready) -> Result<Running, CliError> {
    let options = RunOptions {
        args: args.args.clone(),
        ephemeral: args.ephemeral,
        no_fuse: args.no_fuse,
        lenient: args.ensure.lenient,
        ..RunOptions::new(Role::Handler)
    };
    let _task = context.progress().task(format!("starting {}", args.id), Unit::Items);
    let keep = if args.keep_alive { Keep::Warm } else { Keep::Tied };
    let running = runs::acquire(context, ready, &options, keep)?;
    if running.was_warm {
        context.output().note(&format!("using {} as it runs at {}", args.id, running.url()));
    }
    Ok(running)
}

/// One workflow on a server that answers.
struct Job<'a> {
    context: &'a Context,
    args: &'a RunHandlerArgs,
    ready: &'a Ready,
    running: &'a Running,
    destination: &'a Destination,
}

/// What is submitted.
struct Submission {
    prompt: Value,
    extra: Option<Value>,
    nodes: usize,
    _uploads: Uploads,
}

impl Job<'_> {
    fn run(&self, given: Option<Source>, inputs: &Inputs, server: Duration) -> Result<Exit, CliError> {
        let client = Client::new(self.running.url()).map_err(JobsError::from)?;
        let root = self.running.record.root.as_deref();
        let source = match given {
            Some(source) => source,
            None => Source::of_spec(self.context, self.ready, root)?,
        };
        let view = self.ready.view_id.to_hex();
        let mut record = RunRecord::new(self.args.id.to_string(), view, source.name.clone());
        record.timings.server = seconds(server);
        record.timings.warm = self.running.was_warm;
        let submission = self.submission(&client, source, inputs, root, &mut record)?;
        let delivery = self.destination.open(self.context, &record)?;
        let outcome = self.submit(&client, &submission, &delivery, &mut record);
        if let Err(error) = &outcome {
            record.fail(error);
            self.tell_failure(error);
        }
        record.finish();
        let places = match (delivery.finish(&record), outcome) {
            (places, Ok(())) => places?,
            (unfinished, Err(error)) => {
                if let Err(unfinished) = unfinished {
                    self.context.output().warning(&format!("the record of the run is lost: {unfinished}"));
                } else if let Some(path) = Delivery::record_path(self.destination, &record) {
                    self.context.output().note(&format!("its record is {}", path.display()));
                }
                if self.context.output().is_json() || matches!(self.destination, Destination::Inline) {
                    self.print(&record.text())?;
                }
                return Err(error.into());
            }
        };
        self.tell_success(&record);
        if self.context.output().is_json() || matches!(self.destination, Destination::Inline) {
            self.print(&record.text())?;
        } else {
            self.print(&places.iter().map(|place| format!("{place}\n")).collect::<String>())?;
        }
        Ok(Exit::Ok)
    }

    /// Makes the prompt, with all that was asked to be changed in it.
    fn submission(
        &self,
        client: &Client,
        source: Source,
        inputs: &Inputs,
        root: Option<&Path>,
        record: &mut RunRecord,
    ) -> Result<Submission, CliError> {
        let info = ObjectInfo::new(client.object_info().map_err(JobsError::from)?);
        let mut prepared = jobs::prepare(source, &info, &mut random)?;
        for note in &prepared.notes {
            self.context.output().note(&note.to_string());
        }
        if self.args.random_seed {
            prepared.prompt.randomize_seeds(&info, &mut random);
        }
        for set in &self.args.sets {
            let done = prepared.prompt.set(set, Some(&info));
            done.map_err(|source| JobsError::Change {
                argument: format!("--set {set}"),
                source: source.into(),
            })?;
        }
        let (files, uploads) = inputs.put(self.context, client, &mut prepared.prompt, &info, root)?;
        // A document that would make something else than the prompt does is no help in the file.
        let unchanged = self.args.sets.is_empty() && inputs.is_empty() && !self.args.random_seed;
        let graph = prepared.graph.filter(|_| unchanged);
        record.seeds = prepared.prompt.seeds();
        record.set.clone_from(&self.args.sets);
        record.inputs = files;
        record.notes = prepared.notes;
        record.workflow = prepared.prompt.clone().into_object();
        Ok(Submission {
            nodes: prepared.prompt.nodes().count(),
            prompt: Value::Object(prepared.prompt.into_object()),
            extra: graph.map(|graph| json!({ "extra_pnginfo": { "workflow": graph } })),
            _uploads: uploads,
        })
    }

    fn submit(
        &self,
        client: &Client,
        submission: &Submission,
        delivery: &Delivery<'_>,
        record: &mut RunRecord,
    ) -> Result<(), JobsError> {
        let log = self.running.record.log.as_path();
        let request = JobRequest {
            prompt: &submission.prompt,
            extra_data: submission.extra.as_ref(),
            allow_partial: self.args.allow_partial,
            respond_timeout: comfy::respond_timeout(),
            total_timeout: self.args.timeout,
            watch: None,
            log: Some(log),
        };
        let follower = Follower::new(self.context.output(), submission.nodes);
        let cancel = self.context.cancel();
        let result = comfy::run_job(client, &request, &|event| follower.hear(event), cancel);
        record.timings.nodes = follower.finish();
        let result = result?;
        record.prompt_id = Some(result.prompt_id);
        record.timings.queued = seconds(result.queued);
        record.timings.run = seconds(result.ran);
        let begun = Instant::now();
        delivery.collect(self.context, client, &result.outputs, record, cancel)?;
        record.timings.collect = seconds(begun.elapsed());
        record.status = if result.left_out.is_empty() { Status::Success } else { Status::Partial };
        record.left_out = result.left_out;
        record.texts = result.outputs.texts;
        Ok(())
    }

    fn tell_failure(&self, error: &JobsError) {
        let output = self.context.output();
        if error.is_interrupted() {
            output.note("the workflow was cancelled");
        }
        if let JobsError::Job(job) = error
            && matches!(**job, JobError::Gone { .. })
            && let Some(reason) = self.running.reason_of_end(self.context)
        {
            output.note(&format!("ComfyUI ended: {reason}"));
        }
    }

    fn tell_success(&self, record: &RunRecord) {
        let output = self.context.output();
        for left_out in &record.left_out {
            output.warning(&format!("left out: {left_out}"));
        }
        let bytes = record.outputs.iter().map(|output| output.size).sum();
        output.note(&format!(
            "{}: {}, {}, in {}",
            self.args.id,
            format::counted(record.outputs.len() as u64, "output"),
            format::bytes(bytes),
            format::duration(Duration::from_secs_f64(record.timings.run))
        ));
    }

    /// Prints data, or writes it where it was asked for.
    fn print(&self, text: &str) -> Result<(), CliError> {
        match &self.args.out_file {
            None => self.context.output().text(text),
            Some(path) => Ok(std::fs::write(path, text).map_err(JobsError::io("write", path))?),
        }
    }
}
