//! The caches of the hub's files that other programs keep on this machine. They are only read, and what they hold is
//! taken for what its name says only after its hash said so too.
//!
//! ```text
//! models--ORG--NAME/refs/<revision>            the commit
//!                   snapshots/<commit>/<path>  a link to ../../blobs/<etag>
//!                   blobs/<etag>               the sha256 of a large file, the git SHA-1 of others
//! ```

use std::fs;
use std::path::{Component, Path, PathBuf};

use cvs_store::{Intake, Store, Transaction};
use git2::{ObjectType, Oid};

use super::prefix;
use crate::source::digest::{Expected, hex, unhex};
use crate::source::error::SourceError;
use crate::source::event::{SourceEvent, SourceOptions};
use crate::source::hosts::Hosts;
use crate::source::http::FetchedFile;
use crate::source::local;
use crate::spec::HubFile;

/// What identifies the bytes of a file in the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Sha256([u8; 32]),
    Git([u8; 20]),
}

/// The commit that a cache has for a revision, and what the file is there.
pub(super) fn look_up(file: &HubFile, revision: &str, hosts: &Hosts) -> Option<(String, Content)> {
    repositories(file, hosts).find_map(|repository| {
        let commit = match unhex::<20>(revision) {
            Some(_) => revision.to_owned(),
            None => fs::read_to_string(repository.join("refs").join(safe(revision)?)).ok()?,
        };
        let commit = commit.trim();
        unhex::<20>(commit)?;
        let entry = repository.join("snapshots").join(commit).join(safe(&file.path)?);
        let target = fs::read_link(entry).ok()?;
        let tag = target.file_name()?.to_str()?;
        let content = unhex(tag).map(Content::Sha256).or_else(|| unhex(tag).map(Content::Git))?;
        Some((commit.to_owned(), content))
    })
}

/// Takes the file from a cache that has it whole.
pub(super) fn take(
    store: &Store,
    transaction: &Transaction,
    file: &HubFile,
    content: &Content,
    expected: &Expected,
    hosts: &Hosts,
    options: &SourceOptions<'_>,
) -> Result<Option<FetchedFile>, SourceError> {
    let tag = match content {
        Content::Sha256(sha256) => hex(sha256),
        Content::Git(sha1) => hex(sha1),
    };
    for repository in repositories(file, hosts) {
        let path = repository.join("blobs").join(&tag);
        if !path.is_file() {
            continue;
        }
        let wanted = match content {
            Content::Sha256(sha256) => Expected { sha256: Some(*sha256), ..*expected },
            Content::Git(_)
                if Oid::hash_file(ObjectType::Blob, &path).is_ok_and(|id| id.to_string() == tag) =>
            {
                *expected
            }
            Content::Git(_) => continue,
        };
        let shown = path.display().to_string();
        match local::ingest(store, transaction, &path, &wanted, Intake::Copy, options) {
            Ok(found) => {
                options.event(SourceEvent::Found { path: &shown });
                return Ok(Some(found));
            }
            // Being written just now, cut, or not ours to read: the network has it whole.
            Err(
                error @ (SourceError::Checksum { .. }
                | SourceError::Size { .. }
                | SourceError::Changed { .. }
                | SourceError::Io { .. }),
            ) => tracing::info!(%error, "a file of a local cache is left alone"),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The directories that may hold the file's repository.
fn repositories<'a>(file: &'a HubFile, hosts: &'a Hosts) -> impl Iterator<Item = PathBuf> + 'a {
    let kind = prefix(file.kind).unwrap_or("models");
    let name = format!("{kind}--{}", file.repo.replace('/', "--"));
    let name = safe(&name).is_some().then_some(name);
    hosts.hub_caches.iter().flat_map(move |cache| name.as_ref().map(|name| cache.join(name)))
}

/// A path from outside that stays below where it is put.
fn safe(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    path.components().all(|part| matches!(part, Component::Normal(_))).then_some(path)
}
