//! Jobs over HTTP, on our ComfyUI, over real sockets.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cvs_tests::{
    Fault, HttpServer, Reply, get, post_json, read_json, send, ui_workflow, wait_for, wait_until,
};
use cvs_versions::comfy::{RunError, Server};
use cvs_versions::serve::{
    Backend, Config, Counts, ServeError, ServeEvent, Stop, Target, Token, bind, serve,
};
use serde_json::{Value, json};

use crate::jobs::{image, save};
use crate::support::{Given, World};

const SOON: Duration = Duration::from_secs(40);

/// Starts a ComfyUI of a world, which must live as long as the process.
struct Launched {
    world: Arc<World>,
    server: Option<Server>,
    starts: Arc<AtomicUsize>,
    pid: Arc<AtomicUsize>,
    /// While set, nothing starts.
    broken: Arc<AtomicBool>,
}

impl Backend for Launched {
    type Error = RunError;

    fn acquire(&mut self) -> Result<Target, RunError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(RunError::Cancelled);
        }
        let server = self.world.start(&Given::default())?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.pid.store(server.pid() as usize, Ordering::Relaxed);
        let base_url = server.base_url().to_owned();
        self.server = Some(server);
        Ok(Target { base_url, log: Some(self.world.log.clone()) })
    }

    fn is_alive(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.try_wait().unwrap().is_none())
    }

    fn discard(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO).unwrap();
        }
    }
}

/// A server of jobs, on a thread of its own.
struct Serving {
    world: Arc<World>,
    address: SocketAddr,
    stop: Arc<AtomicU8>,
    events: Arc<Mutex<Vec<String>>>,
    starts: Arc<AtomicUsize>,
    pid: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Counts, ServeError>>>,
}

