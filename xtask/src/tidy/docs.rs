//! Rules of Markdown files: a relative link leads to a file that is there, and its fragment to a heading in it; a test
//! that is named as `module::test` is there.

use std::path::{Path, PathBuf};

use super::{Report, collect};

pub(super) fn look_at(root: &Path, text: &str, report: &mut Report<'_>) {
    links_lead(root, text, report);
    tests_are_there(root, text, report);
}

fn tests_are_there(root: &Path, text: &str, report: &mut Report<'_>) {
    let mut files: Option<Vec<PathBuf>> = None;
    for (line, module, test) in tests(text) {
        let files = files.get_or_insert_with(|| {
            let mut all = Vec::new();
            // A tree that cannot be read is reported by who reads it next.
            let _ = collect(root, Path::new(""), &mut all);
            all
        });
        let of_module = files.iter().filter(|path| {
            path.ends_with(format!("{module}.rs")) || path.parent().is_some_and(|dir| dir.ends_with(module))
        });
        let mut texts = of_module.filter_map(|path| std::fs::read_to_string(root.join(path)).ok());
        if !texts.any(|text| text.contains(&format!("fn {test}("))) {
            report.add(line, "tests", format!("there is no test {module}::{test}"));
        }
    }
}

/// The code spans that are a module and a function of it.
fn tests(text: &str) -> Vec<(usize, &str, &str)> {
    let is_name = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let spans =
        prose(text).flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |s| (number, s)));
    let pairs =
        spans.filter_map(|(number, span)| span.split_once("::").map(|(module, test)| (number, module, test)));
    pairs.filter(|(_, module, test)| is_name(module) && is_name(test)).collect()
}

fn links_lead(root: &Path, text: &str, report: &mut Report<'_>) {
    const RULE: &str = "links";
    let dir = report.path.parent().unwrap_or(Path::new("")).to_path_buf();
    for (line, link) in links(text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
        let target = root.join(&dir).join(file);
        if !file.is_empty() && !target.exists() {
            report.add(line, RULE, format!("there is no {}", dir.join(file).display()));
            continue;
        }
        if fragment.is_empty() || !(file.is_empty() || file.ends_with(".md")) {
            continue;
        }
        let known = if file.is_empty() {
            headings(text)
        } else {
            headings(&std::fs::read_to_string(&target).unwrap_or_default())
        };
        if !known.iter().any(|heading| heading == fragment) {
            let place = if file.is_empty() { "this file" } else { file };
            report.add(line, RULE, format!("{place} has no heading for #{fragment}"));
        }
    }
}

/// The lines that are not in a fenced block, numbered from one.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((number + 1, line))
    })
}

/// The targets of `[text](target)`, not those in code spans.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // Every second piece between backticks is code.
        for piece in line.split('`').step_by(2) {
            for (at, _) in piece.match_indices("](") {
                if let Some((target, _)) = piece[at + 2..].split_once(')') {
                    // A title may follow the target: `[text](target "title")`.
                    found.push((number, target.split_whitespace().next().unwrap_or_default()));
                }
            }
        }
    }
    found
}

/// The fragments of a file's headings, as GitHub forms them: lower case, punctuation dropped, spaces to hyphens, a
/// number after the second of the same name.
fn headings(text: &str) -> Vec<String> {
    let mut slugs: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let slug: String = title
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .flat_map(char::to_lowercase)
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let before = slugs.iter().filter(|known| **known == slug).count();
        found.push(if before == 0 { slug.clone() } else { format!("{slug}-{before}") });
        slugs.push(slug);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::findings;

    #[test]
    fn links_lead_somewhere() {
        let text = "# One thing\n[a](src/main.rs) [b](gone.md) [c](https://x.org/y) [d](#one-thing)\n\
                    [e](#two) `[f](gone.rs)` [g](gone.rs \"title\")\n```\n[h](gone.rs)\n```\n";
        assert_eq!(
            findings("a.md", text),
            [
                "a.md:2: [links] there is no gone.md",
                "a.md:3: [links] there is no gone.rs",
                "a.md:3: [links] this file has no heading for #two",
            ]
        );
    }

    #[test]
    fn tests_that_are_named_exist() {
        let text = "`docs::tests_that_are_named_exist`, `docs::gone` and\n`other::one`; `Docs::Gone`, `std::fs::read`\n";
        assert_eq!(
            findings("a.md", text),
            ["a.md:1: [tests] there is no test docs::gone", "a.md:2: [tests] there is no test other::one"]
        );
    }

    #[test]
    fn headings_become_fragments() {
        let text =
            "# What `cvs` is\n## Names, and places\n```\n# not one\n```\n#not one\n## Again\n## Again\n";
        assert_eq!(headings(text), ["what-cvs-is", "names-and-places", "again", "again-1"]);
    }
}
