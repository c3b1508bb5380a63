//! Which Python runs a version: that of its environment, else the one that its spec names.

use std::path::{Path, PathBuf};

use cvs_versions::spec::Spec;

use super::RunsError;
use crate::machine;

/// The interpreter for the tree at `root`.
pub(crate) fn interpreter(root: &Path, spec: &Spec) -> Result<PathBuf, RunsError> {
    let version = || spec.version_id.to_string();
    let own = root.join(".venv/bin/python");
    match (own.symlink_metadata().is_ok(), own.exists()) {
        (true, true) => return Ok(own),
        (true, false) => {
            let target = own.read_link().unwrap_or_default();
            return Err(RunsError::InterpreterGone { version: version(), path: own, target });
        }
        (false, _) => {}
    }
    let from_env = || std::env::var("COMFY_PYTHON").ok().filter(|text| !text.is_empty());
    let Some(wanted) = spec.python.version.clone().or_else(from_env) else {
        return Err(RunsError::NoInterpreter { version: version() });
    };
    let found = if wanted.contains('/') {
        (Some(PathBuf::from(&wanted)).filter(|path| path.is_absolute() && path.is_file()), "a file")
    } else {
        let name = match wanted.starts_with(|first: char| first.is_ascii_digit()) {
            true => format!("python{}", minor(&wanted)),
            false => wanted.clone(),
        };
        (machine::find_program(&name), "in PATH")
    };
    match found {
        (Some(path), _) => Ok(path),
        (None, place) => Err(RunsError::InterpreterMissing { version: version(), wanted, place }),
    }
}

/// The version by which programs are named: `3.12` for `3.12.7`.
fn minor(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_by_two_numbers() {
        assert_eq!(["3", "3.12", "3.12.7"].map(minor), ["3", "3.12", "3.12"]);
    }
}
