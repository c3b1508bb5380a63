//! The mounted filesystem against the native one, kernel overlayfs and fuse-overlayfs: one table, in which every line has
//! the aim that it is measured by.
//!
//! Every place shows the same tree: a version that was ingested from a directory, that directory itself, and the two
//! overlay filesystems over it. A figure is the median of interleaved rounds. `fs:PART` runs one part.

mod imports;
mod models;
mod mounts;
mod places;
mod report;
mod walks;
mod writes;

use self::report::Report;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::project::is_root;

/// A part: its name, and what fills in its lines.
type Part = (&'static str, fn(&Lab, &mut Report) -> Outcome);

const PARTS: &[Part] = &[
    ("models", models::run),
    ("imports", imports::run),
    ("walks", walks::run),
    ("files", writes::files),
    ("sqlite", writes::sqlite),
    ("large", writes::large),
    ("mounts", mounts::run),
];

/// What can follow `fs:`.
pub(super) fn parts() -> impl Iterator<Item = &'static str> {
    PARTS.iter().map(|(name, _)| *name)
}

/// Below this much free space the large file is one of 1 GiB: there are up to five of it at a time.
const ROOMY: u64 = 30 << 30;

pub(super) fn run(lab: &Lab) -> Outcome {
    let parts = lab.parts();
    if !is_root() {
        println!(
            "Kernel overlayfs, the connection with passthrough and cold caches need root: without, their figures are missing.\n"
        );
    }
    let mut report = Report::new();
    let mut outcome = Ok(());
    for (name, part) in PARTS.iter().filter(|(name, _)| parts.is_empty() || parts.iter().any(|p| p == name)) {
        eprintln!("  {name}");
        let done = part(lab, &mut report);
        lab.clear();
        // What was measured is shown, whatever came after it.
        if let Err(failure) = done {
            outcome = Err(failure);
            break;
        }
    }
    report.print(lab);
    outcome
}

/// The size of the large file.
fn large(lab: &Lab) -> Outcome<u64> {
    let full = if lab.free_space()? < ROOMY { 1 << 30 } else { 4 << 30 };
    Ok(lab.size(full, 256 << 20))
}
