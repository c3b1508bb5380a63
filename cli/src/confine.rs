//! Keeping programs from writing into the store through a link to a model. Objects are read-only files, which root in a
//! container does not heed, so that the kernel has to be told otherwise: by Landlock (kernel documentation,
//! userspace-api/landlock), which needs no capability and holds for all that the program starts.
//!
//! Landlock knows no exceptions: it forbids everywhere what is not allowed somewhere. So writing is allowed in
//! everything that lies beside the protected directory and beside each of the directories above it. What that leaves
//! out are files which somebody makes, later, right in one of those directories above: they can be made and not be
//! written. Reading is as it was, and so are making and removing names.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, make_bitflags,
};

/// Renaming from one directory to another is forbidden by the first version of Landlock whatever is allowed, which
/// breaks more than it protects; so the second is needed (Linux 5.19). Truncating is known from the third on.
const ACCESS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | Truncate | Refer});

/// Directories of a person that programs make when they are not there, and then write in.
const OF_PERSONS: [&str; 3] = [".cache", ".config", ".local"];

/// True when this kernel can forbid it.
pub(crate) fn is_possible() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::WriteFile | AccessFs::Refer)
        .and_then(Ruleset::create)
        .is_ok()
}

/// True when modes alone do not keep this process from writing.
pub(crate) fn is_needed() -> bool {
    rustix::process::geteuid().is_root()
}

/// What stands before a command line so that the command cannot write below `directory`.
pub(crate) fn wrapper(directory: &Path) -> io::Result<Vec<OsString>> {
    let program = std::env::current_exe()?;
    Ok(vec![program.into(), "confine".into(), directory.into(), "--".into()])
}

/// Forbids this process, and all that it starts, to write below `directory`.
pub(crate) fn forbid_writes(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    for name in OF_PERSONS {
        match std::env::var_os("HOME").map(PathBuf::from) {
            // Best effort: a program that cannot make them either says so.
            Some(home) if directory.starts_with(&home) => drop(fs::create_dir_all(home.join(name))),
            _ => {}
        }
    }
    let refused = |error: RulesetError| io::Error::other(error);
    let mut ruleset = Ruleset::default().handle_access(ACCESS).and_then(Ruleset::create).map_err(refused)?;
    for path in beside(&directory) {
        // What cannot be opened cannot be written to either; what is gone is gone.
        let (Ok(fd), Ok(metadata)) = (PathFd::new(&path), path.symlink_metadata()) else { continue };
        let allowed = match metadata.is_dir() {
            true => ACCESS,
            false => ACCESS & AccessFs::from_file(ABI::V3),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, allowed)).map_err(refused)?;
    }
    match ruleset.restrict_self().map_err(refused)?.ruleset {
        RulesetStatus::NotEnforced => Err(io::ErrorKind::Unsupported.into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// All that lies beside `directory` and beside the directories above it.
fn beside(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for inside in directory.ancestors() {
        let Some(above) = inside.parent() else { break };
        for entry in fs::read_dir(above).into_iter().flatten().flatten() {
            // Where a link leads is allowed, or not, for itself.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if entry.path() != inside && !is_link {
                found.push(entry.path());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_the_directory_and_what_is_above_it() {
        let dir = std::env::temp_dir().join(format!("cvs-confine-{}", std::process::id()));
        for path in ["home/objects/blob", "home/run", "home/versions"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        fs::write(dir.join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        let mut inside: Vec<PathBuf> =
            beside(&dir.join("home/objects")).into_iter().filter(|path| path.starts_with(&dir)).collect();
        inside.sort();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(inside, [dir.join("file"), dir.join("home/run"), dir.join("home/versions")]);
    }
}
