//! The trees of the differential test: lower ones, made from a number, and what a plain directory shows.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cvs_fusefs::{Kind, Overlay};
use cvs_store::{ManifestId, RelPath, View};
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use crate::support::{Entry, Shown, World, show};

/// Lower trees that are made; a case runs over one.
pub(crate) const TREES: u8 = 12;

/// One byte more than a name may have.
pub(crate) const TOO_LONG: &[u8] = &[b't'; 256];

/// Few, so that operations meet; some odd.
const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"\xff\xfe\n", &[b'n'; 255]];
pub(crate) fn name(index: u8) -> &'static [u8] {
    NAMES[usize::from(index) % NAMES.len()]
}

pub(crate) fn bytes(seed: u16, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed as u8) | 1).collect()
}

pub(crate) fn kind_of(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    }
}

pub(crate) fn set_mtime(dir: impl AsFd, name: &[u8], (seconds, nanos): (i64, u32)) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// What the plain directory shows.
pub(crate) fn show_plain(root: &Path, started: i64) -> Shown {
    let mut out = Shown::new();
    let mut nodes = HashMap::new();
    let mut firsts: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(OsStr::from_bytes(&path));
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let kind = kind_of(meta.mode());
        let mut dirs = 0;
        let mut bytes = Vec::new();
        match kind {
            Kind::Dir => {
                for entry in std::fs::read_dir(&full).unwrap() {
                    let entry = entry.unwrap();
                    dirs += u32::from(entry.file_type().unwrap().is_dir());
                    let name = entry.file_name();
                    pending.push(match path.is_empty() {
                        true => name.as_bytes().to_vec(),
                        false => [&path, &b"/"[..], name.as_bytes()].concat(),
                    });
                }
            }
            Kind::File => bytes = std::fs::read(&full).unwrap(),
            Kind::Symlink => bytes = std::fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec(),
            _ => {}
        }
        let mut space = vec![0u8; 1024];
        let len = rustix::fs::llistxattr(&full, &mut space[..]).unwrap();
        let mut xattrs: Vec<_> = space[..len]
            .split(|&b| b == 0)
            .filter(|name| name.starts_with(b"user.") || name.starts_with(b"trusted."))
            .map(|name| {
                let mut value = vec![0u8; 1024];
                let len = rustix::fs::lgetxattr(&full, name, &mut value[..]).unwrap();
                (name.to_vec(), value[..len].to_vec())
            })
            .collect();
        xattrs.sort();
        let first = firsts.entry(meta.ino()).or_insert_with(|| path.clone());
        if path < *first {
            *first = path.clone();
        }
        let entry = Entry {
            kind,
            perm: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            rdev: meta.rdev() as u32,
            nlink: if kind == Kind::Dir { dirs + 2 } else { meta.nlink() as u32 },
            bytes,
            first: Vec::new(),
            xattrs,
            mtime: (meta.mtime() < started).then_some((meta.mtime(), meta.mtime_nsec() as u32)),
        };
        nodes.insert(path.clone(), meta.ino());
        out.insert(path, entry);
    }
    for (path, entry) in &mut out {
        entry.first = firsts[&nodes[path]].clone();
    }
    out
}

/// A lower tree: one source at the root and one that merges with it at `a`.
pub(crate) struct Lower {
    root: ManifestId,
    inner: ManifestId,
}

impl Lower {
    pub(crate) fn view(&self, world: &World) -> View {
        world.view(&[("", self.root), ("a", self.inner)])
    }

    /// What a view needs to show the tree at `path`.
    pub(crate) fn grafts(&self, path: &str) -> [(String, ManifestId); 2] {
        [(path.to_owned(), self.root), (format!("{path}/a"), self.inner)]
    }

    /// Makes tree number `seed`.
    pub(crate) fn make(world: &World, seed: u8) -> Self {
        let mut state = u64::from(seed) + 1;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut trees = Vec::new();
        for (part, entries) in [("root", 14u64), ("inner", 8)] {
            let root = world.beside(&format!("lower-{seed}-{part}"));
            std::fs::create_dir(&root).unwrap();
            // What both have must be a directory: the inner one has names that the other does not use below `a`.
            std::fs::create_dir(root.join("a")).unwrap();
            let mut dirs = vec![root.clone(), root.join("a")];
            let mut files = Vec::new();
            for number in 0..entries {
                let parent = dirs[random(dirs.len() as u64) as usize].clone();
                let at_a = part == "root" && parent == root.join("a");
                let choice = random(NAMES.len() as u64) as u8;
                // `a` and `b` in the merged directory come from the root part, `c` and the others from the inner one.
                let index = match (part, at_a || parent == root) {
                    ("root", true) if at_a => choice % 2,
                    ("inner", true) if parent == root => 2 + choice % 2,
                    _ => choice,
                };
                let path = parent.join(OsStr::from_bytes(name(index)));
                if path.symlink_metadata().is_ok() {
                    continue;
                }
                match random(10) {
                    0..=3 => {
                        std::fs::create_dir(&path).unwrap();
                        dirs.push(path);
                    }
                    4 => {
                        let target = ["b", "c", "a/b", "./d", "a/../c", "nowhere/x"][random(6) as usize];
                        std::os::unix::fs::symlink(target, &path).unwrap();
                    }
                    5 | 6 if !files.is_empty() => {
                        let target: &std::path::PathBuf = &files[random(files.len() as u64) as usize];
                        std::fs::hard_link(target, &path).unwrap();
                    }
                    _ => {
                        let len =
                            [0, random(100), random(9000), random(9000), 70_000][random(5) as usize] as usize;
                        let mut content = bytes(number as u16, len);
                        // As long a hole as fits.
                        if random(3) == 0 {
                            content.iter_mut().skip(4096).take(3 * 4096).for_each(|byte| *byte = 0);
                        }
                        std::fs::write(&path, content).unwrap();
                        let mode = [0o644, 0o755, 0o444, 0o600][random(4) as usize];
                        rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
                        files.push(path);
                    }
                }
            }
            if part == "inner" {
                std::fs::remove_dir_all(root.join("a")).unwrap();
            }
            trees.push(world.store_tree(&root));
        }
        Self { root: trees[0], inner: trees[1] }
    }
}

/// Copies what a view shows to a plain directory, with its times.
pub(crate) fn copy_out(overlay: &Overlay, view: &View, to: &Path) {
    let shown = show(overlay, i64::MAX);
    for (path, entry) in &shown {
        let full = to.join(OsStr::from_bytes(path));
        if entry.first != *path {
            std::fs::hard_link(to.join(OsStr::from_bytes(&entry.first)), &full).unwrap();
            continue;
        }
        match entry.kind {
            Kind::Dir => std::fs::create_dir_all(&full).unwrap(),
            Kind::File => std::fs::write(&full, &entry.bytes).unwrap(),
            _ => std::os::unix::fs::symlink(OsStr::from_bytes(&entry.bytes), &full).unwrap(),
        }
        if entry.kind != Kind::Symlink {
            rustix::fs::chmod(&full, Mode::from_raw_mode(entry.perm)).unwrap();
        }
    }
    for path in shown.keys().rev() {
        let id = view.resolve(&RelPath::new(path.clone()).unwrap()).unwrap();
        let full = to.join(OsStr::from_bytes(path));
        set_mtime(rustix::fs::CWD, full.as_os_str().as_bytes(), view.entry(id).unwrap().mtime).unwrap();
    }
}
