//! Interpreters: finding the base interpreter that a request means.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::classify;
use super::error::PythonError;
use super::event::{PythonEvent, PythonOptions};
use super::text::Names;
use super::uv::{Run, Uv};

/// What is looked for when nothing is asked for: what ComfyUI runs on.
const DEFAULT: &str = ">=3.10";
/// Interpreters that an error names.
const NAMED: usize = 8;

/// What an interpreter says of itself: the base interpreter's path first, so that a virtual environment leads to it.
const QUESTION: &str = "import sys, sysconfig, json
print(json.dumps({
    'path': getattr(sys, '_base_executable', None) or sys.executable,
    'version': '.'.join(map(str, sys.version_info[:3])),
    'implementation': sys.implementation.name,
    'platform': sysconfig.get_platform(),
    'cache_tag': sys.implementation.cache_tag or '',
}))";

/// A base interpreter, never that of a virtual environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// Its program, with symlinks resolved.
    pub path: PathBuf,
    /// `3.11.7`.
    pub version: String,
    /// `cpython`.
    pub implementation: String,
    /// `linux-x86_64`, as `sysconfig.get_platform()` has it.
    pub platform: String,
    /// What its bytecode is called, `cpython-311`.
    pub cache_tag: String,
}

impl Interpreter {
    /// Asks the program at `path` what it is.
    ///
    /// # Errors
    /// [`PythonError::Interpreter`] when it does not answer as Python does.
    pub fn ask(path: &Path) -> Result<Self, PythonError> {
        let failed = |reason: String| PythonError::Interpreter { program: path.to_owned(), reason };
        let output = Command::new(path)
            .args(["-I", "-S", "-c", QUESTION])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let mut found: Self =
            serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
        found.path = std::fs::canonicalize(&found.path).map_err(|error| failed(error.to_string()))?;
        Ok(found)
    }

    /// Its two leading numbers, `(3, 11)`.
    pub fn minor(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// The interpreter that `request` means: a version (`3.11`), a range (`>=3.11`), a name (`python3.11`) or a path. Without
/// a request, any that ComfyUI runs on. One that is not on this machine is downloaded where that is allowed.
///
/// # Errors
/// [`PythonError::NoInterpreter`] names those that are there.
pub fn find_interpreter(
    uv: &Uv,
    request: Option<&str>,
    options: &PythonOptions<'_>,
) -> Result<Interpreter, PythonError> {
    let request = request.unwrap_or(DEFAULT);
    std::fs::create_dir_all(uv.state()).map_err(|source| PythonError::io("make", uv.state(), source))?;
    if let Some(found) = find(uv, request, options)? {
        return Ok(found);
    }
    if !options.offline && !request.contains('/') {
        options.event(PythonEvent::Python { request });
        let mut command = uv.command(uv.state(), false);
        command.args(["python", "install", "--no-bin", "--no-registry"]).arg(request);
        let installed = uv.run("download an interpreter", &mut command, options)?;
        if installed.status.success() {
            if let Some(found) = find(uv, request, options)? {
                return Ok(found);
            }
        } else {
            match classify::failure("download an interpreter", &Names::new().clean(&installed.stderr)) {
                // A request that nobody offers: the list below says more.
                PythonError::Uv { .. } => {}
                error => return Err(error),
            }
        }
    }
    Err(PythonError::NoInterpreter { request: request.to_owned(), found: installed(uv, options)? })
}

fn find(uv: &Uv, request: &str, options: &PythonOptions<'_>) -> Result<Option<Interpreter>, PythonError> {
    let mut command = uv.command(uv.state(), options.offline);
    command.args(["python", "find", "--no-project", "--system"]).arg(request);
    let Run { status, stdout, .. } = uv.run("find an interpreter", &mut command, options)?;
    if !status.success() {
        return Ok(None);
    }
    Interpreter::ask(Path::new(stdout.trim())).map(Some)
}

/// The interpreters of this machine, as people may read them.
fn installed(uv: &Uv, options: &PythonOptions<'_>) -> Result<Vec<String>, PythonError> {
    #[derive(Deserialize)]
    struct Listed {
        version: String,
        path: Option<String>,
    }
    let mut command = uv.command(uv.state(), true);
    command.args(["python", "list", "--only-installed", "--output-format", "json"]);
    let Run { stdout, .. } = uv.run("list interpreters", &mut command, options)?;
    let listed: Vec<Listed> = serde_json::from_str(&stdout).unwrap_or_default();
    let mut found: Vec<(String, String)> = Vec::new();
    for Listed { version, path } in listed {
        if let Some(path) = path
            && !found.iter().any(|(known, _)| *known == version)
        {
            found.push((version, path));
        }
    }
    found.truncate(NAMED);
    Ok(found.into_iter().map(|(version, path)| format!("{version} ({path})")).collect())
}
