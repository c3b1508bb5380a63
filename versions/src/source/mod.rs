//! Where the bytes of a version come from: git repositories, HTTP servers, hubs, files of this machine.
//!
//! Each source brings its bytes into a [`cvs_store::Transaction`] and verifies them there; nothing is visible in the
//! store before the caller commits. Work in progress lives in the transaction's scratch directory, and for downloads
//! that shall outlive it, below `staging/partial`. Sources block their thread, tell what they do by [`SourceEvent`],
//! and stop when the cancel flag of [`SourceOptions`] is set. They never print.

#[doc(hidden)]
pub mod answers;
pub mod archive;
pub(crate) mod civitai;
mod digest;
mod error;
mod event;
pub mod git;
mod hosts;
pub mod http;
pub(crate) mod hub;
pub mod local;
pub(crate) mod object;
pub(crate) mod redact;
pub mod registry;
#[cfg(test)]
mod test_server;

pub(crate) use self::redact::{
    public_text, redact, redact_url, redact_words, without_secrets, without_secrets_in,
};

pub use self::digest::Expected;
pub use self::digest::hex;
pub(crate) use self::digest::unhex;
pub use self::error::SourceError;
pub use self::event::{EventSink, NetworkLimits, SourceEvent, SourceOptions};
pub(crate) use self::hosts::Hosts;
