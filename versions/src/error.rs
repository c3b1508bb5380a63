//! Errors of specs. Each variant names the operation, the object and the source; hints and exit codes are the
//! caller's.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a text came from: what an error names first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// Something else that has a name, such as `--nodes` or `the new version`.
    Named(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong in a document, at one place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where, as `models[0].source`; empty for the document as a whole.
    pub place: String,
    /// What was found there.
    pub found: String,
    /// What would be accepted.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "found {}; expected {}", self.found, self.expected)
    }
}

/// Why a spec, a list of nodes or models, or the directory of specs could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A text that cannot name a version.
    #[error("{found:?} cannot name a version: {reason}")]
    Id {
        /// The text.
        found: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// There is no spec with this id.
    #[error("there is no version {id:?} in {}", dir.display())]
    Unknown {
        /// The id.
        id: String,
        /// The directory of specs.
        dir: PathBuf,
    },
    /// A spec with this id exists and was not to be replaced.
    #[error("version {id:?} exists already: {}", path.display())]
    Exists {
        /// The id.
        id: String,
        /// Its file.
        path: PathBuf,
    },
    /// The file was changed, made or removed by someone else since it was read.
    #[error("{} was changed by someone else since it was read; nothing was written", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The text is not JSON or YAML.
    #[error("{origin}:{line}:{column}: not valid {format}: {message}")]
    Syntax {
        /// Whose text.
        origin: Origin,
        /// `JSON` or `YAML`.
        format: &'static str,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What the parser says.
        message: String,
    },
    /// The text is well-formed, but does not say what a spec can say. All problems are listed.
    #[error("{origin}: {}", list(problems))]
    Invalid {
        /// Whose text.
        origin: Origin,
        /// Every problem, in the order of the checks; never empty.
        problems: Vec<Problem>,
    },
    /// A file in the directory of specs that is named like a spec but cannot be one.
    #[error("{} is not a spec: {reason}; move it out of the directory of specs", path.display())]
    Stray {
        /// The file.
        path: PathBuf,
        /// Which rule its name breaks.
        reason: String,
    },
    /// A call of the operating system failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `lock`, …
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SpecError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { operation, path: path.into(), source }
    }
}

fn list(problems: &[Problem]) -> String {
    match problems {
        [only] => only.to_string(),
        many => {
            let lines: Vec<String> = many.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{} problems{}", many.len(), lines.concat())
        }
    }
}
