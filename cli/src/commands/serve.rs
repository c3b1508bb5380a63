//! `cvs serve`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use cvs_versions::Ready;
use cvs_versions::serve::{
    self, Backend, Config, Counts, OutputMode, ServeError, ServeEvent, Stop, Target, Token,
};
use cvs_versions::spec::VersionId;
use serde::Serialize;

use super::run_ui::timeout;
use super::shared::EnsureArgs;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::jobs::Source;
use crate::progress::Unit;
use crate::runs::{self, Keep, Role, RunOptions, Running};

/// Take jobs over HTTP.
///
/// Starts the version's ComfyUI, keeps it warm, and runs workflows on it one after the other, in the shape of RunPod's
/// endpoints: POST /run, POST /runsync, GET /status/ID, POST /cancel/ID, GET /health. The URL is printed when jobs are
/// taken. The first Ctrl-C takes no more jobs and lets the one that runs end; the second ends it at once.
///
/// With a token, in CVS_SERVE_TOKEN or a file, every request must carry it as `Authorization: Bearer TOKEN`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    /// The address to listen on. One that other machines can reach needs a token.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: std::net::IpAddr,

    /// The port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 8000)]
    port: u16,

    /// Read the token from this file, and not from CVS_SERVE_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Listen on an address that other machines can reach, without a token: whoever reaches it can run workflows.
    #[arg(long)]
    without_token: bool,

    /// What runs when a job brings no workflow: a file, an address, or - for standard input. Without it, that of the
    /// spec, if it has one.
    #[arg(long, short, value_name = "FILE|URL|-")]
    workflow: Option<String>,

    /// How results are handed over when a job does not say: in the answer, or in a directory of its own below
    /// --output-dir.
    #[arg(long, value_name = "base64|directory", default_value = "base64", value_parser = output_mode)]
    output_mode: OutputMode,

    /// Where results go that are not handed over in the answer. Without it, outputs/VERSION.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,

    /// How many jobs may wait.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,

    /// The largest request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=2048))]
    max_body: u32,

    /// How long a job may run when it does not say, as a duration or in seconds.
    #[arg(long, value_name = "DURATION", default_value = "600s", value_parser = timeout)]
    job_timeout: Duration,

    /// How long results are kept.
    #[arg(long, value_name = "DURATION", default_value = "30min", value_parser = timeout)]
    keep: Duration,

    /// How long the job that runs may go on after Ctrl-C.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = timeout)]
    drain: Duration,

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

fn output_mode(text: &str) -> Result<OutputMode, String> {
    OutputMode::parse(text).ok_or_else(|| "base64 or directory".to_owned())
}

/// What is printed of a server that takes jobs.
#[derive(Serialize)]
struct Answer<'a> {
    version: &'a str,
    url: &'a str,
    comfyui: &'a str,
}

pub(crate) fn run(context: &Context, args: &ServeArgs) -> Result<Exit, CliError> {
    // What can be found wrong before anything is fetched or started, is.
    let token = token(args)?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = serve::bind(address, token.as_ref(), args.without_token)?;
    let bound = listener.local_addr().map_err(|source| ServeError::Runtime { source })?;
    let given = args.workflow.as_deref().map(|name| Source::named(context, name)).transpose()?;
    let ready = args.ensure.ensure(context, &args.id)?;
    let mut backend = Kept { context, ready: &ready, options: options(args), running: None };
    let first = backend.start()?;
    let root = backend.running.as_ref().and_then(|running| running.record.root.clone());
    let workflow = match (given, &ready.spec.workflow) {
        (Some(source), _) => Some(source.into_document()),
        (None, None) => None,
        (None, Some(_)) => Some(Source::of_spec(context, &ready, root.as_deref())?.into_document()),
    };
    let output_dir = match &args.output_dir {
        Some(dir) => dir.clone(),
        None => PathBuf::from("outputs").join(args.id.as_str()),
    };
    let config = Config {
        workflow,
        token,
        queue: args.queue.into(),
        body_limit: args.max_body as usize * (1 << 20),
        job_timeout: args.job_timeout,
        keep: args.keep,
        output_mode: args.output_mode,
        drain: args.drain,
        ..Config::new(args.id.as_str(), std::path::absolute(output_dir).map_err(CliError::WorkingDirectory)?)
    };
    let url = format!("http://{bound}");
    if context.output().is_json() {
        context.output().json(&Answer { version: args.id.as_str(), url: &url, comfyui: &first.base_url })?;
    } else {
        context.output().text(&format!("{url}\n"))?;
    }
    context.output().note(&format!("{} takes jobs; Ctrl-C stops it", args.id));
    runs::notify_ready();

    let cancel = Arc::clone(context.cancel());
    let stop = move || if cancel.load(Ordering::Relaxed) { Stop::Drain } else { Stop::No };
    let served = serve::serve(listener, config, &mut backend, &|event| say(context, event), &stop);
    runs::notify_stopping();
    let released = backend.running.take().map_or(Ok(()), Running::release);
    let Counts { completed, failed, cancelled, timed_out } = served?;
    released?;
    context.output().note(&format!(
        "{completed} completed, {failed} failed, {cancelled} cancelled, {timed_out} timed out"
    ));
    Ok(Exit::Ok)
}

