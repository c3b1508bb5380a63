//! Workflows of the editor become the prompts that the editor would send. Every `data/workflows/NAME.ui.json` has the
//! prompt beside it, and `NAME.notes` where the conversion has something to say.

use std::fs;
use std::path::PathBuf;

use cvs_versions::workflow::{Conversion, Document, Graph, ObjectInfo, WorkflowError};
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/workflows").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(data(name)).unwrap()).unwrap()
}

fn info() -> ObjectInfo {
    let Value::Object(classes) = read("object_info.json") else { panic!("no object") };
    ObjectInfo::new(classes)
}

fn graph(value: Value) -> Box<Graph> {
    match Document::from_value(value).unwrap() {
        Document::Graph(graph) => graph,
        Document::Prompt(_) => panic!("not in the format of the editor"),
    }
}

fn convert(value: Value) -> Result<Conversion, WorkflowError> {
    graph(value).convert(&info(), &mut |_| 0)
}

/// Text to image with one node changed.
fn changed(id: u64, change: impl FnOnce(&mut Value)) -> Value {
    let mut value = read("text2img.ui.json");
    let nodes = value["nodes"].as_array_mut().unwrap();
    change(nodes.iter_mut().find(|node| node["id"] == id).unwrap());
    value
}

fn refusal(value: Value) -> String {
    convert(value).unwrap_err().to_string()
}

