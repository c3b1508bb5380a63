//! Reading a JSON tree with places: every accessor reports what it found and what would be accepted, and goes on, so
//! that one reading names everything that is wrong.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::warning::Warning;
use crate::error::Problem;

/// What a reading found besides the result.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

impl Findings {
    pub(super) fn problem(
        &mut self,
        place: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.problems.push(Problem { place: place.into(), found: found.into(), expected: expected.into() });
    }
}

/// An object at a place. Keys that nobody asked for are unknown; [`Fields::finish`] warns of them.
pub(super) struct Fields<'a> {
    place: String,
    map: &'a Map<String, Value>,
    known: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// The object `value`, or a problem at `place`.
    pub(super) fn of(value: &'a Value, place: String, findings: &mut Findings) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self::of_map(map, place)),
            other => {
                findings.problem(place, describe(other), "an object");
                None
            }
        }
    }

    pub(super) fn of_map(map: &'a Map<String, Value>, place: String) -> Self {
        Self { place, map, known: BTreeSet::new() }
    }

    /// The place of one of the keys.
    pub(super) fn at(&self, key: &str) -> String {
        member(&self.place, key)
    }

    /// The value of a key; `null` is as good as none.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The key among two names that is there; both are a problem unless they are equal.
    pub(super) fn either(
        &mut self,
        key: &'static str,
        alias: &'static str,
        findings: &mut Findings,
    ) -> &'static str {
        let (first, second) = (self.get(key), self.get(alias));
        if let (Some(first), Some(second)) = (first, second)
            && first != second
        {
            let expected = format!("the same as `{}` ({}), or only one of the two", key, describe(first));
            findings.problem(self.at(alias), describe(second), expected);
        }
        if first.is_none() && second.is_some() { alias } else { key }
    }

    /// A string; `expected` describes it for errors.
    pub(super) fn text(
        &mut self,
        key: &'static str,
        expected: &str,
        findings: &mut Findings,
    ) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(text) => Some(text),
            other => {
                let expected = match other {
                    Value::Number(number) => format!("{expected}, in quotes: \"{number}\""),
                    _ => expected.to_owned(),
                };
                findings.problem(self.at(key), describe(other), expected);
                None
            }
        }
    }

    /// A string that must be there and not be empty.
    pub(super) fn required_text(
        &mut self,
        key: &'static str,
        expected: &str,
        findings: &mut Findings,
    ) -> Option<&'a str> {
        if self.get(key).is_none() {
            findings.problem(self.at(key), "nothing", expected);
            return None;
        }
        self.text(key, expected, findings)
    }

    /// A boolean, with a default.
    pub(super) fn flag(&mut self, key: &'static str, default: bool, findings: &mut Findings) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(value)) => *value,
            Some(other) => {
                findings.problem(self.at(key), describe(other), "true or false");
                default
            }
        }
    }

    /// The items of a list; none when the key is missing.
    pub(super) fn list(&mut self, key: &'static str, expected: &str, findings: &mut Findings) -> &'a [Value] {
        match self.get(key) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                findings.problem(self.at(key), describe(other), expected);
                &[]
            }
        }
    }

    /// Warns of the keys that were never asked for.
    pub(super) fn finish(self, findings: &mut Findings) {
        for key in self.map.keys().filter(|key| !self.known.contains(key.as_str())) {
            findings.warnings.push(Warning::UnknownKey {
                place: member(&self.place, key),
                known: self.known.iter().map(|&name| name.to_owned()).collect(),
            });
        }
    }
}

/// The place of a member: `a.b`, or `a["b c"]` where the key is no plain word.
pub(super) fn member(place: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'));
    match (plain, place.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{place}.{key}"),
        (false, _) => format!("{place}[{key:?}]"),
    }
}

/// A value for an error message: short, and with its kind.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() > 120 => {
            format!("{:?}", text.chars().take(120).chain(['…']).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(map) if map.is_empty() => "an empty object".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
