//! Telling the service manager how a service fares: sd_notify(3), which is one datagram to the socket that it names.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service can be used.
pub(crate) fn ready() {
    tell("READY=1");
}

/// The service is about to end.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = address(&name)
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop));
    if let Err(error) = sent {
        tracing::warn!(%error, state, "cannot tell the service manager");
    }
}

/// A path, or the name of an abstract socket behind an `@`.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
