//! Files of Civitai. Its API tells which files a model version has, with their hashes; so one is chosen, and the
//! store asked, before a byte is downloaded. (<https://developer.civitai.com/docs/api/public-rest>.)
//!
//! A version with several files needs a choice: the query of the source (`type`, `format`, `size`, `fp`, as on the
//! site's own download links, and `name`), a checksum, the name of the model's file in the view; then the file that
//! the version calls its primary one.

use cvs_store::{Store, Transaction};
use serde::Deserialize;
use url::Url;

use super::digest::{Expected, unhex};
use super::error::SourceError;
use super::event::SourceOptions;
use super::hosts::Hosts;
use super::http::{self, FetchedFile, HttpRequest};
use super::redact::redact_url;
use crate::spec::CivitaiFile;

/// An answer of the API is at most this long.
const ANSWER: usize = 16 << 20;

/// A file, and the id of the model version that it belongs to.
pub(crate) struct Found {
    pub(crate) file: FetchedFile,
    pub(crate) version: u64,
}

/// What is looked for.
pub(crate) struct Wanted<'a> {
    pub(crate) file: &'a CivitaiFile,
    /// The version that an earlier lock found the model's newest to be.
    pub(crate) pinned: Option<u64>,
    /// The name of the file in the view.
    pub(crate) name: Option<&'a str>,
    pub(crate) expected: &'a Expected,
}

#[derive(Debug, Deserialize)]
struct Model {
    #[serde(rename = "modelVersions", default)]
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    id: u64,
    #[serde(rename = "modelId")]
    model: Option<u64>,
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    primary: Option<bool>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    hashes: Hashes,
    download_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    format: Option<String>,
    size: Option<String>,
    fp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Hashes {
    #[serde(rename = "SHA256")]
    sha256: Option<String>,
}

impl File {
    fn sha256(&self) -> Option<[u8; 32]> {
        self.hashes.sha256.as_deref().and_then(unhex)
    }

    /// The value that a key of the query is about.
    fn value(&self, key: &str) -> Option<&str> {
        match key {
            "type" => self.kind.as_deref(),
            "format" => self.metadata.format.as_deref(),
            "size" => self.metadata.size.as_deref(),
            "fp" => self.metadata.fp.as_deref(),
            "name" => Some(&self.name),
            _ => None,
        }
    }

