//! Git repositories as a person writes them: the URL forms that are read, `REPO@REF`, and what a revision may be.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use percent_encoding::percent_decode_str;

use crate::source::without_secrets;

/// The forms of a repository, for errors.
pub(super) const EXPECTED: &str = "`https://…`, `http://…`, `ssh://…`, `git@host:path`, `git://…`, `file://…`, `OWNER/REPO`, `registry:ID` or an \
     absolute path";

/// How a node of the Comfy Registry is written.
const REGISTRY: &str = "registry:";

/// A checked repository address, or the id of a node in the Comfy Registry, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoUrl(String);

impl RepoUrl {
    /// Checks `text`; the error is (what was found, what would be accepted).
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let fail = |expected: String| Err((format!("{:?}", without_secrets(text)), expected));
        if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
            return fail(EXPECTED.to_owned());
        }
        if text.starts_with('/') {
            return if Path::new(text).components().count() > 1 {
                Ok(Self(text.to_owned()))
            } else {
                fail(EXPECTED.to_owned())
            };
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            if let Some(inner) = scheme.strip_prefix("git+") {
                let plain = format!("{inner}://{rest}");
                return fail(format!("the same without `git+`: `{}`", without_secrets(&plain)));
            }
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            let fit = match scheme {
                "file" => matches!(authority, "" | "localhost"),
                "https" | "http" | "ssh" | "git" => !host.is_empty() && !host.starts_with('-'),
                _ => false,
            };
            if !fit || path.trim_matches('/').is_empty() {
                return fail(EXPECTED.to_owned());
            }
            if matches!(host, "github.com" | "www.github.com") {
                let names: Vec<&str> = path.split('/').collect();
                if let [owner, name, "tree" | "commit", revision, ..] = names[..] {
                    return fail(format!(
                        "a repository, not a page of it: `https://github.com/{owner}/{name}`, with {revision:?} as ref"
                    ));
                }
            }
            return Ok(Self(text.to_owned()));
        }
        if let Some(id) = text.strip_prefix(REGISTRY) {
            let fit = is_plain(id) && id.len() <= 100;
            return match fit {
                true => Ok(Self(text.to_owned())),
                false => fail("`registry:ID`, the id of a node in the Comfy Registry".to_owned()),
            };
        }
        if scp_path(text).is_some() || shorthand(text).is_some() {
            return Ok(Self(text.to_owned()));
        }
        fail(EXPECTED.to_owned())
    }

    /// What git is given: `OWNER/REPO` is a repository of GitHub.
    pub fn address(&self) -> Cow<'_, str> {
        match shorthand(&self.0) {
            Some((owner, name)) => Cow::Owned(format!("https://github.com/{owner}/{name}")),
            None => Cow::Borrowed(&self.0),
        }
    }

    /// The text as it may be published: without a password or token.
    pub fn public(&self) -> Cow<'_, str> {
        without_secrets(&self.0)
    }

    /// The id, for a node of the Comfy Registry.
    pub fn registry_id(&self) -> Option<&str> {
        self.0.strip_prefix(REGISTRY)
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment of the path without `.git`, percent-decoded once: the default directory of a node. May be
    /// empty or unfit as a name.
    pub fn base_name(&self) -> String {
        let path = self.0.trim_end_matches('/');
        let path = path.strip_suffix("/.git").unwrap_or(path);
        let last = path.rsplit(['/', ':']).next().unwrap_or(path);
        let last = last.strip_suffix(".git").unwrap_or(last);
        if self.0.starts_with('/') {
            return last.to_owned();
        }
        percent_decode_str(last).decode_utf8_lossy().into_owned()
    }

    /// The path of a local repository (an absolute path or `file://`); none for a remote one.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        if self.0.starts_with('/') {
            return Some(self.0.clone().into());
        }
        self.0.starts_with("file://").then(|| url::Url::parse(&self.0).ok()?.to_file_path().ok()).flatten()
    }

    /// True when the address carries a password or token, which a spec would publish.
    pub(super) fn has_secret(&self) -> bool {
        self.0.split_once("://").is_some_and(|(scheme, rest)| {
            let authority = rest.split('/').next().unwrap_or(rest);
            authority.rsplit_once('@').is_some_and(|(user, _)| {
                user.contains(':') || (matches!(scheme, "https" | "http") && !user.is_empty())
            })
        })
    }
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name of the Registry or of GitHub: letters, digits, `.`, `_` and `-`, beginning with a letter, digit or `_`.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The parts of `OWNER/REPO`.
fn shorthand(text: &str) -> Option<(&str, &str)> {
    text.split_once('/').filter(|(owner, name)| is_plain(owner) && is_plain(name))
}

