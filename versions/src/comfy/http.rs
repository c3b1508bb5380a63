//! One HTTP client for all ComfyUIs. They are on this machine, so that no proxy of the environment has a say.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;

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

/// Whether `/system_stats` answers with success. What is not up yet is `false`, not an error; so is a cancel.
pub(super) fn is_ready(base_url: &str, patience: Duration, cancel: &AtomicBool) -> io::Result<bool> {
    let request = client()?.get(format!("{base_url}/system_stats")).timeout(patience);
    runtime()?.block_on(async {
        let sent = request.send();
        tokio::pin!(sent);
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if let Ok(answer) = tokio::time::timeout(TICK, &mut sent).await {
                return Ok(answer.is_ok_and(|answer| answer.status().is_success()));
            }
        }
    })
}
