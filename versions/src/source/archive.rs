//! Zip archives of strangers, unpacked straight into a transaction: nothing is ever written where the archive says.
//!
//! *Promises.* Every name passes the border check; a name that is absolute, climbs, holds a backslash or comes twice
//! refuses the whole archive, and so do symlinks, devices and encrypted entries. What is unpacked is bounded by bytes,
//! by entries, and by what its packed size makes believable, counted as it comes out and not as it is announced.
//! Names that differ in case only are two names. A `.git` in it is left out.

use std::fs::File;
use std::io::{self, Read, Write};

use cvs_store::{ManifestBuilder, ManifestId, RelPath, StoreError, StoredBlob, Transaction};
use zip::ZipArchive;

use super::error::SourceError;
use super::event::SourceOptions;

/// More entries than any node has.
const ENTRIES: usize = 200_000;
/// More bytes than any node has.
const TOTAL: u64 = 8 << 30;
/// Text packs to a fifth, and the best of real files to a hundredth; what claims more is a bomb.
const RATIO: u64 = 200;
/// Bytes that need no belief.
const FREE: u64 = 64 << 20;
const BUFFER: usize = 256 << 10;

/// The types of a unix mode.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// What an archive held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Its files.
    pub manifest: ManifestId,
    /// How many.
    pub files: u64,
}

/// Unpacks `file`, which came from `url`, into `transaction`.
pub fn unpack(
    transaction: &Transaction,
    file: File,
    url: &str,
    options: &SourceOptions<'_>,
) -> Result<Unpacked, SourceError> {
    let refuse = |entry: &str, reason: String| SourceError::Archive {
        url: url.to_owned(),
        entry: entry.to_owned(),
        reason,
    };
    let broken = |entry: &str| {
        let entry = entry.to_owned();
        move |error: zip::result::ZipError| refuse(&entry, error.to_string())
    };
    let packed = file.metadata().map_or(0, |metadata| metadata.len());
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(broken(""))?;
    if archive.has_duplicate_names() {
        return Err(refuse("", "it has two entries of one name".to_owned()));
    }
    if archive.len() > ENTRIES {
        return Err(refuse("", format!("it has more than {ENTRIES} entries")));
    }
    let limit = TOTAL.min(packed.saturating_mul(RATIO).saturating_add(FREE));
    let (mut builder, mut files, mut total) = (ManifestBuilder::new(), 0, 0);
    for index in 0..archive.len() {
        options.check_cancel()?;
        let mut entry = archive.by_index(index).map_err(broken(&format!("entry {index}")))?;
        let raw = entry.name_raw().to_vec();
        let name = String::from_utf8_lossy(&raw).into_owned();
        if raw.contains(&b'\\') {
            return Err(refuse(&name, "its name holds a backslash".to_owned()));
        }
        let path = RelPath::new(raw.strip_suffix(b"/").unwrap_or(&raw));
        let path = path.map_err(|error| refuse(&name, error.reason.to_owned()))?;
        if path.is_root() {
            return Err(refuse(&name, "its name is empty".to_owned()));
        }
        let mode = entry.unix_mode().unwrap_or(0);
        if entry.is_symlink() || !matches!(mode & TYPE, 0 | REGULAR | DIRECTORY) {
            return Err(refuse(&name, "neither a file nor a directory".to_owned()));
        }
        if entry.encrypted() {
            return Err(refuse(&name, "it is encrypted".to_owned()));
        }
        if path.names().any(|name| name == b".git") {
            continue;
        }
        let listed = |error| StoreError::Manifest { context: format!("of {url}"), source: error };
        if raw.ends_with(b"/") {
            builder.dir(&path, 0o755).map_err(listed)?;
            continue;
        }
        let StoredBlob { id, size } =
            store(transaction, &mut entry, limit - total, options).map_err(|failure| match failure {
                Failure::TooMuch => {
                    let reason =
                        format!("what it unpacks to is not believable for an archive of {packed} bytes");
                    refuse(&name, reason)
                }
                Failure::Read(error) => refuse(&name, error.to_string()),
                Failure::Source(error) => error,
            })?;
        total += size;
        files += 1;
        let mode = if mode & 0o111 != 0 { 0o755 } else { 0o644 };
        builder.file(&path, mode, size, id).map_err(|error| refuse(&name, error.to_string()))?;
    }
    // Two kinds at one path, and a file where another entry needs a directory, are found here.
    let manifest = transaction.put_manifest(builder).map_err(|error| match error {
        StoreError::Manifest { source, .. } => refuse("", source.to_string()),
        error => error.into(),
    })?;
    Ok(Unpacked { manifest, files })
}

