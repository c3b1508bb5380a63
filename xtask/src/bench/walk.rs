//! Listing a large tree with `find -ls` and reading all its files, cold and warm: through the mount, natively, and
//! through the two overlay filesystems that people put over shared files today.

use std::path::{Path, PathBuf};

use super::data;
use super::measure::Peer;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::project::is_root;
use crate::shell;
use crate::table::{Table, ratio, time};

const LIST: &str = r#"find "$1" -ls > /dev/null"#;
const READ: &str = r#"find "$1" -type f -exec cat {} + > /dev/null"#;

pub(super) fn run(lab: &Lab) -> Outcome {
    let source = data::tree(lab, lab.size(30_000, 1_000))?;
    shell::quiet(lab.cvs().args(["debug", "ingest"]).arg(&source).args(["--as", "walk"]))?;
    let places = places(lab, &source)?;

    let mut heading = vec!["what"];
    heading.extend(places.iter().map(|(name, _)| *name));
    heading.extend(["cvs / native", "cvs / fuse-overlayfs"]);
    let mut table = Table::new(&heading);
    let states: &[bool] = if lab.can_drop_caches() { &[true, false] } else { &[false] };
    for (what, line) in [("find -ls", LIST), ("read every file", READ)] {
        for cold in states.iter().copied() {
            let mut peers: Vec<Peer<'_>> =
                places.iter().map(|(name, dir)| peer(lab, name, dir, cold, line)).collect();
            let medians = lab.compare(&mut peers)?;
            let of = |name: &str| places.iter().position(|(n, _)| *n == name).map(|at| medians[at]);
            let mut row = vec![format!("{what}, {}", if cold { "cold" } else { "warm" })];
            row.extend(medians.iter().map(|m| time(*m)));
            for other in ["native", "fuse-overlayfs"] {
                row.push(of(other).map_or("-".to_owned(), |other| ratio(medians[0], other)));
            }
            table.row(row);
        }
    }
    table.print();
    for (_, dir) in places.iter().skip(2) {
        shell::quiet(lab.command("umount").arg(dir))?;
    }
    lab.umount(&places[0].1)
}

/// Where the same tree can be seen: ours first, native second, then those that had to be mounted.
fn places(lab: &Lab, source: &Path) -> Outcome<Vec<(&'static str, PathBuf)>> {
    let mut places = vec![("cvs", lab.mount("walk", &[])?), ("native", source.to_path_buf())];
    if is_root() {
        places.push(("overlayfs", lab.overlayfs(source)?));
    } else {
        println!("overlayfs is left out: mounting it needs root.\n");
    }
    places.push(("fuse-overlayfs", lab.fuse_overlayfs(source)?));
    Ok(places)
}

fn peer<'a>(lab: &'a Lab, name: &'static str, dir: &'a Path, cold: bool, line: &'static str) -> Peer<'a> {
    let body = move || shell::quiet(&mut lab.sh(line, &[dir]));
    // Warm is the second of two equal walks.
    Peer::timed(name, body).after(move || if cold { lab.drop_caches() } else { body() })
}
