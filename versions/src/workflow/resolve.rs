//! Where a link really begins: through waypoints, past bypassed nodes, into and out of subgraphs, until a node that
//! runs or a value.

use std::collections::HashSet;

use serde_json::Value;

use super::error::WorkflowError;
use super::frames::Frames;
use super::graph::{InputSlot, Mode, Node};
use super::info::ObjectInfo;

/// Nodes that exist in the editor alone.
const REROUTE: &str = "Reroute";
const PRIMITIVE: &str = "PrimitiveNode";
const SET: &str = "SetNode";
const GET: &str = "GetNode";
/// Waypoints of a widespread node pack.
const OTHER_REROUTE: &str = "Reroute (rgthree)";
/// Notes, and switches of that pack that mute and bypass other nodes in the editor; nothing is computed by them.
const SILENT: [&str; 13] = [
    "Note",
    "MarkdownNote",
    "Bookmark (rgthree)",
    "Fast Actions Button (rgthree)",
    "Fast Bypasser (rgthree)",
    "Fast Groups Bypasser (rgthree)",
    "Fast Groups Muter (rgthree)",
    "Fast Muter (rgthree)",
    "Label (rgthree)",
    "Mute / Bypass Relay (rgthree)",
    "Mute / Bypass Repeater (rgthree)",
    "Node Collector (rgthree)",
    "Random Unmuter (rgthree)",
];

/// How many nodes may be on the way of one link.
const LONGEST: usize = 200;

/// What an input gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// The output of a node that runs.
    Link(String, usize),
    /// A value.
    Value(Value),
    /// Nothing leads here: the input keeps its own value.
    Open,
    /// What led here does not run, for this reason.
    Gone(String),
}

/// Whether a class exists in the editor alone. A server may have one of this name all the same.
pub(super) fn is_virtual(class: &str, info: &ObjectInfo) -> bool {
    let editors = [REROUTE, OTHER_REROUTE, PRIMITIVE, SET, GET];
    !info.knows(class) && (editors.contains(&class) || SILENT.contains(&class))
}

/// Follows links through frames.
pub(super) struct Resolver<'a> {
    pub(super) frames: &'a Frames<'a>,
    pub(super) info: &'a ObjectInfo,
}

/// The places that one search has been at: an output of a node of a frame.
type Visited = HashSet<(usize, String, usize)>;

