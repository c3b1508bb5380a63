//! One client and one runtime for all HTTP of this crate, behind blocking calls. Redirects are followed here and not
//! by reqwest, because the headers of a caller (tokens, and what a Git LFS server asked for) must stay at the host
//! they were meant for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, LOCATION};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use crate::runtime::runtime;
use crate::source::error::SourceError;
use crate::source::event::SourceOptions;
use crate::source::redact::redact_url;

/// Redirects followed for one request.
const REDIRECTS: usize = 10;
/// How often a waiting request looks at the cancel flag.
const TICK: Duration = Duration::from_millis(50);

/// Why an attempt brought nothing.
#[derive(Debug)]
pub(in crate::source) enum Failure {
    /// Another attempt would end the same way.
    Final(SourceError),
    /// Worth another attempt, after the pause that the server asked for, if it did.
    Transient(SourceError, Option<Duration>),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Final(error)
    }
}

/// Runs `future` to its end on the calling thread, which must not belong to a tokio runtime.
pub(in crate::source) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, SourceError> {
    let runtime = runtime().map_err(|source| SourceError::Runtime { source })?;
    Ok(runtime.block_on(future))
}

fn client(connect_timeout: Duration) -> Result<Client, SourceError> {
    static CLIENT: Mutex<Option<(Duration, Client)>> = Mutex::new(None);
    let mut slot = CLIENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((timeout, client)) = &*slot
        && *timeout == connect_timeout
    {
        return Ok(client.clone());
    }
    let client = Client::builder()
        .user_agent(concat!("cvs/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        // Streams of one HTTP/2 connection share its window: several ranges at once would gain nothing.
        .http1_only()
        .connect_timeout(connect_timeout)
        .build()
        .map_err(|error| SourceError::Runtime { source: std::io::Error::other(error) })?;
    *slot = Some((connect_timeout, client.clone()));
    Ok(client)
}

/// What is done about a redirect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// Go where it leads.
    Anywhere,
    /// Stay at this origin: what leads away is the answer. Hubs tell of a file in the redirect to its bytes.
    Here,
}

/// Sends one request and follows its redirects. `own` goes wherever the redirects lead, `caller` stays at the first
/// origin. Statuses are not judged here.
pub(super) async fn send(
    method: Method,
    url: &Url,
    caller: &HeaderMap,
    own: &HeaderMap,
    body: Option<&str>,
    options: &SourceOptions<'_>,
) -> Result<Response, Failure> {
    exchange(method, url, caller, own, body, Follow::Anywhere, options).await
}

async fn exchange(
    method: Method,
    url: &Url,
    caller: &HeaderMap,
    own: &HeaderMap,
    body: Option<&str>,
    follow: Follow,
    options: &SourceOptions<'_>,
) -> Result<Response, Failure> {
    let client = client(options.limits.connect_timeout)?;
    let mut target = url.clone();
    let mut trusted = true;
    for _ in 0..=REDIRECTS {
        let mut request = client
            .request(method.clone(), target.clone())
            .header(ACCEPT_ENCODING, "identity")
            .headers(own.clone());
        if trusted {
            request = request.headers(caller.clone());
        }
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let sent = patient(request.send(), options, &target).await?;
        let response = sent.map_err(|error| describe(&error, &target, options))?;
        let status = response.status();
        let moved = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let Some(location) = response.headers().get(LOCATION).filter(|_| moved) else {
            return Ok(response);
        };
        let next = location.to_str().ok().and_then(|location| target.join(location).ok());
        let Some(next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
            return Err(answer(&target, "a redirect to no HTTP address").into());
        };
        if follow == Follow::Here && next.origin() != target.origin() {
            return Ok(response);
        }
        if method != Method::GET
            && method != Method::HEAD
            && status != StatusCode::TEMPORARY_REDIRECT
            && status != StatusCode::PERMANENT_REDIRECT
        {
            return Err(answer(&target, "a redirect that would drop the request's body").into());
        }
        trusted &= may_follow(&target, &next)?;
        target = next;
    }
    Err(answer(url, "too many redirects").into())
}

/// Whether one address leads from https to plain http. What was asked for where nobody reads along, or changes what
/// comes, is not taken from where everybody can.
pub(crate) fn is_downgrade(from: &Url, to: &Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

/// Whether the caller's headers go along on a redirect. One that leaves https is refused, whichever it is and whatever
/// was sent: the address itself may be signed.
fn may_follow(from: &Url, to: &Url) -> Result<bool, SourceError> {
    if is_downgrade(from, to) {
        return Err(answer(from, format!("a redirect from https to {}", redact_url(to))));
    }
    Ok(from.origin() == to.origin())
}

/// Awaits `future` for as long as a stall may last, with an eye on the cancel flag.
pub(in crate::source) async fn patient<T>(
    future: impl Future<Output = T>,
    options: &SourceOptions<'_>,
    url: &Url,
) -> Result<T, Failure> {
    let deadline = Instant::now() + options.limits.stall_timeout;
    tokio::pin!(future);
    loop {
        options.check_cancel()?;
        let now = Instant::now();
        if now >= deadline {
            let stalled = options.limits.stall_timeout;
            return Err(Failure::Transient(SourceError::Stalled { url: redact_url(url), stalled }, None));
        }
        if let Ok(done) = tokio::time::timeout(TICK.min(deadline - now), &mut future).await {
            return Ok(done);
        }
    }
}

/// Sleeps, with an eye on the cancel flag.
pub(super) async fn pause(length: Duration, options: &SourceOptions<'_>) -> Result<(), SourceError> {
    let deadline = Instant::now() + length;
    while Instant::now() < deadline {
        options.check_cancel()?;
        tokio::time::sleep(TICK.min(deadline - Instant::now())).await;
    }
    options.check_cancel()
}

/// What a status that is not a success means.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, url: &Url) -> Failure {
    let url = redact_url(url);
    let code = status.as_u16();
    match code {
        404 | 410 => Failure::Final(SourceError::HttpNotFound { url, status: code }),
        401 | 403 => Failure::Final(SourceError::HttpAccess { url, status: code }),
        408 | 425 | 429 | 500 | 502 | 503 | 504 => {
            Failure::Transient(SourceError::HttpStatus { url, status: code }, retry_after(headers))
        }
        _ => Failure::Final(SourceError::HttpStatus { url, status: code }),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// Turns an error of the exchange into ours. reqwest's own text is left out where it would repeat the address, which
/// may be a signed one.
pub(super) fn describe(error: &reqwest::Error, url: &Url, options: &SourceOptions<'_>) -> Failure {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        cause = inner.source();
    }
    let detail = if causes.is_empty() { "the exchange failed".to_owned() } else { causes.join(": ") };
    let shown = redact_url(url);
    if error.is_builder() || error.is_request() && error.url().is_none() {
        return Failure::Final(SourceError::HttpTransfer { url: shown, detail });
    }
    if error.is_connect() {
        let host = url.host_str().map_or(shown, str::to_owned);
        return Failure::Transient(SourceError::Unreachable { host, detail }, None);
    }
    if error.is_timeout() {
        let stalled = options.limits.stall_timeout;
        return Failure::Transient(SourceError::Stalled { url: shown, stalled }, None);
    }
    Failure::Transient(SourceError::HttpTransfer { url: shown, detail }, None)
}

pub(in crate::source) fn answer(url: &Url, reason: impl Into<String>) -> SourceError {
    SourceError::HttpAnswer { url: redact_url(url), reason: reason.into() }
}

/// The attempts left of one exchange.
pub(super) struct Retries {
    failed: u32,
}

impl Retries {
    pub(super) fn new() -> Self {
        Self { failed: 0 }
    }

    /// Something new arrived: earlier failures no longer count.
    pub(super) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Pauses before another attempt, or gives the error back when there is none left.
    pub(super) async fn next(
        &mut self,
        failure: Failure,
        url: &str,
        options: &SourceOptions<'_>,
    ) -> Result<(), SourceError> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient(error, asked) => (error, asked),
        };
        let limits = &options.limits;
        // A host that is not there rarely appears within seconds, and the person is waiting for the message.
        let most = match error {
            SourceError::Unreachable { .. } => limits.attempts.min(3),
            _ => limits.attempts,
        };
        self.failed += 1;
        if self.failed >= most {
            return Err(error);
        }
        let doubled = limits.backoff.saturating_mul(1 << (self.failed - 1).min(16));
        let length = asked.unwrap_or(doubled).min(limits.backoff_limit);
        let reason = error.to_string();
        options.event(crate::source::event::SourceEvent::Retry {
            url,
            attempt: self.failed,
            pause: length,
            reason: &reason,
        });
        pause(length, options).await
    }
}

