//! Files of the Hugging Face hub. A HEAD request tells the commit that a revision names now, the size, and for large
//! files the sha256, before a byte is downloaded; so the store, and the caches that other programs left on this
//! machine (`hub/cache.rs`), are asked first. What is downloaded is asked for by its commit.
//!
//! `X-Linked-Etag` is the sha256 in quotes, `X-Linked-Size` the size, of files in LFS or Xet; `X-Repo-Commit` the
//! commit. A file that lies in git itself has its git SHA-1 for an ETag, which is no sha256.
//! (<https://huggingface.co/docs/hub>, and `get_hf_file_metadata` of huggingface_hub.)

mod cache;

use cvs_store::{Store, Transaction};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap};
use url::Url;

use self::cache::Content;
use super::digest::{Expected, hex, unhex};
use super::error::SourceError;
use super::event::SourceOptions;
use super::hosts::Hosts;
use super::http::{self, FetchedFile, HttpRequest};
use super::redact::redact_url;
use crate::spec::{HubFile, HubKind, ModelSource};

/// A file, and the commit that it was found at; none where nobody had to be asked.
pub(crate) struct Found {
    pub(crate) file: FetchedFile,
    pub(crate) commit: Option<String>,
}

/// The file that a web address names, where it is one of the hub that the environment names.
pub(crate) fn of_url(url: &Url, hosts: &Hosts) -> Option<HubFile> {
    let base = hosts.hub.base.path().trim_end_matches('/');
    let path = url.path().strip_prefix(base).filter(|_| hosts.hub.owns(url))?;
    match ModelSource::parse(&format!("https://huggingface.co{path}")) {
        Ok(ModelSource::Hub(file)) => Some(file),
        _ => None,
    }
}

/// Brings a file into `transaction`. `pinned` is the commit that an earlier lock found its revision at.
pub(crate) fn fetch(
    store: &Store,
    transaction: &Transaction,
    file: &HubFile,
    pinned: Option<&str>,
    expected: &Expected,
    hosts: &Hosts,
    options: &SourceOptions<'_>,
) -> Result<Found, SourceError> {
    let revision = pinned.unwrap_or(&file.revision);
    let url = address(hosts, file, revision);
    let shown = redact_url(&url);
    let from_cache = |content: &Content, commit: Option<String>| -> Result<Option<Found>, SourceError> {
        let found = cache::take(store, transaction, file, content, expected, hosts, options)?;
        Ok(found.map(|found| Found { file: found, commit }))
    };
    if let Some(sha256) = expected.sha256
        && let Some(found) = from_cache(&Content::Sha256(sha256), pinned.map(str::to_owned))?
    {
        return Ok(found);
    }
    if options.offline
        && let Some((commit, content)) = cache::look_up(file, revision, hosts)
        && let Some(found) = from_cache(&content, Some(commit))?
    {
        return Ok(found);
    }
    options.check_online(&shown)?;
    let facts = ask(&url, file, hosts, options)?;
    let expected = facts.expected(expected, &shown)?;
    if let Some(content) = &facts.content
        && let Some(found) = cache::take(store, transaction, file, content, &expected, hosts, options)?
    {
        return Ok(Found { file: found, commit: facts.commit });
    }
    let url = facts.commit.as_deref().map_or(url, |commit| address(hosts, file, commit));
    let headers = hosts.hub.headers(&url)?;
    let request = HttpRequest { url, headers, expected };
    let found = http::fetch(store, transaction, &request, options)?;
    Ok(Found { file: found, commit: facts.commit })
}

fn prefix(kind: HubKind) -> Option<&'static str> {
    match kind {
        HubKind::Model => None,
        HubKind::Dataset => Some("datasets"),
        HubKind::Space => Some("spaces"),
    }
}

fn address(hosts: &Hosts, file: &HubFile, revision: &str) -> Url {
    let repo = prefix(file.kind).into_iter().chain(file.repo.split('/'));
    hosts.hub.at(repo.chain(["resolve", revision]).chain(file.path.split('/')))
}

