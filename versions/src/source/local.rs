//! Files of this machine, by path or `file://`.
//!
//! The store copies (or reflinks) and takes the BLAKE3 on all processors, while another thread takes the sha256 of
//! the same file; both are of the same bytes only if the file stood still meanwhile, which is checked by both hashes and
//! by its times. What is linked in is read once, for both.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cvs_store::{Intake, Store, StoredBlob, Transaction};
use rustix::fs::Advice;
use url::Url;

use super::digest::{Digester, Digests, Expected};
use super::error::{IoContext, SourceError};
use super::event::{SourceEvent, SourceOptions};
use super::http::FetchedFile;
use super::redact::redact;

/// Read at once: small enough to stay in the cache, and to be hashed on this thread alone while the store uses the
/// others.
const BUFFER: usize = 256 << 10;

/// Asked of the disk at once, and ahead of what is hashed.
const AHEAD: u64 = 16 << 20;

/// Between two tellings of progress.
const STEP: u64 = 8 << 20;

/// The path of a plain path or `file://` address; none for any other address. A relative path is taken as it is.
pub fn local_path(source: &str) -> Result<Option<PathBuf>, SourceError> {
    match source.split_once("://") {
        None => Ok(Some(PathBuf::from(source))),
        Some(("file", _)) => {
            let path = Url::parse(source).ok().and_then(|url| url.to_file_path().ok());
            path.map(Some).ok_or_else(|| SourceError::Address {
                url: redact(source),
                reason: "a file URL must name an absolute path of this machine",
            })
        }
        Some(_) => Ok(None),
    }
}

/// Brings one file into `transaction`. It is put there only when every checksum is right.
pub fn ingest(
    store: &Store,
    transaction: &Transaction,
    path: &Path,
    expected: &Expected,
    intake: Intake,
    options: &SourceOptions<'_>,
) -> Result<FetchedFile, SourceError> {
    let subject = path.display().to_string();
    let file = File::open(path).at("opening", path)?;
    let before = file.metadata().at("reading the metadata of", path)?;
    if !before.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    expected.verify_size(before.len(), &subject)?;
    let (digests, stored) = if expected.has_checksum() || intake != Intake::Copy {
        // A checksum that is to be verified comes first: what is wrong never reaches the store, nor leaves its old place.
        let digests = digest(file, path, before.len(), expected.md5.is_some(), options)?;
        unchanged(&before, path)?;
        expected.verify(&digests, &subject)?;
        let hashed = StoredBlob { id: digests.blob, size: digests.size };
        let known = store.index().by_sha256(&digests.sha256) == Some(digests.blob);
        let stored = match transaction.has_blob(&digests.blob)? {
            Some(size) if known && intake == Intake::Copy => StoredBlob { size, ..hashed },
            _ => transaction.put_hashed(path, intake, hashed, &before)?,
        };
        (digests, stored)
    } else {
        std::thread::scope(|scope| {
            let digests = scope.spawn(|| digest(file, path, before.len(), false, options));
            let stored = transaction.put_file(path, intake).map_err(SourceError::from);
            let digests = digests.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, SourceError>((digests?, stored?))
        })?
    };
    // Both read at the same pace: a change that both have met makes no difference between them.
    unchanged(&before, path)?;
    if stored.id != digests.blob {
        return Err(SourceError::Changed { path: path.to_owned() });
    }
    store.index().put_sha256(&digests.sha256, &stored.id);
    Ok(FetchedFile { blob: stored.id, size: stored.size, sha256: digests.sha256, received: 0 })
}