impl Resolver<'_> {
    /// What an input of a node gets.
    pub(super) fn input(&self, frame: usize, node: &Node, slot: &InputSlot) -> Result<Source, WorkflowError> {
        self.follow(frame, node, slot, &slot.kind, &mut Visited::new())
    }

    fn follow(
        &self,
        frame: usize,
        node: &Node,
        slot: &InputSlot,
        kind: &str,
        visited: &mut Visited,
    ) -> Result<Source, WorkflowError> {
        let Some(number) = slot.link else { return Ok(Source::Open) };
        let broken = |reason: String| WorkflowError::BrokenLink {
            node: self.frames.name(frame, node).into(),
            input: slot.name.clone(),
            link: number,
            reason,
        };
        let here = self.frames.get(frame);
        let link =
            here.level.links.get(&number).ok_or_else(|| broken("is not among the links".to_owned()))?;
        if let Some(inside) = &here.inside
            && let Some(port) = inside.subgraph.input_of(link)
        {
            let port = port.ok_or_else(|| {
                broken(format!("begins at input {} of its subgraph, which has none", link.origin_slot))
            })?;
            let outer = match inside.instance.input(&port.name) {
                Some(slot) => self.follow(inside.parent, inside.instance, slot, kind, visited)?,
                None => Source::Open,
            };
            return Ok(match (outer, inside.values.get(&port.name)) {
                (Source::Open, Some(value)) => Source::Value(value.clone()),
                (outer, _) => outer,
            });
        }
        let (_, origin) = here
            .level
            .node(&link.origin)
            .ok_or_else(|| broken(format!("begins at node {}, which is not there", link.origin)))?;
        self.output(frame, origin, link.origin_slot, kind, visited, &broken)
    }

    fn output(
        &self,
        frame: usize,
        node: &Node,
        slot: usize,
        kind: &str,
        visited: &mut Visited,
        broken: &dyn Fn(String) -> WorkflowError,
    ) -> Result<Source, WorkflowError> {
        if !visited.insert((frame, node.id.clone(), slot)) {
            return Err(WorkflowError::Cycle { node: self.frames.name(frame, node).into() });
        }
        if visited.len() > LONGEST {
            let what = "nodes in a row that only pass on";
            return Err(WorkflowError::TooLarge { what, limit: LONGEST });
        }
        let through = |index: usize, visited: &mut Visited| match node.inputs.get(index) {
            Some(input) => self.follow(frame, node, input, kind, visited),
            None => Ok(Source::Open),
        };
        if is_virtual(&node.class, self.info) {
            return match node.class.as_str() {
                PRIMITIVE => Ok(node.first_value().cloned().map_or(Source::Open, Source::Value)),
                GET => self.variable(frame, node, kind, visited),
                _ => through(0, visited),
            };
        }
        let name = || self.frames.name(frame, node);
        match node.mode {
            Mode::Run => {}
            Mode::Muted => return Ok(Source::Gone(format!("{} is muted", name()))),
            Mode::Bypassed => {
                return match passes(node, slot, kind) {
                    Some(index) => Ok(match through(index, visited)? {
                        Source::Open => {
                            Source::Gone(format!("{} is bypassed, and nothing leads to it", name()))
                        }
                        source => source,
                    }),
                    None => {
                        Ok(Source::Gone(format!("{} is bypassed, and has no input of type {kind}", name())))
                    }
                };
            }
        }
        let here = self.frames.get(frame);
        let index = here.level.node(&node.id).map(|(index, _)| index);
        let child = index.and_then(|index| here.children.get(&index)).copied();
        if let Some(child) = child {
            return self.out_of(child, slot, kind, visited, broken);
        }
        match self.info.class(&node.class) {
            Some(class) if slot >= class.outputs => Err(broken(format!(
                "begins at output {slot} of {}, which on this server has {}",
                name(),
                class.outputs
            ))),
            _ => Ok(Source::Link(self.frames.id(frame, node), slot)),
        }
    }

    /// An output of a subgraph, from within.
    fn out_of(
        &self,
        child: usize,
        slot: usize,
        kind: &str,
        visited: &mut Visited,
        broken: &dyn Fn(String) -> WorkflowError,
    ) -> Result<Source, WorkflowError> {
        let here = self.frames.get(child);
        let Some(inside) = &here.inside else { return Ok(Source::Open) };
        let instance = || self.frames.name(inside.parent, inside.instance);
        let Some((number, link)) = inside.subgraph.output_link(slot) else {
            return if slot < inside.subgraph.outputs.len() {
                Ok(Source::Gone(format!("nothing leads to output {slot} of {}", instance())))
            } else {
                Err(broken(format!("begins at output {slot} of {}, which it does not have", instance())))
            };
        };
        if let Some(port) = inside.subgraph.input_of(link) {
            let name = port.map(|port| port.name.as_str()).unwrap_or_default();
            let outer = match inside.instance.input(name) {
                Some(slot) => self.follow(inside.parent, inside.instance, slot, kind, visited)?,
                None => Source::Open,
            };
            return Ok(match (outer, inside.values.get(name)) {
                (Source::Open, Some(value)) => Source::Value(value.clone()),
                (outer, _) => outer,
            });
        }
        let (_, origin) = here.level.node(&link.origin).ok_or_else(|| {
            broken(format!(
                "leads into {}, whose link {number} begins at node {}, which is not there",
                instance(),
                link.origin
            ))
        })?;
        self.output(child, origin, link.origin_slot, kind, visited, broken)
    }

    /// The value that a node of this name was set to, on this level or one around it.
    fn variable(
        &self,
        frame: usize,
        node: &Node,
        kind: &str,
        visited: &mut Visited,
    ) -> Result<Source, WorkflowError> {
        let mut around = Some(frame);
        while let Some(frame) = around {
            let here = self.frames.get(frame);
            let set = here.level.nodes.iter().find(|set| {
                set.class == SET && set.first_value().is_some() && set.first_value() == node.first_value()
            });
            if let Some(set) = set {
                return match set.inputs.first() {
                    Some(input) => self.follow(frame, set, input, kind, visited),
                    None => Ok(Source::Open),
                };
            }
            around = here.inside.as_ref().map(|inside| inside.parent);
        }
        let variable = node.first_value().map(ToString::to_string).unwrap_or_default();
        Ok(Source::Gone(format!("{} reads {variable}, which nothing sets", self.frames.name(frame, node))))
    }
}

/// Which input of a bypassed node takes the place of one of its outputs: the one beside it where the types agree,
/// else the first of the type that is wanted, else the first that could be.
fn passes(node: &Node, slot: usize, kind: &str) -> Option<usize> {
    let output = node.outputs.get(slot).map_or("*", |output| output.kind.as_str());
    if is_any(kind) {
        return if slot < node.inputs.len() { Some(slot) } else { (!node.inputs.is_empty()).then_some(0) };
    }
    let fits = |input: &InputSlot| connects(&input.kind, output) && connects(&input.kind, kind);
    if node.inputs.get(slot).is_some_and(fits) {
        return Some(slot);
    }
    node.inputs.iter().position(|input| input.kind == kind).or_else(|| node.inputs.iter().position(fits))
}

fn is_any(kind: &str) -> bool {
    matches!(kind, "" | "*" | "0")
}

/// Whether a link may join two types, each of which may be several, with commas between them.
fn connects(a: &str, b: &str) -> bool {
    is_any(a)
        || is_any(b)
        || a.split(',').any(|a| b.split(',').any(|b| is_any(a) || is_any(b) || a.eq_ignore_ascii_case(b)))
}
