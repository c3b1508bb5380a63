//! Lists of requirements as core, nodes and the spec have them, with the files that they name.

use std::collections::BTreeMap;
use std::io::Read;

use cvs_store::{EntryKind, Manifest, RelPath, Transaction};

use super::error::PythonError;
use super::text;

/// The file that a source tree lists its requirements in.
const ENTRY: &str = "requirements.txt";
/// Lists are small; what is larger is no list.
const LARGEST: u64 = 4 << 20;

/// What a list belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// ComfyUI itself.
    Core,
    /// The packages that the spec adds.
    Packages,
    /// A custom node.
    Node,
}

/// A list of requirements, and the files it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirements {
    /// `core`, `python_packages` or `node NAME`: what a conflict calls it.
    pub label: String,
    /// What it belongs to.
    pub role: Role,
    /// The file that begins it.
    pub entry: String,
    /// That file and those that it names by `-r` and `-c`, by their paths in the source.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One requirement or option, with its continuation lines joined and its comment taken away.
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
}

impl Requirements {
    /// The list that a spec gives as `python_packages`; none when it is empty.
    pub fn of_packages(packages: &[String]) -> Option<Self> {
        let text: String = packages.iter().map(|package| format!("{package}\n")).collect();
        (!packages.is_empty()).then(|| Self {
            label: "python_packages".to_owned(),
            role: Role::Packages,
            entry: ENTRY.to_owned(),
            files: BTreeMap::from([(ENTRY.to_owned(), text.into_bytes())]),
        })
    }

    /// Everything that it depends on, in one text, to tell whether it changed.
    pub fn fingerprint(&self) -> Vec<u8> {
        let parts = self.files.iter().map(|(path, bytes)| [path.as_bytes(), b"\0", bytes, b"\0"].concat());
        std::iter::once(self.entry.clone().into_bytes()).chain(parts).collect::<Vec<_>>().join(&b'\0')
    }

    /// The requirements, without options.
    pub(super) fn requirements(&self) -> impl Iterator<Item = String> + '_ {
        let all = self.files.values().flat_map(|bytes| lines(&text::decode(bytes)));
        all.map(|line| line.text).filter(|text| !text.starts_with('-'))
    }
}

/// The requirements of a source tree; none when it has no `requirements.txt`, or one without a requirement.
///
/// # Errors
/// [`PythonError::Requirement`] for what names files of the machine or of the tree: packages are installed from indexes
/// and addresses only.
pub fn requirements_of(
    transaction: &Transaction,
    manifest: &Manifest,
    label: &str,
    role: Role,
) -> Result<Option<Requirements>, PythonError> {
    let mut files = BTreeMap::new();
    let mut pending = vec![ENTRY.to_owned()];
    if read(transaction, manifest, ENTRY)?.is_none() {
        return Ok(None);
    }
    let refuse = |file: &str, line: &Line, reason| PythonError::Requirement {
        label: label.to_owned(),
        file: file.to_owned(),
        line: line.number,
        reason,
        text: line.text.clone(),
    };
    while let Some(path) = pending.pop() {
        if files.contains_key(&path) {
            continue;
        }
        let Some(bytes) = read(transaction, manifest, &path)? else { continue };
        let content = text::decode(&bytes);
        for line in lines(&content) {
            if let Some(reason) = local(&line.text) {
                return Err(refuse(&path, &line, reason));
            }
            let Some(named) = named_file(&line.text) else { continue };
            if named.contains("://") {
                return Err(refuse(&path, &line, "a list from an address can change at any time"));
            }
            let file = beside(&path, named).ok_or_else(|| refuse(&path, &line, "it is not in the source"))?;
            if read(transaction, manifest, &file)?.is_none() {
                return Err(refuse(&path, &line, "the file is not in the source"));
            }
            pending.push(file);
        }
        files.insert(path, content.into_bytes());
    }
    let list = Requirements { label: label.to_owned(), role, entry: ENTRY.to_owned(), files };
    let empty = list.requirements().next().is_none();
    Ok((!empty).then_some(list))
}

