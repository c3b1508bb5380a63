//! How far a workflow is, on stderr: a bar for what runs on a terminal, a line for each node elsewhere. It also keeps
//! what each node took.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cvs_versions::comfy::JobEvent;
use serde_json::{Map, Value};

use crate::output::Output;
use crate::progress::{Task, Unit};

/// Hears what happens to one prompt.
pub(crate) struct Follower<'a> {
    output: &'a Output,
    lines: bool,
    nodes: usize,
    state: Mutex<State>,
}

struct State {
    task: Task,
    begun: usize,
    current: Option<(String, Instant)>,
    took: Map<String, Value>,
}

impl<'a> Follower<'a> {
    /// For a prompt of so many nodes.
    pub(crate) fn new(output: &'a Output, nodes: usize) -> Self {
        let task = output.progress().task("waiting for ComfyUI", Unit::Items);
        let state = State { task, begun: 0, current: None, took: Map::new() };
        Self { output, lines: !std::io::stderr().is_terminal(), nodes, state: Mutex::new(state) }
    }

    pub(crate) fn hear(&self, event: JobEvent<'_>) {
        let mut state = self.lock();
        match event {
            JobEvent::Queued { .. } => state.task.set_label("queued"),
            JobEvent::Started => state.task.set_label("running"),
            JobEvent::Cached { nodes } => {
                state.begun = nodes;
                if nodes > 0 && self.lines {
                    self.output
                        .note(&format!("{nodes} of {} nodes are known from an earlier run", self.nodes));
                }
            }
            JobEvent::Node { id, class_type, title } => {
                state.end_node();
                state.begun += 1;
                state.current = Some((id.to_owned(), Instant::now()));
                let title = title.filter(|title| *title != class_type);
                let title = title.map_or(String::new(), |title| format!(" {title:?}"));
                let line = format!("[{}/{}] {id} {class_type}{title}", state.begun, self.nodes);
                state.task.set_total(0);
                state.task.set(0);
                state.task.set_label(&line);
                if self.lines {
                    self.output.note(&line);
                }
            }
            JobEvent::Progress { value, max, .. } => {
                state.task.set_total(max.max(0.0) as u64);
                state.task.set(value.max(0.0) as u64);
            }
            JobEvent::Executed { .. } => {}
            JobEvent::Unheard => self.output.note("ComfyUI is not heard; asking it from time to time"),
            JobEvent::Heard => self.output.note("ComfyUI is heard again"),
        }
    }

    /// What each node took, in seconds.
    pub(crate) fn finish(self) -> Map<String, Value> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.end_node();
        state.took
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_node(&mut self) {
        if let Some((id, since)) = self.current.take() {
            let seconds = (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            self.took.insert(id, seconds.into());
        }
    }
}
