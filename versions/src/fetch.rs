//! A file from the web, once and without a store: inputs and workflows that a person names by their address. Calls
//! block; nothing is tried twice, and nothing larger than it may be is read to its end.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use url::Url;

use crate::runtime::runtime;
use crate::source::{http::is_downgrade, redact_url};

const CONNECT: Duration = Duration::from_secs(20);
/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// How often a waiting request looks at the cancel flag.
const TICK: Duration = Duration::from_millis(50);

/// Why a file did not come. Addresses are shown without what may be secret in them.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not an address of the web.
    #[error("{address:?} is no http or https address")]
    Address {
        /// The text.
        address: String,
    },
    /// No connection, or one that broke.
    #[error("cannot fetch {url}: {detail}")]
    Transfer {
        /// The address.
        url: String,
        /// The cause.
        detail: String,
    },
    /// The server refused.
    #[error("cannot fetch {url}: the server answered HTTP {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// Nothing came for a while.
    #[error("cannot fetch {url}: nothing came for {after:?}")]
    Stalled {
        /// The address.
        url: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It is larger than it may be.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// The address.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// What came could not be written.
    #[error("cannot write what {url} brings: {source}")]
    Write {
        /// The address.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// There is no network machinery to be had.
    #[error("cannot set up the network client: {source}")]
    Runtime {
        /// The cause.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

/// What was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedBytes {
    /// Bytes.
    pub size: u64,
    /// Their sha256.
    pub sha256: [u8; 32],
}

/// The address, when a text is one of the web.
pub fn web_address(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Writes the file at `url` to `to`, at most `limit` bytes of it; more is an error.
pub fn fetch(
    url: &Url,
    to: &mut dyn Write,
    limit: u64,
    cancel: &AtomicBool,
) -> Result<FetchedBytes, FetchError> {
    let runtime = runtime().map_err(|source| FetchError::Runtime { source })?;
    runtime.block_on(exchange(url, to, limit, cancel))
}

/// The same in a limited time; `None` when it is over.
pub(crate) fn fetch_within(
    url: &Url,
    to: &mut dyn Write,
    limit: u64,
    patience: Duration,
    cancel: &AtomicBool,
) -> Result<Option<FetchedBytes>, FetchError> {
    let runtime = runtime().map_err(|source| FetchError::Runtime { source })?;
    let done =
        runtime.block_on(async { tokio::time::timeout(patience, exchange(url, to, limit, cancel)).await });
    done.ok().transpose()
}

async fn exchange(
    url: &Url,
    to: &mut dyn Write,
    limit: u64,
    cancel: &AtomicBool,
) -> Result<FetchedBytes, FetchError> {
    let shown = redact_url(url);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(FetchError::Address { address: shown });
    }
    let failed =
        |error: reqwest::Error| FetchError::Transfer { url: shown.clone(), detail: innermost(&error) };
    let too_large = || FetchError::TooLarge { url: shown.clone(), limit };
    let client = client().map_err(|source| FetchError::Runtime { source })?;
    let mut response = patient(client.get(url.clone()).send(), &shown, cancel).await?.map_err(failed)?;
    if !response.status().is_success() {
        return Err(FetchError::Status { url: shown.clone(), status: response.status().as_u16() });
    }
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let (mut size, mut digest) = (0, Sha256::new());
    while let Some(chunk) = patient(response.chunk(), &shown, cancel).await?.map_err(failed)? {
        size += chunk.len() as u64;
        if size > limit {
            return Err(too_large());
        }
        digest.update(&chunk);
        to.write_all(&chunk).map_err(|source| FetchError::Write { url: shown.clone(), source })?;
    }
    Ok(FetchedBytes { size, sha256: digest.finalize().into() })
}

fn client() -> io::Result<&'static Client> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if CLIENT.get().is_none() {
        let built = Client::builder()
            .user_agent(concat!("cvs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .redirect(Policy::custom(|attempt| {
                let from = attempt.previous().last();
                match attempt.previous().len() {
                    REDIRECTS.. => attempt.error("too many redirects"),
                    _ if from.is_some_and(|from| is_downgrade(from, attempt.url())) => {
                        attempt.error("a redirect from https to http")
                    }
                    _ => attempt.follow(),
                }
            }))
            .build()
            .map_err(io::Error::other)?;
        let _ = CLIENT.set(built);
    }
    CLIENT.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Awaits `future` for as long as a stall may last, with an eye on the cancel flag.
async fn patient<T>(
    future: impl Future<Output = T>,
    url: &str,
    cancel: &AtomicBool,
) -> Result<T, FetchError> {
    let deadline = Instant::now() + STALL;
    tokio::pin!(future);
    while Instant::now() < deadline {
        if cancel.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled);
        }
        if let Ok(done) = tokio::time::timeout(TICK, &mut future).await {
            return Ok(done);
        }
    }
    Err(FetchError::Stalled { url: url.to_owned(), after: STALL })
}

/// The last of the causes, which is the one that says something; the others repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use cvs_tests::{Fault, HttpServer};

    use super::*;

    #[test]
    fn what_does_not_come_is_told_with_its_address() {
        let server = HttpServer::start();
        for path in ["/whole", "/endless", "/refused", "/silent"] {
            server.serve(path, vec![7; 1000]);
        }
        server.serve("/cut", vec![7; 500]);
        server.fault("/endless", Fault::Chunked);
        server.fault("/cut", Fault::CutAfter(100));
        server.fault("/refused", Fault::Status(403, Vec::new()));
        server.fault("/silent", Fault::Hang);
        let never = AtomicBool::new(false);
        let read = |address: &str| {
            let url = Url::parse(address).unwrap();
            fetch(&url, &mut Vec::new(), 999, &never).unwrap_err().to_string()
        };
        let whole = Url::parse(&server.url("/whole")).unwrap();
        assert_eq!(fetch(&whole, &mut Vec::new(), 1000, &never).unwrap().size, 1000);
        for (path, said) in [
            ("/whole", "URL has more than 999 bytes"),
            ("/endless", "URL has more than 999 bytes"),
            ("/refused", "cannot fetch URL: the server answered HTTP 403"),
        ] {
            assert_eq!(read(&server.url(path)), said.replace("URL", &server.url(path)));
        }
        for address in [server.url("/cut"), "http://127.0.0.1:1/x".to_owned()] {
            assert!(read(&address).starts_with(&format!("cannot fetch {address}: ")), "{}", read(&address));
        }
        assert_eq!(read("ftp://h/x"), "\"ftp://h/x\" is no http or https address");
        assert!(!read(&server.url("/refused?token=secret")).contains("secret"));

        let mut small = [0; 10];
        let error = fetch(&whole, &mut small.as_mut_slice(), 1000, &never).unwrap_err();
        assert!(matches!(error, FetchError::Write { .. }), "{error}");
        let silent = Url::parse(&server.url("/silent")).unwrap();
        let moment = Duration::from_millis(50);
        assert!(fetch_within(&silent, &mut Vec::new(), 1, moment, &never).unwrap().is_none());
        let error = fetch(&silent, &mut Vec::new(), 1, &AtomicBool::new(true)).unwrap_err();
        assert!(matches!(error, FetchError::Cancelled), "{error}");
    }
}
