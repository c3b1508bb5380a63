//! A running ComfyUI, ours or the real one: started, spoken to over HTTP and the websocket, and stopped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::http_client::{Reply, get, post_json, send};
use crate::python::Python;
use crate::wait::{free_port, wait_for};

/// The real one, cold, takes its time too.
const START: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(20);
/// Between two messages of the websocket.
const SILENCE: Duration = Duration::from_secs(180);

/// How to start one.
pub struct Launch<'a> {
    /// The interpreter's environment.
    pub python: &'a Python,
    /// The directory of main.py, which is also where it runs.
    pub dir: &'a Path,
    /// Flags besides `--cpu --disable-auto-launch --port`.
    pub args: &'a [&'a str],
    /// Where its stdout and stderr go, outside `dir`.
    pub log: PathBuf,
}

impl Launch<'_> {
    fn command(&self, args: &[OsString]) -> Command {
        let log =
            File::create(&self.log).unwrap_or_else(|error| panic!("making {}: {error}", self.log.display()));
        let mut command = Command::new(self.python.program());
        command.arg("main.py").args(["--cpu", "--disable-auto-launch"]).args(args).args(self.args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Its prints are to stand in the log between its log lines, in order.
        command.env("LANG", "C.UTF-8").env("PYTHONUNBUFFERED", "1").current_dir(self.dir);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("duplicating a descriptor")).stderr(log);
        command
    }

    fn read_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs a command that ends by itself (`--help`, `--quick-test-for-ci`): how it ended and its log.
    pub fn run(&self) -> (ExitStatus, String) {
        let status = self.command(&[]).status().expect("starting Python");
        (status, self.read_log())
    }

    /// Starts a server on a free port and returns when it answers; panics with its log when it ends first.
    pub fn start(self) -> ComfyProcess {
        for attempt in 1.. {
            let port = free_port();
            let mut child =
                self.command(&["--port".into(), port.to_string().into()]).spawn().expect("starting Python");
            let mut ended = None;
            let is_up = |child: &mut Child, ended: &mut Option<ExitStatus>| {
                *ended = child.try_wait().expect("asking for a child");
                (ended.is_some() || self.read_log().contains("To see the GUI go to:")).then_some(())
            };
            wait_for(START, "ComfyUI says where it listens", || is_up(&mut child, &mut ended));
            match ended {
                None => return ComfyProcess { child, port, log: self.log },
                Some(_) if attempt < 5 && self.read_log().contains("address already in use") => {}
                Some(status) => panic!("ComfyUI: {status}\n{}", self.read_log()),
            }
        }
        unreachable!("the attempts end with a value or a panic")
    }
}

/// A running server; killed when dropped, its log shown when that is for a panic.
pub struct ComfyProcess {
    child: Child,
    port: u16,
    log: PathBuf,
}

/// One message of the websocket.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A text message: its type and its data.
    Json(String, Value),
    /// A binary one; a preview is two big-endian numbers, 1 and the image format, and the image.
    Binary(Vec<u8>),
}

/// A prompt that has come to its end.
#[derive(Debug)]
pub struct Finished {
    /// Its id.
    pub prompt_id: String,
    /// What the websocket said from the queueing to the end.
    pub events: Vec<Event>,
    /// Its history: `prompt`, `outputs`, `status`.
    pub history: Value,
}

impl Finished {
    /// The types of the text messages, `status` left out, since other prompts cause it too.
    pub fn event_types(&self) -> Vec<&str> {
        let types = self.events.iter().filter_map(|event| match event {
            Event::Json(kind, _) if kind != "status" => Some(kind.as_str()),
            _ => None,
        });
        types.collect()
    }

    /// The data of the first message of that type.
    pub fn event(&self, wanted: &str) -> Option<&Value> {
        self.events.iter().find_map(|event| match event {
            Event::Json(kind, data) if kind == wanted => Some(data),
            _ => None,
        })
    }

    /// Whether it ended with success.
    pub fn is_success(&self) -> bool {
        self.history["status"]["status_str"] == "success"
    }
}

