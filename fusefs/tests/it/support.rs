//! Views made of plain directories, and walks through an overlay by path.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::AtomicBool;

use cvs_fusefs::{Attr, Caller, FsError, Ino, Kind, Listed, Overlay};
use cvs_store::{Graft, Intake, ManifestId, RelPath, Store, TreeOptions, View};

/// A store, and room beside it on the same filesystem.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl World {
    pub(crate) fn new() -> Self {
        no_umask();
        let dir = tempfile::tempdir().unwrap();
        // Some tests serve an overlay as somebody else.
        rustix::fs::chmod(dir.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        Self { dir, store }
    }

    /// A path beside the store.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stores a directory.
    pub(crate) fn store_tree(&self, tree: &Path) -> ManifestId {
        let cancel = AtomicBool::new(false);
        let options =
            TreeOptions { intake: Intake::Copy, exclude: &|_| false, progress: &|_| (), cancel: &cancel };
        let txn = self.store.begin("test").unwrap();
        let (manifest, _) = txn.put_tree(tree, &options).unwrap();
        txn.commit().unwrap();
        manifest
    }

    /// A view of stored directories, each at its path.
    pub(crate) fn view(&self, grafts: &[(&str, ManifestId)]) -> View {
        let grafts: Vec<Graft> = grafts
            .iter()
            .map(|(path, manifest)| Graft {
                path: RelPath::new(*path).unwrap(),
                manifest: *manifest,
                label: format!("at {path:?}"),
            })
            .collect();
        View::compose(&self.store, &grafts).unwrap()
    }

    /// The overlay in the directory `upper` beside the store, over a view.
    pub(crate) fn overlay(&self, view: View, upper: &str) -> Overlay {
        Overlay::new(self.store.clone(), view, Some(&self.beside(upper)), false).unwrap()
    }
}

/// As the daemon does: the umasks of callers count.
pub(crate) fn no_umask() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustix::process::umask(rustix::fs::Mode::empty());
    });
}

/// The user that the tests run as.
pub(crate) fn me() -> Caller {
    Caller { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

/// The node at a path; symlinks are not followed.
pub(crate) fn walk<'n>(
    overlay: &Overlay,
    names: impl IntoIterator<Item = &'n [u8]>,
) -> Result<Attr, FsError> {
    let mut at = overlay.getattr(Ino::ROOT)?;
    for name in names {
        if at.kind != Kind::Dir {
            return Err(FsError::NotADirectory);
        }
        at = overlay.lookup(at.ino, name)?;
    }
    Ok(at)
}

/// The node at a path of ordinary names.
pub(crate) fn at(overlay: &Overlay, path: &str) -> Attr {
    walk(overlay, names(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn names(path: &str) -> impl Iterator<Item = &[u8]> {
    path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes)
}

/// All of a file.
pub(crate) fn content(overlay: &Overlay, ino: Ino) -> Result<Vec<u8>, FsError> {
    let size = overlay.getattr(ino)?.size as usize;
    let mut buffer = vec![0; size + 1];
    let read = overlay.read_at(ino, 0, &mut buffer)?;
    assert_eq!(read, size, "a file is as long as its attributes say");
    buffer.truncate(read);
    Ok(buffer)
}

/// Every entry of a directory but `.` and `..`.
pub(crate) fn list(overlay: &Overlay, dir: Ino) -> Result<Vec<Listed>, FsError> {
    let mut cookie = 0;
    let mut out = Vec::new();
    loop {
        let batch = overlay.list(dir, cookie)?;
        let Some(last) = batch.last() else { return Ok(out) };
        cookie = last.cookie;
        out.extend(batch.into_iter().filter(|entry| &*entry.name != b"." && &*entry.name != b".."));
    }
}

/// Everything that a tree shows, by path.
pub(crate) type Shown = std::collections::BTreeMap<Vec<u8>, Entry>;

/// The paths at which two trees differ, with what the first and the second show there.
pub(crate) fn difference(expected: &Shown, found: &Shown) -> Vec<String> {
    let mut paths: Vec<_> = expected.keys().chain(found.keys()).collect();
    paths.sort();
    paths.dedup();
    let differs = paths.into_iter().filter(|path| expected.get(*path) != found.get(*path));
    differs
        .map(|path| format!("/{}: {:?}, not {:?}", path.escape_ascii(), found.get(path), expected.get(path)))
        .collect()
}

/// What one path shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) perm: u32,
    /// User and group.
    pub(crate) owner: (u32, u32),
    pub(crate) rdev: u32,
    pub(crate) nlink: u32,
    /// Content, or target.
    pub(crate) bytes: Vec<u8>,
    /// The first path, in order, of the same node.
    pub(crate) first: Vec<u8>,
    /// Extended attributes of programs.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// None when it is later than the beginning of the test.
    pub(crate) mtime: Option<(i64, u32)>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, perm, owner, rdev, nlink, bytes, first, xattrs, mtime } = self;
        let start = bytes.get(..8).unwrap_or(bytes).escape_ascii();
        let (len, zeros) = (bytes.len(), bytes.iter().filter(|b| **b == 0).count());
        write!(
            f,
            "{kind:?} {perm:o} of {owner:?}, device {rdev}, nlink {nlink}, {len} bytes ({zeros} zeros) {start}…, first /{}, mtime {mtime:?}, {xattrs:?}",
            first.escape_ascii()
        )
    }
}

