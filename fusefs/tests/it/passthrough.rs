//! The passthrough connection: what it must never do to an object, and what readers and writers see.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cvs_fusefs::{Connections, Overlay};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::mounts::{Lower, Mounted};
use crate::sys;

const SIZE: usize = 300_000;

fn content() -> Vec<u8> {
    (0..SIZE as u32).map(|n| (n % 251) as u8).collect()
}

/// A view with files in `models/`.
fn lower() -> Lower {
    Lower::new(|dir| {
        fs::create_dir_all(dir.join("models/sub")).unwrap();
        for name in ["models/f", "models/sub/g", "outside"] {
            fs::write(dir.join(name), content()).unwrap();
        }
        fs::write(dir.join("models/empty"), b"").unwrap();
        fs::hard_link(dir.join("models/f"), dir.join("models/linked")).unwrap();
        let script = dir.join("models/script");
        fs::write(&script, "#!/bin/sh\necho it runs\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    })
}

fn overlay(lower: &Lower, upper: &str) -> Overlay {
    lower.world.overlay(lower.world.view(&[("", lower.manifest)]), upper)
}

/// None, with a word, where passthrough is not allowed; a failure where the test must run.
fn mount(lower: &Lower) -> Option<Mounted> {
    mount_over(lower, overlay(lower, "overlay"), "mnt")
}

fn mount_over(lower: &Lower, overlay: Overlay, at: &str) -> Option<Mounted> {
    let mounted = Mounted::with(overlay, lower.world.beside(at), Some("models"))?;
    if let Connections::One(refusal) = &mounted.connections {
        assert!(std::env::var_os("CVS_TEST_REQUIRE_PASSTHROUGH").is_none(), "{refusal}");
        eprintln!("skipped: {refusal}");
        return None;
    }
    Some(mounted)
}

/// The bytes of every object, by path.
fn objects(lower: &Lower) -> BTreeMap<PathBuf, Vec<u8>> {
    fn collect(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else {
                into.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&lower.world.store.home().join("objects"), &mut found);
    found
}

fn open(path: &Path, flags: OFlags) -> Result<File, Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

/// A way to change a file; errors are as good as success, as long as the object stays.
type Way = (&'static str, fn(&Path));

const WAYS: &[Way] = &[
    ("O_WRONLY", |path| open(path, OFlags::WRONLY).unwrap().write_all_at(b"x", 7).unwrap()),
    ("O_RDWR", |path| open(path, OFlags::RDWR).unwrap().write_all_at(b"x", 7).unwrap()),
    ("O_APPEND", |path| open(path, OFlags::WRONLY | OFlags::APPEND).unwrap().write_all(b"x").unwrap()),
    ("O_TRUNC", |path| drop(open(path, OFlags::WRONLY | OFlags::TRUNC).unwrap())),
    ("O_RDONLY and O_TRUNC", |path| drop(open(path, OFlags::RDONLY | OFlags::TRUNC).unwrap())),
    ("O_DIRECT", |path| {
        let _ = open(path, OFlags::RDWR | OFlags::DIRECT).unwrap().write_all_at(&[b'x'; 4096], 0);
    }),
    ("truncate", |path| {
        let shell = Command::new("truncate").args(["-s", "5"]).arg(path).status().unwrap();
        assert!(shell.success());
    }),
    ("ftruncate", |path| open(path, OFlags::RDWR).unwrap().set_len(9).unwrap()),
    ("shared mapping", |path| {
        let file = open(path, OFlags::RDWR).unwrap();
        let mut map = sys::map_to_write(&file);
        map[4097] = b'!';
        map.flush().unwrap();
    }),
    ("shared mapping of what is open for reading", |path| {
        assert!(sys::try_map_to_write(&open(path, OFlags::RDONLY).unwrap()).is_err());
    }),
    ("fallocate", |path| {
        let file = open(path, OFlags::RDWR).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE as u64 + 5000).unwrap();
    }),
    ("punch hole", |path| {
        let file = open(path, OFlags::RDWR).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, 8192).unwrap();
    }),
    ("copy_file_range", |path| {
        let (from, to) = (open(path, OFlags::RDONLY).unwrap(), open(path, OFlags::RDWR).unwrap());
        rustix::fs::copy_file_range(&from, Some(&mut 4096), &to, Some(&mut 0), 4096).unwrap();
    }),
    ("sendfile", |path| {
        let (from, to) = (open(path, OFlags::RDONLY).unwrap(), open(path, OFlags::RDWR).unwrap());
        rustix::fs::sendfile(&to, &from, Some(&mut 8192), 4096).unwrap();
    }),
    ("splice", |path| {
        let (out, into) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&into, b"spliced").unwrap();
        let to = open(path, OFlags::WRONLY).unwrap();
        rustix::pipe::splice(&out, None, &to, Some(&mut 3), 7, rustix::pipe::SpliceFlags::empty()).unwrap();
    }),
    ("FICLONE", |path| {
        let from = tempfile::tempfile().unwrap();
        let _ = rustix::fs::ioctl_ficlone(open(path, OFlags::RDWR).unwrap(), &from);
        let _ = rustix::fs::ioctl_ficlone(open(path, OFlags::RDONLY).unwrap(), &from);
    }),
    ("chmod", |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        open(path, OFlags::WRONLY).unwrap().write_all_at(b"x", 0).unwrap();
    }),
    ("fchmod of what is open for reading", |path| {
        let file = open(path, OFlags::RDONLY).unwrap();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o666)).unwrap();
        let _ = rustix::io::write(&file, b"x");
        let _ = rustix::fs::ftruncate(&file, 1);
    }),
    ("setxattr", |path| {
        let file = open(path, OFlags::RDONLY).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&file, "user.test", b"x", flags).unwrap();
    }),
    ("a descriptor opened again for writing", |path| {
        let file = open(path, OFlags::RDONLY).unwrap();
        let again = reopened(&file, OFlags::RDWR);
        assert_eq!(again.unwrap_err(), Errno::STALE);
        drop(file);
        let file = open(path, OFlags::PATH).unwrap();
        if let Ok(file) = reopened(&file, OFlags::RDWR) {
            file.write_all_at(b"x", 0).unwrap();
        }
    }),
    ("a descriptor of a removed file opened again for writing", |path| {
        let file = open(path, OFlags::RDONLY).unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!(reopened(&file, OFlags::WRONLY | OFlags::TRUNC).unwrap_err(), Errno::STALE);
        let mut seen = [0; 3];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, content()[..3]);
    }),
    ("a path descriptor of a removed file opened again for writing", |path| {
        let file = open(path, OFlags::PATH).unwrap();
        fs::remove_file(path).unwrap();
        match reopened(&file, OFlags::RDWR) {
            Ok(file) => file.write_all_at(b"x", 0).unwrap(),
            Err(error) => assert_eq!(error, Errno::STALE),
        }
    }),
    ("a file handle", |path| sys::write_by_handle(path)),
    ("rename over", |path| {
        let other = path.with_file_name("other");
        fs::write(&other, b"other").unwrap();
        fs::rename(&other, path).unwrap();
        open(path, OFlags::RDWR).unwrap().write_all_at(b"x", 0).unwrap();
    }),
    ("link", |path| {
        let other = path.with_file_name("other");
        fs::hard_link(path, &other).unwrap();
        open(&other, OFlags::RDWR).unwrap().write_all_at(b"x", 0).unwrap();
    }),
];

