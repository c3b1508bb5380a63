//! What the engine tells, turned into progress and notes. One task for each part that is worked on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use cvs_versions::python::PythonEvent;
use cvs_versions::source::SourceEvent;
use cvs_versions::spec::{Part, StaleReason};
use cvs_versions::{Event, Why};

use crate::context::Context;
use crate::format;
use crate::output::Output;
use crate::progress::{Task, Unit};

/// Paths that a warning names.
const NAMED: usize = 3;

/// Hears events, from many threads. Dropping it takes its progress off the screen.
pub(crate) struct Activity<'a> {
    output: &'a Output,
    // Nothing else is locked while this is.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: BTreeMap<Part, (Unit, Task)>,
    announced: BTreeSet<Part>,
    /// Bytes that came of each part, and its size.
    received: BTreeMap<Part, (u64, u64)>,
    /// All of that together.
    all: Option<Task>,
    /// What concerns the whole: committing, checking.
    whole: Option<Task>,
}

impl<'a> Activity<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { output: context.output(), state: Mutex::default() }
    }

    /// Takes an event in.
    pub(crate) fn hear(&self, event: Event<'_>) {
        match event {
            Event::Planned { id, parts, unchanged } => {
                tracing::debug!(%id, parts, unchanged, "planned");
            }
            Event::Resolving { part, why } | Event::Fetching { part, why } => {
                self.announce(part, why);
                // What is done for the environment is told step by step.
                if *part != Part::Python {
                    self.tell(part, Unit::Items, |_| ());
                }
            }
            Event::Source { part, event } => self.hear_source(part, event),
            Event::Fetched { part, files, reused } => {
                tracing::debug!(%part, files, reused, "fetched");
                self.lock().parts.remove(part);
            }
            Event::Failed { part } => {
                let mut state = self.lock();
                state.received.remove(part);
                drop(state.parts.remove(part));
            }
            Event::Stopping => {
                self.output
                    .note("stopping when the server answers or its time is up; Ctrl-C again ends it at once");
            }
            Event::Python { event } => self.hear_python(event),
            Event::Installing { part } => {
                self.tell(part, Unit::Items, |task| task.set_label(format!("{part}: running install.py")));
            }
            Event::InstalledElsewhere { node, paths } => {
                let named: Vec<String> = paths.iter().take(NAMED).map(ToString::to_string).collect();
                let more = if paths.len() > NAMED { ", …" } else { "" };
                self.output.warning(&format!(
                    "install.py of node {node} also wrote {} outside of its directory, which is not kept: {}{more}; \
                     packages belong in `python_packages`",
                    format::counted(paths.len() as u64, "file"),
                    named.join(", ")
                ));
            }
            Event::ModelFinding { part, finding } => {
                self.output.warning(&format!("{part}: {finding}"));
            }
            Event::Committing => {
                let task = self.output.progress().task("making it durable", Unit::Items);
                let mut state = self.lock();
                state.whole = Some(task);
                state.all = None;
            }
            Event::NotRemoved { path, reason } => {
                self.output.warning(&format!(
                    "{} is in the store now, and cannot be removed from its old place: {reason}",
                    path.display()
                ));
            }
            Event::EditedMeanwhile { id } => {
                self.output.note(&format!("the spec of {id} was edited meanwhile; beginning again with it"));
            }
            Event::CheckFound { bytes, .. } => {
                let task = self.output.progress().task("checking", Unit::Bytes);
                task.set_total(bytes);
                self.lock().whole = Some(task);
            }
            Event::Realizing { files, bytes } => {
                let label = format!("writing {}", format::counted(files, "file"));
                let task = self.output.progress().task(label, Unit::Bytes);
                task.set_total(bytes);
                self.lock().whole = Some(task);
            }
            Event::Importing { files, bytes } => {
                let label = format!("taking in {}", format::counted(files, "model"));
                let task = self.output.progress().task(label, Unit::Bytes);
                task.set_total(bytes);
                self.lock().whole = Some(task);
            }
            Event::Checked { bytes } | Event::Realized { bytes } | Event::Imported { bytes } => {
                if let Some(task) = &self.lock().whole {
                    task.add(bytes);
                }
            }
        }
    }

    /// Says once for each part why it is worked on, unless it is new and there is nothing to say.
    fn announce(&self, part: &Part, why: &Why) {
        if matches!(why, Why::Stale(StaleReason::NeverLocked)) || !self.lock().announced.insert(part.clone())
        {
            return;
        }
        self.output.note(&format!("{part}: {why}"));
    }

    fn hear_source(&self, part: &Part, event: SourceEvent<'_>) {
        match event {
            SourceEvent::GitConnect { url } => {
                self.tell(part, Unit::Items, |task| task.set_label(format!("{part}: asking {url}")));
            }
            SourceEvent::GitReceive { objects, total, .. } => self.tell(part, Unit::Items, |task| {
                task.set_label(format!("{part}: receiving"));
                task.set_total(total as u64);
                task.set(objects as u64);
            }),
            SourceEvent::GitDeepen { what, .. } => self.tell(part, Unit::Items, |task| {
                task.set_label(format!("{part}: receiving the history of {what}"));
            }),
            SourceEvent::GitStore { done, total, .. } => self.tell(part, Unit::Items, |task| {
                task.set_label(format!("{part}: storing"));
                task.set_total(total as u64);
                task.set(done as u64);
            }),
            SourceEvent::Submodule { path, .. } => self.tell(part, Unit::Items, |task| {
                task.set_label(format!("{part}: submodule {path}"));
                task.set_total(0);
                task.set(0);
            }),
            SourceEvent::Receive { bytes, total, .. } => {
                self.tell(part, Unit::Bytes, |task| {
                    task.set_total(total.unwrap_or(0));
                    task.set(bytes);
                });
                self.add_up(part, bytes, total.unwrap_or(0));
            }
            SourceEvent::Resume { offset, .. } => {
                self.output.note(&format!("{part}: goes on after {}", format::bytes(offset)));
            }
            SourceEvent::Restart { reason, .. } => {
                self.output.note(&format!("{part}: begins again: {reason}"));
            }
            SourceEvent::Found { path } => self.output.note(&format!("{part}: found in {path}")),
            SourceEvent::NextSource { reason } => {
                self.output.note(&format!("{part}: {reason}; trying its next source"));
            }
            SourceEvent::Retry { attempt, pause, reason, .. } => {
                let pause = format::duration(pause);
                self.output.note(&format!("{part}: attempt {attempt} failed: {reason}; again in {pause}"));
            }
            SourceEvent::Wait { url } => {
                self.output.note(&format!("{part}: waiting for another cvs that downloads {url}"));
            }
        }
    }

    fn hear_python(&self, event: PythonEvent<'_>) {
        let part = &Part::Python;
        let label = |text: String| move |task: &Task| task.set_label(format!("{part}: {text}"));
        match event {
            PythonEvent::Resolving { sources } => {
                let of = format::counted(sources as u64, "list");
                self.tell(part, Unit::Items, label(format!("resolving the requirements of {of}")));
            }
            PythonEvent::Narrowing { suspects } => {
                let of = format::counted(suspects as u64, "list");
                self.tell(part, Unit::Items, label(format!("looking for who disagrees among {of}")));
            }
            PythonEvent::Python { request } => {
                self.tell(part, Unit::Items, label(format!("downloading Python {request}")));
            }
            PythonEvent::Installing { packages } => {
                let of = format::counted(packages as u64, "package");
                self.tell(part, Unit::Items, label(format!("installing {of}")));
            }
            PythonEvent::Uv { line } => tracing::debug!(line, "uv"),
            PythonEvent::Storing { done, total } => self.tell(part, Unit::Items, |task| {
                task.set_label(format!("{part}: storing"));
                task.set_total(total as u64);
                task.set(done as u64);
            }),
            PythonEvent::Compiling { done, total } => self.tell(part, Unit::Items, |task| {
                task.set_label(format!("{part}: compiling"));
                task.set_total(total as u64);
                task.set(done as u64);
            }),
        }
    }

    /// Does something with the task of a part, begun anew when it counts something else.
    fn tell(&self, part: &Part, unit: Unit, tell: impl FnOnce(&Task)) {
        let mut state = self.lock();
        if !state.parts.get(part).is_some_and(|(known, _)| *known == unit) {
            let task = self.output.progress().task(part.to_string(), unit);
            state.parts.insert(part.clone(), (unit, task));
        }
        if let Some((_, task)) = state.parts.get(part) {
            tell(task);
        }
    }

    /// All downloads together, once there are several.
    fn add_up(&self, part: &Part, bytes: u64, total: u64) {
        let mut state = self.lock();
        state.received.insert(part.clone(), (bytes, total));
        if state.received.len() < 2 {
            return;
        }
        let sum = |of: fn(&(u64, u64)) -> u64| state.received.values().map(of).sum::<u64>();
        let (bytes, total) = (sum(|(bytes, _)| *bytes), sum(|(bytes, total)| *total.max(bytes)));
        let all = state.all.get_or_insert_with(|| self.output.progress().task("all files", Unit::Bytes));
        all.set_total(total);
        all.set(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
