//! Random graphs against a model: what the editor can put between two nodes, or around them, changes nothing about what
//! is computed.

use std::collections::BTreeMap;

use cvs_versions::workflow::{Conversion, Document, ObjectInfo};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// What stands between an input and the node that it is linked to.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Reroutes(usize),
    Bypassed,
    Variable,
}

/// A node: its factor, and where its two inputs come from, as numbers that are cut to the nodes before it.
type Plan = Vec<(u8, [(usize, Between); 2])>;

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        3 => Just(Between::Nothing),
        2 => (1usize..4).prop_map(Between::Reroutes),
        1 => Just(Between::Bypassed),
        1 => Just(Between::Variable),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let input = || (any::<prop::sample::Index>(), between()).prop_map(|(index, b)| (index.index(1 << 16), b));
    prop::collection::vec((any::<u8>(), [input(), input()]), 1..8)
}

/// The prompt of a plan, with this before every id.
fn model(plan: &Plan, prefix: &str) -> Map<String, Value> {
    let mut prompt = Map::new();
    let mut put = |id: usize, class: &str, title: &str, inputs: Value| {
        let node = json!({ "class_type": class, "inputs": inputs, "_meta": { "title": title } });
        prompt.insert(format!("{prefix}{id}"), node);
    };
    put(0, "LoadImage", "Load Image", json!({ "image": "a.png" }));
    for (number, (factor, inputs)) in plan.iter().enumerate() {
        let from = |slot: usize| format!("{prefix}{}", inputs[slot].0 % (number + 1));
        let inputs = json!({
            "blend_factor": f64::from(*factor), "blend_mode": "normal", "image1": [from(0), 0], "image2": [from(1), 0]
        });
        put(number + 1, "ImageBlend", "ImageBlend", inputs);
    }
    let last = format!("{prefix}{}", plan.len());
    put(plan.len() + 1, "SaveImage", "Save Image", json!({ "filename_prefix": "x", "images": [last, 0] }));
    prompt
}

/// A level as the editor writes it.
#[derive(Default)]
struct Drawing {
    nodes: Vec<Value>,
    links: Vec<[usize; 5]>,
    next: usize,
}

impl Drawing {
    fn link(&mut self, from: usize, to: usize, slot: usize) -> usize {
        self.links.push([self.links.len() + 1, from, 0, to, slot]);
        self.links.len()
    }

    fn node(&mut self, id: usize, class: &str, mode: u8, inputs: Vec<(&str, usize)>, values: Value) {
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|(name, link)| json!({ "name": name, "type": "IMAGE", "link": link }))
            .collect();
        self.nodes.push(json!({
            "id": id, "type": class, "mode": mode, "inputs": inputs,
            "outputs": [{ "name": "IMAGE", "type": "IMAGE", "links": [1] }], "widgets_values": values
        }));
    }

    /// Links through what is between, and returns the link that arrives.
    fn connect(&mut self, from: usize, to: usize, slot: usize, between: Between) -> usize {
        let mut fresh = || {
            self.next += 1;
            self.next
        };
        let classes: Vec<(usize, &str, u8)> = match between {
            Between::Nothing => Vec::new(),
            Between::Reroutes(count) => (0..count).map(|_| (fresh(), "Reroute", 0)).collect(),
            Between::Bypassed => vec![(fresh(), "ImageInvert", 4)],
            Between::Variable => {
                let (set, get) = (fresh(), fresh());
                let link = self.link(from, set, 0);
                let name = format!("variable {set}");
                self.node(set, "SetNode", 0, vec![("IMAGE", link)], json!([name]));
                self.node(get, "GetNode", 0, Vec::new(), json!([name]));
                return self.link(get, to, slot);
            }
        };
        let mut from = from;
        for (id, class, mode) in classes {
            let link = self.link(from, id, 0);
            self.node(id, class, mode, vec![("image", link)], json!([]));
            from = id;
        }
        self.link(from, to, slot)
    }

    fn draw(plan: &Plan) -> Self {
        let mut drawing = Self { next: 1000, ..Self::default() };
        drawing.node(0, "LoadImage", 0, Vec::new(), json!(["a.png", "image"]));
        for (number, (factor, inputs)) in plan.iter().enumerate() {
            let id = number + 1;
            let from = |slot: usize| inputs[slot].0 % (number + 1);
            let first = drawing.connect(from(0), id, 0, inputs[0].1);
            let second = drawing.connect(from(1), id, 1, inputs[1].1);
            let values = json!([f64::from(*factor), "normal"]);
            drawing.node(id, "ImageBlend", 0, vec![("image1", first), ("image2", second)], values);
        }
        let last = drawing.connect(plan.len(), plan.len() + 1, 0, Between::Nothing);
        drawing.node(plan.len() + 1, "SaveImage", 0, vec![("images", last)], json!(["x"]));
        drawing
    }

    fn links(&self, as_objects: bool) -> Value {
        let link = |[id, from, out, to, slot]: &[usize; 5]| match as_objects {
            false => json!([id, from, out, to, slot, "IMAGE"]),
            true => {
                json!({ "id": id, "origin_id": from, "origin_slot": out, "target_id": to, "target_slot": slot })
            }
        };
        self.links.iter().map(link).collect()
    }

    fn document(&self, as_objects: bool) -> Value {
        json!({ "nodes": self.nodes, "links": self.links(as_objects), "version": if as_objects { 1.0 } else { 0.4 } })
    }

    /// The level in a subgraph in a subgraph, with one instance of each.
    fn wrapped(&self) -> Value {
        let subgraph = |id: &str, nodes: Value, links: Value| json!({ "id": id, "name": id, "nodes": nodes, "links": links, "inputs": [], "outputs": [] });
        let instance = |id: usize, class: &str| json!([{ "id": id, "type": class, "mode": 0 }]);
        let subgraphs = [
            subgraph("inner", json!(self.nodes), self.links(true)),
            subgraph("outer", instance(6, "inner"), json!([])),
        ];
        json!({ "nodes": instance(5, "outer"), "links": [], "definitions": { "subgraphs": subgraphs } })
    }
}

