//! The one language of operations: what a process may ask of a directory, and how sequences of it are drawn. What is
//! printed of a sequence can be pasted into `regressions.rs`.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::select;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::trees::{TOO_LONG, name};

/// Handles that a process keeps.
pub(crate) const SLOTS: u8 = 3;
/// What O_DIRECT wants on any filesystem.
pub(crate) const BLOCK: u32 = 4096;
/// The names of extended attributes; the second is one that the overlay keeps books with.
pub(crate) const ATTRIBUTES: [&str; 4] = ["user.note", "user.cvs.origin", "user.other", "trusted.note"];
/// Targets of symlinks. None leads out of the tree.
pub(crate) const TARGETS: [&str; 6] = ["a", "b", "a/b", "./c", "a/../d", "missing/x"];

/// Who asks: one of two processes. The second can do it as an ordinary user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Who {
    Here,
    Other,
    Nobody,
}

/// An operation, and who asks for it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) who: Who,
    pub(crate) op: Op,
}

pub(crate) fn here(op: Op) -> Step {
    Step { who: Who::Here, op }
}
pub(crate) fn other(op: Op) -> Step {
    Step { who: Who::Other, op }
}
pub(crate) fn nobody(op: Op) -> Step {
    Step { who: Who::Nobody, op }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.who {
            Who::Here => "here",
            Who::Other => "other",
            Who::Nobody => "nobody",
        };
        write!(f, "{who}({:?})", self.op)
    }
}

/// A path, from the root of the tree or from the directory where the process is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Path {
    pub(crate) from_cwd: bool,
    pub(crate) names: Vec<u8>,
}

/// How names are written in sequences.
const SPELLED: [&str; 7] = ["a", "b", "c", "d", "~odd", "~long", "~toolong"];

/// `a/b` from the root, `./a/b` from where the process is.
pub(crate) fn at(path: &str) -> Path {
    let (from_cwd, names) = match path.strip_prefix('.') {
        Some(rest) => (true, rest),
        None => (false, path),
    };
    let index =
        |name: &str| SPELLED.iter().position(|known| *known == name).expect("a name of the language") as u8;
    Path { from_cwd, names: names.split('/').filter(|name| !name.is_empty()).map(index).collect() }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names.iter().map(|&name| SPELLED[usize::from(name)]).collect();
        let start = if self.from_cwd { "./" } else { "" };
        write!(f, "at(\"{start}{}\")", names.join("/"))
    }
}

impl Path {
    pub(crate) fn bytes(&self) -> Vec<&'static [u8]> {
        self.names
            .iter()
            .map(|&index| if usize::from(index) + 1 == SPELLED.len() { TOO_LONG } else { name(index) })
            .collect()
    }
}

/// Permission bits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bits(pub(crate) u32);

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bits(0o{:o})", self.0)
    }
}

/// The flags of an open, in words.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct How(pub(crate) String);

pub(crate) fn how(words: &str) -> How {
    How(words.to_owned())
}

impl fmt::Debug for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "how(\"{}\")", self.0)
    }
}

impl How {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.split(' ').any(|known| known == word)
    }

    pub(crate) fn flags(&self) -> OFlags {
        // Nobody is at the other end of a pipe.
        self.0.split(' ').fold(OFlags::CLOEXEC | OFlags::NONBLOCK, |flags, word| {
            flags
                | match word {
                    "r" => OFlags::RDONLY,
                    "w" => OFlags::WRONLY,
                    "rw" => OFlags::RDWR,
                    "path" => OFlags::PATH,
                    "create" => OFlags::CREATE,
                    "excl" => OFlags::EXCL,
                    "trunc" => OFlags::TRUNC,
                    "append" => OFlags::APPEND,
                    "direct" => OFlags::DIRECT,
                    "nofollow" => OFlags::NOFOLLOW,
                    "dir" => OFlags::DIRECTORY,
                    _ => unreachable!("{word}"),
                }
        })
    }
}

const HOWS: [&str; 25] = [
    "r",
    "r",
    "r",
    "rw",
    "rw",
    "rw",
    "w",
    "path",
    "path nofollow",
    "r dir",
    "r dir",
    "r nofollow",
    "rw create",
    "rw create",
    "rw create excl",
    "w create excl",
    "rw create trunc",
    "w trunc",
    "rw trunc",
    "w append",
    "rw append",
    "rw create append",
    "rw direct",
    "rw create direct",
    "w create nofollow",
];

