//! Objects in buckets: `s3://`, `gs://` and `az://`, with the settings and credentials that the environment holds under
//! the names that other programs read (see [`crate::bucket`]). What a bucket answers is put into the words of HTTP, so
//! that one downloader serves all: ranges, resuming and checksums are the same.

use object_store::path::Path;
use object_store::{GetOptions, GetRange};
use reqwest::Response;
use reqwest::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use url::Url;

use super::error::SourceError;
use super::event::SourceOptions;
use super::http::Failure;
use super::redact::redact_words;
use crate::bucket::{self, Access, BucketError};
use crate::spec::BucketFile;

/// An object that can be asked for.
pub(crate) struct Object {
    access: Access,
    path: Path,
    url: Url,
}

impl Object {
    /// The object of that name. Nothing is asked of its bucket yet.
    pub(crate) fn open(file: &BucketFile) -> Result<Self, SourceError> {
        let address = format!("{}://{}/{}", file.scheme, file.bucket, file.key);
        let unusable = || SourceError::Address {
            url: address.clone(),
            reason: "not the name of an object: an empty part, `.` or `..`",
        };
        let path = Path::parse(&file.key).map_err(|_| unusable())?;
        let mut url = Url::parse(&format!("{}://{}", file.scheme, file.bucket)).map_err(|_| unusable())?;
        url.set_path(&file.key);
        let access =
            bucket::reading(&file.scheme, &file.bucket).map_err(|error| unopened(&address, &error))?;
        Ok(Self { access, path, url })
    }

    /// Its address, as it is shown.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// What a web server would answer to these headers, `Range` and `If-Range` among them.
    pub(super) async fn get(
        &self,
        own: &HeaderMap,
        options: &SourceOptions<'_>,
    ) -> Result<Response, Failure> {
        let text = |name| own.get(name).and_then(|value| value.to_str().ok());
        let range = text(RANGE).and_then(range_of);
        let tag = text(IF_RANGE).filter(|_| range.is_some()).map(str::to_owned);
        let asked = GetOptions { range: range.clone(), if_match: tag.clone(), ..GetOptions::default() };
        let found = match (self.ask(asked, options).await?, &range) {
            // Another version by now: all of that, as a web server would send.
            (Err(object_store::Error::Precondition { .. }), _) => {
                self.ask(GetOptions::default(), options).await?
            }
            (Err(error), Some(GetRange::Offset(first))) => {
                // What the clients make of a range behind the end has no name of its own.
                match self.beyond(*first, tag.as_deref(), options).await? {
                    Some(answer) => return Ok(answer),
                    None => Err(error),
                }
            }
            (found, _) => found,
        };
        let found = found.map_err(|error| self.failure(&error))?;
        let (start, end, size) = (found.range.start, found.range.end, found.meta.size);
        let mut answer = hyper::Response::builder().header(ACCEPT_RANGES, "bytes");
        answer = answer.header(CONTENT_LENGTH, end - start);
        if let Some(tag) = &found.meta.e_tag {
            let quoted = if tag.ends_with('"') { tag.clone() } else { format!("\"{tag}\"") };
            answer = answer.header(ETAG, quoted);
        }
        // A changed object comes whole, whatever was asked.
        let is_part = match &range {
            Some(GetRange::Bounded(asked)) => asked.start == start && asked.end.min(size) == end,
            Some(GetRange::Offset(first)) => *first == start,
            Some(GetRange::Suffix(_)) | None => false,
        };
        if is_part {
            let last = end.saturating_sub(1);
            answer = answer.status(206).header(CONTENT_RANGE, format!("bytes {start}-{last}/{size}"));
        }
        let body = reqwest::Body::wrap_stream(found.into_stream());
        match answer.body(body) {
            Ok(answer) => Ok(answer.into()),
            Err(error) => Err(super::http::answer(&self.url, error.to_string()).into()),
        }
    }

    /// The answer of a web server when the object is the one of `tag` and has no byte at `first`.
    async fn beyond(
        &self,
        first: u64,
        tag: Option<&str>,
        options: &SourceOptions<'_>,
    ) -> Result<Option<Response>, Failure> {
        let asked = GetOptions { head: true, ..GetOptions::default() };
        // The first failure says more than one of this question.
        let Ok(found) = self.ask(asked, options).await? else { return Ok(None) };
        let bare = |tag: &str| tag.trim_matches('"').to_owned();
        let same = tag.is_none() || tag.map(bare) == found.meta.e_tag.as_deref().map(bare);
        let size = found.meta.size;
        if !same || first < size {
            return Ok(None);
        }
        let answer = hyper::Response::builder().status(416).header(CONTENT_RANGE, format!("bytes */{size}"));
        let answer = answer.body(reqwest::Body::default());
        answer
            .map(|answer| Some(answer.into()))
            .map_err(|error| super::http::answer(&self.url, error.to_string()).into())
    }

