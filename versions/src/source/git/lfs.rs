//! Git LFS: files of a commit that are only a pointer (git-lfs docs/spec.md), and the batch API that brings them
//! (docs/api/batch.md).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cvs_store::{BlobId, Intake, Store, Transaction};
use git2::Repository;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use url::Url;

use super::credentials;
use crate::fetch::web_address;
use crate::source::digest::{Expected, hex, unhex};
use crate::source::error::SourceError;
use crate::source::event::SourceOptions;
use crate::source::http::{self, HttpRequest};
use crate::source::local;
use crate::source::redact::redact_url;

/// A pointer file is smaller than this (docs/spec.md).
const POINTER_LIMIT: usize = 1024;
/// Objects asked for at once.
const BATCH: usize = 100;
/// The longest answer of the batch API that is read.
const ANSWER_LIMIT: usize = 8 << 20;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// What a pointer file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pointer {
    pub(super) sha256: [u8; 32],
    pub(super) size: u64,
}

/// Reads a pointer file; none when the bytes are anything else.
pub(super) fn pointer(bytes: &[u8]) -> Option<Pointer> {
    if bytes.len() >= POINTER_LIMIT {
        return None;
    }
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != "version https://git-lfs.github.com/spec/v1" {
        return None;
    }
    let (mut sha256, mut size) = (None, None);
    for line in lines {
        match line.split_once(' ')? {
            ("oid", oid) => sha256 = Some(unhex(oid.strip_prefix("sha256:")?)?),
            ("size", text) => size = Some(text.parse().ok()?),
            _ => {}
        }
    }
    Some(Pointer { sha256: sha256?, size: size? })
}

/// Does this `.gitattributes` hand any file to LFS?
pub(super) fn uses_lfs(attributes: &[u8]) -> bool {
    attributes
        .split(|&b| b == b'\n')
        .filter(|line| !line.trim_ascii_start().starts_with(b"#"))
        .any(|line| line.split(u8::is_ascii_whitespace).any(|word| word == b"filter=lfs"))
}

/// One object that a commit needs, and the first file that needs it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) pointer: Pointer,
    pub(super) file: String,
}

/// Where git-lfs keeps the objects of the repository at `path` (docs/man/git-lfs-config.adoc, `lfs.storage`).
pub(super) fn objects_of(path: &Path) -> Option<PathBuf> {
    let objects = Repository::open(path).ok()?.commondir().join("lfs/objects");
    objects.is_dir().then_some(objects)
}

/// The remote's LFS server.
pub(super) struct Server<'a> {
    pub(super) shown: &'a str,
    /// None where the transport has no LFS.
    pub(super) endpoint: Option<Url>,
    /// Where git-lfs keeps the objects of a repository of this machine.
    pub(super) objects: Option<&'a Path>,
    pub(super) options: &'a SourceOptions<'a>,
}

/// Where an object can be had.
struct Download {
    wanted: Wanted,
    url: Url,
    headers: HeaderMap,
}

