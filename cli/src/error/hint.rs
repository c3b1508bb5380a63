//! What to do next, by what went wrong.

use std::io;

use cvs_fusefs::MountError;
use cvs_store::StoreError;
use cvs_versions::import::ImportError;
use cvs_versions::python::PythonError;
use cvs_versions::source::SourceError;
use cvs_versions::{SourceFailure, SpecError, VersionsError};
use nix::errno::Errno;

use crate::mounts::MountsError;
use crate::shell;

pub(super) fn of_versions(error: &VersionsError) -> Option<String> {
    match error {
        VersionsError::Spec(error) => of_spec(error),
        VersionsError::Store(error) | VersionsError::Version { source: error, .. } => of_store(error),
        VersionsError::Sources { failures, .. } => {
            failures.iter().find_map(|SourceFailure { source, .. }| of_source(source))
        }
        VersionsError::Source(error) => of_source(error),
        VersionsError::Offline { .. } => Some("run it again without --offline to fetch it".to_owned()),
        VersionsError::Locked { id, .. } => Some(format!("`cvs lock {id}` brings the lock up to date")),
        VersionsError::Conflict { .. } => Some(
            "give one of them another place: `target_dir` for a node, `target_path` for a model".to_owned(),
        ),
        VersionsError::Python { id, source } => of_python(id.as_str(), source),
        VersionsError::Install { .. } => Some(
            "`\"run_install\": false` leaves the script alone; its packages can stand in `python_packages`"
                .to_owned(),
        ),
        VersionsError::NoSandbox { .. } | VersionsError::Sandbox { .. } => Some(
            "`cvs doctor` says whether this machine can mount; `\"run_install\": false` leaves the script alone"
                .to_owned(),
        ),
        VersionsError::Unsteady { .. } => Some("run the command again when the editing is done".to_owned()),
        VersionsError::Busy { .. } => Some(
            "end it first: `cvs stop` what `cvs ps` shows, `cvs umount` what `cvs mounts` shows".to_owned(),
        ),
        VersionsError::Io { source, .. } => of_io(source),
        VersionsError::Realize(error) => super::realize::hint(error),
        VersionsError::Import(ImportError::Changed { .. }) => {
            Some("end what writes there, and run the command again: it goes on where it stopped".to_owned())
        }
        VersionsError::Import(ImportError::NoReflink { .. }) => {
            Some("leave --reflink out to copy, or use --hardlink".to_owned())
        }
        VersionsError::Import(ImportError::Source { source, .. }) => of_source(source),
        VersionsError::Import(ImportError::Store(error)) => of_store(error),
        VersionsError::Cancelled => Some("run the command again to go on where it stopped".to_owned()),
        _ => None,
    }
}

pub(super) fn of_python(id: &str, error: &PythonError) -> Option<String> {
    let text = match error {
        PythonError::Store(error) => return of_store(error),
        PythonError::Io { source, .. } => return of_io(source),
        PythonError::NoSpace { .. } => return of_io(&io::ErrorKind::StorageFull.into()),
        PythonError::Conflict { .. } => {
            "pin what all can take in `python_packages`, take another commit of a node, or give it \
             `\"install_requirements\": false`"
        }
        PythonError::NoInterpreter { .. } => {
            "install that Python, or ask for another one: `python.version` in the spec, --python for `cvs create`"
        }
        PythonError::Offline { .. } => {
            "run it again without --offline, or name a directory that has it with --wheels"
        }
        PythonError::WheelMissing { .. } => "name the directory that has it with --wheels",
        PythonError::Unreachable { .. } => {
            "look at the address of the index and the network, and run the command again"
        }
        PythonError::Denied { .. } => "look at the credentials for that index",
        PythonError::BuildPath { .. } => {
            "the package that it belongs to works in one place only: take another version of it, or leave it out"
        }
        PythonError::HashMismatch { .. } => {
            return Some(format!(
                "nothing was stored; `cvs lock {id} --update=python` takes what the index has now"
            ));
        }
        _ => return None,
    };
    Some(text.to_owned())
}

pub(crate) fn of_source(error: &SourceError) -> Option<String> {
    let text = match error {
        SourceError::Store(error) => return of_store(error),
        SourceError::InSubmodule { source, .. } | SourceError::LfsDownload { source, .. } => {
            return of_source(source);
        }
        SourceError::Io { source, .. } | SourceError::Runtime { source } => return of_io(source),
        SourceError::Unreachable { .. } | SourceError::Stalled { .. } => {
            "look at the address and the network, and run the command again; with --offline it takes what the store has"
        }
        SourceError::Truncated { .. } | SourceError::HttpTransfer { .. } => {
            "run the command again: it goes on where it stopped"
        }
        SourceError::RepositoryNotFound { .. } | SourceError::GitAccess { .. } => {
            "look at the address; a private repository opens by a user and token in the spec's address, the ssh agent, \
             ~/.ssh/id_ed25519, id_ecdsa or id_rsa, or a credential helper of git (`git config credential.helper`)"
        }
        SourceError::Checksum { .. } | SourceError::Size { .. } => {
            "nothing was stored; correct `checksum` in the spec only if the file is the one that you want"
        }
        SourceError::Closed { page, variable, .. } => {
            return Some(format!(
                "look at {page} with your account, accept what it asks for, and set {variable} to a token of that account"
            ));
        }
        SourceError::Choice { .. } => {
            "put what chooses the file behind the source: `civitai://api/download/models/ID?name=…`"
        }
        SourceError::Mirrors { failures } => return failures.iter().find_map(of_source),
        SourceError::DiskFull { .. } => return of_io(&io::ErrorKind::StorageFull.into()),
        // libgit2 says it in words only.
        SourceError::Git { source, .. } | SourceError::GitObject { source, .. }
            if source.message().ends_with("No space left on device") =>
        {
            return of_io(&io::ErrorKind::StorageFull.into());
        }
        SourceError::Changed { .. } => "run the command again when nothing writes to the file",
        SourceError::TreeMissing { .. } => {
            "only the machine that it was imported on has these files: import the install again, or remove `tree` from \
             the entry to take the commit as it is"
        }
        SourceError::Bucket { .. } | SourceError::BucketCredentials { .. } => {
            "docs/models.md names the variables that hold the settings and credentials of buckets"
        }
        SourceError::UnknownNode { .. } => "look at the id and the version on registry.comfy.org",
        _ => return None,
    };
    Some(text.to_owned())
}