fn digest(
    mut file: File,
    path: &Path,
    len: u64,
    with_md5: bool,
    options: &SourceOptions<'_>,
) -> Result<Digests, SourceError> {
    let mut digester = Digester::new(with_md5);
    let mut buffer = vec![0; BUFFER];
    let shown = path.display().to_string();
    let (mut told, mut asked) = (0, 0);
    loop {
        options.check_cancel()?;
        if asked < len && asked < digester.size() + AHEAD / 2 {
            // Only a hint: where it is not known, the disk reads as it pleases.
            let _ = rustix::fs::fadvise(&file, asked, NonZeroU64::new(AHEAD), Advice::WillNeed);
            asked += AHEAD;
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish()),
            Ok(n) => {
                digester.update(&buffer[..n]);
                let bytes = digester.size();
                if bytes >= told + STEP || bytes == len {
                    told = bytes;
                    options.event(SourceEvent::Receive { url: &shown, bytes, total: Some(len) });
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).at("reading", path),
        }
    }
}

fn unchanged(before: &Metadata, path: &Path) -> Result<(), SourceError> {
    let after = path.metadata().at("reading the metadata of", path)?;
    let stamp = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    if stamp(before) == stamp(&after) { Ok(()) } else { Err(SourceError::Changed { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::digest::hex;
    use cvs_store::BlobId;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn addresses_of_this_machine() {
        for (source, path) in [
            ("/a/b c", Some("/a/b c")),
            ("rel/x.safetensors", Some("rel/x.safetensors")),
            ("file:///a/b%20c", Some("/a/b c")),
            ("https://host/a", None),
            ("hf://org/repo/x", None),
        ] {
            assert_eq!(local_path(source).unwrap().as_deref(), path.map(Path::new), "{source}");
        }
        assert!(local_path("file://host/a").is_err());
    }

    #[test]
    fn a_file_enters_when_its_checksums_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        let right = Expected { sha256: super::super::digest::unhex(SHA256), md5: None, size: Some(3) };
        let wrong = Expected { sha256: Some([0; 32]), ..right };
        let run = |expected: &Expected, intake| {
            let transaction = store.begin("test").unwrap();
            let file = ingest(&store, &transaction, &path, expected, intake, &SourceOptions::default())?;
            transaction.commit().unwrap();
            assert!(transaction.remove_sources().is_empty());
            Ok::<_, SourceError>(file)
        };
        let error = run(&wrong, Intake::Move).unwrap_err().to_string();
        let zeros = "0".repeat(64);
        assert_eq!(
            error,
            format!("{}: sha256 mismatch\n  expected {zeros}\n  found    {SHA256}", path.display())
        );
        assert!(path.exists() && store.blob_size(&BlobId::of(b"abc")).unwrap().is_none());
        for expected in [Expected::default(), right, right] {
            let file = run(&expected, Intake::Copy).unwrap();
            assert_eq!((file.blob, file.size, hex(&file.sha256).as_str()), (BlobId::of(b"abc"), 3, SHA256));
        }
        assert_eq!(store.index().by_sha256(&right.sha256.unwrap()), Some(BlobId::of(b"abc")));
        run(&right, Intake::Move).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn progress_is_told_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        let path = dir.path().join("large");
        let len = 2 * STEP + 1;
        File::create(&path).unwrap().set_len(len).unwrap();
        let told = std::sync::Mutex::new(Vec::new());
        let listen = |event: SourceEvent<'_>| {
            if let SourceEvent::Receive { bytes, total, .. } = event {
                told.lock().unwrap().push((bytes, total));
            }
        };
        let options = SourceOptions { events: &listen, ..SourceOptions::default() };
        let transaction = store.begin("test").unwrap();
        ingest(&store, &transaction, &path, &Expected::default(), Intake::Copy, &options).unwrap();
        let expected = [STEP, 2 * STEP, len].map(|bytes| (bytes, Some(len)));
        assert_eq!(told.into_inner().unwrap(), expected);
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        let transaction = store.begin("test").unwrap();
        let run = |path: &Path| {
            let options = SourceOptions::default();
            let error = ingest(&store, &transaction, path, &Expected::default(), Intake::Copy, &options);
            error.unwrap_err().to_string()
        };
        assert_eq!(run(dir.path()), format!("{} is not a regular file", dir.path().display()));
        let gone = dir.path().join("gone");
        let missing = format!("opening {}: No such file or directory (os error 2)", gone.display());
        assert_eq!(run(&gone), missing);
    }
}
