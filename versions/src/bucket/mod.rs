//! Outputs into a bucket: `s3://BUCKET/PREFIX` (Amazon's, and everything that speaks like it) and
//! `gs://BUCKET/PREFIX`. Credentials, regions and endpoints come from the environment, under the names that other
//! programs read: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`,
//! `AWS_ENDPOINT_URL`; `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT_KEY`. Calls block.
//!
//! A large file goes in parts, and is there as a whole or not at all; one that was begun and given up is aborted.

mod access;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, HeaderValue, PutMultipartOptions, PutOptions, PutPayload,
    RetryConfig, WriteMultipart,
};

pub(crate) use self::access::Access;
use crate::runtime::runtime;

/// Files up to this size go in one request; larger ones in parts of it.
const PART: usize = 8 << 20;
/// Parts of one file on their way at a time.
const PARTS: usize = 4;
/// Transient failures are tried again for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one request, which carries one part at most, may take.
const REQUEST: Duration = Duration::from_secs(300);

/// Why something did not get into a bucket.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Not the address of a bucket.
    #[error("{address:?} is no bucket: expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")]
    Address {
        /// The text.
        address: String,
    },
    /// The environment's settings do not do.
    #[error("cannot use {address}: {detail}")]
    Settings {
        /// The bucket.
        address: String,
        /// What the client says.
        detail: String,
    },
    /// Nothing that opens it: neither in the environment nor from the machine's cloud.
    #[error("no credentials for {address}: {detail}")]
    Credentials {
        /// The bucket.
        address: String,
        /// The variables that may hold them, and what was tried.
        detail: String,
    },
    /// The upload failed.
    #[error("cannot write {url}: {detail}")]
    Put {
        /// The object.
        url: String,
        /// What the client says.
        detail: String,
    },
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
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

/// A bucket, and a place in it.
pub struct Bucket {
    access: Access,
    /// Scheme and name, as `s3://bucket`.
    root: String,
    prefix: Path,
}

/// Scheme, bucket and prefix of an address.
fn divide(address: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = address.split_once("://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    (matches!(scheme, "s3" | "gs") && !bucket.is_empty()).then_some((scheme, bucket, prefix))
}

impl Bucket {
    /// Whether a text is meant for a bucket.
    pub fn is_address(text: &str) -> bool {
        text.starts_with("s3://") || text.starts_with("gs://")
    }

    /// The bucket at an address. Nothing is asked of it yet.
    pub fn open(address: &str) -> Result<Self, BucketError> {
        let wrong = || BucketError::Address { address: address.to_owned() };
        let (scheme, name, prefix) = divide(address).ok_or_else(wrong)?;
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(|_| wrong())?;
        let access = match scheme {
            "s3" => Access::amazon(AmazonS3Builder::from_env().with_bucket_name(name), client(), retry()),
            _ => Access::google(
                GoogleCloudStorageBuilder::from_env().with_bucket_name(name),
                client(),
                retry(),
            ),
        };
        let root = format!("{scheme}://{name}");
        let access =
            access.map_err(|error| BucketError::Settings { address: root.clone(), detail: words(&error) })?;
        Ok(Self { access, root, prefix })
    }

    /// Puts a file under `name` (which may have slashes), and returns its address. `sent` is told how many bytes more
    /// are on their way.
    pub fn put_file(
        &self,
        name: &str,
        file: &FilePath,
        sent: &dyn Fn(u64),
        cancel: &AtomicBool,
    ) -> Result<String, BucketError> {
        let unreadable = |source| BucketError::Read { path: file.to_owned(), source };
        let mut reader = File::open(file).map_err(unreadable)?;
        let first = part(&mut reader).map_err(unreadable)?;
        if first.len() < PART {
            sent(first.len() as u64);
            return self.put(name, first);
        }
        let (path, url) = self.place(name);
        let failed =
            |error: object_store::Error| BucketError::Put { url: url.clone(), detail: words(&error) };
        let upload = async {
            let options = PutMultipartOptions { attributes: kind(name), ..PutMultipartOptions::default() };
            let store = self.access.open(&self.root).await?;
            let upload = store.put_multipart_opts(&path, options).await.map_err(failed)?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
            let mut bytes = first;
            while !bytes.is_empty() {
                if cancel.load(Ordering::Relaxed) {
                    upload.abort().await.map_err(failed)?;
                    return Err(BucketError::Cancelled);
                }
                let ready = upload.wait_for_capacity(PARTS).await;
                if let Err(error) = ready {
                    // What went wrong first is what is told.
                    let _ = upload.abort().await;
                    return Err(failed(error));
                }
                sent(bytes.len() as u64);
                upload.put(bytes.into());
                bytes = match part(&mut reader) {
                    Ok(bytes) => bytes,
                    Err(source) => {
                        let _ = upload.abort().await;
                        return Err(unreadable(source));
                    }
                };
            }
            upload.finish().await.map_err(failed)
        };
        runtime().map_err(|source| BucketError::Runtime { source })?.block_on(upload)?;
        Ok(url)
    }

    /// Puts bytes under `name`, and returns their address.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<String, BucketError> {
        let (path, url) = self.place(name);
        let options = PutOptions { attributes: kind(name), ..PutOptions::default() };
        let put = async {
            let store = self.access.open(&self.root).await?;
            let put = store.put_opts(&path, PutPayload::from(bytes), options).await;
            put.map_err(|error| BucketError::Put { url: url.clone(), detail: words(&error) })
        };
        runtime().map_err(|source| BucketError::Runtime { source })?.block_on(put)?;
        Ok(url)
    }

    fn place(&self, name: &str) -> (Path, String) {
        let path = name.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        let url = format!("{}/{path}", self.root);
        (path, url)
    }
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.root)?;
        if self.prefix.as_ref().is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// A bucket to read from: `s3`, `gs`, or `az` with the container's name. Transfers may take as long as they take; who
