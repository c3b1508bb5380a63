//! Opening, recovery, whiteouts and modes.

use super::*;
use crate::types::Ino;

fn root() -> Attr {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let time = (1_600_000_000, 5);
    Attr {
        ino: Ino::ROOT,
        kind: Kind::Dir,
        perm: 0o750,
        nlink: 2,
        uid,
        gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_whiteout(upper: &Upper, name: &str) -> bool {
    let stat = rustix::fs::statat(&upper.root, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    upper.is_whiteout(&upper.root, name.as_bytes(), &stat).unwrap()
}

#[test]
fn a_new_root_looks_like_that_of_the_view_and_an_old_one_stays() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let look = || {
        let meta = std::fs::metadata(dir.path().join("upper")).unwrap();
        (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
    };
    drop(Upper::open(dir.path(), true, &root()).unwrap());
    assert_eq!(look(), (0o750, 1_600_000_000, 5));
    drop(Upper::open(dir.path(), true, &Attr { perm: 0o700, mtime: (0, 0), ..root() }).unwrap());
    assert_eq!(look(), (0o750, 1_600_000_000, 5));
}

#[test]
fn what_a_killed_process_left_in_work_goes() {
    let dir = tempfile::tempdir().unwrap();
    let upper = Upper::open(dir.path(), true, &root()).unwrap();
    upper.link_whiteout(&upper.root, b"hidden").unwrap();
    drop(upper);
    let work = dir.path().join("work");
    std::fs::create_dir_all(work.join("t0/inside")).unwrap();
    std::fs::write(work.join("t0/inside/file"), b"").unwrap();
    std::fs::write(work.join("t1"), b"half a copy").unwrap();
    std::os::unix::fs::symlink("nowhere", work.join("t2")).unwrap();
    std::fs::write(work.join("intent-t3"), b"torn").unwrap();
    let upper = Upper::open(dir.path(), true, &root()).unwrap();
    assert_eq!(names(&work), ["whiteout"]);
    assert!(is_whiteout(&upper, "hidden"));
}

#[test]
fn an_intent_whose_directories_are_gone_is_dropped() {
    use crate::intent::{At, Intent};
    let dir = tempfile::tempdir().unwrap();
    let upper = Upper::open(dir.path(), true, &root()).unwrap();
    let at = |dir: &str| At { dir: dir.as_bytes().to_vec(), name: b"f".to_vec() };
    let stale = Intent::Replace { from: at("a"), to: at("b"), moved: 1, replaced: None, whiteout: true };
    stale.write(&upper).unwrap();
    drop(upper);
    drop(Upper::open(dir.path(), true, &root()).unwrap());
    assert_eq!(names(&dir.path().join("work")), ["whiteout"]);
}

#[test]
fn a_stale_intent_takes_nothing_that_came_later() {
    use crate::intent::{At, Intent};
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let upper = Upper::open(dir.path(), true, &root()).unwrap();
    let path = |name: &str| dir.path().join("upper").join(name);
    let at = |name: &str| At { dir: Vec::new(), name: name.as_bytes().to_vec() };
    for name in ["from", "to"] {
        std::fs::write(path(name), name).unwrap();
    }
    let inode = |name: &str| std::fs::metadata(path(name)).unwrap().ino();
    let intent = Intent::Replace {
        from: at("from"),
        to: at("to"),
        moved: inode("from"),
        replaced: Some(inode("to")),
        whiteout: false,
    };
    // All steps were made, but the note stayed, and its name was taken again.
    intent.write(&upper).unwrap();
    let taken = std::fs::File::open(path("to")).unwrap();
    std::fs::rename(path("from"), path("to")).unwrap();
    std::fs::write(path("from"), "later").unwrap();
    drop(upper);
    drop(Upper::open(dir.path(), true, &root()).unwrap());
    assert_eq!(std::fs::read(path("from")).unwrap(), b"later");
    assert_eq!(std::fs::read(path("to")).unwrap(), b"from");
    drop(taken);
}

#[test]
fn whiteouts_do_not_run_out_of_links() {
    let dir = tempfile::tempdir().unwrap();
    let upper = Upper::open(dir.path(), false, &root()).unwrap();
    // ext4 has 65,000 links for an inode. Where there are more, this only makes many.
    for number in 0..65_100 {
        upper.link_whiteout(&upper.root, number.to_string().as_bytes()).unwrap();
    }
    for name in ["0", "64998", "64999", "65000", "65099"] {
        assert!(is_whiteout(&upper, name), "{name}");
    }
    // Nor does it matter when somebody has removed the one that all are links of.
    std::fs::remove_file(dir.path().join("work/whiteout")).unwrap();
    upper.link_whiteout(&upper.root, b"after").unwrap();
    assert!(is_whiteout(&upper, "after"));
}

#[test]
fn a_mode_that_locks_its_owner_out_is_shown_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut upper = Upper::open(dir.path(), false, &root()).unwrap();
    // As it is when an ordinary user serves the mount.
    (upper.uid, upper.keeps_modes) = (1, true);
    let at = NodePath::named(&upper.root, b"f");
    for (kind, name) in [(Kind::File, "f"), (Kind::Dir, "d")] {
        let at = NodePath::named(&upper.root, name.as_bytes());
        match kind {
            Kind::Dir => std::fs::create_dir(dir.path().join("upper").join(name)).unwrap(),
            _ => std::fs::write(dir.path().join("upper").join(name), b"").unwrap(),
        }
        for perm in [0o000, 0o444, 0o755, 0o4555, 0o600, 0o1777] {
            upper.set_mode(&at, kind, perm).unwrap();
            let stat = rustix::fs::statat(&upper.root, name, AtFlags::empty()).unwrap();
            let on_disk = stat.st_mode & 0o7777;
            assert_eq!(on_disk, upper.mode_on_disk(kind, perm));
            assert_eq!(upper.mode(&at, kind, on_disk).unwrap(), perm);
        }
    }
    upper.set_mode(&at, Kind::File, 0o400).unwrap();
    // Root sees it too, and a mode that he sets takes its place.
    upper.uid = 0;
    assert_eq!(upper.mode(&at, Kind::File, 0o600).unwrap(), 0o400);
    upper.set_mode(&at, Kind::File, 0o640).unwrap();
    assert_eq!(upper.mode(&at, Kind::File, 0o640).unwrap(), 0o640);
}
