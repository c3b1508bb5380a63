//! The world that one test sees: a `CVS_HOME` and a home directory of its own, an environment without the person's
//! variables, and nothing left when it ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use crate::Missing;
use crate::cleanup::{kill_with, mounts_below, processes_with, unmount_below};
use crate::tools::tool;

/// How long one cvs command may take before the test fails; [`CvsCommand::deadline`] changes it.
const DEADLINE: Duration = Duration::from_secs(180);

/// One test's world. Dropping it detaches every mount below it, kills every process that has its `CVS_HOME`, and
/// removes it; with `CVS_TEST_KEEP` set, the directory stays and is named on stderr.
pub struct TestEnvironment {
    dir: Option<TempDir>,
    root: PathBuf,
    variables: Vec<(OsString, OsString)>,
}

impl TestEnvironment {
    /// An empty world.
    pub fn new() -> Self {
        let dir =
            tempfile::Builder::new().prefix("cvs-test-").tempdir().expect("making a temporary directory");
        // Mount tables hold real paths.
        let root = dir.path().canonicalize().expect("the real path of a directory just made");
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &str, value: &OsStr| variables.push((name.into(), value.to_owned()));
        for (name, below) in [
            ("CVS_HOME", "cvs"),
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_CACHE_HOME", "home/.cache"),
            ("XDG_CONFIG_HOME", "home/.config"),
            ("XDG_DATA_HOME", "home/.local/share"),
            ("XDG_RUNTIME_DIR", "home/.run"),
            ("XDG_STATE_HOME", "home/.local/state"),
        ] {
            let path = root.join(below);
            // CVS_HOME is for cvs to make.
            if name != "CVS_HOME" {
                std::fs::create_dir_all(&path)
                    .unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
            }
            set(name, path.as_os_str());
        }
        set("PATH", &std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in [
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("RUST_BACKTRACE", "1"),
            // No test reaches the hubs themselves; those that are about them name a server of their own.
            ("HF_ENDPOINT", "http://127.0.0.1:1"),
            ("CIVITAI_ENDPOINT", "http://127.0.0.1:1"),
            // Most tests are not about Python, and an environment takes seconds; `use_python` is for those that are.
            ("CVS_SKIP_PYTHON", "1"),
        ] {
            set(name, value.as_ref());
        }
        TestEnvironment { dir: Some(dir), root, variables }
    }

    /// The directory of everything, as a real path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the root.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// The `CVS_HOME` of every command here. It does not exist before cvs makes it.
    pub fn home(&self) -> PathBuf {
        self.root.join("cvs")
    }

    /// Writes a file below the root, directories made, and returns its path.
    #[track_caller]
    pub fn write(&self, below: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().expect("a path below a root has a parent"))
            .and_then(|()| std::fs::write(&path, bytes))
            .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        path
    }

    /// Sets a variable for the commands made from now on.
    pub fn set_var(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
        self.variables.retain(|(key, _)| key != name.as_ref());
        self.variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
    }

    /// Unsets a variable for the commands made from now on.
    pub fn unset_var(&mut self, name: impl AsRef<OsStr>) {
        self.variables.retain(|(key, _)| key != name.as_ref());
    }

    /// From now on, versions get their Python environments, by the uv that set-up brings. The spec says from which
    /// index: `python.index_url` is [`PackageIndex::url`](crate::PackageIndex::url).
    pub fn use_python(&mut self) -> Result<(), Missing> {
        let uv = tool("uv")?;
        self.unset_var("CVS_SKIP_PYTHON");
        self.set_var("CVS_UV", uv);
        Ok(())
    }

    /// Any program with this world's variables, in its root.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// The built `cvs` with these arguments.
    #[track_caller]
    pub fn cvs<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> CvsCommand {
        self.command_with_deadline(cvs_program(), args)
    }

    /// The same, with another program and its arguments before it, which become it.
    #[track_caller]
    pub fn cvs_behind(&self, prefix: &[&str], args: &[&str]) -> CvsCommand {
        let Some((program, words)) = prefix.split_first() else { return self.cvs(args) };
        let command = self.command_with_deadline(program, words);
        command.arg(cvs_program()).args(args)
    }

    fn command_with_deadline<I: IntoIterator<Item: AsRef<OsStr>>>(
        &self,
        program: impl AsRef<OsStr>,
        args: I,
    ) -> CvsCommand {
        let mut command = self.command(program);
        command.args(args);
        CvsCommand { command, input: Vec::new(), deadline: DEADLINE }
    }

    /// A text with the root written as `$TEST`, so that it can be compared exactly.
    pub fn redact(&self, text: &str) -> String {
        text.replace(self.root.to_str().expect("temporary directories are UTF-8"), "$TEST")
    }

    /// Mountpoints below the root, the last mounted first.
    pub fn mounts(&self) -> Vec<PathBuf> {
        mounts_below(&self.root)
    }

