//! Random operations on an overlay, and the same ones on a plain directory that began as a copy of the view: they
//! give the same results and errors, and leave the same tree. The overlay is opened anew now and then.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use cvs_fusefs::{FsError, Ino, Kind, Make, Overlay, RenameMode, SetAttr, SetTime};
use proptest::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::support::{Shown, World, content, difference, list, me, show, walk};
use crate::trees::{Lower, bytes, copy_out, kind_of, name, set_mtime, show_plain};

/// Names of a path, each an index into `NAMES`.
type PathOf = Vec<u8>;

/// Lower trees that are made; a case runs over one.
const TREES: u8 = 12;
const HANDLES: usize = 4;
const NOBODY: u32 = 65_534;

#[derive(Debug, Clone)]
enum Op {
    Create(PathOf, u32),
    Mkdir(PathOf, u32),
    Symlink(PathOf),
    Fifo(PathOf),
    TooLong(PathOf),
    Write(PathOf, u16, u8),
    Truncate(PathOf, u16),
    Allocate(PathOf, u16),
    Chmod(PathOf, u32),
    Chown(PathOf, u32),
    Utimens(PathOf, i64),
    Rename(PathOf, PathOf, u8),
    Link(PathOf, PathOf),
    Unlink(PathOf),
    Rmdir(PathOf),
    Setxattr(PathOf, bool, u8),
    Removexattr(PathOf, bool),
    List(PathOf),
    Read(PathOf),
    Remount,
    /// Opens a file and keeps it.
    Open(PathOf, u8),
    HandleWrite(u8, u16),
    HandleTruncate(u8, u16),
    HandleRead(u8),
    HandleChmod(u8, u32),
    HandleClose(u8),
}

fn paths() -> impl Strategy<Value = PathOf> {
    let name = prop_oneof![12 => 0u8..4, 1 => 4u8..6];
    prop::collection::vec(name, 1..4)
}

/// `setuid` too, which only root keeps when he writes.
fn modes(setuid: bool) -> impl Strategy<Value = u32> {
    // Only root can look into the plain directory whatever its modes are.
    let own = if me().uid == 0 { 0 } else { 0o700 };
    let first = if setuid { 0o4755 } else { 0o711 };
    prop::sample::select(vec![first, 0o644, 0o755, 0o600, 0o444, 0o000, 0o1777])
        .prop_map(move |mode| mode | own)
}

fn ops(setuid: bool) -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (paths(), modes(setuid)).prop_map(|(p, m)| Op::Create(p, m)),
        4 => (paths(), modes(setuid)).prop_map(|(p, m)| Op::Mkdir(p, m)),
        1 => paths().prop_map(Op::Symlink),
        1 => paths().prop_map(Op::Fifo),
        1 => paths().prop_map(Op::TooLong),
        4 => (paths(), any::<u16>(), any::<u8>()).prop_map(|(p, o, l)| Op::Write(p, o, l)),
        2 => (paths(), any::<u16>()).prop_map(|(p, s)| Op::Truncate(p, s)),
        1 => (paths(), any::<u16>()).prop_map(|(p, s)| Op::Allocate(p, s)),
        2 => (paths(), modes(setuid)).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (paths(), 0u32..3).prop_map(|(p, u)| Op::Chown(p, u)),
        2 => (paths(), -1000i64..1_000_000_000).prop_map(|(p, t)| Op::Utimens(p, t)),
        8 => (paths(), paths(), 0u8..3).prop_map(|(a, b, m)| Op::Rename(a, b, m)),
        4 => (paths(), paths()).prop_map(|(a, b)| Op::Link(a, b)),
        5 => paths().prop_map(Op::Unlink),
        4 => paths().prop_map(Op::Rmdir),
        1 => (paths(), any::<bool>(), any::<u8>()).prop_map(|(p, r, v)| Op::Setxattr(p, r, v)),
        1 => (paths(), any::<bool>()).prop_map(|(p, r)| Op::Removexattr(p, r)),
        2 => paths().prop_map(Op::List),
        2 => paths().prop_map(Op::Read),
        1 => Just(Op::Remount),
        3 => (paths(), 0u8..HANDLES as u8).prop_map(|(p, h)| Op::Open(p, h)),
        2 => (0u8..HANDLES as u8, any::<u16>()).prop_map(|(h, o)| Op::HandleWrite(h, o)),
        1 => (0u8..HANDLES as u8, any::<u16>()).prop_map(|(h, s)| Op::HandleTruncate(h, s)),
        2 => (0u8..HANDLES as u8).prop_map(Op::HandleRead),
        1 => (0u8..HANDLES as u8, modes(setuid)).prop_map(|(h, m)| Op::HandleChmod(h, m)),
        1 => (0u8..HANDLES as u8).prop_map(Op::HandleClose),
    ]
}

