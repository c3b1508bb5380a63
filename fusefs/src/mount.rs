//! Mounting an overlay and taking the mount down.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use fuser::{Config, Session, SessionACL};

use crate::adapter::Adapter;
use crate::attach::{self, Attach};
use crate::error::MountError;
use crate::form::{Lent, TreeForm};
use crate::overlay::Overlay;
use crate::passthrough::{self, Passthrough, Refusal};
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
    /// Threads that answer the kernel, for each connection.
    pub threads: usize,
    /// The directory, by its path below the mountpoint, that is shown by a connection of its own, with passthrough,
    /// where that is possible.
    pub passthrough: Option<PathBuf>,
}

/// The connections to the kernel that a mount has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connections {
    /// One directory has a connection of its own, with passthrough.
    Two,
    /// There is one for everything.
    One(Refusal),
}

/// A mount that the kernel knows and whose requests are not answered yet.
pub struct Mount {
    session: Session<Adapter<TreeForm>>,
    passthrough: Result<Passthrough, Refusal>,
    lent: Option<Arc<Lent>>,
    mountpoint: PathBuf,
    overlay: Arc<Overlay>,
    name: String,
    /// Disconnected when both connections have ended and nothing is worked on.
    done: Receiver<()>,
}

impl Mount {
    /// Mounts `overlay` at `mountpoint`.
    pub fn new(overlay: Arc<Overlay>, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let failed = |source| MountError::Mount { path: mountpoint.to_owned(), source };
        // First: from its beginning on, the tree connection must know what it does not show.
        let (working, done) = mpsc::channel();
        let passthrough = match &options.passthrough {
            Some(path) => passthrough::connect(&overlay, path, options, &working),
            None => Err(Refusal::TurnedOff),
        };
        let lent = passthrough.as_ref().ok().map(|passthrough| Arc::new(Lent::new(passthrough.top)));
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
        let form = TreeForm { overlay: Arc::clone(&overlay), lent: lent.clone() };
        let adapter = Adapter::new(&overlay, form, working);
        let session = Session::from_fd(adapter, connection, config.acl, config).map_err(failed)?;
        let (mountpoint, name) = (mountpoint.to_owned(), options.source.clone());
        Ok(Self { session, passthrough, lent, mountpoint, overlay, name, done })
    }

    /// Answers the kernel until the mount is taken down, by whomever; it is never taken down from here. `ready` is
    /// called when it is usable, with what it is. What a mount of this source read at its beginning the last time is read
    /// ahead.
    pub fn serve(self, ready: impl FnOnce(&Connections) + Send + 'static) -> Result<(), MountError> {
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
        let give_back = self.lent.map(|lent| {
            let tree = self.session.notifier();
            move || lent.give_back(&tree)
        });
        let gone = Arc::clone(&over);
        // The first look at the mount waits for the threads that `run` is about to start.
        let second = std::thread::spawn({
            let (mountpoint, passthrough) = (mountpoint.clone(), self.passthrough);
            move || {
                let _ = std::fs::metadata(&mountpoint);
                set_read_ahead(&mountpoint);
                let (connections, second) = show(passthrough, &mountpoint, give_back, gone);
                ready(&connections);
                second
            }
        });
        let served = self.session.run().map_err(|source| MountError::Mount { path: mountpoint, source });
        over.store(true, Ordering::Relaxed);
        // Files may be open in the second after the first is gone.
        if let Ok(Some(second)) = second.join() {
            let _ = second.join();
        }
        let _ = self.done.recv();
        drop(end);
        let _ = ahead.join();
        served
    }
}

/// Puts the passthrough connection in its place, if there is one and it can be. Otherwise what is lent to it goes back.
fn show(
    passthrough: Result<Passthrough, Refusal>,
    mountpoint: &Path,
    give_back: Option<impl Fn() + Clone + Send + 'static>,
    tree_is_gone: Arc<AtomicBool>,
) -> (Connections, Option<JoinHandle<()>>) {
    let back = move || give_back.iter().for_each(|give_back| give_back());
    let shown = passthrough.and_then(|passthrough| {
        let path = mountpoint.join(&passthrough.path);
        let back = back.clone();
        let thread = passthrough::serve(passthrough, mountpoint, move |remains| {
            // What is written to there would not be seen here.
            remains.wait_for_end(&tree_is_gone);
            back();
        })?;
        set_read_ahead(&path);
        Ok(thread)
    });
    match shown {
        Ok(thread) => (Connections::Two, Some(thread)),
        Err(refusal) => {
            back();
            (Connections::One(refusal), None)
        }
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
