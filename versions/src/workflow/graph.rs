//! A workflow in the format of the editor, as its file says it: versions 0.4 (links are lists) and 1.0 (links are
//! objects), with the subgraphs that it defines. Positions, colours, groups and the waypoints of links
//! (`extra.reroutes`, `parentId`) do not say what is computed, and are not read.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::error::WorkflowError;
use super::prompt::describe;

/// A workflow in the format of the editor.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    pub(super) root: Level,
    pub(super) subgraphs: HashMap<String, Subgraph>,
    document: Map<String, Value>,
}

/// The nodes of one level, and the links between them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Level {
    pub(super) nodes: Vec<Node>,
    pub(super) by_id: HashMap<String, usize>,
    pub(super) links: HashMap<i64, Link>,
}

/// A level with inputs and outputs, which nodes stand for whose class is its id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subgraph {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) level: Level,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// The ids by which links name its two ends.
    input_node: String,
    output_node: String,
}

/// An input or output of a subgraph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Port {
    pub(super) name: String,
    links: Vec<i64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) class: String,
    pub(super) title: Option<String>,
    pub(super) mode: Mode,
    pub(super) inputs: Vec<InputSlot>,
    pub(super) outputs: Vec<OutputSlot>,
    pub(super) values: Values,
    /// The values once more, by name, from editors that write them.
    pub(super) named: Option<Map<String, Value>>,
    /// For an instance of a subgraph, in files of older editors: which widgets inside it shows, as node and widget.
    pub(super) promoted: Option<Vec<(String, String)>>,
    /// Where the class comes from, as its properties say.
    pub(super) from: Option<String>,
}

/// What becomes of a node in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Run,
    /// It is left out, and what needs it.
    Muted,
    /// It is left out, and what it would have changed passes by it.
    Bypassed,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct InputSlot {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) link: Option<i64>,
    /// Whether it stands for a widget.
    pub(super) widget: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct OutputSlot {
    pub(super) kind: String,
    pub(super) linked: bool,
}

/// The values of a node's widgets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    /// In the order of the widgets.
    List(Vec<Value>),
    /// By name, as some nodes write them.
    Named(Map<String, Value>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Link {
    pub(super) origin: String,
    pub(super) origin_slot: usize,
    target: String,
    target_slot: usize,
}

impl Graph {
    pub(super) fn read(root: Map<String, Value>) -> Result<Self, WorkflowError> {
        let mut subgraphs = HashMap::new();
        let definitions = root.get("definitions").and_then(|definitions| definitions.get("subgraphs"));
        for (index, value) in definitions.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let subgraph = Subgraph::read(value, &format!("definitions.subgraphs[{index}]"))?;
            subgraphs.insert(subgraph.id.clone(), subgraph);
        }
        Ok(Self { root: Level::read(&root, "")?, subgraphs, document: root })
    }

    /// The document that it was read from, which nodes write into the files that they make.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.document
    }

    /// The same, and nothing else of it.
    pub fn into_object(self) -> Map<String, Value> {
        self.document
    }
}

impl Level {
    fn read(map: &Map<String, Value>, place: &str) -> Result<Self, WorkflowError> {
        let mut level = Self::default();
        let nodes = map.get("nodes").and_then(Value::as_array);
        for (index, value) in nodes.into_iter().flatten().enumerate() {
            let node = Node::read(value, &join(place, &format!("nodes[{index}]")))?;
            level.by_id.insert(node.id.clone(), level.nodes.len());
            level.nodes.push(node);
        }
        let links = match map.get("links") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(links)) => links.iter().collect(),
            // A few editors wrote the links as an object, by their numbers.
            Some(Value::Object(links)) => links.values().collect(),
            Some(other) => return Err(malformed(join(place, "links"), other, "a list of links")),
        };
        for (index, value) in links.into_iter().enumerate() {
            // A deleted link can leave a hole behind.
            if !value.is_null() {
                let (id, link) = Link::read(value)
                    .ok_or_else(|| malformed(join(place, &format!("links[{index}]")), value, LINK))?;
                level.links.insert(id, link);
            }
        }
        Ok(level)
    }

    pub(super) fn node(&self, id: &str) -> Option<(usize, &Node)> {
        let index = *self.by_id.get(id)?;
        Some((index, self.nodes.get(index)?))
    }
}

impl Subgraph {
    fn read(value: &Value, place: &str) -> Result<Self, WorkflowError> {
        let map = value.as_object().ok_or_else(|| malformed(place.to_owned(), value, "a subgraph"))?;
        let id = map.get("id").and_then(Value::as_str);
        let id =
            id.ok_or_else(|| malformed(join(place, "id"), map.get("id").unwrap_or(&Value::Null), "an id"))?;
        let ports = |key: &str| {
            let ports = map.get(key).and_then(Value::as_array);
            ports.into_iter().flatten().map(Port::read).collect()
        };
        let end = |key: &str, usual: &str| {
            let id = map.get(key).and_then(|node| node.get("id")).and_then(text_id);
            id.unwrap_or_else(|| usual.to_owned())
        };
        Ok(Self {
            id: id.to_owned(),
            name: map.get("name").and_then(Value::as_str).unwrap_or("subgraph").to_owned(),
            level: Level::read(map, place)?,
            inputs: ports("inputs"),
            outputs: ports("outputs"),
            input_node: end("inputNode", "-10"),
            output_node: end("outputNode", "-20"),
        })
    }

    /// Which of its inputs a link begins at, if it begins at one.
    pub(super) fn input_of(&self, link: &Link) -> Option<Option<&Port>> {
        (link.origin == self.input_node).then(|| self.inputs.get(link.origin_slot))
    }

