//! Whether an environment is whole: its interpreter is there and the one it was built for, and every locked package has
//! all its files. Only listings and the lists of packages are read; that the bytes are right is the store's to say.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use cvs_store::{BlobId, Manifest, RelPath, Store, StoreError};
use serde_json::Value;

use super::error::PythonError;
use super::interpreter::Interpreter;
use super::lock;
use super::normal;
use super::requirements::normalise;

/// Files of one package that are named one by one.
const NAMED: usize = 3;

/// Something that an environment lacks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum EnvironmentProblem {
    /// The base interpreter is not there, or does not run.
    InterpreterGone {
        /// Where it was.
        #[serde(serialize_with = "cvs_store::path_json::serialize")]
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// At its place is another one.
    InterpreterChanged {
        /// Its path.
        #[serde(serialize_with = "cvs_store::path_json::serialize")]
        path: PathBuf,
        /// What the environment was built for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A locked package is not in the environment.
    PackageMissing {
        /// Its name.
        package: String,
        /// Its version.
        version: Option<String>,
    },
    /// A package is there in another version than the lock has.
    PackageVersion {
        /// Its name.
        package: String,
        /// The locked version.
        expected: String,
        /// The one that is there.
        found: String,
    },
    /// Files of a package are not there.
    FilesMissing {
        /// Its name.
        package: String,
        /// Some of them, by their paths in the environment.
        files: Vec<String>,
        /// How many.
        count: usize,
    },
}

impl fmt::Display for EnvironmentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InterpreterGone { path, reason } => {
                write!(f, "the interpreter {} cannot be used: {reason}", path.display())
            }
            Self::InterpreterChanged { path, expected, found } => {
                write!(
                    f,
                    "the interpreter {} is {found}, and the environment was built for {expected}",
                    path.display()
                )
            }
            Self::PackageMissing { package, version: Some(version) } => {
                write!(f, "package {package} {version} is locked, and not in the environment")
            }
            Self::PackageMissing { package, version: None } => {
                write!(f, "package {package} is locked, and not in the environment")
            }
            Self::PackageVersion { package, expected, found } => {
                write!(f, "package {package} is locked at {expected}, and the environment has {found}")
            }
            Self::FilesMissing { package, files, count } => {
                write!(f, "package {package} lacks {count} of its files: {}", files.join(", "))?;
                if files.len() < *count { f.write_str(", …") } else { Ok(()) }
            }
        }
    }
}

/// Compares an environment with what it was built from. Nothing found means that it is whole.
///
/// # Errors
/// A lock that is none, and a store that cannot be read. A damaged environment is not an error but a finding.
pub fn check(
    store: &Store,
    interpreter: &Interpreter,
    pylock: &Value,
    environment: &Manifest,
) -> Result<Vec<EnvironmentProblem>, PythonError> {
    let mut problems = Vec::new();
    let path = interpreter.path.clone();
    match Interpreter::ask(&interpreter.path) {
        Err(PythonError::Interpreter { reason, .. }) => {
            problems.push(EnvironmentProblem::InterpreterGone { path, reason });
        }
        Err(error) => return Err(error),
        Ok(found) => {
            let name =
                |one: &Interpreter| format!("{} {} for {}", one.implementation, one.version, one.platform);
            let (expected, found) = (name(interpreter), name(&found));
            if expected != found {
                problems.push(EnvironmentProblem::InterpreterChanged { path, expected, found });
            }
        }
    }
    let mut paths = HashSet::new();
    let mut installed: BTreeMap<String, (String, RelPath, Option<BlobId>)> = BTreeMap::new();
    for (path, entry) in environment.walk() {
        if let Some((name, version, site)) = dist_info(&path) {
            installed.entry(name).or_insert((version, site, None));
        }
        if normal::fate(&path) == normal::Fate::Record
            && let Some((name, ..)) = path.parent().as_ref().and_then(dist_info)
            && let Some((.., record)) = installed.get_mut(&name)
        {
            *record = environment.blob(&entry);
        }
        paths.insert(path);
    }
    for package in lock::packages(pylock)? {
        let Some((found, site, record)) = installed.get(&package.name) else {
            let lock::LockedPackage { name, version, .. } = package;
            problems.push(EnvironmentProblem::PackageMissing { package: name, version });
            continue;
        };
        if let Some(expected) = package.version.filter(|expected| !same_version(expected, found)) {
            let (package, found) = (package.name, found.clone());
            problems.push(EnvironmentProblem::PackageVersion { package, expected, found });
            continue;
        }
        problems.extend(missing_files(store, package.name, site, *record, &paths)?);
    }
    Ok(problems)
}

/// Name, version and place of the package whose `.dist-info` is at `path`.
fn dist_info(path: &RelPath) -> Option<(String, String, RelPath)> {
    let name = std::str::from_utf8(path.file_name()?).ok()?;
    let site = path.parent().filter(|parent| parent.file_name() == Some(b"site-packages"))?;
    let (name, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
    Some((normalise(name), version.to_owned(), site))
}

/// Equal but for how a file name spells them.
fn same_version(locked: &str, found: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '_'], ".").to_ascii_lowercase();
    plain(locked) == plain(found)
}

fn missing_files(
    store: &Store,
    package: String,
    site: &RelPath,
    record: Option<BlobId>,
    paths: &HashSet<RelPath>,
) -> Result<Option<EnvironmentProblem>, PythonError> {
    let content = match record.map(|id| read(store, &id)).transpose() {
        Ok(content) => content.unwrap_or_default(),
        Err(StoreError::MissingBlob(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if content.is_empty() {
        let files = vec!["RECORD".to_owned()];
        return Ok(Some(EnvironmentProblem::FilesMissing { package, files, count: 1 }));
    }
    let mut missing = Vec::new();
    for line in content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let recorded = String::from_utf8_lossy(&normal::recorded_path(line)).into_owned();
        // What leads out of the environment is not ours.
        if let Some(path) = normal::locate(site, &recorded)
            && !paths.contains(&path)
        {
            missing.push(path.to_string());
        }
    }
    let count = missing.len();
    missing.truncate(NAMED);
    let found = EnvironmentProblem::FilesMissing { package, files: missing, count };
    Ok((count > 0).then_some(found))
}

fn read(store: &Store, id: &BlobId) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let mut file = store.open_blob(id)?;
    let failed = |source| StoreError::Io { op: "read", path: store.blob_path(id), source };
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
