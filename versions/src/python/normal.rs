//! The normal form of an environment: what of an installation belongs to it, and in which bytes.
//!
//! Two installations of one lock differ in what tells of the day, of the machine and of uv. That is left out or written
//! by us, so that one lock and one interpreter give one manifest. Everything else is taken as it is.

use std::collections::HashSet;

use cvs_store::RelPath;

use super::interpreter::Interpreter;

/// Written by us.
pub(super) const CONFIGURATION: &str = "pyvenv.cfg";
/// The link to the base interpreter.
pub(super) const PROGRAM: &str = "bin/python";
/// Of no use in a view, at the top.
const TOP: [&str; 3] = [".lock", ".gitignore", "CACHEDIR.TAG"];
/// Of no use but on Windows, in `bin`.
const WINDOWS: [&str; 2] = [".bat", ".ps1"];
/// What uv notes for itself in a `.dist-info`.
const NOTES: [&str; 2] = ["uv_cache.json", "uv_build.json"];

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is taken as it is.
    Taken,
    /// It is no part of the environment.
    LeftOut,
    /// It is left out when it names a file of this machine.
    Address,
    /// The list of a package's files: lines of what is left out go, the others are sorted.
    Record,
    /// The configuration of the environment.
    Configuration,
}

/// What becomes of the file or directory at `path`.
pub(super) fn fate(path: &RelPath) -> Fate {
    let name = path.file_name().unwrap_or_default();
    let is = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    let parent = path.parent().unwrap_or_else(RelPath::root);
    let in_dist_info = parent.as_bytes().ends_with(b".dist-info");
    match parent.as_bytes() {
        b"" if is(&TOP) => Fate::LeftOut,
        b"" if name == CONFIGURATION.as_bytes() => Fate::Configuration,
        b"bin" if WINDOWS.iter().any(|end| name.ends_with(end.as_bytes())) => Fate::LeftOut,
        _ if name == b"__pycache__" => Fate::LeftOut,
        _ if in_dist_info && is(&NOTES) => Fate::LeftOut,
        _ if in_dist_info && is(&["direct_url.json"]) => Fate::Address,
        _ if in_dist_info && is(&["RECORD"]) => Fate::Record,
        _ => Fate::Taken,
    }
}

/// `pyvenv.cfg` of an environment of `interpreter`.
pub(super) fn configuration(interpreter: &Interpreter) -> Vec<u8> {
    let home = interpreter.path.parent().map(|home| home.display().to_string()).unwrap_or_default();
    let implementation = match interpreter.implementation.as_str() {
        "cpython" => "CPython",
        "pypy" => "PyPy",
        other => other,
    };
    let version = &interpreter.version;
    format!(
        "home = {home}\nimplementation = {implementation}\nversion_info = {version}\n\
         include-system-site-packages = false\nrelocatable = true\n"
    )
    .into_bytes()
}

/// True when a `direct_url.json` names a file of this machine.
pub(super) fn is_of_this_machine(content: &[u8]) -> bool {
    let document: serde_json::Value = serde_json::from_slice(content).unwrap_or_default();
    document.get("url").and_then(serde_json::Value::as_str).is_none_or(|url| url.starts_with("file:"))
}

/// A `RECORD` in the directory `base`, without the lines of what was `left_out`, sorted.
pub(super) fn record(content: &[u8], base: &RelPath, left_out: &HashSet<RelPath>) -> Vec<u8> {
    let gone = |line: &[u8]| {
        let path = String::from_utf8_lossy(&recorded_path(line)).into_owned();
        path.split('/').any(|name| name == "__pycache__")
            || locate(base, &path).is_some_and(|path| left_out.contains(&path))
    };
    let lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let mut kept: Vec<&[u8]> = lines.filter(|line| !line.is_empty() && !gone(line)).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut out = kept.join(&b'\n');
    out.push(b'\n');
    out
}

/// The first field of a line of a `RECORD`.
pub(super) fn recorded_path(line: &[u8]) -> Vec<u8> {
    let Some(quoted) = line.strip_prefix(b"\"") else {
        return line.split(|&byte| byte == b',').next().unwrap_or_default().to_vec();
    };
    let mut path = Vec::new();
    let mut rest = quoted.iter().peekable();
    while let Some(&byte) = rest.next() {
        if byte == b'"' && rest.next_if(|&&next| next == b'"').is_none() {
            break;
        }
        path.push(byte);
    }
    path
}

/// The path in the environment of a `RECORD` entry that is relative to `base`; none when it leads out of it.
pub(super) fn locate(base: &RelPath, recorded: &str) -> Option<RelPath> {
    let mut names: Vec<&[u8]> = base.names().collect();
    if recorded.starts_with('/') {
        return None;
    }
    for name in recorded.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            name => names.push(name.as_bytes()),
        }
    }
    RelPath::new(names.join(&b'/')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn every_file_has_its_fate() {
        for (file, expected) in [
            (".lock", Fate::LeftOut),
            ("CACHEDIR.TAG", Fate::LeftOut),
            ("lib/python3.11/site-packages/x/.gitignore", Fate::Taken),
            ("pyvenv.cfg", Fate::Configuration),
            ("bin/activate.bat", Fate::LeftOut),
            ("bin/activate", Fate::Taken),
            ("lib/python3.11/site-packages/x/run.bat", Fate::Taken),
            ("lib/python3.11/site-packages/x/__pycache__", Fate::LeftOut),
            ("lib/python3.11/site-packages/x-1.dist-info/RECORD", Fate::Record),
            ("lib/python3.11/site-packages/x-1.dist-info/uv_cache.json", Fate::LeftOut),
            ("lib/python3.11/site-packages/x-1.dist-info/direct_url.json", Fate::Address),
            ("lib/python3.11/site-packages/x-1.dist-info/licenses/RECORD", Fate::Taken),
        ] {
            assert_eq!(fate(&path(file)), expected, "{file}");
        }
    }

    #[test]
    fn records_are_sorted_and_lose_what_is_left_out() {
        let base = path("lib/python3.11/site-packages");
        let left_out = HashSet::from([
            path("lib/python3.11/site-packages/x-1.dist-info/uv_cache.json"),
            path("bin/x.bat"),
        ]);
        let content = b"x/b.py,sha256=1,2\r\nx/__pycache__/b.pyc,,\nx-1.dist-info/uv_cache.json,sha256=1,3\n\
            ../../../bin/x.bat,,\n\"x/a,\"\"1.py\",sha256=4,5\n../../../bin/x,,\n";
        let expected = "\"x/a,\"\"1.py\",sha256=4,5\n../../../bin/x,,\nx/b.py,sha256=1,2\n";
        assert_eq!(String::from_utf8(record(content, &base, &left_out)).unwrap(), expected);
        assert_eq!(recorded_path(b"\"x/a,\"\"1.py\",sha256=4,5"), b"x/a,\"1.py");
        assert_eq!(locate(&base, "../../../../x"), None);
        assert_eq!(locate(&base, "../../../bin/x"), Some(path("bin/x")));
    }

    #[test]
    fn addresses_of_this_machine_are_told_apart() {
        for (content, local) in [
            (r#"{"url": "file:///w/x.whl", "archive_info": {}}"#, true),
            (r#"{"url": "https://host/x.whl"}"#, false),
            ("not JSON", true),
        ] {
            assert_eq!(is_of_this_machine(content.as_bytes()), local, "{content}");
        }
    }
}