fn reopened(file: impl AsFd, flags: OFlags) -> Result<File, Errno> {
    use std::os::fd::AsRawFd;
    open(Path::new(&format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())), flags)
}

#[test]
fn an_object_is_never_written() {
    let lower = lower();
    let before = objects(&lower);
    for (number, (way, change)) in WAYS.iter().enumerate() {
        for (held, name) in [(false, "f"), (true, "f"), (true, "sub/g")] {
            let upper = format!("overlay-{number}-{held}-{}", name.len());
            let Some(mounted) = mount_over(&lower, overlay(&lower, &upper), "mnt") else { return };
            let path = mounted.path("models").join(name);
            let reader = held.then(|| File::open(&path).unwrap());
            let map = reader.as_ref().map(sys::map);
            change(&path);
            if let (Some(reader), Some(map)) = (reader, map) {
                assert!(map[..] == content(), "{way}: who had mapped it sees the old bytes");
                let mut seen = vec![0; SIZE];
                reader.read_exact_at(&mut seen, 0).unwrap();
                assert!(seen == content(), "{way}: who had opened it sees the old bytes");
            }
            drop(mounted);
            assert!(objects(&lower) == before, "{way} on {name} changed an object");
        }
    }
}

#[test]
fn who_opens_anew_sees_what_is_written() {
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    let path = mounted.path("models/f");
    let number = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = number(&path);
    drop(File::open(&path).unwrap());
    // Nobody has it open: the number stays.
    fs::OpenOptions::new()
        .write(true)
        .open(mounted.path("models/sub/g"))
        .unwrap()
        .write_all_at(b"new", 0)
        .unwrap();

    let reader = File::open(&path).unwrap();
    let writer = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    writer.write_all_at(b"new", 0).unwrap();
    assert_ne!(number(&path), before);
    assert_eq!(reader.metadata().unwrap().ino(), before);
    assert_eq!(reader.metadata().unwrap().nlink(), 0);
    for path in [&path, &mounted.path("models/linked")] {
        assert_eq!(fs::read(path).unwrap()[..3], *b"new", "every name of it");
        assert_eq!(fs::metadata(path).unwrap().nlink(), 2);
    }
    let mut seen = [0; 3];
    reader.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(seen, content()[..3]);
    writer.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"new");
    drop((reader, writer, mounted));
    let Some(mounted) = mount(&lower) else { return };
    assert_eq!(fs::read(mounted.path("models/linked")).unwrap()[..3], *b"new");
    assert_eq!(fs::read(mounted.path("models/sub/g")).unwrap()[..3], *b"new");
}

