//! Why an environment could not be resolved, built or compiled.

use std::fmt;
use std::io;
use std::path::PathBuf;

use cvs_store::StoreError;

/// One party of a conflict, and what it wants.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Side {
    /// `core`, `python_packages`, `node NAME`.
    pub label: String,
    /// The lines of its requirements that matter.
    pub lines: Vec<String>,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {} wants {}", self.label, self.lines.join(", "))
    }
}

/// Why the work on an environment failed. Texts of uv are free of credentials and of our temporary paths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonError {
    /// There is no uv.
    #[error("uv is needed to build Python environments, and {} is not a program that can be run; get it with `pip install uv`, or name one in $CVS_UV", looked.display())]
    UvMissing {
        /// Where it was looked for: a path, or `uv` for the directories of $PATH.
        looked: PathBuf,
    },
    /// The uv there is does not know what is needed.
    #[error("{} is uv {found}, and {minimum} or newer is needed; get it with `pip install --upgrade uv`, or name another in $CVS_UV", program.display())]
    UvTooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        found: String,
        /// The oldest that will do.
        minimum: String,
    },
    /// No interpreter fits.
    #[error("no Python {request:?} on this machine{}{}", if found.is_empty() { "" } else { "; there is " }, found.join(", "))]
    NoInterpreter {
        /// What was asked for.
        request: String,
        /// Those that are there: version and path.
        found: Vec<String>,
    },
    /// An interpreter that was found does not work.
    #[error("cannot ask {} what it is: {reason}", program.display())]
    Interpreter {
        /// The program.
        program: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A list of requirements cannot be used.
    #[error("{label}: {file}:{line}: {reason}: {text}")]
    Requirement {
        /// Whose list.
        label: String,
        /// The file, as the source has it.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
        /// The requirement.
        text: String,
    },
    /// Requirements that cannot all be met.
    #[error("{}{}\n{explanation}", if sides.len() == 1 { "the Python requirements cannot be met:" } else { "the Python requirements disagree:" }, sides.iter().map(ToString::to_string).collect::<String>())]
    Conflict {
        /// Who disagrees; never empty. One alone wants what does not exist, or contradicts itself.
        sides: Vec<Side>,
        /// What uv says of it.
        explanation: String,
    },
    /// What is needed is neither in uv's cache nor among the given wheels, and the network was not to be used.
    #[error("offline, and not in uv's cache or the given wheels: {what}")]
    Offline {
        /// Which package, in uv's words.
        what: String,
    },
    /// A locked wheel came from a directory that was not given this time.
    #[error("{file} of {package} was locked from a directory of wheels, and is in none that was given")]
    WheelMissing {
        /// The package.
        package: String,
        /// The name of its wheel.
        file: String,
    },
    /// A package index, or another server that packages come from, did not answer.
    #[error("Python packages cannot be fetched: {reason}")]
    Unreachable {
        /// What uv says of it.
        reason: String,
    },
    /// An index wants credentials, or other ones.
    #[error("the package index refuses access: {reason}")]
    Denied {
        /// What uv says of it.
        reason: String,
    },
    /// A download is not what was locked.
    #[error("{package} is not what was locked: expected {expected}, found {found}")]
    HashMismatch {
        /// The package and version.
        package: String,
        /// The locked hash or size.
        expected: String,
        /// That of the download.
        found: String,
    },
    /// A package without a wheel could not be built.
    #[error("{package} has no wheel for this interpreter, and building it failed:\n{tail}")]
    BuildFailed {
        /// The package.
        package: String,
        /// The end of what the build printed.
        tail: String,
    },
    /// The filesystem is full.
    #[error("no space left while uv worked: {reason}")]
    NoSpace {
        /// What uv says of it.
        reason: String,
    },
    /// uv failed in another way.
    #[error("uv could not {operation}: {reason}")]
    Uv {
        /// What it was to do.
        operation: &'static str,
        /// The end of what it printed.
        reason: String,
    },
    /// The locked packages are not a PEP 751 document.
    #[error("the locked Python packages cannot be read: {reason}")]
    Lock {
        /// What is wrong.
        reason: String,
    },
    /// An installed file names the directory it was built in, and would not work in another.
    #[error("{path} of the environment holds the path it was built at")]
    BuildPath {
        /// The file, in the environment.
        path: String,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's cancel flag was set.
    #[error("interrupted")]
    Cancelled,
}

impl PythonError {
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { operation, path: path.into(), source }
    }
}
