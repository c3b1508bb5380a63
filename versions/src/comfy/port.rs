//! Ports: whether one is free, and who has it if not.

use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::PathBuf;

use super::error::RunError;

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// The beginning of its command line.
    pub program: String,
}

/// A port of `host` (a name, an address, or several with commas) that nothing listens on at this moment.
pub fn free_port(host: &str) -> Result<u16, RunError> {
    let first = host.split(',').next().unwrap_or(host).trim();
    let bound = TcpListener::bind((first, 0)).and_then(|listener| listener.local_addr());
    let port = bound
        .map_err(|source| RunError::Listen { host: host.to_owned(), port: 0, source })
        .map(|address| address.port())?;
    check_free(host, port)?;
    Ok(port)
}

/// Fails when something listens on the port at any of the addresses.
pub(super) fn check_free(host: &str, port: u16) -> Result<(), RunError> {
    for one in host.split(',').map(str::trim) {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => {
                RunError::PortTaken { host: one.to_owned(), port, holder: holder(port) }
            }
            _ => RunError::Listen { host: one.to_owned(), port, source },
        };
        let addresses = (one, port).to_socket_addrs().map_err(failed)?;
        for address in addresses {
            // Bound as ComfyUI will: what is closing does not count, what listens does.
            TcpListener::bind(address).map_err(failed)?;
        }
    }
    Ok(())
}

/// Who listens on the port, on whatever address. `None` when nobody does, or it is another user's.
pub fn holder(port: u16) -> Option<Holder> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if has_socket(entry.path().join("fd"), &sockets) {
            return Some(Holder { pid, program: program(entry.path().join("cmdline")) });
        }
    }
    None
}

/// The inodes of the sockets that listen on the port, of a table in the form of `/proc/net/tcp` (proc(5)).
fn listening(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, "0A", ..] = fields[..] else { return None };
        let inode = fields.get(9).filter(|_| local.ends_with(&port))?;
        Some((*inode).to_owned())
    };
    table.lines().filter_map(of_line).collect()
}

fn has_socket(descriptors: PathBuf, sockets: &[String]) -> bool {
    let Ok(entries) = fs::read_dir(descriptors) else { return false };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|to| sockets.iter().any(|socket| to.as_os_str() == &**socket))
    })
}

fn program(command_line: PathBuf) -> String {
    let bytes = fs::read(command_line).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).take(3);
    words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1FFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1FFC 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
";
        assert_eq!(listening(table, 8188), ["4711"]);
        assert_eq!(listening(table, 80), ["4713"]);
        assert!(listening(table, 81).is_empty());
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let Err(RunError::PortTaken { holder: Some(holder), .. }) = check_free("127.0.0.1", port) else {
            panic!("port {port} is taken by this process");
        };
        assert_eq!(holder.pid, std::process::id());
        drop(listener);
        check_free("127.0.0.1", port).unwrap();
        let said = check_free("192.0.2.1", 1).unwrap_err().to_string();
        assert!(said.starts_with("cannot listen on 192.0.2.1, port 1: "), "{said}");
        assert!(free_port("127.0.0.1").unwrap() > 0);
    }
}