    /// As a person would choose it: `a.safetensors (type=Model&format=SafeTensor&fp=fp16)`.
    fn describe(&self) -> String {
        let values = ["type", "format", "size", "fp"].map(|key| (key, self.value(key)));
        let query: Vec<String> =
            values.iter().filter_map(|(key, value)| Some(format!("{key}={}", (*value)?))).collect();
        let primary = if self.primary == Some(true) { ", primary" } else { "" };
        format!("{} ({}{primary})", self.name, query.join("&"))
    }
}

/// Brings the file into `transaction`.
pub(crate) fn fetch(
    store: &Store,
    transaction: &Transaction,
    wanted: &Wanted<'_>,
    hosts: &Hosts,
    options: &SourceOptions<'_>,
) -> Result<Found, SourceError> {
    let host = &hosts.civitai;
    let (id, query) = match wanted.file {
        CivitaiFile::Version { id, query } => (Some(*id), query.as_str()),
        CivitaiFile::Model { .. } => (wanted.pinned, ""),
    };
    let (asked, version) = match (id, wanted.file) {
        (Some(id), _) => {
            let url = host.at(["api", "v1", "model-versions", &id.to_string()]);
            let version: Version = get(&url, hosts, options)?;
            (url, version)
        }
        (None, CivitaiFile::Model { id } | CivitaiFile::Version { id, .. }) => newest(*id, hosts, options)?,
    };
    let page = page(hosts, &version);
    let file = choose(&version, query, wanted, &redact_url(&asked))?;
    let mut expected = *wanted.expected;
    expected.sha256 = expected.sha256.or(file.sha256());
    let url = download_url(&version, file, query, hosts);
    let headers = host.headers(&url)?;
    let request = HttpRequest { url, headers, expected };
    let found = http::fetch(store, transaction, &request, options);
    let found = found.map_err(|error| closed(error, &page, hosts))?;
    Ok(Found { file: found, version: version.id })
}

/// The newest version of a model.
fn newest(model: u64, hosts: &Hosts, options: &SourceOptions<'_>) -> Result<(Url, Version), SourceError> {
    let id = model.to_string();
    let url = hosts.civitai.at(["api", "v1", "models", &id]);
    let found: Result<Model, SourceError> = get(&url, hosts, options);
    let found = match found {
        Err(SourceError::HttpNotFound { url, status }) => {
            // The two kinds of ids are easily taken for each other.
            let version = hosts.civitai.at(["api", "v1", "model-versions", &id]);
            let is_version = get::<Version>(&version, hosts, options).is_ok();
            return Err(match is_version {
                true => SourceError::NoSuchFile {
                    url,
                    what: format!(
                        "{id} is no model, but a model version: `civitai://api/download/models/{id}`"
                    ),
                },
                false => SourceError::HttpNotFound { url, status },
            });
        }
        found => found?,
    };
    let version = found.versions.into_iter().next().ok_or_else(|| SourceError::NoSuchFile {
        url: redact_url(&url),
        what: format!("model {id} has no version that is published"),
    })?;
    Ok((url, version))
}

fn get<T: serde::de::DeserializeOwned>(
    url: &Url,
    hosts: &Hosts,
    options: &SourceOptions<'_>,
) -> Result<T, SourceError> {
    let shown = redact_url(url);
    options.check_online(&shown)?;
    let headers = hosts.civitai.headers(url)?;
    let answer = http::get_json(url, &headers, ANSWER, options);
    let answer = answer.map_err(|error| closed(error, &redact_url(&hosts.civitai.base), hosts))?;
    serde_json::from_value(answer)
        .map_err(|error| SourceError::HttpAnswer { url: shown, reason: error.to_string() })
}

/// Where the files of an answer of the API are: of a model, or of one of its versions. Fuzzing enters here.
pub(super) fn addresses(answer: &serde_json::Value, query: &str, hosts: &Hosts) -> Vec<Url> {
    let model = serde_json::from_value::<Model>(answer.clone()).map(|model| model.versions);
    let version = serde_json::from_value::<Version>(answer.clone());
    let versions = model.unwrap_or_default().into_iter().chain(version.ok());
    let file = CivitaiFile::Version { id: 1, query: query.to_owned() };
    let expected = Expected::default();
    let wanted = Wanted { file: &file, pinned: None, name: Some("model.safetensors"), expected: &expected };
    let found = versions.flat_map(|version| {
        let file = choose(&version, query, &wanted, "an answer").ok()?;
        let _ = page(hosts, &version);
        Some(download_url(&version, file, query, hosts))
    });
    found.collect()
}

/// Who is not let in is told what would open the door.
fn closed(error: SourceError, page: &str, hosts: &Hosts) -> SourceError {
    match error {
        SourceError::HttpAccess { url, status } => SourceError::Closed {
            url,
            status,
            page: page.to_owned(),
            gated: false,
            variable: hosts.civitai.variable,
            sent: hosts.civitai.has_token(),
        },
        error => error,
    }
}

fn page(hosts: &Hosts, version: &Version) -> String {
    let model = version.model.map(|id| id.to_string());
    let mut page = hosts.civitai.at(["models"].into_iter().chain(model.as_deref()));
    page.query_pairs_mut().append_pair("modelVersionId", &version.id.to_string());
    redact_url(&page)
}

/// Where the API says that the file is; at Civitai under the address that the environment gives it.
fn download_url(version: &Version, file: &File, query: &str, hosts: &Hosts) -> Url {
    let host = &hosts.civitai;
    let told = file.download_url.as_deref().and_then(|url| Url::parse(url).ok());
    let mut url = host.at(["api", "download", "models", &version.id.to_string()]);
    match told {
        Some(told) if matches!(told.host_str(), Some("civitai.com" | "www.civitai.com")) => {
            url.set_query(told.query());
        }
        Some(told) if matches!(told.scheme(), "http" | "https") && !http::is_downgrade(&host.base, &told) => {
            url = told;
        }
        _ => url.set_query(Some(query).filter(|query| !query.is_empty())),
    }
    url
}

/// The one file of `version` that is meant.
fn choose<'a>(
    version: &'a Version,
    query: &str,
    wanted: &Wanted<'_>,
    shown: &str,
) -> Result<&'a File, SourceError> {
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(query.as_bytes()).into_owned().filter(|(key, _)| is_known(key)).collect();
    let fits = |file: &&File| {
        pairs
            .iter()
            .all(|(key, value)| file.value(key).is_some_and(|found| found.eq_ignore_ascii_case(value)))
    };
    let fitting: Vec<&File> = version.files.iter().filter(fits).collect();
    let only = |files: Vec<&'a File>| match files[..] {
        [file] => Some(file),
        _ => None,
    };
    let by = |test: &dyn Fn(&File) -> bool| only(fitting.iter().copied().filter(|file| test(file)).collect());
    let checked = wanted.expected.sha256;
    // A checksum leaves no choice; only a file whose hash the API does not tell may still be the right one.
    let chosen = match checked.and_then(|sha256| by(&|file| file.sha256() == Some(sha256))) {
        Some(file) => Some(file),
        None => only(fitting.clone())
            .or_else(|| by(&|file| wanted.name == Some(file.name.as_str())))
            .or_else(|| by(&|file| file.primary == Some(true)))
            .filter(|file| checked.is_none() || file.sha256().is_none_or(|found| Some(found) == checked)),
    };
    chosen.ok_or_else(|| {
        let listed = if fitting.is_empty() { version.files.iter().collect() } else { fitting };
        SourceError::Choice {
            url: shown.to_owned(),
            version: version.id,
            files: listed.iter().map(|file| file.describe()).collect(),
        }
    })
}

fn is_known(key: &str) -> bool {
    matches!(key, "type" | "format" | "size" | "fp" | "name")
}

#[cfg(test)]
mod tests;
