//! Values, files and seeds in a prompt.

use cvs_versions::workflow::{Document, ObjectInfo, Prompt};
use serde_json::{Value, json};

fn prompt() -> Prompt {
    let value = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "example.png" } },
        "2": { "class_type": "LoadImage", "inputs": { "image": "sub/other.png [input]" }, "_meta": { "title": "Mask v1.0" } },
        "3": { "class_type": "KSampler", "inputs": {
            "model": ["9", 0], "seed": 7, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal",
            "denoise": 1.0
        }, "_meta": { "title": "Sampler" } },
        "4": { "class_type": "CLIPTextEncode", "inputs": { "text": "a cat", "clip": ["9", 1] } },
        "5": { "class_type": "Custom", "inputs": { "a.b": "text", "n": 3, "noise_seed": ["3", 0] } },
        "6": { "class_type": "LoadAudio", "inputs": { "audio": "a.wav" } },
    });
    match Document::from_value(value).unwrap() {
        Document::Prompt(prompt) => prompt,
        Document::Graph(_) => panic!("not the API format"),
    }
}

fn info() -> ObjectInfo {
    let text = include_str!("data/workflows/object_info.json");
    let Value::Object(classes) = serde_json::from_str(text).unwrap() else { panic!("no object") };
    ObjectInfo::new(classes)
}

#[test]
fn a_value_is_what_the_input_takes() {
    let cases = [
        ("3.seed=42", "3", "seed", json!(42)),
        ("Sampler.cfg=2.5", "3", "cfg", json!(2.5)),
        ("KSampler.steps=5", "3", "steps", json!(5)),
        ("KSampler.sampler_name=dpmpp_2m", "3", "sampler_name", json!("dpmpp_2m")),
        ("4.text=a = b.c", "4", "text", json!("a = b.c")),
        ("4.text=42", "4", "text", json!("42")),
        ("4.text=\"quoted\\n\"", "4", "text", json!("quoted\n")),
        ("4.text=[1,2]", "4", "text", json!("[1,2]")),
        ("4.text=", "4", "text", json!("")),
        ("Mask v1.0.image=new.png", "2", "image", json!("new.png")),
        ("5.a.b=12", "5", "a.b", json!("12")),
        ("5.n=12", "5", "n", json!(12)),
        ("5.n=[1, 2]", "5", "n", json!({ "__value__": [1, 2] })),
        ("5.noise_seed=9", "5", "noise_seed", json!(9)),
    ];
    let info = info();
    for (assignment, node, input, expected) in cases {
        let mut prompt = prompt();
        prompt.set(assignment, Some(&info)).unwrap_or_else(|error| panic!("{assignment}: {error}"));
        assert_eq!(prompt.node(node).unwrap().inputs[input], expected, "{assignment}");
    }
}

#[test]
fn what_cannot_be_set_is_named_with_what_could() {
    let cases = [
        ("seed", "\"seed\" is not an assignment: expected NODE.INPUT=VALUE"),
        ("3=4", "\"3=4\" is not an assignment: expected NODE.INPUT=VALUE"),
        ("Smpler.seed=4", "no node has the id, title or class \"Smpler\"; there is `Sampler`, `KSampler`"),
        (
            "99.seed=4",
            "no node has the id, title or class \"99\"; there is `1 (LoadImage)`, `2 (LoadImage)`, `3 (KSampler)`, \
             `4 (CLIPTextEncode)`, `5 (Custom)`, `6 (LoadAudio)`",
        ),
        (
            "LoadImage.image=x.png",
            "\"LoadImage\" is more than one node: node 1 (LoadImage), node 2 (LoadImage \"Mask v1.0\"); name it by its id",
        ),
        (
            "3.sead=4",
            "node 3 (KSampler \"Sampler\") has no input `sead`; it has `model`, `seed`, `steps`, `cfg`, \
             `sampler_name`, `scheduler`, `denoise`, `positive`, `negative`, `latent_image`",
        ),
        (
            "3.steps=many",
            "node 3 (KSampler \"Sampler\"), input `steps`: found \"many\"; expected a whole number",
        ),
        ("3.steps=1.5", "node 3 (KSampler \"Sampler\"), input `steps`: found 1.5; expected a whole number"),
        ("3.steps=\"5\"", "node 3 (KSampler \"Sampler\"), input `steps`: found \"5\"; expected a number"),
        (
            "3.sampler_name=eular",
            "node 3 (KSampler \"Sampler\"), input `sampler_name`: found \"eular\"; expected one of \"euler\", \"dpmpp_2m\"",
        ),
        (
            "3.model=x",
            "node 3 (KSampler \"Sampler\"), input `model`: found \"x\"; expected a link to an output of type MODEL",
        ),
    ];
    let info = info();
    for (assignment, expected) in cases {
        assert_eq!(prompt().set(assignment, Some(&info)).unwrap_err().to_string(), expected, "{assignment}");
    }
}

#[test]
fn the_name_of_a_file_means_the_inputs_that_have_it() {
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("example.png", &[("1", "image")]),
        ("sub/other.png", &[("2", "image")]),
        ("other.png", &[("2", "image")]),
        ("elsewhere/a.wav", &[("6", "audio")]),
        ("1.image", &[("1", "image")]),
        ("Mask v1.0.image", &[("2", "image")]),
    ];
    for info in [Some(&info()), None] {
        for (name, expected) in cases {
            let found = prompt().inputs_of_file(name, info).unwrap();
            let found: Vec<_> = found.iter().map(|(node, input)| (node.as_str(), input.as_str())).collect();
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(
            prompt().inputs_of_file("missing.png", info).unwrap_err().to_string(),
            "no input of the workflow takes a file called \"missing.png\"; these take files: 1.image (example.png), \
             2.image (sub/other.png [input]), 6.audio (a.wav)"
        );
    }
    let mut prompt = prompt();
    prompt.set_file("1", "image", "example_1.png");
    assert_eq!(prompt.node("1").unwrap().inputs["image"], "example_1.png");
}

#[test]
fn seeds_are_values_not_links() {
    let found = serde_json::to_value(prompt().seeds()).unwrap();
    assert_eq!(found, json!([{ "node": "3", "class": "KSampler", "input": "seed", "value": 7 }]));
}