fn convert(document: Value, info: &ObjectInfo) -> BTreeMap<String, Value> {
    let Document::Graph(graph) = Document::from_value(document).unwrap() else { panic!("not a graph") };
    let Conversion { prompt, notes } = graph.convert(info, &mut |_| 0).unwrap();
    assert_eq!(notes, []);
    prompt.into_object().into_iter().collect()
}

fn info() -> ObjectInfo {
    let text = include_str!("data/workflows/object_info.json");
    let Value::Object(classes) = serde_json::from_str(text).unwrap() else { panic!("no object") };
    ObjectInfo::new(classes)
}

proptest! {
    #[test]
    fn what_is_between_and_around_changes_nothing(plan in plan(), as_objects: bool) {
        let info = info();
        let drawing = Drawing::draw(&plan);
        let expected: BTreeMap<_, _> = model(&plan, "").into_iter().collect();
        prop_assert_eq!(convert(drawing.document(as_objects), &info), expected);
        let expected: BTreeMap<_, _> = model(&plan, "5:6:").into_iter().collect();
        prop_assert_eq!(convert(drawing.wrapped(), &info), expected);
    }

    /// Whatever is read, the answer is a value or an error.
    #[test]
    fn no_document_is_too_odd(plan in plan(), key in "nodes|links|definitions|id|type|mode|inputs|outputs|widgets_values|link|origin_id", junk in junk(), at: prop::sample::Index) {
        let mut document = Drawing::draw(&plan).wrapped();
        let mut places = Vec::new();
        find(&document, &key, &mut String::new(), &mut places);
        prop_assume!(!places.is_empty());
        let place: &String = at.get(&places);
        *document.pointer_mut(place).unwrap() = junk;
        if let Ok(Document::Graph(graph)) = Document::from_value(document) {
            let _ = graph.convert(&info(), &mut |_| 0);
        }
    }
}

/// Each subgraph holds the next one twice: a line more doubles what has to be laid out.
#[test]
fn small_files_do_not_grow_without_end() {
    let subgraph = |number: usize| {
        let inner = format!("s{}", number + 1);
        let nodes = json!([{ "id": 1, "type": inner }, { "id": 2, "type": inner }]);
        json!({ "id": format!("s{number}"), "name": "s", "nodes": nodes, "links": [], "inputs": [], "outputs": [] })
    };
    let bomb: Vec<_> = (0..60).map(subgraph).collect();
    let tower = |mut subgraph: Value| {
        subgraph["nodes"].as_array_mut().unwrap().pop();
        subgraph
    };
    let tower: Vec<_> = (0..200).map(|number| tower(subgraph(number))).collect();
    let mut chain = vec![json!({ "id": 0, "type": "LoadImage", "widgets_values": ["a.png", "image"] })];
    let mut links = Vec::new();
    for id in 1..=30_000 {
        links.push(json!([id, id - 1, 0, id, 0, "IMAGE"]));
        let class = if id == 30_000 { "SaveImage" } else { "Reroute" };
        let inputs = json!([{ "name": "images", "type": "IMAGE", "link": id }]);
        chain.push(json!({ "id": id, "type": class, "inputs": inputs, "widgets_values": ["x"] }));
    }
    let start = json!([{ "id": 1, "type": "s0" }]);
    for (document, expected) in [
        (
            json!({ "nodes": start, "definitions": { "subgraphs": bomb } }),
            "more than 20000 subgraphs when they are laid out",
        ),
        (
            json!({ "nodes": start, "definitions": { "subgraphs": tower } }),
            "more than 100 levels of subgraphs in subgraphs",
        ),
        (json!({ "nodes": chain, "links": links }), "more than 200 nodes in a row that only pass on"),
    ] {
        let Document::Graph(graph) = Document::from_value(document).unwrap() else { panic!("not a graph") };
        let error = graph.convert(&info(), &mut |_| 0).unwrap_err();
        assert_eq!(error.to_string(), format!("the workflow has {expected}"));
    }
}

fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        Just(json!("5")),
        Just(json!([])),
        Just(json!([[1, 2, 3, 4, 5, 6]])),
        Just(json!({})),
        Just(json!(-10)),
    ]
}

/// The pointers of all values with that key.
fn find(value: &Value, key: &str, at: &mut String, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let length = at.len();
        at.push_str(&format!("/{name}"));
        if name == key {
            found.push(at.clone());
        }
        find(child, key, at, found);
        at.truncate(length);
    }
}
