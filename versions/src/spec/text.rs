//! Edits of JSON text that touch only what changed. The text is scanned once into spans; a changed tree is compared
//! with the old one, and every difference becomes the smallest splice: a value, a member, an item. Order, spacing,
//! number forms and escapes of everything else stay as the person wrote them.

use serde_json::{Map, Value};

/// The spans of one value.
#[derive(Debug)]
pub(super) struct Node {
    start: usize,
    end: usize,
    slots: Vec<Slot>,
}

/// One member of an object (from its key on) or one item of an array.
#[derive(Debug)]
struct Slot {
    start: usize,
    value: Node,
}

/// A key that one object has twice: where the second one starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DuplicateKey {
    pub(super) offset: usize,
    pub(super) key: String,
}

/// Scans `text`, which the JSON parser has accepted.
pub(super) fn scan(text: &str) -> Result<Node, DuplicateKey> {
    let mut scanner = Scanner { bytes: text.as_bytes(), text, at: 0 };
    scanner.value()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(b']')
    }

    fn space(&mut self) {
        while self.at < self.bytes.len() && self.peek().is_ascii_whitespace() {
            self.at += 1;
        }
    }

    /// Moves behind a string; its bytes hold no quote that is not escaped.
    fn string(&mut self) {
        self.at += 1;
        while self.at < self.bytes.len() && self.peek() != b'"' {
            self.at += if self.peek() == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
    }

    fn value(&mut self) -> Result<Node, DuplicateKey> {
        self.space();
        let start = self.at;
        let mut slots = Vec::new();
        match self.peek() {
            b'{' | b'[' => self.slots(&mut slots)?,
            b'"' => self.string(),
            _ => {
                while self.at < self.bytes.len() && !matches!(self.peek(), b',' | b']' | b'}') {
                    if self.peek().is_ascii_whitespace() {
                        break;
                    }
                    self.at += 1;
                }
            }
        }
        Ok(Node { start, end: self.at, slots })
    }

    fn slots(&mut self, slots: &mut Vec<Slot>) -> Result<(), DuplicateKey> {
        let is_object = self.peek() == b'{';
        let mut keys = std::collections::HashSet::new();
        self.at += 1;
        loop {
            self.space();
            if self.at >= self.bytes.len() || matches!(self.peek(), b'}' | b']') {
                self.at += 1;
                return Ok(());
            }
            if self.peek() == b',' {
                self.at += 1;
                continue;
            }
            let start = self.at;
            if is_object {
                self.string();
                let key: String = self
                    .text
                    .get(start..self.at)
                    .and_then(|raw| serde_json::from_str(raw).ok())
                    .unwrap_or_default();
                if !keys.insert(key.clone()) {
                    return Err(DuplicateKey { offset: start, key });
                }
                self.space();
                self.at += 1;
            }
            let value = self.value()?;
            let start = if is_object { start } else { value.start };
            slots.push(Slot { start, value });
        }
    }
}

/// `text`, whose spans are `node` and whose tree is `old`, edited so that its tree is `new`.
pub(super) fn patch(text: &str, node: &Node, old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    let mut patch = Patch { text, style: Style::of(text, node), splices: Vec::new() };
    patch.object(node, old, new);
    let mut splices = patch.splices;
    // Stable, so that insertions at one place keep their order; a removal that starts there comes after them.
    splices.sort_by_key(|splice| (splice.start, splice.end));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for Splice { start, end, text: insert } in splices {
        out.push_str(&text[at..start]);
        out.push_str(&insert);
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

/// A new document in the style that cvs writes: two spaces, one newline at the end.
pub(super) fn render_new(root: &Map<String, Value>) -> String {
    let style = Style { unit: Some("  ".to_owned()), newline: "\n" };
    style.render(&Value::Object(root.clone()), "") + "\n"
}

struct Style {
    /// One step of indentation; none when the whole document stands on one line.
    unit: Option<String>,
    newline: &'static str,
}

impl Style {
    fn of(text: &str, root: &Node) -> Self {
        let body = &text[root.start..root.end];
        let newline = if body.contains("\r\n") { "\r\n" } else { "\n" };
        let first = root.slots.first().map_or("", |slot| space_before(text, slot.start));
        let unit = match first.rfind('\n') {
            Some(at) => Some(first[at + 1..].to_owned()).filter(|unit| !unit.is_empty()),
            None if root.slots.is_empty() || body.contains('\n') => None,
            None => return Self { unit: None, newline },
        };
        Self { unit: Some(unit.unwrap_or_else(|| "  ".to_owned())), newline }
    }

    fn render(&self, value: &Value, indent: &str) -> String {
        let Some(unit) = &self.unit else { return value.to_string() };
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(unit.as_bytes());
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        let pretty = match serde::Serialize::serialize(value, &mut serializer) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => value.to_string(),
        };
        // A newline of the rendering is never part of a string: there it is escaped.
        pretty.replace('\n', &format!("{}{indent}", self.newline))
    }

    fn member(&self, key: &str, value: &Value, indent: &str) -> String {
        let colon = if self.unit.is_some() { ": " } else { ":" };
        format!("{}{colon}{}", Value::from(key), self.render(value, indent))
    }
}

struct Splice {
    start: usize,
    end: usize,
    text: String,
}

/// What happens to the slots of one container, in the order of the result.
enum Step<'a> {
    Keep(usize, &'a Value, &'a Value),
    Remove(usize),
    Insert(Option<&'a str>, &'a Value),
}

