//! The core and the nodes of an install: which are a published commit, and which are taken as they were found.
//!
//! What a directory holds is compared with its commit file by file, both as manifests, so that neither the settings of
//! git nor its index decide. A commit is read out of the install's own repositories, as far as they have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cvs_store::{EntryKind, Intake, Manifest, ManifestId, RelPath, Transaction, TreeOptions};
use git2::{ErrorCode, Oid, Repository};
use serde_json::{Map, Value, json};

use crate::import::error::ImportError;
use crate::source::{SourceOptions, git, without_secrets};
use crate::spec::RepoUrl;

/// Differences that a spec names; the others are counted.
const NAMED: usize = 100;
/// Commits that are looked at to learn whether one was published.
const HISTORY: usize = 200_000;

/// What git says of a directory.
#[derive(Debug, Default)]
pub(super) struct Repo {
    /// Its remote, as a spec may have it.
    pub(super) remote: Option<String>,
    /// The commit that is checked out.
    pub(super) head: Option<String>,
    /// A branch or tag of a remote leads to it.
    pub(super) published: bool,
    /// Why git was of no help, where there is a repository.
    pub(super) trouble: Option<String>,
}

/// A directory on its way into a spec.
pub(super) struct Found {
    pub(super) dir: PathBuf,
    pub(super) repo: Repo,
    /// The files of its commit.
    pub(super) commit: Option<ManifestId>,
    /// The files that it has.
    pub(super) tree: Option<ManifestId>,
}

impl Repo {
    /// Looks at the repository in `dir`, if there is one.
    pub(super) fn of(dir: &Path) -> Self {
        if dir.join(".git").symlink_metadata().is_err() {
            return Self::default();
        }
        let repository = match Repository::open(dir) {
            Ok(repository) => repository,
            Err(error) => return Self { trouble: Some(error.message().to_owned()), ..Self::default() },
        };
        let head = repository.head().and_then(|head| head.peel_to_commit()).map(|commit| commit.id());
        let head = match head {
            Ok(head) => head,
            Err(error) => {
                let trouble = match error.code() {
                    ErrorCode::UnbornBranch | ErrorCode::NotFound => "nothing was ever committed".to_owned(),
                    _ => error.message().to_owned(),
                };
                return Self { trouble: Some(trouble), ..Self::default() };
            }
        };
        Self {
            remote: remote(&repository),
            head: Some(head.to_string()),
            published: is_published(&repository, head),
            trouble: None,
        }
    }
}

/// The address of `origin`, else of the first remote, without what is secret in it.
fn remote(repository: &Repository) -> Option<String> {
    let names = repository.remotes().ok()?;
    let first = names.iter().flatten().flatten().next()?.to_owned();
    let remote = repository.find_remote("origin").or_else(|_| repository.find_remote(&first)).ok()?;
    let text = remote.url().ok()?.to_owned();
    let text = without_secrets(&text).into_owned();
    RepoUrl::parse(&text).ok().filter(|url| url.registry_id().is_none()).map(|_| text)
}

/// Whether a reference that came from a remote leads to `commit`: a remote branch, a tag, or what was fetched last.
fn is_published(repository: &Repository, commit: Oid) -> bool {
    let fetched = fs::read_to_string(repository.path().join("FETCH_HEAD")).unwrap_or_default();
    let mut tips: BTreeSet<Oid> = self::fetched(&fetched).collect();
    for pattern in ["refs/remotes/*", "refs/tags/*"] {
        let found = repository.references_glob(pattern).into_iter().flatten().flatten();
        tips.extend(found.filter_map(|reference| Some(reference.peel_to_commit().ok()?.id())));
    }
    if tips.contains(&commit) {
        return true;
    }
    let Ok(mut walk) = repository.revwalk() else { return false };
    for tip in tips {
        // A tip that is not here leads nowhere.
        let _ = walk.push(tip);
    }
    walk.take(HISTORY).any(|found| found == Ok(commit))
}

/// The commits that a `FETCH_HEAD` names.
pub(super) fn fetched(text: &str) -> impl Iterator<Item = Oid> {
    text.lines().filter_map(|line| Oid::from_str(line.get(..40)?).ok())
}

/// Reads the commit of `found` into the transaction, out of the install's own repositories: its own, and those of the
/// submodules that are checked out in it. The network is asked for what is in none of them. A commit that cannot be
/// read whole (a submodule that is nowhere, a shallow history with holes) is not one that the directory can be told by.
pub(super) fn read_commit(
    transaction: &Transaction,
    found: &mut Found,
    options: &SourceOptions<'_>,
) -> Result<(), ImportError> {
    let (Some(head), Some(remote)) = (&found.repo.head, &found.repo.remote) else { return Ok(()) };
    options_cancelled(options)?;
    let address = RepoUrl::parse(remote).map_or(remote.clone(), |url| url.address().into_owned());
    let read = git::ingest_checkout(transaction, &address, head, &found.dir, options)
        // A repository that has the commit, and lacks what the commit has.
        .or_else(|_| git::ingest(transaction, &address, head, None, options));
    match read {
        Ok(ingest) => found.commit = Some(ingest.manifest),
        Err(error) => {
            options_cancelled(options)?;
            found.repo.trouble = Some(format!("its commit cannot be read: {error}"));
        }
    }
    Ok(())
}

fn options_cancelled(options: &SourceOptions<'_>) -> Result<(), ImportError> {
    match options.cancel.load(std::sync::atomic::Ordering::Relaxed) {
        true => Err(ImportError::Cancelled),
        false => Ok(()),
    }
}

