//! A workflow in the API format: what a server runs. `{ID: {class_type, inputs, _meta?: {title}}}`, where a link is
//! `[ID, SLOT]`.

use serde_json::{Map, Value};

use super::error::{NodeRef, WorkflowError};
use super::info::ObjectInfo;

/// A workflow in the API format, each node with a class and inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt(Map<String, Value>);

/// One node of it.
#[derive(Debug, Clone, Copy)]
pub struct PromptNode<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its class.
    pub class: &'a str,
    /// Its title, where the workflow has one.
    pub title: Option<&'a str>,
    /// Its inputs: values, and links as `[ID, SLOT]`.
    pub inputs: &'a Map<String, Value>,
}

/// One value that decides what is made at random.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Seed {
    /// The node.
    pub node: String,
    /// Its class.
    pub class: String,
    /// `seed` or `noise_seed`.
    pub input: String,
    /// Its value.
    pub value: Value,
}

impl Prompt {
    /// Checks the shape of every node.
    pub(super) fn check(nodes: Map<String, Value>) -> Result<Self, WorkflowError> {
        for (id, node) in &nodes {
            let malformed = |place: String, found: &Value, expected| WorkflowError::Malformed {
                place,
                found: describe(found),
                expected,
            };
            let Value::Object(fields) = node else {
                return Err(malformed(
                    format!("node {id}"),
                    node,
                    "an object with `class_type` and `inputs`",
                ));
            };
            let class = fields.get("class_type").unwrap_or(&Value::Null);
            if class.as_str().is_none_or(str::is_empty) {
                return Err(malformed(format!("node {id}, `class_type`"), class, "the name of a class"));
            }
            let inputs = fields.get("inputs").unwrap_or(&Value::Null);
            if !inputs.is_object() {
                return Err(malformed(format!("node {id}, `inputs`"), inputs, "an object"));
            }
        }
        Ok(Self(nodes))
    }

    pub(super) fn empty() -> Self {
        Self(Map::new())
    }

    pub(super) fn insert(&mut self, id: String, class: &str, title: &str, inputs: Map<String, Value>) {
        let node = serde_json::json!({ "class_type": class, "inputs": inputs, "_meta": { "title": title } });
        self.0.insert(id, node);
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.0.shift_remove(id);
    }

    pub(super) fn inputs_mut(&mut self, id: &str) -> Option<&mut Map<String, Value>> {
        self.0.get_mut(id)?.get_mut("inputs")?.as_object_mut()
    }

    /// Whether it has a node.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Its nodes, in its order.
    pub fn nodes(&self) -> impl Iterator<Item = PromptNode<'_>> {
        self.0.iter().filter_map(|(id, node)| {
            Some(PromptNode {
                id,
                class: node.get("class_type")?.as_str()?,
                title: node.get("_meta").and_then(|meta| meta.get("title")).and_then(Value::as_str),
                inputs: node.get("inputs")?.as_object()?,
            })
        })
    }

    /// One of its nodes.
    pub fn node(&self, id: &str) -> Option<PromptNode<'_>> {
        self.nodes().find(|node| node.id == id)
    }

    /// What is sent to a server.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// What is sent to a server.
    pub fn into_object(self) -> Map<String, Value> {
        self.0
    }

    /// The values that decide what is made at random, those that come by a link excepted.
    pub fn seeds(&self) -> Vec<Seed> {
        let mut seeds = Vec::new();
        for node in self.nodes() {
            for (input, value) in node.inputs {
                if matches!(input.as_str(), "seed" | "noise_seed") && !value.is_array() {
                    seeds.push(Seed {
                        node: node.id.to_owned(),
                        class: node.class.to_owned(),
                        input: input.clone(),
                        value: value.clone(),
                    });
                }
            }
        }
        seeds
    }

    /// Gives every seed another value. `next` brings numbers at random; one that an input does not take is cut to
    /// what it does.
    pub fn randomize_seeds(&mut self, info: &ObjectInfo, next: &mut dyn FnMut() -> u64) {
        for seed in self.seeds() {
            let class = info.class(&seed.class);
            let max = class.and_then(|class| class.input(&seed.input)?.option("max")?.as_u64());
            let value = next() % max.unwrap_or(u64::from(u32::MAX)).max(1);
            if let Some(inputs) = self.inputs_mut(&seed.node) {
                inputs.insert(seed.input, value.into());
            }
        }
    }
}

impl PromptNode<'_> {
    /// How an error names it.
    pub fn to_ref(&self) -> NodeRef {
        NodeRef { id: self.id.to_owned(), class: self.class.to_owned(), title: self.title.map(str::to_owned) }
    }
}

/// Whether a value of the API format is a link.
pub(super) fn link_target(value: &Value) -> Option<&str> {
    match value.as_array()?.as_slice() {
        [Value::String(id), slot] if slot.is_u64() => Some(id),
        _ => None,
    }
}

/// A value, short, for an error.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(60) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}
