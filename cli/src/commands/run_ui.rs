//! `cvs run-ui`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cvs_versions::comfy::RunError;
use cvs_versions::spec::VersionId;
use serde::Serialize;

use super::shared::EnsureArgs;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::format;
use crate::runs::{
    self, DEFAULT_HOST, DEFAULT_PORT, End, Interrupts, Keep, Record, Role, Run, RunOptions, SeenTo,
};

/// Between two looks at the log.
const FOLLOW: Duration = Duration::from_millis(50);

/// Run a version's ComfyUI.
///
/// Brings the version's lock up to date, mounts it unless it is mounted, starts its ComfyUI, and prints the URL when it
/// answers. The log is shown until Ctrl-C, which stops ComfyUI and unmounts; a second Ctrl-C does not wait for it.
#[derive(Debug, Args)]
pub(crate) struct RunUiArgs {
    /// The version.
    #[arg(value_name = "VERSION")]
    id: VersionId,

    #[command(flatten)]
    pub(super) how: HowArgs,

    /// Leave it running, seen to by a process of its own: `cvs ps`, `cvs logs`, `cvs stop`, `cvs restart`.
    #[arg(long)]
    detach: bool,

    #[command(flatten)]
    ensure: EnsureArgs,

    /// Arguments for ComfyUI, behind those of the spec.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,

    /// What it is started for.
    #[arg(long, hide = true, default_value = "ui")]
    role: RoleArg,

    /// This process sees to a detached run.
    #[arg(long, hide = true)]
    supervisor: Option<Supervisor>,
}

/// Where it listens and where its directories are.
#[derive(Debug, Clone, Args)]
pub(crate) struct HowArgs {
    /// The address to listen on; 0.0.0.0 for all of this machine's.
    #[arg(long, default_value = DEFAULT_HOST)]
    host: String,

    /// The port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,

    /// Look for inputs here, and not in the version.
    #[arg(long, value_name = "DIR")]
    input_dir: Option<PathBuf>,

    /// Write outputs here, and not into the version.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,

    /// Keep settings and workflows here, and not in the version.
    #[arg(long, value_name = "DIR")]
    user_dir: Option<PathBuf>,

    /// Write temporary files below a directory of this version's name here.
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,

    /// Throw away at the end what was written.
    #[arg(long)]
    ephemeral: bool,

    /// Use plain files, even where the version can be mounted.
    #[arg(long)]
    no_fuse: bool,

    /// How long it may take until it answers, as a duration or in seconds.
    #[arg(
        long,
        value_name = "DURATION",
        env = "COMFY_STARTUP_TIMEOUT",
        hide_env_values = true,
        default_value = "180s",
        value_parser = timeout
    )]
    startup_timeout: Duration,
}

impl HowArgs {
    /// The options of a run.
    pub(crate) fn options(&self, role: Role, args: &[String], lenient: bool) -> Result<RunOptions, CliError> {
        let absolute = |path: &Option<PathBuf>| {
            path.as_deref().map(std::path::absolute).transpose().map_err(CliError::WorkingDirectory)
        };
        Ok(RunOptions {
            role,
            host: self.host.clone(),
            port: self.port,
            args: args.to_vec(),
            input: absolute(&self.input_dir)?,
            output: absolute(&self.output_dir)?,
            user: absolute(&self.user_dir)?,
            temp: absolute(&self.temp_dir)?,
            ephemeral: self.ephemeral,
            no_fuse: self.no_fuse,
            lenient,
            startup_timeout: self.startup_timeout,
        })
    }
}

/// A duration, or a number of seconds as the variable has always had it.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let length = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => format::parse_duration(text),
    }?;
    if length.is_zero() { Err("more than no time".to_owned()) } else { Ok(length) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    Ui,
    Handler,
    Serve,
    Check,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Ui => Self::Ui,
            RoleArg::Handler => Self::Handler,
            RoleArg::Serve => Self::Serve,
            RoleArg::Check => Self::Check,
        }
    }
}

/// How long a supervisor goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Supervisor {
    /// Until it is stopped.
    Free,
    /// Until who started it is gone.
    Tied,
}

/// What is printed of a server that answers.
#[derive(Serialize)]
struct Answer<'a> {
    version: &'a str,
    url: Option<&'a str>,
    pid: Option<u32>,
    detached: bool,
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    log: &'a Path,
}

