//! [fsx](https://crates.io/crates/fsx), the file system exerciser: random operations on one file, each checked against
//! what the file must hold. A seed makes a run the same on every filesystem.

use std::path::Path;

use super::report::Tally;
use super::{Findings, MERGED, OWN, Site, finish, write};
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;

const SEEDS: [u64; 3] = [1, 20, 300];

/// No length is 0, which posix_fallocate refuses and fsx does not expect.
const COMMON: &str = "
flen = 262144
[opsize]
max = 65536
min = 1
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
fsync = 0.2
fdatasync = 0.2
invalidate = 1
punch_hole = 2
sendfile = 3
copy_file_range = 3
posix_fadvise = 1
";

/// Everything that fsx can do; it begins by cutting the file to nothing.
const ANY: &str = "
close_open = 1
truncate = 3
posix_fallocate = 1
";

/// Everything that leaves the file as long as it is; with `blockmode`, fsx keeps what the file held.
const IN_PLACE: &str = "
close_open = 0
truncate = 0
posix_fallocate = 0
";

struct Exercise {
    place: &'static str,
    config: fn() -> String,
    dir: &'static str,
    file: &'static str,
}

const EXERCISES: [Exercise; 3] = [
    Exercise { place: "new file", config: any, dir: OWN, file: "new" },
    Exercise { place: "file of the view", config: any, dir: MERGED, file: "any" },
    Exercise { place: "file of the view, in place", config: in_place, dir: MERGED, file: "in-place" },
];

fn any() -> String {
    format!("{COMMON}{ANY}")
}

fn in_place() -> String {
    format!("blockmode = true{COMMON}{IN_PLACE}")
}

/// Makes the files of the view, in the directory that is merged.
pub(super) fn furnish(dir: &Path) -> Outcome {
    let bytes: Vec<u8> = (0..262_144u32).map(|at| (at % 251) as u8).collect();
    for exercise in EXERCISES.iter().filter(|exercise| exercise.dir == MERGED) {
        for seed in SEEDS {
            let path = dir.join(format!("{}-{seed}", exercise.file));
            std::fs::write(&path, &bytes).doing(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

pub(super) fn run(lab: &Lab, site: &Site) -> Outcome<Findings> {
    let (operations, seeds) = if lab.is_quick() { ("2000", &SEEDS[..1]) } else { ("20000", &SEEDS[..]) };
    let work = lab.work("config")?;
    let mut found = Vec::new();
    for exercise in &EXERCISES {
        let config = work.join(format!("fsx-{}.toml", exercise.file));
        write(&config, &[(exercise.config)().as_bytes()])?;
        let mut tally = Tally::default();
        for seed in seeds {
            let file = site.root.join(exercise.dir).join(format!("{}-{seed}", exercise.file));
            let log = format!("fsx {} {} {seed}", site.filesystem, exercise.file);
            let end = finish(lab, &log, "fsx", |command| {
                command.args(["-N", operations, "-S", &seed.to_string(), "-f"]).arg(&config);
                command.arg("-P").arg(&work).arg(file);
            })?;
            match end.status.success() {
                true => tally.passed += 1,
                false => tally.failed.push(format!("seed {seed}")),
            }
        }
        found.push((exercise.place, tally));
    }
    Ok(found)
}
