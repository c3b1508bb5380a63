//! Leaving nothing behind: the mounts below a directory and the processes that carry a variable.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// The beginning of a script in a mount namespace of its own: it lets go of the FUSE mounts that were there when the
/// namespace was made. Whoever unmounts one of them waits for all its copies.
pub const LET_GO: &str = r#"grep ' fuse' /proc/self/mounts | cut -d' ' -f2 | while read -r dir; do
umount --lazy --internal-only --no-canonicalize "$(printf '%b' "$dir")" 2> /dev/null || :; done; "#;

/// Mountpoints at or below `dir`, the last mounted first.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .filter(|path| path.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits (proc_pid_mountinfo(5)).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Detaches every mount below `dir`; as root by the system call, else with fusermount3.
pub(crate) fn unmount_below(dir: &Path) {
    for path in mounts_below(dir) {
        if umount2(&path, MntFlags::MNT_DETACH).is_err() {
            let _ = Command::new("fusermount3")
                .arg("-uzq")
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Processes whose environment holds exactly `variable` (`NAME=value`). Zombies have none and are not counted.
pub(crate) fn processes_with(variable: &OsStr) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
            })
        })
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect()
}

/// Kills those processes and waits until they are gone.
pub(crate) fn kill_with(variable: &OsStr) {
    for pid in processes_with(variable) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    wait_until(Duration::from_secs(10), "killed processes end", || processes_with(variable).is_empty());
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;
    use crate::{Missing, available};

    #[test]
    fn mountinfo_escapes() {
        for (field, path) in
            [("/a", "/a"), ("/a\\040b", "/a b"), ("/a\\134b", "/a\\b"), ("/a\\", "/a\\"), ("/\\0", "/\\0")]
        {
            assert_eq!(unescape(field.as_bytes()), path.as_bytes(), "{field}");
        }
    }

    #[test]
    fn a_process_is_found_by_its_variable_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut variable = OsString::from("CVS_HOME=");
        variable.push(dir.path());
        let mut child = Command::new("sleep").arg("600").env("CVS_HOME", dir.path()).spawn().unwrap();
        wait_until(Duration::from_secs(10), "the child runs", || processes_with(&variable).len() == 1);
        kill_with(&variable);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn mounts_are_found_and_detached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("with a blank");
        fs::create_dir(&path).unwrap();
        let mounted = mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>);
        let mounted = mounted.map_err(|_| Missing("mounting needs CAP_SYS_ADMIN (root)".to_owned()));
        let Some(()) = available(mounted) else { return };
        assert_eq!(mounts_below(&path), [path.as_path()]);
        unmount_below(&path);
        assert_eq!(mounts_below(&path), Vec::<PathBuf>::new());
    }
}
