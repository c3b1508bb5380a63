//! Making the second connection. It is made beside the tree of mounts and tried there; only one that works is put in its
//! place, so a refusal leaves nothing behind.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use cvs_store::{BlobId, LowerId};
use fuser::{BackingId, Config, Session, SessionACL};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::opens::Opens;
use super::{PassthroughForm, Remains, executed};
use crate::adapter::Adapter;
use crate::blobs;
use crate::mount::{MountOptions, SUBTYPE};
use crate::overlay::Overlay;
use crate::sys;
use crate::types::{Ino, Kind};
use crate::upper::{WHITEOUT, proc_fd};

/// Why a mount has one connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody wanted another.
    #[error("passthrough is turned off")]
    TurnedOff,
    /// The directory is not there, or is none.
    #[error("there is no directory {}", path.display())]
    NoDirectory {
        /// Its path below the mountpoint.
        path: PathBuf,
    },
    /// A file is shown by both connections, which would not hear of each other's changes.
    #[error("{} has a hard link to a file outside of it", path.display())]
    LinkedOutside {
        /// Its path below the mountpoint.
        path: PathBuf,
    },
    /// FUSE has no passthrough.
    #[error("the kernel has no FUSE passthrough: Linux 6.9 or newer has")]
    Kernel,
    /// Passthrough is for root.
    #[error("passthrough needs CAP_SYS_ADMIN, and that outside of user namespaces")]
    NotAllowed,
    /// Something else.
    #[error("cannot {op}: {errno}")]
    Failed {
        /// The operation, as a verb with its object.
        op: &'static str,
        /// The cause.
        errno: Errno,
    },
}

fn failed(op: &'static str) -> impl Fn(Errno) -> Refusal {
    move |errno| match errno {
        Errno::PERM | Errno::ACCESS => Refusal::NotAllowed,
        Errno::NOSYS => Refusal::Kernel,
        errno => Refusal::Failed { op, errno },
    }
}

/// A connection that works and is not shown yet.
pub(crate) struct Passthrough {
    session: Session<Adapter<PassthroughForm>>,
    mount: OwnedFd,
    /// The directory that it shows.
    pub(crate) top: Ino,
    /// And its path below the mountpoint.
    pub(crate) path: PathBuf,
}

/// Makes the connection for the directory `path` of the overlay, and tries it.
pub(crate) fn connect(
    overlay: &Arc<Overlay>,
    path: &Path,
    options: &MountOptions,
    working: &Sender<()>,
) -> Result<Passthrough, Refusal> {
    let top = directory(overlay, path).ok_or_else(|| Refusal::NoDirectory { path: path.to_owned() })?;
    if is_linked_outside(overlay, path) {
        return Err(Refusal::LinkedOutside { path: path.to_owned() });
    }
    // The kernel wants to know how many filesystems lie on each other below: one that is no such stack, or overlayfs.
    let over = |depth| connect_over(overlay, path, top, options, depth, working.clone());
    match over(1) {
        Err(Refusal::Failed { errno: Errno::LOOP, .. }) => over(2),
        done => done,
    }
}

fn directory(overlay: &Overlay, path: &Path) -> Option<Ino> {
    let mut at = overlay.getattr(Ino::ROOT).ok()?;
    for name in path {
        at = overlay.lookup(at.ino, name.as_encoded_bytes()).ok()?;
    }
    (at.kind == Kind::Dir && at.ino != Ino::ROOT).then_some(at.ino)
}

/// True when a file below `path` has names outside of it, too. What cannot be looked at counts as if it had.
fn is_linked_outside(overlay: &Overlay, path: &Path) -> bool {
    let below = |id: &LowerId| overlay.view.path(*id).is_some_and(|of| of.as_path().starts_with(path));
    let crosses = |names: &Vec<LowerId>| names.iter().any(below) && !names.iter().all(below);
    if overlay.link_groups().values().any(crosses) {
        return true;
    }
    let Some(upper) = &overlay.upper else { return false };
    // Names that were found of each file that has several, and how many it has.
    let mut names: HashMap<u64, (u64, u64)> = HashMap::new();
    let top = Path::new(&proc_fd(&upper.root)).join(path);
    match top.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
        _ => {}
    }
    count_names(&top, &mut names).is_err() || names.values().any(|(found, has)| found != has)
}

fn count_names(top: &Path, names: &mut HashMap<u64, (u64, u64)>) -> std::io::Result<()> {
    let mut pending = vec![top.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.nlink() > 1
                && rustix::fs::lgetxattr(entry.path(), WHITEOUT, &mut [0u8; 0]).is_err()
            {
                names.entry(metadata.ino()).or_insert((0, metadata.nlink())).0 += 1;
            }
        }
    }
    Ok(())
}