impl Server<'_> {
    /// Brings all of `wanted` into the transaction; those that the store has by their sha256 cost nothing.
    pub(super) fn fetch(
        &self,
        store: &Store,
        transaction: &Transaction,
        wanted: &[Wanted],
    ) -> Result<HashMap<Pointer, BlobId>, SourceError> {
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        for wanted in wanted {
            match http::known(store, transaction, &wanted.pointer.sha256)? {
                Some((blob, size)) if size == wanted.pointer.size => {
                    found.insert(wanted.pointer, blob);
                }
                Some((_, size)) => {
                    let reason =
                        format!("the pointer says {} bytes, the object has {size}", wanted.pointer.size);
                    return Err(self.failed(wanted, reason));
                }
                None => match self.take(store, transaction, wanted)? {
                    Some(blob) => drop(found.insert(wanted.pointer, blob)),
                    None => missing.push(wanted.clone()),
                },
            }
        }
        let Some(first) = missing.first() else { return Ok(found) };
        let Some(endpoint) = &self.endpoint else {
            let reason = "Git LFS is fetched from https and http remotes only; use such an address";
            return Err(self.failed(first, reason));
        };
        self.options.check_online(self.shown)?;
        for batch in missing.chunks(BATCH) {
            for download in self.locate(endpoint, batch)? {
                let expected = Expected {
                    sha256: Some(download.wanted.pointer.sha256),
                    md5: None,
                    size: Some(download.wanted.pointer.size),
                };
                let request = HttpRequest { url: download.url, headers: download.headers, expected };
                let file = http::fetch(store, transaction, &request, self.options)
                    .map_err(|source| self.wrap(&download.wanted, source))?;
                found.insert(download.wanted.pointer, file.blob);
            }
        }
        Ok(found)
    }

    /// Takes an object that git-lfs keeps on this machine; none where it does not, or keeps other bytes.
    fn take(
        &self,
        store: &Store,
        transaction: &Transaction,
        wanted: &Wanted,
    ) -> Result<Option<BlobId>, SourceError> {
        let Pointer { sha256, size } = wanted.pointer;
        let oid = hex(&sha256);
        let Some(objects) = self.objects else { return Ok(None) };
        let path = objects.join(&oid[..2]).join(&oid[2..4]).join(&oid);
        if !path.is_file() {
            return Ok(None);
        }
        let expected = Expected { sha256: Some(sha256), md5: None, size: Some(size) };
        match local::ingest(store, transaction, &path, &expected, Intake::Copy, self.options) {
            Ok(file) => Ok(Some(file.blob)),
            Err(
                error @ (SourceError::Checksum { .. }
                | SourceError::Size { .. }
                | SourceError::Changed { .. }
                | SourceError::Io { .. }),
            ) => {
                tracing::info!(%error, "an object of a local repository is left alone");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the batch API where the objects are.
    fn locate(&self, endpoint: &Url, batch: &[Wanted]) -> Result<Vec<Download>, SourceError> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let objects: Vec<Value> = batch
            .iter()
            .map(|wanted| json!({"oid": hex(&wanted.pointer.sha256), "size": wanted.pointer.size}))
            .collect();
        let body = json!({
            "operation": "download", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects
        });
        let answer = self.ask(endpoint, &body.to_string()).map_err(|source| self.wrap(first, source))?;
        self.downloads(&answer, endpoint, batch)
    }

    /// What an answer of the batch API says of `batch`.
    fn downloads(
        &self,
        answer: &Value,
        endpoint: &Url,
        batch: &[Wanted],
    ) -> Result<Vec<Download>, SourceError> {
        let none = Vec::new();
        let answered = answer["objects"].as_array().unwrap_or(&none);
        batch
            .iter()
            .map(|wanted| {
                let oid = hex(&wanted.pointer.sha256);
                let Some(object) = answered.iter().find(|object| object["oid"] == oid.as_str()) else {
                    return Err(self.failed(wanted, "the server does not answer for it"));
                };
                if let Some(error) = object.get("error") {
                    let message = error["message"].as_str().unwrap_or("no reason given");
                    let reason = format!("the server has it not: {message} ({})", error["code"]);
                    return Err(self.failed(wanted, reason));
                }
                let action = &object["actions"]["download"];
                let href = action["href"].as_str().and_then(web_address);
                let Some(url) = href else {
                    return Err(self.failed(wanted, "the server says no address for it"));
                };
                if http::is_downgrade(endpoint, &url) {
                    return Err(self.failed(wanted, "the server says an address for it that leaves https"));
                }
                let mut headers = HeaderMap::new();
                for (name, value) in action["header"].as_object().into_iter().flatten() {
                    if let (Ok(name), Some(Ok(value))) =
                        (name.parse::<HeaderName>(), value.as_str().map(HeaderValue::from_str))
                    {
                        headers.insert(name, value);
                    }
                }
                Ok(Download { wanted: wanted.clone(), url, headers })
            })
            .collect()
    }

    /// One call of the batch API; once more with what a git credential helper knows when the server wants that.
    fn ask(&self, endpoint: &Url, body: &str) -> Result<Value, SourceError> {
        let mut url = endpoint.clone();
        url.set_path(&format!("{}/objects/batch", endpoint.path().trim_end_matches('/')));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match http::post_json(&url, &headers, body, ANSWER_LIMIT, self.options) {
            Err(SourceError::HttpAccess { url: shown, status: 401 }) => {
                let refused = SourceError::HttpAccess { url: shown, status: 401 };
                let mut bare = endpoint.clone();
                let _ = bare.set_username("");
                let _ = bare.set_password(None);
                let Some((user, password)) = credentials::from_helper(bare.as_str()) else {
                    return Err(refused);
                };
                let Some(basic) = basic_auth(&user, &password) else { return Err(refused) };
                headers.insert(AUTHORIZATION, basic);
                http::post_json(&url, &headers, body, ANSWER_LIMIT, self.options)
            }
            answer => answer,
        }
    }

    fn failed(&self, wanted: &Wanted, reason: impl Into<String>) -> SourceError {
        SourceError::Lfs {
            url: self.shown.to_owned(),
            file: wanted.file.clone(),
            oid: hex(&wanted.pointer.sha256),
            reason: reason.into(),
        }
    }

    fn wrap(&self, wanted: &Wanted, source: SourceError) -> SourceError {
        match source {
            SourceError::Cancelled => SourceError::Cancelled,
            source => SourceError::LfsDownload {
                url: self.shown.to_owned(),
                file: wanted.file.clone(),
                source: Box::new(source),
            },
        }
    }
}

/// Where an answer of the batch API says that an object is. Fuzzing enters here.
pub(super) fn addresses(answer: &Value, endpoint: &Url, sha256: [u8; 32]) -> Vec<Url> {
    let options = SourceOptions::default();
    let server = Server { shown: "a server", endpoint: None, objects: None, options: &options };
    let wanted = Wanted { pointer: Pointer { sha256, size: 1 }, file: "a".to_owned() };
    let found = server.downloads(answer, endpoint, &[wanted]);
    found.into_iter().flatten().map(|download| download.url).collect()
}

/// The endpoint that a `.lfsconfig` names, where it may be used: http and https only.
pub(super) fn configured_endpoint(text: &str) -> Result<Option<Url>, String> {
    let settings = super::config::parse(text);
    let Some(url) = super::config::lfs_url(&settings) else { return Ok(None) };
    match Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "https" | "http") => Ok(Some(url)),
        Ok(url) => Err(format!("`.lfsconfig` names {}, and only https and http are taken", redact_url(&url))),
        Err(_) => Err("`.lfsconfig` names something that is no address".to_owned()),
    }
}

