//! The way to one file: what is asked, and where. Every part of a download asks through it, from whichever thread.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, Response};
use tokio::time::Instant;
use url::Url;

use super::HttpRequest;
use super::client::{Failure, pause, send};
use crate::source::error::SourceError;
use crate::source::event::SourceOptions;
use crate::source::object::Object;

/// Below this a pause is not worth its while; the debt is paid with the next.
const SHORTEST: Duration = Duration::from_millis(20);

pub(super) struct Link<'a> {
    pub(super) request: &'a HttpRequest,
    /// What is asked instead of the address, for a file in a bucket.
    pub(super) object: Option<&'a Object>,
    pub(super) shown: &'a str,
    pub(super) options: &'a SourceOptions<'a>,
    /// Where redirects led: ranges go there at once, until it refuses.
    direct: Mutex<Option<Url>>,
}

impl<'a> Link<'a> {
    pub(super) fn new(
        request: &'a HttpRequest,
        object: Option<&'a Object>,
        shown: &'a str,
        options: &'a SourceOptions<'a>,
    ) -> Self {
        Self { request, object, shown, options, direct: Mutex::default() }
    }

    /// Asks for the file, or for what `own` says of it.
    pub(super) async fn get(&self, own: &HeaderMap) -> Result<Response, Failure> {
        if let Some(object) = self.object {
            return object.get(own, self.options).await;
        }
        let direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(url) = direct {
            let none = HeaderMap::new();
            let response = send(Method::GET, &url, &none, own, None, self.options).await?;
            // A signed address that has run out.
            if !matches!(response.status().as_u16(), 400 | 401 | 403 | 404 | 410) {
                return Ok(response);
            }
            *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let (url, headers) = (&self.request.url, &self.request.headers);
        let response = send(Method::GET, url, headers, own, None, self.options).await?;
        if response.url().origin() != url.origin() && response.status().is_success() {
            let led = response.url().clone();
            *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = Some(led);
        }
        Ok(response)
    }

    /// Waits until so many bytes more may have come.
    pub(super) async fn pace(&self, bytes: u64) -> Result<(), SourceError> {
        let Some(rate) = self.options.limits.rate else { return Ok(()) };
        let wait = reserve(bytes, rate.get());
        if wait >= SHORTEST { pause(wait, self.options).await } else { Ok(()) }
    }
}

/// How long to wait for `bytes` at this rate, all downloads of the process together.
fn reserve(bytes: u64, rate: u64) -> Duration {
    static FREE_AT: Mutex<Option<Instant>> = Mutex::new(None);
    let now = Instant::now();
    let mut free_at = FREE_AT.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = free_at.map_or(now, |at| at.max(now));
    *free_at = Some(begin + Duration::from_secs_f64(bytes as f64 / rate as f64));
    begin - now
}

/// A header that holds text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
