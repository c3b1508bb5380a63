//! Nodes of the Comfy Registry: its API tells where the zip of a version is. It tells no hash, so what the archive has
//! when it is first fetched is recorded, and from then on it must be that.
//!
//! `GET BASE/nodes/ID/install?version=V` (without `version`, the newest) answers with `version` and `downloadUrl`.

use cvs_store::{ManifestId, Transaction};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use url::Url;

use super::archive;
use super::digest::{Expected, hex};
use super::error::SourceError;
use super::event::SourceOptions;
use super::http::{self, HttpRequest};
use super::redact::{MASK, redact};
use crate::fetch::{self, FetchError};

/// Names another server than the Comfy Registry: a mirror, or one for tests.
pub const ADDRESS_VAR: &str = "CVS_REGISTRY";
const ADDRESS: &str = "https://api.comfy.org";
/// More than any answer has.
const ANSWER: u64 = 4 << 20;

/// What the Registry says of one version of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryVersion {
    /// The version, `1.2.3`.
    pub version: String,
    /// The address of its zip.
    pub url: String,
}

/// A node that is in the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryIngest {
    /// Its files.
    pub manifest: ManifestId,
    /// The sha256 of its zip.
    pub sha256: [u8; 32],
    /// How many files.
    pub files: u64,
    /// True when the store had them.
    pub reused: bool,
}

/// The part of the API's answer that is used.
#[derive(Deserialize)]
struct Answer {
    version: Option<String>,
    #[serde(rename = "downloadUrl")]
    download_url: Option<String>,
}

/// Asks for a version of the node `id`, or for the newest.
pub fn resolve(
    id: &str,
    version: Option<&str>,
    options: &SourceOptions<'_>,
) -> Result<RegistryVersion, SourceError> {
    let base = base();
    let query = version.map(|version| format!("?version={}", plain(version))).unwrap_or_default();
    let address = format!("{base}/nodes/{}/install{query}", plain(id));
    let shown = redact(&address);
    options.check_online(&shown)?;
    let unusable = |reason: &str| SourceError::HttpAnswer { url: shown.clone(), reason: reason.to_owned() };
    let url = Url::parse(&address)
        .map_err(|_| SourceError::Address { url: shown.clone(), reason: "not an address of a registry" })?;
    let mut body = Vec::new();
    match fetch::fetch(&url, &mut body, ANSWER, options.cancel) {
        Ok(_) => {}
        Err(FetchError::Status { status: 404, .. }) => {
            return Err(SourceError::UnknownNode {
                id: id.to_owned(),
                version: version.map(str::to_owned),
                registry: redact(&base),
            });
        }
        Err(error) => return Err(transfer(error, &shown)),
    }
    version_of(&body, &url, version).map_err(unusable)
}

/// What an answer to `url` says of a version: of `version`, where one was asked for. The error says what is wrong.
pub(super) fn version_of(
    body: &[u8],
    url: &Url,
    version: Option<&str>,
) -> Result<RegistryVersion, &'static str> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "not what the Registry says of a version")?;
    let Some(download) = answer.download_url.as_deref().and_then(fetch::web_address) else {
        return Err("no `downloadUrl`");
    };
    if http::is_downgrade(url, &download) {
        return Err("a `downloadUrl` that leaves https");
    }
    let Some(found) = answer.version.filter(|found| !found.is_empty()) else {
        return Err("no `version`");
    };
    if version.is_some_and(|version| version != found) {
        return Err("another version than the one that was asked for");
    }
    Ok(RegistryVersion { version: found, url: download.into() })
}

/// Where the repository of the node `id` is; none when the Registry does not say.
pub fn repository(id: &str, options: &SourceOptions<'_>) -> Result<Option<String>, SourceError> {
    let address = format!("{}/nodes/{}", base(), plain(id));
    let shown = redact(&address);
    options.check_online(&shown)?;
    let url = Url::parse(&address)
        .map_err(|_| SourceError::Address { url: shown.clone(), reason: "not an address of a registry" })?;
    let mut body = Vec::new();
    fetch::fetch(&url, &mut body, ANSWER, options.cancel).map_err(|error| transfer(error, &shown))?;
    repository_of(&body).map_err(|reason| SourceError::HttpAnswer { url: shown, reason: reason.to_owned() })
}

