//! Trees deeper than a stack or a path is long.

use cvs_fusefs::{Ino, Kind, Make, RenameMode, SetAttr};

use crate::support::{World, me, walk};

/// With names of 255 bytes, far more than PATH_MAX; and more than recursion would bear.
const LEVELS: usize = 4096;

#[test]
fn thousands_of_levels_need_no_stack() {
    let world = World::new();
    let lower = world.beside("lower");
    // As deep as a manifest can be.
    let inside: Vec<&str> = vec!["v"; cvs_store::PATH_LIMIT / 2 - 1];
    let mut at =
        rustix::fs::open(world.beside(""), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for name in ["lower"].iter().chain(&inside) {
        rustix::fs::mkdirat(&at, *name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, *name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    let manifest = world.store_tree(&lower);
    let work = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        let open = || world.overlay(world.view(&[("", manifest)]), "overlay");
        let overlay = open();
        let lower_names: Vec<&[u8]> = inside.iter().map(|name| name.as_bytes()).collect();
        let bottom = walk(&overlay, lower_names.iter().copied()).unwrap();
        overlay.setattr(bottom.ino, SetAttr { perm: Some(0o700), ..SetAttr::default() }, me()).unwrap();
        let name = [b'n'; 255];
        let mut dir = bottom.ino;
        for _ in 0..LEVELS {
            dir = overlay.make(dir, &name, Make::Dir, 0o755, me()).unwrap().ino;
        }
        overlay.make(dir, b"file", Make::File, 0o644, me()).unwrap();
        drop(overlay);

        let overlay = open();
        let deep = || lower_names.iter().copied().chain(std::iter::repeat_n(&name[..], LEVELS));
        let dir = walk(&overlay, deep()).unwrap().ino;
        overlay.rename(dir, b"file", Ino::ROOT, b"file", RenameMode::Replace).unwrap();
        assert_eq!(walk(&overlay, [&b"file"[..]]).unwrap().kind, Kind::File);
        let mut names: Vec<&[u8]> = deep().collect();
        let mut dirs = vec![Ino::ROOT];
        for name in &names {
            let parent = dirs[dirs.len() - 1];
            dirs.push(overlay.lookup(parent, name).unwrap().ino);
        }
        dirs.pop();
        while let (Some(name), Some(parent)) = (names.pop(), dirs.pop()) {
            overlay.rmdir(parent, name).unwrap();
        }
    });
    work.unwrap().join().unwrap();
}
