//! Commits of git repositories, turned into manifests.
//!
//! A commit is fetched without its history where the server allows that, into a bare repository of the transaction's
//! scratch directory, and read from there: there is never a checkout. What was seen before is not read again: blobs
//! are known by their git id, whole commits by theirs. Submodules are part of the manifest, Git LFS pointers are
//! replaced by what they point to. Content is taken as it is stored; line endings are not converted.

mod config;
mod credentials;
mod ingest;
mod lfs;
mod location;
mod reference;
mod remote;
mod scratch;
mod sys;
mod tree;

use std::path::Path;

use cvs_store::{ManifestId, Transaction};

use self::location::GitUrl;
use self::reference::{Found, full_id};
use self::scratch::Scratch;
use super::error::SourceError;
use super::event::SourceOptions;

/// What a reference stood for when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedCommit {
    /// The full commit id, 40 lower-case hexadecimal digits.
    pub commit: String,
    /// The full name that led there (`refs/heads/main`), or the commit id itself.
    pub reference: String,
}

/// A commit that is in the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitIngest {
    /// The commit's files.
    pub manifest: ManifestId,
    /// The commit; differs from what was asked for when that was the id of a tag.
    pub commit: String,
    /// What it took.
    pub stats: GitStats,
}

/// What an ingest took, submodules included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GitStats {
    /// The whole manifest was there already, and nothing below was counted.
    pub cached: bool,
    /// Files and symlinks.
    pub files: u64,
    /// Blobs that were read and hashed.
    pub blobs_read: u64,
    /// Blobs known by their git id.
    pub blobs_known: u64,
    /// Files that Git LFS keeps.
    pub lfs_files: u64,
    /// Submodules, nested ones too.
    pub submodules: u64,
}

/// Finds the commit that `reference` (a branch, a tag, a full or short commit id; none for the default branch) names
/// in the repository at `url`. A full commit id is taken as it is: only [`ingest`] finds out whether it exists.
/// `scratch_dir` is the transaction's; it is used where only the history can tell what a short id means.
pub fn resolve(
    url: &str,
    reference: Option<&str>,
    scratch_dir: &Path,
    options: &SourceOptions<'_>,
) -> Result<ResolvedCommit, SourceError> {
    let location = GitUrl::parse(url)?;
    if let Some(id) = reference.and_then(full_id) {
        return Ok(ResolvedCommit { commit: id.to_string(), reference: id.to_string() });
    }
    let shown = location.shown();
    let scratch = Scratch::new(scratch_dir, &location, &shown, options);
    let advertised = scratch.remote().list(&scratch.all()?)?;
    let (commit, name) = match advertised.find(&shown, reference)? {
        Found::Commit(commit, name) => (commit, name),
        Found::Prefix(prefix) => match scratch.find_prefix(&prefix)? {
            Some(commit) => (commit, commit.to_string()),
            None => return Err(advertised.unknown(&shown, &prefix)),
        },
    };
    Ok(ResolvedCommit { commit: commit.to_string(), reference: name })
}

/// Brings the files of `commit` into `transaction`. `reference`, if known, is where a server that hands out no single
/// commits is asked first.
pub fn ingest(
    transaction: &Transaction,
    url: &str,
    commit: &str,
    reference: Option<&str>,
    options: &SourceOptions<'_>,
) -> Result<GitIngest, SourceError> {
    ingest_with(transaction, url, commit, reference, None, options)
}

/// As [`ingest`], of a commit that is checked out in `checkout`, a directory of this machine whose remote is at `url`.
/// What lies there is read there: its own files, its submodules, the objects of Git LFS. The rest is fetched.
pub(crate) fn ingest_checkout(
    transaction: &Transaction,
    url: &str,
    commit: &str,
    checkout: &Path,
    options: &SourceOptions<'_>,
) -> Result<GitIngest, SourceError> {
    ingest_with(transaction, url, commit, None, Some(checkout), options)
}

fn ingest_with(
    transaction: &Transaction,
    url: &str,
    commit: &str,
    reference: Option<&str>,
    checkout: Option<&Path>,
    options: &SourceOptions<'_>,
) -> Result<GitIngest, SourceError> {
    let location = GitUrl::parse(url)?;
    let Some(id) = full_id(commit) else {
        let reason = "a commit is ingested by its full id of 40 hexadecimal digits";
        return Err(SourceError::Address { url: format!("{}@{commit}", location.shown()), reason });
    };
    ingest::Ingest { store: transaction.store(), transaction, options }
        .run(&location, id, reference, checkout)
}

/// Under which the index knows the manifest of a commit.
pub(crate) fn source_key(commit: &str) -> String {
    format!("git:{commit}")
}

/// What the files of a commit that git and Git LFS read make of `bytes`: where submodules of a repository at `base`, and
/// objects of Git LFS, are fetched from. Fuzzing enters here.
pub(super) fn addresses(bytes: &[u8], base: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let _ = (lfs::pointer(bytes), lfs::uses_lfs(bytes));
    let settings = config::parse(&text);
    let paths = settings.iter().filter(|setting| setting.key == "path").map(|setting| &*setting.value);
    let urls = paths.filter_map(|path| config::submodule_url(&settings, path));
    let Ok(base) = GitUrl::parse(base) else { return Vec::new() };
    let submodules = urls.filter_map(|url| base.submodule(url).ok()).map(|target| target.transport());
    let endpoint = lfs::configured_endpoint(&text).ok().flatten();
    submodules.chain(endpoint.map(String::from)).collect()
}

/// Where an answer of the batch API of Git LFS says that the object of this hash is. Fuzzing enters here.
pub(super) fn lfs_addresses(
    answer: &serde_json::Value,
    endpoint: &url::Url,
    sha256: [u8; 32],
) -> Vec<url::Url> {
    lfs::addresses(answer, endpoint, sha256)
}

#[cfg(test)]
mod tests;
