//! Tests that stop an operation between any two of its system calls.
//!
//! When the process dies there, the overlay that is opened next shows what was before the operation or what is after
//! it. When one call finds the disk full, the operation undoes what it did or goes on, and the table says what the
//! disk says.

use crate::disk::gate::{self, Plan};
use crate::support::{Shown, World, at, difference, me, show};
use crate::{FsError, Ino, Kind, Make, MountError, Overlay, RenameMode, SetAttr, SetTime};

type Step = fn(&Overlay) -> Result<(), FsError>;

struct Scenario {
    name: &'static str,
    /// Makes the state before.
    before: Step,
    operation: Step,
}

fn nothing(_: &Overlay) -> Result<(), FsError> {
    Ok(())
}

fn make(overlay: &Overlay, dir: &str, name: &str, what: Make<'_>, mode: u32) -> Result<(), FsError> {
    overlay.make(at(overlay, dir).ino, name.as_bytes(), what, mode, me()).map(drop)
}

fn write(overlay: &Overlay, path: &str) -> Result<(), FsError> {
    overlay.write_at(at(overlay, path).ino, 3, b"written", false).map(drop)
}

fn parts(path: &str) -> (&str, &[u8]) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name.as_bytes())
}

fn unlink(overlay: &Overlay, path: &str) -> Result<(), FsError> {
    let (dir, name) = parts(path);
    overlay.unlink(at(overlay, dir).ino, name)
}

fn rmdir(overlay: &Overlay, path: &str) -> Result<(), FsError> {
    let (dir, name) = parts(path);
    overlay.rmdir(at(overlay, dir).ino, name)
}

fn rename(overlay: &Overlay, from: &str, to: &str, mode: RenameMode) -> Result<(), FsError> {
    let ((from_dir, from), (to_dir, to)) = (parts(from), parts(to));
    overlay.rename(at(overlay, from_dir).ino, from, at(overlay, to_dir).ino, to, mode)
}

fn mv(overlay: &Overlay, from: &str, to: &str) -> Result<(), FsError> {
    rename(overlay, from, to, RenameMode::Replace)
}

fn swap(overlay: &Overlay, from: &str, to: &str) -> Result<(), FsError> {
    rename(overlay, from, to, RenameMode::Exchange)
}

fn link(overlay: &Overlay, from: &str, to: &str) -> Result<(), FsError> {
    let (dir, name) = parts(to);
    overlay.link(at(overlay, from).ino, at(overlay, dir).ino, name).map(drop)
}

fn change(overlay: &Overlay, path: &str, change: SetAttr) -> Result<(), FsError> {
    overlay.setattr(at(overlay, path).ino, change, me()).map(drop)
}

fn chmod(overlay: &Overlay, path: &str, perm: u32) -> Result<(), FsError> {
    change(overlay, path, SetAttr { perm: Some(perm), ..SetAttr::default() })
}