/// What is asked. Numbers are offsets and lengths; a `u8` for a file is the slot that keeps it, see [`filled`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Op {
    Mkdir(Path, Bits),
    Symlink(Path, u8),
    /// A pipe, a socket or a device.
    Mknod(Path, u8, Bits),
    Unlink(Path),
    Rmdir(Path),
    /// Plain, NOREPLACE, EXCHANGE, both.
    Rename(Path, Path, u8),
    /// Following a symlink, or not.
    Link(Path, Path, bool),
    /// linkat(2) of what a handle holds.
    LinkHandle(u8, Path),
    Chmod(Path, Bits),
    Chown(Path, u32, bool),
    /// To a time, or to the present.
    Utimens(Path, Option<i64>),
    Truncate(Path, u32),
    Setxattr(Path, u8, u8, u8),
    Getxattr(Path, u8),
    Listxattr(Path),
    Removexattr(Path, u8),
    Stat(Path, bool),
    Readlink(Path),
    List(Path),
    /// The process goes to a directory.
    Chdir(Path),
    /// Opens and keeps; closes what the slot held.
    Open(Path, How, Bits, u8),
    Close(u8),
    Write(u8, u16),
    Read(u8, u16),
    Pwrite(u8, u32, u16),
    Pread(u8, u32, u16),
    /// SET, CUR, END, DATA, HOLE.
    Seek(u8, u8, i32),
    Ftruncate(u8, u32),
    /// Plain, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE, INSERT_RANGE.
    Fallocate(u8, u8, u32, u32),
    CopyRange(u8, u32, u8, u32, u16),
    /// Of the data alone, or of all.
    Fsync(u8, bool),
    Fstat(u8),
    Fchmod(u8, Bits),
    Fchown(u8, u32),
    Futimens(u8, Option<i64>),
    Fsetxattr(u8, u8, u8),
    /// Reads on in an open directory, with room for so many bytes.
    ReadDir(u8, u16),
    Rewind(u8),
    /// Maps a file and keeps the mapping: shared, or private.
    Map(u8, bool),
    MapRead(u8, u32, u16),
    MapWrite(u8, u32, u16, bool),
    Unmap(u8),
    Remount,
}

/// The slot that is meant: the first from `slot` on that holds something.
pub(crate) fn filled(slot: u8, holds: impl Fn(usize) -> bool) -> usize {
    let mut slots = (0..SLOTS).map(|next| usize::from((slot + next) % SLOTS));
    slots.find(|&slot| holds(slot)).unwrap_or(slot.into())
}

impl Op {
    /// The slot that this is about.
    pub(crate) fn slot(&self) -> Option<u8> {
        Some(match *self {
            Self::Open(_, _, _, slot)
            | Self::Close(slot)
            | Self::LinkHandle(slot, _)
            | Self::Write(slot, _)
            | Self::Read(slot, _)
            | Self::Pwrite(slot, _, _)
            | Self::Pread(slot, _, _)
            | Self::Seek(slot, _, _)
            | Self::Ftruncate(slot, _)
            | Self::Fallocate(slot, _, _, _)
            | Self::CopyRange(slot, _, _, _, _)
            | Self::Fsync(slot, _)
            | Self::Fstat(slot)
            | Self::Fchmod(slot, _)
            | Self::Fchown(slot, _)
            | Self::Futimens(slot, _)
            | Self::Fsetxattr(slot, _, _)
            | Self::ReadDir(slot, _)
            | Self::Rewind(slot)
            | Self::Map(slot, _)
            | Self::MapRead(slot, _, _)
            | Self::MapWrite(slot, _, _, _)
            | Self::Unmap(slot) => slot,
            _ => return None,
        })
    }
}

/// What a subject can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    /// There is a kernel between: mappings, O_DIRECT.
    pub(crate) kernel: bool,
    /// Operations that only root can do, and modes that only root can ignore.
    pub(crate) root: bool,
}

fn path(least: usize) -> impl Strategy<Value = Path> {
    let name = prop_oneof![40 => 0u8..4, 4 => 4u8..6, 1 => Just(6u8)];
    let depth = prop_oneof![1 => Just(least), 5 => Just(1usize), 4 => Just(2), 1 => Just(3)];
    let names = depth.prop_flat_map(move |depth| prop::collection::vec(name.clone(), depth));
    (prop::bool::weighted(0.15), names).prop_map(|(from_cwd, names)| Path { from_cwd, names })
}

fn modes(scope: Scope) -> impl Strategy<Value = Bits> {
    // An ordinary user loses setuid and setgid when he writes.
    let plain = [0o644, 0o755, 0o600, 0o444, 0o000, 0o1777, 0o777];
    let privileged = if scope.root { vec![0o4755, 0o2775, 0o6711] } else { Vec::new() };
    select([&plain[..], &privileged].concat()).prop_map(Bits)
}

/// Offsets and sizes: around the beginning, pages and ends.
fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => 0u32..12,
        3 => (0u32..5, -3i32..4).prop_map(|(page, by)| (page * BLOCK).saturating_add_signed(by)),
        3 => 0u32..20_000,
        1 => (16u32..34, -1i32..2).prop_map(|(page, by)| (page * BLOCK).saturating_add_signed(by)),
    ]
}

