//! One run from its beginning to its end: place, interpreter, ComfyUI, and back. Whatever happens on the way, what was
//! begun is ended and taken down, in the opposite order; only a crash later on leaves a record, which says so.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use cvs_store::ProcessId;
use cvs_versions::Ready;
use cvs_versions::comfy::{Directories, Flags, Launch, NodeLoad, RunError, Server, loading};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::flags::flags_of;
use super::interrupts::Interrupts;
use super::options::RunOptions;
use super::place::{self, Place, PlaceArgs};
use super::record::{Held, Phase, Record, Records, name_of};
use super::{RunsError, interpreter, log, notify, processes};
use crate::context::Context;
use crate::error::CliError;

/// What ComfyUI gets to end by itself before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at whether an end was asked for.
const POLL: Duration = Duration::from_millis(20);

/// How a run came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// It was asked to.
    Stopped,
    /// ComfyUI ended by itself, without a failure.
    Exited,
}

/// How a version loads.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The nodes that the log mentions.
    pub(crate) nodes: Vec<NodeLoad>,
    /// Why the whole did not come to its end.
    pub(crate) failure: Option<RunError>,
}

/// Who sees to a run, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenTo {
    /// The command that a person gave, in the foreground.
    Here,
    /// A supervisor, until it is told to end.
    Alone,
    /// A supervisor, for as long as the process lives that it is for.
    For(u32),
}

/// A run of which this process has the lock.
pub(crate) struct Run<'a> {
    context: &'a Context,
    ready: &'a Ready,
    held: Held,
    record: RefCell<Record>,
}

impl<'a> Run<'a> {
    /// Takes the run of this version for this process; what a dead one left is cleared away first.
    pub(crate) fn begin(
        context: &'a Context,
        ready: &'a Ready,
        options: &RunOptions,
        seen_to: SeenTo,
    ) -> Result<Self, CliError> {
        let store = context.store()?;
        let records = Records::of(store);
        let version = ready.spec.version_id.to_string();
        let name = name_of(&version, options.role);
        let Some(held) = records.hold(&name)? else {
            return Err(already_runs(&version, records.read(&name)?.as_ref()).into());
        };
        if let Some(left) = records.read(&name)? {
            if !matches!(left.phase, Phase::Ended { .. }) {
                context.output().note(&format!("clearing away what is left of a run of {version}"));
            }
            clear_away(context, &left)?;
        }
        let log = log::path(store.home(), &name);
        let log_start = log::begin(&log, &version, &ready.view_id.to_hex())?;
        let record = Record {
            version,
            role: options.role,
            phase: Phase::Starting,
            supervisor: ProcessId::current(),
            detached: seen_to == SeenTo::Alone,
            tied_to: if let SeenTo::For(pid) = seen_to { Some(pid) } else { None },
            comfy: None,
            tag: processes::new_tag(),
            url: None,
            view: ready.view_id.to_hex(),
            root: None,
            mount: None,
            scratch: None,
            log,
            log_start,
            since: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            options: options.clone(),
        };
        held.write(&record)?;
        Ok(Self { context, ready, held, record: RefCell::new(record) })
    }

    /// The log of ComfyUI, and where in it this run begins.
    pub(crate) fn log(&self) -> (PathBuf, u64) {
        let record = self.record.borrow();
        (record.log.clone(), record.log_start)
    }

    /// Runs it. `answers` is told when it does.
    pub(crate) fn run(
        self,
        interrupts: &Interrupts,
        answers: &mut dyn FnMut(&Record) -> Result<(), CliError>,
    ) -> Result<End, CliError> {
        let mut answered = false;
        let result = self.in_its_place(interrupts, |launch, started| {
            let server = launch.start(started)?;
            answered = true;
            self.update(|record| {
                record.phase = Phase::Running;
                record.url = Some(server.base_url().to_owned());
            })?;
            let told = answers(&self.record.borrow());
            match told {
                Ok(()) => self.watch(server, interrupts),
                Err(error) => self.stop(server, interrupts).and(Err(error)),
            }
        });
        // The command that a run is tied to asks why it broke down; only a person wants to know that it ended.
        let asked = {
            let record = self.record.borrow();
            record.detached || (record.tied_to.is_some() && result.is_err())
        };
        let ended = match &result {
            Err(CliError::Run(RunError::Crashed { status, reason, .. })) => {
                Some(Phase::Ended { code: status.code(), reason: reason.clone() })
            }
            Ok(End::Exited) => Some(Phase::Ended { code: Some(0), reason: "it ended by itself".to_owned() }),
            _ => None,
        };
        match ended {
            // Nobody watches it, so it is kept until somebody looks. A start that failed is told to who started it.
            Some(phase) if asked && answered => self.update(|record| {
                record.phase = phase;
                record.mount = None;
                record.scratch = None;
                record.comfy = None;
            })?,
            _ => self.held.clear()?,
        }
        result
    }

