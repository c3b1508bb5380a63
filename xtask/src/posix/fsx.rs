//! [fsx](https://crates.io/crates/fsx), the file system exerciser: random operations on one file, each checked against
//! what the file must hold. A seed makes a run the same on every filesystem.
//!
//! fsx leaves what it maps for reading mapped, and the kernel walks all mappings of a file to write back, cut or punch
//! it: a run gets slower by the square of its operations, on every filesystem. So the operations of a seed are several
//! runs, each on a file of its own.

use std::path::Path;
use std::time::Duration;

use super::program::{Job, finish_all};
use super::report::Tally;
use super::site::Role;
use super::{MERGED, MODELS, OWN, Place, Run};
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;

/// The first run of a seed has that seed, each further run the next number.
const SEEDS: [u64; 5] = [1, 20, 300, 4000, 50000];
const RUNS: u64 = 10;
/// Peers are there to compare with, and one of them takes ten times as long.
const RUNS_OF_PEERS: u64 = 1;
/// Of a run. Up to here its time is proportional to them.
const OPERATIONS: u64 = 20_000;
const OPERATIONS_WHEN_QUICK: u64 = 2_000;

const PATIENCE: Duration = Duration::from_secs(600);
/// Runs at once: they wait for the disk most of the time.
const WIDTH: usize = 5;

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
fsync = 0.1
fdatasync = 0.1
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

/// Everything that leaves the file as long as it is; with `blockmode`, fsx begins by writing zeros over it.
const IN_PLACE: &str = "
close_open = 0
truncate = 0
posix_fallocate = 0
";

struct Exercise {
    name: &'static str,
    place: Place,
    in_place: bool,
    /// Whether the tree below has the file.
    lower: bool,
    file: &'static str,
}

const EXERCISES: [Exercise; 5] = [
    Exercise { name: "new file", place: OWN, in_place: false, lower: false, file: "new" },
    Exercise { name: "lower file", place: MERGED, in_place: false, lower: true, file: "any" },
    Exercise { name: "lower file, in place", place: MERGED, in_place: true, lower: true, file: "in-place" },
    Exercise { name: "new file in models/", place: MODELS, in_place: false, lower: false, file: "new" },
    Exercise {
        name: "lower file in models/, in place",
        place: MODELS,
        in_place: true,
        lower: true,
        file: "in-place",
    },
];

impl Exercise {
    /// What fsx is to do. A lazy run leaves mapped pages dirty, where it otherwise flushes each at once.
    fn config(&self, lazy: bool) -> String {
        let lazy = if lazy { "nomsyncafterwrite = true" } else { "" };
        match self.in_place {
            true => format!("blockmode = true\n{lazy}{COMMON}{IN_PLACE}"),
            false => format!("{lazy}{COMMON}{ANY}"),
        }
    }
}

/// Makes the files of a place of the tree below.
pub(super) fn furnish(dir: &Path, place: Place) -> Outcome {
    let bytes: Vec<u8> = (0..262_144u32).map(|at| (at % 251) as u8).collect();
    for exercise in EXERCISES.iter().filter(|exercise| exercise.place == place && exercise.lower) {
        for seed in seeds_of_runs(&SEEDS, RUNS) {
            let path = dir.join(format!("{}-{seed}", exercise.file));
            std::fs::write(&path, &bytes).doing(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The seeds of all runs.
fn seeds_of_runs(seeds: &[u64], runs: u64) -> Vec<u64> {
    seeds.iter().flat_map(|seed| *seed..*seed + runs).collect()
}

fn runs(lab: &Lab, role: Role) -> u64 {
    lab.size(if role == Role::Peer { RUNS_OF_PEERS } else { RUNS }, 1)
}

fn operations(lab: &Lab) -> u64 {
    lab.size(OPERATIONS, OPERATIONS_WHEN_QUICK)
}

/// How many operations a seed has.
pub(super) fn about(lab: &Lab) -> String {
    let [ours, peers] = [Role::Ours, Role::Peer].map(|role| operations(lab) * runs(lab, role));
    let of_peers = if ours == peers { String::new() } else { format!(" ({peers} on peers)") };
    format!("{ours}{of_peers} operations a seed, in runs of {}", operations(lab))
}

pub(super) fn run(run: &mut Run<'_>) -> Outcome {
    let seeds = if run.lab.is_quick() { &SEEDS[..2] } else { &SEEDS[..] };
    let seeds = seeds_of_runs(seeds, runs(run.lab, run.site.role));
    let work = run.lab.work("config")?;
    for exercise in &EXERCISES {
        let job = |(number, seed): (usize, &u64)| {
            let lazy = number.is_multiple_of(2);
            let config = work.join(format!("fsx-{}-{seed}.toml", exercise.file));
            std::fs::write(&config, exercise.config(lazy))
                .doing(|| format!("writing {}", config.display()))?;
            let artifacts = run.lab.work(&format!("fsx-{seed}"))?;
            let mut command = run.lab.command("fsx");
            command.args(["-N", &operations(run.lab).to_string(), "-S", &seed.to_string()]);
            command.arg("-f").arg(&config).arg("-P").arg(artifacts);
            command.arg(run.site.at(exercise.place).join(format!("{}-{seed}", exercise.file)));
            let log = format!("fsx {} {} {seed}", run.site.filesystem, exercise.name);
            Ok(Job { log, command, patience: PATIENCE })
        };
        let jobs = seeds.iter().enumerate().map(job).collect::<Outcome<Vec<_>>>()?;
        let mut tally = Tally::default();
        for (seed, end) in seeds.iter().zip(finish_all(run.lab, WIDTH, jobs)?) {
            match end.status.success() {
                true => tally.passed += 1,
                false => tally.failed.push(format!("seed {seed}")),
            }
        }
        run.found(exercise.name, tally);
    }
    Ok(())
}
