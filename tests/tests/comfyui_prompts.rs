//! Our ComfyUI from a plain checkout: prompts, their events, their errors and their files.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use cvs_tests::{Event, Png, api_workflow, read_json, send, ui_workflow, wait_until};
use serde_json::{Value, json};

use crate::support::Checkout;

/// The workflow that ComfyUI shows a new user, in API format.
fn text_to_image(checkpoint: &str, seed: u64) -> Value {
    json!({
        "3": { "class_type": "KSampler", "inputs": {
            "seed": seed, "steps": 4, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0] } },
        "4": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": checkpoint } },
        "5": { "class_type": "EmptyLatentImage", "inputs": { "width": 64, "height": 32, "batch_size": 1 } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": "a glass bottle", "clip": ["4", 1] } },
        "7": { "class_type": "CLIPTextEncode", "inputs": { "text": "text", "clip": ["4", 1] } },
        "8": { "class_type": "VAEDecode", "inputs": { "samples": ["3", 0], "vae": ["4", 2] } },
        "9": { "class_type": "SaveImage", "inputs": { "filename_prefix": "ComfyUI", "images": ["8", 0] } },
    })
}

#[test]
fn a_prompt_runs_to_its_picture() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    checkout.add_checkpoint("one.safetensors", 1);
    checkout.add_checkpoint("two.safetensors", 2);
    let process = checkout.start(&["--preview-method", "auto"]);
    let workflow = text_to_image("one.safetensors", 5);
    let first = process.run(&workflow);
    assert_eq!(
        first.event_types(),
        [
            "execution_start",
            "execution_cached",
            "executing",
            "executing",
            "executing",
            "executing",
            "executing",
            "progress",
            "progress",
            "progress",
            "progress",
            "executing",
            "executing",
            "executed",
            "execution_success",
            "executing",
        ],
        "{:#?}",
        first.events
    );
    let progress = first.event("progress").unwrap();
    assert_eq!(progress, &json!({ "value": 1, "max": 4, "prompt_id": first.prompt_id, "node": "3" }));
    let previews: Vec<&Vec<u8>> = first
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Binary(bytes) => Some(bytes),
            Event::Json(..) => None,
        })
        .collect();
    assert_eq!(previews.len(), 4);
    assert_eq!(previews[0][..10], *b"\0\0\0\x01\0\0\0\x01\xff\xd8", "a JPEG preview");

    let history = &first.history;
    assert_eq!(
        history["outputs"],
        json!({ "9": { "images": [{ "filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output" }] } })
    );
    assert_eq!(history["prompt"][1], first.prompt_id.as_str());
    assert_eq!((&history["prompt"][2], &history["prompt"][4]), (&workflow, &json!(["9"])));
    assert_eq!(
        (&history["status"]["status_str"], &history["status"]["completed"]),
        (&json!("success"), &json!(true))
    );
    assert_eq!(history["status"]["messages"][0][0], "execution_start");
    let bytes = process.view(&history["outputs"]["9"]["images"][0]);
    assert_eq!(bytes, fs::read(checkout.path("output/ComfyUI_00001_.png")).unwrap());
    let png = Png::parse(&bytes);
    assert_eq!((png.width, png.height), (64, 32));
    assert_eq!(serde_json::from_str::<Value>(&png.texts["prompt"]).unwrap(), workflow);

    // The same again is known from before; another model makes another picture under the next number.
    let again = process.run(&workflow);
    let mut cached = again.event("execution_cached").unwrap()["nodes"].as_array().unwrap().clone();
    cached.sort_by_key(Value::to_string);
    assert_eq!(Value::from(cached), json!(["3", "4", "5", "6", "7", "8", "9"]));
    assert_eq!(again.history["outputs"], first.history["outputs"]);
    let other = process.run(&text_to_image("two.safetensors", 5));
    let file = &other.history["outputs"]["9"]["images"][0];
    assert_eq!(file["filename"], "ComfyUI_00002_.png");
    assert_ne!(process.view(file), bytes);
}

#[test]
fn models_are_read_alike_mapped_or_not() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    checkout.add_checkpoint("one.safetensors", 1);
    let pictures = [&["--disable-metadata"][..], &["--disable-metadata", "--disable-mmap"]].map(|args| {
        let process = checkout.start(args);
        let finished = process.run(&text_to_image("one.safetensors", 5));
        process.view(&finished.history["outputs"]["9"]["images"][0])
    });
    assert_eq!(pictures[0], pictures[1]);
    assert_eq!(Png::parse(&pictures[0]).texts.len(), 0);
}

