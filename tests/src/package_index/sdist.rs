//! Source distributions whose build needs nothing but Python: the backend is in the tree.

use flate2::{Compression, GzBuilder};

use super::Wheel;

/// It puts the wheel together from `payload/`, with the times at which the files were unpacked: as real builds do, each
/// gives other bytes.
const BACKEND: &str = r#"import os
import zipfile


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(wheel_directory, "@FILE@"), "w") as wheel:
        for directory, _, names in os.walk("payload"):
            for name in names:
                path = os.path.join(directory, name)
                wheel.write(path, os.path.relpath(path, "payload"))
    return "@FILE@"
"#;

/// One whose build ends with these words.
const BROKEN_BACKEND: &str = r#"def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise RuntimeError("@FILE@")
"#;

/// A source distribution that builds into a wheel, or fails to.
#[derive(Clone, Debug)]
pub struct Sdist {
    wheel: Wheel,
    failure: Option<String>,
}

impl Sdist {
    /// Builds into this wheel.
    pub fn of(wheel: Wheel) -> Sdist {
        Sdist { wheel, failure: None }
    }

    /// Its build raises an exception with these words, which hold no quotes.
    #[must_use]
    pub fn failing(mut self, words: &str) -> Sdist {
        self.failure = Some(words.to_owned());
        self
    }

    /// `name-1.0.tar.gz`.
    pub fn file_name(&self) -> String {
        format!("{}.tar.gz", self.stem())
    }

    /// The whole archive, the same bytes every time.
    pub fn bytes(&self) -> Vec<u8> {
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for (path, bytes) in self.entries() {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let path = format!("{}/{path}", self.stem());
            archive.append_data(&mut header, path, bytes.as_slice()).expect("writing to memory");
        }
        let gzip = archive.into_inner().expect("writing to memory");
        gzip.finish().expect("writing to memory")
    }

    pub(super) fn wheel(&self) -> &Wheel {
        &self.wheel
    }

    fn stem(&self) -> String {
        format!("{}-{}", self.wheel.escaped_name(), self.wheel.version())
    }

    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let backend = match &self.failure {
            None => BACKEND.replace("@FILE@", &self.wheel.file_name()),
            Some(words) => BROKEN_BACKEND.replace("@FILE@", words),
        };
        let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
        let mut entries = vec![
            ("PKG-INFO".to_owned(), self.wheel.metadata().into_bytes()),
            ("backend.py".to_owned(), backend.into_bytes()),
            ("pyproject.toml".to_owned(), project.into()),
        ];
        let payload = self.wheel.entries().into_iter();
        entries.extend(payload.map(|(path, bytes)| (format!("payload/{path}"), bytes)));
        entries
    }
}