/// reads looks after stalls.
pub(crate) fn reading(scheme: &str, name: &str) -> Result<Access, BucketError> {
    let client = client().with_timeout_disabled().with_connect_timeout(PATIENCE);
    let retry = RetryConfig { max_retries: 2, retry_timeout: PATIENCE, ..RetryConfig::default() };
    let access = match scheme {
        "s3" => Access::amazon(AmazonS3Builder::from_env().with_bucket_name(name), client, retry)
            .map_err(|error| words(&error)),
        "gs" => Access::google(GoogleCloudStorageBuilder::from_env().with_bucket_name(name), client, retry)
            .map_err(|error| words(&error)),
        _ => Access::azure(MicrosoftAzureBuilder::from_env().with_container_name(name), client, retry),
    };
    access.map_err(|detail| BucketError::Settings { address: format!("{scheme}://{name}"), detail })
}

fn client() -> ClientOptions {
    // The usual addresses are https. One that is not was written into the environment by the person.
    ClientOptions::new()
        .with_allow_http(true)
        .with_user_agent(HeaderValue::from_static(concat!("cvs/", env!("CARGO_PKG_VERSION"))))
        .with_timeout(REQUEST)
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() }
}

/// The next bytes of a file, as many as go into one part.
fn part(reader: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(PART as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What an object is, so that a browser shows it.
fn kind(name: &str) -> Attributes {
    let end = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).unwrap_or_default();
    let kind = match end.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "json" => "application/json",
        _ => "application/octet-stream",
    };
    Attributes::from_iter([(Attribute::ContentType, kind)])
}

/// The error with its causes: the outermost says only where.
pub(crate) fn words(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(&format!(": {words}"));
        }
        cause = inner.source();
    }
    text
}

/// A bucket of a server in a test.
#[cfg(test)]
pub(crate) fn test_access(builder: AmazonS3Builder) -> Access {
    Access::amazon(builder, client(), retry()).unwrap()
}

#[cfg(test)]
mod tests;
