//! The values of a node's widgets. A file lists them in the order in which the editor showed the widgets, without
//! names, so that the order has to be found again: required inputs, then optional ones, those that have widgets, and
//! after some of them values of widgets that only the editor has. Where list and class do not agree, nothing is
//! guessed: a value in the wrong widget makes another picture without a word.

use serde_json::{Map, Value};

use super::error::{NodeRef, WorkflowError};
use super::graph::{Node, Values};
use super::info::{Class, Input, Kind};
use super::prompt::describe;

/// What an editor puts after a seed: what becomes of it after a run.
const CONTROLS: [&str; 4] = ["fixed", "increment", "decrement", "randomize"];
/// Widgets of the editor alone, in values that are written by name.
const EDITOR_ONLY: [&str; 5] =
    ["control_after_generate", "control_filter_list", "videopreview", "upload", "audioUI"];

/// The values of a node, by input.
#[derive(Debug, Default)]
pub(super) struct Widgets {
    pub(super) values: Vec<(String, Value)>,
    /// Texts among them in which the editor makes choices (`{a|b}`).
    pub(super) choices: Vec<String>,
    /// Inputs that the file has no value for, with the default that they get.
    pub(super) defaults: Vec<(String, Value)>,
}

/// The values of `node`, whose class is `class`.
pub(super) fn values(
    node: &Node,
    class: &Class<'_>,
    name: impl Fn() -> NodeRef,
) -> Result<Widgets, WorkflowError> {
    match &node.values {
        Values::Named(values) => {
            let mut widgets = by_name(node, class, values, &name)?;
            for (key, value) in values {
                let taken = widgets.values.iter().any(|(taken, _)| taken == key);
                if !taken && !EDITOR_ONLY.contains(&key.as_str()) {
                    widgets.values.push((key.clone(), value.clone()));
                }
            }
            Ok(widgets)
        }
        Values::List(values) => match (in_order(node, class, values, &name), &node.named) {
            (Err(_), Some(named)) => by_name(node, class, named, &name),
            (Ok(found), Some(named)) if !found.defaults.is_empty() => by_name(node, class, named, &name),
            (found, _) => found,
        },
    }
}

struct Reading<'a> {
    node: &'a Node,
    values: &'a [Value],
    next: usize,
    found: Widgets,
    /// Widgets that the list is too short for.
    missing: Vec<(String, Input<'a>)>,
    /// Every widget, for an error.
    names: Vec<String>,
}

fn in_order(
    node: &Node,
    class: &Class<'_>,
    values: &[Value],
    name: &impl Fn() -> NodeRef,
) -> Result<Widgets, WorkflowError> {
    let mut reading =
        Reading { node, values, next: 0, found: Widgets::default(), missing: Vec::new(), names: Vec::new() };
    let (required, optional): (Vec<_>, Vec<_>) = class.inputs.iter().partition(|input| input.required);
    reading.take(&required, "", name)?;
    if required.iter().any(|input| input.takes_file()) {
        let kept = optional.iter().filter(|input| is_widget(node, input, input.name)).count();
        reading.skip_upload(kept);
    }
    reading.take(&optional, "", name)?;

    let rest = values.get(reading.next..).unwrap_or_default();
    let count = || WorkflowError::WidgetCount {
        node: name().into(),
        found: values.len(),
        widgets: reading.names.clone(),
    };
    // What shows a text or a preview keeps it among its values; the server has no input for it.
    let shown = |value: &Value| reading.names.is_empty() && class.output_node && is_text(value);
    if rest.iter().any(|value| !is_nothing(value) && !shown(value)) {
        return Err(count());
    }
    let mut found = reading.found;
    for (key, input) in &reading.missing {
        if default(node, input, key, &mut found) {
            continue;
        }
        // The first choice is what the editor shows for a widget that is newer than the file. A file without any
        // values is not older, but broken.
        let first = match input.kind {
            Kind::Combo(Some([first, ..])) if !values.is_empty() && !input.takes_file() => first,
            _ => return Err(count()),
        };
        found.defaults.push((key.clone(), first.clone()));
        found.values.push((key.clone(), first.clone()));
    }
    Ok(found)
}

