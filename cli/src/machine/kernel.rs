//! FUSE: the device, the right to mount, and passthrough.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Finding, find_program};
use crate::shell;

const DEVICE: &str = "/dev/fuse";
/// Bit 21 of the capability sets, from linux/capability.h.
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// The first Linux with FUSE passthrough.
const PASSTHROUGH: (u32, u32) = (6, 9);

/// The device number of /dev/fuse (Documentation/admin-guide/devices.txt of Linux).
const FUSE_NUMBER: (u32, u32) = (10, 229);

pub(super) fn fuse_device() -> Finding {
    const NAME: &str = "fuse";
    let container = "in a container, start it with --device /dev/fuse";
    match File::options().read(true).write(true).open(DEVICE) {
        // Containers bind other devices over it to take it away.
        Ok(file)
            if file.metadata().is_ok_and(|metadata| {
                let number = metadata.rdev();
                (rustix::fs::major(number), rustix::fs::minor(number)) != FUSE_NUMBER
            }) =>
        {
            Finding::broken(NAME, format!("{DEVICE} is another device"), container.to_owned())
        }
        Ok(_) => Finding::ok(NAME, format!("{DEVICE} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::broken(
            NAME,
            format!("there is no {DEVICE}"),
            format!("`modprobe fuse` as root brings it; {container}"),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::broken(
            NAME,
            format!("{DEVICE} may not be opened by this user"),
            format!("`chmod 666 {DEVICE}` as root allows it, as is usual; {container}"),
        ),
        Err(error) => {
            Finding::broken(NAME, format!("{DEVICE} cannot be opened: {error}"), container.to_owned())
        }
    }
}

pub(super) fn may_mount() -> Finding {
    const NAME: &str = "mount";
    if is_admin() {
        return Finding::ok(NAME, "this process may mount by itself (CAP_SYS_ADMIN)");
    }
    let install = "install it, on Debian and Ubuntu with `apt-get install fuse3` as root";
    let Some(helper) = find_program("fusermount3") else {
        return Finding::broken(
            NAME,
            "neither CAP_SYS_ADMIN nor fusermount3 in PATH",
            format!("{install}; in a container, start it with --cap-add SYS_ADMIN"),
        );
    };
    match helper.metadata() {
        Ok(file) if file.uid() == 0 && file.permissions().mode() & 0o4000 != 0 => {
            if no_new_privileges() {
                return Finding::broken(
                    NAME,
                    format!("{} cannot get root's rights in this process (no_new_privs)", helper.display()),
                    "start the container without no-new-privileges, or with --cap-add SYS_ADMIN",
                );
            }
            if !may_become_admin() {
                return Finding::broken(
                    NAME,
                    format!("{} cannot get CAP_SYS_ADMIN in this container", helper.display()),
                    "start the container with --cap-add SYS_ADMIN",
                );
            }
            Finding::ok(NAME, format!("through {}", helper.display()))
        }
        Ok(_) => Finding::broken(
            NAME,
            format!("{} is not setuid root", helper.display()),
            format!("`chmod u+s {}` as root mends it", shell::word(&helper)),
        ),
        Err(error) => {
            Finding::broken(NAME, format!("{} cannot be used: {error}", helper.display()), install.to_owned())
        }
    }
}

pub(super) fn passthrough() -> Finding {
    const NAME: &str = "passthrough";
    let without = "models are read through cvs then, which works and costs some speed";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let Some(version) = kernel_version(release) else {
        return Finding::absent(NAME, format!("the kernel calls itself {release:?}"), without);
    };
    if version < PASSTHROUGH {
        return Finding::absent(NAME, format!("Linux {release} has none, 6.9 does"), without);
    }
    if !is_admin() {
        return Finding::absent(NAME, "it needs CAP_SYS_ADMIN", without);
    }
    if !in_first_user_namespace() {
        return Finding::absent(NAME, "it needs CAP_SYS_ADMIN outside of user namespaces", without);
    }
    Finding::ok(NAME, format!("Linux {release}, with CAP_SYS_ADMIN"))
}

/// True when this process sees every user id under its own number, as in the first user namespace.
fn in_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    numbers == ["0", "0", "4294967295"]
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn is_admin() -> bool {
    capabilities("CapEff:").is_some_and(|set| set & CAP_SYS_ADMIN != 0)
}

/// What a setuid program of root's may get. Where the set is not known, nothing speaks against it.
fn may_become_admin() -> bool {
    capabilities("CapBnd:").is_none_or(|set| set & CAP_SYS_ADMIN != 0)
}

fn capabilities(set: &str) -> Option<u64> {
    u64::from_str_radix(&status_field(set)?, 16).ok()
}

fn no_new_privileges() -> bool {
    status_field("NoNewPrivs:").as_deref() == Some("1")
}

/// A line of proc_pid_status(5).
fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_names_are_compared_by_number() {
        for (release, version) in [
            ("6.18.5", Some((6, 18))),
            ("6.9-rc1", Some((6, 9))),
            ("5.15.0-1023-aws", Some((5, 15))),
            ("7.0", Some((7, 0))),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(kernel_version(release), version, "{release}");
        }
        assert!((6, 18) >= PASSTHROUGH && (6, 8) < PASSTHROUGH);
    }
}