    /// The link that ends at one of its outputs, with its number.
    pub(super) fn output_link(&self, slot: usize) -> Option<(i64, &Link)> {
        let listed = self.outputs.get(slot).into_iter().flat_map(|port| &port.links);
        listed.filter_map(|id| Some((*id, self.level.links.get(id)?))).next().or_else(|| {
            let ends_here = |link: &Link| link.target == self.output_node && link.target_slot == slot;
            self.level.links.iter().find(|(_, link)| ends_here(link)).map(|(id, link)| (*id, link))
        })
    }
}

impl Port {
    fn read(value: &Value) -> Self {
        let links = value.get("linkIds").and_then(Value::as_array);
        Self {
            name: value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            links: links.into_iter().flatten().filter_map(Value::as_i64).collect(),
        }
    }
}

impl Node {
    fn read(value: &Value, place: &str) -> Result<Self, WorkflowError> {
        let at = |key: &str| value.get(key).unwrap_or(&Value::Null);
        let problem = |key: &str, expected| malformed(join(place, key), at(key), expected);
        let id = text_id(at("id")).ok_or_else(|| problem("id", "a number or a text"))?;
        let class = at("type").as_str().ok_or_else(|| problem("type", "the name of a class"))?;
        let mode = match at("mode") {
            Value::Null => Mode::Run,
            // 1 and 3 wait for an event that no server sends: the editor runs them.
            mode => match mode.as_u64() {
                Some(0 | 1 | 3) => Mode::Run,
                Some(2) => Mode::Muted,
                Some(4) => Mode::Bypassed,
                _ => return Err(problem("mode", "0, 1, 2, 3 or 4")),
            },
        };
        let values = match at("widgets_values") {
            Value::Null => Values::List(Vec::new()),
            Value::Array(values) => Values::List(values.clone()),
            Value::Object(values) => Values::Named(values.clone()),
            _ => return Err(problem("widgets_values", "a list or an object")),
        };
        let inputs = at("inputs").as_array().into_iter().flatten();
        let outputs = at("outputs").as_array().into_iter().flatten();
        let properties = at("properties");
        let property =
            |key: &str| properties.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Ok(Self {
            id,
            class: class.to_owned(),
            title: at("title").as_str().filter(|title| !title.is_empty()).map(str::to_owned),
            mode,
            inputs: inputs.map(InputSlot::read).collect(),
            outputs: outputs.map(OutputSlot::read).collect(),
            values,
            named: at("widgets_values_named").as_object().cloned(),
            promoted: promoted(properties.get("proxyWidgets")),
            from: property("cnr_id").or_else(|| property("aux_id")).map(str::to_owned),
        })
    }

    /// Whether anything leads to it or from it.
    pub(super) fn is_linked(&self) -> bool {
        self.inputs.iter().any(|slot| slot.link.is_some()) || self.outputs.iter().any(|slot| slot.linked)
    }

    pub(super) fn input(&self, name: &str) -> Option<&InputSlot> {
        self.inputs.iter().find(|slot| slot.name == name)
    }

    /// The first of its values.
    pub(super) fn first_value(&self) -> Option<&Value> {
        match &self.values {
            Values::List(values) => values.first(),
            Values::Named(values) => values.values().next(),
        }
    }
}

impl InputSlot {
    fn read(value: &Value) -> Self {
        Self {
            name: value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            kind: kind(value.get("type")),
            link: value.get("link").and_then(Value::as_i64),
            widget: value.get("widget").is_some_and(|widget| !widget.is_null()),
        }
    }
}

impl OutputSlot {
    fn read(value: &Value) -> Self {
        let links = value.get("links").and_then(Value::as_array);
        Self { kind: kind(value.get("type")), linked: links.is_some_and(|links| !links.is_empty()) }
    }
}

const LINK: &str = "[id, from, slot, to, slot, type], or an object with id, origin_id, origin_slot, target_id and target_slot";

impl Link {
    fn read(value: &Value) -> Option<(i64, Self)> {
        let slot = |value: &Value| value.as_u64().and_then(|slot| usize::try_from(slot).ok());
        let (id, origin, origin_slot, target, target_slot) = match value {
            Value::Array(parts) => match parts.as_slice() {
                [id, origin, origin_slot, target, target_slot, ..] => {
                    (id, origin, origin_slot, target, target_slot)
                }
                _ => return None,
            },
            Value::Object(map) => (
                map.get("id")?,
                map.get("origin_id")?,
                map.get("origin_slot")?,
                map.get("target_id")?,
                map.get("target_slot")?,
            ),
            _ => return None,
        };
        let link = Self {
            origin: text_id(origin)?,
            origin_slot: slot(origin_slot)?,
            target: text_id(target)?,
            // Only a link to the end of a subgraph is found by where it ends.
            target_slot: slot(target_slot).unwrap_or(usize::MAX),
        };
        Some((id.as_i64()?, link))
    }
}

/// The list of promoted widgets; some editors wrote it as a text.
fn promoted(value: Option<&Value>) -> Option<Vec<(String, String)>> {
    let parsed;
    let entries = match value? {
        Value::Array(entries) => entries,
        Value::String(text) => {
            parsed = serde_json::from_str::<Vec<Value>>(text).ok()?;
            &parsed
        }
        _ => return None,
    };
    let entry = |entry: &Value| Some((text_id(entry.get(0)?)?, entry.get(1)?.as_str()?.to_owned()));
    entries.iter().map(entry).collect()
}

fn text_id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The type of a slot. A list is the choices of a combo; 0 and nothing are any type.
fn kind(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(_)) => "COMBO".to_owned(),
        _ => "*".to_owned(),
    }
}

fn join(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

fn malformed(place: String, found: &Value, expected: &'static str) -> WorkflowError {
    WorkflowError::Malformed { place, found: describe(found), expected }
}
