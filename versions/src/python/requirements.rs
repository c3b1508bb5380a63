//! Lists of requirements as core, nodes and the spec have them, with the files that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use cvs_store::{EntryKind, Manifest, RelPath, Transaction};

use super::error::PythonError;
use super::text;
use crate::spec::flag;

/// The file that a source tree lists its requirements in.
const ENTRY: &str = "requirements.txt";
/// Lists are small; what is larger is no list, nor are several that are larger together.
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

    /// The files as uv is given them: the lines that were read and nothing else, each where it began. Where an option
    /// ends, what a backslash joins and what a comment is, we and uv do not read alike in every case.
    #[doc(hidden)]
    pub fn laid_out(&self) -> impl Iterator<Item = (&str, String)> {
        self.files.iter().map(|(path, bytes)| {
            let mut text = String::new();
            let mut number = 1;
            for line in lines(&text::decode(bytes)) {
                while number < line.number {
                    text.push('\n');
                    number += 1;
                }
                text.push_str(&line.text);
                text.push('\n');
                number += 1;
            }
            (path.as_str(), text)
        })
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
    gather(label, role, &|path| read(transaction, manifest, path))
}

/// What is in a file of a source; none where it has no such file.
type Read<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, PythonError> + 'a;

/// The requirements of the source whose files `read` gives. Fuzzing enters here.
#[doc(hidden)]
pub fn gather(label: &str, role: Role, read: &Read<'_>) -> Result<Option<Requirements>, PythonError> {
    let Some(entry) = read(ENTRY)? else { return Ok(None) };
    let refuse = |file: &str, line: &Line, reason| PythonError::Requirement {
        label: label.to_owned(),
        file: file.to_owned(),
        line: line.number,
        reason,
        text: line.text.clone(),
    };
    let (mut files, mut known) = (BTreeMap::new(), BTreeSet::from([ENTRY.to_owned()]));
    let mut left = LARGEST.saturating_sub(entry.len() as u64);
    let mut pending = vec![(ENTRY.to_owned(), entry)];
    while let Some((path, bytes)) = pending.pop() {
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
            if !known.insert(file.clone()) {
                continue;
            }
            let bytes = read(&file)?.ok_or_else(|| refuse(&path, &line, "the file is not in the source"))?;
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| refuse(&path, &line, "the lists have more than 4 MiB with it"))?;
            pending.push((file, bytes));
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

/// Why a requirement that a stranger wrote cannot stand in a spec: it is not one, or names something of this machine.
pub(crate) fn unfit(requirement: &str) -> Option<&'static str> {
    if requirement.starts_with('-') {
        return Some("an option of pip is no package");
    }
    if requirement.chars().any(char::is_control) {
        return Some("it has control characters, and a requirement is one line");
    }
    if flag(requirement).is_some() {
        return Some("it has an option of pip in it");
    }
    local(requirement)
}

/// What addresses of packages begin with, as uv compares it. It takes everything else for a path, `FILE://../x` too.
const REMOTE: [&str; 6] = ["https://", "http://", "git+https://", "git+http://", "git+ssh://", "git+git://"];
/// Options without a value: uv reads what stands behind them as if it stood on the next line.
const ALONE: [&str; 4] = ["--no-index", "--require-hashes", "--pre", "--prefer-binary"];