/// The page of a repository, where a person accepts its conditions.
fn page(hosts: &Hosts, file: &HubFile) -> String {
    redact_url(&hosts.hub.at(prefix(file.kind).into_iter().chain(file.repo.split('/'))))
}

/// What the hub says of a file.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    commit: Option<String>,
    size: Option<u64>,
    content: Option<Content>,
}

impl Facts {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = |text: &str| text.trim().trim_start_matches("W/").trim_matches('"').to_owned();
        let linked = text("x-linked-etag").map(tag).and_then(|tag| unhex(&tag)).map(Content::Sha256);
        let content = linked.or_else(|| {
            let tag = tag(text(ETAG.as_str())?);
            unhex(&tag).map(Content::Git).or_else(|| unhex(&tag).map(Content::Sha256))
        });
        // The length of a redirect is that of its own text.
        let is_linked = headers.contains_key("x-linked-etag");
        let length = text(CONTENT_LENGTH.as_str()).filter(|_| !is_linked);
        Self {
            commit: text("x-repo-commit").filter(|commit| unhex::<20>(commit).is_some()).map(str::to_owned),
            size: text("x-linked-size").or(length).and_then(|size| size.parse().ok()),
            content,
        }
    }

    /// What is expected and what the hub says, as one. A difference is told now rather than after the download.
    fn expected(&self, expected: &Expected, subject: &str) -> Result<Expected, SourceError> {
        let mut all = *expected;
        if let Some(size) = self.size {
            expected.verify_size(size, subject)?;
            all.size = Some(size);
        }
        if let Some(Content::Sha256(found)) = self.content {
            match expected.sha256 {
                Some(sha256) if sha256 != found => {
                    return Err(SourceError::Checksum {
                        subject: subject.to_owned(),
                        algorithm: "sha256",
                        expected: hex(&sha256),
                        found: hex(&found),
                    });
                }
                _ => all.sha256 = Some(found),
            }
        }
        Ok(all)
    }
}

/// What is expected of a file after these headers. Fuzzing enters here.
pub(super) fn expected_of(headers: &HeaderMap, expected: &Expected) -> Result<Expected, SourceError> {
    Facts::of(headers).expected(expected, "a file")
}

/// Asks the hub, without following where it sends us for the bytes.
fn ask(url: &Url, file: &HubFile, hosts: &Hosts, options: &SourceOptions<'_>) -> Result<Facts, SourceError> {
    let headers = hosts.hub.headers(url)?;
    let (status, answer) = http::head(url, &headers, options)?;
    let redirected = status.is_redirection() && answer.contains_key("x-linked-etag");
    if status.is_success() || redirected {
        return Ok(Facts::of(&answer));
    }
    let code = answer.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
    let (shown, status_code) = (redact_url(url), status.as_u16());
    Err(match (status, code) {
        (_, "EntryNotFound") => missing(shown, format!("{} has no file {}", file.repo, file.path)),
        (_, "RevisionNotFound") => missing(shown, format!("{} has no revision {}", file.repo, file.revision)),
        // To who is not let in, the hub does not say whether there is such a repository.
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => SourceError::Closed {
            url: shown,
            status: status_code,
            page: page(hosts, file),
            gated: code == "GatedRepo",
            variable: hosts.hub.variable,
            sent: hosts.hub.has_token(),
        },
        (_, "RepoNotFound") => missing(shown, format!("there is no repository {}", file.repo)),
        (StatusCode::NOT_FOUND, _) => SourceError::HttpNotFound { url: shown, status: status_code },
        _ => SourceError::HttpStatus { url: shown, status: status_code },
    })
}

fn missing(url: String, what: String) -> SourceError {
    SourceError::NoSuchFile { url, what }
}

#[cfg(test)]
mod tests;
