//! What the sources tell while they work, and what their caller may set. Nothing here prints: the caller draws what
//! it likes from the events, which may come from several threads at once.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::error::SourceError;

/// One step of a source. Addresses are free of credentials, fit for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent<'a> {
    /// A git remote is being asked for its references.
    GitConnect {
        /// The remote.
        url: &'a str,
    },
    /// Objects are arriving from a git remote.
    GitReceive {
        /// The remote.
        url: &'a str,
        /// Objects received so far.
        objects: usize,
        /// Objects announced; 0 while unknown.
        total: usize,
        /// Bytes received so far.
        bytes: usize,
    },
    /// The server does not hand out the commit alone, so that history comes along.
    GitDeepen {
        /// The remote.
        url: &'a str,
        /// What is fetched in full: a reference, or all of them.
        what: &'a str,
    },
    /// Blobs of a git tree are being stored.
    GitStore {
        /// The remote.
        url: &'a str,
        /// Blobs done.
        done: usize,
        /// Blobs that had to be read at all.
        total: usize,
    },
    /// A submodule is about to be ingested.
    Submodule {
        /// Its path within the superproject.
        path: &'a str,
        /// Its remote.
        url: &'a str,
    },
    /// Bytes of a download that were on disk already.
    Resume {
        /// The address.
        url: &'a str,
        /// Where the download goes on.
        offset: u64,
    },
    /// What was on disk of a download cannot be used.
    Restart {
        /// The address.
        url: &'a str,
        /// Why it starts anew.
        reason: &'a str,
    },
    /// Bytes of one file are arriving, over HTTP or from this machine.
    Receive {
        /// The address or the path.
        url: &'a str,
        /// Bytes so far, resumed ones included.
        bytes: u64,
        /// The whole length, when it is known.
        total: Option<u64>,
    },
    /// A file was found on this machine, in the cache of another program, and taken from there.
    Found {
        /// The file.
        path: &'a str,
    },
    /// A source failed, and the next one of the list is tried.
    NextSource {
        /// Why the one before failed.
        reason: &'a str,
    },
    /// An attempt failed and will be repeated.
    Retry {
        /// The address.
        url: &'a str,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// The pause before the next.
        pause: Duration,
        /// Why it failed.
        reason: &'a str,
    },
    /// Another process downloads the same thing; this one waits for it.
    Wait {
        /// The address.
        url: &'a str,
    },
}

/// Where the events go.
pub type EventSink<'a> = &'a (dyn Fn(SourceEvent<'_>) + Sync);

/// How long the network may take, and how often it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Until a connection stands. For git remotes the first value given in a process holds for all.
    pub connect_timeout: Duration,
    /// Without a single byte arriving. For git remotes the first value given in a process holds for all.
    pub stall_timeout: Duration,
    /// Attempts in a row that bring nothing new, at least 1.
    pub attempts: u32,
    /// The pause after the first failed attempt; each further one doubles it.
    pub backoff: Duration,
    /// The longest pause, also of those that a server asks for.
    pub backoff_limit: Duration,
    /// Ranges of one file that are downloaded at once.
    pub connections: u32,
    /// Files of this size or more come in several ranges at once.
    pub split_from: u64,
    /// What a kill may cost of each range.
    pub piece: u64,
    /// Bytes a second, of all downloads of the process together.
    pub rate: Option<NonZeroU64>,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_secs(1),
            backoff_limit: Duration::from_secs(60),
            connections: 8,
            split_from: 32 << 20,
            piece: 2 << 20,
            rate: None,
        }
    }
}

/// What every source is given by its caller.
#[derive(Clone, Copy)]
pub struct SourceOptions<'a> {
    /// Hears of progress.
    pub events: EventSink<'a>,
    /// Set to true, by anyone at any time, to stop with [`SourceError::Cancelled`].
    pub cancel: &'a AtomicBool,
    /// Timeouts and retries.
    pub limits: NetworkLimits,
    /// Refuse everything that needs the network.
    pub offline: bool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Default for SourceOptions<'_> {
    fn default() -> Self {
        Self { events: &|_| {}, cancel: &NEVER, limits: NetworkLimits::default(), offline: false }
    }
}

impl SourceOptions<'_> {
    pub(super) fn event(&self, event: SourceEvent<'_>) {
        (self.events)(event);
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    pub(super) fn check_cancel(&self) -> Result<(), SourceError> {
        if self.cancelled() { Err(SourceError::Cancelled) } else { Ok(()) }
    }

    pub(super) fn check_online(&self, url: &str) -> Result<(), SourceError> {
        if self.offline { Err(SourceError::Offline { url: url.to_owned() }) } else { Ok(()) }
    }
}