fn split(path: &PathOf) -> (Vec<&'static [u8]>, &'static [u8]) {
    let (last, dirs) = path.split_last().unwrap();
    (dirs.iter().map(|&i| name(i)).collect(), name(*last))
}

/// The plain directory.
struct Plain {
    root: OwnedFd,
}

impl Plain {
    fn open(root: &Path) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { root: rustix::fs::open(root, flags, Mode::empty()).unwrap() }
    }

    fn dir(&self, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = self.root.try_clone().unwrap();
        for name in names {
            at = rustix::fs::openat(&at, *name, flags, Mode::empty())?;
        }
        Ok(at)
    }

    fn kind(&self, path: &PathOf) -> Result<Kind, Errno> {
        let (dirs, last) = split(path);
        let stat = rustix::fs::statat(self.dir(&dirs)?, last, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(kind_of(stat.st_mode))
    }

    fn file(&self, path: &PathOf) -> File {
        let (dirs, last) = split(path);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(rustix::fs::openat(self.dir(&dirs).unwrap(), last, flags, Mode::empty()).unwrap())
    }
}

/// An open file: the plain one, and the node whose name the kernel would hold.
struct Handle {
    plain: File,
    ino: Ino,
}

struct Case<'w> {
    world: &'w World,
    tree: &'w Lower,
    upper: String,
    /// Serves the overlay, when it is not root, who has the plain directory.
    user: Option<u32>,
    plain: Plain,
    overlay: Option<Overlay>,
    handles: [Option<Handle>; HANDLES],
}

fn open(world: &World, tree: &Lower, upper: &str, user: Option<u32>) -> Overlay {
    as_user(user, || world.overlay(tree.view(world), upper))
}

type Outcome = Result<(), i32>;

fn plain<T>(result: Result<T, Errno>) -> Outcome {
    result.map(drop).map_err(Errno::raw_os_error)
}

fn ours<T>(result: Result<T, FsError>) -> Outcome {
    result.map(drop).map_err(|error| error.errno())
}

/// Runs what belongs to the overlay, as the user that serves it.
fn as_user<T>(user: Option<u32>, body: impl FnOnce() -> T) -> T {
    use rustix::fs::Uid;
    let become_user = |uid| rustix::thread::set_thread_res_uid(None, Some(Uid::from_raw(uid)), None).unwrap();
    let Some(user) = user else { return body() };
    become_user(user);
    let done = body();
    become_user(0);
    done
}