enum Failure {
    TooMuch,
    Read(io::Error),
    Source(SourceError),
}

/// Stores what `entry` unpacks to, at most `limit` bytes of it.
fn store(
    transaction: &Transaction,
    entry: &mut impl Read,
    limit: u64,
    options: &SourceOptions<'_>,
) -> Result<StoredBlob, Failure> {
    let mut first = Vec::new();
    let read = entry.by_ref().take(limit.min(BUFFER as u64) + 1).read_to_end(&mut first);
    let read = read.map_err(Failure::Read)? as u64;
    if read > limit {
        return Err(Failure::TooMuch);
    }
    let stored = |error: StoreError| Failure::Source(error.into());
    if read <= BUFFER as u64 {
        return Ok(StoredBlob { id: transaction.put_bytes(&first).map_err(stored)?, size: read });
    }
    let mut writer = transaction.blob_writer().map_err(stored)?;
    let write = |writer: &mut cvs_store::BlobWriter<'_>, bytes: &[u8]| {
        writer.write_all(bytes).map_err(|source| {
            let path = transaction.store().home().join("staging");
            stored(StoreError::Io { op: "write", path, source })
        })
    };
    write(&mut writer, &first)?;
    let (mut done, mut buffer) = (read, vec![0; BUFFER]);
    loop {
        options.check_cancel().map_err(Failure::Source)?;
        match entry.read(&mut buffer) {
            Ok(0) => return writer.finish().map_err(stored),
            Ok(count) => {
                done += count as u64;
                if done > limit {
                    return Err(Failure::TooMuch);
                }
                write(&mut writer, &buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use cvs_store::Store;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            zip.start_file(*name, options.large_file(name.ends_with("64"))).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn renamed(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
        let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        bytes
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let transaction = store.begin("test").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let made = unpack(&transaction, file, "https://h/x.zip", &SourceOptions::default());
        let made = made.map_err(|error| error.to_string())?;
        transaction.commit().unwrap();
        let manifest = store.manifest(&made.manifest).unwrap();
        Ok(manifest.walk().filter(|(path, _)| !path.is_root()).map(|(path, _)| path.to_string()).collect())
    }

    #[test]
    fn what_is_sound_is_unpacked() {
        let sound = zip(&[("A.py", b"1"), ("a.py", b"2"), ("d/x64", b"3"), (".git/config", b"4")]);
        assert_eq!(
            unpacked(&sound),
            Ok(vec!["A.py".to_owned(), "a.py".to_owned(), "d".to_owned(), "d/x64".to_owned()])
        );
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let mut link = ZipWriter::new(io::Cursor::new(Vec::new()));
        link.add_symlink("l", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        let link = link.finish().unwrap().into_inner();
        let mut encrypted = zip(&[("a", b"1")]);
        for (magic, flags) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
            let at = (0..encrypted.len()).find(|&at| encrypted[at..].starts_with(magic)).unwrap();
            encrypted[at + flags] |= 1;
        }
        for (bytes, said) in [
            (zip(&[("../x", b"1")]), "`../x`"),
            (zip(&[("a/../../x", b"1")]), "`a/../../x`"),
            (renamed(zip(&[("_etc/x", b"1")]), b"_etc/x", b"/etc/x"), "`/etc/x`"),
            (zip(&[("a\\x", b"1")]), "its name holds a backslash"),
            (renamed(zip(&[("aa", b"1"), ("ab", b"2")]), b"ab", b"aa"), "two entries of one name"),
            (renamed(zip(&[("aa", b"1"), ("ab/c", b"2")]), b"ab/c", b"aa/c"), ""),
            (link, "neither a file nor a directory"),
            (encrypted, ""),
            (zip(&[("bomb", &vec![0; 96 << 20])]), "not believable"),
            (b"no zip".to_vec(), ""),
        ] {
            let refused = unpacked(&bytes).unwrap_err();
            assert!(refused.starts_with("https://h/x.zip: the archive is refused: "), "{refused}");
            assert!(refused.contains(said), "{said}: {refused}");
        }
    }

    #[test]
    fn a_zip_that_is_cut_or_damaged_has_an_answer() {
        let whole = zip(&[("a.py", b"text text text"), ("b/c.py", b"more")]);
        for end in 0..whole.len() {
            assert!(unpacked(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            // Times and other fields that nobody reads may be anything.
            let _ = unpacked(&bytes);
        }
    }
}