/// Posts JSON and reads a JSON answer of at most `limit` bytes, with retries.
pub(in crate::source) fn post_json(
    url: &Url,
    headers: &HeaderMap,
    body: &str,
    limit: usize,
    options: &SourceOptions<'_>,
) -> Result<serde_json::Value, SourceError> {
    json(Method::POST, url, headers, Some(body), limit, options)
}

/// Asks for JSON of at most `limit` bytes, with retries.
pub(in crate::source) fn get_json(
    url: &Url,
    headers: &HeaderMap,
    limit: usize,
    options: &SourceOptions<'_>,
) -> Result<serde_json::Value, SourceError> {
    json(Method::GET, url, headers, None, limit, options)
}

fn json(
    method: Method,
    url: &Url,
    headers: &HeaderMap,
    body: Option<&str>,
    limit: usize,
    options: &SourceOptions<'_>,
) -> Result<serde_json::Value, SourceError> {
    let shown = redact_url(url);
    options.check_online(&shown)?;
    block_on(async {
        let mut retries = Retries::new();
        loop {
            match json_once(&method, url, headers, body, limit, options).await {
                Ok(value) => return Ok(value),
                Err(failure) => retries.next(failure, &shown, options).await?,
            }
        }
    })?
}

async fn json_once(
    method: &Method,
    url: &Url,
    headers: &HeaderMap,
    body: Option<&str>,
    limit: usize,
    options: &SourceOptions<'_>,
) -> Result<serde_json::Value, Failure> {
    let mut response = send(method.clone(), url, headers, &HeaderMap::new(), body, options).await?;
    if !response.status().is_success() {
        return Err(judge(response.status(), response.headers(), url));
    }
    let mut text = Vec::new();
    while let Some(chunk) =
        patient(response.chunk(), options, url).await?.map_err(|error| describe(&error, url, options))?
    {
        text.extend_from_slice(&chunk);
        if text.len() > limit {
            return Err(answer(url, format!("more than {limit} bytes of JSON")).into());
        }
    }
    serde_json::from_slice(&text).map_err(|error| answer(url, format!("not JSON: {error}")).into())
}

