//! From what a person wrote to a commit, given the list of references that a remote advertises. Pure: no network.

use crate::near::near;
use crate::source::error::SourceError;

/// One advertised reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteRef {
    /// `HEAD`, `refs/heads/main`, `refs/tags/v1^{}`, …
    pub(super) name: String,
    /// The object it names; for a `^{}` the commit within a tag.
    pub(super) oid: git2::Oid,
}

/// What a remote told on being asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Advertised {
    pub(super) refs: Vec<RemoteRef>,
    /// The full name of the branch that HEAD points to.
    pub(super) head: Option<String>,
}

/// A reference as understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The commit, and the full name that led there.
    Commit(git2::Oid, String),
    /// Hexadecimal digits that no reference begins with: only the history can tell.
    Prefix(String),
}

impl Advertised {
    /// The object of exactly this name, tags peeled.
    fn peeled(&self, name: &str) -> Option<git2::Oid> {
        let get = |name: &str| self.refs.iter().find(|r| r.name == name).map(|r| r.oid);
        get(&format!("{name}^{{}}")).or_else(|| get(name))
    }

    /// The default branch without `refs/heads/`.
    pub(super) fn default_branch(&self) -> Option<String> {
        let head = self.head.as_deref()?;
        Some(head.strip_prefix("refs/heads/").unwrap_or(head).to_owned())
    }

    /// The references that point to `commit`, branches first.
    pub(super) fn pointing_to(&self, commit: git2::Oid) -> Option<&str> {
        let mut names: Vec<&str> = self
            .refs
            .iter()
            .filter(|r| r.oid == commit && r.name != "HEAD")
            .map(|r| r.name.strip_suffix("^{}").unwrap_or(&r.name))
            .collect();
        names.sort_by_key(|name| (!name.starts_with("refs/heads/"), !name.starts_with("refs/tags/"), *name));
        names.first().copied()
    }

    /// Finds `reference`; none means the default branch. `url` is named in errors.
    pub(super) fn find(&self, url: &str, reference: Option<&str>) -> Result<Found, SourceError> {
        if self.refs.is_empty() {
            return Err(SourceError::EmptyRepository { url: url.to_owned() });
        }
        let reference = match reference {
            None | Some("HEAD" | "") => {
                let name = self.head.as_deref().unwrap_or("HEAD");
                return match self.peeled("HEAD").or_else(|| self.peeled(name)) {
                    Some(oid) => Ok(Found::Commit(oid, name.to_owned())),
                    None => Err(self.unknown(url, "HEAD")),
                };
            }
            Some(reference) => reference,
        };
        if let Some(oid) = self.peeled(reference) {
            return Ok(Found::Commit(oid, reference.to_owned()));
        }
        let candidates: Vec<(git2::Oid, String)> = ["refs/tags/", "refs/heads/", "refs/"]
            .iter()
            .map(|prefix| format!("{prefix}{reference}"))
            .filter_map(|name| Some((self.peeled(&name)?, name)))
            .collect();
        match candidates.as_slice() {
            [] if is_short_id(reference) => self.find_prefix(url, reference),
            [] => Err(self.unknown(url, reference)),
            [(oid, name), rest @ ..] if rest.iter().all(|(other, _)| other == oid) => {
                Ok(Found::Commit(*oid, name.clone()))
            }
            several => Err(self.ambiguous(url, reference, several.iter().map(|(_, name)| name.clone()))),
        }
    }

    fn find_prefix(&self, url: &str, prefix: &str) -> Result<Found, SourceError> {
        let prefix = prefix.to_ascii_lowercase();
        let mut hits: Vec<git2::Oid> = self
            .refs
            .iter()
            .filter(|r| r.oid.to_string().starts_with(&prefix))
            .filter_map(|r| self.peeled(r.name.strip_suffix("^{}").unwrap_or(&r.name)))
            .collect();
        hits.sort_unstable();
        hits.dedup();
        match hits.as_slice() {
            [] => Ok(Found::Prefix(prefix)),
            [oid] => Ok(Found::Commit(*oid, oid.to_string())),
            several => Err(self.ambiguous(url, &prefix, several.iter().map(ToString::to_string))),
        }
    }

