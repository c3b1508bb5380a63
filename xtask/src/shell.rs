//! Running programs: always without a stdin, with the project's tools first in PATH, and with errors that name
//! the command line.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::failure::{Doing, Failure, Outcome, fail};
use crate::project::Project;

/// A command in the project's root with its tools in PATH.
pub(crate) fn command(project: &Project, program: impl AsRef<OsStr>) -> Command {
    let mut cmd = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = [project.tools().join("bin")].into_iter().chain(std::env::split_paths(&path));
    if let Ok(joined) = std::env::join_paths(dirs) {
        cmd.env("PATH", joined);
    }
    cmd.current_dir(project.root()).stdin(Stdio::null());
    cmd
}

/// The cargo that runs us, so that a toolchain chosen with `cargo +NAME` is kept.
pub(crate) fn cargo(project: &Project) -> Command {
    let mut cmd = command(project, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Set for us by `cargo run`; a nested cargo that sees them would rebuild crates whose build scripts watch them.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        cmd.env_remove(name);
    }
    cmd
}

/// The command line as a person would type it.
pub(crate) fn shown(cmd: &Command) -> String {
    let mut line = program_name(cmd);
    for arg in cmd.get_args() {
        line.push(' ');
        line.push_str(&quoted(&arg.to_string_lossy()));
    }
    line
}

fn program_name(cmd: &Command) -> String {
    let program = Path::new(cmd.get_program());
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        arg.to_owned()
    } else {
        format!("'{}'", arg.replace('\'', r"'\''"))
    }
}

fn status(cmd: &mut Command) -> Outcome<ExitStatus> {
    cmd.status().map_err(|e| not_started(cmd, &e))
}

fn not_started(cmd: &Command, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "; `cargo xtask setup` installs what is missing",
        _ => "",
    };
    Failure::new(format!("cannot start `{}`: {error}{hint}", shown(cmd)))
}

/// Runs with our own stdout and stderr; anything but success is a failure.
pub(crate) fn run(cmd: &mut Command) -> Outcome {
    let status = status(cmd)?;
    if status.success() { Ok(()) } else { fail!("`{}` failed ({status})", shown(cmd)) }
}

/// Whether the command starts and succeeds; its output is dropped.
pub(crate) fn succeeds(cmd: &mut Command) -> bool {
    cmd.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Runs silently and returns stdout; a failure shows stderr.
pub(crate) fn output(cmd: &mut Command) -> Outcome<String> {
    let out = cmd.output().map_err(|e| not_started(cmd, &e))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        fail!("`{}` failed ({})\n{}", shown(cmd), out.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs silently; a failure shows stderr.
pub(crate) fn quiet(cmd: &mut Command) -> Outcome {
    output(cmd).map(drop)
}

/// Which stream of a command [`tee`] reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Runs with our own streams while `line` sees every line of one of them.
pub(crate) fn tee(cmd: &mut Command, stream: Stream, mut line: impl FnMut(&str)) -> Outcome<ExitStatus> {
    listen(cmd, stream, |text| {
        match stream {
            Stream::Stdout => println!("{text}"),
            Stream::Stderr => eprintln!("{text}"),
        }
        line(text);
    })
}

/// Runs with our own streams but one, whose lines go to `line` alone.
pub(crate) fn listen(cmd: &mut Command, stream: Stream, mut line: impl FnMut(&str)) -> Outcome<ExitStatus> {
    match stream {
        Stream::Stdout => cmd.stdout(Stdio::piped()),
        Stream::Stderr => cmd.stderr(Stdio::piped()),
    };
    let mut child = cmd.spawn().map_err(|e| not_started(cmd, &e))?;
    let pipe: Box<dyn std::io::Read> = match (stream, child.stdout.take(), child.stderr.take()) {
        (Stream::Stdout, Some(pipe), _) => Box::new(pipe),
        (Stream::Stderr, _, Some(pipe)) => Box::new(pipe),
        _ => fail!("`{}` has no pipe to read", shown(cmd)),
    };
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).doing(|| format!("reading from `{}`", shown(cmd)))? > 0 {
        line(String::from_utf8_lossy(&bytes).trim_end());
        bytes.clear();
    }
    child.wait().doing(|| format!("waiting for `{}`", shown(cmd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        let cases: [(&[&str], &str); 4] = [
            (&["ls", "-l"], "ls -l"),
            (&["/usr/bin/git", "log", "a b"], "git log 'a b'"),
            (&["echo", ""], "echo ''"),
            (&["echo", "it's"], r"echo 'it'\''s'"),
        ];
        for (argv, line) in cases {
            let mut cmd = Command::new(argv[0]);
            cmd.args(&argv[1..]);
            assert_eq!(shown(&cmd), line);
        }
    }
}
