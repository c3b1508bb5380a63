//! Where a git repository lives: the forms of an address that git takes, without those that run programs.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use url::Url;

use crate::source::error::SourceError;
use crate::source::redact::redact;

/// A checked address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GitUrl {
    /// `https://`, `http://`, `ssh://` or `git://`.
    Remote(Url),
    /// `user@host:path`, always ssh.
    Scp {
        /// `user@host` or `host`.
        host: String,
        /// What follows the colon.
        path: String,
    },
    /// A directory of this machine, absolute.
    Local(PathBuf),
}

impl GitUrl {
    /// Takes what `git clone` takes, local paths and `file://` included.
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        let fail = |reason| Err(SourceError::Address { url: redact(text), reason });
        if text.is_empty() {
            return fail("an empty repository address");
        }
        if text.starts_with('-') {
            return fail("a repository address must not begin with `-`");
        }
        if text.contains(['\0', '\n', '\r']) {
            return fail("a repository address must not hold control characters");
        }
        if text.contains("://") {
            let Ok(url) = Url::parse(text) else { return fail("not a valid URL") };
            return match url.scheme() {
                "file" => match url.to_file_path() {
                    Ok(path) => Ok(Self::Local(path)),
                    Err(()) => fail("a file URL must name an absolute path of this machine"),
                },
                "https" | "http" | "ssh" | "git" => match url.host_str() {
                    None | Some("") => fail("a URL without a host"),
                    Some(host) if host.starts_with('-') => fail("a host must not begin with `-`"),
                    Some(_) if url.path().trim_matches('/').is_empty() => {
                        fail("a URL without the path of a repository")
                    }
                    Some(_) => Ok(Self::Remote(url)),
                },
                _ => fail("only https, http, ssh, git and file URLs name repositories"),
            };
        }
        if text.contains("::") {
            return fail("remote helpers (`name::address`) run programs and are refused");
        }
        match text.split_once(':') {
            Some((host, path)) if !host.contains('/') => {
                let bare = host.rsplit_once('@').map_or(host, |(_, host)| host);
                if bare.is_empty() || path.is_empty() {
                    fail("neither a URL nor `host:path`")
                } else if bare.starts_with('-') || path.starts_with('-') {
                    fail("a host or path must not begin with `-`")
                } else {
                    Ok(Self::Scp { host: host.to_owned(), path: path.to_owned() })
                }
            }
            _ => match std::path::absolute(text) {
                Ok(path) => Ok(Self::Local(path)),
                Err(_) => fail("not a path"),
            },
        }
    }

    /// Resolves what a `.gitmodules` of this repository says: `./x` and `../x` are relative to it.
    pub(super) fn submodule(&self, url: &str) -> Result<Self, SourceError> {
        let relative = url == "." || url == ".." || url.starts_with("./") || url.starts_with("../");
        if !relative {
            let target = Self::parse(url)?;
            if matches!(target, Self::Local(_)) && !matches!(self, Self::Local(_)) {
                // As git does since CVE-2022-39253: a stranger's repository names no files of this machine.
                let reason = "a remote repository may not name a path of this machine";
                return Err(SourceError::Address { url: url.to_owned(), reason });
            }
            return Ok(target);
        }
        let fail = || SourceError::Address {
            url: url.to_owned(),
            reason: "the relative address leaves the host of its superproject",
        };
        match self {
            Self::Local(path) => {
                let path = path.to_string_lossy();
                Ok(Self::Local(PathBuf::from(format!("/{}", climb(&path, url).ok_or_else(fail)?))))
            }
            Self::Scp { host, path } => {
                let slash = if path.starts_with('/') { "/" } else { "" };
                // Where it leads is checked as if it had been written out: a path may begin with `-` only now.
                Self::parse(&format!("{host}:{slash}{}", climb(path, url).ok_or_else(fail)?))
            }
            Self::Remote(base) => {
                let mut target = base.clone();
                let path = percent_decode_str(base.path()).decode_utf8_lossy().into_owned();
                target.set_path(&climb(&path, url).ok_or_else(fail)?);
                target.set_query(None);
                Ok(Self::Remote(target))
            }
        }
    }

    /// What libgit2 is given; holds the credentials that the person wrote.
    pub(super) fn transport(&self) -> String {
        match self {
            Self::Remote(url) => url.to_string(),
            Self::Scp { host, path } => format!("{host}:{path}"),
            Self::Local(path) => path.display().to_string(),
        }
    }

    /// The address without credentials.
    pub(super) fn shown(&self) -> String {
        redact(&self.transport())
    }

    /// The host alone, for messages about it.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Remote(url) => url.host_str().unwrap_or_default().to_owned(),
            Self::Scp { host, .. } => host.rsplit_once('@').map_or(&**host, |(_, host)| host).to_owned(),
            Self::Local(path) => path.display().to_string(),
        }
    }

    /// The directory, for a repository of this machine.
    pub(super) fn local(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Remote(_) | Self::Scp { .. } => None,
        }
    }

    /// The base of the Git LFS API: `URL.git/info/lfs`; none for transports that have no such thing.
    pub(super) fn lfs_endpoint(&self) -> Option<Url> {
        let Self::Remote(url) = self else { return None };
        if !matches!(url.scheme(), "https" | "http") {
            return None;
        }
        let mut endpoint = url.clone();
        let path = url.path().trim_end_matches('/');
        let dot_git = if path.ends_with(".git") { "" } else { ".git" };
        endpoint.set_path(&format!("{path}{dot_git}/info/lfs"));
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        Some(endpoint)
    }
}

