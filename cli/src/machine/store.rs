//! The store's place: its filesystem, its space, its index, who works in it, and whether its versions can be read.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cvs_store::{LeaseInfo, LeaseKind, Store};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::Finding;
use crate::context::Context;
use crate::format;

/// Less than this is too little for the next model.
const LITTLE_SPACE: u64 = 10 << 30;
/// The first bytes of every SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

pub(super) fn examine(context: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    let store = match context.store() {
        Ok(store) => store,
        Err(error) => {
            let advice = "name another place with --home DIR or CVS_HOME, or mend this one";
            findings.push(Finding::broken("store", error.to_string(), advice));
            findings.push(versions(context));
            return findings;
        }
    };
    findings.push(Finding::ok("store", store.home().display().to_string()));
    findings.push(space(store.home()));
    findings.push(reflink(store));
    findings.push(xattrs(store.home()));
    findings.push(index(store));
    findings.push(leases(store));
    findings.push(versions(context));
    findings
}

fn space(home: &Path) -> Finding {
    const NAME: &str = "space";
    match rustix::fs::statvfs(home) {
        Err(error) => Finding::broken(NAME, format!("cannot ask: {error}"), "look at the filesystem"),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let all = stat.f_blocks.saturating_mul(stat.f_frsize);
            let found = format!("{} free of {}", format::bytes(free), format::bytes(all));
            if free < LITTLE_SPACE {
                return Finding::absent(NAME, found, "`cvs gc --grace 0` frees what no version needs");
            }
            Finding::ok(NAME, found)
        }
    }
}

/// Really clones a file, in a directory of a transaction that takes it away again.
fn reflink(store: &Store) -> Finding {
    const NAME: &str = "reflink";
    let without = "local files are copied into the store; btrfs, xfs and bcachefs would share their blocks";
    let attempt = || -> Result<Result<(), Errno>, String> {
        let transaction = store.begin("doctor").map_err(|error| error.to_string())?;
        let dir = transaction.scratch_dir().map_err(|error| error.to_string())?;
        let make = || -> std::io::Result<(File, File)> {
            let mut source = File::create_new(dir.join("source"))?;
            source.write_all(&[7; 4096])?;
            Ok((File::open(dir.join("source"))?, File::create_new(dir.join("clone"))?))
        };
        let (source, clone) = make().map_err(|error| error.to_string())?;
        Ok(rustix::fs::ioctl_ficlone(&clone, &source))
    };
    match attempt() {
        Ok(Ok(())) => Finding::ok(NAME, "the store's filesystem shares blocks between files"),
        Ok(Err(error)) => {
            Finding::absent(NAME, format!("the store's filesystem does not share blocks ({error})"), without)
        }
        Err(error) => {
            Finding::broken(NAME, error, "make the home directory writable, or name another --home")
        }
    }
}

/// Sets one on a file without a name.
fn xattrs(home: &Path) -> Finding {
    const NAME: &str = "xattrs";
    let overlays = home.join("overlays");
    let dir: PathBuf = if overlays.is_dir() { overlays } else { home.to_owned() };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(error) => {
            return Finding::absent(
                NAME,
                format!("cannot try in {}: {error}", dir.display()),
                "when a mount refuses its overlay, name another place with --overlay DIR",
            );
        }
    };
    match rustix::fs::fsetxattr(&file, "user.cvs.doctor", b"1", XattrFlags::CREATE) {
        Ok(()) => Finding::ok(NAME, format!("{} keeps extended attributes", dir.display())),
        Err(error) => Finding::broken(
            NAME,
            format!("{} keeps no extended attributes ({error}), which overlays need", dir.display()),
            "place overlays elsewhere: another --home, or `cvs mount --overlay DIR`",
        ),
    }
}

fn index(store: &Store) -> Finding {
    const NAME: &str = "index";
    let path = store.index().path();
    let mut head = [0; 16];
    match File::open(path).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) if head == *SQLITE_MAGIC => {
            let size = fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0);
            Finding::ok(NAME, format!("{} of SQLite", format::bytes(size)))
        }
        Ok(()) => Finding::absent(
            NAME,
            format!("{} is no SQLite file", path.display()),
            "nothing is lost: `cvs fsck --rebuild-index`, or the next command, makes it anew",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::ok(NAME, "none yet"),
        Err(error) => Finding::absent(
            NAME,
            format!("cannot read {}: {error}", path.display()),
            "nothing is lost: `cvs fsck --rebuild-index` makes it anew",
        ),
    }
}

fn leases(store: &Store) -> Finding {
    const NAME: &str = "leases";
    match store.leases() {
        Ok(leases) if leases.is_empty() => Finding::ok(NAME, "nothing is mounted"),
        Ok(leases) => Finding::ok(NAME, leases.iter().map(describe_lease).collect::<Vec<_>>().join(", ")),
        Err(error) => Finding::broken(NAME, error.to_string(), "make the home directory readable"),
    }
}

fn describe_lease(lease: &LeaseInfo) -> String {
    let doing = match lease.kind {
        LeaseKind::Mount => "mounted",
        LeaseKind::Transaction => "being stored",
    };
    format!("{} {doing} by process {}", lease.label, lease.pid)
}

fn versions(context: &Context) -> Finding {
    const NAME: &str = "versions";
    let versions = context.versions_dir();
    let advice = "mend or move away what is named: gc refuses to run while a spec cannot be read";
    let ids = match versions.list() {
        Ok(ids) => ids,
        Err(error) => return Finding::broken(NAME, error.to_string(), advice),
    };
    let broken: Vec<String> = ids
        .iter()
        .filter_map(|id| versions.read(id, Default::default()).err())
        .map(|error| error.to_string().replace('\n', " "))
        .collect();
    if broken.is_empty() {
        let found = format::counted(ids.len() as u64, "version");
        return Finding::ok(NAME, format!("{found} in {}", versions.path().display()));
    }
    Finding::broken(NAME, broken.join("; "), advice)
}
