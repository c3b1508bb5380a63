//! Programs that tests run and that `cargo xtask test` installs below the target directory.

use std::path::PathBuf;

use crate::Missing;
use crate::sandbox::target_dir;

/// A program of `target/tools/bin`, or of the path.
pub fn tool(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = target_dir().join("tools/bin");
    let mut places = std::iter::once(own).chain(std::env::split_paths(&path)).map(|dir| dir.join(name));
    let missing = || Missing(format!("{name}, which `cargo xtask test` installs"));
    places.find(|program| program.is_file()).ok_or_else(missing)
}
