//! Jobs against servers that break on purpose.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cvs_tests::{Fault, HttpServer, Response};
use cvs_versions::comfy::{Client, JobError, JobEvent, JobRequest, run_job};
use serde_json::{Value, json};

use crate::jobs::{image, request, run, save};
use crate::support::{Given, NEVER, World};

/// A proxy in front of a server that can cut every connection that is open.
struct Cutter {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cutter {
    fn before(server: &str) -> Cutter {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = server.trim_start_matches("http://").to_owned();
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(there) = TcpStream::connect(&server) else { continue };
                let pair = [client.try_clone().unwrap(), there.try_clone().unwrap()];
                kept.lock().unwrap().extend(pair);
                pump(client.try_clone().unwrap(), there.try_clone().unwrap());
                pump(there, client);
            }
        });
        Cutter { port, open }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn a_job_outlives_its_connections() {
    let Some(world) = World::new(&[]) else { return };
    let server = world.start(&Given::default()).unwrap();
    let cutter = Cutter::before(server.base_url());
    let client = Client::new(&format!("http://127.0.0.1:{}", cutter.port)).unwrap();
    let prompt = json!({
        "1": image(1), "3": save("2", "x"),
        "2": { "class_type": "TestProgress", "inputs": { "steps": 12, "seconds": 0.1, "value": ["1", 0] } },
    });
    let (lost, back, cuts) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let events = |event: JobEvent<'_>| match event {
        JobEvent::Unheard => drop(lost.fetch_add(1, Ordering::Relaxed)),
        JobEvent::Heard => drop(back.fetch_add(1, Ordering::Relaxed)),
        JobEvent::Progress { .. } if cuts.fetch_add(1, Ordering::Relaxed) < 2 => cutter.cut(),
        _ => {}
    };
    let result = run_job(&client, &request(&prompt), &events, &NEVER).unwrap();
    assert_eq!(result.outputs.files.len(), 1);
    let (lost, back) = (lost.into_inner(), back.into_inner());
    assert!(lost >= 1 && back >= 1 && back <= lost, "lost {lost} times, back {back} times");
}

/// A server without a websocket that knows one prompt, and says of it what `history` says.
fn scripted(history: impl Fn(usize) -> Value + Send + Sync + 'static) -> (HttpServer, Client) {
    let server = HttpServer::start();
    server
        .route("/prompt", |_| Response::json(&json!({ "prompt_id": "own", "number": 1, "node_errors": {} })));
    let asked = AtomicUsize::new(0);
    server.route("/history/own", move |_| Response::json(&history(asked.fetch_add(1, Ordering::Relaxed))));
    server
        .route("/queue", |_| Response::json(&json!({ "queue_running": [[1, "own"]], "queue_pending": [] })));
    server.route("/interrupt", |_| Response::new(200, ""));
    let client = Client::new(&server.url("")).unwrap();
    (server, client)
}

fn done(status: Value, outputs: Value) -> Value {
    json!({ "own": { "prompt": [], "outputs": outputs, "status": status } })
}

#[test]
fn servers_without_a_websocket_and_with_odd_histories() {
    let success = json!({ "status_str": "success", "completed": true, "messages": [] });
    let file =
        json!({ "9": { "images": [{ "filename": "../../x.png", "subfolder": "", "type": "output" }] } });
    let (server, client) = scripted({
        let (success, file) = (success.clone(), file.clone());
        move |asked| if asked < 2 { json!({}) } else { done(success.clone(), file.clone()) }
    });
    let begin = Instant::now();
    let result = run(&client, &json!({})).unwrap();
    assert_eq!((result.prompt_id.as_str(), result.outputs.files.len()), ("own", 1));
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());

    // A file with a hostile name stays where it belongs; one that is cut short is none.
    let dir = tempfile::tempdir().unwrap();
    server.serve("/view", vec![7; 100_000]);
    let bring = || cvs_versions::comfy::collect(&client, &result.outputs.files, dir.path(), &|_| {}, &NEVER);
    server.fault_times("/view", 1, Fault::CutAfter(500));
    assert!(matches!(bring(), Err(JobError::Client(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(bring().unwrap()[0].path, dir.path().join("x.png"));

    for (status, outputs, said) in [
        (json!(null), file.clone(), None),
        (
            json!({ "status_str": "error", "completed": false, "messages": [] }),
            file,
            Some("without success and does not say why"),
        ),
        (success, json!({}), Some("put nothing out")),
    ] {
        let (_server, client) = scripted(move |_| done(status.clone(), outputs.clone()));
        let error = run(&client, &json!({})).err().map(|error| error.to_string());
        assert_eq!(error.is_some(), said.is_some(), "{error:?}");
        assert!(error.unwrap_or_default().contains(said.unwrap_or_default()));
    }
}

#[test]
fn silence_and_nonsense_are_errors() {
    // It takes the prompt, and from then on says nothing at all.
    let (server, client) = scripted(|_| json!({}));
    for path in ["/history/own", "/queue"] {
        server.fault(path, Fault::Hang);
    }
    let silent = JobRequest { respond_timeout: Duration::from_millis(500), ..request(&Value::Null) };
    let begin = Instant::now();
    let error = run_job(&client, &silent, &|_| {}, &NEVER).unwrap_err();
    assert_eq!(error.to_string(), "ComfyUI gave no sign of life for 500ms");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());

    let (server, client) = scripted(|_| json!({}));
    server.fault_times("/history/own", 2, Fault::Status(503, vec![]));
    server.serve("/queue", "not JSON");
    let error = run(&client, &Value::Null).unwrap_err().to_string();
    assert!(error.contains("/queue: an answer that makes no sense: not JSON"), "{error}");

    // It was started anew, and has forgotten what it was given.
    server.serve("/queue", json!({ "queue_running": [], "queue_pending": [[1, "another"]] }).to_string());
    assert!(matches!(run(&client, &Value::Null), Err(JobError::Lost)));

    server.fault("/prompt", Fault::Status(413, vec![]));
    let error = run(&client, &Value::Null).unwrap_err().to_string();
    assert!(error.contains("/prompt: the server answered HTTP 413"), "{error}");

    let nobody = Client::new(&format!("http://127.0.0.1:{}", cvs_tests::free_port())).unwrap();
    let error = run(&nobody, &Value::Null).unwrap_err().to_string();
    assert!(error.contains("/prompt: no connection: "), "{error}");
    for (address, reason) in [
        ("127.0.0.1:8188", "it is no URL"),
        ("https://127.0.0.1", "a ComfyUI is spoken to over http://"),
        ("ftp://127.0.0.1", "a ComfyUI is spoken to over http://"),
    ] {
        let said = Client::new(address).unwrap_err().to_string();
        assert_eq!(said, format!("{address:?} is no address of a ComfyUI: {reason}"));
    }
}
