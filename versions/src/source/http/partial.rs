//! Downloads that are not finished, or finished and not yet committed, kept so that the next attempt goes on where
//! this one stopped.
//!
//! ```text
//! <home>/staging/partial/<key>.part      the bytes so far: from the start and without gaps, or the pieces of the map
//!                        <key>.map       which pieces are there, when it comes in several ranges (`journal.rs`)
//!                        <key>.json      where they come from: [`Origin`]
//!                        <key>.lock      flock, held by the one process that writes
//!                        <blob>.whole    all bytes of that blob, never written again
//! ```
//!
//! `<key>` is the sha256 where it is known, so that mirrors share a partial, else a hash of the address. A finished
//! file is renamed to `.whole` before the transaction links it, and the commit removes that name: a process killed
//! between two models keeps the first. No name that the store has linked is ever opened for writing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cvs_store::BlobId;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use crate::source::digest::Digester;
use crate::source::error::{IoContext, SourceError};
use crate::source::event::{SourceEvent, SourceOptions};

/// How often a waiting process looks whether the other one is done.
const POLL: Duration = Duration::from_millis(50);
/// Read at once when hashing what is there.
const READ: usize = 1 << 20;

/// Where the bytes of a partial come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The address, without secrets.
    pub(super) url: String,
    /// A strong entity tag, as sent.
    pub(super) etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub(super) last_modified: Option<String>,
    /// The whole length, if told.
    pub(super) length: Option<u64>,
    /// The boot during which the bytes were written: without a checksum nothing tells after a power cut whether all
    /// of them reached the disk.
    pub(super) boot: String,
    /// The size of the pieces, when it comes in several ranges.
    #[serde(default)]
    pub(super) piece: Option<u64>,
    /// What the bytes turned out to be, once all were there and verified.
    #[serde(default)]
    pub(super) done: Option<Done>,
}

/// A finished download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) blob: BlobId,
    pub(super) sha256: String,
    pub(super) size: u64,
}

/// A partial under this process's lock.
#[derive(Debug)]
pub(super) struct Partial {
    dir: PathBuf,
    key: String,
    _lock: File,
    /// Another process held the lock first.
    pub(super) waited: bool,
}

impl Partial {
    /// Locks `key`; waits while another process downloads it.
    pub(super) fn lock(
        home: &Path,
        key: &str,
        url: &str,
        options: &SourceOptions<'_>,
    ) -> Result<Self, SourceError> {
        let dir = home.join("staging/partial");
        fs::create_dir_all(&dir).at("creating", &dir)?;
        let path = dir.join(format!("{key}.lock"));
        let mut waited = false;
        loop {
            options.check_cancel()?;
            let file = open_lock(&path)?;
            if try_lock(&file).at("locking", &path)? {
                // The holder removes the lock file when done; a lock on a removed file excludes nobody.
                if is_at(&file, &path) {
                    sweep(&dir);
                    return Ok(Self { dir, key: key.to_owned(), _lock: file, waited });
                }
                continue;
            }
            if !std::mem::replace(&mut waited, true) {
                options.event(SourceEvent::Wait { url });
            }
            std::thread::sleep(POLL);
        }
    }

    pub(super) fn part(&self) -> PathBuf {
        self.path("part")
    }

    /// Where the journal is.
    pub(super) fn map(&self) -> PathBuf {
        self.path("map")
    }

    /// There is no room for `needed` bytes more of what `subject` names.
    pub(super) fn disk_full(&self, subject: &str, needed: u64) -> SourceError {
        let (subject, directory) = (subject.to_owned(), self.dir.clone());
        SourceError::DiskFull { subject, directory, needed, available: self.free() }
    }

    /// Bytes that are free for us.
    pub(super) fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    /// The journal of an earlier attempt, where `origin` is that of bytes in pieces and all of them lie as it says.
    pub(super) fn journal(&self, origin: &Origin) -> Option<Journal> {
        let (piece, length) = (origin.piece?, origin.length?);
        let whole = fs::metadata(self.part()).is_ok_and(|part| part.len() == length);
        Journal::open(&self.map(), length, piece).ok().flatten().filter(|_| whole)
    }

