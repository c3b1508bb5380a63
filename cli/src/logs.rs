//! Log files, `CVS_HOME/run/log/NAME.log`: appended to, and set aside as `NAME.log.old` when they have grown too long.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A log that grew beyond this is set aside when it is opened next.
const LIMIT: u64 = 8 << 20;

/// Where a log lies.
pub(crate) fn path(home: &Path, name: &str) -> PathBuf {
    home.join("run/log").join(format!("{name}.log"))
}

/// Opens a log to append to it; the operation that failed, and why.
pub(crate) fn open(path: &Path) -> Result<File, (&'static str, io::Error)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| ("make the directory of", error))?;
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LIMIT) {
        fs::rename(path, path.with_extension("log.old")).map_err(|error| ("set aside", error))?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(|error| ("open", error))
}

/// Repeats on stderr what came into a log.
pub(crate) fn show_since(path: &Path, begin: u64) {
    let text = File::open(path).and_then(|mut log| {
        log.seek(SeekFrom::Start(begin))?;
        let mut text = Vec::new();
        log.take(64 << 10).read_to_end(&mut text)?;
        Ok(text)
    });
    if let Ok(text) = text {
        let _ = io::Write::write_all(&mut io::stderr(), &text);
    }
}
