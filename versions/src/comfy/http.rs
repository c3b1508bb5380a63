//! One HTTP client for all ComfyUIs. They are on this machine, so that no proxy of the environment has a say.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;
use tokio::time::Instant;

use crate::runtime::runtime;

/// How often a waiting request looks at the cancel flag.
const TICK: Duration = Duration::from_millis(50);
/// How long a connection to a server of this machine may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The client, made by the first who asks.
pub(super) fn client() -> io::Result<&'static Client> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if CLIENT.get().is_none() {
        let built = Client::builder()
            .user_agent(concat!("cvs/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .no_proxy()
            .build()
            .map_err(io::Error::other)?;
        let _ = CLIENT.set(built);
    }
    CLIENT.get().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Why a wait ended without what it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// Too long.
    TooLong,
    /// The caller asked to stop.
    Cancelled,
}

/// Awaits `future` at most so long, with an eye on the cancel flag.
pub(super) async fn patient<T>(
    future: impl Future<Output = T>,
    patience: Duration,
    cancel: &AtomicBool,
) -> Result<T, Waited> {
    let deadline = Instant::now() + patience;
    tokio::pin!(future);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Waited::Cancelled);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Waited::TooLong);
        }
        if let Ok(done) = tokio::time::timeout(TICK.min(left), &mut future).await {
            return Ok(done);
        }
    }
}

/// Whether `/system_stats` answers with success. What is not up yet is `false`, not an error; so is a cancel.
pub(super) fn is_ready(base_url: &str, patience: Duration, cancel: &AtomicBool) -> io::Result<bool> {
    let sent = client()?.get(format!("{base_url}/system_stats")).send();
    let answer = runtime()?.block_on(patient(sent, patience, cancel));
    Ok(answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success())))
}