    /// Ids of the processes that have this world's `CVS_HOME`: running commands and the daemons they left behind.
    pub fn processes(&self) -> Vec<u32> {
        processes_with(&self.cvs_home_variable())
            .into_iter()
            .map(|pid| pid.as_raw().cast_unsigned())
            .collect()
    }

    /// A filesystem of its own below the root, with room for so many bytes.
    #[track_caller]
    pub fn small_disk(&self, below: impl AsRef<Path>, bytes: u64) -> Result<PathBuf, Missing> {
        self.small_disk_with(below, &format!("size={bytes}"))
    }

    /// The same, with these options of tmpfs.
    #[track_caller]
    pub fn small_disk_with(&self, below: impl AsRef<Path>, options: &str) -> Result<PathBuf, Missing> {
        let path = self.path(below);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        match mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options)) {
            Ok(()) => Ok(path),
            Err(Errno::EPERM) => Err(Missing("mounting a small disk needs CAP_SYS_ADMIN (root)".to_owned())),
            Err(error) => panic!("mounting {}: {error}", path.display()),
        }
    }

    fn cvs_home_variable(&self) -> OsString {
        let mut variable = OsString::from("CVS_HOME=");
        variable.push(self.home());
        variable
    }
}

impl Default for TestEnvironment {
    fn default() -> Self {
        TestEnvironment::new()
    }
}

impl Drop for TestEnvironment {
    fn drop(&mut self) {
        unmount_below(&self.root);
        kill_with(&self.cvs_home_variable());
        // A process may have mounted between the two.
        unmount_below(&self.root);
        if std::env::var_os("CVS_TEST_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// A cvs command about to run.
pub struct CvsCommand {
    command: Command,
    input: Vec<u8>,
    deadline: Duration,
}

impl CvsCommand {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it elsewhere than in the environment's root.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from stdin.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The plain command, to be spawned by the caller.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end. Output goes to files, so that a daemon left behind, whatever it has inherited, is not
    /// waited for.
    #[track_caller]
    pub fn output(mut self) -> Output {
        let [mut input, mut stdout, mut stderr] =
            [(); 3].map(|()| tempfile::tempfile().expect("making a temporary file"));
        input.write_all(&self.input).and_then(|()| input.rewind()).expect("writing a temporary file");
        let clone = |file: &File| Stdio::from(file.try_clone().expect("duplicating a descriptor"));
        self.command.stdin(clone(&input)).stdout(clone(&stdout)).stderr(clone(&stderr));
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("starting {:?}: {error}", self.command));
        let end = Instant::now() + self.deadline;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait().expect("waiting for a child") {
                break Some(status);
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let output = Output {
            command: format!("{:?}", self.command.get_args().collect::<Vec<_>>()),
            status: status.unwrap_or_default(),
            stdout: read_all(&mut stdout),
            stderr: read_all(&mut stderr),
        };
        assert!(status.is_some(), "still running after {:?}, killed: {output}", self.deadline);
        output
    }

    /// Runs it; panics with all it said unless it exits with 0.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.code(0)
    }

    /// Runs it; panics with all it said unless it exits with `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Output {
        let output = self.output();
        assert_eq!(output.code(), Some(code), "{output}");
        output
    }

    /// Runs it; panics unless it exits with a code that is not 0. Death by a signal or a panic is not a failure that
    /// a test may expect.
    #[track_caller]
    pub fn fails(self) -> Output {
        let output = self.output();
        assert!(output.code().is_some_and(|code| code != 0 && code != 101), "{output}");
        output
    }
}

fn read_all(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .expect("reading a temporary file");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    command: String,
    status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Output {
    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Stdout as JSON; panics when it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Output { command, status, stdout, stderr } = self;
        let signal = status.signal().map(|signal| format!(" (signal {signal})")).unwrap_or_default();
        write!(formatter, "{command}: {status}{signal}\n--- stdout\n{stdout}--- stderr\n{stderr}---")
    }
}

/// The directory that this test's executable was built into (`target/debug`).
fn profile_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("the path of this program");
    let dir = executable.parent().expect("a program lies in a directory");
    // Tests are in deps/, examples in examples/, other programs in the directory itself.
    let inner = dir.ends_with("deps") || dir.ends_with("examples");
    if inner { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().unwrap_or(&profile).to_owned()
}

/// The built binary: `CVS_BIN`, else `cvs` beside the tests.
#[track_caller]
fn cvs_program() -> PathBuf {
    let program = std::env::var_os("CVS_BIN").map_or_else(|| profile_dir().join("cvs"), PathBuf::from);
    assert!(program.is_file(), "{} is not there: run `cargo build -p cvs-cli` first", program.display());
    program
}

#[cfg(test)]
mod tests;
