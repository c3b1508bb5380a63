//! Wheels made on the fly, the same bytes every time.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A pure Python wheel. It holds at least one module, by the project's name, that says `VERSION = "…"`.
#[derive(Clone, Debug)]
pub struct Wheel {
    name: String,
    version: String,
    requires: Vec<String>,
    requires_python: Option<String>,
    scripts: Vec<(String, String)>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Wheel {
    /// Of a project and a version, both as a requirement spells them.
    pub fn new(name: &str, version: &str) -> Wheel {
        let mut wheel = Wheel {
            name: name.to_owned(),
            version: version.to_owned(),
            requires: Vec::new(),
            requires_python: None,
            scripts: Vec::new(),
            files: BTreeMap::new(),
        };
        let module = format!("{}/__init__.py", wheel.escaped_name());
        wheel.files.insert(module, format!("VERSION = \"{version}\"\n").into());
        wheel
    }

    /// Adds a requirement, `other<2; python_version < "4"` for example.
    #[must_use]
    pub fn requires(mut self, requirement: &str) -> Wheel {
        self.requires.push(requirement.to_owned());
        self
    }

    /// Limits the interpreters.
    #[must_use]
    pub fn requires_python(mut self, versions: &str) -> Wheel {
        self.requires_python = Some(versions.to_owned());
        self
    }

    /// Adds or replaces a file below site-packages.
    #[must_use]
    pub fn module(mut self, path: &str, text: impl Into<Vec<u8>>) -> Wheel {
        self.files.insert(path.to_owned(), text.into());
        self
    }

    /// Adds a program that calls a function, `module:function`.
    #[must_use]
    pub fn console_script(mut self, name: &str, function: &str) -> Wheel {
        self.scripts.push((name.to_owned(), function.to_owned()));
        self
    }

    /// The project.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `name-1.0-py3-none-any.whl`.
    pub fn file_name(&self) -> String {
        format!("{}-{}-py3-none-any.whl", self.escaped_name(), self.version)
    }

    /// The whole wheel.
    pub fn bytes(&self) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        // The format's earliest time stands in each entry, and nothing is compressed: the bytes depend on nothing else.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(0o644);
        for (path, bytes) in self.entries() {
            zip.start_file(path, options).expect("a path that a zip can hold");
            zip.write_all(&bytes).expect("writing to memory");
        }
        zip.finish().expect("writing to memory").into_inner()
    }

    pub(super) fn required_python(&self) -> Option<&str> {
        self.requires_python.as_deref()
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The name as file names have it.
    pub(super) fn escaped_name(&self) -> String {
        super::normalised(&self.name).replace('-', "_")
    }

    /// METADATA of the wheel, which is also PKG-INFO of a source distribution.
    pub(super) fn metadata(&self) -> String {
        let mut text = format!("Metadata-Version: 2.2\nName: {}\nVersion: {}\n", self.name, self.version);
        if let Some(versions) = &self.requires_python {
            text.push_str(&format!("Requires-Python: {versions}\n"));
        }
        for requirement in &self.requires {
            text.push_str(&format!("Requires-Dist: {requirement}\n"));
        }
        text
    }

    /// Every file by its path in the archive, RECORD last as the format recommends.
    pub(super) fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let info = format!("{}-{}.dist-info", self.escaped_name(), self.version);
        let mut entries: Vec<(String, Vec<u8>)> =
            self.files.iter().map(|(path, bytes)| (path.clone(), bytes.clone())).collect();
        entries.push((format!("{info}/METADATA"), self.metadata().into()));
        let wheel = "Wheel-Version: 1.0\nGenerator: cvs-tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        entries.push((format!("{info}/WHEEL"), wheel.into()));
        if !self.scripts.is_empty() {
            let lines: String =
                self.scripts.iter().map(|(name, function)| format!("{name} = {function}\n")).collect();
            entries.push((format!("{info}/entry_points.txt"), format!("[console_scripts]\n{lines}").into()));
        }
        let mut record: String = entries
            .iter()
            .map(|(path, bytes)| {
                format!("{path},sha256={},{}\n", base64(&Sha256::digest(bytes)), bytes.len())
            })
            .collect();
        record.push_str(&format!("{info}/RECORD,,\n"));
        entries.push((format!("{info}/RECORD"), record.into()));
        entries
    }
}

/// Base64 for URLs and without padding, as RECORD has it (PEP 427).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let index = word >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_without_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "__4");
    }

    #[test]
    fn the_same_bytes_every_time() {
        let wheel =
            Wheel::new("My.Package", "1.0").requires("other<2").console_script("mine", "my_package:main");
        assert_eq!(wheel.file_name(), "my_package-1.0-py3-none-any.whl");
        assert_eq!(wheel.bytes(), wheel.clone().bytes());
    }
}
