//! `cvs run-handler`: workflows of both formats, what is collected and written down, and every way to fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cvs_tests::{CvsCommand, Output, Png, Response, wait_until};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::cli_world::{model, sha256};
use crate::running::{LONG, Runs, pid};

/// A version with a model, and what is needed to run it.
pub(crate) struct Handler {
    pub(crate) runs: Runs,
}

impl Handler {
    pub(crate) fn new() -> Option<Self> {
        let runs = Runs::new()?;
        runs.create("v", &[]);
        let mut spec: Value = serde_json::from_slice(&fs::read(runs.world.spec_file("v")).unwrap()).unwrap();
        spec["models"] = serde_json::from_str(&runs.world.models_list(&sha256(&model()))).unwrap();
        fs::write(runs.world.spec_file("v"), spec.to_string()).unwrap();
        Some(Self { runs })
    }

    pub(crate) fn cvs(&self, args: &[&str]) -> CvsCommand {
        self.runs.cvs(&["run-handler", "v"]).args(args).current_dir(self.runs.world.env.root())
    }

    /// The file of a workflow.
    pub(crate) fn workflow(&self, name: &str, workflow: &Value) -> String {
        let path = self.runs.world.env.write(name, workflow.to_string());
        path.to_str().expect("temporary directories are UTF-8").to_owned()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.runs.world.env.path(below)
    }

