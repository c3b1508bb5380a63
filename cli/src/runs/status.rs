//! How runs fare, seen from outside: what their supervisors wrote, and what the processes and the port say.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, SystemTime};

use cvs_store::Store;
use serde::Serialize;

use super::RunsError;
use super::processes;
use super::record::{Found, Phase, Record, Records, Role};

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How a run fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    /// It does not answer yet.
    Starting,
    /// It answers.
    Running,
    /// It has answered before, and does not now.
    NotAnswering,
    /// It was told to end.
    Stopping,
    /// It ended by itself without a failure.
    Exited,
    /// It ended by itself with one.
    Crashed,
    /// Its supervisor died; what it left is cleared by `stop`, or by the next start.
    SupervisorDied,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunStatus {
    pub(crate) version: String,
    pub(crate) role: Role,
    pub(crate) state: RunState,
    /// The process of ComfyUI, while there is one.
    pub(crate) pid: Option<u32>,
    /// The process that sees to it, while there is one.
    pub(crate) supervisor: Option<u32>,
    pub(crate) detached: bool,
    pub(crate) url: Option<String>,
    /// Seconds since it was started.
    pub(crate) uptime: Option<u64>,
    /// Resident memory of its process group in bytes.
    pub(crate) memory: Option<u64>,
    /// The exit code of one that crashed, unless a signal ended it.
    pub(crate) code: Option<i32>,
    /// Why it ended.
    pub(crate) reason: Option<String>,
    pub(crate) view: String,
    #[serde(serialize_with = "cvs_store::path_json::option::serialize")]
    pub(crate) root: Option<std::path::PathBuf>,
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub(crate) log: std::path::PathBuf,
}

/// Every run of a home, sorted by name.
pub(crate) fn all(store: &Store) -> Result<Vec<RunStatus>, RunsError> {
    let records = Records::of(store);
    let mut found = Vec::new();
    for name in records.names()? {
        match records.find(&name)? {
            Found::Live(Some(record)) => found.push((true, *record)),
            Found::Left(Some(record)) => found.push((false, *record)),
            // It ended while we looked, or nothing can be told of it.
            Found::Nothing | Found::Live(None) | Found::Left(None) => {}
        }
    }
    // Each may take its time to answer.
    Ok(thread::scope(|scope| {
        let asked: Vec<_> =
            found.into_iter().map(|(live, record)| scope.spawn(move || status(live, record))).collect();
        asked.into_iter().filter_map(|one| one.join().ok()).collect()
    }))
}

fn status(live: bool, record: Record) -> RunStatus {
    let comfy = record.comfy.as_ref().filter(|comfy| comfy.is_alive());
    let (mut code, mut reason) = (None, None);
    let state = match &record.phase {
        Phase::Ended { code: ended, reason: why } => {
            (code, reason) = (*ended, Some(why.clone()));
            if *ended == Some(0) { RunState::Exited } else { RunState::Crashed }
        }
        _ if !live => RunState::SupervisorDied,
        Phase::Starting => RunState::Starting,
        Phase::Stopping => RunState::Stopping,
        Phase::Running if record.url.as_deref().is_some_and(answers) => RunState::Running,
        Phase::Running => RunState::NotAnswering,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    RunStatus {
        state,
        pid: comfy.map(|comfy| comfy.pid),
        supervisor: live.then_some(record.supervisor.pid),
        uptime: live.then(|| now.saturating_sub(record.since)),
        memory: comfy.map(processes::memory),
        code,
        reason,
        version: record.version,
        role: record.role,
        detached: record.detached,
        url: record.url,
        view: record.view,
        root: record.root,
        log: record.log,
    }
}

/// Whether a ComfyUI answers there, to the cheapest question that all of them know.
fn answers(url: &str) -> bool {
    let Some(address) = url.strip_prefix("http://") else { return false };
    let ask = || {
        let target = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&target, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        write!(stream, "GET /prompt HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin)?;
        Ok::<_, std::io::Error>(begin.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
