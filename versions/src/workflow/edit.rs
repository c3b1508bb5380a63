//! Changing values: `NODE.INPUT=VALUE`, where NODE is an id, else a title, else a class, of one node alone.

use serde_json::{Value, json};

use super::error::WorkflowError;
use super::info::{Kind, ObjectInfo};
use super::prompt::{Prompt, PromptNode, describe};
use crate::near::near;

impl Prompt {
    /// Carries out `NODE.INPUT=VALUE`. The value is JSON where that parses and is what the input takes, else a
    /// text; it takes the place of a link. Without `info`, only inputs that the workflow has can be set.
    pub fn set(&mut self, assignment: &str, info: Option<&ObjectInfo>) -> Result<(), WorkflowError> {
        let wrong = || WorkflowError::Assignment { text: assignment.to_owned() };
        let (target, text) = assignment.split_once('=').ok_or_else(wrong)?;
        let (id, input) = self.target(target)?.ok_or_else(wrong)?;
        let value = self.value(&id, &input, text, info)?;
        if let Some(inputs) = self.inputs_mut(&id) {
            inputs.insert(input, value);
        }
        Ok(())
    }

    /// The node and input that `NODE.INPUT` names. Titles and inputs may hold dots of their own, so that every
    /// place to divide the text is tried; none when there is no dot.
    pub(super) fn target(&self, text: &str) -> Result<Option<(String, String)>, WorkflowError> {
        let text = text.trim();
        let splits: Vec<_> = text.match_indices('.').map(|(at, _)| (&text[..at], &text[at + 1..])).collect();
        let Some((first, _)) = splits.first() else { return Ok(None) };
        let mut failure = None;
        for (node, input) in &splits {
            match self.find(node) {
                Ok(found) => return Ok(Some((found.id.to_owned(), (*input).to_owned()))),
                Err(error @ WorkflowError::AmbiguousNode { .. }) => failure = Some(error),
                Err(_) => {}
            }
        }
        match failure {
            Some(error) => Err(error),
            None => self.find(first).map(|_| None),
        }
    }

    /// The node with this id, else the one with this title, else the one of this class.
    fn find(&self, wanted: &str) -> Result<PromptNode<'_>, WorkflowError> {
        if let Some(node) = self.node(wanted) {
            return Ok(node);
        }
        let titled: Vec<_> = self.nodes().filter(|node| node.title == Some(wanted)).collect();
        let found = if titled.is_empty() {
            self.nodes().filter(|node| node.class == wanted).collect()
        } else {
            titled
        };
        match found.as_slice() {
            [node] => Ok(*node),
            [] => {
                let names =
                    || self.nodes().flat_map(|node| [Some(node.id), node.title, Some(node.class)]).flatten();
                let mut alike = near(wanted, names());
                if alike.is_empty() && self.as_object().len() <= 8 {
                    alike = self.nodes().map(|node| format!("{} ({})", node.id, node.class)).collect();
                }
                Err(WorkflowError::UnknownNode { wanted: wanted.to_owned(), near: alike })
            }
            several => Err(WorkflowError::AmbiguousNode {
                wanted: wanted.to_owned(),
                nodes: several.iter().map(PromptNode::to_ref).collect(),
            }),
        }
    }

    fn value(
        &self,
        id: &str,
        input: &str,
        text: &str,
        info: Option<&ObjectInfo>,
    ) -> Result<Value, WorkflowError> {
        let Some(node) = self.node(id) else { return Ok(Value::Null) };
        let class = info.and_then(|info| info.class(node.class));
        let declared = class.as_ref().and_then(|class| class.input(input));
        if declared.is_none() && !node.inputs.contains_key(input) {
            let mut inputs: Vec<String> = node.inputs.keys().cloned().collect();
            for declared in class.iter().flat_map(|class| &class.inputs) {
                if !inputs.iter().any(|name| name == declared.name) {
                    inputs.push(declared.name.to_owned());
                }
            }
            return Err(WorkflowError::UnknownInput {
                node: node.to_ref().into(),
                wanted: input.to_owned(),
                inputs,
            });
        }
        let parsed = serde_json::from_str::<Value>(text).ok();
        let text = || Value::from(text);
        let refuse = |value: &Value, expected: &str| WorkflowError::InputValue {
            node: node.to_ref().into(),
            input: input.to_owned(),
            found: describe(value),
            expected: expected.to_owned(),
        };
        let value = match declared {
            // What the workflow has there says what kind of value is meant.
            None => match (node.inputs.get(input), parsed) {
                (Some(Value::String(_)), Some(Value::String(inner))) => inner.into(),
                (Some(Value::String(_)), _) | (_, None) => text(),
                (_, Some(parsed)) => parsed,
            },
            Some(declared) => {
                let value = match (declared.kind, parsed) {
                    (Kind::Socket(kind), _) => {
                        return Err(refuse(&text(), &format!("a link to an output of type {kind}")));
                    }
                    (Kind::Text, Some(Value::String(inner))) => inner.into(),
                    (Kind::Text, _) | (_, None) => text(),
                    (Kind::Combo(values), Some(parsed)) => {
                        if values.is_some_and(|values| values.contains(&parsed)) { parsed } else { text() }
                    }
                    (_, Some(parsed)) => parsed,
                };
                let number = matches!(declared.kind, Kind::Int | Kind::Float);
                if let Some(expected) = declared.objection(&value) {
                    return Err(refuse(&value, expected));
                }
                if number && !value.is_number() {
                    return Err(refuse(&value, "a number"));
                }
                if let Kind::Combo(Some(values)) = declared.kind
                    && !declared.takes_file()
                    && !values.is_empty()
                    && !values.contains(&value)
                {
                    return Err(refuse(&value, &format!("one of {}", choices(values))));
                }
                value
            }
        };
        Ok(if value.is_array() { json!({ "__value__": value }) } else { value })
    }
}

fn choices(values: &[Value]) -> String {
    let shown: Vec<String> = values.iter().take(12).map(describe).collect();
    let more = if values.len() > 12 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
