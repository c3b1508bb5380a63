//! The websocket of a ComfyUI, on a thread of its own that connects again for as long as it is wanted. What was said
//! while there was no connection is lost: the events are for showing, and a sign of life; what became of a prompt is
//! asked of the history.

use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use super::client::{Client, escaped};

/// How long a connection and its first words may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(250);
/// How long one read waits; then it is looked whether the socket is still wanted.
const READ: Duration = Duration::from_millis(500);
/// The largest message: a node may send a whole picture.
const MESSAGE: usize = 512 << 20;

/// What the thread tells.
#[derive(Debug)]
pub(super) enum Heard {
    /// There is a connection.
    Connected,
    /// There is none: it broke, or an attempt failed.
    Nothing,
    /// A message in text: its type and its data.
    Message(String, Value),
    /// Anything else, previews among it.
    Other,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    stream: Mutex<Option<TcpStream>>,
}

impl Shared {
    fn stream(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A websocket; closed when dropped.
pub(super) struct Socket {
    pub(super) heard: Receiver<Heard>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Socket {
    /// Begins to listen, as the client with that id.
    pub(super) fn open(client: &Client, client_id: &str) -> std::io::Result<Socket> {
        let (sender, heard) = channel();
        let shared = Arc::new(Shared::default());
        let (host, port) = client.host_and_port();
        let address = (host.to_owned(), port);
        let base = client.base_url().trim_start_matches("http");
        let url = format!("ws{base}/ws?clientId={}", escaped(client_id));
        let thread = {
            let shared = Arc::clone(&shared);
            let listen = move || keep_listening(&address, &url, &shared, &sender);
            std::thread::Builder::new().name("cvs-websocket".to_owned()).spawn(listen)?
        };
        Ok(Socket { heard, shared, thread: Some(thread) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(stream) = self.shared.stream().take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn keep_listening(address: &(String, u16), url: &str, shared: &Shared, sender: &Sender<Heard>) {
    while !shared.stops() {
        if let Some(mut socket) = connect(address, url, shared) {
            let _ = sender.send(Heard::Connected);
            listen(&mut socket, shared, sender);
            *shared.stream() = None;
        }
        let _ = sender.send(Heard::Nothing);
        if !shared.stops() {
            std::thread::park_timeout(PAUSE);
        }
    }
}

fn connect(address: &(String, u16), url: &str, shared: &Shared) -> Option<WebSocket<TcpStream>> {
    let address = (address.0.as_str(), address.1).to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, CONNECT).ok()?;
    stream.set_read_timeout(Some(CONNECT)).ok()?;
    stream.set_write_timeout(Some(CONNECT)).ok()?;
    *shared.stream() = Some(stream.try_clone().ok()?);
    // `drop` sets the flag before it takes the stream: whoever comes between is seen here.
    if shared.stops() {
        return None;
    }
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    let (socket, _) = tungstenite::client::client_with_config(url, stream, Some(config)).ok()?;
    socket.get_ref().set_read_timeout(Some(READ)).ok()?;
    Some(socket)
}

/// Reads until the connection ends.
fn listen(socket: &mut WebSocket<TcpStream>, shared: &Shared, sender: &Sender<Heard>) {
    while !shared.stops() {
        let heard = match socket.read() {
            Ok(Message::Text(text)) => understand(&text),
            Ok(Message::Close(_)) => return,
            Ok(_) => Heard::Other,
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(_) => return,
        };
        // Nobody hears it any more when the socket is being closed.
        let _ = sender.send(heard);
    }
}

fn understand(text: &str) -> Heard {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => match value["type"].as_str().map(str::to_owned) {
            Some(kind) => Heard::Message(kind, value["data"].take()),
            None => Heard::Other,
        },
        Err(_) => Heard::Other,
    }
}