impl Case<'_> {
    fn overlay(&self) -> &Overlay {
        self.overlay.as_ref().unwrap()
    }

    fn ours<T>(&self, operation: impl FnOnce() -> Result<T, FsError>) -> Outcome {
        ours(as_user(self.user, operation))
    }

    fn dir(&self, names: &[&[u8]]) -> Result<Ino, FsError> {
        let attr = walk(self.overlay(), names.iter().copied())?;
        if attr.kind == Kind::Dir { Ok(attr.ino) } else { Err(FsError::NotADirectory) }
    }

    fn node(&self, path: &PathOf) -> Result<Ino, FsError> {
        let (dirs, last) = split(path);
        Ok(self.overlay().lookup(self.dir(&dirs)?, last)?.ino)
    }

    /// Both sides make `what` at `path`.
    fn make(&self, path: &PathOf, last: &[u8], what: Make<'_>, mode: u32) -> (Outcome, Outcome) {
        let (dirs, _) = split(path);
        let bits = Mode::from_raw_mode(mode);
        let expected = plain(self.plain.dir(&dirs).and_then(|dir| match what {
            Make::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(dir, last, flags, bits).map(drop)
            }
            Make::Dir => rustix::fs::mkdirat(dir, last, bits),
            Make::Symlink(target) => rustix::fs::symlinkat(target, dir, last),
            Make::Special(..) => rustix::fs::mknodat(dir, last, FileType::Fifo, bits, 0),
        }));
        let found =
            self.ours(|| self.dir(&dirs).and_then(|dir| self.overlay().make(dir, last, what, mode, me())));
        (expected, found)
    }

    /// What an operation gave on the plain directory and on the overlay.
    fn run(&mut self, op: &Op) -> (Outcome, Outcome) {
        const NOTHING: (Outcome, Outcome) = (Ok(()), Ok(()));
        // The kernel looks a name up before it does anything else, and does not let the wrong kind through.
        let looked = |path: &PathOf, wanted: &[Kind]| match (self.plain.kind(path), self.node(path)) {
            (Ok(kind), Ok(ino)) => {
                assert_eq!(self.overlay().getattr(ino).unwrap().kind, kind);
                wanted.contains(&kind).then_some(ino).ok_or(NOTHING)
            }
            (expected, found) => Err((plain(expected), ours(found))),
        };
        const FILE: &[Kind] = &[Kind::File];
        const PLAIN: &[Kind] = &[Kind::File, Kind::Dir];
        macro_rules! node {
            ($path:expr, $wanted:expr) => {
                match looked($path, $wanted) {
                    Ok(ino) => ino,
                    Err(outcome) => return outcome,
                }
            };
        }
        match op {
            Op::Create(path, mode) => self.make(path, split(path).1, Make::File, *mode),
            Op::Mkdir(path, mode) => self.make(path, split(path).1, Make::Dir, *mode),
            Op::Symlink(path) => self.make(path, split(path).1, Make::Symlink(b"some/target"), 0o777),
            Op::Fifo(path) => self.make(path, split(path).1, Make::Special(Kind::Fifo, 0), 0o644),
            Op::TooLong(path) => self.make(path, &[b'x'; 256], Make::File, 0o644),
            Op::Write(path, offset, len) => {
                let ino = node!(path, FILE);
                let (data, offset) = (bytes(*offset, usize::from(*len)), u64::from(*offset));
                self.plain.file(path).write_all_at(&data, offset).unwrap();
                (Ok(()), self.ours(|| self.overlay().write_at(ino, offset, &data, false)))
            }
            Op::Truncate(path, size) => {
                let ino = node!(path, FILE);
                let size = u64::from(*size);
                self.plain.file(path).set_len(size).unwrap();
                let change = SetAttr { size: Some(size), ..SetAttr::default() };
                (Ok(()), self.ours(|| self.overlay().setattr(ino, change, me())))
            }
            Op::Allocate(path, offset) => {
                let ino = node!(path, FILE);
                let offset = u64::from(*offset);
                let flags = rustix::fs::FallocateFlags::empty();
                let expected = rustix::fs::fallocate(self.plain.file(path), flags, offset, 100);
                (plain(expected), self.ours(|| self.overlay().fallocate(ino, offset, 100, 0)))
            }
            Op::Chmod(path, mode) => {
                let ino = node!(path, &[Kind::File, Kind::Dir, Kind::Fifo]);
                let (dirs, last) = split(path);
                let bits = Mode::from_raw_mode(*mode);
                let expected =
                    rustix::fs::chmodat(self.plain.dir(&dirs).unwrap(), last, bits, AtFlags::empty());
                let change = SetAttr { perm: Some(*mode), ..SetAttr::default() };
                (plain(expected), self.ours(|| self.overlay().setattr(ino, change, me())))
            }
            Op::Chown(path, owner) => {
                if self.user.is_some() || me().uid != 0 {
                    return NOTHING;
                }
                let ino = node!(path, &[Kind::File, Kind::Dir, Kind::Fifo, Kind::Symlink]);
                let (dirs, last) = split(path);
                let uid = Some(rustix::fs::Uid::from_raw(*owner));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let expected = rustix::fs::chownat(self.plain.dir(&dirs).unwrap(), last, uid, None, flags);
                let change = SetAttr { uid: Some(*owner), ..SetAttr::default() };
                (plain(expected), self.ours(|| self.overlay().setattr(ino, change, me())))
            }
            Op::Utimens(path, seconds) => {
                let ino = node!(path, &[Kind::File, Kind::Dir, Kind::Fifo, Kind::Symlink]);
                let (dirs, last) = split(path);
                let expected = set_mtime(self.plain.dir(&dirs).unwrap(), last, (*seconds, 7));
                let change = SetAttr { mtime: Some(SetTime::To((*seconds, 7))), ..SetAttr::default() };
                (plain(expected), self.ours(|| self.overlay().setattr(ino, change, me())))
            }
            Op::Rename(from, to, mode) => {
                // The kernel answers these by itself: one is inside of the other.
                if (from != to) && (from.starts_with(to) || to.starts_with(from)) {
                    return NOTHING;
                }
                let (flags, mode) = match mode {
                    0 => (RenameFlags::empty(), RenameMode::Replace),
                    1 => (RenameFlags::NOREPLACE, RenameMode::NoReplace),
                    _ => (RenameFlags::EXCHANGE, RenameMode::Exchange),
                };
                let ((from_dirs, from), (to_dirs, to)) = (split(from), split(to));
                let expected = self.plain.dir(&from_dirs).and_then(|from_dir| {
                    rustix::fs::renameat_with(from_dir, from, self.plain.dir(&to_dirs)?, to, flags)
                });
                let found = self.ours(|| {
                    self.overlay().rename(self.dir(&from_dirs)?, from, self.dir(&to_dirs)?, to, mode)
                });
                (plain(expected), found)
            }
            Op::Link(from, to) => {
                // Of two reasons to refuse, the kernel has looked at the target first.
                if self.plain.kind(from) == Ok(Kind::Dir) && self.plain.kind(to).is_ok() {
                    return NOTHING;
                }
                let ((from_dirs, from_name), (to_dirs, to)) = (split(from), split(to));
                let expected = self.plain.dir(&from_dirs).and_then(|from_dir| {
                    rustix::fs::statat(&from_dir, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
                    let to_dir = self.plain.dir(&to_dirs)?;
                    rustix::fs::linkat(from_dir, from_name, to_dir, to, AtFlags::empty())
                });
                let found = self.ours(|| self.overlay().link(self.node(from)?, self.dir(&to_dirs)?, to));
                (plain(expected), found)
            }
            Op::Unlink(path) => {
                let (dirs, last) = split(path);
                let expected =
                    self.plain.dir(&dirs).and_then(|dir| rustix::fs::unlinkat(dir, last, AtFlags::empty()));
                (
                    plain(expected),
                    self.ours(|| self.dir(&dirs).and_then(|dir| self.overlay().unlink(dir, last))),
                )
            }
            Op::Rmdir(path) => {
                let (dirs, last) = split(path);
                let expected =
                    self.plain.dir(&dirs).and_then(|dir| rustix::fs::unlinkat(dir, last, AtFlags::REMOVEDIR));
                (
                    plain(expected),
                    self.ours(|| self.dir(&dirs).and_then(|dir| self.overlay().rmdir(dir, last))),
                )
            }
            Op::Setxattr(path, reserved, value) => {
                let ino = node!(path, PLAIN);
                let (attribute, value) = (attribute(*reserved), bytes(7, usize::from(value % 50)));
                let (dirs, last) = split(path);
                let at = proc_path(&self.plain.dir(&dirs).unwrap(), last);
                let expected = rustix::fs::lsetxattr(at.1, attribute, &value, XattrFlags::empty());
                (plain(expected), self.ours(|| self.overlay().setxattr(ino, attribute.as_bytes(), &value, 0)))
            }
            Op::Removexattr(path, reserved) => {
                let ino = node!(path, PLAIN);
                let (dirs, last) = split(path);
                let at = proc_path(&self.plain.dir(&dirs).unwrap(), last);
                let expected = rustix::fs::lremovexattr(at.1, attribute(*reserved));
                (
                    plain(expected),
                    self.ours(|| self.overlay().removexattr(ino, attribute(*reserved).as_bytes())),
                )
            }
            Op::List(path) => {
                let ino = node!(path, &[Kind::Dir]);
                let (mut dirs, last) = split(path);
                dirs.push(last);
                let expected = names_of(&self.plain.dir(&dirs).unwrap());
                let found = as_user(self.user, || list(self.overlay(), ino)).unwrap();
                let found: Vec<Vec<u8>> = found.into_iter().map(|entry| entry.name.into()).collect();
                assert_eq!(expected, found);
                NOTHING
            }
            Op::Read(path) => {
                let ino = node!(path, FILE);
                self.compare(&self.plain.file(path), ino);
                NOTHING
            }
            Op::Remount => {
                self.remount();
                NOTHING
            }
            Op::Open(path, index) => {
                let ino = node!(path, FILE);
                let handle = Handle { plain: self.plain.file(path), ino };
                self.overlay().count_lookup(ino);
                if let Some(old) = self.handles[usize::from(*index)].replace(handle) {
                    self.overlay().forget(old.ino, 1);
                }
                NOTHING
            }
            Op::HandleWrite(index, offset) => {
                let Some(handle) = &self.handles[usize::from(*index)] else { return NOTHING };
                let data = bytes(*offset, 50);
                handle.plain.write_all_at(&data, u64::from(*offset)).unwrap();
                (Ok(()), self.ours(|| self.overlay().write_at(handle.ino, u64::from(*offset), &data, false)))
            }
            Op::HandleTruncate(index, size) => {
                let Some(handle) = &self.handles[usize::from(*index)] else { return NOTHING };
                handle.plain.set_len(u64::from(*size)).unwrap();
                let change = SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() };
                (Ok(()), self.ours(|| self.overlay().setattr(handle.ino, change, me())))
            }
            Op::HandleRead(index) => {
                let Some(handle) = &self.handles[usize::from(*index)] else { return NOTHING };
                self.compare(&handle.plain, handle.ino);
                NOTHING
            }
            Op::HandleChmod(index, mode) => {
                let Some(handle) = &self.handles[usize::from(*index)] else { return NOTHING };
                let expected = rustix::fs::fchmod(&handle.plain, Mode::from_raw_mode(*mode));
                let change = SetAttr { perm: Some(*mode), ..SetAttr::default() };
                (plain(expected), self.ours(|| self.overlay().setattr(handle.ino, change, me())))
            }
            Op::HandleClose(index) => {
                if let Some(handle) = self.handles[usize::from(*index)].take() {
                    self.overlay().forget(handle.ino, 1);
                }
                NOTHING
            }
        }
    }

    fn remount(&mut self) {
        for handle in &mut self.handles {
            if let (Some(handle), Some(overlay)) = (handle.take(), &self.overlay) {
                overlay.forget(handle.ino, 1);
            }
        }
        self.overlay = None;
        self.overlay = Some(open(self.world, self.tree, &self.upper, self.user));
    }

    fn compare(&self, file: &File, ino: Ino) {
        let meta = file.metadata().unwrap();
        let mut expected = vec![0; meta.len() as usize];
        file.read_exact_at(&mut expected, 0).unwrap();
        assert_eq!(as_user(self.user, || content(self.overlay(), ino)).unwrap(), expected);
        let attr = self.overlay().getattr(ino).unwrap();
        assert_eq!((attr.perm, u64::from(attr.nlink)), (meta.mode() & 0o7777, meta.nlink()));
    }
}