fn length() -> impl Strategy<Value = u16> {
    prop_oneof![1 => Just(0u16), 4 => 1u16..40, 2 => 4090u16..4100, 3 => 0u16..10_000]
}

fn time() -> impl Strategy<Value = Option<i64>> {
    prop::option::weighted(0.8, prop_oneof![-1000i64..1_000_000_000, Just(-1)])
}

fn slot() -> impl Strategy<Value = u8> {
    0..SLOTS
}

fn names(scope: Scope) -> BoxedStrategy<Op> {
    let user = if scope.root { select(vec![0u32, 1, 65_534]) } else { select(vec![u32::MAX]) };
    let attribute = prop_oneof![3 => Just(0u8), 1 => 0..if scope.root { 4u8 } else { 3 }];
    // A device can be made by root alone.
    let special = 0..if scope.root { 3u8 } else { 2 };
    prop_oneof![
        6 => (path(1), modes(scope)).prop_map(|(p, m)| Op::Mkdir(p, m)),
        2 => (path(1), 0..TARGETS.len() as u8).prop_map(|(p, t)| Op::Symlink(p, t)),
        1 => (path(1), special, modes(scope)).prop_map(|(p, k, m)| Op::Mknod(p, k, m)),
        8 => path(1).prop_map(Op::Unlink),
        6 => path(1).prop_map(Op::Rmdir),
        12 => (path(1), path(1), select(vec![0u8, 0, 0, 0, 1, 2, 2, 3])).prop_map(|(a, b, m)| Op::Rename(a, b, m)),
        5 => (path(1), path(1), prop::bool::weighted(0.3)).prop_map(|(a, b, f)| Op::Link(a, b, f)),
        2 => (slot(), path(1)).prop_map(|(s, p)| Op::LinkHandle(s, p)),
        3 => (path(0), modes(scope)).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(0), user.clone(), any::<bool>()).prop_map(|(p, u, f)| Op::Chown(p, u, f)),
        3 => (path(0), time()).prop_map(|(p, t)| Op::Utimens(p, t)),
        3 => (path(1), offset()).prop_map(|(p, s)| Op::Truncate(p, s)),
        4 => (path(0), attribute.clone(), 0u8..50, 0u8..3).prop_map(|(p, n, l, f)| Op::Setxattr(p, n, l, f)),
        2 => (path(0), attribute.clone()).prop_map(|(p, n)| Op::Getxattr(p, n)),
        1 => path(0).prop_map(Op::Listxattr),
        2 => (path(0), attribute).prop_map(|(p, n)| Op::Removexattr(p, n)),
        3 => (path(0), any::<bool>()).prop_map(|(p, f)| Op::Stat(p, f)),
        1 => path(1).prop_map(Op::Readlink),
        2 => path(0).prop_map(Op::List),
        2 => path(0).prop_map(Op::Chdir),
    ]
    .boxed()
}

fn handles(scope: Scope) -> BoxedStrategy<Op> {
    let hows: Vec<&str> =
        HOWS.into_iter().filter(|words| scope.kernel || !words.contains("direct")).collect();
    let user = if scope.root { select(vec![0u32, 1, 65_534]) } else { select(vec![u32::MAX]) };
    // FUSE refuses the last two before the filesystem is asked.
    let kinds = if scope.kernel { 0..4u8 } else { 0..6 };
    let common = prop_oneof![
        14 => (path(0), select(hows), modes(scope), slot()).prop_map(|(p, h, m, s)| Op::Open(p, how(h), m, s)),
        2 => slot().prop_map(Op::Close),
        4 => (slot(), length()).prop_map(|(s, l)| Op::Write(s, l)),
        3 => (slot(), length()).prop_map(|(s, l)| Op::Read(s, l)),
        5 => (slot(), offset(), length()).prop_map(|(s, o, l)| Op::Pwrite(s, o, l)),
        4 => (slot(), offset(), length()).prop_map(|(s, o, l)| Op::Pread(s, o, l)),
        3 => (slot(), 0u8..5, -100i32..20_000).prop_map(|(s, w, o)| Op::Seek(s, w, o)),
        3 => (slot(), offset()).prop_map(|(s, l)| Op::Ftruncate(s, l)),
        3 => (slot(), kinds, offset(), offset()).prop_map(|(s, m, o, l)| Op::Fallocate(s, m, o, l)),
        3 => (slot(), offset(), slot(), offset(), length())
            .prop_map(|(s, o, t, p, l)| Op::CopyRange(s, o, t, p, l)),
        1 => (slot(), any::<bool>()).prop_map(|(s, d)| Op::Fsync(s, d)),
        3 => slot().prop_map(Op::Fstat),
        2 => (slot(), modes(scope)).prop_map(|(s, m)| Op::Fchmod(s, m)),
        1 => (slot(), user).prop_map(|(s, u)| Op::Fchown(s, u)),
        2 => (slot(), time()).prop_map(|(s, t)| Op::Futimens(s, t)),
        1 => (slot(), 0u8..3, 0u8..50).prop_map(|(s, n, l)| Op::Fsetxattr(s, n, l)),
        4 => (slot(), select(vec![24u16, 64, 300, 4096])).prop_map(|(s, l)| Op::ReadDir(s, l)),
        1 => slot().prop_map(Op::Rewind),
    ];
    if !scope.kernel {
        return common.boxed();
    }
    let mapped = prop_oneof![
        3 => (slot(), any::<bool>()).prop_map(|(s, p)| Op::Map(s, p)),
        3 => (slot(), offset(), length()).prop_map(|(s, o, l)| Op::MapRead(s, o, l)),
        4 => (slot(), offset(), length(), any::<bool>()).prop_map(|(s, o, l, y)| Op::MapWrite(s, o, l, y)),
        1 => slot().prop_map(Op::Unmap),
    ];
    prop_oneof![5 => common, 1 => mapped].boxed()
}