/// Where an answer says that the repository of a node is.
pub(super) fn repository_of(body: &[u8]) -> Result<Option<String>, &'static str> {
    let answer: serde_json::Value =
        serde_json::from_slice(body).map_err(|_| "not what the Registry says of a node")?;
    Ok(answer["repository"].as_str().filter(|text| !text.is_empty()).map(str::to_owned))
}

fn base() -> String {
    let base = std::env::var(ADDRESS_VAR).ok().filter(|base| !base.is_empty());
    base.as_deref().unwrap_or(ADDRESS).trim_end_matches('/').to_owned()
}

fn plain(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Brings the files of the zip at `url`. With `sha256`, it must be that. `node` is the id and version that it is of: an
/// address that was signed for a while, and is kept without its signature, the Registry tells again.
pub fn ingest(
    transaction: &Transaction,
    url: &str,
    node: Option<(&str, &str)>,
    sha256: Option<[u8; 32]>,
    options: &SourceOptions<'_>,
) -> Result<RegistryIngest, SourceError> {
    let store = transaction.store();
    let shown = redact(url);
    let known = |sha256: [u8; 32]| {
        let Some(manifest) = store.index().source(&key(&sha256)) else { return Ok(None) };
        Ok::<_, SourceError>(transaction.has_manifest(&manifest)?.then_some(manifest))
    };
    let reuse = |manifest, sha256| RegistryIngest { manifest, sha256, files: 0, reused: true };
    if let Some(sha256) = sha256
        && let Some(manifest) = known(sha256)?
    {
        return Ok(reuse(manifest, sha256));
    }
    let here = match &sha256 {
        Some(sha256) => http::known(store, transaction, sha256)?.is_some(),
        None => false,
    };
    let again = match node.filter(|_| !here && url.contains(MASK)) {
        Some((id, version)) => Some(resolve(id, Some(version), options)?.url),
        None => None,
    };
    let address = fetch::web_address(again.as_deref().unwrap_or(url))
        .ok_or_else(|| SourceError::Address { url: shown.clone(), reason: "not an address of the web" })?;
    let expected = Expected { sha256, ..Expected::default() };
    let request = HttpRequest { url: address, headers: Default::default(), expected };
    let file = http::fetch(store, transaction, &request, options)?;
    if let Some(manifest) = known(file.sha256)? {
        return Ok(reuse(manifest, file.sha256));
    }
    let unpacked = archive::unpack(transaction, transaction.open_blob(&file.blob)?, &shown, options)?;
    store.index().put_source(&key(&file.sha256), &unpacked.manifest);
    Ok(RegistryIngest {
        manifest: unpacked.manifest,
        sha256: file.sha256,
        files: unpacked.files,
        reused: false,
    })
}

/// Under which the index knows the files of a zip.
fn key(sha256: &[u8; 32]) -> String {
    format!("zip:{}", hex(sha256))
}

fn transfer(error: FetchError, url: &str) -> SourceError {
    let url = url.to_owned();
    match error {
        FetchError::Cancelled => SourceError::Cancelled,
        FetchError::Status { status: status @ (401 | 403), .. } => SourceError::HttpAccess { url, status },
        FetchError::Status { status, .. } => SourceError::HttpStatus { url, status },
        FetchError::Runtime { source } => SourceError::Runtime { source },
        FetchError::Stalled { after, .. } => SourceError::Stalled { url, stalled: after },
        FetchError::Transfer { detail, .. } => SourceError::HttpTransfer { url, detail },
        error @ (FetchError::Address { .. } | FetchError::TooLarge { .. } | FetchError::Write { .. }) => {
            SourceError::HttpAnswer { url, reason: error.to_string() }
        }
    }
}
