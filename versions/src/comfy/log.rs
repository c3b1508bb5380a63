//! What a log tells of an end: its last lines, and the reason in plain words.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use super::error::RunError;

/// Lines that an error repeats.
pub(super) const TAIL: usize = 20;
/// Lines in which the reason is looked for.
const LOOKED_AT: usize = 60;
/// The most that is read from the end of a log.
const READ: u64 = 64 << 10;
/// The longest line that is repeated, in characters.
const LINE: usize = 400;

/// The last `count` lines of a log, from the byte `start` on; none when it cannot be read.
pub fn tail(log: &Path, start: u64, count: usize) -> Vec<String> {
    let lines = read_end(log, start).unwrap_or_default();
    let lines: Vec<String> = String::from_utf8_lossy(&lines)
        .lines()
        // A progress bar rewrites its line; what it showed last counts.
        .map(|line| line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("").trim_end().to_owned())
        .collect();
    let mut lines: Vec<String> = lines.into_iter().skip_while(String::is_empty).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let mut lines = lines.split_off(lines.len().saturating_sub(count));
    for line in &mut lines {
        if let Some((end, _)) = line.char_indices().nth(LINE) {
            line.truncate(end);
            line.push('…');
        }
    }
    lines
}

fn read_end(log: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(READ)).min(length)))?;
    let mut bytes = Vec::new();
    file.take(READ).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The error for a ComfyUI that ended by itself.
pub(super) fn crash(status: ExitStatus, log: &Path, start: u64) -> RunError {
    let mut tail = tail(log, start, LOOKED_AT);
    let reason = reason(status, &tail);
    RunError::Crashed { status, reason, tail: tail.split_off(tail.len().saturating_sub(TAIL)) }
}

/// Whether it ended because somebody else was faster to take its port.
pub(super) fn lost_port(error: &RunError) -> bool {
    matches!(error, RunError::Crashed { reason, .. } if reason == PORT_TAKEN)
}

const PORT_TAKEN: &str = "its port is in use";

/// Texts that stand in the log for one reason alone, wherever among the last lines they are.
const TELLING: [(&str, &str); 9] = [
    ("address already in use", PORT_TAKEN),
    (
        "Can't locate revision",
        "its database was written by a newer ComfyUI; give this version a user directory of its own",
    ),
    (
        "Torch not compiled with CUDA enabled",
        "its torch was built without CUDA; add --cpu, or choose another torch backend",
    ),
    ("Found no NVIDIA driver", "there is no NVIDIA driver; add --cpu, or run it where there is a GPU"),
    (
        "No CUDA GPUs are available",
        "there is no GPU that it may use; add --cpu, or run it where there is one",
    ),
    ("CUDA out of memory", "the GPU's memory is full"),
    ("OutOfMemoryError", "the GPU's memory is full"),
    ("No space left on device", "the disk is full"),
    ("Read-only file system", "it could not write where it must; its directories have to be writable"),
];

/// Why it ended, in plain words.
fn reason(status: ExitStatus, lines: &[String]) -> String {
    match status.signal() {
        Some(9) => return "it was killed; usually the kernel does that when memory runs out".to_owned(),
        Some(11) => return "it crashed (segmentation fault), in a compiled library".to_owned(),
        Some(6) => return "it aborted, in a compiled library".to_owned(),
        Some(2 | 15) => return "somebody asked it to end".to_owned(),
        _ => {}
    }
    let Some(last) = lines.iter().rev().find_map(|line| exception(line)) else {
        return telling(lines).map_or_else(|| "its log does not say why".to_owned(), str::to_owned);
    };
    if let Some(module) = last.split("No module named ").nth(1) {
        let module = module.split(';').next().unwrap_or(module).trim().trim_matches(['\'', '"']);
        return format!("the Python module {module} is missing: no package of its environment provides it");
    }
    if let Some(arguments) = last.split("unrecognized arguments: ").nth(1) {
        return format!("it does not know the argument {arguments}");
    }
    if last.starts_with("MemoryError") {
        return "memory ran out".to_owned();
    }
    telling(lines).map_or_else(|| last.to_owned(), str::to_owned)
}

fn telling(lines: &[String]) -> Option<&'static str> {
    let find = |line: &String| TELLING.iter().find(|(text, _)| line.contains(text));
    lines.iter().rev().find_map(find).map(|(_, reason)| *reason)
}

/// The line itself when it is the last of a traceback, `package.SomeError: words`, or an error of argparse.
fn exception(line: &str) -> Option<&str> {
    if let Some((_, error)) = line.split_once("main.py: error: ") {
        return Some(error);
    }
    let name = line.split(':').next()?;
    let last = name.rsplit('.').next()?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '.' || c == '_');
    let is_error = last.ends_with("Error") || last.ends_with("Exception") || last == "SystemExit";
    (is_name && is_error).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_recognised() {
        let failed = ExitStatus::from_raw(1 << 8);
        for (status, log, reason_told) in [
            (
                failed,
                "Traceback (most recent call last):\n  import x\nModuleNotFoundError: No module named 'torch'",
                "the Python module torch is missing: no package of its environment provides it",
            ),
            (
                failed,
                "usage: main.py\nmain.py: error: unrecognized arguments: --listn",
                "it does not know the argument --listn",
            ),
            (
                failed,
                "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
                "its port is in use",
            ),
            (
                failed,
                "Failed to initialize database: Can't locate revision identified by '2'",
                "its database was written by a newer ComfyUI; give this version a user directory of its own",
            ),
            (
                failed,
                "AssertionError: Torch not compiled with CUDA enabled",
                "its torch was built without CUDA; add --cpu, or choose another torch backend",
            ),
            (failed, "MemoryError", "memory ran out"),
            (failed, "torch.OutOfMemoryError: CUDA out of memory. Tried", "the GPU's memory is full"),
            (failed, "a\nValueError: what it is\nbye", "ValueError: what it is"),
            (
                failed,
                "Cannot import x module for custom nodes: No module named 'y'",
                "its log does not say why",
            ),
            (
                ExitStatus::from_raw(9),
                "anything",
                "it was killed; usually the kernel does that when memory runs out",
            ),
        ] {
            let lines: Vec<String> = log.lines().map(str::to_owned).collect();
            assert_eq!(reason(status, &lines), reason_told, "{log}");
        }
    }

    #[test]
    fn the_tail_is_of_this_run_and_short() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = "of the run before\n";
        let progress = "0%\r50%\r100%\n";
        std::fs::write(file.path(), format!("{before}\n\none\n{progress}{}\n\n", "x".repeat(500))).unwrap();
        let lines = tail(file.path(), before.len() as u64, 20);
        assert_eq!(lines, ["one", "100%", &format!("{}…", "x".repeat(400))]);
        assert_eq!(tail(file.path(), 0, 1).len(), 1);
        assert_eq!(tail(file.path(), 1 << 40, 9), Vec::<String>::new());
        assert_eq!(tail(Path::new("/nowhere/at/all"), 0, 9), Vec::<String>::new());
    }
}