#[test]
fn prompts_that_cannot_run_are_refused() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    checkout.add_checkpoint("one.safetensors", 1);
    let process = checkout.start(&[]);
    let with = |id: &str, pointer: &str, value: Value| {
        let mut workflow = text_to_image("one.safetensors", 1);
        *workflow[id].pointer_mut(pointer).unwrap() = value;
        workflow
    };
    let mut incomplete = text_to_image("one.safetensors", 1);
    incomplete["3"]["inputs"].as_object_mut().unwrap().remove("steps");
    let mut endless = text_to_image("one.safetensors", 1);
    endless.as_object_mut().unwrap().remove("9");
    let failed = "prompt_outputs_failed_validation";
    for (workflow, kind, node) in [
        (with("4", "/class_type", json!("Unknown")), "invalid_prompt", None),
        (json!({ "nodes": [], "links": [] }), "invalid_prompt", None),
        (endless, "prompt_no_outputs", None),
        (text_to_image("none.safetensors", 1), failed, Some(("4", "value_not_in_list"))),
        (incomplete, failed, Some(("3", "required_input_missing"))),
        (with("3", "/inputs/steps", json!(0)), failed, Some(("3", "value_smaller_than_min"))),
        (with("3", "/inputs/cfg", json!(101)), failed, Some(("3", "value_bigger_than_max"))),
        (with("3", "/inputs/cfg", json!("much")), failed, Some(("3", "invalid_input_type"))),
        (with("3", "/inputs/model", json!(["4", 2])), failed, Some(("3", "return_type_mismatch"))),
        (with("3", "/inputs/model", json!(["4"])), failed, Some(("3", "bad_linked_input"))),
        (with("3", "/inputs/model", json!(["99", 0])), failed, Some(("3", "exception_during_validation"))),
        (
            with("3", "/inputs/latent_image", json!(["3", 0])),
            failed,
            Some(("3", "exception_during_validation")),
        ),
    ] {
        let reply = process.post("/prompt", &json!({ "prompt": workflow }));
        let answer = reply.json();
        assert_eq!((reply.status, &answer["error"]["type"]), (400, &json!(kind)), "{answer:#}");
        for key in ["message", "details", "extra_info"] {
            assert!(!answer["error"][key].is_null(), "{key} in {answer:#}");
        }
        match node {
            None => assert_eq!(answer["node_errors"], json!({})),
            Some((id, kind)) => {
                let errors = &answer["node_errors"][id];
                assert_eq!(errors["errors"][0]["type"], kind, "{answer:#}");
                assert_eq!(errors["dependent_outputs"], json!(["9"]));
            }
        }
    }
    let reply = process.post("/prompt", &json!({}));
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (400, &json!("no_prompt")));
    assert_eq!(process.get("/history").json(), json!({}));
}

#[test]
fn an_output_that_cannot_run_is_dropped_and_the_others_run() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    let process = checkout.start(&[]);
    let workflow = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "example.png" } },
        "2": { "class_type": "ImageInvert", "inputs": { "image": ["1", 0] } },
        "3": { "class_type": "SaveImage", "inputs": { "images": ["2", 0], "filename_prefix": "good" } },
        "4": { "class_type": "LoadImage", "inputs": { "image": "missing.png" } },
        "5": { "class_type": "SaveImage", "inputs": { "images": ["4", 0], "filename_prefix": "bad" } },
    });
    let reply = process.post("/prompt", &json!({ "prompt": workflow, "prompt_id": "mine" }));
    let answer = reply.json();
    assert_eq!((reply.status, &answer["prompt_id"]), (200, &json!("mine")));
    assert_eq!(answer["node_errors"]["4"]["dependent_outputs"], json!(["5"]));
    assert_eq!(answer["node_errors"]["4"]["errors"][0]["type"], "custom_validation_failed");
    wait_until(Duration::from_secs(30), "the prompt is done", || {
        process.get("/history/mine").json() != json!({})
    });
    let outputs = process.get("/history/mine").json()["mine"]["outputs"].take();
    assert_eq!(outputs.as_object().unwrap().keys().collect::<Vec<_>>(), ["3"]);
}