/// The path of `user@host:path` (or `host.tld:path`), if `text` is such an address.
fn scp_path(text: &str) -> Option<&str> {
    let (host, path) = text.split_once(':')?;
    let (user, host) = host.split_once('@')?;
    let plain = |s: &str| !s.is_empty() && !s.starts_with('-') && !s.contains(['/', '@']) && !s.contains(' ');
    (plain(user) && plain(host) && !path.trim_matches('/').is_empty()).then_some(path)
}

/// Splits `REPO@REF`. The `@` of `git@host:` and of `user@host` in a URL separates nothing, nor does one that starts a
/// path segment (`/@scope/name`); of the others the first counts, because refs such as `pkg@1.0` hold one, and
/// repositories do not. Neither part is checked.
pub fn split_ref(text: &str) -> (&str, Option<&str>) {
    let path_start = if let Some(at) = text.find("://") {
        let authority = at + 3;
        text[authority..].find('/').map_or(text.len(), |slash| authority + slash)
    } else if let Some(path) = scp_path(text) {
        text.len() - path.len()
    } else {
        0
    };
    let separator = text[path_start..]
        .char_indices()
        .map(|(at, c)| (path_start + at, c))
        .find(|&(at, c)| c == '@' && at > 0 && !matches!(text.as_bytes()[at - 1], b'/' | b':'))
        .map(|(at, _)| at);
    match separator {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// As [`split_ref`], but a local path that exists as it stands has no ref.
pub(super) fn split_ref_of_arg(text: &str) -> (&str, Option<&str>) {
    if text.starts_with('/') && Path::new(text).exists() { (text, None) } else { split_ref(text) }
}

/// Which commit of a repository is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revision {
    /// What the remote's HEAD names.
    Head,
    /// A whole commit id: 40 lower-case hexadecimal digits.
    Commit(String),
    /// A branch, a tag, a full ref name, or the first digits of a commit id.
    Name(String),
}

impl Revision {
    /// Reads a ref or a commit; the error says what would be accepted. The rules are those of `git check-ref-format`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "HEAD" {
            return Ok(Self::Head);
        }
        if text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self::Commit(text.to_ascii_lowercase()));
        }
        let bad_char = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
        if text.is_empty()
            || text.starts_with('-')
            || text.ends_with('.')
            || text == "@"
            || text.contains(bad_char)
            || text.contains("..")
            || text.contains("@{")
            || text.split('/').any(bad_part)
        {
            return Err("a branch, a tag, a full ref name or a commit id".to_owned());
        }
        Ok(Self::Name(text.to_owned()))
    }

    /// The commit, where it is one.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Self::Commit(commit) => Some(commit),
            Self::Head | Self::Name(_) => None,
        }
    }

    /// As it stands in the lock: `None` for HEAD.
    pub fn requested(&self) -> Option<&str> {
        match self {
            Self::Head => None,
            Self::Commit(text) | Self::Name(text) => Some(text),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.requested().unwrap_or("HEAD"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_read_in_every_form() {
        for (text, name) in [
            ("https://github.com/o/Node.git", "Node"),
            ("https://github.com/o/Node/", "Node"),
            ("https://user@host:8443/a/My%20Node", "My Node"),
            ("http://127.0.0.1:9/x.git", "x"),
            ("ssh://git@host:2222/~/x.git", "x"),
            ("git@github.com:o/r.git", "r"),
            ("git@host:r", "r"),
            ("git://host/r", "r"),
            ("file:///srv/r", "r"),
            ("/srv/r/.git", "r"),
            ("/srv/a%20b", "a%20b"),
            ("owner/Node.git", "Node"),
            ("registry:comfyui-kjnodes", "comfyui-kjnodes"),
        ] {
            let repo = RepoUrl::parse(text).unwrap();
            assert_eq!((repo.as_str(), repo.base_name().as_str()), (text, name));
        }
        let local = |text: &str| RepoUrl::parse(text).unwrap().local_path();
        assert_eq!(local("file:///a%20b"), Some("/a b".into()));
        assert_eq!(local("/a%20b"), Some("/a%20b".into()));
        assert_eq!(local("https://h/a"), None);
        let address = |text: &str| RepoUrl::parse(text).unwrap().address().into_owned();
        assert_eq!(address("owner/Node"), "https://github.com/owner/Node");
        assert_eq!(address("https://h/o/r"), "https://h/o/r");
        assert_eq!(RepoUrl::parse("registry:a-b").unwrap().registry_id(), Some("a-b"));
    }

    #[test]
    fn what_is_not_a_repository_is_refused() {
        let bads = [
            "",
            " ",
            "x",
            "./r",
            "../r",
            "o/r@main",
            "o/r/x",
            "-o/r",
            "https://",
            "https://host",
            "https:///x",
            "ftp://h/x",
            "ssh://-oProxy/x",
            "file://host/x",
            "git@host:",
            "-x@h:y",
            "a\nb",
            "C:\\r",
            " https://h/x",
            "/",
        ];
        for bad in bads {
            assert_eq!(RepoUrl::parse(bad), Err((format!("{bad:?}"), EXPECTED.to_owned())));
        }
        let expected = |text| RepoUrl::parse(text).unwrap_err().1;
        assert_eq!(expected("registry:"), "`registry:ID`, the id of a node in the Comfy Registry");
        assert_eq!(expected("registry:a/b"), "`registry:ID`, the id of a node in the Comfy Registry");
        assert_eq!(expected("git+https://h/x"), "the same without `git+`: `https://h/x`");
        assert_eq!(
            expected("https://github.com/o/r/tree/dev"),
            "a repository, not a page of it: `https://github.com/o/r`, with \"dev\" as ref"
        );
    }

    #[test]
    fn the_at_sign_of_a_user_is_not_a_ref() {
        for (text, repo, reference) in [
            ("https://h/o/r", "https://h/o/r", None),
            ("https://h/o/r@main", "https://h/o/r", Some("main")),
            ("https://u:p@h/o/r", "https://u:p@h/o/r", None),
            ("https://u@h/o/r.git@feature/x", "https://u@h/o/r.git", Some("feature/x")),
            ("https://h/o/r@pkg@1.0", "https://h/o/r", Some("pkg@1.0")),
            ("https://h/@scope/r@v1", "https://h/@scope/r", Some("v1")),
            ("https://h/@scope/r", "https://h/@scope/r", None),
            ("https://h@x", "https://h@x", None),
            ("git@h:o/r", "git@h:o/r", None),
            ("git@h:o/r@main", "git@h:o/r", Some("main")),
            ("git@h:r@v1", "git@h:r", Some("v1")),
            ("ssh://git@h/o/r@v1", "ssh://git@h/o/r", Some("v1")),
            ("/srv/r@main", "/srv/r", Some("main")),
            ("file:///srv/r@", "file:///srv/r", Some("")),
            ("o/r@main", "o/r", Some("main")),
            ("@", "@", None),
        ] {
            assert_eq!(split_ref(text), (repo, reference), "{text}");
        }
    }

    #[test]
    fn revisions_follow_gits_rules() {
        let commit = "196954ab8c55bc4ac48113686a57ce250677c7b5";
        assert_eq!(Revision::parse(&commit.to_uppercase()), Ok(Revision::Commit(commit.to_owned())));
        assert_eq!(Revision::parse("HEAD"), Ok(Revision::Head));
        for good in ["main", "feature/x", "refs/pull/1/head", "v1.0", "pkg@1.0", "196954ab", "é"] {
            assert_eq!(Revision::parse(good), Ok(Revision::Name(good.to_owned())));
        }
        for bad in
            ["", "-x", "a b", "a..b", "a:b", "a^", "a//b", "/a", "a/", ".a", "a.lock", "@{1}", "a.", "a\n"]
        {
            assert!(Revision::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secrets_are_seen() {
        for (text, secret) in [
            ("https://ghp_x@github.com/o/r", true),
            ("https://u:p@h/r", true),
            ("ssh://git@h/r", false),
            ("ssh://git:p@h/r", true),
            ("git@h:r", false),
            ("https://h/a@b", false),
        ] {
            assert_eq!(RepoUrl::parse(text).unwrap().has_secret(), secret, "{text}");
        }
    }
}