/// The secret that requests carry. It is never an argument, which everybody on the machine can read.
fn token(args: &ServeArgs) -> Result<Option<Token>, CliError> {
    let secret = match &args.token_file {
        Some(path) => Some(fs::read_to_string(path).map_err(runs::RunsError::io("read", path))?),
        None => std::env::var("CVS_SERVE_TOKEN").ok().filter(|secret| !secret.is_empty()),
    };
    Ok(secret.map(|secret| Token::new(&secret)).transpose()?)
}

fn options(args: &ServeArgs) -> RunOptions {
    RunOptions {
        args: args.args.clone(),
        ephemeral: args.ephemeral,
        no_fuse: args.no_fuse,
        lenient: args.ensure.lenient,
        ..RunOptions::new(Role::Serve)
    }
}

/// The version's ComfyUI, which ends with this process.
struct Kept<'a> {
    context: &'a Context,
    ready: &'a Ready,
    options: RunOptions,
    running: Option<Running>,
}

impl Kept<'_> {
    fn start(&mut self) -> Result<Target, CliError> {
        let version = &self.ready.spec.version_id;
        let running = {
            let _task = self.context.progress().task(format!("starting {version}"), Unit::Items);
            runs::acquire(self.context, self.ready, &self.options, Keep::Tied)?
        };
        if running.was_warm {
            self.context.output().note(&format!("using {version} as it runs at {}", running.url()));
        }
        let target = Target { base_url: running.url().to_owned(), log: Some(running.record.log.clone()) };
        self.running = Some(running);
        Ok(target)
    }
}

impl Backend for Kept<'_> {
    type Error = CliError;

    fn acquire(&mut self) -> Result<Target, CliError> {
        match &self.running {
            // Started before jobs were taken.
            Some(running) => {
                Ok(Target { base_url: running.url().to_owned(), log: Some(running.record.log.clone()) })
            }
            None => self.start(),
        }
    }

    fn is_alive(&mut self) -> bool {
        let comfy = self.running.as_ref().and_then(|running| running.record.comfy.as_ref());
        comfy.is_some_and(cvs_store::ProcessId::is_alive)
    }

    fn discard(&mut self) {
        if let Some(running) = self.running.take()
            && let Err(error) = running.release()
        {
            tracing::warn!(%error, "ending what ran");
        }
    }
}

fn say(context: &Context, event: ServeEvent<'_>) {
    let output = context.output();
    match event {
        ServeEvent::Ready { base_url } => tracing::info!(base_url, "ComfyUI answers"),
        ServeEvent::Lost { reason } => output.warning(&format!("ComfyUI is started anew: {reason}")),
        ServeEvent::NotReady { reason, again } => {
            output.error(&format!("{reason}\nit is tried again in {}", format::duration(again)));
        }
        ServeEvent::Started { id } => output.note(&format!("{id}: begins")),
        ServeEvent::Ended { id, status, error, ran } => {
            let error = error.map_or(String::new(), |error| format!(": {error}"));
            let status = status.word().to_ascii_lowercase().replace('_', " ");
            output.note(&format!("{id}: {status} after {}{error}", format::duration(ran)));
        }
    }
}
