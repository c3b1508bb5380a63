//! Processes of the target interpreter that compile sources.
//!
//! Each belongs to one thread, which sends it a source and waits for its bytecode. They run without an environment, so
//! that nothing on this machine changes what they write. One that dies over a source is replaced; the source counts as
//! one that cannot be compiled.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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
            running.end();
            return Ok(None);
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
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |source| PythonError::io("start", &self.interpreter.path, source);
        let mut child = command.spawn().map_err(failed)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(answers)) => {
                Ok(Running { child, requests, answers: BufReader::with_capacity(1 << 16, answers) })
            }
            _ => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
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

    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
