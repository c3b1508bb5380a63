//! The locked packages: a PEP 751 document (the content of a `pylock.toml`), kept as JSON in the spec.
//!
//! It holds no address with credentials, no dates, no source archive beside a wheel, and not who made it. A wheel that
//! came from a directory of this machine stands with its file name alone: it is found again in whichever directory of
//! wheels is given when the environment is built.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::PythonError;
use super::requirements::normalise;
use crate::source::redact;

/// Keys of a package that say where it comes from, besides `wheels`.
const ARCHIVES: [&str; 2] = ["sdist", "archive"];

/// One package of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedPackage {
    /// Its name, in the spelling of indexes.
    pub name: String,
    /// Its version; none for some that come from an address.
    pub version: Option<String>,
    /// Where it comes from, as a requirement names it, when no index has it.
    pub address: Option<String>,
}

/// The packages of a lock.
///
/// # Errors
/// [`PythonError::Lock`] for a document that is none.
pub fn packages(pylock: &Value) -> Result<Vec<LockedPackage>, PythonError> {
    let entries = entries(pylock)?;
    let package = |entry: &Value| {
        let name =
            entry.get("name").and_then(Value::as_str).ok_or_else(|| bad("a package without a name"))?;
        let version = entry.get("version").and_then(Value::as_str).map(str::to_owned);
        Ok(LockedPackage { name: normalise(name), version, address: address(entry) })
    };
    entries.iter().map(package).collect()
}

/// The `archive` or `vcs` of a package, as PEP 751 has them.
fn address(entry: &Value) -> Option<String> {
    let text = |key: &str, name: &str| entry.get(key)?.get(name)?.as_str();
    if let Some(url) = text("archive", "url") {
        return Some(url.to_owned());
    }
    let (kind, url) = (text("vcs", "type")?, text("vcs", "url")?);
    let commit = text("vcs", "commit-id").map(|commit| format!("@{commit}")).unwrap_or_default();
    let part = text("vcs", "subdirectory").map(|part| format!("#subdirectory={part}")).unwrap_or_default();
    Some(format!("{kind}+{url}{commit}{part}"))
}

fn entries(pylock: &Value) -> Result<&Vec<Value>, PythonError> {
    match pylock.get("packages") {
        Some(Value::Array(entries)) => Ok(entries),
        None if pylock.get("lock-version").is_some() => {
            static NONE: Vec<Value> = Vec::new();
            Ok(&NONE)
        }
        _ => Err(bad("it has no list of packages")),
    }
}

fn bad(reason: impl Into<String>) -> PythonError {
    PythonError::Lock { reason: reason.into() }
}

/// Reads what uv wrote, in the form it is kept in.
pub(super) fn from_toml(text: &str) -> Result<Value, PythonError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    let mut document = json(toml::Value::Table(table));
    if let Some(root) = document.as_object_mut() {
        root.remove("created-by");
    }
    if let Some(entries) = document.get_mut("packages").and_then(Value::as_array_mut) {
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            tidy(entry);
        }
    }
    entries(&document)?;
    Ok(document)
}

fn tidy(package: &mut Map<String, Value>) {
    if package.get("wheels").and_then(Value::as_array).is_some_and(|wheels| !wheels.is_empty()) {
        package.remove("sdist");
    }
    for file in files(package) {
        file.remove("upload-time");
        if let Some(Value::String(url)) = file.get_mut("url") {
            match file_name(url) {
                Some(name) => {
                    file.remove("url");
                    file.insert("path".to_owned(), name.into());
                }
                None if url.contains('@') => *url = redact(url),
                None => {}
            }
        }
    }
    for key in ["vcs", "index"] {
        let url = match package.get_mut(key) {
            Some(Value::Object(vcs)) => vcs.get_mut("url"),
            other => other,
        };
        if let Some(Value::String(url)) = url {
            *url = redact(url);
        }
    }
}

/// The wheels and archives of a package.
fn files(package: &mut Map<String, Value>) -> Vec<&mut Map<String, Value>> {
    let mut found = Vec::new();
    for (key, value) in package.iter_mut() {
        match value {
            Value::Array(wheels) if key == "wheels" => {
                found.extend(wheels.iter_mut().filter_map(Value::as_object_mut));
            }
            Value::Object(archive) if ARCHIVES.contains(&key.as_str()) => found.push(archive),
            _ => {}
        }
    }
    found
}

