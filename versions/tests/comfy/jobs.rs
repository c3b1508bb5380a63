//! Prompts over our ComfyUI: success, every kind of failure, and their files.

use std::cell::RefCell;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cvs_tests::wait_until;
use cvs_versions::comfy::{
    Client, JobError, JobEvent, JobRequest, JobResult, OutputFile, Server, collect, run_job,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Given, NEVER, World};

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn request(prompt: &Value) -> JobRequest<'_> {
    JobRequest {
        prompt,
        extra_data: None,
        allow_partial: false,
        respond_timeout: Duration::from_secs(60),
        total_timeout: None,
        watch: None,
        log: None,
    }
}

pub(crate) fn run(client: &Client, prompt: &Value) -> Result<JobResult, JobError> {
    run_job(client, &request(prompt), &|_| {}, &NEVER)
}

fn started(world: &World) -> (Server, Client) {
    let server = world.start(&Given::default()).unwrap();
    let client = Client::new(server.base_url()).unwrap();
    (server, client)
}

pub(crate) fn image(color: u32) -> Value {
    let inputs = json!({ "width": 8, "height": 8, "batch_size": 1, "color": color });
    json!({ "class_type": "EmptyImage", "inputs": inputs })
}

pub(crate) fn save(of: &str, prefix: &str) -> Value {
    json!({ "class_type": "SaveImage", "inputs": { "images": [of, 0], "filename_prefix": prefix } })
}

fn told(files: &[OutputFile]) -> Vec<String> {
    let tell = |f: &OutputFile| {
        let file = &f.file;
        format!(
            "{} {} {}: {}:{}/{}",
            f.node, f.class_type, f.kind, file.folder, file.subfolder, file.filename
        )
    };
    files.iter().map(tell).collect()
}

#[test]
fn a_prompt_is_shown_as_it_runs_and_its_files_are_brought() {
    let Some(world) = World::new(&[]) else { return };
    let (server, client) = started(&world);
    let mut shown = image(0xff0000);
    shown["_meta"] = json!({ "title": "A red one" });
    let prompt = json!({
        "1": shown,
        "2": { "class_type": "TestProgress", "inputs": { "steps": 2, "seconds": 0.0, "value": ["1", 0] } },
        "3": save("2", "sub/red"),
        "4": { "class_type": "PreviewImage", "inputs": { "images": ["2", 0] } },
        "5": { "class_type": "PreviewAny", "inputs": { "source": "some text" } },
        "6": save("1", "red"),
    });
    let events = RefCell::new(Vec::new());
    let note = |event: JobEvent<'_>| {
        events.borrow_mut().push(match event {
            JobEvent::Queued { .. } => "queued".to_owned(),
            event => format!("{event:?}"),
        });
    };
    let watch = server.watch();
    let asked = JobRequest { watch: Some(&watch), ..request(&prompt) };
    let result = run_job(&client, &asked, &note, &NEVER).unwrap();
    let mut events = events.into_inner();
    // What is queued and what starts are told by two threads.
    events.sort_by_key(|event| event != "queued");
    assert_eq!(
        events,
        [
            "queued",
            "Started",
            "Cached { nodes: 0 }",
            "Node { id: \"1\", class_type: \"EmptyImage\", title: Some(\"A red one\") }",
            "Node { id: \"2\", class_type: \"TestProgress\", title: None }",
            "Progress { id: \"2\", value: 1.0, max: 2.0 }",
            "Progress { id: \"2\", value: 2.0, max: 2.0 }",
            "Node { id: \"3\", class_type: \"SaveImage\", title: None }",
            "Executed { id: \"3\" }",
            "Node { id: \"4\", class_type: \"PreviewImage\", title: None }",
            "Executed { id: \"4\" }",
            "Node { id: \"5\", class_type: \"PreviewAny\", title: None }",
            "Executed { id: \"5\" }",
            "Node { id: \"6\", class_type: \"SaveImage\", title: None }",
            "Executed { id: \"6\" }",
        ]
    );
    assert_eq!(
        told(&result.outputs.files),
        ["3 SaveImage images: output:sub/red_00001_.png", "6 SaveImage images: output:/red_00001_.png"]
    );
    assert_eq!(result.outputs.temporary.len(), 1);
    assert_eq!(result.outputs.texts[0].text, "some text");
    assert!(result.left_out.is_empty());

    // Two files of one name, in one directory.
    let to = world.dir.path().join("collected");
    fs::create_dir(&to).unwrap();
    let seen = RefCell::new(0);
    let files = collect(&client, &result.outputs.files, &to, &|_| *seen.borrow_mut() += 1, &NEVER).unwrap();
    assert_eq!(seen.into_inner(), 2);
    let names: Vec<_> =
        files.iter().map(|file| file.path.strip_prefix(&to).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["red_00001_.png", "red_00001_-2.png"]);
    let bytes = fs::read(&files[0].path).unwrap();
    assert_eq!(bytes, fs::read(world.root.join("output/sub/red_00001_.png")).unwrap());
    assert_eq!(files[0].fetched.size, bytes.len() as u64);
    assert_eq!(files[0].fetched.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));

    // Again: the server knows it all, and says the same.
    let again = run(&client, &prompt).unwrap();
    assert_eq!(told(&again.outputs.files), told(&result.outputs.files));
    fs::remove_file(world.root.join("output/red_00001_.png")).unwrap();
    let missing = collect(&client, &again.outputs.files[1..], &to, &|_| {}, &NEVER).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "node 6 (SaveImage) lists red_00001_.png as its output, but there is no such file"
    );
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
}