pub(crate) fn run(context: &Context, args: &RunUiArgs) -> Result<Exit, CliError> {
    if let Some(supervisor) = args.supervisor {
        return supervise(context, args, supervisor).inspect_err(runs::say_failed);
    }
    let options = args.how.options(args.role.into(), &args.args, args.ensure.lenient)?;
    // Said before anything is fetched.
    runs::check_free(context, args.id.as_str(), &options)?;
    let ready = args.ensure.ensure(context, &args.id)?;
    if args.detach {
        let running = runs::start(context, &ready, &options, Keep::Warm)?;
        say(context, &running.record)?;
        context
            .output()
            .note(&format!("{0} runs; `cvs logs {0}` shows its log, `cvs stop {0}` ends it", args.id));
        return Ok(Exit::Ok);
    }
    let interrupts = Interrupts::watch(context.cancel())?;
    let run = Run::begin(context, &ready, &options, SeenTo::Here)?;
    let follower = Follower::start(context, &run)?;
    let end = run.run(&interrupts, &mut |record| {
        runs::notify_ready();
        say(context, record)?;
        context.output().note(&format!("{} runs; Ctrl-C stops it", record.version));
        Ok(())
    });
    follower.end();
    match end {
        Ok(End::Stopped) => Ok(Exit::Ok),
        Ok(End::Exited) => {
            context.output().note("ComfyUI ended by itself");
            Ok(Exit::Ok)
        }
        Err(error) => Err(if context.output().is_quiet() { error } else { without_tail(error) }),
    }
}

/// The log has been shown as it came.
fn without_tail(error: CliError) -> CliError {
    match error {
        CliError::Run(RunError::Crashed { status, reason, .. }) => {
            RunError::Crashed { status, reason, tail: Vec::new() }.into()
        }
        CliError::Run(RunError::StartTimeout { after, .. }) => {
            RunError::StartTimeout { after, tail: Vec::new() }.into()
        }
        error => error,
    }
}

fn supervise(context: &Context, args: &RunUiArgs, supervisor: Supervisor) -> Result<Exit, CliError> {
    // Asked for first: who is gone is nobody's parent.
    let seen_to = match supervisor {
        Supervisor::Free => SeenTo::Alone,
        Supervisor::Tied => SeenTo::For(std::os::unix::process::parent_id()),
    };
    runs::leave_session()?;
    let options = args.how.options(args.role.into(), &args.args, args.ensure.lenient)?;
    let interrupts = Interrupts::watch(context.cancel())?;
    if supervisor == Supervisor::Tied {
        let name = runs::name_of(args.id.as_str(), options.role);
        let log = runs::log::path(context.store()?.home(), &name);
        runs::stop_with_starter(log, Arc::clone(interrupts.stop()));
    }
    let ready = args.ensure.ensure(context, &args.id)?;
    let run = Run::begin(context, &ready, &options, seen_to)?;
    run.run(&interrupts, &mut |record| {
        runs::say_ready(record);
        Ok(())
    })?;
    Ok(Exit::Ok)
}

pub(super) fn say(context: &Context, record: &Record) -> Result<(), CliError> {
    if context.output().is_json() {
        return context.output().json(&Answer {
            version: &record.version,
            url: record.url.as_deref(),
            pid: record.comfy.as_ref().map(|comfy| comfy.pid),
            detached: record.detached,
            log: &record.log,
        });
    }
    context.output().text(&format!("{}\n", record.url.as_deref().unwrap_or_default()))
}

/// Shows a log on stderr as it grows, until it is told to end.
struct Follower {
    end: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Follower {
    fn start(context: &Context, run: &Run<'_>) -> Result<Self, CliError> {
        let end = Arc::new(AtomicBool::new(false));
        if context.output().is_quiet() {
            return Ok(Self { end, thread: None });
        }
        let (log, from) = run.log();
        let mut follow = runs::log::Follow::new(&log, from)?;
        let thread = thread::spawn({
            let (end, output) = (Arc::clone(&end), context.output().clone());
            move || {
                loop {
                    let was_ended = end.load(Ordering::Acquire);
                    match follow.read() {
                        Ok(bytes) if bytes.is_empty() && was_ended => return,
                        Ok(bytes) if bytes.is_empty() => thread::park_timeout(FOLLOW),
                        Ok(bytes) => output.relay(&bytes),
                        Err(error) => return tracing::warn!(%error, "the log is no longer shown"),
                    }
                }
            }
        });
        Ok(Self { end, thread: Some(thread) })
    }

    fn end(self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_seconds_or_durations() {
        for (text, expected) in [
            ("180", Ok(Duration::from_secs(180))),
            ("0.5", Ok(Duration::from_millis(500))),
            ("3min", Ok(Duration::from_secs(180))),
            ("1500ms", Ok(Duration::from_millis(1500))),
            ("0", Err(())),
            ("-1", Err(())),
            ("soon", Err(())),
        ] {
            assert_eq!(timeout(text).map_err(drop), expected, "{text}");
        }
    }
}