struct Patch<'a> {
    text: &'a str,
    style: Style,
    splices: Vec<Splice>,
}

impl Patch<'_> {
    fn value(&mut self, node: &Node, old: &Value, new: &Value) {
        match (old, new) {
            (old, new) if old == new => {}
            (Value::Object(old), Value::Object(new)) => self.object(node, old, new),
            (Value::Array(old), Value::Array(new)) => self.array(node, old, new),
            (_, new) => self.replace(node, new),
        }
    }

    fn replace(&mut self, node: &Node, new: &Value) {
        let line = self.text[..node.start].rfind('\n').map_or(0, |at| at + 1);
        let indent: String = self.text[line..].chars().take_while(|c| matches!(c, ' ' | '\t')).collect();
        let text = self.style.render(new, &indent);
        self.splices.push(Splice { start: node.start, end: node.end, text });
    }

    fn object(&mut self, node: &Node, old: &Map<String, Value>, new: &Map<String, Value>) {
        let kept = old.keys().filter(|key| new.contains_key(*key));
        let in_order = kept.eq(new.keys().filter(|key| old.contains_key(*key)));
        if !in_order || old.len() != node.slots.len() {
            return self.replace(node, &Value::Object(new.clone()));
        }
        let mut steps = Vec::new();
        let mut rest = old.iter().enumerate().peekable();
        let removed = |key: &String| !new.contains_key(key);
        for (key, value) in new {
            while let Some((index, _)) = rest.next_if(|(_, (key, _))| removed(key)) {
                steps.push(Step::Remove(index));
            }
            match rest.next_if(|(_, (old_key, _))| *old_key == key) {
                Some((index, (_, old_value))) => steps.push(Step::Keep(index, old_value, value)),
                None => steps.push(Step::Insert(Some(key), value)),
            }
        }
        steps.extend(rest.map(|(index, _)| Step::Remove(index)));
        self.steps(node, &steps, || Value::Object(new.clone()));
    }

    /// Equal items at both ends stay; those between are paired in order.
    fn array(&mut self, node: &Node, old: &[Value], new: &[Value]) {
        if old.len() != node.slots.len() {
            return self.replace(node, &Value::Array(new.to_vec()));
        }
        let shorter = old.len().min(new.len());
        let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let tail =
            old.iter().rev().zip(new.iter().rev()).take(shorter - head).take_while(|(a, b)| a == b).count();
        let (old_end, new_end) = (old.len() - tail, new.len() - tail);
        let paired = (old_end - head).min(new_end - head);
        let mut steps: Vec<Step<'_>> = Vec::new();
        steps.extend((0..head + paired).map(|i| Step::Keep(i, &old[i], &new[i])));
        steps.extend((head + paired..old_end).map(Step::Remove));
        steps.extend((head + paired..new_end).map(|i| Step::Insert(None, &new[i])));
        steps.extend((0..tail).map(|i| Step::Keep(old_end + i, &old[old_end + i], &new[new_end + i])));
        self.steps(node, &steps, || Value::Array(new.to_vec()));
    }

    fn steps(&mut self, node: &Node, steps: &[Step<'_>], whole: impl Fn() -> Value) {
        let first_kept = steps.iter().find_map(|step| match step {
            Step::Keep(index, ..) => Some(*index),
            Step::Remove(_) | Step::Insert(..) => None,
        });
        let Some(first_kept) = first_kept else { return self.replace(node, &whole()) };
        let mut last_kept = None;
        for step in steps {
            match step {
                Step::Keep(index, old, new) => {
                    self.value(&node.slots[*index].value, old, new);
                    last_kept = Some(*index);
                }
                // Before the first that stays, the comma behind goes along; after it, the comma before.
                Step::Remove(index) if *index < first_kept => self.splices.push(Splice {
                    start: node.slots[*index].start,
                    end: node.slots[*index + 1].start,
                    text: String::new(),
                }),
                Step::Remove(index) => self.splices.push(Splice {
                    start: node.slots[*index - 1].value.end,
                    end: node.slots[*index].value.end,
                    text: String::new(),
                }),
                Step::Insert(key, value) => {
                    let neighbour = &node.slots[last_kept.unwrap_or(first_kept)];
                    let space = space_before(self.text, neighbour.start);
                    let indent = space.rfind('\n').map_or("", |at| &space[at + 1..]);
                    let text = match key {
                        Some(key) => self.style.member(key, value, indent),
                        None => self.style.render(value, indent),
                    };
                    let (at, text) = match last_kept {
                        Some(_) => (neighbour.value.end, format!(",{space}{text}")),
                        None => (neighbour.start, format!("{text},{space}")),
                    };
                    self.splices.push(Splice { start: at, end: at, text });
                }
            }
        }
    }
}