impl<'a> Reading<'a> {
    fn take(
        &mut self,
        inputs: &[&Input<'a>],
        prefix: &str,
        name: &impl Fn() -> NodeRef,
    ) -> Result<(), WorkflowError> {
        for (at, input) in inputs.iter().enumerate() {
            let key = format!("{prefix}{}", input.name);
            if !is_widget(self.node, input, &key) {
                continue;
            }
            self.names.push(key.clone());
            let Some(value) = self.values.get(self.next) else {
                self.missing.push((key, **input));
                continue;
            };
            self.next += 1;
            check(self.node, input, &key, value, name)?;
            self.found.add(input, &key, value);
            let mut following = inputs.get(at + 1..).unwrap_or_default().iter();
            let following = following.find(|input| is_widget(self.node, input, input.name));
            if self.peek(|value| is_control(value, input, following.map(|input| input.kind))) {
                // A combo has a second one, which narrows its choices.
                self.next += if matches!(input.kind, Kind::Combo(_)) { 2 } else { 1 };
            }
            self.skip_refresh(input);
            if let Kind::DynamicCombo(options) = input.kind {
                let children = children(options, value);
                self.take(&children.iter().collect::<Vec<_>>(), &format!("{key}."), name)?;
            }
        }
        Ok(())
    }

    /// Steps over the button that loads a file, and over a player of sounds, whose values say nothing.
    fn skip_upload(&mut self, kept: usize) {
        for _ in 0..2 {
            let spare = self.values.len().saturating_sub(self.next) > kept;
            let button = |value: &Value| {
                is_nothing(value) || matches!(value.as_str(), Some("image" | "video" | "audio"))
            };
            if spare && self.peek(button) {
                self.next += 1;
            }
        }
    }

    /// Steps over what the editor puts after choices that it fetches: whether they are fetched after a run, and a button.
    fn skip_refresh(&mut self, input: &Input<'_>) {
        let Some(remote) = input.option("remote").filter(|_| matches!(input.kind, Kind::Combo(_))) else {
            return;
        };
        if remote.get("control_after_refresh").is_some() && self.peek(Value::is_boolean) {
            self.next += 1;
        }
        if remote.get("refresh_button").is_some() && self.peek(|value| value == "refresh") {
            self.next += 1;
        }
    }

    fn peek(&self, test: impl Fn(&Value) -> bool) -> bool {
        self.values.get(self.next).is_some_and(test)
    }
}

impl Widgets {
    fn add(&mut self, input: &Input<'_>, key: &str, value: &Value) {
        if input.flag("dynamicPrompts") && value.is_string() {
            self.choices.push(key.to_owned());
        }
        self.values.push((key.to_owned(), value.clone()));
    }
}

fn by_name(
    node: &Node,
    class: &Class<'_>,
    values: &Map<String, Value>,
    name: &impl Fn() -> NodeRef,
) -> Result<Widgets, WorkflowError> {
    let mut found = Widgets::default();
    let mut names = Vec::new();
    let mut pending: Vec<(String, Input<'_>)> =
        class.inputs.iter().rev().map(|input| (input.name.to_owned(), *input)).collect();
    while let Some((key, input)) = pending.pop() {
        if !is_widget(node, &input, &key) {
            continue;
        }
        names.push(key.clone());
        let Some(value) = values.get(&key) else {
            if !default(node, &input, &key, &mut found) {
                let (node, found) = (name().into(), values.len());
                return Err(WorkflowError::WidgetCount { node, found, widgets: names });
            }
            continue;
        };
        check(node, &input, &key, value, name)?;
        found.add(&input, &key, value);
        if let Kind::DynamicCombo(options) = input.kind {
            let children = children(options, value);
            pending.extend(children.iter().rev().map(|child| (format!("{key}.{}", child.name), *child)));
        }
    }
    Ok(found)
}

/// Whether `value`, after that of `input`, says what becomes of it after a run, and is no value of the widget that
/// follows.
fn is_control(value: &Value, input: &Input<'_>, following: Option<Kind<'_>>) -> bool {
    match value {
        Value::String(word) if CONTROLS.contains(&word.as_str()) => {
            // A class may have given it up since.
            let is_seed = matches!((input.kind, input.name), (Kind::Int, "seed" | "noise_seed"));
            input.has_control() || is_seed && matches!(following, Some(Kind::Int | Kind::Float | Kind::Bool))
        }
        // As ComfyUI's own default workflow still has it.
        Value::Bool(_) => input.has_control() && following.is_some_and(|kind| !matches!(kind, Kind::Bool)),
        _ => false,
    }
}

/// Whether an input has a widget: its type says so, unless the file shows it as a place for a link; and a type that
/// only a node's own part of the editor knows has one when the file shows one.
fn is_widget(node: &Node, input: &Input<'_>, key: &str) -> bool {
    match node.input(key) {
        Some(slot) => slot.widget || (input.is_widget() && input.flag("socketless")),
        None => input.is_widget(),
    }
}

/// Gives an input the default that its class states, if it needs a value at all.
fn default(node: &Node, input: &Input<'_>, key: &str, found: &mut Widgets) -> bool {
    let linked = node.input(key).is_some_and(|slot| slot.link.is_some());
    match input.option("default") {
        _ if linked => true,
        Some(value) => {
            found.defaults.push((key.to_owned(), value.clone()));
            found.values.push((key.to_owned(), value.clone()));
            true
        }
        None => !input.required,
    }
}

fn check(
    node: &Node,
    input: &Input<'_>,
    key: &str,
    value: &Value,
    name: &impl Fn() -> NodeRef,
) -> Result<(), WorkflowError> {
    // A value that a link replaces does not matter.
    if node.input(key).is_some_and(|slot| slot.link.is_some()) {
        return Ok(());
    }
    match input.objection(value) {
        None => Ok(()),
        Some(expected) => Err(WorkflowError::WidgetValue {
            node: name().into(),
            widget: key.to_owned(),
            found: describe(value),
            expected: expected.to_owned(),
        }),
    }
}

/// The inputs that one choice of a dynamic combo brings.
fn children<'a>(options: &'a [Value], chosen: &Value) -> Vec<Input<'a>> {
    let option = options.iter().find(|option| option.get("key") == Some(chosen));
    let inputs = option.and_then(|option| option.get("inputs"));
    let mut children = Vec::new();
    for (section, required) in [("required", true), ("optional", false)] {
        let definitions = inputs.and_then(|inputs| inputs.get(section)).and_then(Value::as_object);
        children.extend(definitions.into_iter().flatten().map(|(name, d)| Input::read(name, d, required)));
    }
    children
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn is_text(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Array(items) => items.iter().all(is_text),
        _ => false,
    }
}
