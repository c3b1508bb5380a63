//! Until a mount can be used, and what its daemon holds in memory, by the number of entries.

use std::time::Duration;

use super::report::Report;
use crate::bench::mount::{daemon, mount_time, resident};
use crate::failure::{Doing, Outcome};
use crate::lab::Lab;
use crate::shell;
use crate::table::{bytes, time};

/// What a mount of next to nothing holds is not the entries'.
const LEAST: u64 = 100;

pub(super) fn run(lab: &Lab, report: &mut Report) -> Outcome {
    let (bare, _) = memory(lab, LEAST)?;
    for (entries, limit) in [(60_000, 20), (lab.size(1_000_000, 200_000), 200)] {
        let (untouched, touched) = memory(lab, entries)?;
        let (id, at) = made(lab, entries)?;
        let warm = mount_time(lab, &id, &at, false)?;
        let aim = format!("≤ {limit} ms");
        report.figure(
            format!("mount ready at {entries} entries, warm"),
            time(warm),
            &aim,
            warm <= Duration::from_millis(limit),
        );
        let each = |resident: u64| resident.saturating_sub(bare) as f64 / entries as f64;
        report.figure(
            format!("resident per entry, {entries} untouched"),
            format!("{:.1} B", each(untouched)),
            "≤ 8 B",
            each(untouched) <= 8.0,
        );
        report.figure(
            format!("resident per entry, {entries} touched"),
            format!("{:.1} B", each(touched)),
            "≤ 150 B",
            each(touched) <= 150.0,
        );
        if lab.can_drop_caches() {
            let cold = mount_time(lab, &id, &at, true)?;
            report.note(format!("Cold, a mount of {entries} entries is ready after {}.", time(cold)));
        }
    }
    report.note(format!(
        "A daemon with {LEAST} entries holds {}; it is not counted to the entries.",
        bytes(bare)
    ));
    Ok(())
}

fn made(lab: &Lab, entries: u64) -> Outcome<(String, std::path::PathBuf)> {
    let id = format!("synth-{entries}");
    let at = lab.work("mnt")?.join(&id);
    std::fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
    Ok((id, at))
}

/// What the daemon holds just after mounting, and after every entry was looked at.
fn memory(lab: &Lab, entries: u64) -> Outcome<(u64, u64)> {
    let (id, at) = made(lab, entries)?;
    shell::quiet(lab.cvs().args(["debug", "synth", &id, "--entries", &entries.to_string()]))?;
    shell::quiet(lab.cvs().args(["mount", &id]).arg(&at))?;
    let pid = daemon(lab, &at)?;
    let untouched = resident(pid)?;
    shell::quiet(&mut lab.sh(r#"find "$1" -ls > /dev/null"#, &[&at]))?;
    let touched = resident(pid)?;
    lab.umount(&at)?;
    Ok((untouched, touched))
}