/// The view: `f`, `g`, `d/f`, `d/sub/x`, `e/`, `h/`, `s@`, and one file called `l1`, `d/l2` and `d/sub/l3`.
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "make a file", before: nothing, operation: |o| make(o, "", "new", Make::File, 0o644) },
    Scenario {
        name: "make a file that may not be read",
        before: nothing,
        operation: |o| make(o, "", "new", Make::File, 0),
    },
    Scenario {
        name: "make a file deep in the view",
        before: nothing,
        operation: |o| make(o, "d/sub", "new", Make::File, 0o644),
    },
    Scenario {
        name: "make a file over a whiteout",
        before: |o| unlink(o, "f"),
        operation: |o| make(o, "", "f", Make::File, 0o600),
    },
    Scenario {
        name: "make a directory over a whiteout",
        before: |o| rmdir(o, "e"),
        operation: |o| make(o, "", "e", Make::Dir, 0o755),
    },
    Scenario {
        name: "make a symlink over a whiteout",
        before: |o| unlink(o, "f"),
        operation: |o| make(o, "", "f", Make::Symlink(b"to"), 0o777),
    },
    Scenario {
        name: "make a pipe",
        before: nothing,
        operation: |o| make(o, "d", "pipe", Make::Special(Kind::Fifo, 0), 0o644),
    },
    Scenario { name: "write to a file of the view", before: nothing, operation: |o| write(o, "d/f") },
    Scenario { name: "write to a file of three names", before: nothing, operation: |o| write(o, "d/l2") },
    Scenario {
        name: "write to a file of three names, one of them gone",
        before: |o| unlink(o, "l1"),
        operation: |o| write(o, "d/l2"),
    },
    Scenario {
        name: "truncate a file of the view",
        before: nothing,
        operation: |o| change(o, "f", SetAttr { size: Some(2), ..SetAttr::default() }),
    },
    Scenario { name: "change a mode", before: nothing, operation: |o| chmod(o, "d/f", 0o400) },
    Scenario {
        name: "change a mode back",
        before: |o| chmod(o, "f", 0),
        operation: |o| chmod(o, "f", 0o644),
    },
    Scenario { name: "change the mode of a directory", before: nothing, operation: |o| chmod(o, "d", 0o500) },
    Scenario {
        name: "set the time of a symlink",
        before: nothing,
        operation: |o| change(o, "s", SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() }),
    },
    Scenario {
        name: "set an attribute",
        before: nothing,
        operation: |o| o.setxattr(at(o, "d/sub").ino, b"user.x", b"y", 0),
    },
    Scenario { name: "unlink a file of the view", before: nothing, operation: |o| unlink(o, "d/f") },
    Scenario { name: "unlink one of three names", before: nothing, operation: |o| unlink(o, "d/sub/l3") },
    Scenario { name: "unlink a copy", before: |o| write(o, "f"), operation: |o| unlink(o, "f") },
    Scenario {
        name: "unlink a new file",
        before: |o| make(o, "d", "new", Make::File, 0o644),
        operation: |o| unlink(o, "d/new"),
    },
    Scenario { name: "remove a directory of the view", before: nothing, operation: |o| rmdir(o, "e") },
    Scenario {
        name: "remove a copied directory",
        before: |o| chmod(o, "e", 0o700),
        operation: |o| rmdir(o, "e"),
    },
    Scenario {
        name: "remove a directory with whiteouts",
        before: |o| unlink(o, "d/sub/x").and_then(|()| unlink(o, "d/sub/l3")),
        operation: |o| rmdir(o, "d/sub"),
    },
    Scenario {
        name: "remove a renamed directory with whiteouts",
        before: |o| {
            mv(o, "d/sub", "new")?;
            unlink(o, "new/x")?;
            unlink(o, "new/l3")
        },
        operation: |o| rmdir(o, "new"),
    },
    Scenario { name: "rename to a new name", before: nothing, operation: |o| mv(o, "f", "d/new") },
    Scenario { name: "rename one of three names", before: nothing, operation: |o| mv(o, "d/l2", "new") },
    Scenario { name: "rename over a file of the view", before: nothing, operation: |o| mv(o, "f", "d/f") },
    Scenario { name: "rename over one of three names", before: nothing, operation: |o| mv(o, "f", "d/l2") },
    Scenario { name: "rename over a copy", before: |o| write(o, "d/f"), operation: |o| mv(o, "f", "d/f") },
    Scenario {
        name: "rename a new file over a file of the view",
        before: |o| make(o, "d", "new", Make::File, 0o644),
        operation: |o| mv(o, "d/new", "f"),
    },
    Scenario {
        name: "rename over a new file",
        before: |o| make(o, "d", "new", Make::File, 0o644),
        operation: |o| mv(o, "f", "d/new"),
    },
    Scenario {
        name: "rename over a whiteout",
        before: |o| unlink(o, "d/f"),
        operation: |o| mv(o, "f", "d/f"),
    },
    Scenario {
        name: "rename a new directory over a whiteout",
        before: |o| unlink(o, "f").and_then(|()| make(o, "d", "new", Make::Dir, 0o755)),
        operation: |o| mv(o, "d/new", "f"),
    },
    Scenario {
        name: "rename a directory of the view",
        before: nothing,
        operation: |o| mv(o, "d/sub", "new"),
    },
    Scenario {
        name: "rename a directory over an empty one",
        before: nothing,
        operation: |o| mv(o, "d/sub", "e"),
    },
    Scenario {
        name: "rename a directory over an empty copy",
        before: |o| chmod(o, "e", 0o700),
        operation: |o| mv(o, "h", "e"),
    },
    Scenario {
        name: "rename a new directory over an emptied one",
        before: |o| {
            unlink(o, "d/sub/x")?;
            unlink(o, "d/sub/l3")?;
            make(o, "", "new", Make::Dir, 0o755)
        },
        operation: |o| mv(o, "new", "d/sub"),
    },
    Scenario {
        name: "rename a directory of the view over an emptied one",
        before: |o| unlink(o, "d/sub/x").and_then(|()| unlink(o, "d/sub/l3")),
        operation: |o| mv(o, "e", "d/sub"),
    },
    Scenario {
        name: "rename a directory over a new one",
        before: |o| make(o, "", "new", Make::Dir, 0o755),
        operation: |o| mv(o, "d", "new"),
    },
    Scenario { name: "exchange two files of the view", before: nothing, operation: |o| swap(o, "f", "d/f") },
    Scenario { name: "exchange a file and a directory", before: nothing, operation: |o| swap(o, "d/f", "e") },
    Scenario { name: "link a file of the view", before: nothing, operation: |o| link(o, "f", "d/new") },
    Scenario { name: "link one of three names", before: nothing, operation: |o| link(o, "l1", "d/new") },
    Scenario {
        name: "link over a whiteout",
        before: |o| unlink(o, "d/f"),
        operation: |o| link(o, "f", "d/f"),
    },
];

