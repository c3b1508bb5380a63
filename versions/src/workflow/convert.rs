//! From the format of the editor to what a server runs, with what the server says about its classes: the same
//! prompt that the editor would send. What is muted goes, and with it what cannot do without; what would have to be
//! guessed is an error that names the node.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::choices;
use super::error::{NodeRef, UnknownClass, WorkflowError};
use super::frames::Frames;
use super::graph::{Graph, Mode, Node};
use super::info::{Class, ObjectInfo};
use super::prompt::{Prompt, link_target};
use super::resolve::{Resolver, Source, is_virtual};
use super::widgets;

/// A converted workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// What a server runs.
    pub prompt: Prompt,
    /// What a person may want to know about it, in the order of the nodes.
    pub notes: Vec<Note>,
}

/// Something that a conversion did without being asked.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Note {
    /// A node was left out, because something that it needs is muted or bypassed.
    LeftOut {
        /// The node.
        node: NodeRef,
        /// Why.
        reason: String,
    },
    /// A node that the server does not know was left out: nothing leads to it or from it.
    Unlinked {
        /// The node.
        node: NodeRef,
    },
    /// The workflow has no value for an input that the class has since got; it takes the class's default.
    Default {
        /// The node.
        node: NodeRef,
        /// The input.
        input: String,
        /// The default.
        value: Value,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LeftOut { node, reason } => write!(f, "{node} is left out: {reason}"),
            Self::Unlinked { node } => {
                write!(
                    f,
                    "{node} is left out: the server does not know it, and nothing leads to it or from it"
                )
            }
            Self::Default { node, input, value } => {
                write!(f, "{node}: the workflow has no `{input}`; it gets its default, {value}")
            }
        }
    }
}

impl Graph {
    /// Converts. `choose` makes the choices in texts (`{red|green}`): it is given their number and answers with an
    /// index.
    pub fn convert(
        &self,
        info: &ObjectInfo,
        choose: &mut dyn FnMut(usize) -> usize,
    ) -> Result<Conversion, WorkflowError> {
        let frames = Frames::new(self)?;
        let mut conversion = Converter {
            frames: &frames,
            resolver: Resolver { frames: &frames, info },
            info,
            prompt: Prompt::empty(),
            notes: Vec::new(),
            gone: Vec::new(),
            names: HashMap::new(),
            unknown: Vec::new(),
            groups: Vec::new(),
        };
        conversion.check_classes(0);
        if !conversion.groups.is_empty() {
            return Err(WorkflowError::GroupNodes { nodes: conversion.groups });
        }
        if !conversion.unknown.is_empty() {
            return Err(WorkflowError::UnknownClasses { classes: conversion.unknown });
        }
        conversion.add_frame(0, choose)?;
        conversion.drop_dependents();
        conversion.finish()
    }
}

struct Converter<'a> {
    frames: &'a Frames<'a>,
    resolver: Resolver<'a>,
    info: &'a ObjectInfo,
    prompt: Prompt,
    notes: Vec<Note>,
    /// Nodes that cannot run because of what does not, with the reason.
    gone: Vec<(String, String)>,
    names: HashMap<String, NodeRef>,
    unknown: Vec<UnknownClass>,
    groups: Vec<NodeRef>,
}

impl<'a> Converter<'a> {
    /// Calls `visit` for the nodes of a frame that run, and for the frames inside it, in the order of the file.
    fn running(&self, frame: usize) -> Vec<(usize, &'a Node)> {
        let mut nodes = Vec::new();
        let here = self.frames.get(frame);
        for (index, node) in here.level.nodes.iter().enumerate() {
            if node.mode != Mode::Run || here.silent || is_virtual(&node.class, self.info) {
                continue;
            }
            match here.children.get(&index) {
                Some(child) => nodes.extend(self.running(*child)),
                None => nodes.push((frame, node)),
            }
        }
        nodes
    }

    /// Finds every class that the server lacks.
    fn check_classes(&mut self, root: usize) {
        for (frame, node) in self.running(root) {
            if self.info.knows(&node.class) {
                continue;
            }
            let name = self.frames.name(frame, node);
            if node.class.starts_with("workflow>") || node.class.starts_with("workflow/") {
                self.groups.push(name);
            } else if !node.is_linked() {
                self.notes.push(Note::Unlinked { node: name });
            } else if let Some(known) = self.unknown.iter_mut().find(|known| known.class == node.class) {
                known.nodes.push(name.id);
                known.from = known.from.take().or_else(|| node.from.clone());
            } else {
                let class = node.class.clone();
                self.unknown.push(UnknownClass { class, nodes: vec![name.id], from: node.from.clone() });
            }
        }
    }

