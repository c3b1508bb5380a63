//! Importing an install whose models are larger than memory likes: cvs, which copies, takes SHA-256 and BLAKE3 and
//! makes it durable, and cvs with `--hardlink`, which only reads, against `b3sum` of the same files, which only reads
//! and writes nothing down. Everything is read from the disk; the peak of cvs's memory stands beside the times.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let fresh = || {
        lab.empty(&lab.home())?;
        if lab.can_drop_caches() { lab.drop_caches() } else { lab.settle() }
    };
    let peak = Cell::new(0);
    let import = |how: &[&str]| {
        let mut command = lab.cvs();
        command.arg("import").arg(&install).args(["--as", "import", "--environment", "skip"]).args(how);
        let (took, memory) = watched(&mut command)?;
        peak.set(peak.get().max(memory));
        Ok(took)
    };
    let mut peers = [
        Peer { name: "cvs", prepare: Box::new(fresh), body: Box::new(|| import(&[])) },
        Peer { name: "cvs --hardlink", prepare: Box::new(fresh), body: Box::new(|| import(&["--hardlink"])) },
        Peer::timed("b3sum", || {
            let line = r#"find "$1" -name .git -prune -o -type f -print0 | xargs -0 b3sum > /dev/null"#;
            shell::quiet(&mut lab.sh(line, &[&install]))
        })
        .after(fresh),
    ];
    let [ours, linked, b3sum] = lab.compare(&mut peers)?[..] else { return Ok(()) };
    drop(peers);
    let mut table = Table::new(&[
        "what",
        "cvs",
        "cvs --hardlink",
        "b3sum",
        "cvs / b3sum",
        "hardlink / b3sum",
        "peak of cvs",
    ]);
    table.row(vec![
        format!("install of {}", bytes(size)),
        time(ours),
        time(linked),
        time(b3sum),
        ratio(ours, b3sum),
        ratio(linked, b3sum),
        bytes(peak.get()),
    ]);
    table.print();
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

/// How long a command takes, and the most memory that it had, in bytes.
fn watched(command: &mut Command) -> Outcome<(Duration, u64)> {
    let log = std::env::temp_dir().join(format!("cvs-bench-{}", std::process::id()));
    let stderr = fs::File::create(&log).doing(|| format!("making {}", log.display()))?;
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .doing(|| format!("starting `{}`", shell::shown(command)))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // The kernel keeps the peak: the last answer before the end is nearly it.
        peak = peak.max(measure::kib(&status, "VmHWM").unwrap_or(0) << 10);
        if let Some(ended) = child.try_wait().doing(|| "waiting for cvs".to_owned())? {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let took = start.elapsed();
    let said = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    if !ended.success() {
        fail!("`{}` failed ({ended})\n{}", shell::shown(command), said.trim_end());
    }
    Ok((took, peak))
}