#[test]
fn uploads_have_names_of_their_own() {
    let Some(world) = World::new(&[]) else { return };
    let (_server, client) = started(&world);
    let file = world.root.join("input/example.png");
    let uploads = ["../../picture one.png", "../../picture one.png"]
        .map(|name| client.upload(&file, name, &NEVER).unwrap());
    assert_ne!(uploads[0], uploads[1]);
    for uploaded in &uploads {
        assert!(uploaded.reference().starts_with("cvs/"), "{uploaded:?}");
        assert!(uploaded.name.ends_with("-picture_one.png"), "{uploaded:?}");
        let there = world.root.join("input").join(uploaded.reference());
        assert_eq!(fs::read(there).unwrap(), fs::read(&file).unwrap());
    }
    let prompt = json!({
        "1": { "class_type": "LoadImage", "inputs": { "image": uploads[0].reference() } },
        "2": save("1", "loaded"),
    });
    run(&client, &prompt).unwrap();
}

#[test]
fn what_the_server_refuses_is_told_node_by_node() {
    let Some(world) = World::new(&[]) else { return };
    let (_server, client) = started(&world);
    let mut wrong = json!({ "1": image(1), "2": save("1", "x"), "3": save("9", "y") });
    wrong["1"]["inputs"]["width"] = json!(0);
    let refused = run(&client, &wrong).unwrap_err();
    let JobError::Rejected { complaint, nodes } = &refused else { panic!("{refused}") };
    assert_eq!(complaint.kind, "prompt_outputs_failed_validation");
    assert_eq!(nodes[0].errors[0].kind, "value_smaller_than_min");
    let said = refused.to_string();
    assert!(said.contains("\n  node 1 (EmptyImage): Value 0 smaller than min of 1: width"), "{said}");

    let partial = json!({
        "1": image(1), "2": save("1", "good"),
        "3": { "class_type": "LoadImage", "inputs": { "image": "missing.png" } }, "4": save("3", "bad"),
    });
    let refused = run(&client, &partial).unwrap_err();
    let said = refused.to_string();
    assert!(matches!(&refused, JobError::Partial { nodes } if nodes[0].node == "3"), "{said}");
    assert!(
        said.starts_with("ComfyUI would run only a part of the workflow\n  node 3 (LoadImage): "),
        "{said}"
    );
    wait_until(SOON, "the queue is empty", || client.queue().unwrap().running.is_empty());
    let allowed = JobRequest { allow_partial: true, ..request(&partial) };
    let result = run_job(&client, &allowed, &|_| {}, &NEVER).unwrap();
    assert_eq!((result.outputs.files.len(), result.left_out.len()), (1, 1));
}

