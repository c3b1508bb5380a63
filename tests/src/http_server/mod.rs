//! A threaded HTTP/1.1 server on loopback that serves bytes as a good server does, and breaks as it is told to.
//!
//! Good means: single ranges with `If-Range`, strong ETags made of the content, `If-None-Match`, HEAD, keep-alive. A
//! [`Fault`] of a path changes that, always or for the next few requests. Every request is recorded before it is
//! answered. One thread serves one connection; all are joined on drop.

mod answer;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::http::{Headers, Request, read_request};

/// What a path holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file, opened for each request and read as it is sent.
    File(PathBuf),
}

/// An answer of a [`HttpServer::route`].
#[derive(Clone, Debug)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Body,
}

impl Response {
    /// An answer without header fields of its own.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Response { status, headers: Headers::default(), body: Body::Bytes(body.into().into()) }
    }

    /// A 200 with a JSON body.
    pub fn json(value: &serde_json::Value) -> Self {
        Response::new(200, value.to_string()).header("Content-Type", "application/json")
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }
}

/// One thing that goes wrong on a path. Several can be active at once.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Close the connection after so many bytes of the body.
    CutAfter(u64),
    /// Announce this length whatever is sent; the connection closes after the body.
    ContentLength(u64),
    /// Send the whole body chunked, so that no length is announced.
    Chunked,
    /// Flip every bit of the byte at this offset of the whole content.
    FlipByte(u64),
    /// Answer with this status, these header fields and no content.
    Status(u16, Vec<(&'static str, String)>),
    /// Answer with this redirect status to that address.
    Redirect(u16, String),
    /// Answer with that status unless the request carries exactly this header field.
    Require(&'static str, String, u16),
    /// Pause so long after every so many bytes of the body.
    Drip(usize, Duration),
    /// Know nothing of ranges: the whole content, every time.
    NoRanges,
    /// Answer every range with 206 and the bytes from the start, `Content-Range` telling so.
    RangeFromStart,
    /// Another ETag with every answer, as a server whose content keeps changing.
    ChangingEtag,
    /// No ETag.
    NoEtag,
    /// Take the request and never answer.
    Hang,
}

struct Active {
    fault: Fault,
    /// Requests that it is for yet; `None` for all.
    remaining: Option<usize>,
}

type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

#[derive(Default)]
struct State {
    content: BTreeMap<String, (Body, Headers)>,
    handlers: Vec<(String, Handler)>,
    faults: HashMap<String, Vec<Active>>,
    requests: Vec<Request>,
    sent: HashMap<String, u64>,
    connections: HashMap<u64, TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    stopping: AtomicBool,
    stopped: Condvar,
    /// Counts answers, for [`Fault::ChangingEtag`].
    answers: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The faults that this request of the path meets; those with a count are used up by it.
    fn take_faults(&self, path: &str) -> Vec<Fault> {
        let mut state = self.state();
        let Some(active) = state.faults.get_mut(path) else { return Vec::new() };
        let met = active.iter().map(|entry| entry.fault.clone()).collect();
        for entry in active.iter_mut() {
            entry.remaining = entry.remaining.map(|count| count - 1);
        }
        active.retain(|entry| entry.remaining != Some(0));
        met
    }

    /// Returns when the server stops.
    fn hang(&self) {
        let state = self.state();
        let running = |_: &mut State| !self.stopping.load(Ordering::SeqCst);
        drop(self.stopped.wait_while(state, running));
    }
}

/// The server; see the module. It stops when dropped.
pub struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binding a port of 127.0.0.1");
        let address = listener.local_addr().expect("the address of a bound port");
        let shared = Arc::new(Shared::default());
        let listening = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || listen(&listener, &shared))
        };
        HttpServer { address, shared, listening: Some(listening) }
    }

    /// The URL of a path, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Serves bytes at a path (percent-decoded), instead of what was there.
    pub fn serve(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let body = Body::Bytes(bytes.into().into());
        self.shared.state().content.insert(path.to_owned(), (body, Headers::default()));
    }

    /// Serves a file at a path.
    pub fn serve_file(&self, path: &str, file: impl Into<PathBuf>) {
        let body = Body::File(file.into());
        self.shared.state().content.insert(path.to_owned(), (body, Headers::default()));
    }

    /// Sets a header field on every answer that carries the content of a path, an ETag of one's own among them.
    pub fn set_header(&self, path: &str, name: &str, value: &str) {
        let mut state = self.shared.state();
        let (_, headers) =
            state.content.get_mut(path).unwrap_or_else(|| panic!("nothing is served at {path}"));
        headers.set(name, value);
    }

    /// Takes a path away: 404 from now on.
    pub fn remove(&self, path: &str) {
        self.shared.state().content.remove(path);
    }

    /// Lets a function answer every path with this prefix that nothing is served at; the longest prefix wins.
    pub fn route(&self, prefix: &str, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) {
        let mut state = self.shared.state();
        state.handlers.push((prefix.to_owned(), Arc::new(answer)));
        state.handlers.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    /// A fault that every request of the path meets from now on.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.add_fault(path, fault, None);
    }

    /// A fault that the next `count` requests of the path meet.
    pub fn fault_times(&self, path: &str, count: usize, fault: Fault) {
        if count > 0 {
            self.add_fault(path, fault, Some(count));
        }
    }

    fn add_fault(&self, path: &str, fault: Fault, remaining: Option<usize>) {
        self.shared.state().faults.entry(path.to_owned()).or_default().push(Active { fault, remaining });
    }

    /// Ends all faults of a path.
    pub fn heal(&self, path: &str) {
        self.shared.state().faults.remove(path);
    }

    /// All requests so far, in the order of their coming.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The requests of one path.
    pub fn requests_of(&self, path: &str) -> Vec<Request> {
        self.shared.state().requests.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// Forgets the requests and the bytes counted so far.
    pub fn forget_requests(&self) {
        let mut state = self.shared.state();
        state.requests.clear();
        state.sent.clear();
    }

    /// Bytes of bodies sent for a path, over all requests.
    pub fn bytes_sent(&self, path: &str) -> u64 {
        self.shared.state().sent.get(path).copied().unwrap_or(0)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        {
            let state = self.shared.state();
            self.shared.stopping.store(true, Ordering::SeqCst);
            for connection in state.connections.values() {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        self.shared.stopped.notify_all();
        // Only a connection wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
        let threads = std::mem::take(&mut self.shared.state().threads);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, stream) in (0_u64..).zip(listener.incoming()) {
        let mut state = shared.state();
        // Read under the lock that the stopping holds: a connection is registered before it, or not at all.
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(clone) = stream.try_clone() else { continue };
        state.connections.insert(number, clone);
        state.threads.retain(|thread| !thread.is_finished());
        let shared = Arc::clone(shared);
        state.threads.push(std::thread::spawn(move || {
            // A client that goes away in the middle is an ordinary end of a connection.
            let _ = converse(stream, &shared);
            if let Some(connection) = shared.state().connections.remove(&number) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }));
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader, &mut stream)? {
        shared.state().requests.push(request.clone());
        let close = request.wants_close();
        if !answer::answer(&request, &mut stream, shared)? || close {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
