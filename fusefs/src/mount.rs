//! Mounting an overlay and taking the mount down.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use fuser::{Config, Session, SessionACL};

use crate::adapter::Adapter;
use crate::attach::{self, Attach};
use crate::error::MountError;
use crate::overlay::Overlay;
use crate::prefetch;

/// The type that /proc/mounts shows, behind `fuse.`.
pub const SUBTYPE: &str = "cvs";
/// The window that the kernel reads ahead, in KiB: network disks below the store want large reads.
const READ_AHEAD_KIB: u32 = 2048;

/// How a view is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What /proc/mounts shows as the source. A comma is replaced: it would end the option.
    pub source: String,
    /// Others than the mounting user may use the mount.
    pub allow_other: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
}

/// A mount that the kernel knows and whose requests are not answered yet.
pub struct Mount {
    session: Session<Adapter>,
    mountpoint: PathBuf,
    overlay: Arc<Overlay>,
    name: String,
}

impl Mount {
    /// Mounts `overlay` at `mountpoint`. The umask of this process becomes 0: those of the callers count.
    pub fn new(overlay: Arc<Overlay>, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        rustix::process::umask(rustix::fs::Mode::empty());
        let failed = |source| MountError::Mount { path: mountpoint.to_owned(), source };
        let connection = attach::attach(&Attach {
            mountpoint,
            source: &options.source.replace(',', "_"),
            read_only: overlay.is_read_only(),
            allow_other: options.allow_other,
        })
        .map_err(failed)?;
        let mut config = Config::default();
        // The kernel checks who may: it was told at the mount.
        config.acl = SessionACL::All;
        config.n_threads = Some(options.threads.max(1));
        let adapter = Adapter { overlay: Arc::clone(&overlay) };
        let session = Session::from_fd(adapter, connection, config.acl, config).map_err(failed)?;
        Ok(Self { session, mountpoint: mountpoint.to_owned(), overlay, name: options.source.clone() })
    }

    /// Answers the kernel until the mount is taken down, by whomever; it is never taken down from here. `ready` is
    /// called when it is usable. What a mount of this source read at its beginning the last time is read ahead.
    pub fn serve(self, ready: impl FnOnce() + Send + 'static) -> Result<(), MountError> {
        let mountpoint = self.mountpoint.clone();
        let (overlay, name) = (self.overlay, self.name);
        let over = Arc::new(AtomicBool::new(false));
        let (end, ended) = mpsc::channel::<()>();
        let ahead = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let blobs = &overlay.blobs;
                prefetch::read_ahead(blobs.store(), &name, &over);
                // Until the beginning is past, or the mount is gone.
                let _ = ended.recv_timeout(prefetch::BEGINNING);
                blobs.trace.remember(blobs.store(), &name);
            }
        });
        // The first look at the mount waits for the threads that `run` is about to start.
        std::thread::spawn({
            let mountpoint = mountpoint.clone();
            move || {
                let _ = std::fs::metadata(&mountpoint);
                set_read_ahead(&mountpoint);
                ready();
            }
        });
        let served = self.session.run().map_err(|source| MountError::Mount { path: mountpoint, source });
        over.store(true, Ordering::Relaxed);
        drop(end);
        let _ = ahead.join();
        served
    }
}

/// Widens the window in which the kernel reads ahead. Only root may; without it reads are smaller.
fn set_read_ahead(mountpoint: &Path) {
    let Ok(stat) = rustix::fs::stat(mountpoint) else { return };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(path, %error, "cannot widen the kernel's read-ahead");
    }
}
