//! Mounts for tests, and the views that they show.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cvs_fusefs::{Connections, Mount, MountError, MountOptions, Overlay};
use cvs_store::{ManifestId, Store};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::support::{World, me};

/// Of each connection.
pub(crate) const THREADS: usize = 3;
const READY: Duration = Duration::from_secs(20);

/// A mount that is taken down at the end.
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
    pub(crate) connections: Connections,
    server: Option<JoinHandle<()>>,
}

impl Mounted {
    /// None, with a word, where this machine cannot mount; a failure where it must.
    pub(crate) fn new(overlay: Overlay, at: PathBuf) -> Option<Self> {
        Self::with(overlay, at, None)
    }

    /// With `passthrough` at this path, where this machine can.
    pub(crate) fn with(
        overlay: impl Into<Arc<Overlay>>,
        at: PathBuf,
        passthrough: Option<&str>,
    ) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let options = MountOptions {
            source: "test".into(),
            allow_other: me().uid == 0,
            threads: THREADS,
            passthrough: passthrough.map(PathBuf::from),
        };
        let mount = match Mount::new(overlay.into(), &at, &options) {
            Ok(mount) => mount,
            Err(error @ MountError::Mount { .. }) if std::env::var_os("CVS_TEST_REQUIRE_FUSE").is_none() => {
                eprintln!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let (ready, is_ready) = mpsc::channel();
        let server = std::thread::spawn(move || {
            mount.serve(move |connections| ready.send(connections.clone()).unwrap_or_default()).unwrap();
        });
        let connections = is_ready.recv_timeout(READY).unwrap();
        Some(Self { at, connections, server: Some(server) })
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.connections == Connections::Two {
            let _ = unmount(&self.at.join("models"));
        }
        if unmount(&self.at).is_err() {
            let helper = Command::new("fusermount3").arg("-u").arg(&self.at).status();
            if !helper.is_ok_and(|status| status.success()) {
                // A failing test may hold files open. The mount goes with the last of them.
                let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
                return;
            }
        }
        if let Some(server) = self.server.take() {
            let done = server.join();
            assert!(done.is_ok() || std::thread::panicking());
        }
    }
}

/// Others may be looking at all mounts of the machine just now.
fn unmount(at: &Path) -> Result<(), Errno> {
    let deadline = Instant::now() + READY;
    loop {
        match rustix::mount::unmount(at, UnmountFlags::empty()) {
            Err(Errno::BUSY) if !std::thread::panicking() && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            done => return done,
        }
    }
}

/// A view of what `fill` writes, over which overlays are mounted.
pub(crate) struct Lower {
    pub(crate) world: World,
    pub(crate) manifest: ManifestId,
}

impl Lower {
    pub(crate) fn new(fill: impl FnOnce(&Path)) -> Self {
        let world = World::new();
        let lower = world.beside("lower");
        fs::create_dir(&lower).unwrap();
        fill(&lower);
        let manifest = world.store_tree(&lower);
        Self { world, manifest }
    }

    pub(crate) fn mount(&self) -> Option<Mounted> {
        let overlay = self.world.overlay(self.world.view(&[("", self.manifest)]), "overlay");
        Mounted::new(overlay, self.world.beside("mnt"))
    }

    pub(crate) fn mount_read_only(&self) -> Option<Mounted> {
        let store: Store = self.world.store.clone();
        let overlay = Overlay::new(store, self.world.view(&[("", self.manifest)]), None, true).unwrap();
        Mounted::new(overlay, self.world.beside("mnt"))
    }
}