#[test]
fn failures_of_a_node_and_of_the_server() {
    let Some(world) = World::new(&[]) else { return };
    world.add_node(
        "nothing.py",
        "class Nothing:\n    RETURN_TYPES = ()\n    FUNCTION = 'run'\n    OUTPUT_NODE = True\n    CATEGORY = 'x'\n\
         \x20   @classmethod\n    def INPUT_TYPES(cls): return {'required': {}}\n\
         \x20   def run(self): return {'ui': {'images': []}}\n\
         NODE_CLASS_MAPPINGS = {'Nothing': Nothing}\n",
    );
    let (server, client) = started(&world);
    let failing = json!({
        "1": image(1), "3": save("2", "x"),
        "2": { "class_type": "TestRaise", "inputs": { "message": "oh no", "value": ["1", 0] } },
    });
    let error = run(&client, &failing).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("node 2 (TestRaise) failed: ValueError: oh no\n  |  File \""), "{said}");
    assert!(said.ends_with("\n  |    raise ValueError(message)"), "{said}");
    let JobError::Failed(failure) = error else { panic!("{error}") };
    assert!(failure.traceback.iter().any(|line| line.contains("raise ValueError")), "{failure:?}");

    let nothing = json!({ "1": { "class_type": "Nothing", "inputs": {} } });
    assert!(matches!(run(&client, &nothing), Err(JobError::NoOutput)));

    let dying = json!({
        "1": image(1), "3": save("2", "x"),
        "2": { "class_type": "TestDie", "inputs": { "how": "kill", "value": ["1", 0] } },
    });
    let watch = server.watch();
    let asked = JobRequest { watch: Some(&watch), ..request(&dying) };
    let said = run_job(&client, &asked, &|_| {}, &NEVER).unwrap_err().to_string();
    assert!(
        said.starts_with("the server died while the workflow ran: ComfyUI ended (signal 9): it was killed"),
        "{said}"
    );

    // The same where only its address and its log are known.
    let (_server, client) = started(&world);
    let asked = JobRequest { log: Some(&world.log), ..request(&dying) };
    let said = run_job(&client, &asked, &|_| {}, &NEVER).unwrap_err().to_string();
    let expected = format!("ComfyUI at {} is gone\nThe last lines of its log:\n  | ", client.base_url());
    assert!(said.starts_with(&expected) && said.contains("got prompt"), "{said}");
}

#[test]
fn cancelled_prompts_are_gone_and_others_are_not() {
    let Some(world) = World::new(&[]) else { return };
    let (_server, client) = started(&world);
    let sleeping = |color: u32| {
        json!({
            "1": image(color), "3": save("2", "x"),
            "2": { "class_type": "TestSleep", "inputs": { "seconds": 600, "value": ["1", 0] } },
        })
    };
    let (first, second) = (sleeping(1), sleeping(2));
    let (stop_first, stop_second) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run_job(&client, &request(&first), &|_| {}, &stop_first));
        wait_until(SOON, "the first runs", || client.queue().unwrap().running.len() == 1);
        let waiting = scope.spawn(|| run_job(&client, &request(&second), &|_| {}, &stop_second));
        wait_until(SOON, "the second waits", || client.queue().unwrap().pending.len() == 1);
        let ids = client.queue().unwrap();

        stop_second.store(true, Ordering::Relaxed);
        assert!(matches!(waiting.join().unwrap(), Err(JobError::Cancelled)));
        assert_eq!((client.queue().unwrap().running, client.queue().unwrap().pending), (ids.running, vec![]));

        stop_first.store(true, Ordering::Relaxed);
        assert!(matches!(running.join().unwrap(), Err(JobError::Cancelled)));
        assert!(client.queue().unwrap().running.is_empty());
    });

    // By a limit of time, and by somebody else.
    let limited = JobRequest { total_timeout: Some(Duration::from_millis(400)), ..request(&first) };
    let error = run_job(&client, &limited, &|_| {}, &NEVER).unwrap_err();
    assert_eq!(error.to_string(), "the workflow was not done within 400ms, and was cancelled");
    assert!(client.queue().unwrap().running.is_empty());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&client, &first));
        wait_until(SOON, "it runs", || client.queue().unwrap().running.len() == 1);
        let id = client.queue().unwrap().running.remove(0);
        wait_until(SOON, "it is interrupted", || client.cancel(&id).unwrap());
        let error = running.join().unwrap().unwrap_err();
        assert!(matches!(&error, JobError::Interrupted { node: Some(node) } if node == "2"), "{error}");
    });
}