#[test]
fn attributes_follow_what_the_kernel_writes_by_itself() {
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    let path = mounted.path("models/f");
    let below = lower.world.beside("overlay/upper/models/f");
    let same = |what: &str| {
        let (shown, real) = (fs::metadata(&path).unwrap(), fs::metadata(&below).unwrap());
        let of =
            |m: &fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.blocks());
        assert_eq!(of(&shown), of(&real), "{what}");
    };
    let _ = fs::metadata(&path).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    same("opened");
    let mut map = sys::map_to_write(&file);
    map[0] = b'!';
    same("written through a mapping");
    map.flush().unwrap();
    drop(file);
    same("closed while it is mapped");
    map[8192] = b'!';
    map.flush().unwrap();
    same("written through a mapping that has outlived its descriptor");
    drop(map);
    same("unmapped");
    let append = || fs::OpenOptions::new().append(true).open(&path).unwrap();
    let (mut one, mut two) = (append(), append());
    one.write_all(b"one").unwrap();
    two.write_all(b"two").unwrap();
    one.write_all(b"three").unwrap();
    same("appended to by two");
    assert_eq!(fs::read(&path).unwrap()[SIZE..], *b"onetwothree");
    two.set_len(5).unwrap();
    same("cut off while it is open");
    assert_eq!(one.metadata().unwrap().len(), 5);
    drop((one, two));
    same("closed");
    fs::write(&path, b"new").unwrap();
    same("replaced");
}

#[test]
fn cutting_off_and_removing_a_file_that_is_read_both_end() {
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    let (end, ended) = std::sync::mpsc::channel();
    let dir = mounted.path("models");
    std::thread::spawn(move || {
        // The first is the view's and read by somebody, so that it parts; the others are ours.
        for name in ["f", "sub/g", "linked", "empty"] {
            let path = dir.join(name);
            let reader = File::open(&path).unwrap();
            let before = reader.metadata().unwrap().len();
            std::thread::scope(|scope| {
                let cut = scope.spawn(|| nix::unistd::truncate(&path, 10));
                fs::remove_file(&path).unwrap();
                assert!(matches!(cut.join().unwrap(), Ok(()) | Err(nix::errno::Errno::ENOENT)));
            });
            assert!([before, 10].contains(&reader.metadata().unwrap().len()), "{name}");
        }
        end.send(()).unwrap();
    });
    ended.recv_timeout(std::time::Duration::from_secs(60)).expect("one of them waits for the other");
}

