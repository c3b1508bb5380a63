//! Why bytes could not be brought. Every variant names the address or file it concerns; addresses are free of
//! credentials, because errors end up in logs and bug reports.

use std::path::PathBuf;
use std::time::Duration;

use cvs_store::{ManifestId, PathError, StoreError};

/// A source failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The caller's cancel flag was set.
    #[error("cancelled")]
    Cancelled,
    /// The network is needed and not allowed.
    #[error("{url} is not in the store, and going offline forbids to fetch it")]
    Offline {
        /// What would have been asked.
        url: String,
    },
    /// The text is no address that this source takes.
    #[error("{url}: {reason}")]
    Address {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file outside the store failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// The call that failed.
        operation: &'static str,
        /// Its object.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),

    /// The threads and the client that all HTTP needs could not be started.
    #[error("starting the network client: {source}")]
    Runtime {
        /// What the system said.
        source: std::io::Error,
    },
    /// No connection to the host.
    #[error("{host} is not reachable ({detail})")]
    Unreachable {
        /// The host, or the whole address where it has none.
        host: String,
        /// What the transport said.
        detail: String,
    },
    /// The host accepted a connection and then fell silent.
    #[error("{url}: nothing arrived for {} s", stalled.as_secs_f32())]
    Stalled {
        /// The address.
        url: String,
        /// How long nothing came.
        stalled: Duration,
    },
    /// The remote has no such repository, or hides it.
    #[error("{url}: repository not found or private ({detail})")]
    RepositoryNotFound {
        /// The remote.
        url: String,
        /// What the transport said.
        detail: String,
    },
    /// The remote wants credentials that nobody offered.
    #[error(
        "{url}: access refused; the repository is private or does not exist, and neither the ssh agent, the default keys nor a git credential helper opened it ({detail})"
    )]
    GitAccess {
        /// The remote.
        url: String,
        /// What the transport said.
        detail: String,
    },
    /// The transfer failed in another way.
    #[error("{operation} {url}: {}", source.message())]
    Git {
        /// What was being done.
        operation: &'static str,
        /// The remote.
        url: String,
        /// What libgit2 said.
        source: git2::Error,
    },
    /// The remote has no commits.
    #[error("{url}: the repository is empty")]
    EmptyRepository {
        /// The remote.
        url: String,
    },
    /// No branch, tag or commit of this name.
    #[error("{url} has no branch, tag or commit `{reference}`{}", hint(near, default_branch.as_deref()))]
    UnknownRef {
        /// The remote.
        url: String,
        /// What was asked for.
        reference: String,
        /// Names that look alike, nearest first.
        near: Vec<String>,
        /// The branch that HEAD points to.
        default_branch: Option<String>,
    },
    /// More than one thing of this name.
    #[error("{url}: `{reference}` is ambiguous, it could be {}{}", candidates.join(" or "), hint(&[], default_branch.as_deref()))]
    AmbiguousRef {
        /// The remote.
        url: String,
        /// What was asked for.
        reference: String,
        /// What it could mean.
        candidates: Vec<String>,
        /// The branch that HEAD points to.
        default_branch: Option<String>,
    },
    /// The commit is in no branch or tag of the remote.
    #[error("{url} has no commit {commit}")]
    CommitMissing {
        /// The remote.
        url: String,
        /// The full commit id.
        commit: String,
    },
    /// An object of a fetched repository cannot be read.
    #[error("reading {object} of {url}: {}", source.message())]
    GitObject {
        /// The remote.
        url: String,
        /// The object.
        object: String,
        /// What libgit2 said.
        source: git2::Error,
    },
    /// A tree of the commit holds a name that no checkout may have.
    #[error("{url} at {commit}: the tree holds {source}")]
    TreeName {
        /// The remote.
        url: String,
        /// The full commit id.
        commit: String,
        /// The name and why it is refused.
        source: PathError,
    },
    /// A tree of the commit holds something else that no checkout may have.
    #[error("{url} at {commit}: `{path}`: {reason}")]
    Tree {
        /// The remote.
        url: String,
        /// The full commit id.
        commit: String,
        /// The entry.
        path: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A submodule cannot be located, or may not be followed.
    #[error("submodule `{path}` of {url} at {commit}: {reason}")]
    Submodule {
        /// The superproject.
        url: String,
        /// Its commit.
        commit: String,
        /// The submodule's path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A submodule was located and failed.
    #[error("submodule `{path}` of {url}: {source}")]
    InSubmodule {
        /// The superproject.
        url: String,
        /// The submodule's path.
        path: String,
        /// What failed there.
        source: Box<SourceError>,
    },
    /// Files of a commit live in Git LFS and cannot be brought.
    #[error("{url}: `{file}` is kept in Git LFS ({oid}): {reason}")]
    Lfs {
        /// The remote.
        url: String,
        /// The first file concerned.
        file: String,
        /// Its sha256.
        oid: String,
        /// Why it cannot be brought.
        reason: String,
    },
    /// The download of a Git LFS object failed.
    #[error("{url}: `{file}` is kept in Git LFS: {source}")]
    LfsDownload {
        /// The remote.
        url: String,
        /// The file concerned.
        file: String,
        /// What failed.
        source: Box<SourceError>,
    },

    /// The Registry has no such node, or not that version of it.
    #[error("{registry} has no node `{id}`{}", version.as_ref().map(|version| format!(" of version {version}")).unwrap_or_default())]
    UnknownNode {
        /// The id.
        id: String,
        /// The version, where one was asked for.
        version: Option<String>,
        /// The Registry.
        registry: String,
    },
    /// An archive holds what no archive may, or cannot be read.
    #[error("{url}: the archive is refused: {}{reason}", if entry.is_empty() { String::new() } else { format!("`{entry}`: ") })]
    Archive {
        /// The address.
        url: String,
        /// The entry; empty for the archive as a whole.
        entry: String,
        /// Why.
        reason: String,
    },
    /// Files that were found on some machine, which only it has.
    #[error(
        "{repo}: its files were taken as they were found{}, and they are not in this store (manifest {manifest})",
        from.as_ref().map(|from| format!(" in {}", from.display())).unwrap_or_default()
    )]
    TreeMissing {
        /// The repository beside them.
        repo: String,
        /// They.
        manifest: ManifestId,
        /// Where they were found.
        from: Option<PathBuf>,
    },

    /// The server has no such file.
    #[error("{url}: not found (HTTP {status})")]
    HttpNotFound {
        /// The address.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// The server does not let us in.
    #[error("{url}: access refused (HTTP {status}); it may need a token, or the acceptance of a licence")]
    HttpAccess {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// A hub does not let us in.
    #[error("{url}: access refused (HTTP {status}){}; {}", if *gated { ": its conditions are to be accepted first" } else { "" }, if *sent { "the token that was sent does not open it" } else { "no token was sent" })]
    Closed {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The page about it, where its conditions are accepted.
        page: String,
        /// The hub says that there are conditions to accept.
        gated: bool,
        /// The variable that a token is taken from.
        variable: &'static str,
        /// A token was sent.
        sent: bool,
    },
    /// A hub has no such thing.
    #[error("{url}: {what}")]
    NoSuchFile {
        /// The address that was asked.
        url: String,
        /// What it does not have.
        what: String,
    },
    /// A model version has several files, and nothing says which.
    #[error("{url}: version {version} has {}{}", if files.is_empty() { "no file" } else { "no one file that is meant; its files are" }, list(files))]
    Choice {
        /// The address that was asked.
        url: String,
        /// The model version.
        version: u64,
        /// Its files, with what chooses them.
        files: Vec<String>,
    },
    /// No source of several has it.
    #[error("none of its {} sources has it{}", failures.len(), list(failures))]
    Mirrors {
        /// Why each failed, in the order in which they were tried.
        failures: Vec<SourceError>,
    },
    /// The environment's settings for buckets do not do.
    #[error("{url}: {detail}")]
    Bucket {
        /// The object.
        url: String,
        /// What the client says.
        detail: String,
    },
    /// Nothing that opens a bucket was found.
    #[error("no credentials for {url}: {detail}")]
    BucketCredentials {
        /// The object.
        url: String,
        /// The variables that may hold them, and what was tried.
        detail: String,
    },
    /// A variable that should hold the address of a hub holds something else.
    #[error("{variable} is {value:?}, and must be an http or https address")]
    Endpoint {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// A token cannot be sent.
    #[error("the token in {from} has characters that no token has")]
    Token {
        /// The variable or file.
        from: String,
    },
    /// Any other status that is not the file.
    #[error("{url}: the server answered HTTP {status}")]
    HttpStatus {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// The exchange broke.
    #[error("{url}: {detail}")]
    HttpTransfer {
        /// The address.
        url: String,
        /// The chain of causes.
        detail: String,
    },
    /// The server's answer is not what HTTP or the protocol above it allows.
    #[error("{url}: unusable answer: {reason}")]
    HttpAnswer {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The connection ended before all bytes came, in every attempt.
    #[error("{url}: the connection ended after {received} of {expected} bytes")]
    Truncated {
        /// The address.
        url: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The bytes are not those that were promised.
    #[error("{subject}: {algorithm} mismatch\n  expected {expected}\n  found    {found}")]
    Checksum {
        /// The address or path.
        subject: String,
        /// `sha256` or `md5`.
        algorithm: &'static str,
        /// Lower-case hexadecimal.
        expected: String,
        /// Lower-case hexadecimal.
        found: String,
    },
    /// The size is not the one that was promised.
    #[error("{subject}: size mismatch: expected {expected} bytes, found {found}")]
    Size {
        /// The address or path.
        subject: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// No room.
    #[error("{subject}: no room in {}: {needed} bytes more are needed, {available} are free", directory.display())]
    DiskFull {
        /// The address.
        subject: String,
        /// Where it was to be written.
        directory: PathBuf,
        /// Bytes still to come; what was tried to write where the length is unknown.
        needed: u64,
        /// Bytes free for us.
        available: u64,
    },
    /// The file was written to while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A model must be a regular file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}

fn hint(near: &[String], default_branch: Option<&str>) -> String {
    let mut text = String::new();
    if !near.is_empty() {
        text += &format!("; similar: {}", near.join(", "));
    }
    if let Some(branch) = default_branch {
        text += &format!("; the default branch is `{branch}`");
    }
    text
}

/// One line each.
fn list(items: &[impl std::fmt::Display]) -> String {
    items.iter().map(|item| format!("\n  {}", item.to_string().replace('\n', "\n  "))).collect()
}

/// Names the call and its object in an [`SourceError::Io`].
pub(super) trait IoContext<T> {
    fn at(self, operation: &'static str, path: &std::path::Path) -> Result<T, SourceError>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: &std::path::Path) -> Result<T, SourceError> {
        self.map_err(|error| SourceError::Io { operation, path: path.to_owned(), source: error.into() })
    }
}
