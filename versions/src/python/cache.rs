//! What uv keeps below a home, and giving it up.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::classify;
use super::error::PythonError;
use super::event::PythonOptions;
use super::uv::Uv;

/// Files of uv's cache that no object of the store shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheUsage {
    /// How many.
    pub files: u64,
    /// What they take on disk, in bytes.
    pub bytes: u64,
}

/// What emptying the cache of uv below `home` would free.
pub fn cache_usage(home: &Path) -> Result<CacheUsage, PythonError> {
    let mut usage = CacheUsage::default();
    let mut pending = vec![home.join("uv/cache")];
    while let Some(directory) = pending.pop() {
        let failed = |error| PythonError::io("list", &directory, error);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Also one that a running uv has just removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.is_file() && metadata.nlink() == 1 {
                usage.files += 1;
                usage.bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(usage)
}

/// Empties the cache of `uv`, waiting for a uv that works in it. Environments in the store do not need it; the next one
/// downloads again.
pub fn clear_cache(uv: &Uv, home: &Path, options: &PythonOptions<'_>) -> Result<(), PythonError> {
    let operation = "empty its cache";
    let mut command = uv.command(home, true);
    command.args(["cache", "clean", "--quiet"]);
    let run = uv.run(operation, &mut command, options)?;
    if run.status.success() { Ok(()) } else { Err(classify::failure(operation, &run.stderr)) }
}
