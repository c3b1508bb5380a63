//! How a version is to be run: what `cvs run-ui` was asked for, kept in the record so that `cvs restart` asks for the
//! same.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use cvs_versions::comfy;
use cvs_versions::spec::VersionId;
use serde::{Deserialize, Serialize};

use super::record::Role;

/// How a version is to be run. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunOptions {
    pub(crate) role: Role,
    pub(crate) host: String,
    /// Zero for any that is free.
    pub(crate) port: u16,
    /// Arguments of ComfyUI behind those of the spec.
    pub(crate) args: Vec<String>,
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) input: Option<PathBuf>,
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) output: Option<PathBuf>,
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) user: Option<PathBuf>,
    #[serde(with = "cvs_store::path_json::option")]
    pub(crate) temp: Option<PathBuf>,
    /// What is written is thrown away.
    pub(crate) ephemeral: bool,
    /// Plain files even where a mount is possible.
    pub(crate) no_fuse: bool,
    pub(crate) lenient: bool,
    pub(crate) startup_timeout: Duration,
}

/// Where ComfyUI listens by itself.
pub(crate) const DEFAULT_PORT: u16 = 8188;
/// What may be reached from this machine only.
pub(crate) const DEFAULT_HOST: &str = "127.0.0.1";

impl RunOptions {
    /// The defaults for a role: the usual port for a person, any free one for programs.
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            host: DEFAULT_HOST.to_owned(),
            port: if role == Role::Ui { DEFAULT_PORT } else { 0 },
            args: Vec::new(),
            input: None,
            output: None,
            user: None,
            temp: None,
            ephemeral: false,
            no_fuse: false,
            lenient: false,
            startup_timeout: comfy::startup_timeout(),
        }
    }

    /// The arguments of `cvs run-ui` that ask a supervisor for this. The lock is up to date by then, so that nobody is
    /// asked.
    pub(crate) fn arguments(&self, id: &VersionId) -> Vec<OsString> {
        let head = ["run-ui", id.as_str(), "--locked", "--offline", "--role", self.role.word()];
        head.into_iter().map(OsString::from).chain(self.flags()).collect()
    }

    /// The command line with which somebody else asks for this, of exactly what is locked.
    pub(crate) fn command(&self, id: &VersionId) -> Vec<OsString> {
        let head = ["run-ui", id.as_str(), "--locked"];
        head.into_iter().map(OsString::from).chain(self.flags()).collect()
    }

    fn flags(&self) -> Vec<OsString> {
        let mut line: Vec<OsString> = Vec::new();
        let mut pair = |flag: &str, value: OsString| line.extend([flag.into(), value]);
        pair("--host", (&self.host).into());
        pair("--port", self.port.to_string().into());
        let timeout = match self.startup_timeout.subsec_millis() {
            0 => format!("{}s", self.startup_timeout.as_secs()),
            _ => format!("{}ms", self.startup_timeout.as_millis()),
        };
        pair("--startup-timeout", timeout.into());
        for (flag, directory) in self.directories() {
            if let Some(directory) = directory {
                pair(flag, directory.into());
            }
        }
        for (flag, given) in
            [("--ephemeral", self.ephemeral), ("--no-fuse", self.no_fuse), ("--lenient", self.lenient)]
        {
            if given {
                line.push(flag.into());
            }
        }
        if !self.args.is_empty() {
            line.push("--".into());
            line.extend(self.args.iter().map(OsString::from));
        }
        line
    }

    fn directories(&self) -> [(&'static str, &Option<PathBuf>); 4] {
        [
            ("--input-dir", &self.input),
            ("--output-dir", &self.output),
            ("--user-dir", &self.user),
            ("--temp-dir", &self.temp),
        ]
    }
}