fn read(transaction: &Transaction, manifest: &Manifest, path: &str) -> Result<Option<Vec<u8>>, PythonError> {
    let Ok(path) = RelPath::new(path) else { return Ok(None) };
    let mut entry = manifest.root();
    for name in path.names() {
        entry = entry.and_then(|entry| manifest.child(&entry, name));
    }
    let file = entry.filter(|entry| entry.kind() == EntryKind::File && entry.size() <= LARGEST);
    let Some(blob) = file.and_then(|entry| manifest.blob(&entry)) else { return Ok(None) };
    let mut bytes = Vec::new();
    let mut file = transaction.open_blob(&blob)?;
    file.read_to_end(&mut bytes).map_err(|source| PythonError::io("read", path.as_path(), source))?;
    Ok(Some(bytes))
}

/// The path `named` as seen from the file `from`; none when it leaves the tree.
fn beside(from: &str, named: &str) -> Option<String> {
    if named.starts_with('/') {
        return None;
    }
    let mut names: Vec<&str> = from.split('/').collect();
    names.pop();
    for name in named.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

/// The file that a line includes.
fn named_file(line: &str) -> Option<&str> {
    value_of(line, &["--requirement", "--constraint", "-r", "-c"])
}

/// What stands behind the one of `flags` that a line begins with.
fn value_of<'a>(line: &'a str, flags: &[&str]) -> Option<&'a str> {
    let rest = flags.iter().find_map(|flag| {
        let rest = line.strip_prefix(flag)?;
        let long = flag.starts_with("--");
        (!long || rest.starts_with([' ', '\t', '='])).then_some(rest)
    })?;
    Some(rest.trim_start_matches([' ', '\t', '=']).trim().trim_matches(['"', '\'']))
}

/// Why a requirement that names something of this machine is refused.
fn local(line: &str) -> Option<&'static str> {
    if line.starts_with("-e") || line.starts_with("--editable") {
        return Some("an editable package cannot be part of a version; name it by an address");
    }
    // uv would put the value in: a list that comes with a node could send any secret of the person to any host.
    if line.contains("${") {
        return Some("a variable of this machine's environment cannot be part of a version");
    }
    if let Some(place) = value_of(line, &["--find-links", "-f", "--index-url", "-i", "--extra-index-url"]) {
        let remote = place.starts_with("https://") || place.starts_with("http://");
        return (!remote).then_some("a directory of this machine cannot be part of a version");
    }
    if line.starts_with('-') {
        return None;
    }
    let what = line.split(';').next().unwrap_or(line).trim();
    let (name, address) = what.split_once('@').map_or((what, ""), |(name, rest)| (name.trim(), rest.trim()));
    let is_path =
        |text: &str| text.starts_with(['.', '/', '~']) || text.starts_with("file:") || text.contains('\\');
    let is_archive = [".whl", ".tar.gz", ".zip", ".tar.bz2"].iter().any(|end| what.ends_with(end));
    let local =
        is_path(what) || is_path(address) || (is_archive || name.contains('/')) && !what.contains("://");
    local.then_some("a path of this machine cannot be part of a version; name the package by an address")
}

/// The lines that say something.
pub(super) fn lines(content: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let mut open: Option<Line> = None;
    for (index, raw) in content.lines().enumerate() {
        let comment = raw.match_indices('#').map(|(at, _)| at).find(|&at| {
            // As pip has it: within a word it is part of an address.
            raw.get(..at).is_none_or(|before| before.is_empty() || before.ends_with([' ', '\t']))
        });
        let text = comment.map_or(raw, |at| raw.get(..at).unwrap_or(raw)).trim();
        let (text, goes_on) = match text.strip_suffix('\\') {
            Some(text) if comment.is_none() => (text.trim_end(), true),
            _ => (text, false),
        };
        let line = match open.take() {
            Some(Line { number, text: before }) => Line { number, text: format!("{before} {text}") },
            None => Line { number: index + 1, text: text.to_owned() },
        };
        if goes_on {
            open = Some(line);
        } else if !line.text.trim().is_empty() {
            found.push(Line { text: line.text.trim().to_owned(), ..line });
        }
    }
    found.extend(open.filter(|line| !line.text.trim().is_empty()));
    found
}

