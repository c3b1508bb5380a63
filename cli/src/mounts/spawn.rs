//! Starting the daemon of a mount: this program again, in a session of its own, with its talk in a log file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::MountsError;
use super::serve::READY;

/// A log that grew beyond this is set aside when the next mount begins.
const LOG_LIMIT: u64 = 8 << 20;

/// Starts the daemon and waits until its mount can be used. `arguments` are those of the foreground command.
pub(crate) fn spawn(
    home: &Path,
    version: &str,
    arguments: &[std::ffi::OsString],
) -> Result<PathBuf, MountsError> {
    let (log, path) = open_log(home, version)?;
    let begin = log.metadata().map(|m| m.len()).unwrap_or(0);
    let program = std::env::current_exe().map_err(MountsError::io("find", "the program itself"))?;
    let mut child = Command::new(&program)
        .args(arguments)
        .arg("--log")
        .arg(&path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(MountsError::io("start", &program))?;
    let ready = child.stdout.take().is_some_and(|pipe| {
        let mut line = String::new();
        BufReader::new(pipe).read_line(&mut line).is_ok_and(|_| line.trim() == READY)
    });
    if ready {
        return Ok(path);
    }
    // The pipe ended without the word: so did the daemon.
    let code = child.wait().ok().and_then(|status| status.code());
    show_since(&path, begin);
    Err(MountsError::DidNotStart { version: version.to_owned(), log: path, code })
}

fn open_log(home: &Path, version: &str) -> Result<(File, PathBuf), MountsError> {
    let directory = home.join("run/log");
    fs::create_dir_all(&directory).map_err(MountsError::io("create", &directory))?;
    let path = directory.join(format!("mount-{version}.log"));
    if fs::metadata(&path).is_ok_and(|m| m.len() > LOG_LIMIT) {
        fs::rename(&path, path.with_extension("log.old")).map_err(MountsError::io("set aside", &path))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&path);
    Ok((log.map_err(MountsError::io("open", &path))?, path))
}

/// Repeats on stderr what the daemon wrote into its log.
fn show_since(path: &Path, begin: u64) {
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
