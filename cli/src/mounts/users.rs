//! Who uses a mount: processes with a file, a working directory, a root or a mapping below it.

use std::fs;
use std::path::Path;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// The processes that use `mountpoint`, as far as we may look. Asks the kernel only, never the mount.
pub(super) fn of(mountpoint: &Path) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut users = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let directory = process.path();
        if uses(&directory, mountpoint) {
            let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
            users.push(User { pid, name: name.trim().to_owned() });
        }
    }
    users.sort_by_key(|user| user.pid);
    users
}

fn uses(process: &Path, mountpoint: &Path) -> bool {
    let links_there = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    ["cwd", "root", "exe"].iter().any(|name| links_there(&process.join(name)))
        || fs::read_dir(process.join("fd")).is_ok_and(|fds| fds.flatten().any(|fd| links_there(&fd.path())))
        || fs::read_dir(process.join("map_files"))
            .is_ok_and(|maps| maps.flatten().any(|map| links_there(&map.path())))
}

/// `python3 (pid 12), bash (pid 15) and 3 more`.
pub(super) fn describe(users: &[User]) -> String {
    const SHOWN: usize = 4;
    if users.is_empty() {
        return "a process that cannot be seen from here".to_owned();
    }
    let mut text: Vec<String> =
        users.iter().take(SHOWN).map(|user| format!("{} (pid {})", user.name, user.pid)).collect();
    if users.len() > SHOWN {
        text.push(format!("{} more", users.len() - SHOWN));
    }
    text.join(", ")
}
