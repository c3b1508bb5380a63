//! What a job says lies elsewhere: over HTTP, of a limited size, in a limited time.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::Client;
use url::Url;

use super::error::Trouble;
use crate::comfy::{Waited, patient};
use crate::runtime::runtime;
use crate::source::redact_url;

const CONNECT: Duration = Duration::from_secs(15);
const REDIRECTS: usize = 5;

/// Brings the whole content of an address.
pub(super) fn fetch(
    url: &Url,
    limit: usize,
    patience: Duration,
    cancel: &AtomicBool,
) -> Result<Vec<u8>, Trouble> {
    let failed = |reason: String| Trouble::Fetch { url: redact_url(url), reason };
    let client = client().map_err(|error| failed(error.to_string()))?;
    let exchange = async {
        let mut response = client.get(url.clone()).send().await.map_err(|error| failed(cause(&error)))?;
        if !response.status().is_success() {
            return Err(failed(format!("the server answered HTTP {}", response.status().as_u16())));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(cause(&error)))? {
            if bytes.len() + chunk.len() > limit {
                return Err(failed(format!("it is larger than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let runtime = runtime().map_err(|error| failed(error.to_string()))?;
    match runtime.block_on(patient(exchange, patience, cancel)) {
        Ok(done) => done,
        Err(Waited::Cancelled) => Err(Trouble::Cancelled),
        Err(Waited::TooLong) => Err(Trouble::TimedOut { after: patience }),
    }
}

fn client() -> reqwest::Result<&'static Client> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let built = Client::builder()
        .user_agent(concat!("cvs/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .connect_timeout(CONNECT)
        .build()?;
    Ok(CLIENT.get_or_init(|| built))
}

/// The innermost cause, which does not repeat the address.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