#[test]
fn failures_and_interrupts_are_told() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    let process = checkout.start(&[]);
    let image = json!({ "class_type": "EmptyImage", "inputs": { "width": 8, "height": 8, "batch_size": 1, "color": 0 } });
    let save = json!({ "class_type": "SaveImage", "inputs": { "images": ["2", 0], "filename_prefix": "x" } });
    let failed = process.run(&json!({
        "1": image, "3": save,
        "2": { "class_type": "TestRaise", "inputs": { "message": "oh no", "value": ["1", 0] } },
    }));
    let error = failed.event("execution_error").unwrap();
    let told =
        ["node_id", "node_type", "exception_type", "exception_message", "executed"].map(|key| &error[key]);
    assert_eq!(
        told,
        [&json!("2"), &json!("TestRaise"), &json!("ValueError"), &json!("oh no\n"), &json!(["1"])]
    );
    assert!(
        error["traceback"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line.as_str().unwrap().contains("raise ValueError"))
    );
    assert!(!failed.is_success());
    assert_eq!(failed.history["status"]["messages"][2][0], "execution_error");
    assert_eq!(failed.history["outputs"], json!({}));

    let interrupted = process.run_and(
        &json!({
            "1": image, "3": save,
            "2": { "class_type": "TestSleep", "inputs": { "seconds": 600, "value": ["1", 0] } },
        }),
        |event| {
            if matches!(event, Event::Json(kind, _) if kind == "progress") {
                let queue = process.get("/queue").json();
                assert_eq!(queue["queue_running"].as_array().unwrap().len(), 1);
                assert_eq!(process.post("/interrupt", &json!({ "prompt_id": "another" })).status, 200);
                assert_eq!(process.post("/interrupt", &json!({})).status, 200);
            }
        },
    );
    assert_eq!(interrupted.event("execution_interrupted").unwrap()["node_id"], "2");
    assert_eq!(interrupted.history["status"]["status_str"], "error");
    assert_eq!(process.get("/prompt").json(), json!({ "exec_info": { "queue_remaining": 0 } }));
}

#[test]
fn outputs_of_other_kinds_and_images_over_the_websocket() {
    let Some(checkout) = Checkout::new(&["plain"]) else { return };
    let process = checkout.start(&[]);
    let finished = process.run(&json!({
        "1": { "class_type": "EmptyAudio", "inputs": { "duration": 0.1, "sample_rate": 8000, "frequency": 440 } },
        "2": { "class_type": "SaveAudio", "inputs": { "audio": ["1", 0], "filename_prefix": "audio/tone" } },
        "3": { "class_type": "LoadImage", "inputs": { "image": "example.png" } },
        "4": { "class_type": "PlainTint", "inputs": { "image": ["3", 0], "colour": "green" } },
        "5": { "class_type": "PlainSaveAnimation", "inputs": { "images": ["4", 0], "filename_prefix": "moving" } },
        "6": { "class_type": "SaveImageWebsocket", "inputs": { "images": ["4", 0] } },
    }));
    let outputs = &finished.history["outputs"];
    assert_eq!(
        outputs["2"],
        json!({ "audio": [{ "filename": "tone_00001_.wav", "subfolder": "audio", "type": "output" }] })
    );
    assert_eq!(process.view(&outputs["2"]["audio"][0])[..4], *b"RIFF");
    assert_eq!(process.view(&outputs["5"]["gifs"][0])[..4], *b"GIF8");
    let sent = finished.events.iter().find_map(|event| match event {
        Event::Binary(bytes) => Some(bytes),
        Event::Json(..) => None,
    });
    let sent = sent.unwrap();
    assert_eq!(sent[..8], *b"\0\0\0\x01\0\0\0\x02");
    assert_eq!(Png::parse(&sent[8..]).width, 64);
}

