//! Texts that come in and go out: lists in any encoding, and what uv printed, fit to be shown.

use std::path::{Path, PathBuf};

use crate::source::redact;

/// Lines of uv's output that an error shows.
const TAIL: usize = 30;

/// A list of requirements as text. Some were saved by editors that write UTF-16 or a byte order mark. A carriage return
/// by itself ends a line for uv; so that it reads the lines that we read, it becomes a line feed.
pub(super) fn decode(bytes: &[u8]) -> String {
    let text = unicode(bytes);
    match text.contains('\r') {
        true => text.split("\r\n").map(|part| part.replace('\r', "\n")).collect::<Vec<_>>().join("\r\n"),
        false => text,
    }
}

fn unicode(bytes: &[u8]) -> String {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// What replaces our own temporary paths in what uv printed.
pub(super) struct Names(Vec<(PathBuf, String)>);

impl Names {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Shows `path` as `name`.
    pub(super) fn add(&mut self, path: &Path, name: impl Into<String>) {
        self.0.push((path.to_owned(), name.into()));
        // A path may hold another: the longer one first.
        self.0.sort_by_key(|(path, _)| std::cmp::Reverse(path.as_os_str().len()));
    }

    /// The text as people may see it: no paths of ours, no credentials.
    pub(super) fn clean(&self, said: &str) -> String {
        let mut text = said.to_owned();
        for (path, name) in &self.0 {
            text = text.replace(&path.display().to_string(), name);
        }
        let words = text.split_inclusive(|c: char| c.is_whitespace() || "`()'\"".contains(c));
        words
            .map(
                |word| if word.contains("://") && word.contains('@') { shown(word) } else { word.to_owned() },
            )
            .collect()
    }
}

/// A word that is an address, with what follows it.
fn shown(word: &str) -> String {
    let end = word.trim_end_matches(|c: char| c.is_whitespace() || "`()'\".,:".contains(c)).len();
    let (address, rest) = word.split_at(end);
    let (prefix, address) = match address.find("git+") {
        Some(0) => address.split_at(4),
        _ => ("", address),
    };
    format!("{prefix}{}{rest}", redact(address))
}

/// The end of an output, without progress and hints that say nothing here.
pub(super) fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let from = lines.len().saturating_sub(TAIL);
    lines.get(from..).unwrap_or_default().join("\n").trim().to_owned()
}

/// The error that uv ended with, without what it printed before.
pub(super) fn error(said: &str) -> String {
    let start = said.lines().position(|line| line.starts_with("error:")).unwrap_or(0);
    let text: Vec<&str> = said.lines().skip(start).collect();
    let text = text.join("\n");
    text.strip_prefix("error:").unwrap_or(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_read() {
        let wide: Vec<u8> = "\u{feff}a==1".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "\u{feff}a==1".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [&b"a==1"[..], b"\xef\xbb\xbfa==1", &wide, &big] {
            assert_eq!(decode(bytes), "a==1");
        }
    }

    #[test]
    fn what_is_shown_has_no_secrets_and_no_paths_of_ours() {
        let mut names = Names::new();
        names.add(Path::new("/s/t"), "DIR");
        names.add(Path::new("/s/t/0"), "node a");
        let said = "at `/s/t/0/r.txt` and /s/t/x: https://me:pw@host/simple/ (git+https://u:p@h/x@main)";
        let shown = "at `node a/r.txt` and DIR/x: https://host/simple/ (git+https://h/x@main)";
        assert_eq!(names.clean(said), shown);
    }
}