impl Serving {
    fn new(nodes: &[&str], change: impl FnOnce(&mut Config)) -> Option<Serving> {
        let world = Arc::new(World::new(nodes)?);
        let mut config = Config::new("v", world.dir.path().join("results"));
        config.respond_timeout = Duration::from_secs(60);
        change(&mut config);
        let listener = bind("127.0.0.1:0".parse().unwrap(), config.token.as_ref(), false).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, events) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (starts, pid) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let broken = Arc::new(AtomicBool::new(false));
        let mut backend = Launched {
            world: Arc::clone(&world),
            server: None,
            starts: Arc::clone(&starts),
            pid: Arc::clone(&pid),
            broken: Arc::clone(&broken),
        };
        let (told, asked) = (Arc::clone(&events), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let note = |event: ServeEvent<'_>| told.lock().unwrap().push(format!("{event:?}"));
            let stop = || match asked.load(Ordering::Relaxed) {
                0 => Stop::No,
                1 => Stop::Drain,
                _ => Stop::Now,
            };
            serve(listener, config, &mut backend, &note, &stop)
        });
        Some(Serving { world, address, stop, events, starts, pid, broken, thread: Some(thread) })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        post_json(&self.url(path), body)
    }

    /// Queues a job.
    fn run(&self, prompt: &Value) -> String {
        let reply = self.post("/run", &json!({ "input": { "workflow": prompt } }));
        let answer = reply.json();
        assert_eq!((reply.status, &answer["status"]), (200, &json!("IN_QUEUE")), "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    fn view(&self, id: &str) -> Value {
        get(&self.url(&format!("/status/{id}"))).json()
    }

    fn wait(&self, id: &str, status: &str) -> Value {
        wait_for(SOON, &format!("{id} is {status}"), || {
            let view = self.view(id);
            (view["status"] == status).then_some(view)
        })
    }

    fn end(&mut self) -> Counts {
        self.stop.store(1, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(2, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if std::thread::panicking() {
            eprintln!("{:#?}\n{}", self.events.lock().unwrap(), self.world.log());
        }
    }
}

fn picture(color: u32) -> Value {
    json!({ "1": image(color), "2": save("1", "picture") })
}

fn sleeping(seconds: f64) -> Value {
    json!({
        "1": image(7), "3": save("2", "slept"),
        "2": { "class_type": "TestSleep", "inputs": { "seconds": seconds, "value": ["1", 0] } },
    })
}

#[test]
fn jobs_run_and_their_results_are_handed_over() {
    let Some(mut serving) = Serving::new(&["plain"], |_| {}) else { return };
    // In the answer.
    let reply = serving
        .post("/runsync", &json!({ "input": { "workflow": picture(1).to_string(), "version_id": "v" } }));
    let answer = reply.json();
    assert_eq!((reply.status, &answer["status"]), (200, &json!("COMPLETED")), "{answer:#}");
    assert!(answer["id"].as_str().unwrap().starts_with("sync-"));
    assert!(answer["delayTime"].is_u64() && answer["executionTime"].is_u64(), "{answer}");
    let file = &answer["output"]["images"][0];
    let bytes = std::fs::read(serving.world.root.join("output/picture_00001_.png")).unwrap();
    assert_eq!(
        (&file["filename"], &file["type"], &file["node"], &file["kind"], &file["size"]),
        (&json!("picture_00001_.png"), &json!("base64"), &json!("2"), &json!("images"), &json!(bytes.len()))
    );
    assert!(file["data"].as_str().unwrap().starts_with("iVBORw0KGgo"), "a PNG in base64");

    // In a directory; the workflow from elsewhere, in the editor's format, with inputs of both kinds.
    let files = HttpServer::start();
    files.serve("/tint.json", read_json(&ui_workflow("tint")).to_string());
    let id = serving
        .post(
            "/run",
            &json!({ "input": { "workflow_url": files.url("/tint.json"), "output_mode": "directory" } }),
        )
        .json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let answer = serving.wait(&id, "COMPLETED");
    let file = &answer["output"]["images"][0];
    let path = PathBuf::from(file["path"].as_str().unwrap());
    assert!(path.starts_with(serving.world.dir.path().join("results").join(&id)), "{answer:#}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), file["size"].as_u64().unwrap());

    let example = std::fs::read(serving.world.root.join("input/example.png")).unwrap();
    files.serve("/a.png", example);
    let load = |name: &str| json!({ "class_type": "LoadImage", "inputs": { "image": name } });
    let body = json!({ "input": {
        "workflow": { "1": load("mine.png"), "2": save("1", "x"), "3": load("yours.png"), "4": save("3", "y") },
        "input_images": { "mine.png": files.url("/a.png") },
        "images": [{ "name": "yours.png", "image": STANDARD.encode(std::fs::read(&path).unwrap()) }],
    } });
    let answer = serving.post("/runsync", &body).json();
    assert_eq!(answer["status"], "COMPLETED", "{answer:#}");
    assert_eq!(answer["output"]["images"].as_array().unwrap().len(), 2);

    // What is fetched may be missing, or too large, or no workflow.
    files.serve("/page.html", "<html>");
    for (path, said) in [("/none", "/none: the server answered HTTP 404"), ("/page.html", "")] {
        let body = json!({ "input": { "workflow_url": files.url(path) } });
        let answer = serving.post("/runsync", &body).json();
        assert_eq!(answer["status"], "FAILED", "{answer:#}");
        assert!(answer["error"].as_str().unwrap().contains(said), "{answer}");
    }
    files.fault("/slow.json", Fault::Hang);
    let body = json!({ "input": { "workflow_url": files.url("/slow.json") }, "policy": { "executionTimeout": 300 } });
    assert_eq!(serving.post("/runsync", &body).json()["status"], "TIMED_OUT");

    // A node that fails, and a workflow that is refused.
    let failing = json!({
        "1": image(1), "3": save("2", "x"),
        "2": { "class_type": "TestRaise", "inputs": { "message": "oh no", "value": ["1", 0] } },
    });
    let answer = serving.wait(&serving.run(&failing), "FAILED");
    assert!(
        answer["error"].as_str().unwrap().starts_with("node 2 (TestRaise) failed: ValueError: oh no"),
        "{answer}"
    );
    let refused = json!({ "1": { "class_type": "NoSuchNode", "inputs": {} } });
    let answer = serving.wait(&serving.run(&refused), "FAILED");
    assert!(answer["error"].as_str().unwrap().starts_with("ComfyUI refused the workflow: "), "{answer}");

    let health = get(&serving.url("/health")).json();
    assert_eq!(
        (&health["jobs"]["completed"], &health["workers"]["idle"]),
        (&json!(3), &json!(1)),
        "{health}"
    );
    assert_eq!(serving.starts.load(Ordering::Relaxed), 1);
    assert_eq!(serving.end(), Counts { completed: 3, failed: 4, timed_out: 1, cancelled: 0 });
}

#[test]
fn the_queue_has_an_end_and_jobs_can_be_cancelled() {
    let Some(mut serving) = Serving::new(&[], |config| config.queue = 1) else { return };
    let running = serving.run(&sleeping(600.0));
    let view = wait_for(SOON, "a node runs", || {
        let view = serving.view(&running);
        (view["progress"]["node"] == "2").then_some(view)
    });
    assert_eq!((&view["status"], &view["executionTime"]), (&json!("IN_PROGRESS"), &Value::Null));
    let waiting = serving.run(&picture(1));
    let full = serving.post("/run", &json!({ "input": { "workflow": picture(2) } }));
    assert_eq!((full.status, full.headers.get("retry-after")), (429, Some("5")));
    assert_eq!(full.json(), json!({ "error": "the queue is full: 1 jobs wait" }));
    // Who waits for so long hears how it stands.
    let cancelled = serving.post(&format!("/cancel/{waiting}"), &json!({})).json();
    assert_eq!((&cancelled["id"], &cancelled["status"]), (&json!(waiting), &json!("CANCELLED")));
    let reply = serving.post("/runsync?wait=1000", &json!({ "input": { "workflow": picture(3) } })).json();
    assert_eq!(reply["status"], "IN_QUEUE");

    let cancelled = serving.post(&format!("/cancel/{running}"), &json!({})).json();
    assert_eq!(cancelled["status"], "CANCELLED");
    // What waited behind it runs now, on the same ComfyUI.
    let last = reply["id"].as_str().unwrap();
    serving.wait(last, "COMPLETED");
    assert_eq!(serving.view(&running)["status"], "CANCELLED");
    // A limit of time.
    let body = json!({ "input": { "workflow": sleeping(600.0) }, "policy": { "executionTimeout": 500 } });
    assert_eq!(serving.post("/runsync", &body).json()["status"], "TIMED_OUT");
    let web = HttpServer::start();
    web.serve("/w.json", "{}");
    web.fault("/w.json", Fault::Hang);
    let body =
        json!({ "input": { "workflow_url": web.url("/w.json") }, "policy": { "executionTimeout": 500 } });
    let reply = serving.post("/runsync", &body).json();
    assert_eq!(
        (&reply["status"], &reply["error"]),
        (&json!("TIMED_OUT"), &json!("it was not done within 500ms"))
    );
    assert_eq!(serving.starts.load(Ordering::Relaxed), 1);
    for (method, path, status) in [
        ("POST", "/cancel/none", 404),
        ("GET", "/status/none", 404),
        ("GET", "/run", 405),
        ("GET", "/", 404),
        ("POST", "/runsync?wait=long", 400),
    ] {
        let reply = send(method, &serving.url(path), &[], b"").unwrap();
        assert_eq!(reply.status, status, "{method} {path}");
        assert!(reply.json()["error"].is_string());
    }
    assert_eq!(serving.end(), Counts { completed: 1, cancelled: 2, timed_out: 2, failed: 0 });
}

#[test]
fn who_may_not_ask_is_told_so_and_what_makes_no_sense_is_refused() {
    let secret = "a-token-of-some-length";
    let Some(serving) = Serving::new(&[], |config| {
        config.token = Some(Token::new(secret).unwrap());
        config.body_limit = 10_000;
    }) else {
        return;
    };
    let good = format!("Bearer {secret}");
    for (header, status) in [
        (None, 401),
        (Some("Bearer a-token-of-some-lengtX"), 401),
        (Some("Basic abc"), 401),
        (Some(&*good), 200),
    ] {
        let headers: Vec<(&str, &str)> = header.iter().map(|value| ("Authorization", *value)).collect();
        let reply = send("GET", &serving.url("/health"), &headers, b"").unwrap();
        assert_eq!(reply.status, status, "{header:?}");
        assert_eq!(reply.headers.get("www-authenticate").is_some(), status == 401);
    }
    let post = |body: &[u8]| {
        let headers = [("Authorization", &*good), ("Content-Type", "application/json")];
        send("POST", &serving.url("/run"), &headers, body).unwrap()
    };
    for (body, status, said) in [
        (&b"{"[..], 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "the body is not JSON"),
        (b"", 400, "the body is not JSON"),
        (b"[]", 400, "the body: found a list; expected an object"),
        (br#"{"input":{"workflow":{"nodes":7}}}"#, 400, "input.workflow: "),
        (&[b' '; 10_001], 413, "the body is larger than 10000 bytes"),
    ] {
        let reply = post(body);
        assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(body));
        let answer = reply.json();
        assert!(answer["error"].as_str().unwrap().starts_with(said), "{answer}");
    }
    // Nobody else can use the port, and a public one wants a token.
    assert!(matches!(bind(serving.address, None, false), Err(ServeError::Bind { .. })));
    let public: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let said = bind(public, None, false).unwrap_err().to_string();
    assert!(said.ends_with("and there is no token that requests must carry"), "{said}");
    let open: TcpListener = bind(public, None, true).unwrap();
    assert!(open.local_addr().unwrap().port() > 0);
}

#[test]
fn a_comfyui_that_dies_is_started_anew() {
    let Some(serving) = Serving::new(&[], |_| {}) else { return };
    let dying = json!({
        "1": image(1), "3": save("2", "x"),
        "2": { "class_type": "TestDie", "inputs": { "how": "kill", "value": ["1", 0] } },
    });
    let (first, second) = (serving.run(&dying), serving.run(&picture(1)));
    let failed = serving.wait(&first, "FAILED");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains(" is gone\nThe last lines of its log:"), "{error}");
    serving.wait(&second, "COMPLETED");
    assert_eq!(serving.starts.load(Ordering::Relaxed), 2);

    // It dies while nothing runs, and cannot be started for a while.
    serving.broken.store(true, Ordering::Relaxed);
    let pid = serving.pid.load(Ordering::Relaxed);
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    wait_until(SOON, "it is known to be ill", || {
        get(&serving.url("/health")).json()["workers"]["unhealthy"] == 1
    });
    let answer = serving.wait(&serving.run(&picture(2)), "FAILED");
    assert_eq!(answer["error"], "there is no ComfyUI: interrupted");
    serving.broken.store(false, Ordering::Relaxed);
    serving.wait(&serving.run(&picture(3)), "COMPLETED");
    assert_eq!(serving.starts.load(Ordering::Relaxed), 3);
    assert_eq!(get(&serving.url("/health")).json()["workers"]["ready"], 1);
}

#[test]
fn a_stop_lets_what_runs_end_or_fails_it_in_time() {
    let Some(mut serving) = Serving::new(&[], |_| {}) else { return };
    let (running, waiting) = (serving.run(&sleeping(1.0)), serving.run(&picture(1)));
    serving.wait(&running, "IN_PROGRESS");
    serving.stop.store(1, Ordering::Relaxed);
    let view = serving.wait(&waiting, "FAILED");
    assert_eq!(view["error"], "the server was stopped");
    let refused = serving.post("/run", &json!({ "input": { "workflow": picture(2) } }));
    assert_eq!((refused.status, refused.json()), (503, json!({ "error": "the server is stopping" })));
    let counts = serving.end();
    assert_eq!((counts.completed, counts.failed), (1, 1));

    let Some(mut hasty) = Serving::new(&[], |config| config.drain = Duration::from_millis(200)) else {
        return;
    };
    let url = hasty.url("/runsync");
    let waiter = std::thread::spawn(move || {
        post_json(&url, &json!({ "input": { "workflow": sleeping(600.0) } })).json()
    });
    wait_until(SOON, "it runs", || get(&hasty.url("/health")).json()["jobs"]["inProgress"] == 1);
    // Who never says what he wants keeps nobody from ending.
    let mut silent = std::net::TcpStream::connect(hasty.address).unwrap();
    std::io::Write::write_all(&mut silent, b"GET /hea").unwrap();
    let counts = hasty.end();
    assert_eq!((counts.completed, counts.failed), (0, 1));
    let answer = waiter.join().unwrap();
    assert_eq!((&answer["status"], &answer["error"]), (&json!("FAILED"), &json!("the server was stopped")));
}

#[test]
fn what_is_too_large_for_an_answer_goes_into_a_directory() {
    let Some(serving) = Serving::new(&[], |config| config.keep_bytes = 100) else { return };
    let run = |mode: &str| {
        let body = json!({ "input": { "workflow": picture(1), "output_mode": mode } });
        serving.post("/runsync", &body).json()
    };
    let answer = run("base64");
    assert_eq!(
        (&answer["status"], &answer["error"]),
        (
            &json!("FAILED"),
            &json!("the outputs are larger than 100 bytes; ask for output_mode \"directory\"")
        )
    );
    assert_eq!(run("directory")["status"], "COMPLETED");
}
