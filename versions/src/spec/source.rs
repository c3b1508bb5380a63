//! Where a model comes from: the forms that are read, and the identity by which two writings of one source are known
//! as the same. Percent-encoding is decoded once, everywhere.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cvs_store::check_name;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::source::redact;

/// The forms of a model source, for errors.
pub(super) const EXPECTED: &str = "`https://…`, `http://…`, `hf://ORG/REPO/PATH`, `civitai://…`, `s3://…`, `gs://…`, `az://…`, `file://…` or an absolute path";

/// A parsed model source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// A file of this machine (an absolute path, or `file://`).
    Local(PathBuf),
    /// A URL that is fetched as it is.
    Http(Url),
    /// A file of the Hugging Face hub, by `hf://` or by its `…/resolve/…` URL.
    Hub(HubFile),
    /// A file of Civitai, by `civitai://`, by its download URL or by the address of its page.
    Civitai(CivitaiFile),
    /// An object in a bucket.
    Bucket(BucketFile),
}

/// An object in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketFile {
    /// `s3`, `gs` or `az`.
    pub scheme: String,
    /// The bucket; the container for `az`.
    pub bucket: String,
    /// The object's name, as it is written: nothing is decoded.
    pub key: String,
}

/// A file in a repository of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubFile {
    /// What kind of repository.
    pub kind: HubKind,
    /// `ORG/NAME`, or `NAME` alone for the oldest repositories.
    pub repo: String,
    /// A branch, tag or commit; `main` where none is written.
    pub revision: String,
    /// The path in the repository, decoded.
    pub path: String,
}

/// The kinds of repositories of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HubKind {
    /// A model repository, the default.
    Model,
    /// `datasets/…`.
    Dataset,
    /// `spaces/…`.
    Space,
}

/// A file of Civitai.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CivitaiFile {
    /// `api/download/models/ID?…`: one model version; the query chooses among its files.
    Version {
        /// The id of the model version.
        id: u64,
        /// The query without `?` and tokens, sorted; may be empty.
        query: String,
    },
    /// `civitai://models/ID`, and the page of the model: its newest version.
    Model {
        /// The id of the model.
        id: u64,
    },
}

