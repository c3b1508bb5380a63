//! How a mount tells how it fares: a socket in its lease's directory. Who connects gets one JSON document and the end;
//! nothing is read, so nobody can ask for anything.
//!
//! Only the user who mounts and root are answered. One at a time, and nobody who does not listen is waited for; whoever
//! asks does not wait long either: a process that is stopped takes connections and says nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cvs_fusefs::Overlay;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// The socket's name.
const NAME: &str = "control";
/// How long the other side is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries when no connection can be taken, because descriptors have run out.
const PAUSE: Duration = Duration::from_millis(200);
/// Longer answers are none of ours.
const LONGEST: u64 = 4 << 20;

/// How a mount fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) damaged: Vec<DamagedObject>,
    pub(crate) stats: Figures,
}

/// An object that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DamagedObject {
    pub(crate) blob: String,
    /// What is wrong with it, as in "is missing".
    pub(crate) problem: String,
    /// The first few of the files that it holds.
    pub(crate) paths: Vec<String>,
    /// How many files it holds.
    pub(crate) files: usize,
}

/// What a mount holds and has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Figures {
    /// Nodes in the table, and of all nodes those that the kernel holds, and those that are unlinked and in use. None
    /// when the table was busy.
    pub(crate) nodes: Option<usize>,
    pub(crate) held_by_kernel: Option<usize>,
    pub(crate) unlinked_in_use: Option<usize>,
    /// Descriptors of the process, and how many it may have.
    pub(crate) descriptors: usize,
    pub(crate) descriptors_limit: u64,
    pub(crate) open_files: usize,
    pub(crate) open_directories: usize,
    pub(crate) open_objects: usize,
    /// Bytes of memory that the process has.
    pub(crate) memory: u64,
    pub(crate) copying_up: usize,
    /// Requests being worked on; the one that came first, and its age.
    pub(crate) waiting: usize,
    pub(crate) oldest: Option<String>,
    pub(crate) oldest_ms: Option<u64>,
    pub(crate) requests: Vec<RequestFigures>,
}

/// Requests of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestFigures {
    pub(crate) kind: String,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

/// Answers who asks, until this process ends. Without it a mount works as well, so that a refusal is only told.
pub(super) fn listen(directory: &Path, overlay: Arc<Overlay>) {
    let listener = address(directory).and_then(|(_directory, path)| {
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(listener)
    });
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "nobody will be told how this mount fares");
            return;
        }
    };
    thread::spawn(move || {
        for connection in listener.incoming() {
            match connection {
                Ok(connection) => {
                    // Whoever does not listen to the end has not wanted to know.
                    let _ = answer(connection, &overlay);
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    });
}

fn answer(mut connection: UnixStream, overlay: &Overlay) -> io::Result<()> {
    let asks = rustix::net::sockopt::socket_peercred(&connection)?.uid;
    if !asks.is_root() && asks != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&serde_json::to_vec(&report(overlay))?)
}

fn report(overlay: &Overlay) -> Report {
    let stats = overlay.stats();
    let damaged = stats.damaged.iter().map(|of| DamagedObject {
        blob: of.blob.to_string(),
        problem: of.problem.to_owned(),
        paths: of.paths.iter().map(ToString::to_string).collect(),
        files: of.files,
    });
    let requests = stats.work.requests.iter().map(|of| RequestFigures {
        kind: of.kind.to_owned(),
        answered: of.answered,
        failed: of.failed,
    });
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let oldest = stats.work.oldest;
    let figures = Figures {
        nodes: stats.table.map(|table| table.nodes),
        held_by_kernel: stats.table.map(|table| table.held),
        unlinked_in_use: stats.table.map(|table| table.pinned),
        // Without the one that the directory is read through.
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1)),
        descriptors_limit: limit.unwrap_or(u64::MAX),
        open_files: stats.open_files,
        open_directories: stats.open_directories,
        open_objects: stats.open_objects,
        memory: resident_bytes(),
        copying_up: stats.copying,
        waiting: stats.work.waiting,
        oldest: oldest.map(|(kind, _)| kind.to_owned()),
        oldest_ms: oldest.map(|(_, age)| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        requests: requests.collect(),
    };
    Report { damaged: damaged.collect(), stats: figures }
}

/// The second field of proc_pid_statm(5), in pages.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Asks the mount whose lease lies in `directory`. None when it has no socket, as one of an older cvs; an error when it
/// does not answer in time.
pub(super) fn ask(directory: &Path) -> io::Result<Option<Report>> {
    let socket = match connect(directory) {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    let deadline = Instant::now() + PATIENCE;
    let (mut answer, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of nothing would be none.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut part)? {
            0 => break,
            n => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
        }
        if answer.len() as u64 > LONGEST || left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(Some(serde_json::from_slice(&answer)?))
}

/// Connects without waiting for a queue that nobody takes from.
fn connect(directory: &Path) -> io::Result<OwnedFd> {
    let (_directory, path) = address(directory)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&path)?)?;
    Ok(socket)
}

/// The socket's path, through a descriptor that must stay open: an address holds 108 bytes, whatever the path is.
fn address(directory: &Path) -> io::Result<(File, PathBuf)> {
    let directory = File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_fd().as_raw_fd()));
    Ok((directory, path))
}