/// The name of the package that a requirement asks for, as indexes spell it; empty for what is no requirement.
pub(super) fn name_of(requirement: &str) -> String {
    if !requirement.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return String::new();
    }
    let end = requirement.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)));
    normalise(requirement.get(..end.unwrap_or(requirement.len())).unwrap_or_default())
}

/// A package's name in the one spelling (PEP 503).
pub(super) fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.trim_matches(['-', '_', '.']).chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        let text = "# head\nnumpy<2 # why\n\n foo==1 \\\n  --hash=sha256:1 \\\n  --hash=sha256:2\nx @ https://h/x.whl#sha256=1\nend \\";
        let found: Vec<_> = lines(text).into_iter().map(|line| (line.number, line.text)).collect();
        let expected = [
            (2, "numpy<2"),
            (4, "foo==1 --hash=sha256:1 --hash=sha256:2"),
            (7, "x @ https://h/x.whl#sha256=1"),
            (8, "end"),
        ];
        assert_eq!(found, expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn names_have_one_spelling() {
        for (requirement, name) in [
            ("Foo_Bar.baz[extra]>=1", "foo-bar-baz"),
            ("a--b ; python_version < '3'", "a-b"),
            ("x@ git+https://h/x", "x"),
            ("", ""),
        ] {
            assert_eq!(name_of(requirement), name, "{requirement}");
        }
    }

    #[test]
    fn files_of_the_machine_are_refused() {
        for bad in [
            "-e .",
            "-e git+https://h/x",
            "--editable=.",
            ".",
            "./x",
            "../x",
            "/abs/x.whl",
            "x.whl",
            "x-1.tar.gz",
            "x @ file:///a",
            "file:///a/x.whl",
            "x @ ./y",
            "sub/dir",
            "~/x",
            "-e./x",
            "--find-links ./wheels",
            "--find-links=file:///wheels",
            "-f/wheels",
            "--extra-index-url /simple",
            "-i file:///simple",
            "x @ https://h/${HF_TOKEN}/x.whl",
            "x @ ${HOME}/x",
            "--extra-index-url https://${HF_TOKEN}@h/simple",
        ] {
            assert!(local(bad).is_some(), "{bad} was taken");
        }
        for good in [
            "numpy",
            "a/b @ https://h/x.zip",
            "git+https://h/x.git@main",
            "x @ https://h/x.whl",
            "https://h/x.tar.gz",
            "--extra-index-url https://h/simple",
            "--find-links https://h/torch.html",
            "--index-url=https://h/simple",
            "-r other.txt",
            "numpy>=1.0 ; sys_platform == 'x/y'",
        ] {
            assert!(local(good).is_none(), "{good} was refused");
        }
    }

    #[test]
    fn included_files_stay_in_the_tree() {
        for (line, file) in [
            ("-r a.txt", Some("a.txt")),
            ("-ra.txt", Some("a.txt")),
            ("--requirement=x/a.txt", Some("x/a.txt")),
            ("-c \"c.txt\"", Some("c.txt")),
            ("--require-hashes", None),
            ("--constraint c", Some("c")),
            ("numpy", None),
        ] {
            assert_eq!(named_file(line), file, "{line}");
        }
        for (from, named, path) in [
            ("requirements.txt", "a.txt", Some("a.txt")),
            ("x/r.txt", "../a.txt", Some("a.txt")),
            ("x/r.txt", "./y/a.txt", Some("x/y/a.txt")),
            ("r.txt", "../a.txt", None),
            ("r.txt", "/etc/x", None),
        ] {
            assert_eq!(beside(from, named).as_deref(), path, "{from} {named}");
        }
    }
}
