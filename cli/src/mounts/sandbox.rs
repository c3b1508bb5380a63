//! A view mounted by this process itself for a moment, with a throw-away overlay: the place where an `install.py` is
//! run.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cvs_fusefs::{Mount, MountOptions, Overlay};
use cvs_store::{RelPath, Store, View};
use cvs_versions::{Sandbox, VersionsError};
use nix::mount::MntFlags;

use super::table::source_of;
use super::unmount;

/// What the script left running is killed by now, and lets go within moments.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
const THREADS: usize = 4;

/// Mounts below the directory that it is given.
pub(crate) struct MountedSandbox {
    pub(crate) store: Store,
}

impl Sandbox for MountedSandbox {
    fn run(
        &self,
        view: View,
        scratch: &Path,
        work: &mut dyn FnMut(&Path) -> Result<(), VersionsError>,
    ) -> Result<Result<Vec<RelPath>, VersionsError>, String> {
        let (overlay, root) = (scratch.join("overlay"), scratch.join("root"));
        for directory in [&overlay, &root] {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let tree = Overlay::new(self.store.clone(), view, Some(&overlay), false).map_err(failed)?;
        let options = MountOptions {
            source: source_of("install"),
            allow_other: false,
            threads: THREADS,
            passthrough: None,
        };
        let mount = Mount::new(Arc::new(tree), &root, &options).map_err(failed)?;
        // However `work` ends, the mount goes before the directory does.
        let guard = Unmount(root.clone());
        let daemon = thread::spawn(move || mount.serve(|_| ()));
        let done = work(&root);
        drop(guard);
        match daemon.join() {
            Ok(served) => served.map_err(failed)?,
            Err(_) => return Err("the mount broke down".to_owned()),
        }
        match done {
            Ok(()) => written(&overlay.join("upper")).map(Ok).map_err(failed),
            Err(error) => Ok(Err(error)),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match unmount::unmount(&self.0, MntFlags::empty()) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => thread::sleep(POLL),
                _ => return,
            }
        }
        let _ = unmount::unmount(&self.0, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}

/// The files of an upper layer, whiteouts included, sorted.
fn written(upper: &Path) -> std::io::Result<Vec<RelPath>> {
    let (mut found, mut pending) = (Vec::new(), vec![RelPath::root()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(upper.join(directory.as_path()))? {
            let entry = entry?;
            // A name on disk is a name.
            let Ok(path) = directory.join(entry.file_name().as_bytes()) else { continue };
            match entry.file_type()?.is_dir() {
                true => pending.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}
