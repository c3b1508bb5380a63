//! Opening a store and looking at its objects.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::error::StoreError;
use crate::id::{BlobId, ManifestId};
use crate::index::Index;
use crate::layout::{self, Key, Layout};
use crate::lease::{Lease, LeaseInfo, LeaseKind};
use crate::manifest::Manifest;
use crate::sys::Bytes;
use crate::txn::Transaction;

/// A store on disk. Clones share the index connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    index: Index,
}

impl Store {
    /// Opens the store below `home`, making it when there is none.
    ///
    /// # Errors
    /// An unknown format is refused; nothing is written then.
    pub fn open(home: &Path) -> Result<Self, StoreError> {
        layout::make_dir(home)?;
        let home = fs::canonicalize(home).map_err(|e| StoreError::io("resolve", home, e))?;
        let layout = Layout { home };
        check_format(&layout)?;
        for dir in [layout.objects().join("blob"), layout.objects().join("manifest")] {
            layout::make_dir(&dir)?;
        }
        for dir in [layout.staging(), layout.leases()] {
            layout::make_dir(&dir)?;
        }
        let index = Index::new(layout.index_file());
        Ok(Self { inner: Arc::new(Inner { layout, index }) })
    }

    /// The root directory, with symlinks resolved.
    pub fn home(&self) -> &Path {
        &self.inner.layout.home
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The cache of what is known about objects.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// Begins a transaction. `label` names it for people (`cvs doctor`, messages of gc).
    pub fn begin(&self, label: &str) -> Result<Transaction, StoreError> {
        Transaction::begin(self.clone(), label)
    }

    /// Takes a lease that keeps `manifests` and all that they reach until it is dropped or its process dies.
    ///
    /// # Errors
    /// [`StoreError::MissingManifest`] when one of them is not in the store.
    pub fn lease(
        &self,
        kind: LeaseKind,
        label: &str,
        manifests: &[ManifestId],
        info: serde_json::Value,
    ) -> Result<Lease, StoreError> {
        let lease = Lease::create(&self.inner.layout.leases(), kind, label, info)?;
        let _shared = self.lock(FlockOperation::LockShared)?;
        for id in manifests {
            if !self.layout().object((*id).into()).exists() {
                return Err(StoreError::MissingManifest(*id));
            }
        }
        lease.claim(manifests.iter().map(|id| Key::from(*id)))?;
        Ok(lease)
    }

    /// The leases whose holders live, except transactions. Those of the dead are removed.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>, StoreError> {
        crate::lease::living(&self.inner.layout.leases())
    }

    /// Opens and verifies a manifest.
    pub fn manifest(&self, id: &ManifestId) -> Result<Manifest, StoreError> {
        let path = self.inner.layout.object((*id).into());
        let bytes = match File::open(&path).and_then(|file| Bytes::of_object(&file)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::MissingManifest(*id));
            }
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        if ManifestId::of(&bytes) != *id {
            return Err(StoreError::DamagedManifest(*id));
        }
        Manifest::from_verified(*id, bytes)
            .map_err(|source| StoreError::Manifest { context: id.to_hex(), source })
    }

    /// Opens a blob for reading. Its bytes are not verified.
    pub fn open_blob(&self, id: &BlobId) -> Result<File, StoreError> {
        let path = self.blob_path(id);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob(*id),
            _ => StoreError::io("open", path, error),
        })
    }

    /// Where a blob lies, whether or not it is there.
    pub fn blob_path(&self, id: &BlobId) -> PathBuf {
        self.inner.layout.object((*id).into())
    }

    /// The size of a blob in bytes, if it is there. A look, not a promise: see [`Transaction::has_blob`].
    pub fn blob_size(&self, id: &BlobId) -> Result<Option<u64>, StoreError> {
        size_of(&self.blob_path(id))
    }

    /// True when the manifest is there. A look, not a promise: see [`Transaction::has_manifest`].
    pub fn has_manifest(&self, id: &ManifestId) -> Result<bool, StoreError> {
        Ok(size_of(&self.inner.layout.object((*id).into()))?.is_some())
    }

    /// Takes the store's lock. It is held for moments only: by claims and commits shared, by gc's second phase alone.
    pub(crate) fn lock(&self, how: FlockOperation) -> Result<File, StoreError> {
        let path = self.inner.layout.lock_file();
        let open = || File::options().create(true).write(true).truncate(false).open(&path);
        let file = open().map_err(|e| StoreError::io("open", &path, e))?;
        loop {
            match rustix::fs::flock(&file, how) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(StoreError::io("lock", &path, error)),
            }
        }
    }
}

pub(crate) fn size_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", path, error)),
    }
}

fn check_format(layout: &Layout) -> Result<(), StoreError> {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Format {
        format: u32,
        #[serde(default)]
        features: Vec<String>,
    }
    let path = layout.format_file();
    let unknown =
        |found: String| StoreError::UnknownFormat { path: path.clone(), found, known: layout::FORMAT };
    match fs::read_to_string(&path) {
        Ok(text) => match serde_json::from_str::<Format>(&text) {
            Ok(Format { format: layout::FORMAT, features }) if features.is_empty() => Ok(()),
            Ok(Format { format: layout::FORMAT, features }) => {
                Err(unknown(format!("{} with features {}", layout::FORMAT, features.join(", "))))
            }
            Ok(other) => Err(unknown(other.format.to_string())),
            Err(_) => Err(unknown(format!("{:?}", text.trim()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if layout.objects().exists() {
                return Err(unknown("none, although there are objects".to_owned()));
            }
            let format = Format { format: layout::FORMAT, features: Vec::new() };
            let text = serde_json::to_string(&format).unwrap_or_default() + "\n";
            layout::write_durably(&path, text.as_bytes())
        }
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}
