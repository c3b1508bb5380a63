//! Starting a ComfyUI: arguments and environment, the wait until it answers, and the reason when it does not.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpgid};

use super::error::RunError;
use super::flags::Flags;
use super::http;
use super::log;
use super::port;
use super::process::{Kill, Process, Server};

/// Between two looks at whether it answers. A refused connection on loopback costs microseconds.
const POLL: Duration = Duration::from_millis(10);
/// How long one question after its health may take: a GPU that wakes up takes its time.
const PROBE: Duration = Duration::from_secs(10);
/// What it gets to end when the start is given up.
const GRACE: Duration = Duration::from_secs(3);
/// Starts with a port of our own choice, when another process was faster to take it.
const PORTS: usize = 5;

/// Directories that are to be elsewhere than below the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directories {
    /// Where inputs are looked for, and uploads go.
    pub input: Option<PathBuf>,
    /// Where outputs go.
    pub output: Option<PathBuf>,
    /// Settings and the database.
    pub user: Option<PathBuf>,
    /// Where ComfyUI makes and removes its own `temp`.
    pub temp: Option<PathBuf>,
}

impl Directories {
    fn each(&self) -> [(&'static str, &'static str, Option<&Path>); 4] {
        [
            ("input", "--input-directory", self.input.as_deref()),
            ("output", "--output-directory", self.output.as_deref()),
            ("user", "--user-directory", self.user.as_deref()),
            ("temp", "--temp-directory", self.temp.as_deref()),
        ]
    }
}

/// How to start one.
pub struct Launch<'a> {
    /// The directory of main.py, which is also where it runs.
    pub root: &'a Path,
    /// The interpreter.
    pub python: &'a Path,
    /// A program, and its arguments, that is started with the rest of the command line behind them, and becomes the
    /// interpreter; nothing for the interpreter itself.
    pub wrapper: &'a [OsString],
    /// Where it listens: a name or an address, or several with commas.
    pub host: &'a str,
    /// The port; 0 for a free one.
    pub port: u16,
    /// The arguments of a person, which are checked.
    pub args: &'a [String],
    /// Directories elsewhere; made when they are not there.
    pub directories: &'a Directories,
    /// What is set on top of the environment of this process.
    pub env: &'a [(String, String)],
    /// Where stdout and stderr are appended.
    pub log: &'a Path,
    /// What this commit knows.
    pub flags: &'a Flags,
    /// How long it may take to answer.
    pub startup_timeout: Duration,
    /// Set to give the start up.
    pub cancel: &'a AtomicBool,
}

/// A child whose log is known.
struct Begun {
    process: Arc<Process>,
    log_start: u64,
}

impl Launch<'_> {
    /// Starts it, and returns when it answers. `started` is told the process at once. Whatever goes wrong, nothing of
    /// it is left running.
    pub fn start(&self, started: &dyn Fn(u32)) -> Result<Server, RunError> {
        self.flags.check(self.args)?;
        if self.port != 0 {
            port::check_free(self.host, self.port)?;
            return self.start_at(self.port, started);
        }
        for _ in 1..PORTS {
            match self.start_at(port::free_port(self.host)?, started) {
                Err(error) if log::lost_port(&error) => {}
                done => return done,
            }
        }
        self.start_at(port::free_port(self.host)?, started)
    }

    /// Runs it with `--quick-test-for-ci`: it loads everything, nodes included, and ends. The log tells what failed;
    /// the exit code does not.
    pub fn quick_test(&self, started: &dyn Fn(u32)) -> Result<ExitStatus, RunError> {
        const FLAG: &str = "--quick-test-for-ci";
        self.flags.check(self.args)?;
        if !self.flags.knows(FLAG) {
            return Err(RunError::UnknownFlag { flag: FLAG.to_owned(), near: Vec::new() });
        }
        let mut arguments = self.directory_arguments()?;
        arguments.push(FLAG.into());
        let begun = self.spawn(&arguments)?;
        started(begun.process.pid());
        let deadline = Instant::now() + self.startup_timeout;
        loop {
            if let Some(status) = begun.process.wait_for(POLL) {
                return match status.success() {
                    true => Ok(status),
                    false => Err(log::crash(status, self.log, begun.log_start)),
                };
            }
            self.check_patience(&begun, deadline)?;
        }
    }

    fn start_at(&self, port: u16, started: &dyn Fn(u32)) -> Result<Server, RunError> {
        let mut arguments = self.directory_arguments()?;
        for (flag, value) in [("--listen", Some(self.host)), ("--port", Some(&*port.to_string()))] {
            // Without these it could not be found; a commit that has lost them says so itself.
            arguments.extend([flag.into(), value.unwrap_or_default().into()]);
        }
        if self.flags.knows("--disable-auto-launch") {
            arguments.push("--disable-auto-launch".into());
        }
        let address = reachable(self.host, port)?;
        let base_url = format!("http://{address}");
        let begun = self.spawn(&arguments)?;
        started(begun.process.pid());
        let deadline = Instant::now() + self.startup_timeout;
        loop {
            if let Some(status) = begun.process.wait_for(POLL) {
                return Err(log::crash(status, self.log, begun.log_start));
            }
            self.check_patience(&begun, deadline)?;
            if self.answers(address, &base_url)? && is_ours(port, &begun.process) {
                let Begun { process, log_start } = begun;
                return Ok(Server { process, base_url, log: self.log.to_owned(), log_start });
            }
        }
    }

    /// Ends what was begun when it is to be given up.
    fn check_patience(&self, begun: &Begun, deadline: Instant) -> Result<(), RunError> {
        let error = if self.cancel.load(Ordering::Relaxed) {
            begun.process.end(GRACE, Kill::Gently)?;
            RunError::Cancelled
        } else if Instant::now() >= deadline {
            begun.process.end(GRACE, Kill::Gently)?;
            let tail = log::tail(self.log, begun.log_start, log::TAIL);
            RunError::StartTimeout { after: self.startup_timeout, tail }
        } else {
            return Ok(());
        };
        Err(error)
    }

    fn answers(&self, address: SocketAddr, base_url: &str) -> Result<bool, RunError> {
        if TcpStream::connect_timeout(&address, PROBE).is_err() {
            return Ok(false);
        }
        http::is_ready(base_url, PROBE, self.cancel)
            .map_err(RunError::io("ask", PathBuf::from(format!("{base_url}/system_stats"))))
    }

    fn directory_arguments(&self) -> Result<Vec<OsString>, RunError> {
        let mut arguments = Vec::new();
        for (what, flag, directory) in self.directories.each() {
            let Some(directory) = directory else { continue };
            if !self.flags.knows(flag) {
                return Err(RunError::NoDirectoryFlag { what, flag });
            }
            fs::create_dir_all(directory).map_err(RunError::io("create", directory))?;
            // It runs in another directory than the caller.
            let absolute = directory.canonicalize().map_err(RunError::io("find", directory))?;
            arguments.extend([flag.into(), absolute.into_os_string()]);
        }
        Ok(arguments)
    }

    fn spawn(&self, arguments: &[OsString]) -> Result<Begun, RunError> {
        if let Some(directory) = self.log.parent() {
            fs::create_dir_all(directory).map_err(RunError::io("create", directory))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log);
        let log = log.map_err(RunError::io("open", self.log))?;
        let log_start = log.metadata().map_err(RunError::io("read", self.log))?.len();
        let mut line = self.wrapper.iter().map(OsString::as_os_str).chain([self.python.as_os_str()]);
        let mut command = Command::new(line.next().unwrap_or_default());
        command.args(line).arg("main.py").args(self.args).args(arguments).current_dir(self.root);
        environment(&mut command, self.python, self.root, self.env);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(RunError::io("open", self.log))?).stderr(log);
        let (process, _) = Process::spawn(command, self.python)?;
        Ok(Begun { process, log_start })
    }
}

