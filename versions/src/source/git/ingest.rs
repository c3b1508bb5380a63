//! From a commit to a manifest. Only what no earlier commit had is read: blobs are looked up by their git id first,
//! whole commits by theirs. A submodule is stored as a part of the manifest only, since no version refers to it alone;
//! the index remembers in which manifest its commit stands at which path, and from there it is taken again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cvs_store::{BlobId, EntryKind, ManifestBuilder, ManifestId, RelPath, Store, StoreError, Transaction};
use git2::{Oid, Repository};

use super::config;
use super::lfs::{self, Pointer, Wanted};
use super::location::GitUrl;
use super::scratch::Scratch;
use super::tree::{self, Listing};
use super::{GitIngest, GitStats, source_key};
use crate::source::error::SourceError;
use crate::source::event::{SourceEvent, SourceOptions};

/// Submodules within submodules; real ones reach three.
const NESTING: usize = 16;

pub(super) struct Ingest<'a> {
    pub(super) store: &'a Store,
    pub(super) transaction: &'a Transaction,
    pub(super) options: &'a SourceOptions<'a>,
}

/// One line of the manifest to be.
struct Node {
    path: RelPath,
    what: What,
}

enum What {
    Dir(u32),
    File { mode: u32, size: u64, blob: BlobId },
    Symlink(Vec<u8>),
}

/// What became of one git blob.
#[derive(Clone, Copy)]
enum Outcome {
    Stored { blob: BlobId, size: u64 },
    Pointer(Pointer),
}

/// Where a commit stands in the one that is ingested.
#[derive(Clone, Default)]
struct Position {
    /// Its path in the manifest to be.
    at: RelPath,
    /// Where it may be checked out on this machine.
    checkout: Option<PathBuf>,
    /// Its superprojects, outermost first.
    above: Vec<(String, Oid)>,
}

impl Position {
    /// The repository that has `id` checked out here, or at least has it.
    fn here(&self, id: Oid) -> Option<GitUrl> {
        let dir = self.checkout.as_ref().filter(|dir| dir.join(".git").exists())?;
        Repository::open(dir).ok()?.find_commit(id).ok()?;
        Some(GitUrl::Local(dir.clone()))
    }
}

/// What was found on the way.
#[derive(Default)]
struct Found {
    stats: GitStats,
    /// Each submodule's path in the manifest to be, and its commit.
    submodules: Vec<(RelPath, Oid)>,
}

