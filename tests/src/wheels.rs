//! The wheels that `cargo xtask setup` downloads into the target directory, so that no test asks the internet.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Missing;
use crate::python::ask;
use crate::sandbox::target_dir;

/// As set-up asks it; the answer names the directory.
const KEY: &str =
    "import sys, sysconfig; print(sys.implementation.cache_tag + '-' + sysconfig.get_platform())";

/// The downloaded wheels of the tests' interpreter.
#[derive(Clone, Debug)]
pub(crate) struct TestWheels {
    dir: PathBuf,
}

/// One of them, as an index describes it.
pub(crate) struct TestWheel {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) requires_python: Option<String>,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) metadata_sha256: String,
}

impl TestWheels {
    /// Those of today's list; a download for an older one does not count.
    pub(crate) fn find() -> Result<TestWheels, Missing> {
        let key = ask(KEY)?;
        let key = String::from_utf8(key).expect("a tag and a platform are ASCII");
        let dir = target_dir().join("test-wheels").join(key.trim());
        let read = |path: PathBuf| std::fs::read(path).ok();
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("wheels/requirements.txt");
        if read(dir.join("requirements.txt")) == read(list) {
            Ok(TestWheels { dir })
        } else {
            Err(Missing("the wheels that `cargo xtask setup` downloads".to_owned()))
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pinned list that they were downloaded for.
    pub(crate) fn list(&self) -> PathBuf {
        self.dir.join("requirements.txt")
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<TestWheel> {
        let path = self.dir.join("index.json");
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
        let entries: Vec<Value> = serde_json::from_slice(&bytes).expect("set-up writes a list");
        let text = |entry: &Value, key: &str| entry[key].as_str().map(str::to_owned);
        let wheel = |entry: &Value| {
            Some(TestWheel {
                file: text(entry, "file")?,
                name: text(entry, "name")?,
                requires_python: text(entry, "requires_python"),
                sha256: text(entry, "sha256")?,
                size: entry["size"].as_u64()?,
                metadata_sha256: text(entry, "metadata_sha256")?,
            })
        };
        entries.iter().map(|entry| wheel(entry).expect("set-up describes each wheel")).collect()
    }
}