fn attribute(reserved: bool) -> &'static str {
    if reserved { "user.cvs.origin" } else { "user.note" }
}

/// A path for calls without a dirfd, and what keeps it.
fn proc_path(dir: &OwnedFd, name: &[u8]) -> (OwnedFd, Vec<u8>) {
    let dir = dir.try_clone().unwrap();
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    (dir, path)
}

fn names_of(dir: &OwnedFd) -> Vec<Vec<u8>> {
    let readable =
        rustix::fs::openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut names: Vec<Vec<u8>> = rustix::fs::Dir::new(readable.unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
        .filter(|name| name != b"." && name != b"..")
        .collect();
    names.sort();
    names
}

fn world() -> &'static (World, Vec<Lower>) {
    static WORLD: OnceLock<(World, Vec<Lower>)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let world = World::new();
        let trees = (0..TREES).map(|seed| Lower::make(&world, seed)).collect();
        (world, trees)
    })
}

fn check(user: Option<u32>, seed: u8, ops: &[Op]) -> Result<(), TestCaseError> {
    static NEXT: Mutex<u32> = Mutex::new(0);
    let number = {
        let mut next = NEXT.lock().unwrap();
        *next += 1;
        *next
    };
    let (world, trees) = world();
    let tree = &trees[usize::from(seed)];
    let plain_root = world.beside(&format!("plain-{number}"));
    std::fs::create_dir(&plain_root).unwrap();
    let read_only = Overlay::new(world.store.clone(), tree.view(world), None, false).unwrap();
    copy_out(&read_only, &tree.view(world), &plain_root);
    // Times before this are set ones; the clock of files may lag by a tick.
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 1;
    let upper = format!("upper-{number}");
    std::fs::create_dir(world.beside(&upper)).unwrap();
    std::os::unix::fs::chown(world.beside(&upper), user, None).unwrap();
    let mut case = Case {
        world,
        tree,
        user,
        plain: Plain::open(&plain_root),
        overlay: Some(open(world, tree, &upper, user)),
        handles: Default::default(),
        upper,
    };
    let same = |expected: &Shown, overlay: &Overlay, when: &str| {
        let found = as_user(user, || show(overlay, started));
        prop_assert!(*expected == found, "{when}: {:#?}", difference(expected, &found));
        Ok(())
    };
    same(&show_plain(&plain_root, started), case.overlay(), "at the start")?;
    for op in ops {
        let (expected, found) = case.run(op);
        prop_assert_eq!(expected, found, "{:?}", op);
    }
    let expected = show_plain(&plain_root, started);
    same(&expected, case.overlay(), "before the last remount")?;
    case.remount();
    same(&expected, case.overlay(), "after the last remount")?;
    let upper = world.beside(&case.upper);
    drop(case);
    std::fs::remove_dir_all(upper).unwrap();
    std::fs::remove_dir_all(plain_root).unwrap();
    Ok(())
}

