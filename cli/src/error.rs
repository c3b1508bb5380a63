//! Failures: what is said, what is advised, and which code the process ends with. Nothing else in the program decides
//! any of the three.

mod comfy;
mod hint;
mod realize;

pub(crate) use self::hint::{of_io as hint_of_io, of_source as hint_of_source};

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use cvs_fusefs::MountError;
use cvs_store::StoreError;
use cvs_versions::comfy::RunError;
use cvs_versions::export::ExportError;
use cvs_versions::python::PythonError;
use cvs_versions::serve::ServeError;
use cvs_versions::source::SourceError;
use cvs_versions::{SpecError, VersionsError};

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
    #[error(
        "version {id} has no {what} {found:?}{}",
        if known.is_empty() { String::new() } else { format!("; it has {}", known.join(", ")) }
    )]
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
    #[error("version {id} cannot be exported: {source}")]
    Export {
        /// The version.
        id: String,
        /// Why not.
        source: ExportError,
    },
    /// The file of an export cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    WriteExport {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An import made its version, and not all that was to go into the overlay did.
    #[error("version {id} is there, but without all of {missing}")]
    Fill {
        /// The version.
        id: String,
        /// What is missing, or there in part.
        missing: String,
        /// The command that goes on.
        command: String,
        /// Why.
        source: Box<CliError>,
    },
    /// Nobody says where the home directory is.
    #[error("nothing says where to put the store: HOME is not set, and this user has no home directory")]
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
    /// The person's answer, or what was to come through a pipe.
    #[error("cannot read the standard input: {0}")]
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
            Self::Fill { source, .. } => source.exit(),
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
            Self::Spec(error) => hint::of_spec(error),
            Self::Versions(error) => hint::of_versions(error),
            Self::Python(error) => hint::of_python("ID", error),
            Self::Store(error) => hint::of_store(error),
            Self::Mount(error) => hint::of_mount(error),
            Self::Mounts(error) => hint::of_mounts(error),
            Self::Run(error) => comfy::hint_of_run(error),
            Self::Serve(error) => comfy::hint_of_serve(error),
            Self::Runs(error) => error.hint(),
            Self::Jobs(error) => error.hint(),
            Self::NoHome => Some("name a directory with --home DIR or CVS_HOME".to_owned()),
            Self::Config { .. } => {
                Some("it is a JSON object with the keys `home` and `versions_dir`, both optional".to_owned())
            }
            Self::Fill { command, source, .. } => {
                let first = source.hint().map(|hint| format!("{hint}; then ")).unwrap_or_default();
                Some(format!("{first}`{command}` goes on where it stopped"))
            }
            Self::WriteExport { source, .. } | Self::Signals(source) => hint::of_io(source),
            Self::Export { id, source: ExportError::NeverLocked } => {
                Some(format!("`cvs lock {id}` locks it"))
            }
            Self::WorkingDirectory(source) if source.kind() == io::ErrorKind::NotFound => {
                Some("the directory that the command was given in is gone: go to another one".to_owned())
            }
            Self::Usage(_)
            | Self::NotInSpec { .. }
            | Self::Export { .. }
            | Self::WorkingDirectory(_)
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

fn of_mounts(error: &MountsError) -> Exit {
    match error {
        MountsError::Occupied { .. }
        | MountsError::InUse { .. }
        | MountsError::Hidden { .. }
        | MountsError::StillThere { .. } => Exit::Busy,
        // The daemon has said why, with the code that belongs to it.
        MountsError::DidNotStart { status, .. } => match status.code() {
            Some(4) => Exit::Busy,
            Some(3) => Exit::Damage,
            _ => Exit::Failed,
        },
        MountsError::NotMounted { .. }
        | MountsError::OfAnotherStore { .. }
        | MountsError::Io { .. }
        | MountsError::NotADirectory { .. }
        | MountsError::NotEmpty { .. } => Exit::Failed,
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

    /// What only a failing machine brings about, as it is told: text, hint and code.
    #[test]
    fn what_no_test_can_bring_about_is_told_with_a_way_out() {
        let refused = || io::Error::from_raw_os_error(24);
        let descriptors = Some("this process may open no more files: `ulimit -n` tells and sets how many");
        let still = |pid| RunsError::StillThere { version: "v".to_owned(), pid };
        let mount = MountsError::StillThere { path: "/srv/my mount".into(), pid: 7 };
        let served = ServeError::Runtime { source: refused() };
        let fetched = JobsError::from(cvs_versions::fetch::FetchError::Runtime { source: refused() });
        for (error, text, hint, code) in [
            (
                CliError::Signals(refused()),
                "cannot handle signals: Too many open files (os error 24)",
                descriptors,
                1,
            ),
            (CliError::Serve(served), "the server failed: Too many open files (os error 24)", descriptors, 1),
            (
                CliError::Jobs(fetched),
                "cannot set up the network client: Too many open files (os error 24)",
                descriptors,
                1,
            ),
            (
                VersionsError::from(SourceError::Runtime { source: refused() }).into(),
                "starting the network client: Too many open files (os error 24)",
                descriptors,
                1,
            ),
            (
                CliError::Runs(still(7)),
                "process 7, which runs v, does not end",
                Some("`kill -9 7` ends it; `cvs stop` clears up then"),
                4,
            ),
            (
                CliError::Mounts(mount),
                "process 7, which served /srv/my mount, has not ended yet",
                Some(
                    "`cvs umount --force '/srv/my mount'` kills it; its log is in run/log of the home directory",
                ),
                4,
            ),
            (
                CliError::Run(RunError::Unkillable { pid: 7 }),
                "process 7 does not end, even by SIGKILL",
                Some(
                    "it waits for the disk, the GPU or a network filesystem, which `dmesg` may name; a restart ends it",
                ),
                1,
            ),
            (
                PythonError::BuildPath { path: "lib/a".to_owned() }.into(),
                "lib/a of the environment holds the path it was built at",
                Some(
                    "the package that it belongs to works in one place only: take another version of it, or leave it out",
                ),
                1,
            ),
        ] {
            let said = (chain(&error), error.hint(), error.exit().code());
            assert_eq!(said, (text.to_owned(), hint.map(str::to_owned), code));
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