/// Takes the files of `dir` as they are; also, which sockets, pipes and devices there are besides. A directory that
/// changes meanwhile is read once more.
pub(super) fn read_tree(
    transaction: &Transaction,
    dir: &Path,
    exclude: &(dyn Fn(&RelPath) -> bool + Sync),
    options: &SourceOptions<'_>,
) -> Result<(ManifestId, Vec<RelPath>), ImportError> {
    let tree = TreeOptions { intake: Intake::Copy, exclude, progress: &|_| {}, cancel: options.cancel };
    let mut changed = dir.to_owned();
    for _ in 0..2 {
        let before = stamps(dir, exclude)?;
        let (manifest, stats) = transaction.put_tree(dir, &tree).map_err(ImportError::store)?;
        let after = stamps(dir, exclude)?;
        let different =
            |(path, stamp): (&RelPath, &Stamp)| (after.get(path) != Some(stamp)).then(|| path.clone());
        let other = before
            .iter()
            .find_map(different)
            .or_else(|| after.keys().find(|path| !before.contains_key(*path)).cloned());
        match other {
            None => return Ok((manifest, stats.skipped)),
            Some(path) => changed = dir.join(path.as_path()),
        }
    }
    Err(ImportError::Changed { path: changed })
}

type Stamp = (u64, u64, i64, i64);

fn stamps(
    dir: &Path,
    exclude: &(dyn Fn(&RelPath) -> bool + Sync),
) -> Result<BTreeMap<RelPath, Stamp>, ImportError> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![RelPath::root()]);
    while let Some(at) = pending.pop() {
        let listed = dir.join(at.as_path());
        let failed = |source| ImportError::io("list", &listed, source);
        for entry in fs::read_dir(&listed).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(path) = at.join(entry.file_name().as_encoded_bytes()) else { continue };
            if exclude(&path) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(path);
            } else {
                let stamp = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
                found.insert(path, stamp);
            }
        }
    }
    Ok(found)
}

/// What of a tree the commit has otherwise: `modified x`, `added x`, `deleted x`, in the order of paths. Modes count
/// only as far as git knows them, and directories not at all.
pub(super) fn differences(
    commit: &Manifest,
    tree: &Manifest,
    forgiven: impl Fn(&RelPath) -> bool,
) -> Vec<String> {
    let (old, new) = (content(commit), content(tree));
    let mut changes: Vec<(&RelPath, &str)> = Vec::new();
    for (path, what) in &new {
        match old.get(path) {
            None => changes.push((path, "added")),
            Some(was) if was != what => changes.push((path, "modified")),
            Some(_) => {}
        }
    }
    changes.extend(
        old.keys().filter(|path| !new.contains_key(*path) && !forgiven(path)).map(|path| (path, "deleted")),
    );
    changes.sort();
    changes.into_iter().map(|(path, what)| format!("{what} {path}")).collect()
}

/// Every file and symlink of a manifest, and what it is.
fn content(manifest: &Manifest) -> BTreeMap<RelPath, (bool, Vec<u8>)> {
    let entries = manifest.walk().filter_map(|(path, entry)| {
        let what = match entry.kind() {
            EntryKind::Dir => return None,
            EntryKind::File => (entry.mode() & 0o111 != 0, manifest.blob(&entry)?.as_bytes().to_vec()),
            EntryKind::Symlink => (false, manifest.symlink_target(&entry)?.to_vec()),
        };
        Some((path, what))
    });
    entries.collect()
}

/// The paths of all files of a manifest.
pub(super) fn paths(manifest: &Manifest) -> BTreeSet<RelPath> {
    content(manifest).into_keys().collect()
}

/// How a directory stands in the spec.
pub(super) struct Entry {
    /// `repo`, `commit`, `tree`.
    pub(super) fields: Map<String, Value>,
    pub(super) how: String,
    pub(super) changes: Vec<String>,
}

/// The entry for `found`, whose files differ from its commit by `changes`.
pub(super) fn entry(found: &Found, changes: Vec<String>) -> Entry {
    let dir = found.dir.display().to_string();
    let Repo { remote, head, published, trouble } = &found.repo;
    let mut fields = Map::new();
    fields.insert("repo".to_owned(), remote.clone().unwrap_or_else(|| dir.clone()).into());
    if let Some(head) = head {
        fields.insert("commit".to_owned(), head.as_str().into());
    }
    let at = |head: &str| {
        format!("commit {} of {}", &head[..12.min(head.len())], remote.as_deref().unwrap_or(&dir))
    };
    let how = match (head, trouble) {
        (Some(head), None) if found.commit.is_some() && *published && changes.is_empty() => {
            return Entry { fields, how: at(head), changes };
        }
        (Some(head), Some(trouble)) => format!("as it was found, beside {}: {trouble}", at(head)),
        (Some(_), None) if remote.is_none() => "as it was found: its repository has no remote".to_owned(),
        (Some(head), None) if changes.is_empty() => {
            format!("as it was found, {}: nobody else has that", at(head))
        }
        (Some(head), None) => format!("as it was found, changed since {}", at(head)),
        (None, Some(trouble)) => format!("as it was found: {trouble}"),
        (None, None) => "as it was found, without git".to_owned(),
    };
    if let Some(tree) = found.tree {
        let mut value = json!({ "manifest": tree.to_string(), "from": dir });
        if !changes.is_empty() {
            let more = changes.len().saturating_sub(NAMED);
            let mut named: Vec<String> = changes.iter().take(NAMED).cloned().collect();
            if more > 0 {
                named.push(format!("and {more} more"));
            }
            value["changes"] = named.into();
        }
        if head.is_some() && !published {
            value["unpublished"] = true.into();
        }
        fields.insert("tree".to_owned(), value);
    }
    Entry { fields, how, changes }
}