    /// Loads everything and ends: how that went, and the log of it. Nothing is kept.
    pub(crate) fn check(self, interrupts: &Interrupts) -> Result<Checked, CliError> {
        let result = self.in_its_place(interrupts, |launch, started| {
            let failure = match launch.quick_test(started) {
                Ok(_) => None,
                Err(error @ (RunError::Crashed { .. } | RunError::StartTimeout { .. })) => Some(error),
                Err(error) => return Err(error.into()),
            };
            let (log, start) = self.log();
            let log = log::text(&log, start)?;
            Ok(Checked { nodes: loading(&log, launch.root), failure })
        });
        self.held.clear()?;
        result
    }

    /// Does something with a launch in a place, and takes both down.
    fn in_its_place<T>(
        &self,
        interrupts: &Interrupts,
        work: impl FnOnce(&Launch<'_>, &dyn Fn(u32)) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let (options, version) = {
            let record = self.record.borrow();
            (record.options.clone(), record.version.clone())
        };
        let args = PlaceArgs {
            role: options.role,
            ephemeral: options.ephemeral,
            no_fuse: options.no_fuse,
            lenient: options.lenient,
        };
        // Known before they are there, so that they are found whenever this process dies.
        let workspace = self.context.workspace()?;
        let mount = place::mountpoint(workspace.store(), &version, options.role);
        let scratch = place::scratch(workspace, &self.ready.spec.version_id, options.role);
        self.update(|record| {
            record.mount = Some(mount);
            record.scratch = options.ephemeral.then_some(scratch);
        })?;
        let place = Place::open(self.context, self.ready, &args, interrupts.stop());
        // A daemon that has just begun hears the same Ctrl-C.
        let place =
            place.map_err(|error| if interrupts.is_stopped() { CliError::Interrupted } else { error })?;
        self.update(|record| record.root = Some(place.root().to_owned()))?;
        let result = self.launch(&place, &options, interrupts, work);
        let record = self.record.borrow().clone();
        let stragglers = processes::end(record.comfy.as_ref(), &record.tag, Duration::ZERO);
        if stragglers > 0 {
            tracing::info!(stragglers, "ended processes that ComfyUI left behind");
        }
        let closed = place.close();
        result.and_then(|end| closed.map(|()| end))
    }

    fn launch<T>(
        &self,
        place: &Place,
        options: &RunOptions,
        interrupts: &Interrupts,
        work: impl FnOnce(&Launch<'_>, &dyn Fn(u32)) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        if interrupts.is_stopped() {
            return Err(CliError::Interrupted);
        }
        let spec = &self.ready.spec;
        let root = place.root();
        let wrapper = place.wrapper()?;
        let python = interpreter::interpreter(root, spec)?;
        let env = self.environment();
        let flags = flags_of(self.context.store()?, &self.ready.lock, &python, root, &env)?;
        let directories = directories(self.ready, options);
        let log = self.record.borrow().log.clone();
        let mut args: Vec<String> = spec.args.iter().chain(&options.args).cloned().collect();
        args.extend(own_database(root, &directories, &flags, &args)?);
        let launch = Launch {
            root,
            python: &python,
            wrapper: &wrapper,
            host: &options.host,
            port: options.port,
            args: &args,
            directories: &directories,
            env: &env,
            log: &log,
            flags: &flags,
            startup_timeout: options.startup_timeout,
            cancel: interrupts.stop(),
        };
        let started = |pid| {
            // Without it in the record a killed supervisor's ComfyUI is still found by its tag.
            if let Err(error) = self.update(|record| record.comfy = ProcessId::of(pid)) {
                tracing::warn!(%error, "cannot note the process of ComfyUI");
            }
        };
        work(&launch, &started)
    }

