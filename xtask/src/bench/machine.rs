//! The machine that figures were taken on: without these facts a figure means nothing.

use std::path::Path;
use std::process::Command;

use super::measure;
use crate::failure::Outcome;
use crate::lab::Lab;
use crate::shell;
use crate::table::bytes;

/// A paragraph for the top of a report.
pub(super) fn facts(lab: &Lab) -> Outcome<String> {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = measure::kib("/proc/meminfo", "MemTotal").map_or("?".to_owned(), |kib| bytes(kib * 1024));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let disk =
        shell::output(Command::new("findmnt").args(["-n", "-o", "FSTYPE,SOURCE", "-T"]).arg(lab.dir()))?;
    let disk: Vec<&str> = disk.split_whitespace().collect();
    let cvs = shell::output(lab.cvs().arg("--version"))?;
    let rounds = match lab.runs() {
        1 => "one round, figures are not medians".to_owned(),
        n => format!("medians of {n} rounds"),
    };
    let cold =
        if lab.can_drop_caches() { "cold after drop_caches" } else { "no cold figures (they need root)" };
    let size = if lab.is_quick() { "; quick: small data, figures only prove that it runs" } else { "" };
    Ok(format!(
        "{}; Linux {}; {cores} × {cpu}; {memory} memory; {}; {rounds}; {cold}{size}.\n",
        cvs.trim(),
        kernel.trim(),
        disk.join(" on "),
    ))
}

/// The first value of `name` in a file of `name : value` lines.
fn field(file: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
