//! What this machine can do for cvs. Each question is tried, not guessed, wherever trying leaves nothing behind.

mod kernel;
mod store;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cvs_versions::python::Uv;

use crate::confine;
use crate::context::Context;

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How it stands.
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It is there.
    Ok,
    /// It is not there, and cvs works without it, or with less.
    Absent,
    /// Something that is needed does not work.
    Broken,
}

impl Finding {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), advice: None }
    }

    pub(crate) fn absent(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Absent, found: found.into(), advice: Some(advice.into()) }
    }

    pub(crate) fn broken(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Broken, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Without mounts, cvs works with less.
fn or_plain_files(finding: Finding) -> Finding {
    match finding {
        Finding { name, state: State::Broken, found, advice } => {
            let advice = advice.unwrap_or_default();
            Finding::absent(name, found, format!("versions run from plain files (`cvs realize`); {advice}"))
        }
        finding => finding,
    }
}

fn landlock() -> Finding {
    const NAME: &str = "landlock";
    if confine::is_possible() {
        return Finding::ok(NAME, "programs can be kept from writing into the store");
    }
    Finding::absent(
        NAME,
        "this kernel has no Landlock, or one before Linux 5.19",
        "it matters to root without mounts only: `cvs realize --copy-models` makes copies instead of links",
    )
}

/// Looks at everything.
pub(crate) fn examine(context: &Context) -> Vec<Finding> {
    let mut findings = vec![or_plain_files(kernel::fuse_device()), or_plain_files(kernel::may_mount())];
    findings.push(kernel::passthrough());
    findings.push(landlock());
    findings.extend(store::examine(context));
    findings.push(program(
        "git",
        "not needed: cvs fetches by itself, and only credential helpers of git want it",
    ));
    findings.push(uv(context));
    findings
}

/// Whether a view can be mounted, as far as can be told without mounting; else what is missing.
pub(crate) fn can_mount() -> Result<(), String> {
    for finding in [kernel::fuse_device(), kernel::may_mount()] {
        if finding.state != State::Ok {
            return Err(finding.found);
        }
    }
    Ok(())
}

fn uv(context: &Context) -> Finding {
    match Uv::find(None, context.home()) {
        Ok(uv) => Finding::ok("uv", format!("{} (uv {})", uv.program().display(), uv.version())),
        Err(error) => Finding::absent(
            "uv",
            error.to_string(),
            "without it no Python environment is built: `pip install uv`, or make versions with --skip-python",
        ),
    }
}

fn program(name: &'static str, without: &str) -> Finding {
    let Some(path) = find_program(name) else {
        return Finding::absent(name, "not found in PATH", without);
    };
    let version = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    match version {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let first = text.lines().next().unwrap_or_default().trim();
            Finding::ok(name, format!("{} ({first})", path.display()))
        }
        Ok(output) => Finding::absent(
            name,
            format!("{} --version ended with {}", path.display(), output.status),
            "install it again",
        ),
        Err(error) => {
            Finding::absent(name, format!("cannot start {}: {error}", path.display()), "install it again")
        }
    }
}

/// The first file of this name in PATH that may be executed.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}