impl ModelSource {
    /// Reads a source; the error is (what was found, what would be accepted).
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let fail =
            |expected: &str| Err((format!("{:?}", redact::without_secrets(text)), expected.to_owned()));
        if text.trim() != text || text.chars().any(char::is_control) {
            return fail(EXPECTED);
        }
        if text.starts_with('/') {
            return if text.ends_with('/') {
                fail("the path of a file")
            } else {
                Ok(Self::Local(text.into()))
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else { return fail(EXPECTED) };
        match scheme {
            "hf" | "huggingface" => match hub_reference(rest) {
                Some(file) => Ok(Self::Hub(file)),
                None => fail("`hf://ORG/REPO/PATH` or `hf://ORG/REPO@REVISION/PATH`"),
            },
            "civitai" => match civitai_reference(rest) {
                Some(file) => Ok(Self::Civitai(file)),
                None => fail("`civitai://api/download/models/ID` or `civitai://models/ID`"),
            },
            "s3" | "gs" | "az" => match rest.split_once('/') {
                Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() && !key.ends_with('/') => {
                    let (scheme, bucket, key) = (scheme.to_owned(), bucket.to_owned(), key.to_owned());
                    Ok(Self::Bucket(BucketFile { scheme, bucket, key }))
                }
                _ => fail(&format!("`{scheme}://BUCKET/PATH`")),
            },
            "file" => match Url::parse(text).ok().and_then(|url| url.to_file_path().ok()) {
                // No path of this machine has a NUL byte, but an address can spell one.
                Some(path) if !text.ends_with('/') && !path.as_os_str().as_bytes().contains(&0) => {
                    Ok(Self::Local(path))
                }
                _ => fail("`file:///` and the absolute path of a file"),
            },
            "http" | "https" => {
                let Ok(url) = Url::parse(text) else { return fail("a valid URL") };
                web_source(url).or_else(|expected| fail(&expected))
            }
            _ => fail(EXPECTED),
        }
    }

    /// The name that the file has at its source, fit for a file; none where only the server knows it.
    pub fn file_name(&self) -> Option<String> {
        let fit = |name: &&str| check_name(name.as_bytes()).is_ok();
        let last = |path: &str| path.rsplit('/').next().filter(fit).map(str::to_owned);
        match self {
            Self::Local(path) => last(path.to_str()?),
            Self::Hub(file) => last(&file.path),
            // Without an extension it is an endpoint such as `/download`, not the name of a model.
            Self::Http(url) => last(&decode(url.path())).filter(|name| name.contains('.')),
            Self::Bucket(file) => last(&file.key),
            Self::Civitai(_) => None,
        }
    }

    /// The names of the directories that the file lies in at its source.
    pub(super) fn directories(&self) -> Vec<String> {
        let path = match self {
            Self::Local(path) => path.to_string_lossy().into_owned(),
            Self::Hub(file) => file.path.clone(),
            Self::Http(url) => decode(url.path()),
            Self::Bucket(file) => file.key.clone(),
            Self::Civitai(_) => return Vec::new(),
        };
        let mut names: Vec<String> = path.split('/').map(str::to_owned).collect();
        names.pop();
        names
    }

    /// A text that is equal for two writings of the same source, and only then. It holds no secret: what opens a
    /// source does not choose it.
    pub fn identity(&self) -> String {
        match self {
            Self::Local(path) => format!("file:{}", path.display()),
            Self::Http(url) => {
                let mut url = redact::public_url(url);
                url.set_fragment(None);
                url.to_string()
            }
            Self::Hub(HubFile { kind, repo, revision, path }) => {
                let prefix = match kind {
                    HubKind::Model => "",
                    HubKind::Dataset => "datasets/",
                    HubKind::Space => "spaces/",
                };
                format!("hf:{prefix}{repo}@{revision}:{path}")
            }
            Self::Civitai(CivitaiFile::Version { id, query }) => format!("civitai:{id}?{query}"),
            Self::Civitai(CivitaiFile::Model { id }) => format!("civitai:model:{id}"),
            Self::Bucket(BucketFile { scheme, bucket, key }) => format!("{scheme}://{bucket}/{key}"),
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity())
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A file of the hub or of Civitai where the URL is known to be one, else the URL itself.
fn web_source(url: Url) -> Result<ModelSource, String> {
    let segments: Vec<&str> = url.path_segments().map(Iterator::collect).unwrap_or_default();
    match url.host_str() {
        // Other ports and plain http are somebody's mirror: taken as they are.
        Some("huggingface.co" | "www.huggingface.co" | "hf.co") if is_default_https(&url) => {
            let (kind, rest) = hub_kind(&segments);
            let action = rest.iter().position(|&name| matches!(name, "resolve" | "blob" | "raw"));
            let Some(at @ (1 | 2)) = action else { return Ok(ModelSource::Http(url)) };
            let (repo, [action, revision, path @ ..]) = rest.split_at(at) else {
                return Ok(ModelSource::Http(url));
            };
            if path.iter().all(|name| name.is_empty()) {
                return Err("`https://huggingface.co/ORG/REPO/resolve/REVISION/PATH`".to_owned());
            }
            // A page about the file names the file; `raw` may be a pointer to it.
            if *action == "raw" {
                let file = url.path().replacen(&format!("/{action}/"), "/resolve/", 1);
                return Err(format!("the file, not a page about it: `https://huggingface.co{file}`"));
            }
            Ok(ModelSource::Hub(HubFile {
                kind,
                repo: decode(&repo.join("/")),
                revision: decode(revision),
                path: decode(&path.join("/")),
            }))
        }
        Some("civitai.com" | "www.civitai.com") if is_default_https(&url) => {
            let reference = match url.query() {
                Some(query) => format!("{}?{query}", &url.path()[1..]),
                None => url.path()[1..].to_owned(),
            };
            Ok(civitai_reference(&reference).map_or(ModelSource::Http(url), ModelSource::Civitai))
        }
        Some(_) => Ok(ModelSource::Http(url)),
        None => Err("a URL with a host".to_owned()),
    }
}

fn is_default_https(url: &Url) -> bool {
    url.scheme() == "https" && url.port().is_none()
}

fn hub_kind<'a, 'b>(segments: &'a [&'b str]) -> (HubKind, &'a [&'b str]) {
    match segments {
        ["datasets", rest @ ..] => (HubKind::Dataset, rest),
        ["spaces", rest @ ..] => (HubKind::Space, rest),
        ["models", rest @ ..] => (HubKind::Model, rest),
        rest => (HubKind::Model, rest),
    }
}

/// `[datasets/|spaces/]ORG/REPO[@REVISION]/PATH`, the form of the hub's own client.
fn hub_reference(rest: &str) -> Option<HubFile> {
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let segments: Vec<&str> = rest.split('/').collect();
    let (kind, [org, name, path @ ..]) = hub_kind(&segments) else { return None };
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    if [*org, name, revision].contains(&"") || path.is_empty() || path.contains(&"") {
        return None;
    }
    Some(HubFile {
        kind,
        repo: decode(&format!("{org}/{name}")),
        revision: decode(revision),
        path: decode(&path.join("/")),
    })
}

fn civitai_reference(rest: &str) -> Option<CivitaiFile> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let id = |text: &str| text.parse::<u64>().ok();
    match path.trim_end_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["api", "download", "models", version] => {
            let mut pairs: Vec<&str> =
                query.split('&').filter(|pair| !pair.is_empty() && !redact::opens(pair)).collect();
            pairs.sort_unstable();
            Some(CivitaiFile::Version { id: id(version)?, query: pairs.join("&") })
        }
        // `models/ID`, or the page with its title behind; the page of one version says which.
        ["models", model] | ["models", model, _] => {
            let model = id(model)?;
            let chosen = query.split('&').find_map(|pair| pair.strip_prefix("modelVersionId="));
            match chosen {
                Some(version) => Some(CivitaiFile::Version { id: id(version)?, query: String::new() }),
                None => Some(CivitaiFile::Model { id: model }),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_one_identity_however_it_is_written() {
        let sha = "416598a2eefa2f1b02bea859bda45f18208a53cb";
        for (text, identity, name) in [
            ("hf://o/r/a/b.pth", "hf:o/r@main:a/b.pth", Some("b.pth")),
            ("hf://o/r@v1/b%20c.pth", "hf:o/r@v1:b c.pth", Some("b c.pth")),
            ("hf://datasets/o/r/b%2520.pth", "hf:datasets/o/r@main:b%20.pth", Some("b%20.pth")),
            (
                "https://huggingface.co/o/r/resolve/main/a/b.pth?download=true",
                "hf:o/r@main:a/b.pth",
                Some("b.pth"),
            ),
            (
                &format!("https://huggingface.co/spaces/o/r/resolve/{sha}/w.pth"),
                &format!("hf:spaces/o/r@{sha}:w.pth"),
                Some("w.pth"),
            ),
            ("https://huggingface.co/gpt2/resolve/main/m.bin", "hf:gpt2@main:m.bin", Some("m.bin")),
            (
                "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/m.bin",
                "hf:o/r@refs/pr/1:m.bin",
                Some("m.bin"),
            ),
            (
                "https://hf-mirror.com/o/r/resolve/main/m.bin",
                "https://hf-mirror.com/o/r/resolve/main/m.bin",
                Some("m.bin"),
            ),
            ("civitai://api/download/models/12?type=Model&format=X", "civitai:12?format=X&type=Model", None),
            ("https://civitai.com/api/download/models/12?token=t", "civitai:12?", None),
            ("civitai://models/7", "civitai:model:7", None),
            ("https://civitai.com/models/7/a-title", "civitai:model:7", None),
            ("https://civitai.com/models/7?modelVersionId=12", "civitai:12?", None),
            ("huggingface://o/r/b.pth", "hf:o/r@main:b.pth", Some("b.pth")),
            ("https://huggingface.co/o/r/blob/main/x.bin", "hf:o/r@main:x.bin", Some("x.bin")),
            ("s3://bucket/a/x%20y.bin", "s3://bucket/a/x%20y.bin", Some("x%20y.bin")),
            ("https://u:p@h/x.bin?a=1&token=t", "https://h/x.bin?a=1&token=***", Some("x.bin")),
            ("https://h/x.bin?key=1&sig=t", "https://h/x.bin?key=1&sig=***", Some("x.bin")),
            ("HTTPS://Host:443/a%20b.bin#x", "https://host/a%20b.bin", Some("a b.bin")),
            ("http://127.0.0.1:80/x.bin?a=b", "http://127.0.0.1/x.bin?a=b", Some("x.bin")),
            ("https://h/r/vae%2Fx.bin", "https://h/r/vae%2Fx.bin", Some("x.bin")),
            ("https://h/x.bin%2F..", "https://h/x.bin%2F..", None),
            ("https://h/api/download", "https://h/api/download", None),
            ("file:///a%20b.bin", "file:/a b.bin", Some("a b.bin")),
            ("/a%20b.bin", "file:/a%20b.bin", Some("a%20b.bin")),
        ] {
            let text = if text.starts_with("HTTPS") { &text.replacen("HTTPS", "https", 1) } else { text };
            let source = ModelSource::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(
                (source.identity().as_str(), source.file_name().as_deref()),
                (identity, name),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_source_says_what_is() {
        let hub = "`hf://ORG/REPO/PATH` or `hf://ORG/REPO@REVISION/PATH`";
        for (bad, expected) in [
            ("", EXPECTED),
            ("x.bin", EXPECTED),
            ("./x.bin", EXPECTED),
            ("ftp://h/x", EXPECTED),
            ("s3://b", "`s3://BUCKET/PATH`"),
            ("gs:///x", "`gs://BUCKET/PATH`"),
            ("az://b/x/", "`az://BUCKET/PATH`"),
            (" https://h/x", EXPECTED),
            ("hf://o/r", hub),
            ("hf://o/r/", hub),
            ("hf://o//x", hub),
            ("hf://o/r@/x", hub),
            ("civitai://12", "`civitai://api/download/models/ID` or `civitai://models/ID`"),
            ("file://host/x", "`file:///` and the absolute path of a file"),
            ("file:///a%00b", "`file:///` and the absolute path of a file"),
            ("file:///x/", "`file:///` and the absolute path of a file"),
            ("/x/", "the path of a file"),
            ("https://", "a valid URL"),
            (
                "https://huggingface.co/o/r/raw/main/x.bin",
                "the file, not a page about it: `https://huggingface.co/o/r/resolve/main/x.bin`",
            ),
            (
                "https://huggingface.co/o/r/resolve/main/",
                "`https://huggingface.co/ORG/REPO/resolve/REVISION/PATH`",
            ),
        ] {
            assert_eq!(ModelSource::parse(bad), Err((format!("{bad:?}"), expected.to_owned())));
        }
    }
}
