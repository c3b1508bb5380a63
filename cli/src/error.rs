//! Failures: what is said, what is advised, and which code the process ends with. Nothing else in the program decides
//! any of the three.

mod comfy;
mod realize;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use cvs_fusefs::MountError;
use cvs_store::StoreError;
use cvs_versions::comfy::RunError;
use cvs_versions::import::ImportError;
use cvs_versions::python::PythonError;
use cvs_versions::serve::ServeError;
use cvs_versions::source::SourceError;
use cvs_versions::{SourceFailure, SpecError, VersionsError};

use crate::jobs::JobsError;
use crate::mounts::MountsError;
use crate::output::Output;
use crate::runs::RunsError;
use crate::signals;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok,
    /// It could not be done.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The store or a version is damaged.
    Damage,
    /// Something is in use.
    Busy,
    /// The person stopped it.
    Interrupted,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Damage => 3,
            Self::Busy => 4,
            Self::Interrupted => signals::INTERRUPTED,
        }
    }
}

impl Exit {
    /// What another process of ours meant by its code.
    pub(crate) fn of_code(code: u8) -> Self {
        let all = [Self::Ok, Self::Usage, Self::Damage, Self::Busy, Self::Interrupted];
        all.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A spec, or a list given on the command line.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The engine.
    #[error(transparent)]
    Versions(#[from] VersionsError),
    /// uv, apart from any version.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A mountpoint.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// A ComfyUI that did not start, or not stop.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Jobs that cannot be taken.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A run of a version.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// A workflow.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// Arguments that are right one by one, and wrong together.
    #[error("{0}")]
    Usage(String),
    /// The configuration file.
    #[error("cannot use the configuration file {}: {detail}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A version has nothing of that name to be removed.
    #[error("version {id} has no {what} {found:?}{}", if known.is_empty() { String::new() } else { format!("; it has {}", known.join(", ")) })]
    NotInSpec {
        /// The version.
        id: String,
        /// `node` or `package`.
        what: &'static str,
        /// What was asked for.
        found: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A version cannot be written in a format.
    #[error("version {id} cannot be exported: {reason}")]
    Export {
        /// The version.
        id: String,
        /// Why not.
        reason: String,
    },
    /// The file of an export cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    WriteExport {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody says where the home directory is.
    #[error("there is no home directory to put the store in")]
    NoHome,
    /// The handlers of signals.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] io::Error),
    /// The working directory, where relative paths start.
    #[error("cannot tell the working directory: {0}")]
    WorkingDirectory(#[source] io::Error),
    /// A program could not be kept from writing into the store, or not be started.
    #[error("cannot start {}: {source}", program.display())]
    Confined {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that was to be looked at.
    #[error("cannot read {}: {source}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The person's answer.
    #[error("cannot read the answer: {0}")]
    Stdin(#[source] io::Error),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[source] io::Error),
    /// The person stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// The code that the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Spec(error) => of_spec(error),
            Self::Versions(error) => of_versions(error),
            Self::Python(PythonError::Cancelled) => Exit::Interrupted,
            Self::Python(_) => Exit::Failed,
            Self::Store(error) => of_store(error),
            Self::Mount(error) => of_mount(error),
            Self::Mounts(error) => of_mounts(error),
            Self::Run(error) => comfy::of_run(error),
            Self::Serve(error) => comfy::of_serve(error),
            Self::Runs(error) => error.exit(),
            Self::Jobs(error) => error.exit(),
            Self::Usage(_) | Self::NotInSpec { .. } => Exit::Usage,
            Self::Interrupted => Exit::Interrupted,
            // Whoever read our output has seen enough.
            Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Config { .. }
            | Self::NoHome
            | Self::WorkingDirectory(_)
            | Self::Signals(_)
            | Self::Confined { .. }
            | Self::Export { .. }
            | Self::WriteExport { .. }
            | Self::ModelFile { .. }
            | Self::Stdin(_)
            | Self::Stdout(_) => Exit::Failed,
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Spec(error) => hint_of_spec(error),
            Self::Versions(error) => hint_of_versions(error),
            Self::Python(error) => hint_of_python("ID", error),
            Self::Store(error) => hint_of_store(error),
            Self::Mount(error) => hint_of_mount(error),
            Self::Mounts(error) => hint_of_mounts(error),
            Self::Run(error) => comfy::hint_of_run(error),
            Self::Serve(error) => comfy::hint_of_serve(error),
            Self::Runs(error) => error.hint(),
            Self::Jobs(error) => error.hint(),
            Self::NoHome => Some("name a directory with --home DIR or CVS_HOME".to_owned()),
            Self::Config { .. } => {
                Some("it is a JSON object with the keys `home` and `versions_dir`, both optional".to_owned())
            }
            Self::WriteExport { source, .. } => hint_of_io(source),
            Self::Usage(_)
            | Self::NotInSpec { .. }
            | Self::Export { .. }
            | Self::WorkingDirectory(_)
            | Self::Signals(_)
            | Self::Confined { .. }
            | Self::ModelFile { .. }
            | Self::Stdin(_)
            | Self::Stdout(_)
            | Self::Interrupted => None,
        }
    }
}

fn of_versions(error: &VersionsError) -> Exit {
    match error {
        VersionsError::Spec(error) => of_spec(error),
        VersionsError::Store(error) | VersionsError::Version { source: error, .. } => of_store(error),
        VersionsError::Source(SourceError::Cancelled) => Exit::Interrupted,
        VersionsError::NoSuchPart { .. } => Exit::Usage,
        VersionsError::Busy { .. } => Exit::Busy,
        VersionsError::Realize(error) => realize::exit(error),
        VersionsError::Cancelled => Exit::Interrupted,
        VersionsError::Python { source: PythonError::Store(error), .. } => of_store(error),
        _ => Exit::Failed,
    }
}

fn of_spec(error: &SpecError) -> Exit {
    match error {
        SpecError::Id { .. } => Exit::Usage,
        SpecError::Unknown { .. }
        | SpecError::Exists { .. }
        | SpecError::Changed { .. }
        | SpecError::Syntax { .. }
        | SpecError::Invalid { .. }
        | SpecError::Stray { .. }
        | SpecError::Io { .. } => Exit::Failed,
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::Busy { .. } => Exit::Busy,
        StoreError::Interrupted => Exit::Interrupted,
        StoreError::MissingBlob(_)
        | StoreError::WrongSize { .. }
        | StoreError::MissingManifest(_)
        | StoreError::DamagedManifest(_) => Exit::Damage,
        StoreError::UnreadableRoot { source, .. } => of_store(source),
        StoreError::Io { .. }
        | StoreError::NoSpace { .. }
        | StoreError::UnknownFormat { .. }
        | StoreError::Manifest { .. }
        | StoreError::Path { .. }
        | StoreError::Changed { .. }
        | StoreError::Roots(_) => Exit::Failed,
    }
}

fn of_mount(error: &MountError) -> Exit {
    match error {
        MountError::OverlayBusy { .. } => Exit::Busy,
        MountError::Store(error) => of_store(error),
        MountError::Io { source, .. } | MountError::Mount { source, .. } => match source.kind() {
            io::ErrorKind::ResourceBusy => Exit::Busy,
            _ => Exit::Failed,
        },
        MountError::Unsupported { .. } | MountError::UnknownFormat { .. } => Exit::Failed,
    }
}

fn hint_of_versions(error: &VersionsError) -> Option<String> {
    match error {
        VersionsError::Spec(error) => hint_of_spec(error),
        VersionsError::Store(error) | VersionsError::Version { source: error, .. } => hint_of_store(error),
        VersionsError::Sources { failures, .. } => {
            failures.iter().find_map(|SourceFailure { source, .. }| hint_of_source(source))
        }
        VersionsError::Source(error) => hint_of_source(error),
        VersionsError::Offline { .. } => Some("run it again without --offline to fetch it".to_owned()),
        VersionsError::Locked { id, .. } => Some(format!("`cvs lock {id}` brings the lock up to date")),
        VersionsError::Conflict { .. } => Some(
            "give one of them another place: `target_dir` for a node, `target_path` for a model".to_owned(),
        ),
        VersionsError::Python { id, source } => hint_of_python(id.as_str(), source),
        VersionsError::Install { .. } => Some(
            "`\"run_install\": false` leaves the script alone; its packages can stand in `python_packages`"
                .to_owned(),
        ),
        VersionsError::Unsteady { .. } => Some("run the command again when the editing is done".to_owned()),
        VersionsError::Busy { .. } => Some(
            "end it first: `cvs stop` what `cvs ps` shows, `cvs umount` what `cvs mounts` shows".to_owned(),
        ),
        VersionsError::Io { source, .. } => hint_of_io(source),
        VersionsError::Realize(error) => realize::hint(error),
        VersionsError::Import(ImportError::Changed { .. }) => {
            Some("end what writes there, and run the command again: it goes on where it stopped".to_owned())
        }
        VersionsError::Import(ImportError::NoReflink { .. }) => {
            Some("leave --reflink out to copy, or use --hardlink".to_owned())
        }
        VersionsError::Import(ImportError::Source { source, .. }) => hint_of_source(source),
        VersionsError::Import(ImportError::Store(error)) => hint_of_store(error),
        VersionsError::Cancelled => Some("run the command again to go on where it stopped".to_owned()),
        _ => None,
    }
}

fn hint_of_python(id: &str, error: &PythonError) -> Option<String> {
    let text = match error {
        PythonError::Store(error) => return hint_of_store(error),
        PythonError::Io { source, .. } => return hint_of_io(source),
        PythonError::NoSpace { .. } => return hint_of_io(&io::ErrorKind::StorageFull.into()),
        PythonError::Conflict { .. } => {
            "pin what all can take in `python_packages`, take another commit of a node, or give it \
             `\"install_requirements\": false`"
        }
        PythonError::NoInterpreter { .. } => {
            "install that Python, or ask for another one: `python.version` in the spec, --python for `cvs create`"
        }
        PythonError::Offline { .. } => {
            "run it again without --offline, or name a directory that has it with --wheels"
        }
        PythonError::WheelMissing { .. } => "name the directory that has it with --wheels",
        PythonError::Unreachable { .. } => {
            "look at the address of the index and the network, and run the command again"
        }
        PythonError::Denied { .. } => "look at the credentials for that index",
        PythonError::HashMismatch { .. } => {
            return Some(format!(
                "nothing was stored; `cvs lock {id} --update=python` takes what the index has now"
            ));
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn hint_of_source(error: &SourceError) -> Option<String> {
    let text = match error {
        SourceError::Store(error) => return hint_of_store(error),
        SourceError::InSubmodule { source, .. } | SourceError::LfsDownload { source, .. } => {
            return hint_of_source(source);
        }
        SourceError::Io { source, .. } => return hint_of_io(source),
        SourceError::Unreachable { .. } | SourceError::Stalled { .. } => {
            "look at the address and the network, and run the command again; with --offline it takes what the store has"
        }
        SourceError::Truncated { .. } | SourceError::HttpTransfer { .. } => {
            "run the command again: it goes on where it stopped"
        }
        SourceError::RepositoryNotFound { .. } | SourceError::GitAccess { .. } => {
            "look at the address; a private repository opens by an ssh key or a credential helper of git"
        }
        SourceError::Checksum { .. } | SourceError::Size { .. } => {
            "nothing was stored; correct `checksum` in the spec only if the file is the one that you want"
        }
        SourceError::Closed { page, variable, .. } => {
            return Some(format!(
                "look at {page} with your account, accept what it asks for, and set {variable} to a token of that account"
            ));
        }
        SourceError::Choice { .. } => {
            "put what chooses the file behind the source: `civitai://api/download/models/ID?name=…`"
        }
        SourceError::Mirrors { failures } => return failures.iter().find_map(hint_of_source),
        SourceError::DiskFull { .. } => return hint_of_io(&io::ErrorKind::StorageFull.into()),
        // libgit2 says it in words only.
        SourceError::Git { source, .. } | SourceError::GitObject { source, .. }
            if source.message().ends_with("No space left on device") =>
        {
            return hint_of_io(&io::ErrorKind::StorageFull.into());
        }
        SourceError::Changed { .. } => "run the command again when nothing writes to the file",
        SourceError::TreeMissing { .. } => {
            "only the machine that it was imported on has these files: import the install again, or remove `tree` from \
             the entry to take the commit as it is"
        }
        SourceError::UnknownNode { .. } => "look at the id and the version on registry.comfy.org",
        _ => return None,
    };
    Some(text.to_owned())
}

fn of_mounts(error: &MountsError) -> Exit {
    match error {
        MountsError::Occupied { .. } | MountsError::InUse { .. } | MountsError::StillThere { .. } => {
            Exit::Busy
        }
        // The daemon has said why, with the code that belongs to it.
        MountsError::DidNotStart { code: Some(4), .. } => Exit::Busy,
        MountsError::DidNotStart { code: Some(3), .. } => Exit::Damage,
        MountsError::DidNotStart { .. }
        | MountsError::NotMounted { .. }
        | MountsError::Io { .. }
        | MountsError::NotADirectory { .. }
        | MountsError::NotEmpty { .. } => Exit::Failed,
    }
}

fn hint_of_mounts(error: &MountsError) -> Option<String> {
    match error {
        MountsError::Occupied { path, .. } => {
            Some(format!("`cvs umount {}` takes it down, or mount elsewhere", path.display()))
        }
        MountsError::InUse { path, .. } => Some(format!(
            "end what uses it, or `cvs umount --lazy {0}` (out of sight now, gone when it is done) or \
             `cvs umount --force {0}` (its files fail)",
            path.display()
        )),
        MountsError::NotEmpty { .. } => {
            Some("name an empty directory, or one that does not exist yet".to_owned())
        }
        MountsError::NotMounted { .. } => Some("`cvs mounts` lists what is mounted".to_owned()),
        MountsError::StillThere { .. } => {
            Some("its log, under run/log, says what it is doing; `cvs umount --force` kills it".to_owned())
        }
        MountsError::Io { source, .. } => hint_of_io(source),
        MountsError::DidNotStart { .. } | MountsError::NotADirectory { .. } => None,
    }
}

fn hint_of_spec(error: &SpecError) -> Option<String> {
    match error {
        SpecError::Unknown { .. } => Some("`cvs list` shows the versions that there are".to_owned()),
        SpecError::Exists { .. } => Some("choose another name, or replace it with --force".to_owned()),
        SpecError::Changed { .. } => Some("run the command again to take the change in".to_owned()),
        SpecError::Invalid { .. } | SpecError::Syntax { .. } => {
            Some("docs/spec-v2.md says how a spec is written".to_owned())
        }
        SpecError::Io { source, .. } => hint_of_io(source),
        SpecError::Id { .. } | SpecError::Stray { .. } => None,
    }
}

fn hint_of_store(error: &StoreError) -> Option<String> {
    match error {
        StoreError::NoSpace { path, .. } => Some(format!(
            "make room on the filesystem of {}; `cvs gc --grace 0` frees what no version needs",
            path.display()
        )),
        StoreError::UnknownFormat { .. } => {
            Some("use the version of cvs that wrote it, or a newer one, or another --home".to_owned())
        }
        StoreError::MissingBlob(_) | StoreError::WrongSize { .. } | StoreError::MissingManifest(_) => {
            Some("`cvs lock VERSION` brings what is missing again; `cvs fsck` tells what is".to_owned())
        }
        StoreError::DamagedManifest(_) => {
            Some("`cvs fsck --repair` sets damaged objects aside and brings them again".to_owned())
        }
        StoreError::UnreadableRoot { root, source } => match **source {
            StoreError::MissingManifest(_) => Some(format!(
                "nothing was removed: `cvs lock {root}` brings what it needs, `cvs delete {root}` gives it up"
            )),
            StoreError::DamagedManifest(_) | StoreError::Manifest { .. } => Some(format!(
                "nothing was removed: `cvs fsck --repair` brings it back, `cvs delete {root}` gives it up"
            )),
            _ => hint_of_store(source),
        },
        StoreError::Roots(_) => Some(
            "nobody can tell what that spec needs, so nothing was done: mend it, or move it away".to_owned(),
        ),
        StoreError::Busy { pid, .. } => {
            Some(format!("wait for process {pid}, or end it; `cvs mounts` lists what is mounted"))
        }
        StoreError::Io { source, .. } => hint_of_io(source),
        StoreError::Changed { .. } => Some("run the command again when nothing writes to it".to_owned()),
        StoreError::Manifest { .. } | StoreError::Path { .. } | StoreError::Interrupted => None,
    }
}

fn hint_of_mount(error: &MountError) -> Option<String> {
    match error {
        MountError::OverlayBusy { .. } => Some(
            "`cvs mounts` shows where; unmount it, or use --read-only, --ephemeral or --overlay DIR"
                .to_owned(),
        ),
        MountError::Unsupported { .. } => {
            Some("place it elsewhere with --overlay DIR or --home DIR".to_owned())
        }
        MountError::UnknownFormat { .. } => Some("use the version of cvs that wrote it".to_owned()),
        MountError::Mount { .. } => {
            Some("`cvs doctor` says whether this machine can mount, and what to do if not".to_owned())
        }
        MountError::Store(error) => hint_of_store(error),
        MountError::Io { source, .. } => hint_of_io(source),
    }
}

fn hint_of_io(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Some(
            "the store belongs to whoever made it: run cvs as that user, or name another --home".to_owned(),
        ),
        io::ErrorKind::ReadOnlyFilesystem => Some("name a writable place with --home DIR".to_owned()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room; `cvs gc --grace 0` frees what no version needs".to_owned())
        }
        _ => None,
    }
}

/// Says what went wrong, with every cause that the message does not hold yet, and what to do next.
pub(crate) fn report(error: &CliError, output: &Output) {
    if error.exit() == Exit::Ok {
        return;
    }
    output.error(&chain(error));
    if let Some(hint) = error.hint() {
        output.hint(&hint);
    }
}

/// The message, with every cause that it does not hold yet.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Many messages say their cause already.
        if !text.contains(&words) {
            text.push_str(&format!("\n  caused by: {words}"));
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        for (error, exit) in [
            (CliError::Usage(String::new()), 2),
            (SpecError::Id { found: "/".to_owned(), reason: "" }.into(), 2),
            (SpecError::Unknown { id: "x".to_owned(), dir: "/v".into() }.into(), 1),
            (StoreError::Busy { what: "x".to_owned(), pid: 1 }.into(), 4),
            (StoreError::Interrupted.into(), 130),
            (StoreError::MissingBlob(cvs_store::BlobId::of(b"")).into(), 3),
            (MountError::OverlayBusy { path: "/o".into(), pid: "1".to_owned() }.into(), 4),
            (MountError::Mount { path: "/m".into(), source: io(io::ErrorKind::ResourceBusy) }.into(), 4),
            (MountError::Mount { path: "/m".into(), source: io(io::ErrorKind::NotFound) }.into(), 1),
            (CliError::Stdout(io(io::ErrorKind::BrokenPipe)), 0),
            (CliError::Stdout(io(io::ErrorKind::StorageFull)), 1),
            (CliError::Interrupted, 130),
        ] {
            assert_eq!(error.exit().code(), exit, "{error:?}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let source = io::Error::other("no such thing");
        let spec = SpecError::Io { operation: "read", path: "/x".into(), source };
        assert_eq!(chain(&CliError::from(spec)), "cannot read /x\n  caused by: no such thing");
        let store = StoreError::io("read", "/x", io::Error::other("no such thing"));
        assert_eq!(chain(&CliError::from(store)), "cannot read /x: no such thing");
    }
}
