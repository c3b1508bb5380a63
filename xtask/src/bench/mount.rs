//! How long a mount takes until it is usable, and what memory its daemon holds after everything was looked at, by the
//! number of entries of the version.

use std::path::Path;
use std::time::Duration;

use super::measure::{self, Peer, clock};
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, aim, bytes, time};

pub(super) fn run(lab: &Lab) -> Outcome {
    let mut table = Table::new(&[
        "entries",
        "mount, cold",
        "mount, warm",
        "find",
        "resident after mount",
        "resident after find",
        "per entry",
    ]);
    let mut at_100k = None;
    for entries in [1_000, 100_000, lab.size(1_000_000, 200_000)] {
        let id = format!("synth-{entries}");
        shell::quiet(lab.cvs().args(["debug", "synth", &id, "--entries", &entries.to_string()]))?;
        let at = lab.work("mnt")?.join(&id);
        std::fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;

        let cold = if lab.can_drop_caches() { Some(mount_time(lab, &id, &at, true)?) } else { None };
        let warm = mount_time(lab, &id, &at, false)?;
        if entries == 100_000 {
            at_100k = Some(warm);
        }

        shell::quiet(lab.cvs().args(["mount", &id]).arg(&at))?;
        let pid = daemon(lab, &at)?;
        let before = resident(pid)?;
        let find = clock(|| shell::quiet(&mut lab.sh(r#"find "$1" -ls > /dev/null"#, &[&at])))?;
        let after = resident(pid)?;
        lab.umount(&at)?;
        table.row(vec![
            entries.to_string(),
            cold.map_or("-".to_owned(), time),
            time(warm),
            time(find),
            bytes(before),
            bytes(after),
            bytes(after / entries),
        ]);
    }
    table.print();
    if let Some(warm) = at_100k {
        aim("mounted within 100 ms at 100,000 entries", warm <= Duration::from_millis(100));
    }
    Ok(())
}

/// From the call of `cvs mount` to the first answer from the mount.
pub(super) fn mount_time(lab: &Lab, id: &str, at: &Path, cold: bool) -> Outcome<Duration> {
    let mut mounted = false;
    let peer = Peer {
        name: "cvs mount",
        prepare: Box::new(|| {
            if mounted {
                lab.umount(at)?;
            }
            mounted = true;
            if cold { lab.drop_caches() } else { Ok(()) }
        }),
        body: Box::new(|| {
            clock(|| {
                shell::quiet(lab.cvs().args(["mount", id]).arg(at))?;
                std::fs::read_dir(at).map(drop).doing(|| format!("listing {}", at.display()))
            })
        }),
    };
    let median = lab.compare(&mut [peer])?[0];
    lab.umount(at)?;
    Ok(median)
}

/// The process that serves the mount, as `cvs mounts --json` tells it.
pub(super) fn daemon(lab: &Lab, at: &Path) -> Outcome<u64> {
    let listing = shell::output(lab.cvs().args(["mounts", "--json"]))?;
    // One mount is alive at a time, so that the only `pid` is its daemon's.
    let digits = listing.split_once("\"pid\"").map(|(_, rest)| {
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect::<String>()
    });
    match digits.and_then(|d| d.parse().ok()) {
        Some(pid) => Ok(pid),
        None => fail!("`cvs mounts --json` names no pid for {}:\n{}", at.display(), listing.trim()),
    }
}

/// Memory of a process that is in RAM, in bytes.
pub(super) fn resident(pid: u64) -> Outcome<u64> {
    match measure::kib(&format!("/proc/{pid}/status"), "VmRSS") {
        Some(kib) => Ok(kib * 1024),
        None => fail!("process {pid}, which served the mount, is gone"),
    }
}