    fn add_frame(
        &mut self,
        root: usize,
        choose: &mut dyn FnMut(usize) -> usize,
    ) -> Result<(), WorkflowError> {
        for (frame, node) in self.running(root) {
            if let Some(class) = self.info.class(&node.class) {
                self.add(frame, node, &class, choose)?;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        frame: usize,
        node: &Node,
        class: &Class<'_>,
        choose: &mut dyn FnMut(usize) -> usize,
    ) -> Result<(), WorkflowError> {
        let id = self.frames.id(frame, node);
        let name = || self.frames.name(frame, node);
        let widgets = widgets::values(node, class, name)?;
        let overrides = self.frames.get(frame).inside.as_ref().map(|inside| &inside.overrides);
        let mut inputs = Map::new();
        for (input, mut value) in widgets.values {
            let overridden = overrides.and_then(|all| all.get(&(node.id.clone(), input.clone())));
            if let Some(other) = overridden {
                value = other.clone();
            }
            if widgets.choices.contains(&input)
                && let Value::String(text) = &value
            {
                value = choices::resolve(text, choose).into();
            }
            inputs.insert(input, plain(value));
        }
        for slot in &node.inputs {
            match self.resolver.input(frame, node, slot)? {
                Source::Open => {}
                Source::Link(origin, index) => _ = inputs.insert(slot.name.clone(), json!([origin, index])),
                Source::Value(value) => _ = inputs.insert(slot.name.clone(), plain(value)),
                Source::Gone(reason) => {
                    inputs.shift_remove(&slot.name);
                    if class.input(&slot.name).is_some_and(|input| input.required) {
                        self.gone.push((id.clone(), format!("{reason}, and it needs its `{}`", slot.name)));
                    }
                }
            }
        }
        for (input, value) in widgets.defaults {
            self.notes.push(Note::Default { node: name(), input, value });
        }
        let title = node.title.as_deref().or(class.display_name).unwrap_or(&node.class);
        self.prompt.insert(id.clone(), &node.class, title, inputs);
        self.names.insert(id, name());
        Ok(())
    }

    /// Takes out what cannot run, and in turn what needs it; an input that is not required is only cut off.
    fn drop_dependents(&mut self) {
        while let Some((id, reason)) = self.gone.pop() {
            if !self.prompt.contains(&id) {
                continue;
            }
            self.prompt.remove(&id);
            let Some(name) = self.names.get(&id).cloned() else { continue };
            let mut cut = Vec::new();
            for node in self.prompt.nodes() {
                for (input, value) in node.inputs {
                    if link_target(value) == Some(&id) {
                        let class = self.info.class(node.class);
                        let required = class.and_then(|class| class.input(input)).is_some_and(|i| i.required);
                        cut.push((node.id.to_owned(), input.clone(), required));
                    }
                }
            }
            for (other, input, required) in cut {
                if let Some(inputs) = self.prompt.inputs_mut(&other) {
                    inputs.shift_remove(&input);
                }
                if required {
                    self.gone.push((other, format!("{name} is left out, and it needs its `{input}`")));
                }
            }
            self.notes.push(Note::LeftOut { node: name, reason });
        }
    }

    fn finish(self) -> Result<Conversion, WorkflowError> {
        let makes_output = |class: &str| self.info.class(class).is_some_and(|class| class.output_node);
        if self.prompt.nodes().any(|node| makes_output(node.class)) {
            return Ok(Conversion { prompt: self.prompt, notes: self.notes });
        }
        let left_out = |note: &Note| matches!(note, Note::LeftOut { .. });
        let dropped = self.notes.iter().filter(|note| left_out(note)).map(ToString::to_string).collect();
        Err(WorkflowError::NothingToRun { dropped })
    }
}

/// A value as a server takes it: a list would be read as a link, and is wrapped.
fn plain(value: Value) -> Value {
    if value.is_array() { json!({ "__value__": value }) } else { value }
}