    /// Begins with pieces. The map comes before the room for the bytes: a file of full length without a map would be
    /// taken for whole.
    pub(super) fn split(&self, origin: &mut Origin, piece: u64) -> Result<Journal, SourceError> {
        origin.piece = Some(piece);
        let journal = Journal::create(&self.map(), origin.length.unwrap_or_default(), piece)?;
        self.write_origin(origin)?;
        Ok(journal)
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.key))
    }

    /// What an earlier attempt left, or nothing. A sidecar that cannot be read makes the bytes worthless.
    pub(super) fn origin(&self) -> Option<Origin> {
        let text = fs::read(self.path("json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Opens the bytes so far for appending, and hashes them.
    pub(super) fn resume(
        &self,
        with_md5: bool,
        options: &SourceOptions<'_>,
    ) -> Result<(File, Digester), SourceError> {
        let path = self.part();
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(&path).at("opening", &path)?;
        hash(file, &path, with_md5, options)
    }

    /// Opens a finished file for reading, and hashes it; none when it is gone.
    pub(super) fn reopen(
        &self,
        blob: &BlobId,
        with_md5: bool,
        options: &SourceOptions<'_>,
    ) -> Result<Option<(File, Digester)>, SourceError> {
        let path = self.whole(blob);
        match File::open(&path) {
            Ok(file) => hash(file, &path, with_md5, options).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("opening", &path),
        }
    }

    /// Starts with no bytes, from `origin`. The bytes go first: a sidecar must never speak of bytes of another file.
    pub(super) fn start(&self, origin: &Origin) -> Result<File, SourceError> {
        let path = self.part();
        remove(&self.path("json"))?;
        remove(&path)?;
        remove(&self.map())?;
        let file = OpenOptions::new().append(true).create_new(true).open(&path).at("creating", &path)?;
        self.write_origin(origin)?;
        Ok(file)
    }

    fn write_origin(&self, origin: &Origin) -> Result<(), SourceError> {
        let path = self.path("json");
        let temporary = self.path("json.new");
        let text = serde_json::to_vec(origin).map_err(io::Error::from).at("encoding", &path)?;
        fs::write(&temporary, text).at("writing", &temporary)?;
        fs::rename(&temporary, &path).at("renaming", &temporary)
    }

    /// Forgets the bytes.
    pub(super) fn discard(&self) -> Result<(), SourceError> {
        remove(&self.path("json"))?;
        remove(&self.part())?;
        remove(&self.map())
    }

    /// Records that the file is finished and verified; from now on it has the path that is returned.
    pub(super) fn finish(&self, mut origin: Origin, done: Done) -> Result<PathBuf, SourceError> {
        let whole = self.whole(&done.blob);
        let part = self.part();
        match fs::rename(&part, &whole) {
            // It was finished before.
            Err(error) if error.kind() == io::ErrorKind::NotFound && whole.exists() => {}
            renamed => renamed.at("renaming", &part)?,
        }
        origin.length = Some(done.size);
        origin.done = Some(done);
        origin.piece = None;
        self.write_origin(&origin)?;
        remove(&self.map())?;
        Ok(whole)
    }

    pub(super) fn whole(&self, blob: &BlobId) -> PathBuf {
        self.dir.join(format!("{blob}.whole"))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Under the lock, so that nobody else can hold it; those that opened the file meanwhile find it gone and open
        // a new one.
        let _ = fs::remove_file(self.path("lock"));
    }
}

/// Which boot this is; empty where the kernel does not say.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn open_lock(path: &Path) -> Result<File, SourceError> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path).at("opening", path)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn hash(
    mut file: File,
    path: &Path,
    with_md5: bool,
    options: &SourceOptions<'_>,
) -> Result<(File, Digester), SourceError> {
    let mut digester = Digester::new(with_md5);
    let mut buffer = vec![0; READ];
    loop {
        options.check_cancel()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok((file, digester)),
            Ok(n) => digester.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("reading", path),
        }
    }
}

/// Removes the sidecars of downloads that a commit has taken away. What cannot be removed now can be later.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let beside = |extension: &str| path.with_extension(extension);
        if path.extension() != Some("json".as_ref()) || beside("part").exists() || beside("lock").exists() {
            continue;
        }
        let origin: Option<Origin> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let kept = origin
            .and_then(|origin| origin.done)
            .is_some_and(|done| dir.join(format!("{}.whole", done.blob)).exists());
        if !kept {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(beside("map"));
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn remove(path: &Path) -> Result<(), SourceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("removing", path),
        _ => Ok(()),
    }
}