#[test]
fn a_file_with_names_on_both_sides_keeps_one_connection() {
    let linked = Lower::new(|dir| {
        fs::create_dir(dir.join("models")).unwrap();
        fs::write(dir.join("models/f"), b"x").unwrap();
        fs::hard_link(dir.join("models/f"), dir.join("outside")).unwrap();
    });
    let reason = "models has a hard link to a file outside of it";
    let refused = |lower: &Lower, upper: &str, at: &str| {
        let Some(mounted) = Mounted::with(overlay(lower, upper), lower.world.beside(at), Some("models"))
        else {
            return;
        };
        match &mounted.connections {
            Connections::One(refusal) => assert_eq!(refusal.to_string(), reason),
            Connections::Two => panic!("there are two connections"),
        }
    };
    refused(&linked, "overlay", "mnt");

    let lower = lower();
    let Some(mounted) = Mounted::with(overlay(&lower, "overlay"), lower.world.beside("mnt"), None) else {
        return;
    };
    fs::remove_file(mounted.path("models/sub/g")).unwrap();
    fs::hard_link(mounted.path("models/empty"), mounted.path("models/sub/empty")).unwrap();
    drop(mounted);
    // Links that stay inside, and whiteouts, are no reason.
    drop(mount(&lower));
    let Some(mounted) = Mounted::with(overlay(&lower, "overlay"), lower.world.beside("mnt"), None) else {
        return;
    };
    fs::hard_link(mounted.path("models/empty"), mounted.path("beside")).unwrap();
    drop(mounted);
    refused(&lower, "overlay", "mnt");
}

#[test]
fn programs_run_from_it() {
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    let output = Command::new(mounted.path("models/script")).output().unwrap();
    assert_eq!(output.stdout, b"it runs\n");
    let copy = mounted.path("models/true");
    fs::copy("/bin/true", &copy).unwrap();
    assert!(Command::new(&copy).status().unwrap().success());
}

#[test]
fn the_boundary_is_that_of_a_mount() {
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    let errno = |result: std::io::Result<()>| Errno::from_io_error(&result.unwrap_err()).unwrap();
    let models = mounted.path("models");
    assert_eq!(errno(fs::rename(mounted.path("outside"), models.join("x"))), Errno::XDEV);
    assert_eq!(errno(fs::hard_link(models.join("f"), mounted.path("x"))), Errno::XDEV);
    assert_eq!(errno(fs::rename(&models, mounted.path("other"))), Errno::BUSY);
    assert_eq!(errno(fs::remove_dir(&models)), Errno::BUSY);
    fs::copy(mounted.path("outside"), models.join("copied")).unwrap();
    assert!(fs::read(models.join("copied")).unwrap() == content());
    let mut names: Vec<_> = fs::read_dir(&models).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["copied", "empty", "f", "linked", "script", "sub"]);
}

