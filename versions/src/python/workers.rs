//! Processes of the target interpreter that compile sources.
//!
//! Each belongs to one thread, which sends it a source and waits for its bytecode. They run without an environment, so
//! that nothing on this machine changes what they write. One that dies over a source is replaced; the source counts as
//! one that cannot be compiled. That somebody killed it, a person or a kernel short of memory, says nothing of the source
//! and is an error: what is said of a source is remembered.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use super::error::PythonError;
use super::interpreter::Interpreter;
use super::marshal;

const PROGRAM: &str = include_str!("compile.py");
/// Of the bytecode file, before the marshalled code: a magic number, flags, time and size.
const HEADER: usize = 16;
/// No bytecode is larger; an answer that says so comes from something else.
const LARGEST: u32 = 1 << 30;

/// One compiling process.
pub(super) struct Worker<'a> {
    interpreter: &'a Interpreter,
    directory: &'a Path,
    running: Option<Running>,
}

struct Running {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl<'a> Worker<'a> {
    /// A worker that starts with its first source, in the empty `directory`.
    pub(super) fn new(interpreter: &'a Interpreter, directory: &'a Path) -> Self {
        Self { interpreter, directory, running: None }
    }

    /// The bytecode file of `source`, for a file called `name` that was modified at `modified`; none when it cannot be
    /// compiled.
    pub(super) fn compile(
        &mut self,
        name: &[u8],
        source: &[u8],
        modified: u32,
    ) -> Result<Option<Vec<u8>>, PythonError> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        let Ok(mut bytes) = running.ask(name, source, modified) else {
            let killed = running.death();
            return killed.map(|()| None).map_err(|source| self.failed("compile with", source));
        };
        self.running = Some(running);
        if bytes.len() <= HEADER {
            return Ok(None);
        }
        if let Some(code) = bytes.get_mut(HEADER..) {
            marshal::canonicalise(code, self.interpreter.minor().1);
        }
        Ok(Some(bytes))
    }

    fn start(&self) -> Result<Running, PythonError> {
        let mut command = Command::new(&self.interpreter.path);
        command.args(["-S", "-s", "-B", "-c", PROGRAM]).current_dir(self.directory).env_clear();
        if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        // Before 3.11 the order of constant sets depends on it.
        command.env("PYTHONHASHSEED", "0");
        // In a group of its own a Ctrl-C at the terminal does not reach it: it ends with its stdin.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |source| self.failed("start", source);
        let mut child = command.spawn().map_err(failed)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(answers)) => {
                Ok(Running { child, requests, answers: BufReader::with_capacity(1 << 16, answers) })
            }
            _ => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> PythonError {
        PythonError::io(operation, &self.interpreter.path, source)
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Running {
    fn ask(&mut self, name: &[u8], source: &[u8], modified: u32) -> io::Result<Vec<u8>> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let mut request = Vec::with_capacity(12 + name.len() + source.len());
        for number in [length(name)?, length(source)?, modified] {
            request.extend_from_slice(&number.to_le_bytes());
        }
        request.extend_from_slice(name);
        request.extend_from_slice(source);
        self.requests.write_all(&request)?;
        let mut head = [0; 4];
        self.answers.read_exact(&mut head)?;
        let size = u32::from_le_bytes(head);
        if size > LARGEST {
            return Err(io::Error::other("an answer that cannot be"));
        }
        let mut bytes = vec![0; size as usize];
        self.answers.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The end of one that gave no answer; an error when it was killed from outside.
    fn death(self) -> io::Result<()> {
        let Self { mut child, requests, answers } = self;
        // Without them it ends by itself, if it did not yet.
        drop((requests, answers));
        let status = child.wait()?;
        match status.signal().and_then(Signal::from_named_raw) {
            Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT) => {
                Err(io::Error::other(format!("it was killed ({status})")))
            }
            _ => Ok(()),
        }
    }

    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What becomes of a source when the interpreter does `deed` at its sight.
    fn outcome(deed: &str) -> Result<Option<Vec<u8>>, PythonError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("python");
        std::fs::write(&path, format!("#!/bin/sh\nhead -c 1 >/dev/null\n{deed}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let interpreter = Interpreter {
            path,
            version: "3.11.7".to_owned(),
            implementation: "cpython".to_owned(),
            platform: "linux-x86_64".to_owned(),
            cache_tag: "cpython-311".to_owned(),
        };
        Worker::new(&interpreter, dir.path()).compile(b"x.py", b"x = 1\n", 0)
    }

    #[test]
    fn only_what_a_source_does_is_said_of_it() {
        for deed in ["exit 1", "kill -SEGV $$", "kill -ABRT $$"] {
            assert_eq!(outcome(deed).unwrap(), None, "{deed}");
        }
        for deed in ["kill -KILL $$", "kill -TERM $$", "kill -INT $$"] {
            let error = outcome(deed).unwrap_err();
            assert!(matches!(error, PythonError::Io { operation: "compile with", .. }), "{deed}: {error}");
        }
    }
}