/// RFC 7617. The value is marked sensitive, so that no debug output shows it.
fn basic_auth(user: &str, password: &str) -> Option<HeaderValue> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn pointers_are_recognised() {
        let good = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n");
        let found = pointer(good.as_bytes()).unwrap();
        assert_eq!((hex(&found.sha256).as_str(), found.size), (OID, 12345));
        let extended = good.replace("oid", "ext-0-foo sha256:00\noid");
        assert_eq!(pointer(extended.as_bytes()), Some(found));
        for bad in [
            String::new(),
            good.replace("v1", "v2"),
            good.replace("sha256:4d", "sha256:4"),
            good.replace("sha256:", "md5:"),
            good.replace("12345", "-1"),
            good.replace("size 12345\n", ""),
            format!("\n{good}"),
            format!("{good}x {}", "y".repeat(1024)),
        ] {
            assert_eq!(pointer(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn attributes_tell_of_lfs() {
        for (text, uses) in [
            ("*.bin filter=lfs diff=lfs merge=lfs -text\n", true),
            ("a\n*.bin\tfilter=lfs\r\n", true),
            ("# *.bin filter=lfs\n", false),
            ("*.bin filter=lfsx\n", false),
            ("", false),
        ] {
            assert_eq!(uses_lfs(text.as_bytes()), uses, "{text:?}");
        }
    }

    #[test]
    fn basic_credentials_are_encoded() {
        for (user, password, text) in [
            ("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("a", "b", "Basic YTpi"),
            ("a", "", "Basic YTo="),
        ] {
            assert_eq!(basic_auth(user, password).unwrap().as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn lfsconfig_names_an_endpoint() {
        let endpoint = |text| configured_endpoint(text).map(|url| url.map(String::from));
        assert_eq!(endpoint("[lfs]\nurl = https://host/x\n"), Ok(Some("https://host/x".to_owned())));
        assert_eq!(endpoint("[core]\n"), Ok(None));
        assert!(endpoint("[lfs]\nurl = file:///etc\n").is_err());
    }
}
