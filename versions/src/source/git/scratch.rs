//! The bare repositories that a transaction fetches into, below its scratch directory and gone with it.
//!
//! ```text
//! <scratch>/git/<hash of the address>/lock          empty; flock only
//!                                    /all/          history, grown as far as was needed
//!                                    /<commit>/     one commit, shallow
//! ```
//!
//! Threads that need one address at once take turns: what the first fetched, the next finds. Reading needs no turn.
//!
//! Repositories of this machine are not copied: their objects are borrowed through `objects/info/alternates`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use git2::{Oid, Repository};

use super::location::GitUrl;
use super::remote::Remote;
use crate::source::error::{IoContext, SourceError};
use crate::source::event::{SourceEvent, SourceOptions};

/// A place for what one remote gives.
pub(super) struct Scratch<'a> {
    dir: PathBuf,
    remote: Remote<'a>,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(
        scratch_dir: &Path,
        url: &'a GitUrl,
        shown: &'a str,
        options: &'a SourceOptions<'a>,
    ) -> Self {
        let key = blake3::hash(url.transport().as_bytes()).to_hex();
        Self { dir: scratch_dir.join("git").join(&key[..16]), remote: Remote { url, shown, options } }
    }

    pub(super) fn remote(&self) -> &Remote<'a> {
        &self.remote
    }

    /// The repository that may hold the history; empty when nothing was fetched yet.
    pub(super) fn all(&self) -> Result<Repository, SourceError> {
        let _turn = self.turn()?;
        self.open("all")
    }

    /// A repository that holds `commit` (or the commit in the tag of this id), fetched as cheaply as the server
    /// allows, and the commit.
    pub(super) fn with_commit(
        &self,
        id: Oid,
        reference: Option<&str>,
    ) -> Result<(Repository, Oid), SourceError> {
        let _turn = self.turn()?;
        let all = self.open("all")?;
        if let Some(commit) = self.peel(&all, id)? {
            return Ok((all, commit));
        }
        if self.remote.url.local().is_none() {
            let shallow = self.open(&id.to_string())?;
            if let Some(commit) = self.peel(&shallow, id)? {
                return Ok((shallow, commit));
            }
            if self.fetch_shallow(&shallow, id)?
                && let Some(commit) = self.peel(&shallow, id)?
            {
                return Ok((shallow, commit));
            }
            let steps = reference.into_iter().chain(["refs/heads/*", "refs/tags/*", "refs/*"]);
            for step in steps {
                self.deepen(&all, step)?;
                if let Some(commit) = self.peel(&all, id)? {
                    return Ok((all, commit));
                }
            }
        }
        Err(SourceError::CommitMissing { url: self.remote.shown.to_owned(), commit: id.to_string() })
    }

    /// The commit that `prefix` begins, from the whole history; none when there is no such commit.
    pub(super) fn find_prefix(&self, prefix: &str) -> Result<Option<Oid>, SourceError> {
        let _turn = self.turn()?;
        let all = self.open("all")?;
        if self.remote.url.local().is_none() {
            for step in ["refs/heads/*", "refs/tags/*"] {
                self.deepen(&all, step)?;
            }
        }
        match all.find_commit_by_prefix(prefix) {
            Ok(commit) => Ok(Some(commit.id())),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) if error.code() == git2::ErrorCode::Ambiguous => Err(SourceError::AmbiguousRef {
                url: self.remote.shown.to_owned(),
                reference: prefix.to_owned(),
                candidates: vec!["several objects; give more digits".to_owned()],
                default_branch: None,
            }),
            Err(source) => Err(self.object_error(prefix, source)),
        }
    }

    fn deepen(&self, repository: &Repository, what: &str) -> Result<(), SourceError> {
        self.remote.options.event(SourceEvent::GitDeepen { url: self.remote.shown, what });
        self.remote.fetch(repository, what, 0)
    }

    /// One commit without its history: by its id where the server allows, else by a reference that points to it.
    fn fetch_shallow(&self, repository: &Repository, id: Oid) -> Result<bool, SourceError> {
        match self.remote.fetch(repository, &id.to_string(), 1) {
            Ok(()) => return Ok(true),
            // Servers that refuse say so in many ways; only a connection that failed ends the attempt.
            Err(SourceError::Git { .. } | SourceError::RepositoryNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let advertised = self.remote.list(repository)?;
        let Some(tip) = advertised.pointing_to(id) else { return Ok(false) };
        match self.remote.fetch(repository, tip, 1) {
            Ok(()) => Ok(true),
            Err(SourceError::Git { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn peel(&self, repository: &Repository, id: Oid) -> Result<Option<Oid>, SourceError> {
        let object = match repository.find_object(id, None) {
            Ok(object) => object,
            Err(error) if error.code() == git2::ErrorCode::NotFound => return Ok(None),
            Err(source) => return Err(self.object_error(&id.to_string(), source)),
        };
        let commit = object.peel_to_commit().map_err(|source| self.object_error(&id.to_string(), source))?;
        Ok(Some(commit.id()))
    }

    fn object_error(&self, object: &str, source: git2::Error) -> SourceError {
        SourceError::GitObject { url: self.remote.shown.to_owned(), object: object.to_owned(), source }
    }

    /// Waits until no other thread makes or changes a repository of this address.
    fn turn(&self) -> Result<File, SourceError> {
        fs::create_dir_all(&self.dir).at("creating", &self.dir)?;
        let path = self.dir.join("lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.at("opening", &path)?;
        file.lock().at("locking", &path)?;
        self.remote.options.check_cancel()?;
        Ok(file)
    }

    /// The caller has the turn.
    fn open(&self, name: &str) -> Result<Repository, SourceError> {
        let dir = self.dir.join(name);
        let failed = |source| self.object_error(&dir.display().to_string(), source);
        if dir.join("HEAD").exists() {
            return Repository::open_bare(&dir).map_err(failed);
        }
        fs::create_dir_all(&dir).at("creating", &dir)?;
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).external_template(false);
        let repository = Repository::init_opts(&dir, &options).map_err(failed)?;
        let Some(local) = self.remote.url.local() else { return Ok(repository) };
        // The alternate is written before the repository is opened for use: each thread opens its own.
        let info = dir.join("objects/info");
        fs::create_dir_all(&info).at("creating", &info)?;
        let alternates = info.join("alternates");
        let mut line = self.objects_of(local)?.into_os_string();
        line.push("\n");
        fs::write(&alternates, line.as_encoded_bytes()).at("writing", &alternates)?;
        Repository::open_bare(&dir).map_err(failed)
    }

    /// The object directory of a repository of this machine: bare, with a work tree, or a linked work tree.
    fn objects_of(&self, path: &Path) -> Result<PathBuf, SourceError> {
        let source = match Repository::open(path) {
            Ok(repository) => repository,
            Err(error) => {
                return Err(SourceError::RepositoryNotFound {
                    url: self.remote.shown.to_owned(),
                    detail: error.message().to_owned(),
                });
            }
        };
        let objects = source.commondir().join("objects");
        fs::canonicalize(&objects).at("opening", &objects)
    }
}
