//! Names from outside, checked once at the border: after construction a [`RelPath`] cannot leave the tree it is
//! joined to. Names are bytes, as on Linux; neither case nor Unicode is interpreted.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::PathError;

/// The longest name of one directory entry, in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;
/// The longest path in a manifest or view, in bytes. Below `PATH_MAX`, so that it still has room under a mountpoint,
/// and fits an extended attribute of the overlay.
pub const PATH_LIMIT: usize = 3072;

/// Checks one name of a directory entry: not empty, not `.` or `..`, at most [`NAME_MAX`] bytes, no `/`, no NUL.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    let fail = |reason| Err(PathError { path: lossy(name), reason });
    match name {
        b"" => fail("an empty name"),
        b"." | b".." => fail("the names `.` and `..` are not allowed"),
        _ if name.len() > NAME_MAX => fail("a name longer than 255 bytes"),
        _ if name.contains(&b'/') => fail("a `/` within a name"),
        _ if name.contains(&0) => fail("a NUL byte"),
        _ => Ok(()),
    }
}

/// A relative path of zero or more checked names, separated by single slashes. The empty path is the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// The root: no names at all.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses `a/b/c`. Leading, trailing and doubled slashes, `.` and `..` are refused.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let path = path.as_ref();
        if path.len() > PATH_LIMIT {
            return Err(PathError { path: lossy(path), reason: "a path longer than 3072 bytes" });
        }
        if path.first() == Some(&b'/') {
            return Err(PathError { path: lossy(path), reason: "an absolute path" });
        }
        if !path.is_empty() {
            for name in path.split(|&b| b == b'/') {
                check_name(name).map_err(|error| PathError { path: lossy(path), reason: error.reason })?;
            }
        }
        Ok(Self(path.into()))
    }

    /// The path with `name` appended.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let name = name.as_ref();
        check_name(name)?;
        self.join_path(&Self(name.into()))
    }

    /// The path with all of `other` appended.
    pub fn join_path(&self, other: &Self) -> Result<Self, PathError> {
        if self.is_root() {
            return Ok(other.clone());
        }
        if other.is_root() {
            return Ok(self.clone());
        }
        Self::new([&self.0, &b"/"[..], &other.0].concat())
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for calls of the standard library.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// True for the empty path.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|name| !name.is_empty())
    }

    /// The last name, if any.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.names().next_back()
    }

    /// The path without its last name; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// True when the path is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// The path as seen from `other`; none when it is not below it.
    pub fn strip_prefix(&self, other: &Self) -> Option<Self> {
        if other.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(&*other.0)? {
            [] => Some(Self::root()),
            [b'/', rest @ ..] => Some(Self(rest.into())),
            _ => None,
        }
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&lossy(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", lossy(&self.0))
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(2000) + "x";
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", &long, &deep] {
            assert!(RelPath::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn paths_join_and_split() {
        let path = RelPath::new("a/b").unwrap().join("c").unwrap();
        assert_eq!(path.as_bytes(), b"a/b/c");
        assert_eq!(path.file_name(), Some(&b"c"[..]));
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(RelPath::new("a").unwrap().parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert!(path.starts_with(&RelPath::new("a/b").unwrap()));
        assert!(!RelPath::new("a/bc").unwrap().starts_with(&RelPath::new("a/b").unwrap()));
        for (below, rest) in [("", Some("a/b/c")), ("a/b", Some("c")), ("a/b/c", Some("")), ("a/", None)] {
            let below = RelPath(below.as_bytes().into());
            assert_eq!(path.strip_prefix(&below), rest.map(|rest| RelPath::new(rest).unwrap()));
        }
        assert_eq!(path.strip_prefix(&RelPath::new("a/b/c/d").unwrap()), None);
        assert_eq!(RelPath::new("a/bc").unwrap().strip_prefix(&RelPath::new("a/b").unwrap()), None);
        assert_eq!(RelPath::root().names().count(), 0);
    }
}
