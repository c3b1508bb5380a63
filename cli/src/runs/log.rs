//! The log of a version's ComfyUI, `CVS_HOME/run/log/ui-NAME.log`: one for all its runs, each behind a line that says
//! which it is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::RunsError;
use crate::format;
use crate::logs;

/// What the first line of a run begins with.
const HEAD: &str = "=== cvs: ";
/// How far back the beginning of the last run is looked for.
const LOOK_BACK: u64 = 8 << 20;

/// The log of a run's name.
pub(crate) fn path(home: &Path, name: &str) -> PathBuf {
    logs::path(home, &format!("ui-{name}"))
}

/// Begins a run in the log; where, in bytes.
pub(crate) fn begin(path: &Path, version: &str, view: &str) -> Result<u64, RunsError> {
    let mut file = logs::open(path).map_err(|(op, source)| RunsError::io(op, path)(source))?;
    let begin = file.metadata().map_err(RunsError::io("look at", path))?.len();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
    let line = format!("{HEAD}{version}, view {}, {now}\n", format::short(view));
    file.write_all(line.as_bytes()).map_err(RunsError::io("write", path))?;
    Ok(begin + line.len() as u64)
}

/// Where the last run begins in a log; at its start when no beginning is found.
pub(crate) fn last_run(path: &Path) -> Result<u64, RunsError> {
    let mut file = File::open(path).map_err(RunsError::io("open", path))?;
    let length = file.metadata().map_err(RunsError::io("look at", path))?.len();
    let from = length.saturating_sub(LOOK_BACK);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(RunsError::io("read", path))?;
    Ok(from + after_last_head(&bytes) as u64)
}

fn after_last_head(bytes: &[u8]) -> usize {
    let (mut at, mut found) = (0, 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        at += line.len();
        if line.starts_with(HEAD.as_bytes()) {
            found = at;
        }
    }
    found
}

/// What stands in a log behind `start`.
pub(crate) fn text(path: &Path, start: u64) -> Result<String, RunsError> {
    let mut file = File::open(path).map_err(RunsError::io("open", path))?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(RunsError::io("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where the last `count` lines behind `start` begin.
pub(crate) fn last_lines(path: &Path, start: u64, count: usize) -> Result<u64, RunsError> {
    const CHUNK: u64 = 64 << 10;
    let mut file = File::open(path).map_err(RunsError::io("open", path))?;
    let mut end = file.metadata().map_err(RunsError::io("look at", path))?.len();
    let (mut seen, mut is_last) = (0, true);
    while end > start {
        let from = end.saturating_sub(CHUNK).max(start);
        let mut bytes = vec![0; (end - from) as usize];
        file.seek(SeekFrom::Start(from))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(RunsError::io("read", path))?;
        for (index, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let at = from + index as u64 + 1;
            // The newline at the very end begins no line.
            if is_last && at == end {
                is_last = false;
                continue;
            }
            seen += 1;
            if seen == count {
                return Ok(at);
            }
        }
        is_last = false;
        end = from;
    }
    Ok(start)
}

/// A log that is read as it grows.
pub(crate) struct Follow {
    path: PathBuf,
    file: File,
    at: u64,
}

impl Follow {
    /// From a byte on.
    pub(crate) fn new(path: &Path, from: u64) -> Result<Self, RunsError> {
        let file = File::open(path).map_err(RunsError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, at: from })
    }

    /// What came since the last time, at most a piece of it; empty when nothing did.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, RunsError> {
        const PIECE: u64 = 256 << 10;
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(self.at)).and_then(|_| {
            let piece: &File = &self.file;
            piece.take(PIECE).read_to_end(&mut bytes)
        });
        self.at += read.map_err(RunsError::io("read", &self.path))? as u64;
        Ok(bytes)
    }

    /// Whether the name stands for another file by now, because the log was set aside.
    pub(crate) fn is_old(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let id = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|m| (m.dev(), m.ino()));
        let named = id(fs::metadata(&self.path));
        named.is_some() && named != id(self.file.metadata())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_behind_its_head() {
        assert_eq!(after_last_head(b""), 0);
        assert_eq!(after_last_head(b"no head\n"), 0);
        assert_eq!(after_last_head(b"=== cvs: a\nx\n=== cvs: b\ny\n"), 24);
    }

    #[test]
    fn the_last_lines_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (text, start, count, expected) in [
            ("a\nb\nc\n", 0, 2, "b\nc\n"),
            ("a\nb\nc", 0, 2, "b\nc"),
            ("a\nb\nc\n", 0, 9, "a\nb\nc\n"),
            ("a\nb\nc\n", 2, 9, "b\nc\n"),
            ("a\n\n\n", 0, 2, "\n\n"),
            ("", 0, 1, ""),
        ] {
            fs::write(&path, text).unwrap();
            let at = last_lines(&path, start, count).unwrap();
            assert_eq!(&text[at as usize..], expected, "{text:?} {count}");
        }
        let long = "0123456789\n".repeat(50_000);
        fs::write(&path, &long).unwrap();
        assert_eq!(last_lines(&path, 0, 20_000).unwrap(), 30_000 * 11);
    }
}