fn step(scope: Scope) -> impl Strategy<Value = Step> {
    let who = match scope.kernel && scope.root {
        true => select(vec![Who::Here, Who::Here, Who::Here, Who::Other, Who::Other, Who::Nobody]),
        false => select(vec![Who::Here, Who::Here, Who::Other]),
    };
    let op = prop_oneof![50 => names(scope), 50 => handles(scope), 2 => Just(Op::Remount)];
    (who, op).prop_map(|(who, op)| Step { who, op })
}

/// Operations that belong together and would seldom meet.
fn together(scope: Scope) -> BoxedStrategy<Vec<Op>> {
    let common = prop_oneof![
        (path(1), 0u8..3).prop_map(|(p, n)| vec![Op::Setxattr(p.clone(), n, 9, 0), Op::Getxattr(p, n)]),
        (path(1), 0u8..3).prop_map(|(p, n)| vec![Op::Setxattr(p.clone(), n, 9, 0), Op::Removexattr(p, n)]),
        (path(1), path(1), 0u8..TARGETS.len() as u8).prop_map(|(p, to, t)| vec![
            Op::Symlink(p.clone(), t),
            Op::Rename(p, to.clone(), 0),
            Op::Readlink(to)
        ]),
        (path(1), slot(), slot(), offset()).prop_map(|(p, s, t, o)| vec![
            Op::Open(p.clone(), how("rw"), Bits(0o600), s),
            Op::Open(p.clone(), how("rw create"), Bits(0o600), t),
            Op::Pwrite(s, o, 5000),
            Op::Unlink(p),
        ]),
        (path(1), slot(), path(1)).prop_map(|(p, s, to)| vec![
            Op::Open(p, how("rw create"), Bits(0o600), s),
            Op::LinkHandle(s, to),
        ]),
        (path(1), slot()).prop_map(|(p, s)| vec![
            Op::Open(p, how("r dir"), Bits(0), s),
            Op::ReadDir(s, 24),
            Op::ReadDir(s, 24),
        ]),
    ];
    if !scope.kernel {
        return common.boxed();
    }
    let mapped = (path(1), slot(), any::<bool>(), offset(), offset()).prop_map(|(p, s, shared, o, t)| {
        let open = Op::Open(p, how("rw create"), Bits(0o600), s);
        vec![
            open,
            Op::Map(s, shared),
            Op::MapWrite(s, o, 5000, false),
            Op::Pwrite(s, t, 3000),
            Op::MapRead(s, 0, 9000),
        ]
    });
    prop_oneof![5 => common, 2 => mapped].boxed()
}

/// Two generations, the first of which leaves whiteouts, renamed and opaque directories to the second.
pub(crate) fn steps(scope: Scope) -> impl Strategy<Value = Vec<Step>> {
    let first = prop::collection::vec(names(scope).prop_map(here), 0..12);
    let who = select(vec![Who::Here, Who::Here, Who::Other]);
    let opens = (path(1), select(vec!["rw", "rw create", "r"]), slot())
        .prop_map(|(path, words, slot)| vec![Op::Open(path, how(words), Bits(0o644), slot)]);
    let group = (who, prop_oneof![2 => opens, 1 => together(scope)])
        .prop_map(|(who, ops)| ops.into_iter().map(|op| Step { who, op }).collect::<Vec<_>>());
    let groups = prop::collection::vec(group, 0..6);
    (first, groups, prop::collection::vec(step(scope), 1..50)).prop_map(|(mut all, groups, rest)| {
        if !all.is_empty() {
            all.push(here(Op::Remount));
        }
        all.extend(groups.into_iter().flatten());
        all.extend(rest);
        all
    })
}
