//! Real repositories, made by git, served by `git daemon`, by `git http-backend` or from disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use cvs_store::{EntryKind, Store};
use cvs_tests::{GitDaemon, Wants};

use super::*;
use crate::source::test_server::{Reply, Request};

/// A directory with repositories and a store.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
}

/// Nobody who keeps anything alive.
struct NoRoots;

impl cvs_store::RootSource for NoRoots {
    fn roots(&self) -> Result<Vec<cvs_store::RootRef>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Vec::new())
    }
}

/// A manifest as lines of `mode path = content`.
pub(super) type Lines = BTreeMap<String, String>;

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        fs::create_dir(dir.path().join("repos")).unwrap();
        Self { dir, store }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("repos").join(name)
    }

    pub(super) fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// Runs git in the repository, free of the person's own configuration.
    pub(super) fn git(&self, name: &str, args: &[&str]) -> String {
        self.git_with(name, args, b"")
    }

    pub(super) fn git_with(&self, name: &str, args: &[&str], input: &[u8]) -> String {
        let mut child = Command::new("git")
            .args(["-c", "protocol.file.allow=always", "-c", "core.protectHFS=false", "-C"])
            .arg(self.path(name))
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "t")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "t@localhost")))
            .env("GIT_ALLOW_PROTOCOL", "file:git:http")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(super) fn init(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
        self.git(name, &["init", "-q", "-b", "main"]);
    }

    pub(super) fn write(&self, name: &str, path: &str, content: &[u8]) {
        let path = self.path(name).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Commits all that lies in the work tree.
    pub(super) fn commit(&self, name: &str) -> String {
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "--allow-empty", "-m", "c"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    /// A repository with one file and as many commits.
    pub(super) fn history(&self, name: &str, commits: usize) -> Vec<String> {
        self.init(name);
        (0..commits)
            .map(|i| {
                self.write(name, "file", format!("{i}\n").as_bytes());
                self.commit(name)
            })
            .collect()
    }

    /// A commit of exactly these tree lines (`mode type id<TAB>name`), which git itself would not make.
    pub(super) fn raw_commit(&self, name: &str, tree: &str) -> String {
        let tree = self.git_with(name, &["mktree", "--missing"], tree.as_bytes());
        let commit = self.git(name, &["commit-tree", &tree, "-m", "raw"]);
        self.git(name, &["update-ref", "refs/heads/raw", &commit]);
        commit
    }

    /// How many there are in the store.
    pub(super) fn manifests(&self) -> u64 {
        let plan = cvs_store::Gc::new(&self.store, &NoRoots, Duration::ZERO).plan().unwrap();
        plan.garbage().filter(|(name, _)| name.starts_with("manifest/")).count() as u64
    }

    pub(super) fn ingest(&self, url: &str, commit: &str) -> Result<(Lines, GitStats), SourceError> {
        self.ingest_with(url, commit, None, &SourceOptions::default())
    }

    pub(super) fn ingest_with(
        &self,
        url: &str,
        commit: &str,
        reference: Option<&str>,
        options: &SourceOptions<'_>,
    ) -> Result<(Lines, GitStats), SourceError> {
        self.brought(|transaction| ingest(transaction, url, commit, reference, options))
    }

    /// What `bring` brings, read back.
    pub(super) fn brought(
        &self,
        bring: impl FnOnce(&Transaction) -> Result<GitIngest, SourceError>,
    ) -> Result<(Lines, GitStats), SourceError> {
        let transaction = self.store.begin("test").unwrap();
        let found = bring(&transaction)?;
        transaction.commit().unwrap();
        let manifest = self.store.manifest(&found.manifest).unwrap();
        let lines = manifest
            .walk()
            .filter(|(_, entry)| entry.kind() != EntryKind::Dir)
            .map(|(path, entry)| match entry.kind() {
                EntryKind::Symlink => {
                    let target = manifest.symlink_target(&entry).unwrap();
                    (format!("link {path}"), String::from_utf8_lossy(target).into_owned())
                }
                _ => {
                    let blob = manifest.blob(&entry).unwrap();
                    let bytes = fs::read(self.store.blob_path(&blob)).unwrap();
                    assert_eq!(bytes.len() as u64, entry.size());
                    (format!("{:o} {path}", entry.mode()), String::from_utf8_lossy(&bytes).into_owned())
                }
            })
            .collect();
        Ok((lines, found.stats))
    }

    pub(super) fn resolve(&self, url: &str, reference: Option<&str>) -> Result<ResolvedCommit, SourceError> {
        let transaction = self.store.begin("test").unwrap();
        resolve(url, reference, &transaction.scratch_dir().unwrap(), &SourceOptions::default())
    }
}

pub(super) fn lines(all: &[(&str, &str)]) -> Lines {
    all.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

/// `git daemon` over a world's repositories.
pub(super) struct Daemon(GitDaemon);

impl Daemon {
    pub(super) fn start(world: &World) -> Self {
        Self(GitDaemon::start(&world.dir.path().join("repos"), Wants::Advertised))
    }

    pub(super) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.0.base())
    }
}

/// Answers as `git http-backend` does.
pub(super) fn http_backend(root: PathBuf) -> impl Fn(&Request) -> Reply + Send + Sync {
    move |request| {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut child = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", &request.method)
            .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&request.body).unwrap();
        let output = child.wait_with_output().unwrap().stdout;
        let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
        let mut reply = Reply::new(200, output.get(end + 4..).unwrap_or_default());
        for line in String::from_utf8_lossy(&output[..end]).lines() {
            match line.split_once(": ") {
                Some(("Status", status)) => reply.status = status[..3].parse().unwrap(),
                Some((name, value)) => reply = reply.with(name, value),
                None => {}
            }
        }
        reply
    }
}
