//! What a ComfyUI's command line knows, asked of it once for each core and interpreter.
//!
//! It is kept in the index of the store. The arguments are in `comfy/cli_args.py`, whose modification time in a view is
//! a function of its content, so that one that was changed in the overlay is asked again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cvs_store::Store;
use cvs_versions::comfy::{Flags, RunError};
use cvs_versions::spec::Lock;

/// The flags of the tree at `root`.
pub(crate) fn flags_of(
    store: &Store,
    lock: &Lock,
    python: &Path,
    root: &Path,
    env: &[(String, String)],
) -> Result<Flags, RunError> {
    let key = key(lock, python, root);
    let known = key.as_ref().and_then(|key| store.index().fact(key));
    if let Some(flags) = known.and_then(|text| serde_json::from_str(&text).ok()) {
        return Ok(flags);
    }
    let flags = Flags::probe(python, root, env)?;
    if let (Some(key), Ok(text)) = (key, serde_json::to_string(&flags)) {
        store.index().put_fact(&key, &text);
    }
    Ok(flags)
}

fn key(lock: &Lock, python: &Path, root: &Path) -> Option<String> {
    let core = lock.comfy.manifest?.to_hex();
    let python = python.canonicalize().ok()?;
    let arguments = root.join("comfy/cli_args.py").metadata().ok()?;
    let (size, seconds, nanos) = (arguments.size(), arguments.mtime(), arguments.mtime_nsec());
    Some(format!("flags:{core}:{size}:{seconds}.{nanos}:{}", python.to_str()?))
}
