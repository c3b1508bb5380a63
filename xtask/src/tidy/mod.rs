//! `cargo xtask tidy`: the repository's own rules, those that neither the compiler nor clippy knows.
//!
//! Each rule has a name, looks at one file at a time, and reports a line and what to do; the rules themselves stand
//! in [`rust`] (source files), [`manifest`] (Cargo.toml, the arrows between crates) and [`docs`] (Markdown).
//! The repository's layout is the only thing they know of its contents.

mod docs;
mod manifest;
mod rust;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::failure::{Doing, Failure, Outcome, fail};
use crate::project::Project;

/// One broken rule. Prints as `path:line: [rule] message`, which editors and terminals can follow.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path.display(), self.line, self.rule, self.message)
    }
}

/// The findings of one file.
struct Report<'a> {
    path: &'a Path,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, line: usize, rule: &'static str, message: impl Into<String>) {
        self.findings.push(Finding { path: self.path.to_path_buf(), line, rule, message: message.into() });
    }
}

pub(crate) fn run(project: &Project, args: &[String]) -> Outcome {
    if let [arg, ..] = args {
        fail!(usage, "tidy takes no arguments, found '{arg}'");
    }
    let findings = look(project.root())?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => fail!("one rule of the repository is broken"),
        n => fail!("{n} rules of the repository are broken"),
    }
}

fn look(root: &Path) -> Outcome<Vec<Finding>> {
    let mut files = Vec::new();
    collect(root, Path::new(""), &mut files)?;
    files.sort();
    let mut findings = Vec::new();
    for path in &files {
        let bytes = std::fs::read(root.join(path)).doing(|| format!("reading {}", path.display()))?;
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(Failure::new(format!("{} is not UTF-8", path.display())));
        };
        let mut report = Report { path, findings: &mut findings };
        look_at(root, &text, &mut report);
    }
    findings.sort();
    Ok(findings)
}

fn look_at(root: &Path, text: &str, report: &mut Report<'_>) {
    whitespace(text, report);
    match report.path.extension().and_then(|e| e.to_str()) {
        Some("rs") => rust::look_at(text, report),
        Some("md") => docs::look_at(root, text, report),
        Some("toml") if report.path.ends_with("Cargo.toml") => manifest::look_at(text, report),
        _ => {}
    }
}

/// The text files that are ours to keep: sources, manifests, documents, the tests' Python and scripts. Samples and
/// test data keep the shape that they were found in, so other kinds are left alone.
fn collect(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    let full = root.join(dir);
    let entries = std::fs::read_dir(&full).doing(|| format!("listing {}", full.display()))?;
    for entry in entries {
        let entry = entry.doing(|| format!("listing {}", full.display()))?;
        let name = entry.file_name();
        let path = dir.join(&name);
        let kind = entry.file_type().doing(|| format!("looking at {}", path.display()))?;
        let name = name.to_string_lossy();
        if kind.is_dir() {
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            // A nested `target` directory is one of an example's own build, never a module of ours.
            if !hidden && name != "target" && !root.join(&path).join(".git").exists() {
                collect(root, &path, files)?;
            }
        } else if kind.is_file() {
            let ours = [".rs", ".toml", ".md", ".py", ".sh"].iter().any(|end| name.ends_with(end));
            if ours || path == Path::new(".ci/run") {
                files.push(path);
            }
        }
    }
    Ok(())
}

fn whitespace(text: &str, report: &mut Report<'_>) {
    const RULE: &str = "whitespace";
    for (number, line) in text.split('\n').enumerate() {
        if line.ends_with(' ') || line.ends_with('\t') || line.ends_with('\r') {
            report.add(number + 1, RULE, "white space at the end of the line");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        report.add(text.lines().count(), RULE, "the last line has no newline");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules say of one file, as printed.
    pub(super) fn findings(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        look_at(Path::new("."), text, &mut Report { path: Path::new(path), findings: &mut found });
        found.sort();
        found.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn whitespace_at_line_ends() {
        assert_eq!(
            findings("a.py", "x = 1 \ny = 2"),
            [
                "a.py:1: [whitespace] white space at the end of the line",
                "a.py:2: [whitespace] the last line has no newline",
            ]
        );
        assert!(findings("a.py", "x = 1\n").is_empty());
    }

    #[test]
    fn the_rules_hold_here() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found: Vec<String> = look(root).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, Vec::<String>::new());
    }
}
