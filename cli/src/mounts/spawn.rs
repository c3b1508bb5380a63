//! Starting the daemon of a mount: this program again, in a session of its own, with its talk in a log file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::MountsError;
use super::serve::READY;

/// A log that grew beyond this is set aside when the next mount begins.
const LOG_LIMIT: u64 = 8 << 20;

/// A mount that a process of its own is to serve. Paths are absolute.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    pub(crate) home: &'a Path,
    pub(crate) versions_dir: PathBuf,
    pub(crate) version: &'a str,
    pub(crate) mountpoint: &'a Path,
    pub(crate) read_only: bool,
    pub(crate) ephemeral: bool,
    /// Where what is written goes, when that is not with the version.
    pub(crate) overlay: Option<PathBuf>,
    pub(crate) allow_other: bool,
    /// As many as are good when it is zero.
    pub(crate) threads: usize,
    pub(crate) lenient: bool,
}

impl Daemon<'_> {
    /// Starts the daemon and waits until its mount can be used. The version's lock is up to date.
    pub(crate) fn start(&self) -> Result<(), MountsError> {
        let (log, path) = open_log(self.home, self.version)?;
        let begin = log.metadata().map(|m| m.len()).unwrap_or(0);
        let program = std::env::current_exe().map_err(MountsError::io("find", "the program itself"))?;
        let mut child = Command::new(&program)
            .args(self.arguments())
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
            return Ok(());
        }
        // The pipe ended without the word: so did the daemon.
        let code = child.wait().ok().and_then(|status| status.code());
        show_since(&path, begin);
        Err(MountsError::DidNotStart { version: self.version.to_owned(), log: path, code })
    }

    /// The command line of the daemon: the foreground command, which asks nobody.
    fn arguments(&self) -> Vec<OsString> {
        let mut line: Vec<OsString> = ["--home".into(), self.home.into()].into();
        line.extend(["--versions-dir".into(), self.versions_dir.clone().into()]);
        line.extend(["--no-progress", "-v", "--color", "never", "mount"].map(OsString::from));
        line.extend([self.version.into(), self.mountpoint.into()]);
        line.extend(["--foreground", "--locked", "--offline"].map(OsString::from));
        for (flag, given) in [
            ("--lenient", self.lenient),
            ("--read-only", self.read_only),
            ("--ephemeral", self.ephemeral),
            ("--allow-other", self.allow_other),
        ] {
            if given {
                line.push(flag.into());
            }
        }
        if let Some(overlay) = &self.overlay {
            line.extend(["--overlay".into(), overlay.into()]);
        }
        line.extend(["--threads".into(), self.threads.to_string().into()]);
        line
    }
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
