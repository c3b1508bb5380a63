//! Real mounts: what only the kernel can tell.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{AtFlags, Timespec, Timestamps};

use crate::mounts::{Lower, Mounted};
use crate::sys;
use cvs_fusefs::{MountError, Overlay};

#[test]
fn who_has_a_file_of_the_view_open_sees_what_is_written() {
    let content = vec![b'.'; 300_000];
    let lower = Lower::new(|dir| fs::write(dir.join("f"), &content).unwrap());
    let Some(mounted) = lower.mount() else { return };
    let path = mounted.path("f");
    let reader = File::open(&path).unwrap();
    let map = sys::map(&reader);
    assert_eq!(map[..], content);
    let number = reader.metadata().unwrap().ino();

    let writer = File::options().write(true).open(&path).unwrap();
    writer.write_all_at(b"one", 4096).unwrap();
    let mut seen = [0; 3];
    reader.read_exact_at(&mut seen, 4096).unwrap();
    assert_eq!(&seen, b"one");
    assert_eq!(map[4096..4099].to_vec(), b"one");
    writer.write_all_at(b"two", 299_997).unwrap();
    assert_eq!(map[299_997..].to_vec(), b"two");
    assert_eq!(reader.metadata().unwrap().ino(), number, "copied up under the same number");
    let renamed = mounted.path("g");
    fs::rename(&path, &renamed).unwrap();
    assert_eq!(fs::metadata(&renamed).unwrap().ino(), number);
    assert_eq!(map[4096..4099].to_vec(), b"one");

    let mut appender = File::options().append(true).open(&renamed).unwrap();
    appender.write_all(b"three").unwrap();
    assert_eq!(reader.metadata().unwrap().len(), 300_005);
    drop((reader, writer, appender, map, mounted));
    let mounted = lower.mount().unwrap();
    let found = fs::read(mounted.path("g")).unwrap();
    assert_eq!((&found[4096..4099], &found[299_997..]), (&b"one"[..], &b"twothree"[..]));
}

#[test]
fn a_large_directory_can_be_removed_while_it_is_listed() {
    let name = |number: u32| format!("entry-{:05}-{number}", number.wrapping_mul(7919) % 10_000);
    let lower = Lower::new(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        for number in 0..3000 {
            fs::write(dir.join("d").join(name(number)), b"").unwrap();
        }
    });
    let Some(mounted) = lower.mount() else { return };
    let dir = mounted.path("d");
    for number in 3000..5000 {
        fs::write(dir.join(name(number)), b"").unwrap();
    }
    let listed = || fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let all: Vec<OsString> = listed().collect();
    let sorted: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(all.len(), 5000);
    assert!(all.iter().eq(&sorted), "sorted and unique");

    let mut removed = BTreeSet::new();
    for entry in listed() {
        fs::remove_file(dir.join(&entry)).unwrap();
        assert!(removed.insert(entry), "listed once");
    }
    assert_eq!(removed, sorted);
    assert_eq!(listed().count(), 0);
    fs::remove_dir(&dir).unwrap();
    drop(mounted);
    let mounted = lower.mount().unwrap();
    assert!(!mounted.path("d").exists());
}

#[test]
fn the_umask_of_the_caller_counts() {
    let lower = Lower::new(|dir| fs::create_dir(dir.join("d")).unwrap());
    let Some(mounted) = lower.mount() else { return };
    for (umask, file, dir) in [("022", 0o644, 0o755), ("077", 0o600, 0o700), ("000", 0o666, 0o777)] {
        let script = format!("umask {umask}; : > f{umask}; mkdir d{umask}");
        let status = Command::new("sh").args(["-c", &script]).current_dir(mounted.path("d")).status();
        assert!(status.unwrap().success());
        let mode =
            |name: String| fs::metadata(mounted.path("d").join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(format!("f{umask}")), mode(format!("d{umask}"))), (file, dir));
    }
}

#[test]
fn times_are_kept_from_before_1970_on() {
    let lower = Lower::new(|dir| fs::write(dir.join("f"), b"").unwrap());
    let Some(mounted) = lower.mount() else { return };
    let path = mounted.path("f");
    for (seconds, nanos) in [(-2, 500_000_000), (-1, 0), (-1, 1), (0, 1), (1 << 32, 999_999_999)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty()).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, nanos));
        assert_eq!((meta.atime(), meta.atime_nsec()), (seconds, nanos));
    }
}

#[test]
fn what_is_unlinked_lives_while_it_is_open() {
    let lower = Lower::new(|dir| {
        fs::write(dir.join("view"), b"of the view").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
    });
    let Some(mounted) = lower.mount() else { return };
    fs::write(mounted.path("new"), b"of the overlay").unwrap();
    for name in ["view", "new"] {
        let path = mounted.path(name);
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.set_permissions(fs::Permissions::from_mode(0o400)).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b", written to").unwrap();
        file.set_len(30).unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("of the ") && text.contains(", written to") && text.len() == 30, "{text:?}");
        assert!(!path.exists());
    }
    let dir = File::open(mounted.path("d")).unwrap();
    fs::remove_dir(mounted.path("d")).unwrap();
    let meta = dir.metadata().unwrap();
    assert_eq!(meta.nlink(), 0);
    dir.set_permissions(fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    drop(dir);
    let left: Vec<_> = fs::read_dir(&mounted.at).unwrap().collect();
    assert!(left.is_empty());
}