impl Ingest<'_> {
    pub(super) fn run(
        &self,
        url: &GitUrl,
        id: Oid,
        reference: Option<&str>,
        checkout: Option<&Path>,
    ) -> Result<GitIngest, SourceError> {
        if let Some(manifest) = self.cached(id)? {
            let stats = GitStats { cached: true, ..GitStats::default() };
            return Ok(GitIngest { manifest, commit: id.to_string(), stats });
        }
        let mut found = Found::default();
        let position = Position { checkout: checkout.map(Path::to_owned), ..Position::default() };
        let (commit, nodes) = self.commit(url, id, reference, &position, &mut found)?;
        let manifest = self.put(commit, &nodes)?;
        for (path, commit) in &found.submodules {
            if let Some(key) = submodule_key(*commit, path) {
                self.store.index().put_source(&key, &manifest);
            }
        }
        Ok(GitIngest { manifest, commit: commit.to_string(), stats: found.stats })
    }

    fn cached(&self, commit: Oid) -> Result<Option<ManifestId>, SourceError> {
        self.known(&source_key(&commit.to_string()))
    }

    fn known(&self, key: &str) -> Result<Option<ManifestId>, SourceError> {
        let Some(manifest) = self.store.index().source(key) else { return Ok(None) };
        Ok(self.transaction.has_manifest(&manifest)?.then_some(manifest))
    }

    fn put(&self, commit: Oid, nodes: &[Node]) -> Result<ManifestId, SourceError> {
        let failed = |source| {
            SourceError::Store(StoreError::Manifest { context: format!("of commit {commit}"), source })
        };
        let mut builder = ManifestBuilder::new();
        for node in nodes {
            match &node.what {
                What::Dir(mode) => builder.dir(&node.path, *mode),
                What::File { mode, size, blob } => builder.file(&node.path, *mode, *size, *blob),
                What::Symlink(target) => builder.symlink(&node.path, target),
            }
            .map_err(failed)?;
        }
        let manifest = self.transaction.put_manifest(builder)?;
        self.store.index().put_source(&source_key(&commit.to_string()), &manifest);
        Ok(manifest)
    }

    /// All nodes of a commit, those of its submodules included.
    fn commit(
        &self,
        url: &GitUrl,
        id: Oid,
        reference: Option<&str>,
        position: &Position,
        found: &mut Found,
    ) -> Result<(Oid, Vec<Node>), SourceError> {
        let here = position.here(id);
        let from = here.as_ref().unwrap_or(url);
        let shown = from.shown();
        let scratch_dir = self.transaction.scratch_dir()?;
        let scratch = Scratch::new(&scratch_dir, from, &shown, self.options);
        let (repository, commit) = scratch.with_commit(id, reference)?;
        let objects = from.local().and_then(lfs::objects_of);
        let reader = Reader { ingest: self, repository: &repository, url, shown: &shown, commit, objects };
        let listing = tree::list(&repository, &shown, commit, self.options)?;
        let mut nodes = reader.files(&listing, &mut found.stats)?;
        reader.symlinks(&listing, &mut nodes)?;
        found.stats.files += nodes.len() as u64;
        reader.submodules(&listing, position, &mut nodes, found)?;
        Ok((commit, nodes))
    }

    /// The nodes of a submodule's commit; without its repository when the store has the commit from earlier.
    fn submodule(
        &self,
        url: &GitUrl,
        id: Oid,
        position: &Position,
        found: &mut Found,
    ) -> Result<Vec<Node>, SourceError> {
        if let Some(manifest) = self.cached(id)?
            && let Some(nodes) = self.nodes_below(&manifest, &RelPath::root())?
        {
            return Ok(nodes);
        }
        if let Some(key) = submodule_key(id, &position.at)
            && let Some(manifest) = self.known(&key)?
            && let Some(nodes) = self.nodes_below(&manifest, &position.at)?
        {
            return Ok(nodes);
        }
        Ok(self.commit(url, id, None, position, found)?.1)
    }

    /// What a manifest holds below a directory; none when that is not there, or the manifest is of this very
    /// transaction, and so cannot be read back before the commit.
    fn nodes_below(&self, id: &ManifestId, dir: &RelPath) -> Result<Option<Vec<Node>>, SourceError> {
        let Ok(manifest) = self.store.manifest(id) else { return Ok(None) };
        let missing = || SourceError::Store(StoreError::DamagedManifest(*id));
        let (mut nodes, mut there) = (Vec::new(), false);
        for (path, entry) in manifest.walk() {
            let Some(path) = path.strip_prefix(dir) else { continue };
            if path.is_root() {
                there = entry.kind() == EntryKind::Dir;
                continue;
            }
            let what = match entry.kind() {
                EntryKind::Dir => What::Dir(entry.mode()),
                EntryKind::File => What::File {
                    mode: entry.mode(),
                    size: entry.size(),
                    blob: manifest.blob(&entry).ok_or_else(missing)?,
                },
                EntryKind::Symlink => {
                    What::Symlink(manifest.symlink_target(&entry).ok_or_else(missing)?.to_vec())
                }
            };
            nodes.push(Node { path, what });
        }
        Ok((there || dir.is_root()).then_some(nodes))
    }

    /// Reads and stores blobs on all processors. A libgit2 repository belongs to one thread, so each opens its own.
    fn store_blobs(
        &self,
        directory: &Path,
        shown: &str,
        oids: &[Oid],
    ) -> Result<Vec<(Oid, Outcome)>, SourceError> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = Mutex::new(Vec::with_capacity(oids.len()));
        let failure = Mutex::new(None);
        let work = || -> Result<(), SourceError> {
            let repository = Repository::open_bare(directory)
                .map_err(|source| object_error(shown, directory.display(), source))?;
            let mut outcomes = Vec::new();
            while let Some(&oid) = oids.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.options.check_cancel()?;
                let blob = repository.find_blob(oid).map_err(|source| object_error(shown, oid, source))?;
                let bytes = blob.content();
                outcomes.push((
                    oid,
                    match lfs::pointer(bytes) {
                        Some(pointer) => Outcome::Pointer(pointer),
                        None => Outcome::Stored {
                            blob: self.transaction.put_bytes(bytes)?,
                            size: bytes.len() as u64,
                        },
                    },
                ));
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if done.is_multiple_of(64) || done == oids.len() {
                    let (url, total) = (shown, oids.len());
                    self.options.event(SourceEvent::GitStore { url, done, total });
                }
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).extend(outcomes);
            Ok(())
        };
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads().min(oids.len().div_ceil(16)) {
                scope.spawn(|_| {
                    if let Err(error) = work() {
                        // The others stop at their next look.
                        next.store(oids.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Under which the index knows the manifest that has a submodule's commit at `path`. A path that is no text has none:
/// two of them may look the same.
fn submodule_key(commit: Oid, path: &RelPath) -> Option<String> {
    let path = std::str::from_utf8(path.as_bytes()).ok()?;
    Some(format!("git-submodule:{commit}:{path}"))
}

/// One commit of one repository, being read.
struct Reader<'a> {
    ingest: &'a Ingest<'a>,
    repository: &'a Repository,
    /// What relative addresses in it are relative to.
    url: &'a GitUrl,
    shown: &'a str,
    commit: Oid,
    /// Where a repository of this machine keeps what LFS brought it.
    objects: Option<PathBuf>,
}

impl Reader<'_> {
    fn files(&self, listing: &Listing, stats: &mut GitStats) -> Result<Vec<Node>, SourceError> {
        let mut outcomes = self.known(listing)?;
        stats.blobs_known += outcomes.len() as u64;
        let mut unread: Vec<Oid> = Vec::new();
        let mut queued = HashSet::new();
        for file in &listing.files {
            if !outcomes.contains_key(&file.oid) && queued.insert(file.oid) {
                unread.push(file.oid);
            }
        }
        stats.blobs_read += unread.len() as u64;
        let read = self.ingest.store_blobs(self.repository.path(), self.shown, &unread)?;
        let stored: Vec<([u8; 20], BlobId)> = read
            .iter()
            .filter_map(|(oid, outcome)| match outcome {
                Outcome::Stored { blob, .. } => Some((raw(*oid)?, *blob)),
                // A pointer is read each time, so that a known git id always means the bytes as they are.
                Outcome::Pointer(_) => None,
            })
            .collect();
        self.ingest.store.index().put_git_blobs(&stored);
        outcomes.extend(read);
        let objects = self.lfs_objects(listing, &outcomes)?;
        let mut nodes = Vec::with_capacity(listing.files.len());
        for (place, file) in listing.files.iter().enumerate() {
            let (blob, size) = match outcomes.get(&file.oid) {
                Some(Outcome::Stored { blob, size }) => (*blob, *size),
                Some(Outcome::Pointer(pointer)) => match objects.get(&place) {
                    Some(blob) => {
                        stats.lfs_files += 1;
                        (*blob, pointer.size)
                    }
                    // Looks like a pointer, and nothing hands it to LFS: a file like any other.
                    None => {
                        let bytes = self.read(file.oid)?;
                        (self.ingest.transaction.put_bytes(&bytes)?, bytes.len() as u64)
                    }
                },
                None => return Err(self.object_error(file.oid)(git2::Error::from_str("it was not read"))),
            };
            let mode = if file.executable { 0o755 } else { 0o644 };
            nodes.push(Node { path: file.path.clone(), what: What::File { mode, size, blob } });
        }
        Ok(nodes)
    }

    /// The blobs that the store has by their git id, claimed.
    fn known(&self, listing: &Listing) -> Result<HashMap<Oid, Outcome>, SourceError> {
        let oids: Vec<Oid> =
            listing.files.iter().map(|f| f.oid).collect::<BTreeSet<_>>().into_iter().collect();
        let raw: Vec<[u8; 20]> = oids.iter().filter_map(|oid| raw(*oid)).collect();
        let mut known = HashMap::with_capacity(oids.len());
        for (oid, blob) in oids.iter().zip(self.ingest.store.index().git_blobs(&raw)) {
            if let Some(blob) = blob
                && let Some(size) = self.ingest.transaction.has_blob(&blob)?
            {
                known.insert(*oid, Outcome::Stored { blob, size });
            }
        }
        Ok(known)
    }

    /// What LFS pointers point to, by their place in the listing. A pointer counts where a `.gitattributes` of its
    /// directory or one above hands files to LFS; a repository may also hold pointers as plain files.
    fn lfs_objects(
        &self,
        listing: &Listing,
        outcomes: &HashMap<Oid, Outcome>,
    ) -> Result<HashMap<usize, BlobId>, SourceError> {
        let pointers: Vec<(usize, Pointer)> = listing
            .files
            .iter()
            .enumerate()
            .filter_map(|(place, file)| match outcomes.get(&file.oid) {
                Some(Outcome::Pointer(pointer)) => Some((place, *pointer)),
                _ => None,
            })
            .collect();
        if pointers.is_empty() {
            return Ok(HashMap::new());
        }
        let mut directories = Vec::new();
        for file in &listing.files {
            if file.path.file_name() == Some(b".gitattributes") && lfs::uses_lfs(&self.read(file.oid)?) {
                directories.extend(file.path.parent());
            }
        }
        let in_lfs: Vec<(usize, Pointer)> = pointers
            .into_iter()
            .filter(|(place, _)| directories.iter().any(|dir| listing.files[*place].path.starts_with(dir)))
            .collect();
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut seen = HashSet::new();
        for (place, pointer) in &in_lfs {
            if seen.insert(*pointer) {
                wanted.push(Wanted { pointer: *pointer, file: listing.files[*place].path.to_string() });
            }
        }
        let Some(first) = wanted.first() else { return Ok(HashMap::new()) };
        let mut endpoint = self.url.lfs_endpoint();
        if let Some(oid) = listing.file(b".lfsconfig") {
            let text = self.read(oid)?;
            let configured = lfs::configured_endpoint(&String::from_utf8_lossy(&text)).map_err(|reason| {
                let oid = crate::source::digest::hex(&first.pointer.sha256);
                SourceError::Lfs { url: self.shown.to_owned(), file: first.file.clone(), oid, reason }
            })?;
            endpoint = configured.or(endpoint);
        }
        let objects = self.objects.as_deref();
        let server = lfs::Server { shown: self.shown, endpoint, objects, options: self.ingest.options };
        let blobs = server.fetch(self.ingest.store, self.ingest.transaction, &wanted)?;
        Ok(in_lfs.iter().filter_map(|(place, pointer)| Some((*place, *blobs.get(pointer)?))).collect())
    }

    fn symlinks(&self, listing: &Listing, nodes: &mut Vec<Node>) -> Result<(), SourceError> {
        for (path, oid) in &listing.symlinks {
            let target = self.read(*oid)?;
            let reason = match &*target {
                [] => "a symlink without a target",
                bytes if bytes.contains(&0) => "a symlink whose target holds a NUL byte",
                bytes if bytes.len() > 4095 => "a symlink whose target is longer than 4095 bytes",
                _ => {
                    nodes.push(Node { path: path.clone(), what: What::Symlink(target) });
                    continue;
                }
            };
            let (url, commit) = (self.shown.to_owned(), self.commit.to_string());
            return Err(SourceError::Tree { url, commit, path: path.to_string(), reason });
        }
        Ok(())
    }

    fn submodules(
        &self,
        listing: &Listing,
        position: &Position,
        nodes: &mut Vec<Node>,
        found: &mut Found,
    ) -> Result<(), SourceError> {
        if listing.submodules.is_empty() {
            return Ok(());
        }
        let text = listing.file(b".gitmodules").map(|oid| self.read(oid)).transpose()?;
        let settings = config::parse(&String::from_utf8_lossy(text.as_deref().unwrap_or_default()));
        let mut above = position.above.clone();
        above.push((self.url.transport(), self.commit));
        let mut inside = Position { above, ..Position::default() };
        for (path, id) in &listing.submodules {
            let refuse = |reason: String| SourceError::Submodule {
                url: self.shown.to_owned(),
                commit: self.commit.to_string(),
                path: path.to_string(),
                reason,
            };
            let Some(address) = config::submodule_url(&settings, &path.to_string()) else {
                return Err(refuse(match text {
                    Some(_) => "`.gitmodules` gives no url for it".to_owned(),
                    None => "the commit has no `.gitmodules` that gives its url".to_owned(),
                }));
            };
            let target = self.url.submodule(address).map_err(|error| refuse(error.to_string()))?;
            if inside.above.contains(&(target.transport(), *id)) {
                return Err(refuse("it contains itself".to_owned()));
            }
            if inside.above.len() >= NESTING {
                return Err(refuse(format!("submodules are nested more than {NESTING} deep")));
            }
            let bad_path = |source| SourceError::TreeName {
                url: self.shown.to_owned(),
                commit: self.commit.to_string(),
                source,
            };
            inside.at = position.at.join_path(path).map_err(bad_path)?;
            inside.checkout = position.checkout.as_ref().map(|dir| dir.join(path.as_path()));
            let name = path.to_string();
            self.ingest.options.event(SourceEvent::Submodule { path: &name, url: &target.shown() });
            found.stats.submodules += 1;
            found.submodules.push((inside.at.clone(), *id));
            let inner = self.ingest.submodule(&target, *id, &inside, found).map_err(|error| match error {
                SourceError::Cancelled => SourceError::Cancelled,
                error => SourceError::InSubmodule {
                    url: self.shown.to_owned(),
                    path: name.clone(),
                    source: Box::new(error),
                },
            })?;
            nodes.push(Node { path: path.clone(), what: What::Dir(0o755) });
            for Node { path: below, what } in inner {
                let path = path.join_path(&below).map_err(bad_path)?;
                nodes.push(Node { path, what });
            }
        }
        Ok(())
    }

    fn read(&self, oid: Oid) -> Result<Vec<u8>, SourceError> {
        let blob = self.repository.find_blob(oid).map_err(self.object_error(oid))?;
        Ok(blob.content().to_vec())
    }

    fn object_error(&self, oid: Oid) -> impl Fn(git2::Error) -> SourceError + '_ {
        move |source| object_error(self.shown, oid, source)
    }
}

fn object_error(shown: &str, object: impl std::fmt::Display, source: git2::Error) -> SourceError {
    SourceError::GitObject { url: shown.to_owned(), object: object.to_string(), source }
}

fn raw(oid: Oid) -> Option<[u8; 20]> {
    oid.as_bytes().try_into().ok()
}
