//! The name of a version: the stem of its file, checked so that it is safe as a file name, as an argument and in a URL.

use std::fmt;
use std::str::FromStr;

use crate::error::SpecError;

/// The longest name of a version, in bytes.
pub const VERSION_ID_MAX: usize = 100;

/// A checked version name: `[A-Za-z0-9][A-Za-z0-9._-]*`, at most [`VERSION_ID_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(String);

impl VersionId {
    /// Checks `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, SpecError> {
        let text = text.into();
        match reason_against(&text) {
            None => Ok(Self(text)),
            Some(reason) => Err(SpecError::Id { found: text, reason }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its spec: `ID.json`.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.0)
    }
}

/// Which rule forbids `text` as a version name, if any.
pub(super) fn reason_against(text: &str) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    match text.as_bytes() {
        [] => Some("it is empty"),
        bytes if bytes.len() > VERSION_ID_MAX => Some("it is longer than 100 bytes"),
        [first, ..] if !plain(*first) => Some("it must start with a letter or digit (ASCII)"),
        bytes if !bytes.iter().all(|&b| plain(b) || matches!(b, b'.' | b'_' | b'-')) => {
            Some("only letters, digits, `.`, `_` and `-` (ASCII) are allowed")
        }
        _ => None,
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl AsRef<str> for VersionId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for VersionId {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::new(text)
    }
}

impl serde::Serialize for VersionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for VersionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_safe_names_are_taken() {
        let long = "x".repeat(101);
        for bad in ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "é", "a\0", "a\n", "a:b", &long] {
            let error = VersionId::new(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{bad:?} cannot name a version: ")), "{error}");
        }
        for good in ["a", "0", "wan22-fast", "A.b_c-d..e", &long[..100]] {
            assert_eq!(VersionId::new(good).unwrap().as_str(), good);
        }
        assert_eq!(VersionId::new("x").unwrap().file_name(), "x.json");
    }
}