/// Reads everything through the overlay.
pub(crate) fn show(overlay: &Overlay, started: i64) -> Shown {
    let mut out = Shown::new();
    let mut firsts: HashMap<Ino, Vec<u8>> = HashMap::new();
    let mut pending = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = pending.pop() {
        let attr = overlay.getattr(ino).unwrap();
        let mut dirs = 0;
        let mut bytes = Vec::new();
        match attr.kind {
            Kind::Dir => {
                let listed = list(overlay, ino).unwrap();
                assert!(listed.is_sorted_by(|a, b| a.name < b.name), "sorted and unique");
                for entry in listed {
                    let found = overlay.lookup(ino, &entry.name).unwrap();
                    assert_eq!((found.ino, found.kind), (entry.ino, entry.kind), "listing and lookup agree");
                    dirs += u32::from(entry.kind == Kind::Dir);
                    if entry.kind == Kind::Dir {
                        assert_eq!(overlay.parent(entry.ino).unwrap(), ino);
                    }
                    let inside = match path.is_empty() {
                        true => entry.name.to_vec(),
                        false => [&path, &b"/"[..], &entry.name].concat(),
                    };
                    pending.push((inside, entry.ino));
                }
                assert_eq!(attr.nlink, dirs + 2, "{}", path.escape_ascii());
            }
            Kind::File => bytes = content(overlay, ino).unwrap(),
            Kind::Symlink => bytes = overlay.readlink(ino).unwrap(),
            _ => {}
        }
        let mut xattrs: Vec<_> = overlay
            .listxattr(ino, me())
            .unwrap()
            .split(|&b| b == 0)
            .filter(|name| name.starts_with(b"user.") || name.starts_with(b"trusted."))
            .map(|name| (name.to_vec(), overlay.getxattr(ino, name).unwrap()))
            .collect();
        xattrs.sort();
        let first = firsts.entry(ino).or_insert_with(|| path.clone());
        if path < *first {
            *first = path.clone();
        }
        let entry = Entry {
            kind: attr.kind,
            perm: attr.perm,
            owner: (attr.uid, attr.gid),
            rdev: attr.rdev,
            nlink: attr.nlink,
            bytes,
            // Numbers, until all paths are known.
            first: ino.0.to_le_bytes().to_vec(),
            xattrs,
            mtime: (attr.mtime.0 < started).then_some(attr.mtime),
        };
        out.insert(path, entry);
    }
    for entry in out.values_mut() {
        if let Ok(number) = entry.first[..].try_into() {
            entry.first = firsts[&Ino(u64::from_le_bytes(number))].clone();
        }
    }
    out
}
