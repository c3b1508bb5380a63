//! Paths in commands that a message tells: a person copies them into a shell, whatever the path is.

use std::borrow::Cow;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `path` as one word of a shell, which no program takes for an option. What cannot stand in a message as it is (bytes
/// that are no text, control characters) is written as `$'…'`, which all shells but the barest read.
pub(crate) fn word(path: &Path) -> String {
    let mut bytes = Cow::Borrowed(path.as_os_str().as_bytes());
    if bytes.starts_with(b"-") {
        bytes = [b"./", &*bytes].concat().into();
    }
    let text = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains(char::is_control));
    match text.and_then(|text| shlex::try_quote(text).ok()) {
        Some(quoted) => quoted.into_owned(),
        None => escaped(&bytes),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut word = "$'".to_owned();
    for byte in bytes {
        let _ = match byte {
            b'\'' | b'\\' => write!(word, "\\{}", char::from(*byte)),
            b' '..=b'~' => write!(word, "{}", char::from(*byte)),
            _ => write!(word, "\\{byte:03o}"),
        };
    }
    word + "'"
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_path_is_one_word_whatever_is_in_it() {
        for (path, expected) in [
            (&b"/srv/ComfyUI-0.3_x@a:b.c"[..], "/srv/ComfyUI-0.3_x@a:b.c"),
            (b"/srv/My ComfyUI", "'/srv/My ComfyUI'"),
            (b"it's", "\"it's\""),
            (b"a\"$(id)`id`", "'a\"$(id)`id`'"),
            (b"it's \"$x\" \\", r#""it's \""'$x" '"\\""#),
            (b"~/x", "'~/x'"),
            (b"*.json", "'*.json'"),
            (b"-rf", "./-rf"),
            (b"-a b", "'./-a b'"),
            (b"", "''"),
            ("/srv/Größe".as_bytes(), "'/srv/Größe'"),
            (b"/srv/\xff7'\\ x", "$'/srv/\\3777\\'\\\\ x'"),
            (b"a\nb\x1b[31m", "$'a\\012b\\033[31m'"),
        ] {
            let path = Path::new(OsStr::from_bytes(path));
            let word = word(path);
            assert_eq!(word, expected, "{path:?}");
            let script = format!("printf '%s' {word}");
            let said = Command::new("bash").args(["-c", &script]).output().expect("bash is there").stdout;
            let said = Path::new(OsStr::from_bytes(&said)).to_owned();
            let same = said.strip_prefix("./").unwrap_or(&said);
            assert_eq!(same, path, "{word}");
        }
    }
}
