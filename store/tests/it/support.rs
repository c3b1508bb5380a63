//! A home for one test, versions as roots of gc, and what several modules do with them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cvs_store::{
    BlobId, Fsck, FsckReport, Gc, GcPlan, GcStats, Manifest, ManifestBuilder, ManifestId, RelPath, RootRef,
    RootSource, Store, Transaction,
};

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// A store in a directory of its own.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        Self { dir, store }
    }

    /// A path outside of the store, on its filesystem.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn versions(&self) -> Versions {
        Versions::below(self.store.home())
    }

    pub(crate) fn gc(&self, grace: Duration) -> GcStats {
        gc(&self.store, grace)
    }

    pub(crate) fn plan(&self) -> GcPlan {
        let versions = self.versions();
        Gc::new(&self.store, &versions, Duration::ZERO).plan().unwrap()
    }

    pub(crate) fn fsck(&self, quarantine: bool) -> FsckReport {
        fsck(&self.store, quarantine)
    }

    /// Stores one file as a version of its own.
    pub(crate) fn version(&self, name: &str, content: &[u8]) -> (ManifestId, BlobId) {
        let txn = self.store.begin(name).unwrap();
        let blob = txn.put_bytes(content).unwrap();
        let manifest = put_manifest(&txn, &[("file", content)]);
        txn.commit().unwrap();
        self.versions().publish(name, &[manifest]);
        (manifest, blob)
    }

    pub(crate) fn manifest_path(&self, id: &ManifestId) -> PathBuf {
        let hex = id.to_hex();
        self.store.home().join("objects/manifest").join(&hex[..2]).join(&hex[2..])
    }

    /// Every object by its place below `objects/`, with its bytes.
    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        files_below(&self.store.home().join("objects"))
    }

    /// Names in the staging directory.
    pub(crate) fn staged(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store.home().join("staging")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

pub(crate) fn files_below(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        let Ok(entries) = fs::read_dir(&at) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

pub(crate) fn gc(store: &Store, grace: Duration) -> GcStats {
    let versions = Versions::below(store.home());
    let gc = Gc::new(store, &versions, grace);
    gc.execute(&gc.plan().unwrap()).unwrap()
}

pub(crate) fn fsck(store: &Store, quarantine: bool) -> FsckReport {
    let versions = Versions::below(store.home());
    let (progress, cancel) = (|_| (), AtomicBool::new(false));
    let fsck = Fsck {
        store,
        roots: &versions,
        quarantine,
        clear_index: false,
        progress: &progress,
        cancel: &cancel,
    };
    fsck.run().unwrap()
}

pub(crate) fn put_manifest(txn: &Transaction, files: &[(&str, &[u8])]) -> ManifestId {
    let mut builder = ManifestBuilder::new();
    for (at, content) in files {
        builder.file(&path(at), 0o644, content.len() as u64, BlobId::of(content)).unwrap();
    }
    txn.put_manifest(builder).unwrap()
}

/// Puts `bytes` where an object lies, whatever its mode.
pub(crate) fn damage(object: &Path, bytes: &[u8]) {
    fs::set_permissions(object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(object, bytes).unwrap();
}

/// Reads every file that a manifest lists, and compares it with its id.
pub(crate) fn read_all(store: &Store, manifest: &Manifest) -> Result<(), String> {
    for blob in manifest.blobs() {
        match fs::read(store.blob_path(&blob)) {
            Ok(bytes) if BlobId::of(&bytes) == blob => {}
            Ok(_) => return Err(format!("{blob} is damaged")),
            Err(error) => return Err(format!("{blob}: {error}")),
        }
    }
    Ok(())
}

/// Versions as files below `versions/`, each with the ids of its manifests, published as specs are.
pub(crate) struct Versions {
    dir: PathBuf,
}

impl Versions {
    pub(crate) fn below(home: &Path) -> Self {
        let dir = home.join("versions");
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    pub(crate) fn publish(&self, name: &str, manifests: &[ManifestId]) {
        let temporary = self.dir.join(format!(".{name}.{}", std::process::id()));
        let mut file = File::create(&temporary).unwrap();
        for id in manifests {
            writeln!(file, "{id}").unwrap();
        }
        file.sync_all().unwrap();
        fs::rename(&temporary, self.dir.join(name)).unwrap();
        File::open(&self.dir).unwrap().sync_all().unwrap();
    }

    pub(crate) fn delete(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name));
    }
}

impl RootSource for Versions {
    fn roots(&self) -> Result<Vec<RootRef>, Box<dyn Error + Send + Sync>> {
        let mut roots = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| "a name that is not text")?;
            if name.starts_with('.') {
                continue;
            }
            let text = match fs::read_to_string(entry.path()) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let manifests = text.lines().map(str::parse).collect::<Result<_, _>>()?;
            roots.push(RootRef { name, manifests });
        }
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(roots)
    }
}

/// Reproducible numbers (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