/// Why a line that names something of this machine is refused.
fn local(line: &str) -> Option<&'static str> {
    const PATH: &str = "a path of this machine cannot be part of a version; name the package by an address";
    const BEHIND: &str = "what stands behind it belongs on a line of its own";
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
    let is_remote = |text: &str| REMOTE.iter().any(|scheme| text.trim_start().starts_with(scheme));
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    if line.starts_with('-') {
        let first = words.next().unwrap_or_default();
        return (ALONE.contains(&first) && words.next().is_some()).then_some(BEHIND);
    }
    let is_hash = |word: &&str| word.starts_with("--hash");
    if words.by_ref().any(|word| is_hash(&word)) && !words.all(|word| is_hash(&word)) {
        return Some(BEHIND);
    }
    let what = line.split(" --hash").next().unwrap_or(line);
    if is_remote(what) {
        return None;
    }
    let end = what.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).unwrap_or(what.len());
    let (name, rest) = what.split_at(end);
    let rest = rest.trim_start();
    let rest = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, rest)) => rest.trim_start(),
        None => rest,
    };
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Some(PATH);
    }
    if let Some(address) = rest.strip_prefix('@') {
        return (!is_remote(address)).then_some(PATH);
    }
    // A marker may compare with any text. What is no requirement for uv, it tries as a path, the marker included.
    let mut quote = None;
    let has_slash = rest.chars().any(|c| {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None => return matches!(c, '/' | '\\'),
        }
        false
    });
    let is_archive = [".whl", ".tar.gz", ".zip", ".tar.bz2"].iter().any(|end| what.trim_end().ends_with(end));
    (has_slash || is_archive || quote.is_some()).then_some(PATH)
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
        // Before a comment, a backslash joins nothing, and says nothing.
        let goes_on = comment.is_none() && text.ends_with('\\');
        let text = text.trim_end_matches(|c: char| c == '\\' || c.is_whitespace());
        let line = match open.take() {
            Some(mut line) => {
                line.text.push(' ');
                line.text.push_str(text);
                line
            }
            None => Line { number: index + 1, text: text.to_owned() },
        };
        if goes_on {
            open = Some(line);
        } else if !line.text.trim().is_empty() {
            found.push(line);
        }
    }
    found.extend(open);
    for line in &mut found {
        line.text = line.text.trim().to_owned();
    }
    found.retain(|line| !line.text.is_empty());
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
    fn lists_of_strangers_are_read_within_bounds() {
        let files: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
            ("many.txt", b"-r big.txt\n".repeat(100_000)),
            ("big.txt", b"numpy\n".repeat(20_000)),
            ("huge.txt", b"#".repeat(4 << 20)),
            ("joined.txt", b"a \\\n".repeat(250_000)),
        ]);
        let list = |entry: &str| {
            let entry = entry.as_bytes().to_vec();
            gather("node n", Role::Node, &|path| {
                Ok(if path == ENTRY { Some(entry.clone()) } else { files.get(path).cloned() })
            })
            .map_err(|error| error.to_string())
        };
        // Each is read once, however often it is named.
        assert_eq!(list("-r many.txt\nscipy").unwrap().map(|list| list.files.len()), Some(3));
        assert_eq!(list("-r joined.txt").unwrap().map(|list| list.requirements().count()), Some(1));
        let error = list("-r many.txt\n-r huge.txt").unwrap_err();
        assert!(error.contains("the lists have more than 4 MiB with it"), "{error}");
        // An option takes the rest of its line and no more: where uv ends it, we do.
        let joined = list("--trusted-host h \\\n-e /srv/x\nnumpy \\ # 1\npandas").unwrap().unwrap();
        let laid_out: Vec<_> = joined.laid_out().collect();
        assert_eq!(laid_out, [(ENTRY, "--trusted-host h -e /srv/x\n\nnumpy\npandas\n".to_owned())]);
        // What uv takes for an end of a line is one here.
        for bad in ["numpy # 1\r-e /srv/x", "numpy\r--find-links /srv", "a\r\nb @ file:///srv/b"] {
            assert!(list(bad).is_err(), "{bad:?} was taken");
        }
        let taken = list("numpy # 1\rscipy\r\npandas").unwrap().unwrap();
        assert_eq!(taken.requirements().collect::<Vec<_>>(), ["numpy", "scipy", "pandas"]);
        assert_eq!(taken.files[ENTRY], b"numpy # 1\nscipy\r\npandas");
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
            // Each of these, uv 0.13 takes for a path.
            "a/b @ https://h/x.zip",
            "x @ sub/../../y",
            "x@sub",
            "x[all] @ sub",
            "x @ git+file:///srv/x",
            "git+file:///srv/x",
            "FILE:///srv/x",
            "x @ foo://../../srv/x",
            "x;y/../../srv/x",
            "x ; '/../../srv/x",
            "--no-index -e ./x",
            "--require-hashes ./x",
            "x --hash=sha256:1 -e ./x",
            "x\t--hash=sha256:1 --no-index ./x",
        ] {
            assert!(local(bad).is_some(), "{bad} was taken");
        }
        for good in [
            "numpy",
            "git+https://h/x.git@main",
            "x @ https://h/x.whl",
            "x[a,b]@git+ssh://git@h/x.git@v1 ; sys_platform == 'x/y'",
            "numpy[a, b] (>=1.0) --hash=sha256:1 --hash=sha256:2",
            "--no-index",
            "--pre",
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
