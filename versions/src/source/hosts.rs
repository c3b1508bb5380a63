//! The hosts that cvs knows by name, where they are, and what opens them. All of it comes from the environment, under
//! the names that these hosts' own programs read. A token goes to its own host alone.
//!
//! ```text
//! HF_ENDPOINT                         the hub, https://huggingface.co unless it says otherwise
//! HF_TOKEN, HUGGINGFACE_TOKEN         its token, else the file of
//! HF_TOKEN_PATH, HF_HOME/token        … which `hf auth login` writes (~/.cache/huggingface/token)
//! HF_HUB_CACHE, HF_HOME/hub           its local cache (~/.cache/huggingface/hub)
//! CIVITAI_ENDPOINT, CIVITAI_TOKEN     Civitai, https://civitai.com unless it says otherwise, and its token
//! ```

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use url::Url;

use super::error::SourceError;
use super::redact::{redact, redact_url};

const HUB: &str = "https://huggingface.co";
const CIVITAI: &str = "https://civitai.com";
/// Where RunPod keeps the models that an endpoint names, in the layout of the hub's own cache.
const RUNPOD_CACHE: &str = "/runpod-volume/huggingface-cache/hub";

/// A secret for one host, and where it was found. It never shows.
#[derive(Clone, PartialEq, Eq)]
struct Token {
    from: String,
    value: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.from)
    }
}

/// One host.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its address, without a slash at the end of a path.
    pub(crate) base: Url,
    /// The variable that its token is looked for in first.
    pub(crate) variable: &'static str,
    token: Option<Token>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({}, {:?})", redact_url(&self.base), self.token)
    }
}

impl Host {
    /// The address of these segments below the host's; each is encoded, slashes within included.
    pub(crate) fn at<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// True when `url` is at this host: the same scheme, name and port.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Whether there is a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What opens `url`: the token where that is at this host, nothing anywhere else.
    pub(crate) fn headers(&self, url: &Url) -> Result<HeaderMap, SourceError> {
        let mut headers = HeaderMap::new();
        if let Some(token) = self.token.as_ref().filter(|_| self.owns(url)) {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.value));
            let mut value = value.map_err(|_| SourceError::Token { from: token.from.clone() })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hosts {
    pub(crate) hub: Host,
    /// Directories in the layout of the hub's cache, in the order in which they are looked into.
    pub(crate) hub_caches: Vec<PathBuf>,
    pub(crate) civitai: Host,
}

impl Hosts {
    /// As the environment says.
    pub(crate) fn from_env() -> Result<Self, SourceError> {
        Self::read(&|name| std::env::var_os(name))
    }

    fn read(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, SourceError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let token = |names: &[&str]| {
            names.iter().find_map(|name| {
                let value = text(name)?.trim().to_owned();
                (!value.is_empty()).then(|| Token { from: (*name).to_owned(), value })
            })
        };
        let base = |name: &'static str, default: &str| -> Result<Url, SourceError> {
            let value = text(name).unwrap_or_else(|| default.to_owned());
            let url = Url::parse(value.trim_end_matches('/')).ok();
            url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .ok_or_else(|| SourceError::Endpoint { variable: name, value: redact(&value) })
        };
        let path = |name: &str| set(name).map(PathBuf::from);
        let home = path("HF_HOME").or_else(|| {
            let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
            Some(cache.join("huggingface"))
        });
        let from_file = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
            // No file is no token; so is one that only others may read.
            let value = std::fs::read_to_string(&file).ok()?.trim().to_owned();
            (!value.is_empty()).then(|| Token { from: file.display().to_string(), value })
        };
        let own = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let own = own.or_else(|| Some(home.as_ref()?.join("hub")));
        Ok(Self {
            hub: Host {
                base: base("HF_ENDPOINT", HUB)?,
                variable: "HF_TOKEN",
                token: token(&["HF_TOKEN", "HUGGINGFACE_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(from_file),
            },
            hub_caches: own.into_iter().chain([PathBuf::from(RUNPOD_CACHE)]).collect(),
            civitai: Host {
                base: base("CIVITAI_ENDPOINT", CIVITAI)?,
                variable: "CIVITAI_TOKEN",
                token: token(&["CIVITAI_TOKEN"]),
            },
        })
    }
}

#[cfg(test)]
impl Hosts {
    /// Of these variables and no others.
    pub(super) fn of(variables: &[(&str, &str)]) -> Result<Self, SourceError> {
        Self::read(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(variables: &[(&str, &str)]) -> Option<String> {
        let hub = Hosts::of(variables).unwrap().hub;
        hub.token.map(|token| format!("{} from {}", token.value, token.from))
    }

    #[test]
    fn the_environment_says_where_things_are() {
        let plain = Hosts::of(&[("HOME", "/h")]).unwrap();
        assert_eq!(plain.hub.base.as_str(), "https://huggingface.co/");
        assert_eq!(
            plain.hub.at(["o/r", "resolve", "refs/pr/1", "a b"]).as_str(),
            "https://huggingface.co/o%2Fr/resolve/refs%2Fpr%2F1/a%20b"
        );
        assert_eq!(plain.civitai.base.as_str(), "https://civitai.com/");
        for (variables, cache) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")], "/hub"),
        ] {
            let caches = Hosts::of(variables).unwrap().hub_caches;
            assert_eq!(caches, [PathBuf::from(cache), PathBuf::from(RUNPOD_CACHE)]);
        }
        let mirror = Hosts::of(&[("HF_ENDPOINT", "https://mirror/hf/")]).unwrap();
        assert_eq!(mirror.hub.at(["o", "r"]).as_str(), "https://mirror/hf/o/r");
        let error = Hosts::of(&[("CIVITAI_ENDPOINT", "ftp://u:p@x")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CIVITAI_ENDPOINT is \"ftp://x/\", and must be an http or https address"
        );
    }

    #[test]
    fn tokens_are_found_in_order_and_go_home_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "  hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        for (variables, expected) in [
            (&[][..], None),
            (&[("HF_TOKEN", " "), ("HUGGINGFACE_TOKEN", "b")], Some("b from HUGGINGFACE_TOKEN".to_owned())),
            (&[("HF_TOKEN", "a"), ("HF_HOME", home)], Some("a from HF_TOKEN".to_owned())),
            (&[("HF_HOME", home)], Some(format!("hf_file from {}", file.display()))),
            (&[("HF_HOME", home), ("HF_TOKEN_PATH", "/nowhere")], None),
        ] {
            assert_eq!(token(variables), expected);
        }
        let hosts = Hosts::of(&[("HF_TOKEN", "secret"), ("HF_ENDPOINT", "https://hub")]).unwrap();
        assert!(!format!("{hosts:?}").contains("secret"));
        for (url, sent) in [
            ("https://hub/x", true),
            ("http://hub/x", false),
            ("https://hub:444/x", false),
            ("https://cdn.hub/x", false),
            ("https://huggingface.co/x", false),
        ] {
            let headers = hosts.hub.headers(&url.parse().unwrap()).unwrap();
            assert_eq!(headers.contains_key(AUTHORIZATION), sent, "{url}");
        }
        let broken = Hosts::of(&[("CIVITAI_TOKEN", "a\nb")]).unwrap().civitai;
        let error = broken.headers(&broken.base).unwrap_err();
        assert_eq!(error.to_string(), "the token in CIVITAI_TOKEN has characters that no token has");
    }
}