impl ComfyProcess {
    /// The URL of a path, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// GET of a path.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        get(&self.url(path))
    }

    /// POST of JSON to a path.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        post_json(&self.url(path), body)
    }

    /// The bytes of an output as the history names it: `{filename, subfolder, type}`.
    #[track_caller]
    pub fn view(&self, file: &Value) -> Vec<u8> {
        let field = |name: &str| file[name].as_str().unwrap_or_else(|| panic!("{name} in {file}")).to_owned();
        let query =
            [("filename", field("filename")), ("subfolder", field("subfolder")), ("type", field("type"))]
                .map(|(name, value)| {
                    format!(
                        "{name}={}",
                        percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC)
                    )
                })
                .join("&");
        let reply = self.get(&format!("/view?{query}"));
        assert_eq!(reply.status, 200, "{query}");
        reply.body
    }

    /// Puts an image into `input/` and returns the answer.
    #[track_caller]
    pub fn upload_image(&self, name: &str, bytes: &[u8]) -> Reply {
        let boundary = "a-boundary-that-no-image-holds";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\
             Content-Type: image/png\r\n\r\n"
        )
        .into_bytes();
        body.extend(bytes);
        body.extend(format!("\r\n--{boundary}--\r\n").bytes());
        let headers = [("Content-Type", format!("multipart/form-data; boundary={boundary}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        send("POST", &self.url("/upload/image"), &headers, &body).expect("posting an image")
    }

    /// Opens the websocket and reads its greeting.
    #[track_caller]
    pub fn connect(&self, client_id: &str) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connecting to ComfyUI");
        stream.set_read_timeout(Some(SILENCE)).expect("setting a time limit");
        let url = format!("ws://127.0.0.1:{}/ws?clientId={client_id}", self.port);
        let (mut socket, _) = tungstenite::client(url, stream).expect("opening the websocket");
        match next_event(&mut socket) {
            Event::Json(kind, data) if kind == "status" && data["sid"] == client_id => socket,
            other => panic!("not the greeting: {other:?}"),
        }
    }

    /// Queues a workflow in API format and follows it to its end. `during` sees each event as it comes.
    #[track_caller]
    pub fn run_and(&self, workflow: &Value, mut during: impl FnMut(&Event)) -> Finished {
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let client_id = format!("client-{}-{}", std::process::id(), CLIENTS.fetch_add(1, Ordering::Relaxed));
        let mut socket = self.connect(&client_id);
        let reply = self.post("/prompt", &json!({ "prompt": workflow, "client_id": client_id }));
        let answer = reply.json();
        assert_eq!(reply.status, 200, "{answer:#}");
        let prompt_id = answer["prompt_id"].as_str().expect("a prompt id").to_owned();
        let mut events = Vec::new();
        loop {
            let event = next_event(&mut socket);
            during(&event);
            let done = matches!(&event, Event::Json(kind, data)
                if kind == "executing" && data["node"].is_null() && data["prompt_id"] == prompt_id);
            events.push(event);
            if done {
                break;
            }
        }
        let mut history = self.get(&format!("/history/{prompt_id}")).json();
        let history = history[&prompt_id].take();
        Finished { prompt_id, events, history }
    }

    /// Queues a workflow in API format and follows it to its end.
    #[track_caller]
    pub fn run(&self, workflow: &Value) -> Finished {
        self.run_and(workflow, |_| {})
    }

    /// Waits until it has ended by itself, and says how.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for(STOP, "ComfyUI ends", || self.child.try_wait().expect("waiting for a child"))
    }

    /// Ends it as Ctrl-C does, and returns its whole log.
    #[track_caller]
    pub fn stop(mut self) -> String {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGINT).expect("signalling a child");
        wait_for(STOP, "ComfyUI ends", || self.child.try_wait().expect("waiting for a child"));
        self.log()
    }
}

#[track_caller]
fn next_event(socket: &mut WebSocket<TcpStream>) -> Event {
    loop {
        match socket.read().unwrap_or_else(|error| panic!("reading the websocket: {error}")) {
            Message::Text(text) => {
                let mut value: Value = serde_json::from_str(&text).expect("a text message is JSON");
                let kind = value["type"].as_str().expect("a message has a type").to_owned();
                return Event::Json(kind, value["data"].take());
            }
            Message::Binary(bytes) => return Event::Binary(bytes.to_vec()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            Message::Close(frame) => panic!("the websocket was closed: {frame:?}"),
        }
    }
}

impl Drop for ComfyProcess {
    fn drop(&mut self) {
        // Of a test that fails, the log is what one wants to see next; and whether it was still alive.
        if std::thread::panicking() {
            eprintln!("ComfyUI had ended: {:?}; its log:\n{}", self.child.try_wait(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