    /// Waits until it ends or is to end.
    fn watch(&self, server: Server, interrupts: &Interrupts) -> Result<End, CliError> {
        let watch = server.watch();
        loop {
            if let Some(status) = server.wait_timeout(POLL) {
                return match (status.success(), watch.ended()) {
                    (false, Some(error)) => Err(error.into()),
                    _ => Ok(End::Exited),
                };
            }
            if interrupts.is_stopped() {
                self.stop(server, interrupts)?;
                return Ok(End::Stopped);
            }
        }
    }

    fn stop(&self, server: Server, interrupts: &Interrupts) -> Result<ExitStatus, CliError> {
        notify::stopping();
        // A full disk does not keep it from ending in an orderly way.
        if let Err(error) = self.update(|record| record.phase = Phase::Stopping) {
            tracing::warn!(%error, "cannot note that it ends");
        }
        let watch = server.watch();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while watch.status().is_none() {
                    if interrupts.is_urgent() {
                        // It is not reaped, and its number nobody else's, before there is a status.
                        let _ = killpg(Pid::from_raw(watch.pid().cast_signed()), Signal::SIGKILL);
                        return;
                    }
                    std::thread::sleep(POLL);
                }
            });
            Ok(server.stop(GRACE)?)
        })
    }

    fn environment(&self) -> Vec<(String, String)> {
        let tag = (processes::TAG.to_owned(), self.record.borrow().tag.clone());
        self.ready.spec.env.iter().cloned().chain([tag]).collect()
    }

    fn update(&self, change: impl FnOnce(&mut Record)) -> Result<(), RunsError> {
        let mut record = self.record.borrow_mut();
        change(&mut record);
        self.held.write(&record)
    }
}

/// Directories elsewhere: what the command line says, else what the spec says.
fn directories(ready: &Ready, options: &RunOptions) -> Directories {
    let spec = &ready.spec.directories;
    let pick = |given: &Option<PathBuf>, spec: &Option<PathBuf>| given.clone().or_else(|| spec.clone());
    let temp = pick(&options.temp, &spec.temp);
    Directories {
        input: pick(&options.input, &spec.input),
        output: pick(&options.output, &spec.output),
        user: pick(&options.user, &spec.user),
        // ComfyUI removes its `temp` when it starts: no two versions may share it.
        temp: temp.map(|temp| temp.join(ready.spec.version_id.as_str())),
    }
}

/// What keeps the database with the version while its user directory is elsewhere: it is migrated forward only, so that
/// an older version ends at the sight of a newer one's.
fn own_database(
    root: &Path,
    directories: &Directories,
    flags: &Flags,
    args: &[String],
) -> Result<Option<String>, RunsError> {
    const FLAG: &str = "--database-url";
    let is_given = args.iter().any(|arg| arg.split('=').next() == Some(FLAG));
    if directories.user.is_none() || is_given || !flags.knows(FLAG) {
        return Ok(None);
    }
    let own = root.join("user");
    std::fs::create_dir_all(&own).map_err(RunsError::io("create", &own))?;
    Ok(own.join("comfyui.db").to_str().map(|path| format!("{FLAG}=sqlite:///{path}")))
}

/// Ends and takes down what a run has left behind. The caller has its lock.
pub(crate) fn clear_away(context: &Context, record: &Record) -> Result<(), CliError> {
    processes::end(record.comfy.as_ref(), &record.tag, GRACE / 2);
    if let Some(mount) = &record.mount {
        place::clear(context.store()?, mount)?;
    }
    if let Some(scratch) = &record.scratch {
        place::discard(context.workspace()?, scratch)?;
    }
    Ok(())
}

/// The error that says where a version runs.
pub(crate) fn already_runs(version: &str, record: Option<&Record>) -> RunsError {
    let how = match record {
        Some(Record { tied_to: Some(pid), .. }) => format!("runs already, for process {pid}"),
        Some(Record { phase: Phase::Running, url: Some(url), supervisor, .. }) => {
            format!("runs already, at {url} (process {})", supervisor.pid)
        }
        Some(Record { supervisor, .. }) => format!("runs already (process {})", supervisor.pid),
        None => "is being started or stopped".to_owned(),
    };
    RunsError::AlreadyRuns { version: version.to_owned(), how }
}