#[test]
fn the_tree_connection_shows_the_directory_when_the_other_is_gone() {
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    // What is below the second mount can be seen by who mounts the first elsewhere.
    let aside = lower.world.beside("aside");
    fs::create_dir(&aside).unwrap();
    rustix::mount::mount_bind(&mounted.at, &aside).unwrap();
    let errno = Errno::from_io_error(&fs::read(aside.join("models/f")).unwrap_err());
    assert_eq!(errno, Some(Errno::BUSY));
    assert!(fs::read_dir(aside.join("models")).and_then(|mut d| d.next().unwrap()).is_err());
    fs::write(mounted.path("models/f"), b"new").unwrap();
    fs::remove_file(mounted.path("models/empty")).unwrap();
    rustix::mount::unmount(mounted.path("models"), rustix::mount::UnmountFlags::empty()).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fs::read(mounted.path("models/f")).is_err() {
        assert!(std::time::Instant::now() < deadline, "the directory comes back");
    }
    for at in [&mounted.at, &aside] {
        assert_eq!(fs::read(at.join("models/f")).unwrap(), b"new");
        assert!(!at.join("models/empty").exists());
        assert_eq!(fs::read_dir(at.join("models")).unwrap().count(), 4);
    }
    fs::rename(mounted.path("models/f"), mounted.path("f")).unwrap();
    rustix::mount::unmount(&aside, rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
fn what_was_ended_by_force_is_shown_when_nobody_writes_there_any_more() {
    use rustix::mount::UnmountFlags;
    let lower = lower();
    let Some(mounted) = mount(&lower) else { return };
    let path = mounted.path("models/f");
    let mut map = sys::map_to_write(&open(&path, OFlags::RDWR).unwrap());
    map[0] = b'1';
    rustix::mount::unmount(mounted.path("models"), UnmountFlags::FORCE | UnmountFlags::DETACH).unwrap();
    // The kernel writes on, and tells nobody.
    let begin = std::time::Instant::now();
    while begin.elapsed() < std::time::Duration::from_millis(300) {
        let errno = Errno::from_io_error(&fs::read(&path).unwrap_err());
        assert_eq!(errno, Some(Errno::BUSY));
    }
    map[1] = b'2';
    drop(map);
    let deadline = begin + std::time::Duration::from_secs(20);
    while fs::read(&path).is_err() {
        assert!(std::time::Instant::now() < deadline, "the directory comes back");
    }
    assert_eq!(fs::read(&path).unwrap()[..2], *b"12");
}

const LARGE: usize = 40 << 20;
const PAGES: u64 = LARGE as u64 / 4096;

/// What of a file is in memory: 0 or, where most of it is, [`PAGES`]. The kernel may reclaim a page at any moment.
fn cached(file: &File) -> u64 {
    let cached = sys::cached_pages(file);
    if cached > PAGES / 10 * 8 { PAGES } else { cached }
}

/// A view with a large model, and its object.
fn with_large() -> (Lower, File) {
    let lower = Lower::new(|dir| {
        fs::create_dir(dir.join("models")).unwrap();
        let bytes: Vec<u8> =
            (0..LARGE as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(dir.join("models/large"), bytes).unwrap();
    });
    let object = objects(&lower).into_iter().find(|(_, bytes)| bytes.len() == LARGE).unwrap().0;
    (lower, File::open(object).unwrap())
}

/// Empties the page cache of a file; none where it is kept all the same.
fn make_cold(object: &File) -> Option<()> {
    object.sync_all().unwrap();
    rustix::fs::fadvise(object, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    if sys::cached_pages(object) == 0 {
        return Some(());
    }
    assert!(std::env::var_os("CI").is_none(), "this filesystem keeps files in memory");
    eprintln!("skipped: this filesystem keeps files in memory");
    None
}

#[test]
fn mounts_share_one_copy_in_memory() {
    let (lower, object) = with_large();
    let Some(()) = make_cold(&object) else { return };
    let Some(one) = mount_over(&lower, overlay(&lower, "one"), "one") else { return };
    let Some(two) = mount_over(&lower, overlay(&lower, "two"), "two") else { return };
    let [of_one, of_two] = [&one, &two].map(|mounted| File::open(mounted.path("models/large")).unwrap());
    let expected = fs::read(one.path("models/large")).unwrap();
    assert!(sys::map(&of_two)[..] == expected[..]);
    // What they have read is the object's.
    assert_eq!([&object, &of_one, &of_two].map(cached), [PAGES, 0, 0]);
    // It stays, over the end of one version to the beginning of the next.
    drop((of_one, of_two, one, two));
    assert_eq!(cached(&object), PAGES);
    let Some(three) = mount_over(&lower, overlay(&lower, "three"), "three") else { return };
    let of_three = File::open(three.path("models/large")).unwrap();
    assert!(sys::map(&of_three)[..] == expected[..]);
    assert_eq!([&object, &of_three].map(cached), [PAGES, 0]);
}

#[test]
fn one_connection_keeps_one_copy_of_what_is_large() {
    let (lower, object) = with_large();
    let expected = fs::read(lower.world.beside("lower/models/large")).unwrap();
    let Some(()) = make_cold(&object) else { return };
    let Some(mounted) = lower.mount() else { return };
    let path = mounted.path("models/large");
    assert!(fs::read(&path).unwrap() == expected);
    assert_eq!(sys::cached_pages(&object), 0, "what the mount keeps, the object does not");
    assert_eq!(cached(&File::open(&path).unwrap()), PAGES);

    // What is in memory already is taken from there, and goes.
    drop(mounted);
    fs::copy(lower.world.beside("lower/models/large"), "/dev/null").unwrap();
    rustix::fs::fadvise(&object, 0, None, rustix::fs::Advice::WillNeed).unwrap();
    let mut page = [0; 4096];
    for at in (0..LARGE as u64).step_by(1 << 20) {
        object.read_exact_at(&mut page, at).unwrap();
    }
    assert!(sys::cached_pages(&object) > 0);
    let Some(mounted) = lower.mount() else { return };
    assert!(fs::read(mounted.path("models/large")).unwrap() == expected);
    assert!(sys::cached_pages(&object) < PAGES / 50, "{} pages are left", sys::cached_pages(&object));
    // Reads that are not aligned, and the end of a file that is not.
    let file = open(&mounted.path("models/large"), OFlags::RDONLY | OFlags::DIRECT).unwrap();
    let mut some = vec![0; 5000];
    file.read_exact_at(&mut some, 12_345_679).unwrap();
    assert_eq!(some, expected[12_345_679..12_350_679]);
}