    fn ambiguous(&self, url: &str, reference: &str, names: impl Iterator<Item = String>) -> SourceError {
        SourceError::AmbiguousRef {
            url: url.to_owned(),
            reference: reference.to_owned(),
            candidates: names.collect(),
            default_branch: self.default_branch(),
        }
    }

    /// The error for a name that is not there, with those that look like it.
    pub(super) fn unknown(&self, url: &str, reference: &str) -> SourceError {
        let names = self.refs.iter().filter(|r| !r.name.ends_with("^{}")).filter_map(|r| {
            ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| r.name.strip_prefix(prefix))
        });
        let near = near(reference, names);
        SourceError::UnknownRef {
            url: url.to_owned(),
            reference: reference.to_owned(),
            near,
            default_branch: self.default_branch(),
        }
    }
}

/// A full object id.
pub(super) fn full_id(text: &str) -> Option<git2::Oid> {
    let hex = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { git2::Oid::from_str(text).ok() } else { None }
}

fn is_short_id(text: &str) -> bool {
    (4..40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(digit: char) -> git2::Oid {
        git2::Oid::from_str(&digit.to_string().repeat(40)).unwrap()
    }

    fn remote() -> Advertised {
        let refs = [
            ("HEAD", 'a'),
            ("refs/heads/main", 'a'),
            ("refs/heads/feature/x", 'b'),
            ("refs/heads/both", 'b'),
            ("refs/heads/same", 'c'),
            ("refs/pull/7/head", 'd'),
            ("refs/tags/both", 'c'),
            ("refs/tags/same", 'c'),
            ("refs/tags/v1.0", 'e'),
            ("refs/tags/v1.0^{}", 'a'),
            ("refs/tags/v1.1", 'b'),
        ];
        let refs =
            refs.iter().map(|(name, c)| RemoteRef { name: (*name).to_owned(), oid: oid(*c) }).collect();
        Advertised { refs, head: Some("refs/heads/main".to_owned()) }
    }

    #[test]
    fn names_resolve_as_git_does() {
        for (reference, commit, name) in [
            (None, 'a', "refs/heads/main"),
            (Some("HEAD"), 'a', "refs/heads/main"),
            (Some("main"), 'a', "refs/heads/main"),
            (Some("feature/x"), 'b', "refs/heads/feature/x"),
            (Some("v1.0"), 'a', "refs/tags/v1.0"),
            (Some("refs/tags/both"), 'c', "refs/tags/both"),
            (Some("same"), 'c', "refs/tags/same"),
            (Some("pull/7/head"), 'd', "refs/pull/7/head"),
        ] {
            let found = remote().find("u", reference).unwrap();
            assert_eq!(found, Found::Commit(oid(commit), name.to_owned()), "{reference:?}");
        }
        assert_eq!(remote().find("u", Some("BBBBB")).unwrap(), Found::Commit(oid('b'), oid('b').to_string()));
        // The id of the tag object leads to the commit in it.
        assert_eq!(remote().find("u", Some("eeee")).unwrap(), Found::Commit(oid('a'), oid('a').to_string()));
        assert_eq!(remote().find("u", Some("1234abc")).unwrap(), Found::Prefix("1234abc".to_owned()));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        for (reference, message) in [
            ("mian", "u has no branch, tag or commit `mian`; the default branch is `main`"),
            ("Main", "u has no branch, tag or commit `Main`; similar: main; the default branch is `main`"),
            (
                "v1.2",
                "u has no branch, tag or commit `v1.2`; similar: v1.0, v1.1; the default branch is `main`",
            ),
            (
                "both",
                "u: `both` is ambiguous, it could be refs/tags/both or refs/heads/both; the default branch is `main`",
            ),
        ] {
            assert_eq!(remote().find("u", Some(reference)).unwrap_err().to_string(), message);
        }
        let empty = Advertised::default().find("u", None).unwrap_err();
        assert_eq!(empty.to_string(), "u: the repository is empty");
    }

    #[test]
    fn branches_are_preferred_for_fetching() {
        assert_eq!(remote().pointing_to(oid('c')), Some("refs/heads/same"));
        assert_eq!(remote().pointing_to(oid('d')), Some("refs/pull/7/head"));
        assert_eq!(remote().pointing_to(oid('f')), None);
    }
}