/// `relative` applied to the slash-separated `base`; none when it climbs past the top.
fn climb(base: &str, relative: &str) -> Option<String> {
    let mut names: Vec<&str> = base.split('/').filter(|name| !name.is_empty()).collect();
    for name in relative.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            _ => names.push(name),
        }
    }
    if names.is_empty() { None } else { Some(names.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_git_takes() {
        for (text, shown) in [
            ("https://github.com/a/b", "https://github.com/a/b"),
            ("https://me:secret@host/a/b.git", "https://host/a/b.git"),
            ("ssh://git@host:22/a.git", "ssh://host:22/a.git"),
            ("git://127.0.0.1:9418/a", "git://127.0.0.1:9418/a"),
            ("git@github.com:a/b.git", "github.com:a/b.git"),
            ("file:///srv/a%20b.git", "/srv/a b.git"),
            ("/srv/a", "/srv/a"),
            ("/srv/a:b", "/srv/a:b"),
        ] {
            assert_eq!(GitUrl::parse(text).unwrap().shown(), shown, "{text}");
        }
    }

    #[test]
    fn hostile_addresses_are_refused() {
        for text in [
            "",
            "-oProxyCommand=x",
            "--upload-pack=x",
            "ext::sh -c x",
            "fd::3",
            "ftp://host/a",
            "https://",
            "https://host/",
            "ssh://-oProxyCommand=x/a",
            "-x@host:a",
            "git@-oProxyCommand=x:a",
            "host:-x",
            ":a",
            "file://elsewhere/srv/a",
            "https://host/a\nb",
        ] {
            assert!(GitUrl::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn submodules_resolve_against_the_superproject() {
        for (base, url, full) in [
            ("https://u:p@host/a/b.git", "../c.git", "https://u:p@host/a/c.git"),
            ("https://host/a/b/", "../../c/d", "https://host/c/d"),
            ("https://host/a%20x/b", "../c", "https://host/a%20x/c"),
            ("https://host/a/b", "./c", "https://host/a/b/c"),
            ("https://host/a/b", "https://other/c", "https://other/c"),
            ("https://host/a/b", "git@other:c", "git@other:c"),
            ("git@host:a/b.git", "../c.git", "git@host:a/c.git"),
            ("git@host:/a/b.git", "../c.git", "git@host:/a/c.git"),
            ("/srv/a/b", "../c", "/srv/a/c"),
            ("/srv/a/b", "/srv/c", "/srv/c"),
            ("file:///srv/a/b", "../c", "/srv/a/c"),
        ] {
            let base = GitUrl::parse(base).unwrap();
            assert_eq!(base.submodule(url).unwrap().transport(), full, "{url}");
        }
    }

    #[test]
    fn submodules_may_not_point_anywhere() {
        for (base, url) in [
            ("https://host/a/b", "/etc"),
            ("https://host/a/b", "file:///etc"),
            ("https://host/a/b", "ext::sh -c x"),
            ("https://host/a/b", "-u"),
            ("https://host/a/b", "../../../c"),
            ("git@host:a", "../.."),
            ("git@host:a/b", "../../--upload-pack=x"),
            ("git@host:a/b", "../c::d"),
        ] {
            assert!(GitUrl::parse(base).unwrap().submodule(url).is_err(), "{url} was taken");
        }
    }

    #[test]
    fn lfs_lives_beside_https_remotes_only() {
        for (url, endpoint) in [
            ("https://host/a/b", Some("https://host/a/b.git/info/lfs")),
            ("http://host:1/a/b.git/", Some("http://host:1/a/b.git/info/lfs")),
            ("ssh://host/a", None),
            ("git@host:a", None),
            ("/srv/a", None),
        ] {
            let found = GitUrl::parse(url).unwrap().lfs_endpoint();
            assert_eq!(found.as_ref().map(Url::as_str), endpoint, "{url}");
        }
    }
}