#[test]
fn statfs_tells_of_the_filesystem_that_takes_what_is_written() {
    let lower = Lower::new(|_| ());
    let Some(mounted) = lower.mount() else { return };
    let (found, below) =
        (rustix::fs::statvfs(&mounted.at).unwrap(), rustix::fs::statvfs(lower.world.beside("")).unwrap());
    assert_eq!(
        (found.f_blocks, found.f_frsize, found.f_namemax, found.f_files),
        (below.f_blocks, below.f_frsize, 255, below.f_files)
    );
}

#[test]
fn without_an_overlay_nothing_can_be_written() {
    let lower = Lower::new(|dir| fs::write(dir.join("f"), b"content").unwrap());
    let Some(mounted) = lower.mount_read_only() else { return };
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"content");
    for done in [
        fs::write(mounted.path("new"), b""),
        fs::remove_file(mounted.path("f")),
        fs::rename(mounted.path("f"), mounted.path("g")),
        File::options().append(true).open(mounted.path("f")).map(drop),
    ] {
        assert_eq!(done.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn locks_are_kept() {
    let lower = Lower::new(|dir| fs::write(dir.join("f"), b"").unwrap());
    let Some(mounted) = lower.mount() else { return };
    let open = || File::options().read(true).write(true).open(mounted.path("f")).unwrap();
    let (first, second) = (open(), open());
    first.try_lock().unwrap();
    assert!(matches!(second.try_lock(), Err(fs::TryLockError::WouldBlock)));
    drop(first);
    second.try_lock().unwrap();
    // A lock of fcntl belongs to a process: another one cannot have it.
    rustix::fs::fcntl_lock(&second, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    let other = Command::new("python3").args(["-c", script]).arg(mounted.path("f")).output();
    match other {
        Ok(other) => {
            let said = String::from_utf8_lossy(&other.stderr);
            assert!(!other.status.success() && said.contains("BlockingIOError"), "{said}");
        }
        Err(error) => eprintln!("skipped: python3: {error}"),
    }
}

#[test]
fn what_a_mount_does_not_have_is_refused_plainly() {
    use rustix::fs::{Mode, OFlags, RenameFlags};
    let lower = Lower::new(|dir| fs::write(dir.join("f"), b"").unwrap());
    let Some(mounted) = lower.mount() else { return };
    let unnamed = rustix::fs::open(&mounted.at, OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600));
    assert_eq!(unnamed.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    let (from, to) = (mounted.path("f"), mounted.path("g"));
    let cwd = rustix::fs::CWD;
    let renamed = rustix::fs::renameat_with(cwd, &from, cwd, &to, RenameFlags::WHITEOUT);
    assert_eq!(renamed.unwrap_err(), rustix::io::Errno::INVAL);
    let acl = rustix::fs::setxattr(
        &from,
        "system.posix_acl_access",
        b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff",
        rustix::fs::XattrFlags::empty(),
    );
    assert_eq!(acl.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
}

/// A small filesystem, gone at the end.
struct Small(PathBuf);

impl Small {
    const BYTES: usize = 2 << 20;

    /// None, with a word, for who may not mount one.
    fn new(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let size = format!("size={}", Self::BYTES);
        let size = std::ffi::CString::new(size).unwrap();
        match rustix::mount::mount("none", &at, "tmpfs", rustix::mount::MountFlags::empty(), Some(&*size)) {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("skipped: a small tmpfs: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_reaches_the_writer_and_harms_nothing() {
    let large = vec![b'l'; Small::BYTES + 1000];
    let lower = Lower::new(|dir| fs::write(dir.join("large"), &large).unwrap());
    let Some(small) = Small::new(lower.world.beside("small")) else { return };
    let overlay = match Overlay::new(
        lower.world.store.clone(),
        lower.world.view(&[("", lower.manifest)]),
        Some(&small.0.join("overlay")),
        true,
    ) {
        Ok(overlay) => overlay,
        // tmpfs has them since Linux 6.6.
        Err(MountError::Unsupported { feature, .. }) => return eprintln!("skipped: tmpfs has no {feature}"),
        Err(error) => panic!("{error}"),
    };
    let Some(mounted) = Mounted::new(overlay, lower.world.beside("mnt")) else { return };
    let path = mounted.path("large");
    // It is too large to be copied up. Cutting it off needs no copy.
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let refused = file.write_at(b"x", 0).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(fs::read(&path).unwrap(), large);

    let mut new = File::create(mounted.path("new")).unwrap();
    let mut written = 0;
    let refused = loop {
        match new.write(&[b'n'; 100_000]) {
            Ok(some) => written += some,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(new.metadata().unwrap().len(), written as u64);
    assert_eq!(fs::read(mounted.path("new")).unwrap(), vec![b'n'; written]);
    drop(new);
    fs::remove_file(mounted.path("new")).unwrap();
    file.set_len(1000).unwrap();
    file.write_at(b"x", 0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 1000);
    drop(file);
}
