//! Making the mount: `/dev/fuse` and mount(2) where we may, fusermount3 where we may not.
//!
//! fuser could do this, but at the end of a session it unmounts whatever is at the path by then, which may be somebody
//! else's mount. Taking mounts down is left to those who know that theirs is there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::mount::SUBTYPE;

/// What is mounted where.
pub(crate) struct Attach<'a> {
    pub(crate) mountpoint: &'a Path,
    /// The source in /proc/mounts. Holds no comma.
    pub(crate) source: &'a str,
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
}

/// Mounts, and returns the connection to the kernel.
pub(crate) fn attach(attach: &Attach<'_>) -> io::Result<OwnedFd> {
    match directly(attach) {
        Err(Errno::PERM | Errno::ACCESS) if !rustix::process::geteuid().is_root() => by_fusermount(attach),
        done => Ok(done?),
    }
}

fn directly(attach: &Attach<'_>) -> Result<OwnedFd, Errno> {
    let connection = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let others = if attach.allow_other { ",allow_other" } else { "" };
    // rootmode is the type of the root in octal: a directory.
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions{others}",
        connection.as_raw_fd()
    );
    let mut flags = MountFlags::NOATIME;
    if attach.read_only {
        flags |= MountFlags::RDONLY;
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(attach.source, attach.mountpoint, format!("fuse.{SUBTYPE}"), flags, Some(&*data))?;
    Ok(connection)
}

/// The protocol of libfuse: the helper mounts and sends the connection through the socket that `_FUSE_COMMFD` names.
fn by_fusermount(attach: &Attach<'_>) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let access = if attach.read_only { "ro" } else { "rw" };
    let others = if attach.allow_other { ",allow_other" } else { "" };
    let options = format!(
        "fsname={},subtype={SUBTYPE},{access},noatime,nosuid,nodev,default_permissions{others}",
        attach.source
    );
    let mut helper = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(attach.mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("fusermount3 cannot be started: {error}")))?;
    drop(theirs);
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        let _ = io::Read::read_to_string(&mut stderr, &mut said);
    }
    let status = helper.wait()?;
    match received? {
        Some(connection) if status.success() => Ok(connection),
        _ => Err(io::Error::other(said.trim().to_owned())),
    }
}

fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    rustix::net::recvmsg(
        socket.as_fd(),
        &mut [io::IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}
