//! A graph with its subgraphs laid out: one frame for the root and one for each instance, so that a subgraph used
//! twice has two. Ids of nodes inside are those of the instances before them and their own, as `12:3`.

use std::collections::HashMap;

use serde_json::Value;

use super::error::{NodeRef, WorkflowError};
use super::graph::{Graph, Level, Mode, Node, Subgraph, Values};

/// A small file can be laid out to an endless one, by subgraphs that hold others twice.
const MOST: usize = 20_000;
const DEEPEST: usize = 100;

/// The root, or one instance of a subgraph.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) level: &'a Level,
    pub(super) inside: Option<Inside<'a>>,
    /// The frames of the instances among its nodes.
    pub(super) children: HashMap<usize, usize>,
    /// Whether an instance on the way here does not run.
    pub(super) silent: bool,
    prefix: String,
}

/// What an instance of a subgraph is, seen from within.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    pub(super) subgraph: &'a Subgraph,
    pub(super) parent: usize,
    pub(super) instance: &'a Node,
    /// The values of its inputs that are shown as widgets.
    pub(super) values: HashMap<String, Value>,
    /// Values that it gives to widgets of nodes inside, by node and widget.
    pub(super) overrides: HashMap<(String, String), Value>,
}

/// All frames; the first is the root.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    graph: &'a Graph,
    frames: Vec<Frame<'a>>,
}

impl<'a> Frames<'a> {
    pub(super) fn new(graph: &'a Graph) -> Result<Self, WorkflowError> {
        let root = Frame {
            level: &graph.root,
            inside: None,
            children: HashMap::new(),
            silent: false,
            prefix: String::new(),
        };
        let mut frames = Self { graph, frames: vec![root] };
        let mut next = 0;
        while next < frames.frames.len() {
            frames.open(next)?;
            if frames.frames.len() > MOST {
                let what = "subgraphs when they are laid out";
                return Err(WorkflowError::TooLarge { what, limit: MOST });
            }
            next += 1;
        }
        Ok(frames)
    }

    /// Adds the frames of the instances in one frame.
    fn open(&mut self, parent: usize) -> Result<(), WorkflowError> {
        let level = self.frames[parent].level;
        for (index, node) in level.nodes.iter().enumerate() {
            let Some(subgraph) = self.graph.subgraphs.get(&node.class) else { continue };
            let (mut above, mut depth) = (Some(parent), 0);
            while let Some(frame) = above {
                depth += 1;
                if depth > DEEPEST {
                    let what = "levels of subgraphs in subgraphs";
                    return Err(WorkflowError::TooLarge { what, limit: DEEPEST });
                }
                let inside = self.frames[frame].inside.as_ref();
                if inside.is_some_and(|inside| inside.subgraph.id == subgraph.id) {
                    return Err(WorkflowError::NestedInItself { node: self.name(parent, node).into() });
                }
                above = inside.map(|inside| inside.parent);
            }
            let frame = Frame {
                level: &subgraph.level,
                inside: Some(self.inside(parent, node, subgraph)?),
                children: HashMap::new(),
                silent: self.frames[parent].silent || node.mode != Mode::Run,
                prefix: format!("{}:", self.id(parent, node)),
            };
            let child = self.frames.len();
            self.frames.push(frame);
            self.frames[parent].children.insert(index, child);
        }
        Ok(())
    }

    /// The values of an instance: in files of older editors one for each promoted widget, nothing where the node
    /// inside keeps it; in newer ones one for each input that is a widget.
    fn inside(
        &self,
        parent: usize,
        instance: &'a Node,
        subgraph: &'a Subgraph,
    ) -> Result<Inside<'a>, WorkflowError> {
        let mut inside =
            Inside { subgraph, parent, instance, values: HashMap::new(), overrides: HashMap::new() };
        match (&instance.promoted, &instance.values) {
            (_, Values::Named(values)) => {
                inside.values.extend(values.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            (Some(promoted), Values::List(values)) if !promoted.is_empty() => {
                let own = || promoted.iter().filter(|(node, _)| node == "-1");
                let pairs: Vec<_> = if values.len() == promoted.len() {
                    promoted.iter().zip(values).collect()
                } else if values.len() == own().count() {
                    own().zip(values).collect()
                } else if values.is_empty() {
                    Vec::new()
                } else {
                    let (found, expected) = (values.len(), promoted.len());
                    return Err(WorkflowError::PromotedCount {
                        node: self.name(parent, instance).into(),
                        found,
                        expected,
                    });
                };
                for ((node, widget), value) in pairs {
                    match node.as_str() {
                        _ if value.is_null() => {}
                        "-1" => _ = inside.values.insert(widget.clone(), value.clone()),
                        _ => _ = inside.overrides.insert((node.clone(), widget.clone()), value.clone()),
                    }
                }
            }
            (_, Values::List(values)) => {
                let names = self.widget_inputs(parent, instance, subgraph, values)?;
                let values = names.into_iter().zip(values).filter(|(_, value)| !value.is_null());
                inside.values.extend(values.map(|(name, value)| (name, value.clone())));
            }
        }
        // An instance around this one may show widgets of this one.
        if let Some(outer) = &self.frames[parent].inside {
            for ((node, widget), value) in &outer.overrides {
                if *node == instance.id {
                    inside.values.insert(widget.clone(), value.clone());
                }
            }
        }
        Ok(inside)
    }

    /// The inputs of an instance that are widgets, in the order of their values.
    fn widget_inputs(
        &self,
        parent: usize,
        instance: &Node,
        subgraph: &Subgraph,
        values: &[Value],
    ) -> Result<Vec<String>, WorkflowError> {
        if values.iter().all(Value::is_null) {
            return Ok(Vec::new());
        }
        // What is not written at the instance is known from the node inside that the input leads to.
        let names: Vec<String> = subgraph
            .inputs
            .iter()
            .filter(|port| match instance.input(&port.name) {
                Some(slot) if slot.widget => true,
                _ => self.graph.leads_to_widget(subgraph, &port.name),
            })
            .map(|port| port.name.clone())
            .collect();
        if names.len() == values.len() {
            return Ok(names);
        }
        let (found, expected) = (values.len(), names.len());
        Err(WorkflowError::PromotedCount { node: self.name(parent, instance).into(), found, expected })
    }

    pub(super) fn get(&self, frame: usize) -> &Frame<'a> {
        &self.frames[frame]
    }

    /// The id of a node of a frame.
    pub(super) fn id(&self, frame: usize, node: &Node) -> String {
        format!("{}{}", self.frames[frame].prefix, node.id)
    }

    /// How an error names a node of a frame.
    pub(super) fn name(&self, frame: usize, node: &Node) -> NodeRef {
        let class = self.graph.subgraphs.get(&node.class).map_or(&node.class, |subgraph| &subgraph.name);
        NodeRef { id: self.id(frame, node), class: class.clone(), title: node.title.clone() }
    }
}

impl Graph {
    /// Whether an input of a subgraph ends at a widget.
    fn leads_to_widget(&self, subgraph: &Subgraph, port: &str) -> bool {
        subgraph.level.nodes.iter().flat_map(|node| &node.inputs).any(|slot| {
            let link = slot.link.and_then(|link| subgraph.level.links.get(&link));
            let begins = link.and_then(|link| subgraph.input_of(link)).flatten();
            slot.widget && begins.is_some_and(|begins| begins.name == port)
        })
    }
}
