//! The complete listing of a commit's tree, every name checked. Nothing but trees is read.

use cvs_store::RelPath;
use git2::{ObjectType, Oid, Repository};

use crate::source::error::SourceError;
use crate::source::event::SourceOptions;

/// More entries than any real repository has; a few kilobytes of nested trees can claim billions.
const ENTRIES: usize = 4_000_000;

/// What a commit holds, paths in tree order.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) files: Vec<TreeFile>,
    pub(super) symlinks: Vec<(RelPath, Oid)>,
    pub(super) submodules: Vec<(RelPath, Oid)>,
}

pub(super) struct TreeFile {
    pub(super) path: RelPath,
    pub(super) executable: bool,
    pub(super) oid: Oid,
}

impl Listing {
    /// The file at exactly this path.
    pub(super) fn file(&self, path: &[u8]) -> Option<Oid> {
        self.files.iter().find(|file| file.path.as_bytes() == path).map(|file| file.oid)
    }
}

/// Lists the tree of `commit`.
pub(super) fn list(
    repository: &Repository,
    url: &str,
    commit: Oid,
    options: &SourceOptions<'_>,
) -> Result<Listing, SourceError> {
    let object_error = |object: Oid| {
        move |source| SourceError::GitObject { url: url.to_owned(), object: object.to_string(), source }
    };
    let refuse = |path: &RelPath, reason| SourceError::Tree {
        url: url.to_owned(),
        commit: commit.to_string(),
        path: path.to_string(),
        reason,
    };
    let root = repository.find_commit(commit).map_err(object_error(commit))?.tree_id();
    let mut listing = Listing::default();
    let mut seen = 0;
    let mut todo = vec![(RelPath::root(), root)];
    while let Some((dir, oid)) = todo.pop() {
        options.check_cancel()?;
        let tree = repository.find_tree(oid).map_err(object_error(oid))?;
        for entry in &tree {
            let name = entry.name_bytes();
            let path = dir.join(name).map_err(|source| SourceError::TreeName {
                url: url.to_owned(),
                commit: commit.to_string(),
                source,
            })?;
            seen += 1;
            if seen > ENTRIES {
                return Err(refuse(&path, "the tree has more than four million entries"));
            }
            if name.eq_ignore_ascii_case(b".git") {
                return Err(refuse(&path, "a tree may not hold a `.git`"));
            }
            match (entry.filemode_raw() & 0o170_000, entry.kind()) {
                (0o040_000, _) => todo.push((path, entry.id())),
                (0o160_000, _) => listing.submodules.push((path, entry.id())),
                (0o120_000, _) => listing.symlinks.push((path, entry.id())),
                (0o100_000, Some(ObjectType::Blob)) => {
                    let executable = entry.filemode_raw() & 0o111 != 0;
                    listing.files.push(TreeFile { path, executable, oid: entry.id() });
                }
                _ => return Err(refuse(&path, "neither a file, a symlink, a directory nor a submodule")),
            }
        }
    }
    Ok(listing)
}