fn connect_over(
    overlay: &Arc<Overlay>,
    path: &Path,
    top: Ino,
    options: &MountOptions,
    depth: u32,
    working: Sender<()>,
) -> Result<Passthrough, Refusal> {
    let objects = read_only_objects(overlay)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty()).map_err(failed("open /dev/fuse"))?;
    let mount = detached_mount(&device, overlay.is_read_only(), path, options)?;
    let notifier = Arc::new(OnceLock::new());
    let form = PassthroughForm {
        overlay: Arc::clone(overlay),
        top,
        device: executed::device(mount.as_fd()).map_err(failed("look at the second mount"))?,
        objects: objects.try_clone().map_err(|error| Refusal::Failed {
            op: "copy a descriptor",
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })?,
        depth,
        opens: Opens::default(),
        held: Mutex::default(),
        notifier: Arc::clone(&notifier),
    };
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads.max(1));
    let adapter = Adapter::new(overlay, form, working);
    let session =
        Session::from_fd(adapter, device, config.acl, config).map_err(|error| match Errno::from_io_error(
            &error,
        ) {
            Some(Errno::OPNOTSUPP) => Refusal::Kernel,
            errno => failed("agree with the kernel on a connection")(errno.unwrap_or(Errno::IO)),
        })?;
    try_backing(&session, overlay, &objects)?;
    let _ = notifier.set(session.notifier());
    Ok(Passthrough { session, mount, top, path: path.to_owned() })
}

/// A clone of the mount of `objects/` that nobody else sees and that nothing can be written through.
fn read_only_objects(overlay: &Overlay) -> Result<OwnedFd, Refusal> {
    let objects = overlay.blobs.store().home().join("objects");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, &objects, flags).map_err(failed("clone the mount of the objects"))?;
    sys::make_read_only(&clone).map_err(failed("make the clone of the objects read-only"))?;
    Ok(clone)
}

fn detached_mount(
    device: &OwnedFd,
    read_only: bool,
    path: &Path,
    options: &MountOptions,
) -> Result<OwnedFd, Refusal> {
    use std::os::fd::AsRawFd;
    let failed = failed("make a second mount");
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(&failed)?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for (key, value) in [
        ("source", format!("{}/{}", options.source, path.display())),
        ("subtype", SUBTYPE.to_owned()),
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", uid.to_string()),
        ("group_id", gid.to_string()),
    ] {
        fsconfig_set_string(&context, key, value).map_err(&failed)?;
    }
    fsconfig_set_flag(&context, "default_permissions").map_err(&failed)?;
    if options.allow_other {
        fsconfig_set_flag(&context, "allow_other").map_err(&failed)?;
    }
    if read_only {
        fsconfig_set_flag(&context, "ro").map_err(&failed)?;
    }
    fsconfig_create(&context).map_err(&failed)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOATIME;
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(&failed)
}

/// Whether the kernel takes backing files of the filesystems that matter.
fn try_backing(connection: impl AsFd, overlay: &Overlay, objects: &OwnedFd) -> Result<(), Refusal> {
    let failed = failed("give the kernel a file to read by itself");
    let attempt = |file: &File| {
        let id = BackingId::create_raw(&connection, file)
            .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        sys::close_backing(&connection, id).map_err(&failed)
    };
    // Whichever object is met first; a view without files needs no backing.
    let object = (0..overlay.view.id_limit()).find_map(|id| overlay.view.entry(LowerId(id))?.blob);
    if let Some(object) = object.and_then(|blob| open_object(objects, blob)) {
        attempt(&object)?;
    }
    match &overlay.upper {
        Some(upper) => attempt(&upper.some_file().map_err(&failed)?),
        None => Ok(()),
    }
}

/// One that is damaged says nothing about passthrough.
fn open_object(objects: &OwnedFd, blob: BlobId) -> Option<File> {
    blobs::open_below(objects, blob).ok()
}

/// Shows the connection below `mountpoint`, which is served already, and answers it. Returns when it is shown; `over` is
/// called when it has ended, with what may be left of it.
pub(crate) fn serve(
    passthrough: Passthrough,
    mountpoint: &Path,
    over: impl FnOnce(Remains) + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, Refusal> {
    let Passthrough { session, mount, top, path } = passthrough;
    let op = "open the directory below the mountpoint";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(mountpoint, flags, Mode::empty()).map_err(failed(op))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let place = rustix::fs::openat2(&root, &path, flags, Mode::empty(), resolve).map_err(failed(op))?;
    if rustix::fs::fstat(&place).map_err(failed(op))?.st_ino != top.0 {
        return Err(Refusal::NoDirectory { path });
    }
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name("passthrough".to_owned()).spawn(move || {
        if let Err(error) = session.run() {
            tracing::error!(%error, "the passthrough connection has broken down");
        }
        if let Ok(remains) = told.recv() {
            over(remains);
        }
    });
    let thread = thread
        .map_err(|error| failed("start a thread")(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
    // Answered by the thread, which waits for it in the end.
    let _ = tell.send(Remains::of(&mount));
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    // When this fails, the mount goes with its descriptor, and so ends the thread.
    move_mount(&mount, "", &place, "", flags).map_err(failed("show the second mount"))?;
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_refuses() {
        for (errno, text) in [
            (Errno::NOSYS, "the kernel has no FUSE passthrough: Linux 6.9 or newer has"),
            (Errno::PERM, "passthrough needs CAP_SYS_ADMIN, and that outside of user namespaces"),
            (Errno::MFILE, "cannot open /dev/fuse: Too many open files (os error 24)"),
        ] {
            assert_eq!(failed("open /dev/fuse")(errno).to_string(), text);
        }
    }
}