#[test]
fn files_models_and_descriptions() {
    let Some(checkout) = Checkout::new(&["plain", "self-writing"]) else { return };
    let process = checkout.start(&[]);
    let checkpoints = || process.get("/models/checkpoints").json();
    assert_eq!(checkpoints(), json!([]));
    checkout.add_checkpoint("one.safetensors", 1);
    assert_eq!(checkpoints(), json!(["one.safetensors"]));
    fs::create_dir(checkout.path("models/checkpoints/sub")).unwrap();
    checkout.add_checkpoint("sub/two.safetensors", 2);
    assert_eq!(checkpoints(), json!(["one.safetensors", "sub/two.safetensors"]));
    let info = process.get("/object_info/CheckpointLoaderSimple").json();
    assert_eq!(
        info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"],
        json!([["one.safetensors", "sub/two.safetensors"]])
    );
    assert_eq!(process.get("/object_info").json()["PlainTint"]["python_module"], "custom_nodes.plain");
    assert_eq!(process.get("/api/system_stats").json()["system"]["comfyui_version"], "0.2.0");

    let example = fs::read(checkout.path("input/example.png")).unwrap();
    for (bytes, name) in
        [(&example[..], "example.png"), (b"other", "example (1).png"), (b"other", "example (1).png")]
    {
        let reply = process.upload_image("example.png", bytes);
        assert_eq!(reply.json(), json!({ "name": name, "subfolder": "", "type": "input" }));
    }
    std::os::unix::fs::symlink("/etc/hostname", checkout.path("input/outside.png")).unwrap();
    let outside = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": "outside.png" } },
        "2": { "class_type": "PreviewImage", "inputs": { "images": ["1", 0] } },
    });
    assert_eq!(process.post("/prompt", &json!({ "prompt": outside })).status, 400);
    for (query, status) in [
        ("filename=example.png&type=input", 200),
        ("filename=example.png&type=input&subfolder=../..", 403),
        ("filename=../example.png&type=input", 400),
        ("filename=none.png", 404),
        ("", 400),
    ] {
        assert_eq!(process.get(&format!("/view?{query}")).status, status, "{query}");
    }
    assert_eq!(
        process.get("/extensions").json(),
        json!([
            "/extensions/core/hello.js",
            "/extensions/self-writing/self-writing.js",
            "/extensions/plain/plain.js",
        ])
    );
    for path in ["/", "/app.js", "/extensions/plain/plain.js", "/extensions/self-writing/self-writing.js"] {
        assert_eq!(process.get(path).status, 200, "{path}");
    }
    assert_eq!(process.post("/settings", &json!({ "Comfy.Theme": "dark" })).status, 200);
    assert!(checkout.path("user/default/comfy.settings.json").is_file());
    assert_eq!(process.post("/free", &json!({ "unload_models": true, "free_memory": true })).status, 200);
}

#[test]
fn the_example_workflows_run() {
    let Some(checkout) = Checkout::new(&["plain"]) else { return };
    checkout.add_checkpoint("model.safetensors", 1);
    let process = checkout.start(&[]);
    for (name, node, kind) in
        [("text_to_image", "9", "images"), ("tint", "5", "images"), ("tint", "7", "text")]
    {
        let finished = process.run(&read_json(&api_workflow(name)));
        assert!(finished.is_success(), "{name}: {:#}", finished.history);
        assert!(finished.history["outputs"][node][kind][0] != Value::Null, "{name}: {:#}", finished.history);
        // The page's own format is of the same nodes, and is refused.
        let page = read_json(&ui_workflow(name));
        for id in finished.history["prompt"][2].as_object().unwrap().keys() {
            let class = &finished.history["prompt"][2][id]["class_type"];
            let nodes = page["nodes"].as_array().unwrap();
            assert!(
                nodes.iter().any(|node| node["id"].as_u64() == id.parse().ok() && node["type"] == *class),
                "{name} {id}"
            );
        }
        assert_eq!(process.post("/prompt", &json!({ "prompt": page })).status, 400, "{name}");
    }
}

#[test]
fn progress_is_told_and_the_program_can_die() {
    let Some(checkout) = Checkout::new(&[]) else { return };
    let mut process = checkout.start(&[]);
    let finished = process.run(&json!({
        "1": { "class_type": "TestProgress", "inputs": { "steps": 3, "seconds": 0.01, "value": "done" } },
        "2": { "class_type": "PreviewAny", "inputs": { "source": ["1", 0] } },
    }));
    assert_eq!(finished.history["outputs"]["2"], json!({ "text": ["done"] }));
    assert_eq!(finished.event_types().iter().filter(|kind| **kind == "progress").count(), 3);
    let die = json!({
        "1": { "class_type": "TestDie", "inputs": { "how": "kill" } },
        "2": { "class_type": "PreviewAny", "inputs": { "source": ["1", 0] } },
    });
    // It may be dead before it has answered.
    let body = json!({ "prompt": die }).to_string();
    let _ = send("POST", &process.url("/prompt"), &[("Content-Type", "application/json")], body.as_bytes());
    assert_eq!(process.wait().signal(), Some(9));
}
