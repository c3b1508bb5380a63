//! Serving a mount until it is taken down.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use cvs_fusefs::{Mount, MountOptions, Overlay};
use cvs_store::{LeaseKind, Store, View};
use nix::mount::MntFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::table::{MODELS, Models, MountInfo, hidden_by, mount_alone, shows, source_of};
use super::{control, unmount, users};
use crate::error::CliError;
use crate::signals;

/// What a daemon says on its standard output when the mount can be used.
pub(super) const READY: &str = "ready";

/// A mount about to be served.
pub(crate) struct Serve {
    pub(crate) version: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) ephemeral: bool,
    /// Where what is written goes, unless it is read-only or ephemeral.
    pub(crate) overlay: PathBuf,
    pub(crate) allow_other: bool,
    pub(crate) threads: usize,
    /// `models/` may have a connection of its own.
    pub(crate) passthrough: bool,
    /// The log, when this is a daemon.
    pub(crate) log: Option<PathBuf>,
}

/// Mounts and serves. `confirm` is asked, when the lease is taken, whether the view is still the version's. `ready` is
/// called when the mount can be used. Returns when it is gone.
///
/// SIGTERM, SIGINT and SIGHUP take it down: while files are in use it is taken out of sight and ends when they are
/// closed; a second signal ends it at once.
pub(crate) fn serve(
    serve: &Serve,
    store: &Store,
    view: View,
    cancel: &Arc<AtomicBool>,
    confirm: impl FnOnce(&View) -> Result<(), CliError>,
    ready: impl FnOnce(&Models) + Send + 'static,
) -> Result<(), CliError> {
    let manifests: Vec<_> = view.grafts().iter().map(|graft| graft.manifest).collect();
    let mut info = MountInfo {
        mountpoint: serve.mountpoint.clone(),
        device: None,
        view: view.id().to_hex(),
        read_only: serve.read_only,
        ephemeral: serve.ephemeral,
        overlay: None,
        log: serve.log.clone(),
        models: None,
    };
    let json = |info: &MountInfo| serde_json::to_value(info).unwrap_or_default();
    let mut lease = store.lease(LeaseKind::Mount, &serve.version, &manifests, json(&info))?;
    if !serve.read_only {
        // What is ephemeral lies in the lease's directory and goes with it, however this process ends.
        let directory =
            if serve.ephemeral { lease.info().directory.join("overlay") } else { serve.overlay.clone() };
        info.overlay = Some(directory);
        lease.update(json(&info))?;
    }
    confirm(&view)?;
    raise_file_limit();
    let overlay = Arc::new(Overlay::new(store.clone(), view, info.overlay.as_deref(), !serve.ephemeral)?);
    control::listen(&lease.info().directory, Arc::clone(&overlay));
    let options = MountOptions {
        source: source_of(&serve.version),
        allow_other: serve.allow_other,
        threads: serve.threads,
        passthrough: serve.passthrough.then(|| PathBuf::from(MODELS)),
    };
    let (mount, device) = mount_alone(&serve.mountpoint, || {
        Mount::new(overlay, &serve.mountpoint, &options).map_err(CliError::from)
    })?;
    info.device = device.clone();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(CliError::Signals)?;
    let handle = signals.handle();
    signals::outlive();
    let watcher = thread::spawn({
        let (mountpoint, version, device) = (serve.mountpoint.clone(), serve.version.clone(), device.clone());
        let cancel = Arc::clone(cancel);
        move || {
            for (number, _) in signals.forever().enumerate() {
                cancel.store(false, Ordering::Relaxed);
                stop(&mountpoint, &version, device.as_deref(), number > 0);
            }
        }
    });
    // One that came before we listened.
    if cancel.swap(false, Ordering::Relaxed) {
        stop(&serve.mountpoint, &serve.version, device.as_deref(), false);
    }
    tracing::info!(version = serve.version, mountpoint = %serve.mountpoint.display(), "mounted");
    let lease = Arc::new(Mutex::new(lease));
    let served = mount.serve({
        let lease = Arc::clone(&lease);
        move |connections| {
            let models = Models::from(connections);
            match &models {
                Models::Passthrough => {
                    tracing::info!("models/ has a connection of its own, with passthrough")
                }
                Models::OneConnection { reason } => tracing::info!("one connection: {reason}"),
            }
            info.models = Some(models.clone());
            let updated = lease.lock().unwrap_or_else(|e| e.into_inner()).update(json(&info));
            if let Err(error) = updated {
                tracing::warn!(%error, "the list of mounts cannot say how models/ is served");
            }
            ready(&models);
        }
    });
    tracing::info!(version = serve.version, mountpoint = %serve.mountpoint.display(), "unmounted");
    handle.close();
    let _ = watcher.join();
    drop(lease);
    Ok(served?)
}

/// Takes the mount down. Where it is out of sight, what is at its place is somebody else's.
fn stop(mountpoint: &Path, version: &str, device: Option<&str>, at_once: bool) {
    if !shows(mountpoint, version, device) {
        if at_once {
            // With files open: only the end of this process ends it.
            tracing::warn!(mountpoint = %mountpoint.display(), "ended while files are open");
            std::process::exit(1);
        }
        if let Some(what) = hidden_by(mountpoint, version, device) {
            tracing::warn!("{what} is mounted over it: it stays until that is gone, or a second signal");
        }
        return;
    }
    let result = if at_once {
        unmount::both(mountpoint, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH)
    } else {
        unmount::both(mountpoint, MntFlags::empty()).or_else(|error| {
            if error.kind() != std::io::ErrorKind::ResourceBusy {
                return Err(error);
            }
            let users = users::describe(&users::of(mountpoint));
            tracing::warn!("in use by {users}: out of sight now, and gone when the last file is closed");
            unmount::both(mountpoint, MntFlags::MNT_DETACH)
        })
    };
    if let Err(error) = result {
        tracing::warn!(mountpoint = %mountpoint.display(), %error, "cannot unmount");
    }
}

/// As many open files as the system allows: the caches are bounded, but unlinked files that are in use are not.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Tells whoever started this daemon that the mount can be used, and lets go of its pipe.
pub(crate) fn say_ready() {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{READY}").and_then(|()| stdout.flush());
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}
