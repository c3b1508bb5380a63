//! `hammer DIR SEED MILLISECONDS`: changes a directory at random, together with others that do the same. Whatever
//! another got there first with is no error; anything else is, and ends it with 1.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// Few, so that they meet.
const NAMES: u64 = 12;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("a directory"));
    let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).expect("a number");
    let (mut state, time) = (number() + 1, Duration::from_millis(number()));
    // xorshift64 (Marsaglia, 2003).
    let mut chance = move |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % end
    };
    let (start, mut done) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        let mut path = || dir.join(format!("n{}", chance(NAMES)));
        let (one, other) = (path(), path());
        let what = chance(14);
        let result = match what {
            0 | 1 => fs::write(&one, vec![7; chance(20_000) as usize]),
            2 => fs::read(&one).map(drop),
            3 => fs::rename(&one, &other),
            4 => fs::hard_link(&one, &other),
            5 => fs::remove_file(&one),
            6 => fs::create_dir(&one),
            7 => fs::remove_dir(&one),
            8 => symlink("n0", &one),
            9 => fs::set_permissions(&one, fs::Permissions::from_mode(0o644 | (chance(2) as u32))),
            10 => fs::read_dir(&dir).and_then(|mut entries| entries.try_for_each(|entry| entry.map(drop))),
            11 => held(&one, &other),
            12 => fs::write(one.join("below"), "x"),
            _ => fs::remove_file(one.join("below")),
        };
        match result.as_ref().map_err(|error| error.raw_os_error().map(Errno::from_raw)) {
            Ok(()) => {}
            Err(Some(
                Errno::ENOENT
                | Errno::EEXIST
                | Errno::EISDIR
                | Errno::ENOTDIR
                | Errno::ENOTEMPTY
                | Errno::EINVAL
                | Errno::EPERM
                | Errno::ELOOP,
            )) => {}
            Err(_) => {
                eprintln!("operation {what} on {} and {}: {result:?}", one.display(), other.display());
                return ExitCode::FAILURE;
            }
        }
        done += 1;
    }
    println!("{done}");
    ExitCode::SUCCESS
}

/// What is open can be written and read whatever happens to its name.
fn held(one: &std::path::Path, other: &std::path::Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(one)?;
    let _ = fs::rename(one, other);
    let _ = fs::remove_file(other);
    let mut byte = [0];
    file.write_all_at(b"z", 30_000)?;
    file.read_exact_at(&mut byte, 30_000).or_else(|error| match error.kind() {
        // Another has made it shorter.
        io::ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(error),
    })?;
    file.sync_data()
}
