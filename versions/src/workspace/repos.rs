//! The core and the nodes: from what a spec asks to a pin, and from a pin to content in the transaction. A pin is a
//! commit, a version of the Comfy Registry, or files that were found on some machine.

use std::io;
use std::path::Path;

use cvs_store::{Intake, ManifestId, RelPath, StoreError, TreeOptions};

use super::event::{Event, Why};
use super::fetch::Fetcher;
use crate::source::{SourceError, git, redact, registry};
use crate::spec::{LockedArchive, LockedRepo, Part, RepoUrl, Revision, TreeSpec};

impl Fetcher<'_> {
    /// What `revision` of a repository is now, and under which full name it was found there.
    pub(super) fn pin(
        &self,
        part: &Part,
        repo: &RepoUrl,
        revision: &Revision,
    ) -> Result<(LockedRepo, Option<String>), SourceError> {
        let requested = revision.requested();
        let mut locked = LockedRepo {
            repo: repo.public().into_owned(),
            requested: requested.map(str::to_owned),
            ..LockedRepo::default()
        };
        if let Some(id) = repo.registry_id() {
            let found = self.with_options(part, |options| registry::resolve(id, requested, options))?;
            locked.version = Some(found.version);
            // What signs the address runs out, and is nobody else's to have.
            locked.archive = Some(LockedArchive { url: redact(&found.url), sha256: None });
            return Ok((locked, None));
        }
        let scratch = self.transaction.scratch_dir()?;
        let found =
            self.with_options(part, |options| git::resolve(&repo.address(), requested, &scratch, options))?;
        locked.commit = Some(found.commit);
        Ok((locked, Some(found.reference)))
    }

    /// The content of what is pinned. `reference` is where a git server is asked first; `written` the repository as the
    /// spec has it, whose address may hold what opens it.
    pub(super) fn bring_repo(
        &self,
        part: &Part,
        why: &Why,
        locked: &LockedRepo,
        written: Option<&RepoUrl>,
        reference: Option<&str>,
    ) -> Result<LockedRepo, SourceError> {
        (self.events)(Event::Fetching { part, why });
        let mut locked = locked.clone();
        let (files, reused);
        if let Some(tree) = &locked.tree {
            (files, reused) = self.tree(&locked.repo, tree)?;
            locked.manifest = Some(tree.manifest);
        } else if let Some(archive) = &locked.archive {
            let brought = self.with_options(part, |options| {
                let node = RepoUrl::parse(&locked.repo).ok();
                let version = node.as_ref().and_then(RepoUrl::registry_id).zip(locked.version.as_deref());
                registry::ingest(self.transaction, &archive.url, version, archive.sha256, options)
            })?;
            (files, reused) = (brought.files, brought.reused);
            locked.archive = Some(LockedArchive { url: archive.url.clone(), sha256: Some(brought.sha256) });
            locked.manifest = Some(brought.manifest);
        } else {
            let unreadable = || SourceError::Address {
                url: locked.repo.clone(),
                reason: "the lock names a repository that cannot be read",
            };
            let known = RepoUrl::parse(&locked.repo).map_err(|_| unreadable())?;
            let repo = written.filter(|repo| repo.public() == known.public()).unwrap_or(&known);
            let commit = locked.commit.as_deref().unwrap_or_default();
            let ingest = self.with_options(part, |options| {
                git::ingest(self.transaction, &repo.address(), commit, reference, options)
            })?;
            (files, reused) = (ingest.stats.files, ingest.stats.cached);
            locked.commit = Some(ingest.commit);
            locked.manifest = Some(ingest.manifest);
        }
        (self.events)(Event::Fetched { part, files, reused });
        Ok(locked)
    }

    /// Files that were found: from the store, or from where they were found if they still are there unchanged. The
    /// commit beside them is never taken in their place.
    fn tree(&self, repo: &str, tree: &TreeSpec) -> Result<(u64, bool), SourceError> {
        let id = &tree.manifest;
        let missing =
            || SourceError::TreeMissing { repo: redact(repo), manifest: *id, from: tree.from.clone() };
        let files = |id: &ManifestId| {
            Ok::<_, SourceError>(self.store.manifest(id).map_or(0, |m| m.blobs().len() as u64))
        };
        if self.transaction.has_manifest(id)? {
            return Ok((files(id)?, true));
        }
        let Some(from) = tree.from.as_deref().filter(|from| from.is_dir()) else { return Err(missing()) };
        match self.store.manifest(id) {
            // Which files there were is known: those of them that are gone from the store are read again.
            Ok(manifest) => {
                let listed: Vec<(RelPath, cvs_store::BlobId, u64)> = manifest
                    .walk()
                    .filter_map(|(path, entry)| Some((path, manifest.blob(&entry)?, entry.size())))
                    .collect();
                for (path, blob, size) in listed {
                    if self.transaction.has_blob(&blob)? == Some(size) {
                        continue;
                    }
                    let stored = self.transaction.put_file(&from.join(path.as_path()), Intake::Copy);
                    if stored.ok().is_none_or(|stored| stored.id != blob) {
                        return Err(missing());
                    }
                }
            }
            Err(_) if self.again(from)? != Some(*id) => return Err(missing()),
            Err(_) => {}
        }
        Ok((files(id)?, false))
    }

    /// The manifest of a directory as it is now, taken as an import takes the directory of a node.
    fn again(&self, from: &Path) -> Result<Option<ManifestId>, SourceError> {
        let options = TreeOptions {
            intake: Intake::Copy,
            exclude: &crate::import::left_out_of_trees,
            progress: &|_| {},
            cancel: self.stop,
        };
        match self.transaction.put_tree(from, &options) {
            Ok((manifest, _)) => Ok(Some(manifest)),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