/// The environment of ComfyUI and of what it starts: that of this process, as if the version's own environment were
/// activated, and on top what the spec sets.
pub(super) fn environment(command: &mut Command, python: &Path, root: &Path, env: &[(String, String)]) {
    // Prints and log lines stand in the log in their order, and at once.
    command.env("PYTHONUNBUFFERED", "1").env_remove("PYTHONDONTWRITEBYTECODE");
    command.envs(env.iter().map(|(name, value)| (name, value)));
    let venv = root.join(".venv");
    if python.starts_with(venv.join("bin")) {
        command.env_remove("PYTHONHOME").env("VIRTUAL_ENV", &venv);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let own = env.iter().rev().find(|(name, _)| name == "PATH");
        let rest = own.map_or(inherited, |(_, value)| value.into());
        let mut path = venv.join("bin").into_os_string();
        if !rest.is_empty() {
            path.push(":");
            path.push(rest);
        }
        command.env("PATH", path);
    }
}

/// Where a server that listens on `host` is reached from this machine.
fn reachable(host: &str, port: u16) -> Result<SocketAddr, RunError> {
    let first = host.split(',').next().unwrap_or(host).trim();
    let found = (first, port).to_socket_addrs().and_then(|mut addresses| {
        addresses.next().ok_or_else(|| std::io::Error::other("the name has no address"))
    });
    let mut address = found.map_err(|source| RunError::Listen { host: host.to_owned(), port, source })?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// Whether what answers is our child, or a child of it, and nobody who took the port after it was seen free. Where the
/// kernel does not show who listens, that our child is alive must do: it would have ended without its port.
fn is_ours(port: u16, process: &Process) -> bool {
    match port::holder(port) {
        None => true,
        Some(holder) => {
            let group = Pid::from_raw(holder.pid.cast_signed()).map(|pid| getpgid(Some(pid)));
            let ours = Pid::from_raw(process.pid().cast_signed());
            group.is_some_and(|group| group.ok() == ours)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_reached_where_they_listen() {
        for (host, reached) in [
            ("127.0.0.1", "127.0.0.1:5"),
            ("0.0.0.0", "127.0.0.1:5"),
            ("0.0.0.0,::", "127.0.0.1:5"),
            ("::", "[::1]:5"),
            ("127.0.0.3", "127.0.0.3:5"),
        ] {
            assert_eq!(reachable(host, 5).unwrap().to_string(), reached);
        }
        assert!(matches!(reachable("no such name", 5), Err(RunError::Listen { .. })));
    }

    #[test]
    fn the_environment_is_the_versions_own() {
        let shown = |python: &str, env: &[(&str, &str)]| {
            let env: Vec<(String, String)> =
                env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut command = Command::new(python);
            environment(&mut command, Path::new(python), Path::new("/m"), &env);
            command
                .get_envs()
                .map(|(name, value)| {
                    let value = value.map_or("-".into(), |value| value.to_string_lossy());
                    format!("{}={value}", name.to_string_lossy())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(shown("/usr/bin/python3", &[]), ["PYTHONDONTWRITEBYTECODE=-", "PYTHONUNBUFFERED=1"]);
        assert_eq!(
            shown("/m/.venv/bin/python", &[("PATH", "/own"), ("HF_HOME", "/h")]),
            [
                "HF_HOME=/h",
                "PATH=/m/.venv/bin:/own",
                "PYTHONDONTWRITEBYTECODE=-",
                "PYTHONHOME=-",
                "PYTHONUNBUFFERED=1",
                "VIRTUAL_ENV=/m/.venv",
            ]
        );
    }
}
