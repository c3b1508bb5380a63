//! Where things lie below the store's root, and the helpers that make a name durable.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{StoreError, write_error};
use crate::id::{BlobId, ManifestId};

/// The store format that this program reads and writes.
pub(crate) const FORMAT: u32 = 1;

/// An object of either kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Key {
    Blob([u8; 32]),
    Manifest([u8; 32]),
}

impl From<BlobId> for Key {
    fn from(id: BlobId) -> Self {
        Self::Blob(*id.as_bytes())
    }
}

impl From<ManifestId> for Key {
    fn from(id: ManifestId) -> Self {
        Self::Manifest(*id.as_bytes())
    }
}

impl Key {
    /// `blob/ab/cdef…` or `manifest/ab/cdef…`.
    pub(crate) fn relative(&self) -> String {
        let (kind, bytes) = match self {
            Self::Blob(bytes) => ("blob", bytes),
            Self::Manifest(bytes) => ("manifest", bytes),
        };
        let hex = BlobId::from_bytes(*bytes).to_hex();
        format!("{kind}/{}/{}", &hex[..2], &hex[2..])
    }

    /// The record of a claims file: one byte of kind, 32 bytes of id.
    pub(crate) fn encode(&self) -> [u8; 33] {
        let (kind, bytes) = match self {
            Self::Blob(bytes) => (b'b', bytes),
            Self::Manifest(bytes) => (b'm', bytes),
        };
        let mut out = [kind; 33];
        out[1..].copy_from_slice(bytes);
        out
    }

    pub(crate) fn decode(record: &[u8; 33]) -> Option<Self> {
        let bytes = *record.last_chunk()?;
        match record[0] {
            b'b' => Some(Self::Blob(bytes)),
            b'm' => Some(Self::Manifest(bytes)),
            _ => None,
        }
    }
}

/// The directories below the store's root.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) home: PathBuf,
}

impl Layout {
    pub(crate) fn format_file(&self) -> PathBuf {
        self.home.join("format")
    }
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.home.join("lock")
    }
    /// See [`crate::store::Store::lock`].
    pub(crate) fn gate_file(&self) -> PathBuf {
        self.home.join("gate")
    }
    pub(crate) fn objects(&self) -> PathBuf {
        self.home.join("objects")
    }
    pub(crate) fn object(&self, key: Key) -> PathBuf {
        self.objects().join(key.relative())
    }
    pub(crate) fn trash(&self) -> PathBuf {
        self.home.join("trash")
    }
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.home.join("quarantine")
    }
    pub(crate) fn staging(&self) -> PathBuf {
        self.home.join("staging")
    }
    /// Unfinished downloads, which belong to whoever downloads.
    pub(crate) fn partial(&self) -> PathBuf {
        self.home.join("staging/partial")
    }
    pub(crate) fn leases(&self) -> PathBuf {
        self.home.join("run/leases")
    }
    pub(crate) fn index_file(&self) -> PathBuf {
        self.home.join("index.sqlite")
    }

    /// The 256 directories of one kind of object (`blob` or `manifest`) below `base`, those that exist.
    pub(crate) fn shards(&self, base: &Path, kind: &str) -> Result<Vec<(u8, PathBuf)>, StoreError> {
        let mut found = Vec::new();
        let kind_dir = base.join(kind);
        let entries = match fs::read_dir(&kind_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(StoreError::io("list", kind_dir, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| StoreError::io("list", &kind_dir, e))?;
            if let Some(byte) = entry.file_name().to_str().and_then(shard_byte) {
                found.push((byte, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }
}

fn shard_byte(name: &str) -> Option<u8> {
    (name.len() == 2 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .then(|| u8::from_str_radix(name, 16).ok())?
}

/// The id that a file in shard `byte` called `name` claims to have.
pub(crate) fn id_of_name(byte: u8, name: &str) -> Option<[u8; 32]> {
    format!("{byte:02x}{name}").parse::<BlobId>().ok().map(|id| *id.as_bytes())
}

/// Makes a directory and its parents; that it exists already is fine.
pub(crate) fn make_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|e| write_error("create directory", path, 4096, e))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| write_error("sync directory", path, 4096, e))
}

/// Publishes a small file: temporary in the same directory, sync, rename, sync of the directory.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = parent.join(format!(".{}.{}", std::process::id(), unique()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(write_error("write", path, bytes.len() as u64, error));
    }
    sync_dir(parent)
}

/// A number that no other call in this process got.
pub(crate) fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
