//! Importing an install that fills the memory: cvs, which takes SHA-256 and BLAKE3 on the way and makes it durable.
//! With `--hardlink` it only reads, as `b3sum` of the same files does; what it copies otherwise stands beside `cp` with
//! a sync. Everything is read from the disk, and the peak of cvs's memory stands beside the times.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use super::data;
use super::measure::{self, Peer};
use super::run::commit;
use crate::failure::{Doing, Outcome, fail};
use crate::lab::Lab;
use crate::shell;
use crate::table::{Table, bytes, ratio, time};

/// What the install weighs, where the disk has room for it and for its copy.
const SIZE: u64 = 20 << 30;
/// Stays free.
const ROOM: u64 = 4 << 30;
/// The files below `models/`, in parts of 512 of the whole: a few large ones, as installs have them, and a shelf of
/// small ones.
const MODELS: [(&str, u64, u64); 5] = [
    ("diffusion_models", 1, 160),
    ("checkpoints", 2, 112),
    ("text_encoders", 1, 64),
    ("vae", 2, 16),
    ("loras", 32, 1),
];

pub(super) fn run(lab: &Lab) -> Outcome {
    let room = lab.free_space()?.saturating_sub(ROOM) / 2;
    let size = match lab.gib() {
        Some(gib) if gib << 30 > room => {
            fail!("{gib} GiB and a copy do not fit: there is room for {}", bytes(room))
        }
        Some(gib) => gib << 30,
        None => lab.size(SIZE.min(room), 256 << 20),
    };
    let install = make(lab, size)?;
    let copy = lab.work("copy")?;
    let fresh = || {
        lab.empty(&lab.home())?;
        lab.empty(&copy)?;
        if lab.can_drop_caches() { lab.drop_caches() } else { lab.settle() }
    };
    let peak = Cell::new(0);
    let import = |how: &[&str]| {
        let mut command = lab.cvs();
        command.arg("import").arg(&install).args(["--as", "import", "--environment", "skip"]).args(how);
        let (took, memory) = measure::watched(&mut command)?;
        peak.set(peak.get().max(memory));
        Ok(took)
    };
    let sums = r#"find "$1" -name .git -prune -o -type f -print0 | xargs -0 b3sum > /dev/null"#;
    let mut peers = [
        Peer { name: "cvs --hardlink", prepare: Box::new(fresh), body: Box::new(|| import(&["--hardlink"])) },
        Peer::timed("b3sum", || shell::quiet(&mut lab.sh(sums, &[&install]))).after(fresh),
        Peer { name: "cvs", prepare: Box::new(fresh), body: Box::new(|| import(&[])) },
        Peer::timed("cp -a, sync", || {
            shell::quiet(&mut lab.sh(r#"cp -a "$1" "$2/copy"; sync -f "$2""#, &[&install, &copy]))
        })
        .after(fresh),
    ];
    let [linked, b3sum, copied, cp] = lab.compare(&mut peers)?[..] else { return Ok(()) };
    drop(peers);
    let mut table = Table::new(&["install", "how", "cvs", "peer", "cvs / peer"]);
    for (how, ours, peer, theirs) in
        [("--hardlink", linked, "b3sum", b3sum), ("a copy", copied, "cp -a, sync", cp)]
    {
        let peer = format!("{peer}: {}", time(theirs));
        table.row(vec![bytes(size), how.to_owned(), time(ours), peer, ratio(ours, theirs)]);
    }
    table.print();
    println!("Peak of cvs's memory: {}\n", bytes(peak.get()));
    Ok(())
}

/// An install of `size` bytes in the laboratory's work, which goes with it: nobody wants to keep that much.
fn make(lab: &Lab, size: u64) -> Outcome<PathBuf> {
    let install = lab.work("install")?.join("ComfyUI");
    let template = lab.root().join("tests/comfyui/core");
    shell::quiet(
        &mut lab.sh(r#"cp -a "$1" "$2" && mv "$2/gitignore" "$2/.gitignore""#, &[&template, &install]),
    )?;
    commit(lab, &install)?;
    for (folder, count, parts) in MODELS {
        let dir = install.join("models").join(folder);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        for number in 0..count {
            let file = dir.join(format!("model{number:02}.safetensors"));
            // Sizes are what tells their contents apart.
            let length = size / 512 * parts - number;
            data::incompressible(&file, length).doing(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(install)
}
