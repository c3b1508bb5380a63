//! What a running server says about its classes of nodes: the answer of `GET /object_info`, read without copying.

use serde_json::{Map, Value};

/// The classes of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectInfo(Map<String, Value>);

/// One class.
#[derive(Debug, Clone)]
pub(super) struct Class<'a> {
    pub(super) display_name: Option<&'a str>,
    /// Required inputs first, then optional ones, each in the order of their definition. Hidden ones are none.
    pub(super) inputs: Vec<Input<'a>>,
    pub(super) outputs: usize,
    pub(super) output_node: bool,
}

/// One input of a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind<'a>,
    pub(super) required: bool,
    options: Option<&'a Map<String, Value>>,
}

/// What an input takes, and so whether the editor shows a widget for it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    Int,
    Float,
    Text,
    Bool,
    /// One of some values; not known when they are fetched by the editor.
    Combo(Option<&'a [Value]>),
    /// One of some values, each of which brings inputs of its own.
    DynamicCombo(&'a [Value]),
    /// Another widget, whose values are its own affair.
    Widget,
    /// A link, and nothing else.
    Socket(&'a str),
}

/// Types, besides the five common ones, that the editor shows a widget for.
const WIDGETS: &[&str] = &[
    "AUDIO_RECORD",
    "BOUNDING_BOX",
    "CHART",
    "COLOR",
    "CURVE",
    "IMAGECOMPARE",
    "LOAD_3D",
    "LOAD_3D_ANIMATION",
    "MARKDOWN",
    "PREVIEW_3D",
    "PREVIEW_3D_ANIMATION",
    "RANGE",
    "TEXTAREA",
    "WEBCAM",
];

impl ObjectInfo {
    /// The answer of `GET /object_info`: an object of classes.
    pub fn new(classes: Map<String, Value>) -> Self {
        Self(classes)
    }

    /// Whether the server has a class.
    pub fn knows(&self, class: &str) -> bool {
        self.0.contains_key(class)
    }

    pub(super) fn class(&self, name: &str) -> Option<Class<'_>> {
        let class = self.0.get(name)?;
        let mut inputs = Vec::new();
        for (section, required) in [("required", true), ("optional", false)] {
            let definitions =
                class.get("input").and_then(|input| input.get(section)).and_then(Value::as_object);
            inputs.extend(
                definitions
                    .into_iter()
                    .flatten()
                    .map(|(name, definition)| Input::read(name, definition, required)),
            );
        }
        Some(Class {
            display_name: class.get("display_name").and_then(Value::as_str),
            inputs,
            outputs: class.get("output").and_then(Value::as_array).map_or(0, Vec::len),
            output_node: class.get("output_node").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

impl<'a> Class<'a> {
    pub(super) fn input(&self, name: &str) -> Option<Input<'a>> {
        self.inputs.iter().copied().find(|input| input.name == name)
    }
}

impl<'a> Input<'a> {
    pub(super) fn read(name: &'a str, definition: &'a Value, required: bool) -> Self {
        let (kind, options) = match definition {
            Value::Array(parts) => (parts.first(), parts.get(1).and_then(Value::as_object)),
            other => (Some(other), None),
        };
        let option = |key| options.and_then(|options: &Map<String, Value>| options.get(key));
        let kind = match (kind, option("widgetType").and_then(Value::as_str)) {
            (Some(Value::Array(values)), _) => Kind::Combo(Some(values)),
            (kind, other) => {
                let values = option("options").and_then(Value::as_array).map(Vec::as_slice);
                match other.or(kind.and_then(Value::as_str)).unwrap_or("*") {
                    "INT" => Kind::Int,
                    "FLOAT" => Kind::Float,
                    "STRING" => Kind::Text,
                    "BOOLEAN" => Kind::Bool,
                    "COMBO" => Kind::Combo(values),
                    "COMFY_DYNAMICCOMBO_V3" => Kind::DynamicCombo(values.unwrap_or_default()),
                    other if WIDGETS.contains(&other) => Kind::Widget,
                    other => Kind::Socket(other),
                }
            }
        };
        let input = Self { name, kind, required, options };
        // An input whose author wants a link has no widget, whatever its type.
        match kind {
            Kind::Socket(_) => input,
            _ if input.flag("forceInput") || input.flag("rawLink") => {
                Self { kind: Kind::Socket("*"), ..input }
            }
            _ => input,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.option(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
    }

    pub(super) fn option(&self, name: &str) -> Option<&'a Value> {
        self.options.and_then(|options| options.get(name))
    }

    pub(super) fn is_widget(&self) -> bool {
        !matches!(self.kind, Kind::Socket(_))
    }

    /// Whether the editor puts a widget after it that says what becomes of its value after a run.
    pub(super) fn has_control(&self) -> bool {
        match self.kind {
            Kind::Int => match self.option("control_after_generate") {
                Some(value) => !matches!(value, Value::Null | Value::Bool(false)),
                None => matches!(self.name, "seed" | "noise_seed"),
            },
            Kind::Combo(_) => self.flag("control_after_generate"),
            _ => false,
        }
    }

    /// Whether its value is the name of a file in the input directory.
    pub(super) fn takes_file(&self) -> bool {
        matches!(self.kind, Kind::Combo(_) | Kind::Text)
            && ["image_upload", "animated_image_upload", "video_upload", "audio_upload", "file_upload"]
                .iter()
                .any(|key| self.flag(key))
    }

    /// Why a value cannot be meant for it: what it takes. A value that is only not among its choices is the server's
    /// to refuse, which lists them.
    pub(super) fn objection(&self, value: &Value) -> Option<&'static str> {
        let number = |text: &str| text.trim().parse::<f64>().is_ok();
        let (fits, takes) = match (self.kind, value) {
            (_, Value::Null) => (true, ""),
            (Kind::Int, Value::Number(n)) => (n.as_f64().is_some_and(|n| n.fract() == 0.0), "a whole number"),
            (Kind::Int, Value::String(text)) => (number(text), "a whole number"),
            (Kind::Int, _) => (false, "a whole number"),
            (Kind::Float, Value::Number(_)) => (true, ""),
            (Kind::Float, Value::String(text)) => (number(text), "a number"),
            (Kind::Float, _) => (false, "a number"),
            (Kind::Text, Value::String(_) | Value::Number(_)) => (true, ""),
            (Kind::Text, _) => (false, "a text"),
            (Kind::Bool, Value::Bool(_) | Value::Number(_)) => (true, ""),
            (Kind::Bool, _) => (false, "true or false"),
            (Kind::Combo(Some(values)), Value::Number(_) | Value::Bool(_)) => {
                (values.is_empty() || values.iter().any(|v| !v.is_string()), "one of some texts")
            }
            (Kind::Combo(_), Value::Array(_)) => (self.flag("multi_select"), "one value, not a list"),
            (Kind::Combo(_), Value::Object(_)) => (false, "one of some values"),
            (Kind::DynamicCombo(options), value) => {
                (options.iter().any(|option| option.get("key") == Some(value)), "one of its choices")
            }
            (Kind::Combo(_) | Kind::Widget | Kind::Socket(_), _) => (true, ""),
        };
        (!fits).then_some(takes)
    }
}