fn cases() -> u32 {
    if std::env::var_os("CVS_TEST_LONG").is_some() { 8192 } else { 256 }
}

/// What random operations have found once, on every tree.
#[test]
fn what_was_found_before_stays_right() {
    let found: &[&[Op]] = &[
        // A file with several names was copied up, and gave its directories a new time.
        &[Op::Rename(vec![3], vec![0], 0)],
        &[Op::Write(vec![0, 0], 5, 5), Op::Write(vec![2], 5, 5)],
        // An attribute was read with no room for it.
        &[Op::Setxattr(vec![2], false, 1)],
        // mkdir took bits that only chmod may set.
        &[Op::Unlink(vec![2]), Op::Rmdir(vec![2]), Op::Mkdir(vec![2], 0o4755)],
        // A directory that replaced another one was counted twice.
        &[Op::Mkdir(vec![2], 0o755), Op::Mkdir(vec![3], 0o755), Op::Rename(vec![2], vec![3], 0)],
        &[Op::Mkdir(vec![0, 2], 0o755), Op::Mkdir(vec![0, 3], 0o755), Op::Rename(vec![0, 2], vec![0, 3], 0)],
    ];
    for seed in 0..TREES {
        for ops in found {
            check(None, seed, ops).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_is_a_directory(seed in 0..TREES, ops in prop::collection::vec(ops(me().uid == 0), 1..60)) {
        check(None, seed, &ops)?;
    }

    #[test]
    fn so_is_the_overlay_of_an_ordinary_user(seed in 0..TREES, ops in prop::collection::vec(ops(false), 1..60)) {
        if me().uid == 0 {
            check(Some(NOBODY), seed, &ops)?;
        }
    }
}