/// What a server says of a file without sending it: the status and the headers. Redirects to elsewhere are answers, and
/// so is every status but those that call for another attempt.
pub(in crate::source) fn head(
    url: &Url,
    headers: &HeaderMap,
    options: &SourceOptions<'_>,
) -> Result<(StatusCode, HeaderMap), SourceError> {
    let shown = redact_url(url);
    block_on(async {
        let mut retries = Retries::new();
        loop {
            let none = HeaderMap::new();
            let sent = exchange(Method::HEAD, url, headers, &none, None, Follow::Here, options).await;
            let failure = match sent {
                Ok(response) => match judge(response.status(), response.headers(), url) {
                    failure @ Failure::Transient(..) => failure,
                    Failure::Final(_) => return Ok((response.status(), response.headers().clone())),
                },
                Err(failure) => failure,
            };
            retries.next(failure, &shown, options).await?;
        }
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_stay_at_home_and_never_leave_https() {
        for (from, to, expected) in [
            ("https://h/a", "https://h/b", Some(true)),
            ("https://h/a", "https://cdn/b", Some(false)),
            ("https://h/a", "https://h:444/b", Some(false)),
            ("http://h/a", "https://h/b", Some(false)),
            ("https://h/a", "http://h/b", None),
            ("https://cdn/a", "http://other/b", None),
            ("http://h/a", "http://h/b", Some(true)),
        ] {
            let url = |text: &str| text.parse::<Url>().unwrap();
            assert_eq!(may_follow(&url(from), &url(to)).ok(), expected, "{from} {to}");
        }
        let error = may_follow(&"https://h/a".parse().unwrap(), &"http://h/b".parse().unwrap());
        assert_eq!(
            error.unwrap_err().to_string(),
            "https://h/a: unusable answer: a redirect from https to http://h/b"
        );
    }

    #[test]
    fn a_server_may_ask_for_a_pause() {
        let parse = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("soon"), None);
        assert!(parse("Tue, 31 Dec 2999 23:59:59 GMT").unwrap() > Duration::from_secs(1000));
    }

    #[test]
    fn statuses_are_told_apart() {
        let url: Url = "http://u:p@host/x?token=1".parse().unwrap();
        for (status, transient, text) in [
            (404, false, "http://host/x?token=***: not found (HTTP 404)"),
            (418, false, "http://host/x?token=***: the server answered HTTP 418"),
            (503, true, "http://host/x?token=***: the server answered HTTP 503"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let (error, again) = match judge(status, &HeaderMap::new(), &url) {
                Failure::Final(error) => (error, false),
                Failure::Transient(error, _) => (error, true),
            };
            assert_eq!((again, error.to_string().as_str()), (transient, text));
        }
    }
}