/// The white space that ends at `at`.
fn space_before(text: &str, at: usize) -> &str {
    let before = &text[..at];
    &before[before.trim_end_matches([' ', '\t', '\r', '\n']).len()..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edited(text: &str, new: &str) -> String {
        let map = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        patch(text, &scan(text).unwrap(), &map(text), &map(new))
    }

    #[test]
    fn only_what_changed_changes() {
        for (text, new, expected) in [
            // A value; odd numbers and escapes elsewhere stay.
            (
                "{ \"a\" : 1.50,\n\"b\":\"\\u00e9\" }",
                r#"{"a":2,"b":"é"}"#,
                "{ \"a\" : 2,\n\"b\":\"\\u00e9\" }",
            ),
            // A new member at the end takes its neighbour's indentation.
            ("{\n\t\"a\": 1\n}\n", r#"{"a":1,"b":[1]}"#, "{\n\t\"a\": 1,\n\t\"b\": [\n\t\t1\n\t]\n}\n"),
            // In the middle, at the front.
            (
                "{\n  \"a\": 1,\n  \"c\": 3\n}",
                r#"{"a":1,"b":2,"c":3}"#,
                "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}",
            ),
            ("{\n  \"b\": 1\n}", r#"{"a":0,"b":1}"#, "{\n  \"a\": 0,\n  \"b\": 1\n}"),
            // Removals: first, last, middle.
            ("{\n  \"a\": 1,\n  \"b\": 2\n}", r#"{"b":2}"#, "{\n  \"b\": 2\n}"),
            ("{\n  \"a\": 1,\n  \"b\": 2\n}", r#"{"a":1}"#, "{\n  \"a\": 1\n}"),
            ("{\"a\": 1, \"b\": 2, \"c\": 3}", r#"{"a":1,"c":3}"#, "{\"a\": 1, \"c\": 3}"),
            // Both at one place.
            ("{\"a\":1,\"b\":2}", r#"{"a":1,"c":3}"#, "{\"a\":1,\"c\":3}"),
            // Empty containers, and one that becomes empty.
            (
                "{\n  \"m\": [],\n  \"e\": {}\n}",
                r#"{"m":[1],"e":{}}"#,
                "{\n  \"m\": [\n    1\n  ],\n  \"e\": {}\n}",
            ),
            ("{\n  \"m\": [\n    1\n  ]\n}", r#"{"m":[]}"#, "{\n  \"m\": []\n}"),
            ("{}", r#"{"a":1}"#, "{\n  \"a\": 1\n}"),
            // Items.
            ("{\"m\": [ 1, 2, 3 ]}", r#"{"m":[1,3]}"#, "{\"m\": [ 1, 3 ]}"),
            (
                "{\"m\": [{\"a\": 1.0}, 2]}",
                r#"{"m":[{"a":1.0,"b":2},2]}"#,
                "{\"m\": [{\"a\": 1.0,\"b\":2}, 2]}",
            ),
            // Another order is another object.
            ("{ \"a\":1, \"b\":2 }", r#"{"b":2,"a":1}"#, "{\"b\":2,\"a\":1}"),
            // Windows newlines.
            (
                "{\r\n  \"a\": 1\r\n}",
                r#"{"a":1,"b":{"c":2}}"#,
                "{\r\n  \"a\": 1,\r\n  \"b\": {\r\n    \"c\": 2\r\n  }\r\n}",
            ),
        ] {
            assert_eq!(edited(text, new), expected, "{text} -> {new}");
        }
    }

    #[test]
    fn a_key_written_twice_is_found() {
        let text = "{\"a\": [{\"b\\\"\": 1, \"c\": \"}\", \"b\\u0022\": 2}]}";
        let error = scan(text).unwrap_err();
        assert_eq!((error.key.as_str(), &text[error.offset..error.offset + 10]), ("b\"", "\"b\\u0022\":"));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\{}\\[\\], \n]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-e\"]", inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::vec(("[a-f]", tree()), 0..6).prop_map(|members| members.into_iter().collect())
    }

    proptest! {
        #[test]
        fn an_edited_text_says_the_new_tree(old in object(), new in object(), style in 0..3) {
            let text = match style {
                0 => serde_json::to_string(&old).unwrap(),
                1 => render_new(&old),
                _ => render_new(&old).replace('\n', "\r\n").replace("  ", "\t"),
            };
            let text = if style == 2 && serde_json::from_str::<Map<String, Value>>(&text).ok().as_ref() != Some(&old) {
                render_new(&old)
            } else {
                text
            };
            let node = scan(&text).unwrap();
            let unchanged = patch(&text, &node, &old, &old);
            prop_assert_eq!(&unchanged, &text);
            let result = patch(&text, &node, &old, &new);
            let read: Map<String, Value> = serde_json::from_str(&result).unwrap();
            prop_assert_eq!(&read, &new);
            prop_assert!(read.keys().eq(new.keys()));
        }
    }
}
