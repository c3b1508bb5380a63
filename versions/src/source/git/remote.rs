//! Talking to a git remote: connecting, listing, fetching, and saying in plain words what went wrong.

use git2::{
    AutotagOption, Direction, ErrorClass, ErrorCode, FetchOptions, ProxyOptions, RemoteCallbacks, Repository,
};

use super::credentials::Credentials;
use super::location::GitUrl;
use super::reference::{Advertised, RemoteRef};
use super::sys;
use crate::source::error::SourceError;
use crate::source::event::{SourceEvent, SourceOptions};

/// Where fetched tips are put in the scratch repository.
const TIPS: &str = "refs/cvs";

/// One remote, spoken to through a scratch repository.
pub(super) struct Remote<'a> {
    pub(super) url: &'a GitUrl,
    pub(super) shown: &'a str,
    pub(super) options: &'a SourceOptions<'a>,
}

impl Remote<'_> {
    /// What the remote advertises.
    pub(super) fn list(&self, repository: &Repository) -> Result<Advertised, SourceError> {
        self.prepare()?;
        self.options.event(SourceEvent::GitConnect { url: self.shown });
        let describe = |error| self.describe("listing the references of", error);
        let mut remote = repository.remote_anonymous(&self.url.transport()).map_err(describe)?;
        let connection =
            remote.connect_auth(Direction::Fetch, Some(self.callbacks()), Some(proxy())).map_err(describe)?;
        let mut advertised = Advertised::default();
        for head in connection.list().map_err(describe)? {
            if head.name() == "HEAD" {
                advertised.head = head.symref_target().map(str::to_owned);
            }
            advertised.refs.push(RemoteRef { name: head.name().to_owned(), oid: head.oid() });
        }
        if advertised.head.is_none() {
            let guess = connection.default_branch().ok();
            advertised.head = guess.and_then(|name| name.as_str().ok().map(str::to_owned));
        }
        Ok(advertised)
    }

    /// Fetches `source` (a reference, a pattern or an object id) with history of `depth`, 0 for all of it.
    pub(super) fn fetch(&self, repository: &Repository, source: &str, depth: i32) -> Result<(), SourceError> {
        self.prepare()?;
        let describe = |error| self.describe("fetching from", error);
        let mut remote = repository.remote_anonymous(&self.url.transport()).map_err(describe)?;
        let tip = source.strip_prefix("refs/").unwrap_or(source);
        let mut options = FetchOptions::new();
        options
            .depth(depth)
            .download_tags(AutotagOption::None)
            .update_fetchhead(false)
            .proxy_options(proxy())
            .remote_callbacks(self.callbacks());
        remote.fetch(&[format!("+{source}:{TIPS}/{tip}")], Some(&mut options), None).map_err(describe)
    }

    fn prepare(&self) -> Result<(), SourceError> {
        self.options.check_cancel()?;
        if self.url.local().is_none() {
            self.options.check_online(self.shown)?;
        }
        sys::set_timeouts(&self.options.limits);
        Ok(())
    }

    fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut credentials = Credentials::new();
        let mut callbacks = RemoteCallbacks::new();
        callbacks.credentials(move |url, username, allowed| credentials.next(url, username, allowed));
        callbacks.sideband_progress(|_| !self.options.cancelled());
        callbacks.transfer_progress(|progress| {
            self.options.event(SourceEvent::GitReceive {
                url: self.shown,
                objects: progress.received_objects(),
                total: progress.total_objects(),
                bytes: progress.received_bytes(),
            });
            !self.options.cancelled()
        });
        callbacks
    }

    /// libgit2 tells by text what its codes do not: the words below are those of its transports (1.9).
    pub(super) fn describe(&self, operation: &'static str, error: git2::Error) -> SourceError {
        if self.options.cancelled() {
            return SourceError::Cancelled;
        }
        let url = self.shown.to_owned();
        let detail = error.message().to_owned();
        let says = |words: &[&str]| {
            let text = detail.to_ascii_lowercase();
            words.iter().any(|word| text.contains(word))
        };
        if error.code() == ErrorCode::Auth
            || says(&["authentication required", "status code: 401", "status code: 403", "permission denied"])
            || (error.class() == ErrorClass::Ssh && says(&["authenticat", "username does not match"]))
        {
            return SourceError::GitAccess { url, detail };
        }
        if says(&["status code: 404", "repository not found", "not found", "not exported", "does not appear"])
            || (self.url.local().is_some() && error.code() == ErrorCode::NotFound)
        {
            return SourceError::RepositoryNotFound { url, detail };
        }
        if says(&["failed to resolve", "failed to connect", "could not connect"]) {
            return SourceError::Unreachable { host: self.url.host(), detail };
        }
        if error.code() == ErrorCode::Timeout || says(&["timed out", "timeout"]) {
            return SourceError::Stalled { url, stalled: self.options.limits.stall_timeout };
        }
        SourceError::Git { operation, url, source: error }
    }
}

fn proxy<'a>() -> ProxyOptions<'a> {
    let mut options = ProxyOptions::new();
    options.auto();
    options
}
