//! What a ComfyUI's command line knows, asked of it once for each core and interpreter.

use std::path::Path;

use cvs_store::Store;
use cvs_versions::comfy::{Flags, RunError};
use cvs_versions::spec::Lock;

/// The flags of the tree at `root`.
pub(crate) fn flags_of(
    _store: &Store,
    _lock: &Lock,
    python: &Path,
    root: &Path,
    env: &[(String, String)],
) -> Result<Flags, RunError> {
    Flags::probe(python, root, env)
}
