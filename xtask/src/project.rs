//! Where the project's things are: the root, the target directory, the tools kept there, the built programs.

use std::path::{Path, PathBuf};

use crate::failure::{Outcome, fail};

/// The checkout that this xtask was built from.
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    pub(crate) fn find() -> Outcome<Project> {
        let root = match Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
            Some(root) if root.join("Cargo.toml").is_file() => root.to_path_buf(),
            _ => fail!(
                "the checkout that xtask was built from is gone; run it as `cargo xtask` in the new one"
            ),
        };
        // A relative CARGO_TARGET_DIR is relative to where cargo was called, which is our working directory.
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::env::current_dir().unwrap_or_else(|_| root.clone()).join(dir),
            None => root.join("target"),
        };
        Ok(Project { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Programs installed for this checkout alone; their directory goes first in PATH of what we run.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The release build of a program of the workspace.
    pub(crate) fn release(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }
}

/// The file that a bare program name stands for, as the shell would find it, `/usr/sbin` and `/sbin` included:
/// daemons live there, and a plain user's PATH often lacks them.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether we run as root, read from the owner that the kernel gives our own /proc entry.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