/// The name of a file of this machine; none for an address of another.
fn file_name(url: &str) -> Option<String> {
    let path = url::Url::parse(url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The document for uv, with files of `wheels` in place of the addresses they were locked with.
///
/// # Errors
/// [`PythonError::WheelMissing`] when a file was locked without an address and is not in `wheels`.
pub(super) fn to_toml(pylock: &Value, wheels: Option<&Path>) -> Result<String, PythonError> {
    let mut document = pylock.clone();
    let root = document.as_object_mut().ok_or_else(|| bad("it is not a table"))?;
    root.insert("created-by".to_owned(), "cvs".into());
    if let Some(Value::Array(entries)) = root.get_mut("packages") {
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            point(entry, wheels)?;
        }
    }
    toml::to_string(&document).map_err(|error| bad(error.to_string()))
}

fn point(package: &mut Map<String, Value>, wheels: Option<&Path>) -> Result<(), PythonError> {
    let name = package.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut missing = None;
    let mut found = Vec::new();
    for file in files(package) {
        let url = file.get("url").and_then(Value::as_str);
        let path = file.get("path").and_then(Value::as_str);
        let Some(base) = path.or_else(|| url.map(base_name)).map(str::to_owned) else { continue };
        let here = wheels.map(|directory| directory.join(&base)).filter(|place| place.is_file());
        let here = here.and_then(|place| std::path::absolute(place).ok());
        match here.and_then(|place| url::Url::from_file_path(place).ok()) {
            Some(address) => {
                file.remove("path");
                file.insert("url".to_owned(), address.as_str().into());
                found.push(address.to_string());
            }
            None if path.is_some() => missing = Some(base),
            None => {}
        }
    }
    if let Some(Value::Array(listed)) = package.get_mut("wheels") {
        // Where some are at hand, uv may not choose one that is not.
        let here = |wheel: &Value| {
            let url = wheel.get("url").and_then(Value::as_str);
            url.is_some_and(|url| found.iter().any(|address| address == url))
        };
        if listed.iter().any(here) {
            listed.retain(here);
            missing = None;
        }
    }
    match missing {
        Some(file) => Err(PythonError::WheelMissing { package: name, file }),
        None => Ok(()),
    }
}

/// The last name of an address, as a file would have it.
fn base_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path)
}

/// TOML as JSON. Dates become texts.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UV: &str = r#"
lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.11"

[[packages]]
name = "A_b"
version = "1.0"
index = "https://u:p@host/simple"
sdist = { url = "https://host/a-1.0.tar.gz", upload-time = 2024-01-01T00:00:00Z, hashes = { sha256 = "00" } }
wheels = [{ url = "https://u:p@host/a_b-1.0-py3-none-any.whl", upload-time = 2024-01-01T00:00:00Z, size = 3, hashes = { sha256 = "11" } }]

[[packages]]
name = "local"
version = "2"
wheels = [{ url = "file:///w/local-2-py3-none-any.whl", hashes = { sha256 = "22" } }]
"#;

    #[test]
    fn it_is_kept_without_what_is_of_this_machine_and_day() {
        let kept = from_toml(UV).unwrap();
        let expected = serde_json::json!({
            "lock-version": "1.0",
            "requires-python": ">=3.11",
            "packages": [
                {
                    "name": "A_b", "version": "1.0", "index": "https://host/simple",
                    "wheels": [{
                        "url": "https://host/a_b-1.0-py3-none-any.whl", "size": 3, "hashes": {"sha256": "11"},
                    }],
                },
                {
                    "name": "local", "version": "2",
                    "wheels": [{"path": "local-2-py3-none-any.whl", "hashes": {"sha256": "22"}}],
                },
            ],
        });
        assert_eq!(kept, expected);
        let names: Vec<_> = packages(&kept).unwrap().into_iter().map(|package| package.name).collect();
        assert_eq!(names, ["a-b", "local"]);
    }

    #[test]
    fn what_no_index_has_is_named_by_its_address() {
        let lock = serde_json::json!({ "packages": [
            { "name": "a", "version": "1", "index": "https://host/simple", "wheels": [] },
            { "name": "b", "version": "2", "archive": { "url": "https://host/b-2.zip" } },
            { "name": "c", "vcs": { "type": "git", "url": "https://host/c.git", "requested-revision": "main",
                "commit-id": "0123", "subdirectory": "in" } },
        ] });
        let found = packages(&lock).unwrap().into_iter().map(|package| package.address);
        let expected =
            [None, Some("https://host/b-2.zip"), Some("git+https://host/c.git@0123#subdirectory=in")];
        assert_eq!(found.collect::<Vec<_>>(), expected.map(|address| address.map(str::to_owned)));
    }

    #[test]
    fn files_at_hand_take_the_place_of_addresses() {
        let kept = from_toml(UV).unwrap();
        let missing = to_toml(&kept, None).unwrap_err();
        assert!(
            matches!(&missing, PythonError::WheelMissing { package, file } if package == "local" && file == "local-2-py3-none-any.whl")
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("local-2-py3-none-any.whl"), "").unwrap();
        let text = to_toml(&kept, Some(dir.path())).unwrap();
        assert!(
            text.contains(&format!("file://{}/local-2-py3-none-any.whl", dir.path().display())),
            "{text}"
        );
        assert!(
            text.contains("https://host/a_b-1.0-py3-none-any.whl") && text.contains("created-by"),
            "{text}"
        );
        assert!(from_toml(&text).unwrap() == kept);
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        for text in ["x = ", "x = 1", "packages = 3"] {
            assert!(matches!(from_toml(text), Err(PythonError::Lock { .. })), "{text}");
        }
        assert_eq!(packages(&from_toml("lock-version = '1.0'").unwrap()).unwrap(), []);
    }
}