    async fn ask(
        &self,
        asked: GetOptions,
        options: &SourceOptions<'_>,
    ) -> Result<object_store::Result<object_store::GetResult>, Failure> {
        let ask = async {
            let store = self.access.open(&self.url).await?;
            Ok(store.get_opts(&self.path, asked).await)
        };
        let answer: Result<_, BucketError> = super::http::patient(ask, options, &self.url).await?;
        // What was not there a moment ago will not be there in the next.
        answer.map_err(|error| Failure::Final(unopened(self.url.as_str(), &error)))
    }

    fn failure(&self, error: &object_store::Error) -> Failure {
        let url = self.url.to_string();
        match error {
            object_store::Error::NotFound { .. } => {
                Failure::Final(SourceError::HttpNotFound { url, status: 404 })
            }
            object_store::Error::PermissionDenied { .. } => {
                Failure::Final(SourceError::HttpAccess { url, status: 403 })
            }
            object_store::Error::Unauthenticated { .. } => {
                Failure::Final(SourceError::HttpAccess { url, status: 401 })
            }
            error => {
                let detail = redact_words(&bucket::words(error));
                Failure::Transient(SourceError::HttpTransfer { url, detail }, None)
            }
        }
    }
}

fn unopened(url: &str, error: &BucketError) -> SourceError {
    let (url, detail) = (url.to_owned(), redact_words(&error.to_string()));
    match error {
        BucketError::Credentials { detail, .. } => {
            SourceError::BucketCredentials { url, detail: redact_words(detail) }
        }
        _ => SourceError::Bucket { url, detail },
    }
}

/// `bytes=FIRST-LAST` or `bytes=FIRST-`, which are the forms that are asked.
fn range_of(value: &str) -> Option<GetRange> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    match last {
        "" => Some(GetRange::Offset(first)),
        last => Some(GetRange::Bounded(first..last.parse::<u64>().ok()?.checked_add(1)?)),
    }
}

#[cfg(test)]
mod tests {
    use cvs_store::Store;
    use cvs_tests::{HttpServer, Response as Answer};
    use object_store::aws::AmazonS3Builder;

    use super::*;
    use crate::source::digest::Expected;
    use crate::source::http::fetch_object;

    const BYTES: &[u8] = b"all of the object";

    /// A server that answers as S3 does, without asking who it is.
    fn server() -> HttpServer {
        let server = HttpServer::start();
        server.route("/bucket/", |request| {
            let size = BYTES.len();
            let from =
                request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
            let from: Option<usize> = from.map(|from| from.parse().unwrap());
            let answer = match from {
                Some(from) if from >= size => Answer::new(416, "<Error><Code>InvalidRange</Code></Error>"),
                Some(from) => Answer::new(206, &BYTES[from..])
                    .header("content-range", &format!("bytes {from}-{}/{size}", size - 1)),
                None => Answer::new(200, BYTES),
            };
            answer.header("etag", "\"e\"").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        });
        server
    }

    #[test]
    fn an_object_that_is_whole_is_not_asked_for_again() {
        let server = server();
        let bucket =
            AmazonS3Builder::new().with_bucket_name("bucket").with_region("r").with_endpoint(server.url(""));
        let access = bucket::test_access(bucket.with_skip_signature(true));
        let url = Url::parse("s3://bucket/x.bin").unwrap();
        let object = Object { access, path: Path::from("x.bin"), url };
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        // The first is not committed: what it brought stays beside the store.
        for received in [BYTES.len() as u64, 0] {
            let transaction = store.begin("test").unwrap();
            let options = SourceOptions::default();
            let found = fetch_object(&store, &transaction, &object, &Expected::default(), &options).unwrap();
            assert_eq!((found.size, found.received), (BYTES.len() as u64, received));
            if received == 0 {
                transaction.commit().unwrap();
                assert_eq!(store.blob_size(&found.blob).unwrap(), Some(found.size));
            }
        }
    }
}