pub(super) fn of_mounts(error: &MountsError) -> Option<String> {
    match error {
        MountsError::Occupied { path, .. } => {
            Some(format!("`cvs umount {}` takes it down, or mount elsewhere", shell::word(path)))
        }
        MountsError::InUse { path, .. } => Some(format!(
            "end what uses it, or `cvs umount --lazy {0}` (out of sight now, gone when it is done) or \
             `cvs umount --force {0}` (its files fail)",
            shell::word(path)
        )),
        MountsError::Hidden { path, .. } => {
            Some(format!("take that down first: `umount {}`", shell::word(path)))
        }
        MountsError::NotEmpty { .. } => {
            Some("name an empty directory, or one that does not exist yet".to_owned())
        }
        MountsError::OfAnotherStore { path, .. } => {
            Some(format!("`cvs umount {}` clears it", shell::word(path)))
        }
        MountsError::NotMounted { .. } => Some("`cvs mounts` lists what is mounted".to_owned()),
        MountsError::StillThere { path, .. } => Some(format!(
            "`cvs umount --force {}` kills it; its log is in run/log of the home directory",
            shell::word(path)
        )),
        MountsError::Io { source, .. } => of_io(source),
        MountsError::DidNotStart { .. } | MountsError::NotADirectory { .. } => None,
    }
}

pub(super) fn of_spec(error: &SpecError) -> Option<String> {
    match error {
        SpecError::Unknown { .. } => Some("`cvs list` shows the versions that there are".to_owned()),
        SpecError::Exists { .. } => Some("choose another name, or replace it with --force".to_owned()),
        SpecError::Changed { .. } => Some("run the command again to take the change in".to_owned()),
        SpecError::Invalid { .. } | SpecError::Syntax { .. } => {
            Some("docs/spec-v2.md says how a spec is written".to_owned())
        }
        SpecError::Io { source, .. } => of_io(source),
        SpecError::Id { .. } | SpecError::Stray { .. } => None,
    }
}

pub(super) fn of_store(error: &StoreError) -> Option<String> {
    match error {
        StoreError::NoSpace { path, .. } => Some(format!(
            "make room on the filesystem of {}; `cvs gc --grace 0` frees what no version needs",
            path.display()
        )),
        StoreError::UnknownFormat { .. } => {
            Some("use the version of cvs that wrote it, or a newer one, or another --home".to_owned())
        }
        StoreError::MissingBlob(_) | StoreError::WrongSize { .. } | StoreError::MissingManifest(_) => {
            Some("`cvs lock VERSION` brings what is missing again; `cvs fsck` tells what is".to_owned())
        }
        StoreError::DamagedManifest(_) => {
            Some("`cvs fsck --repair` sets damaged objects aside and brings them again".to_owned())
        }
        StoreError::UnreadableRoot { root, source } => match **source {
            StoreError::MissingManifest(_) => Some(format!(
                "nothing was removed: `cvs lock {root}` brings what it needs, `cvs delete {root}` gives it up"
            )),
            StoreError::DamagedManifest(_) | StoreError::Manifest { .. } => Some(format!(
                "nothing was removed: `cvs fsck --repair` brings it back, `cvs delete {root}` gives it up"
            )),
            _ => of_store(source),
        },
        StoreError::Roots(_) => Some(
            "nobody can tell what that spec needs, so nothing was done: mend it, or move it away".to_owned(),
        ),
        StoreError::Busy { pid, .. } => {
            Some(format!("wait for process {pid}, or end it; `cvs mounts` lists what is mounted"))
        }
        StoreError::Io { source, .. } => of_io(source),
        StoreError::Changed { .. } => Some("run the command again when nothing writes to it".to_owned()),
        StoreError::Manifest { .. } | StoreError::Path { .. } | StoreError::Interrupted => None,
    }
}

pub(super) fn of_mount(error: &MountError) -> Option<String> {
    match error {
        MountError::OverlayBusy { .. } => Some(
            "`cvs mounts` shows where; unmount it, or use --read-only, --ephemeral or --overlay DIR"
                .to_owned(),
        ),
        MountError::Unsupported { .. } => {
            Some("place it elsewhere with --overlay DIR or --home DIR".to_owned())
        }
        MountError::UnknownFormat { .. } => Some("use the version of cvs that wrote it".to_owned()),
        MountError::Mount { .. } => {
            Some("`cvs doctor` says whether this machine can mount, and what to do if not".to_owned())
        }
        MountError::Store(error) => of_store(error),
        MountError::Io { source, .. } => of_io(source),
    }
}

pub(crate) fn of_io(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Some(
            "run cvs as a user who may do that; the store belongs to whoever made it, and --home names another"
                .to_owned(),
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            let way = "nothing can be written there: name another place, with --home DIR for the store";
            Some(way.to_owned())
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room; `cvs gc --grace 0` frees what no version needs".to_owned())
        }
        _ if error.raw_os_error() == Some(Errno::EMFILE as i32) => {
            Some("this process may open no more files: `ulimit -n` tells and sets how many".to_owned())
        }
        _ => None,
    }
}