    /// The only run below a directory: its record, its directory and the other files in it.
    #[track_caller]
    fn only_run(&self, below: &str) -> (Value, PathBuf, Vec<String>) {
        let base = self.path(below);
        let names = names(&base);
        let [name] = names.as_slice() else { panic!("not one run in {}: {names:?}", base.display()) };
        let dir = base.join(name);
        let record = serde_json::from_slice(&fs::read(dir.join("run.json")).unwrap()).unwrap();
        let others = self::names(&dir).into_iter().filter(|name| name != "run.json").collect();
        (record, dir, others)
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("comfyui/workflows").join(name);
    path.to_str().expect("this repository's path is UTF-8").to_owned()
}

fn node(class: &str, inputs: Value) -> Value {
    json!({ "class_type": class, "inputs": inputs })
}

/// One picture, of one color, saved behind whatever is between.
fn picture(between: Value, image: Value) -> Value {
    json!({
        "1": node("EmptyImage", json!({ "width": 16, "height": 8, "batch_size": 1, "color": 255 })),
        "2": between,
        "3": node("SaveImage", json!({ "images": image, "filename_prefix": "x" })),
    })
}

fn sleeping(seconds: f64) -> Value {
    picture(node("TestSleep", json!({ "seconds": seconds, "value": ["1", 0] })), json!(["2", 0]))
}

fn lines(output: &Output) -> Vec<String> {
    output.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_workflow_of_the_editor_becomes_a_picture() {
    let Some(handler) = Handler::new() else { return };
    let workflow = example("text_to_image.ui.json");
    let model = "CheckpointLoaderSimple.ckpt_name=a.safetensors";
    let output = handler.cvs(&["--workflow", &workflow, "--set", model, "--set", "KSampler.seed=77"]).ok();

    let (record, dir, files) = handler.only_run("outputs/v");
    assert_eq!(lines(&output), [format!("outputs/v/{}/{}", record["run"].as_str().unwrap(), files[0])]);
    let bytes = fs::read(dir.join(&files[0])).unwrap();
    let png = Png::parse(&bytes);
    // What is in the file is the prompt as it ran, with the changes.
    let embedded: Value = serde_json::from_str(&png.texts["prompt"]).unwrap();
    assert_eq!(embedded["3"]["inputs"]["seed"], 77);
    assert_eq!(embedded["4"]["inputs"]["ckpt_name"], "a.safetensors");
    assert_eq!(record["status"], "success");
    assert_eq!(record["version"], "v");
    assert_eq!(record["seeds"], json!([{ "node": "3", "class": "KSampler", "input": "seed", "value": 77 }]));
    assert_eq!(
        record["outputs"],
        json!([{
            "node": "9", "class": "SaveImage", "kind": "images", "type": "output", "file": files[0],
            "size": bytes.len(), "sha256": sha256(&bytes)
        }])
    );
    let timed: Vec<_> = record["timings"]["nodes"].as_object().unwrap().keys().cloned().collect();
    assert!(timed.contains(&"3".to_owned()), "{timed:?}");
    assert!(output.stderr.contains("] 3 KSampler"), "{}", output.stderr);
    handler.runs.assert_nothing_left();

    // The same again is the same picture, and stands beside it.
    let again = handler.cvs(&["--workflow", &workflow, "-s", model, "-s", "3.seed=77", "--json"]).ok().json();
    assert_eq!(again["outputs"][0]["sha256"], sha256(&bytes));
    assert_eq!(names(&handler.path("outputs/v")).len(), 2);

    // On plain files too.
    let args = ["--workflow", &workflow, "-s", model, "-s", "3.seed=77", "--json", "--no-fuse"];
    assert_eq!(handler.cvs(&args).ok().json()["outputs"][0]["sha256"], sha256(&bytes));
    handler.runs.assert_nothing_left();
}

#[test]
fn a_warm_server_takes_one_workflow_after_another() {
    let Some(handler) = Handler::new() else { return };
    let saved = handler
        .workflow("w.json", &picture(node("ImageInvert", json!({ "image": ["1", 0] })), json!(["2", 0])));
    let first = handler.cvs(&["-w", &saved, "--keep-alive", "--json", "-o", "one"]).ok().json();
    assert_eq!(first["timings"]["warm"], false);
    let server = handler.runs.ps("v").expect("it is kept");
    assert_eq!(server["role"], "handler");

    // Without the flag too: what runs is used, and stays.
    let second = handler.cvs(&["-w", "-", "--json", "-o", "two", "--set", "1.color=1"]);
    let second = second.input(fs::read(&saved).unwrap()).ok().json();
    assert_eq!(second["timings"]["warm"], true);
    assert_eq!(second["source"], "standard input");
    assert_eq!(handler.runs.ps("v").expect("it is kept")["pid"], server["pid"]);
    let (record, ..) = handler.only_run("two");
    assert_eq!(record, second);

    // A file that the page opens is as good as the page's own.
    let graph = json!({
        "nodes": [
            { "id": 1, "type": "EmptyImage", "outputs": [{ "name": "IMAGE", "type": "IMAGE", "links": [1] }],
              "widgets_values": [16, 8, 1, 255] },
            { "id": 2, "type": "SaveImage", "inputs": [{ "name": "images", "type": "IMAGE", "link": 1 }],
              "widgets_values": ["x"] },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4
    });
    let file = handler.workflow("graph.json", &graph);
    handler.cvs(&["-w", &file, "-o", "graph"]).ok();
    let (_, dir, files) = handler.only_run("graph");
    let png = Png::parse(&fs::read(dir.join(&files[0])).unwrap());
    assert_eq!(serde_json::from_str::<Value>(&png.texts["workflow"]).unwrap(), graph);

    failures(&handler);
    partly(&handler);
    inputs(&handler, &server);
    places(&handler, &saved);

    handler.runs.cvs(&["stop", "v"]).ok();
    handler.runs.assert_nothing_left();
}

/// What ComfyUI refuses, and what fails in a node.
fn failures(handler: &Handler) {
    let cases: Vec<(&str, Value, &[&str], Value)> = vec![
        (
            "node_errors",
            json!({ "1": node("EmptyImage", json!({ "width": 0, "height": 8, "batch_size": 1, "color": 0 })),
                    "2": node("SaveImage", json!({ "images": ["1", 0], "filename_prefix": "x" })) }),
            &["ComfyUI refused the workflow", "node 1 (EmptyImage): ", "width"],
            json!({ "kind": "rejected", "nodes": [{ "node": "1" }] }),
        ),
        (
            "raise",
            picture(
                node("TestRaise", json!({ "message": "broke on purpose", "value": ["1", 0] })),
                json!(["2", 0]),
            ),
            &["raise ValueError(message)", "error: node 2 (TestRaise) failed: ValueError: broke on purpose"],
            json!({ "kind": "execution_error", "node": "2", "class": "TestRaise", "exception": "ValueError",
                    "message": "broke on purpose" }),
        ),
    ];
    for (name, workflow, said, error) in cases {
        let file = handler.workflow(&format!("{name}.json"), &workflow);
        let output = handler.cvs(&["-w", &file, "-o", name]).code(1);
        for text in said {
            assert!(output.stderr.contains(text), "{name}: {text} is not in {}", output.stderr);
        }
        assert_eq!(output.stdout, "", "{name}");
        let (record, _, files) = handler.only_run(name);
        assert_eq!(files, Vec::<String>::new(), "{name}");
        assert_eq!(record["status"], "failed", "{name}");
        for (key, expected) in error.as_object().unwrap() {
            let found = &record["error"][key];
            match expected.as_array() {
                Some(list) => assert_eq!(found[0]["node"], list[0]["node"], "{name}: {found}"),
                None => assert_eq!(found, expected, "{name}: {key}"),
            }
        }
    }
    // Found before anything is submitted, so that there is no run.
    let unknown = handler.workflow(
        "unknown.json",
        &json!({ "nodes": [{ "id": 5, "type": "FromNowhere", "inputs": [], "outputs": [{ "links": [1] }],
                             "properties": { "cnr_id": "nowhere-nodes" } }],
                 "links": [[1, 5, 0, 6, 0, "IMAGE"]] }),
    );
    let output = handler.cvs(&["-w", &unknown, "-o", "unknown"]).code(1);
    assert!(
        output.stderr.contains("the server has no FromNowhere (node 5, from nowhere-nodes)"),
        "{}",
        output.stderr
    );
    // In the API format the server says so, in words of its own.
    let nowhere = handler.workflow("nowhere.json", &json!({ "1": node("FromNowhere", json!({})) }));
    let output = handler.cvs(&["-w", &nowhere, "-o", "nowhere"]).code(1);
    assert!(output.stderr.contains("hint: add the nodes that bring such classes"), "{}", output.stderr);
    let output = handler.cvs(&["-w", &unknown, "--output", "ftp://x"]).code(2);
    assert!(output.stderr.contains("ftp://x"), "{}", output.stderr);
    let sleep = handler.workflow("sleep.json", &sleeping(0.0));
    let output = handler.cvs(&["-w", &sleep, "--set", "2.secnds=1", "-o", "unknown"]).code(2);
    assert!(output.stderr.contains("has no input `secnds`; it has `seconds`, `value`"), "{}", output.stderr);
    assert_eq!(names(&handler.path("unknown")), Vec::<String>::new());

    let long = handler.workflow("long.json", &sleeping(600.0));
    let output = handler.cvs(&["-w", &long, "--timeout", "0.5", "-o", "late"]).code(1);
    assert!(output.stderr.contains("was not done within 500ms, and was cancelled"), "{}", output.stderr);
    assert_eq!(handler.only_run("late").0["error"]["kind"], "timeout");
}

/// One of two outputs cannot run.
fn partly(handler: &Handler) {
    let mut workflow = sleeping(0.0);
    workflow["4"] = node("LoadImage", json!({ "image": "missing.png" }));
    workflow["5"] = node("PreviewImage", json!({ "images": ["4", 0] }));
    let file = handler.workflow("partly.json", &workflow);
    let output = handler.cvs(&["-w", &file, "-o", "partly"]).code(1);
    assert!(output.stderr.contains("would run only a part of the workflow"), "{}", output.stderr);
    assert!(output.stderr.contains("--allow-partial"), "{}", output.stderr);
    assert_eq!(handler.only_run("partly").0["error"]["kind"], "partial");
    let output = handler.cvs(&["-w", &file, "-o", "partly-allowed", "--allow-partial"]).ok();
    assert!(output.stderr.contains("left out: node 4 (LoadImage)"), "{}", output.stderr);
    let (record, _, files) = handler.only_run("partly-allowed");
    assert_eq!((&record["status"], files.len()), (&json!("partial"), 1));
}

/// Files in the place of others, by file and by address.
fn inputs(handler: &Handler, server: &Value) {
    let workflow = json!({
        "1": node("LoadImage", json!({ "image": "photo.png" })),
        "2": node("SaveImage", json!({ "images": ["1", 0], "filename_prefix": "x" })),
    });
    let workflow = handler.workflow("load.json", &workflow);
    let (_, dir, files) = handler.only_run("two");
    let picture = dir.join(&files[0]);
    handler.runs.world.web.serve("/p/photo.png", fs::read(&picture).unwrap());
    let url = handler.runs.world.web.url("/p/photo.png?token=secret");
    for (name, source) in
        [("photo.png", picture.to_str().unwrap()), ("1.image", &url), ("dir/photo.png", &url)]
    {
        let base = format!("in-{}", name.replace('/', "-"));
        let args = ["-w", &workflow, "--input", &format!("{name}={source}"), "-o", &base];
        handler.cvs(&args).ok();
        let (record, _, files) = handler.only_run(&base);
        let input = &record["inputs"][0];
        assert_eq!(input["sha256"], sha256(&fs::read(&picture).unwrap()));
        assert!(!input["source"].as_str().unwrap().contains("secret"), "{input}");
        assert_eq!(record["workflow"]["1"]["inputs"]["image"], input["uploaded"]);
        assert_eq!(files.len(), 1);
    }
    // What was given for a run does not stay in the version.
    let given = Path::new(server["root"].as_str().unwrap()).join("input/cvs");
    assert_eq!(names(&given), Vec::<String>::new());
    let output = handler.cvs(&["-w", &workflow, "--input", "other.png=/dev/null"]).code(2);
    assert!(output.stderr.contains("these take files: 1.image (photo.png)"), "{}", output.stderr);
    handler.cvs(&["-w", &workflow, "--input", "photo.png=/nowhere.png"]).code(1);
}

/// The other places of workflow and outputs.
fn places(handler: &Handler, saved: &str) {
    handler.runs.world.web.serve("/w.json", fs::read(saved).unwrap());
    let url = handler.runs.world.web.url("/w.json");
    let output = handler.cvs(&["-w", &url, "-o", "base64", "--out-file", "answer.json"]).ok();
    assert_eq!(output.stdout, "");
    let answer: Value = serde_json::from_slice(&fs::read(handler.path("answer.json")).unwrap()).unwrap();
    assert!(answer["outputs"][0]["data"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{answer:#}");
    assert_eq!(answer["source"], url);
    let output = handler.cvs(&["-w", &url]).env("OUTPUT_MODE", "base64").ok();
    assert_eq!(output.json()["outputs"][0]["size"], answer["outputs"][0]["size"]);

    // A picture is the workflow that it was made by.
    let (_, dir, files) = handler.only_run("two");
    let saved_picture = dir.join(&files[0]);
    let again = handler.cvs(&["-w", saved_picture.to_str().unwrap(), "--json", "-o", "again"]).ok().json();
    assert_eq!(again["workflow"]["1"]["inputs"]["color"], 1);

    buckets(handler, saved);

    let output = handler.cvs(&[]).code(1);
    assert!(output.stderr.contains("v has no workflow of its own"), "{}", output.stderr);
    // A spec's own: beside the spec, in the version, or in itself.
    let path = handler.runs.world.spec_file("v");
    let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fs::copy(saved, path.with_file_name("mine.workflow")).unwrap();
    for workflow in
        [json!("mine.workflow"), picture(node("ImageInvert", json!({ "image": ["1", 0] })), json!(["2", 0]))]
    {
        spec["workflow"] = workflow;
        fs::write(&path, spec.to_string()).unwrap();
        assert_eq!(handler.cvs(&["--json", "-o", "own"]).ok().json()["status"], "success");
    }
    spec["workflow"] = json!("absent.json");
    fs::write(&path, spec.to_string()).unwrap();
    let output = handler.cvs(&[]).code(1);
    assert!(output.stderr.contains("the workflow of v is neither"), "{}", output.stderr);
}

/// A bucket gets the outputs, and the record behind them; what was collected on the way is gone.
fn buckets(handler: &Handler, saved: &str) {
    let web = &handler.runs.world.web;
    web.route("/bucket/", |request| match request.header("authorization") {
        Some(text) if text.contains("Credential=the-key/") => Response::new(200, "").header("ETag", "\"e\""),
        _ => Response::new(403, "<Error><Code>AccessDenied</Code></Error>"),
    });
    let run = |key: &str| {
        handler
            .cvs(&["-w", saved, "-o", "s3://bucket/pictures"])
            .env("AWS_ENDPOINT_URL", web.url(""))
            .env("AWS_ACCESS_KEY_ID", key)
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "us-east-1")
    };
    let output = run("the-key").ok();
    let put: Vec<String> =
        web.requests().iter().filter(|r| r.method == "PUT").map(|r| r.path.clone()).collect();
    let [picture, record] = put.as_slice() else { panic!("{put:?}") };
    let run_name = record.strip_prefix("/bucket/pictures/v/").and_then(|rest| rest.strip_suffix("/run.json"));
    assert_eq!(lines(&output), [format!("s3:/{picture}")]);
    assert!(picture.contains(run_name.expect("a run's record")), "{picture}");
    let output = run("another-key").code(1);
    assert!(output.stderr.contains("cannot write s3://bucket/pictures/v/"), "{}", output.stderr);
    assert!(output.stderr.contains("AccessDenied"), "{}", output.stderr);
    assert_eq!(names(&handler.runs.world.env.home().join("run/tmp")), Vec::<String>::new());
    let output = handler.cvs(&["-w", saved, "-o", "gcs"]).code(2);
    assert!(output.stderr.contains("GCS_BUCKET"), "{}", output.stderr);
}

#[test]
fn an_end_in_the_middle_is_told_and_leaves_nothing() {
    let Some(handler) = Handler::new() else { return };
    let long = handler.workflow("long.json", &sleeping(600.0));
    let start = |base: &str| {
        let mut command = handler.cvs(&["-w", &long, "-o", base]).into_command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = crate::running::Foreground::start(command);
        run.says("] 2 TestSleep");
        run
    };

    let run = start("interrupted");
    // Its server ends with it, and is not started again.
    handler.runs.cvs(&["restart", "v"]).code(4);
    run.signal(Signal::SIGINT);
    let (code, stdout, stderr) = run.end();
    assert_eq!((code, stdout.as_str()), (Some(130), ""), "{stderr}");
    assert!(stderr.contains("the workflow was cancelled"), "{stderr}");
    let (record, _, files) = handler.only_run("interrupted");
    assert_eq!((&record["status"], files.len()), (&json!("cancelled"), 0));
    handler.runs.assert_nothing_left();

    let run = start("killed");
    let server = handler.runs.ps("v").expect("it runs");
    kill(pid(&server["pid"]), Signal::SIGKILL).unwrap();
    let (code, _, stderr) = run.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("is gone"), "{stderr}");
    assert!(stderr.contains("ComfyUI ended: it was killed"), "{stderr}");
    assert_eq!(handler.only_run("killed").0["error"]["kind"], "server_died");
    handler.runs.cvs(&["stop", "v"]).output();

    // Another command uses the server meanwhile: it is not taken from under it.
    let (short, longer) = (sleeping(1.0), sleeping(3.0));
    let begin = |name: &str, workflow: &Value| {
        let file = handler.workflow(&format!("{name}.json"), workflow);
        let mut command = handler.cvs(&["-w", &file, "-o", name]).into_command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        crate::running::Foreground::start(command)
    };
    let first = begin("first", &short);
    first.says("] 2 TestSleep");
    let second = begin("second", &longer);
    second.says("using v as it runs");
    assert_eq!(first.end().0, Some(0));
    let (code, _, stderr) = second.end();
    assert_eq!(code, Some(0), "{stderr}");
    wait_until(LONG, "the server has ended with its last user", || handler.runs.ps("v").is_none());

    // The command itself is killed: its server goes with it.
    let run = start("gone");
    run.signal(Signal::SIGKILL);
    run.end();
    wait_until(LONG, "the server has ended with the command", || handler.runs.ps("v").is_none());
    handler.runs.assert_nothing_left();
}