/// The world, and a function that opens the overlay of a name over the view, if it can.
fn world() -> (World, impl Fn(&World, &str) -> Result<Overlay, MountError>) {
    let world = World::new();
    let lower = world.beside("lower");
    for dir in ["d/sub", "e", "h"] {
        std::fs::create_dir_all(lower.join(dir)).unwrap();
    }
    for file in ["f", "g", "d/f", "d/sub/x", "l1"] {
        std::fs::write(lower.join(file), format!("content of {file}")).unwrap();
    }
    std::os::unix::fs::symlink("g", lower.join("s")).unwrap();
    for name in ["d/l2", "d/sub/l3"] {
        std::fs::hard_link(lower.join("l1"), lower.join(name)).unwrap();
    }
    let manifest = world.store_tree(&lower);
    let open = move |world: &World, name: &str| {
        let view = world.view(&[("", manifest)]);
        Overlay::new(world.store.clone(), view, Some(&world.beside(name)), true)
    };
    (world, open)
}

/// What is shown, but for times.
fn state(overlay: &Overlay) -> Shown {
    show(overlay, i64::MIN)
}

fn check_tidy(world: &World, name: &str, what: &str) {
    let left: Vec<_> = std::fs::read_dir(world.beside(name).join("work"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "whiteout")
        .collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

/// Descriptors are held for nodes without names alone.
fn check_pins(overlay: &Overlay, what: &str) {
    let tree = overlay.read();
    let pinned = tree
        .nodes
        .iter()
        .filter(|(ino, node)| node.pin.is_some() && (**ino == Ino::ROOT || !node.names.is_empty()));
    assert_eq!(pinned.count(), 0, "{what}");
}

#[test]
fn a_process_that_dies_leaves_before_or_after() {
    let (world, try_open) = world();
    let open = |world: &World, name: &str| try_open(world, name).unwrap();
    for Scenario { name, before, operation } in SCENARIOS {
        let overlay = open(&world, "clean");
        before(&overlay).unwrap();
        let old = state(&overlay);
        operation(&overlay).unwrap();
        let new = state(&overlay);
        drop(overlay);
        std::fs::remove_dir_all(world.beside("clean")).unwrap();
        let mut points = 0;
        loop {
            let what = format!("{name}, dead after {points} calls");
            let overlay = open(&world, "dies");
            before(&overlay).unwrap();
            assert_eq!(state(&overlay), old, "{what}");
            gate::plan(Plan::DieAfter(points));
            let done = operation(&overlay);
            let stopped = gate::open();
            drop(overlay);
            // Who opens it next may die, too, and the next again, each a call later.
            for calls in 0.. {
                gate::plan(Plan::DieAfter(calls));
                let opened = try_open(&world, "dies");
                let stopped = gate::open();
                // What could not be removed stays for the next time.
                assert!(stopped || opened.is_ok(), "{what}");
                if !stopped {
                    break;
                }
            }
            let overlay = open(&world, "dies");
            let found = state(&overlay);
            let (to_old, to_new) = (difference(&old, &found), difference(&new, &found));
            assert!(
                to_new.is_empty() || (done.is_err() && to_old.is_empty()),
                "{what}: {to_old:#?} {to_new:#?}"
            );
            check_tidy(&world, "dies", &what);
            drop(overlay);
            std::fs::remove_dir_all(world.beside("dies")).unwrap();
            if !stopped {
                break;
            }
            points += 1;
        }
        assert!(points > 0, "{name} changes something");
    }
}

#[test]
fn a_full_disk_leaves_table_and_disk_alike() {
    let (world, try_open) = world();
    let open = |world: &World, name: &str| try_open(world, name).unwrap();
    for Scenario { name, before, operation } in SCENARIOS {
        let overlay = open(&world, "clean");
        before(&overlay).unwrap();
        let old = state(&overlay);
        operation(&overlay).unwrap();
        let new = state(&overlay);
        drop(overlay);
        std::fs::remove_dir_all(world.beside("clean")).unwrap();
        for point in 0.. {
            let what = format!("{name}, full after {point} calls");
            let overlay = open(&world, "full");
            before(&overlay).unwrap();
            gate::plan(Plan::FullAfter(point));
            let done = operation(&overlay);
            let stopped = gate::open();
            let shown = state(&overlay);
            let wanted = if done.is_ok() { &new } else { &old };
            assert_eq!(difference(wanted, &shown), Vec::<String>::new(), "{what}: {done:?}");
            check_pins(&overlay, &what);
            drop(overlay);
            let overlay = open(&world, "full");
            assert_eq!(difference(&shown, &state(&overlay)), Vec::<String>::new(), "{what}, opened again");
            // What failed works when there is room.
            if done.is_err() {
                operation(&overlay).unwrap();
                assert_eq!(difference(&new, &state(&overlay)), Vec::<String>::new(), "{what}, tried again");
            }
            drop(overlay);
            std::fs::remove_dir_all(world.beside("full")).unwrap();
            if !stopped {
                break;
            }
        }
    }
}
