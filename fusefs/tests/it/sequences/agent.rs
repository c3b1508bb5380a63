//! Processes of their own, which keep handles, mappings and a working directory on each side, and do one operation at
//! a time. Each is this test program, started again; it is asked over the socket that is its standard input.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::Mode;
use rustix::fs::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::ops::Op;
use super::outcome::{Outcome, Seen};

const ROLE: &str = "CVS_TEST_SEQUENCES_AGENT";
pub(crate) const NOBODY: u32 = 65_534;

#[derive(Serialize, Deserialize)]
enum Request {
    /// Lets go of everything, and looks at these directories from now on.
    Begin {
        roots: Vec<PathBuf>,
        started: i64,
    },
    Run {
        side: usize,
        nobody: bool,
        op: Op,
    },
    WriteBack,
}

pub(crate) struct Agent {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl Agent {
    /// A process with this umask.
    pub(crate) fn start(umask: u32) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sequences::agent::serves", "--nocapture", "--test-threads=1"])
            .env(ROLE, umask.to_string())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, socket: BufReader::new(ours) }
    }

    fn ask(&mut self, request: &Request) -> Outcome {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.socket.get_mut().write_all(&line).expect("the other process listens");
        let mut answer = String::new();
        self.socket.read_line(&mut answer).expect("the other process answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("an answer, not {answer:?}: {error}"))
    }

    pub(crate) fn begin(&mut self, roots: &[PathBuf], started: i64) {
        self.ask(&Request::Begin { roots: roots.to_vec(), started }).unwrap();
    }

    pub(crate) fn run(&mut self, side: usize, nobody: bool, op: &Op) -> Outcome {
        self.ask(&Request::Run { side, nobody, op: op.clone() })
    }

    pub(crate) fn write_back(&mut self) {
        self.ask(&Request::WriteBack).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends with its input. One that hangs in a call of the kernel has to be killed.
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test, but what the other process does: nothing, where nobody says which one it is.
#[test]
fn serves() {
    let Some(umask) = std::env::var_os(ROLE) else { return };
    rustix::process::umask(Mode::from_raw_mode(umask.to_str().unwrap().parse().unwrap()));
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut answers = socket.try_clone().unwrap();
    let mut sides: Vec<Dir> = Vec::new();
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { return };
        let outcome = match serde_json::from_str(&line).unwrap() {
            Request::Begin { roots, started } => {
                std::env::set_current_dir("/").unwrap();
                sides.clear();
                sides.extend(roots.iter().map(|root| Dir::open(root, started)));
                Ok(Seen::Done)
            }
            Request::Run { side, nobody, op } => as_nobody(nobody, || sides[side].run(&op)),
            Request::WriteBack => {
                sides.iter().for_each(Dir::write_back);
                Ok(Seen::Done)
            }
        };
        let mut line = serde_json::to_vec(&outcome).unwrap();
        line.push(b'\n');
        if answers.write_all(&line).is_err() {
            return;
        }
    }
}

fn as_nobody(nobody: bool, body: impl FnOnce() -> Outcome) -> Outcome {
    if !nobody {
        return body();
    }
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let groups = rustix::process::getgroups().unwrap();
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(None, Some(gid), None).unwrap();
    rustix::thread::set_thread_res_uid(None, Some(uid), None).unwrap();
    let done = body();
    rustix::thread::set_thread_res_uid(None, Some(Uid::ROOT), None).unwrap();
    rustix::thread::set_thread_res_gid(None, Some(Gid::ROOT), None).unwrap();
    rustix::thread::set_thread_groups(&groups).unwrap();
    done
}