#[test]
fn workflows_become_the_prompts_beside_them() {
    let mut seen = Vec::new();
    for entry in fs::read_dir(data("")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".ui.json") else { continue };
        let Conversion { prompt, notes } =
            convert(read(&file)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = read(&format!("{name}.api.json"));
        let found = Value::Object(prompt.into_object());
        assert_eq!(found, expected, "{name}: {found:#}");
        let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
        let expected = fs::read_to_string(data(&format!("{name}.notes"))).unwrap_or_default();
        assert_eq!(notes, expected.lines().collect::<Vec<_>>(), "{name}");
        seen.push(name.to_owned());
    }
    seen.sort();
    let expected = [
        "bypass",
        "mute",
        "reroute_primitive",
        "set_get",
        "subgraph_bypassed",
        "subgraph_nested",
        "subgraph_twice",
        "text2img",
        "version_1",
        "widgets",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn choices_in_texts_are_made_where_the_class_has_them() {
    let value = changed(6, |node| node["widgets_values"] = json!(["a {red|green} cat // not sent"]));
    let conversion = graph(value).convert(&info(), &mut |count| count - 1).unwrap();
    assert_eq!(conversion.prompt.node("6").unwrap().inputs["text"], "a green cat ");
    let value = changed(9, |node| node["widgets_values"] = json!(["{a|b}//x"]));
    let conversion = convert(value).unwrap();
    assert_eq!(conversion.prompt.node("9").unwrap().inputs["filename_prefix"], "{a|b}//x");
}

#[test]
fn classes_that_the_server_lacks_are_all_named() {
    let mut value = changed(3, |node| {
        node["type"] = "FancySampler".into();
        node["properties"] = json!({ "cnr_id": "fancy-nodes", "ver": "1.0.0" });
    });
    for node in value["nodes"].as_array_mut().unwrap() {
        if node["type"] == "CLIPTextEncode" {
            node["type"] = "OtherEncode".into();
            node["properties"] = json!({ "aux_id": "someone/other-nodes" });
        }
    }
    assert_eq!(
        refusal(value),
        "the server has no OtherEncode (nodes 6, 7, from someone/other-nodes), FancySampler (node 3, from fancy-nodes)"
    );
}

#[test]
fn what_would_have_to_be_guessed_is_refused_by_name() {
    let cases: Vec<(Value, &str)> = vec![
        (
            changed(3, |node| {
                node["widgets_values"] = json!([1, "fixed", 20, 8, "euler", "normal", 1, "more"])
            }),
            "node 3 (KSampler): it has 8 widget values, and KSampler of this server has 6 (`seed`, `steps`, `cfg`, \
             `sampler_name`, `scheduler`, `denoise`); the workflow was saved with another version of this node",
        ),
        (
            changed(3, |node| node["widgets_values"] = json!([1, "fixed", "euler", 20, 8, "normal", 1])),
            "node 3 (KSampler): its widget `steps` would get \"euler\", and takes a whole number; the workflow was \
             saved with another version of this node",
        ),
        (
            changed(4, |node| node["widgets_values"] = json!([])),
            "node 4 (CheckpointLoaderSimple): it has 0 widget values, and CheckpointLoaderSimple of this server has \
             1 (`ckpt_name`); the workflow was saved with another version of this node",
        ),
        (
            changed(3, |node| node["inputs"][0]["link"] = 77.into()),
            "node 3 (KSampler), input `model`: link 77 is not among the links",
        ),
        (
            {
                let mut value = read("text2img.ui.json");
                value["links"][0] = json!([1, 44, 0, 3, 0, "MODEL"]);
                value
            },
            "node 3 (KSampler), input `model`: link 1 begins at node 44, which is not there",
        ),
        (
            {
                let mut value = read("text2img.ui.json");
                value["links"][0] = json!([1, 4, 7, 3, 0, "MODEL"]);
                value
            },
            "node 3 (KSampler), input `model`: link 1 begins at output 7 of node 4 (CheckpointLoaderSimple), which on \
             this server has 3",
        ),
        (
            changed(3, |node| node["type"] = "workflow>My group".into()),
            "group nodes cannot be converted, subgraphs can: node 3 (workflow>My group)",
        ),
        (
            changed(8, |node| node["mode"] = 2.into()),
            "nothing in the workflow makes an output; left out: node 9 (SaveImage) is left out: node 8 (VAEDecode) is \
             muted, and it needs its `images`",
        ),
        (
            changed(8, |node| node["mode"] = 4.into()),
            "nothing in the workflow makes an output; left out: node 9 (SaveImage) is left out: node 8 (VAEDecode) is \
             bypassed, and has no input of type IMAGE, and it needs its `images`",
        ),
        (
            {
                let mut value = read("reroute_primitive.ui.json");
                let links = value["links"].as_array_mut().unwrap();
                *links.iter_mut().find(|link| link[0] == 10).unwrap() = json!([10, 14, 0, 10, 0, "*"]);
                value
            },
            "node 14 (Reroute): its links lead back to itself",
        ),
        (
            {
                let mut value = read("subgraph_twice.ui.json");
                value["nodes"][0]["widgets_values"] = json!(["one", "two"]);
                value
            },
            "node 57 (Text to image): it has 2 values for 5 promoted widgets",
        ),
        (
            {
                let mut value = read("subgraph_nested.ui.json");
                let outer = value["definitions"]["subgraphs"][0]["id"].clone();
                value["definitions"]["subgraphs"][1]["nodes"][0]["type"] = outer;
                value
            },
            "node 12:57:4 (Both): its subgraph contains itself",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(refusal(value), expected);
    }
}

#[test]
fn widgets_that_are_newer_than_the_file_get_what_the_editor_shows() {
    let Value::Object(mut classes) = read("object_info.json") else { panic!("no object") };
    let inputs = &mut classes["EmptyLatentImage"]["input"];
    inputs["required"]["device"] = json!([["default", "cpu"], {}]);
    inputs["optional"] = json!({ "note": ["STRING", {}] });
    let conversion = graph(read("text2img.ui.json")).convert(&ObjectInfo::new(classes), &mut |_| 0).unwrap();
    let inputs = conversion.prompt.node("5").unwrap().inputs;
    assert_eq!((&inputs["device"], inputs.get("note")), (&json!("default"), None));
    let notes: Vec<_> = conversion.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        ["node 5 (EmptyLatentImage): the workflow has no `device`; it gets its default, \"default\""]
    );
}

#[test]
fn a_list_that_does_not_fit_gives_way_to_values_by_name() {
    let value = changed(3, |node| {
        node["widgets_values"] = json!([1, "fixed", 20, 8, "euler"]);
        node["widgets_values_named"] = json!({
            "seed": 5, "control_after_generate": "fixed", "steps": 3, "cfg": 2.5, "sampler_name": "dpmpp_2m",
            "scheduler": "karras", "denoise": 0.5
        });
    });
    let prompt = convert(value).unwrap().prompt;
    let inputs = prompt.node("3").unwrap().inputs;
    let found =
        ["seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"].map(|name| inputs[name].clone());
    assert_eq!(Value::from(found.to_vec()), json!([5, 3, 2.5, "dpmpp_2m", "karras", 0.5]));
    assert!(!inputs.contains_key("control_after_generate"));
}

#[test]
fn documents_are_recognised_in_every_wrapping() {
    let api = read("text2img.api.json");
    let wrapped = [
        api.clone(),
        json!({ "prompt": api, "client_id": "x", "extra_data": { "extra_pnginfo": {} } }),
        json!({ "workflow": api }),
        json!({ "workflow": api.to_string() }),
        json!({ "input": { "version_id": "v", "workflow": api, "output_mode": "base64" } }),
        json!({ "workflow": read("text2img.ui.json"), "output": api }),
    ];
    for value in wrapped {
        match Document::parse(&format!("\u{feff}{value}")).unwrap() {
            Document::Prompt(prompt) => assert_eq!(Value::Object(prompt.into_object()), api),
            Document::Graph(_) => panic!("{value}"),
        }
    }
    assert!(matches!(
        Document::from_value(json!({ "workflow": read("text2img.ui.json") })),
        Ok(Document::Graph(_))
    ));
}

#[test]
fn what_is_no_workflow_is_refused_with_what_it_is() {
    let unrecognised = |found: &str| {
        format!(
            "not a workflow: found {found}; expected the API format (`{{\"ID\": {{\"class_type\", \"inputs\"}}}}`), \
             the format of the editor (`nodes` and `links`), or one of them under `prompt`, `workflow` or `input`"
        )
    };
    let cases = [
        ("[1, 2]", unrecognised("a list of 2")),
        ("{}", unrecognised("an empty object")),
        (r#"{"schema_version": 2, "version_id": "x"}"#, unrecognised("an object with `schema_version`, `version_id`")),
        ("{\n \"a\": }", "the workflow is not JSON: line 2, column 7: expected value".to_owned()),
        (
            r#"{"1": {"class_type": "A", "inputs": {}}, "2": {"class_type": 5}}"#,
            "node 2, `class_type`: found 5; expected the name of a class".to_owned(),
        ),
        (
            r#"{"1": {"class_type": "A", "inputs": []}}"#,
            "node 1, `inputs`: found a list of 0; expected an object".to_owned(),
        ),
        (
            r#"{"nodes": [{"id": 1, "type": "A", "mode": 9}], "links": []}"#,
            "nodes[0].mode: found 9; expected 0, 1, 2, 3 or 4".to_owned(),
        ),
        (
            r#"{"nodes": [], "links": [[1, 2]]}"#,
            "links[0]: found a list of 2; expected [id, from, slot, to, slot, type], or an object with id, origin_id, \
             origin_slot, target_id and target_slot"
                .to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Document::parse(text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn values_that_are_the_editors_are_passed_over_in_files_of_every_age() {
    let node = |class: &str, values: Value| {
        graph(json!({ "nodes": [{ "id": 1, "type": class, "widgets_values": values }], "links": [] }))
    };
    let class = |input: Value| json!({ "input": { "required": input }, "output": [], "output_node": true });
    let info = ObjectInfo::new(
        json!({
            "Asked": class(json!({ "seed": ["INT", { "control_after_generate": true }], "steps": ["INT"] })),
            "GivenUp": class(json!({ "seed": ["INT", { "control_after_generate": false }], "steps": ["INT"] })),
            "Switch": class(json!({ "seed": ["INT"], "on": ["BOOLEAN"] })),
            "Remote": class(json!({ "image": ["COMBO", { "image_upload": true,
                "remote": { "route": "/x", "refresh_button": true, "control_after_refresh": "first" } }] })),
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    for (class, values, expected) in [
        ("Asked", json!([5, true, 20]), Ok(json!({ "seed": 5, "steps": 20 }))),
        ("Asked", json!([5, "fixed", 20]), Ok(json!({ "seed": 5, "steps": 20 }))),
        ("Asked", json!([5, 20]), Ok(json!({ "seed": 5, "steps": 20 }))),
        ("GivenUp", json!([5, "randomize", 20]), Ok(json!({ "seed": 5, "steps": 20 }))),
        ("GivenUp", json!([5, true, 20]), Err("its widget `steps` would get true")),
        ("Switch", json!([5, true]), Ok(json!({ "seed": 5, "on": true }))),
        ("Switch", json!([5, true, false]), Err("it has 3 widget values")),
        (
            "Remote",
            json!(["a.png [output]", false, "refresh", "image"]),
            Ok(json!({ "image": "a.png [output]" })),
        ),
        ("Remote", json!(["a.png [output]"]), Ok(json!({ "image": "a.png [output]" }))),
        ("Remote", json!(["a.png", "else"]), Err("it has 2 widget values")),
    ] {
        match (node(class, values.clone()).convert(&info, &mut |_| 0), expected) {
            (Ok(done), Ok(inputs)) => {
                assert_eq!(done.prompt.into_object()["1"]["inputs"], inputs, "{class} {values}");
            }
            (Err(error), Err(said)) => {
                assert!(error.to_string().contains(said), "{class} {values}: {error}");
            }
            (found, expected) => {
                panic!("{class} {values}: {:?}, not {expected:?}", found.map(|_| "converted"))
            }
        }
    }
}
