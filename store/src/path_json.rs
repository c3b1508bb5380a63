//! Paths in JSON: a string, or, for one that is not UTF-8, the list of its bytes. serde itself refuses such a path. For
//! `#[serde(with = "cvs_store::path_json")]`; [`option`] is the same for an optional path.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<Text, Bytes> {
    Text(Text),
    Bytes(Bytes),
}

/// A path for `serde_json::json!`.
pub fn value(path: &Path) -> impl Serialize + '_ {
    match path.to_str() {
        Some(text) => Form::Text(text),
        None => Form::Bytes(path.as_os_str().as_bytes()),
    }
}

/// Writes a path.
pub fn serialize<S: Serializer>(path: impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    value(path.as_ref()).serialize(serializer)
}

/// Reads a path.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Form::deserialize(deserializer).map(path_of)
}

fn path_of(form: Form<String, Vec<u8>>) -> PathBuf {
    match form {
        Form::Text(text) => OsString::from(text).into(),
        Form::Bytes(bytes) => OsString::from_vec(bytes).into(),
    }
}

/// A path that may not be there.
pub mod option {
    use super::*;

    /// Writes a path, or null.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(value).serialize(serializer)
    }

    /// Reads a path, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Form<String, Vec<u8>>>::deserialize(deserializer)?.map(path_of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Paths {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(with = "super::option")]
        other: Option<PathBuf>,
    }

    #[test]
    fn every_path_comes_back() {
        let odd: PathBuf = OsString::from_vec(b"/\xff".to_vec()).into();
        for (paths, json) in [
            (Paths { one: "/a b\n".into(), other: None }, r#"{"one":"/a b\n","other":null}"#),
            (Paths { one: odd.clone(), other: Some(odd) }, r#"{"one":[47,255],"other":[47,255]}"#),
            (Paths { one: "".into(), other: Some("/x".into()) }, r#"{"one":"","other":"/x"}"#),
        ] {
            assert_eq!(serde_json::to_string(&paths).unwrap(), json);
            assert_eq!(serde_json::from_str::<Paths>(json).unwrap(), paths);
        }
    }
}
