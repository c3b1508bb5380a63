//! Rules of Rust source files.

use std::path::Path;

use super::Report;
use super::source::{Source, calls_macro, has_word};

const LONGEST_FILE: usize = 600;

/// The library crates: what they have to say goes to their caller as events, errors and figures.
const SILENT_CRATES: [&str; 3] = ["store", "fusefs", "versions"];

pub(super) fn look_at(text: &str, report: &mut Report<'_>) {
    let source = Source::new(text);
    contract(&source, report);
    length(&source, report);
    unfinished(&source, report);
    ignored_tests(&source, report);
    unsafe_places(&source, report);
    printing(&source, report);
}

/// A module opens with its contract.
fn contract(source: &Source<'_>, report: &mut Report<'_>) {
    let first = source.text.first().copied().unwrap_or_default();
    let contract = first.strip_prefix("//!").map(str::trim);
    if contract.is_none_or(|words| words.is_empty() || words.starts_with("Placeholder")) {
        report.add(1, "contract", "the file must open with `//!` and what the module promises");
    }
}

fn length(source: &Source<'_>, report: &mut Report<'_>) {
    let lines = source.text.len();
    if lines > LONGEST_FILE {
        let message = format!("{lines} lines; over {LONGEST_FILE} a file must be split by idea");
        report.add(LONGEST_FILE + 1, "length", message);
    }
}

fn unfinished(source: &Source<'_>, report: &mut Report<'_>) {
    for (number, code) in source.code.iter().enumerate() {
        for name in ["todo", "unimplemented", "dbg"] {
            if calls_macro(code, name) {
                report.add(number + 1, "unfinished", format!("`{name}!` may not stay"));
            }
        }
    }
}

/// A test that cannot run here says so and is counted; one that is switched off tells nobody.
fn ignored_tests(source: &Source<'_>, report: &mut Report<'_>) {
    for (number, code) in source.code.iter().enumerate() {
        let attribute = code.trim_start();
        let switched_off = attribute.starts_with("#[ignore")
            || attribute.starts_with("#[cfg_attr(") && has_word(attribute, "ignore");
        if switched_off {
            report.add(number + 1, "ignored-test", "a test may not be switched off: mend it or take it away");
        }
    }
}

fn unsafe_places(source: &Source<'_>, report: &mut Report<'_>) {
    let path = report.path;
    if path.ends_with("sys.rs") || path.iter().any(|part| part == "sys") {
        return;
    }
    for (number, code) in source.code.iter().enumerate() {
        if has_word(code, "unsafe") {
            report.add(number + 1, "unsafe", "`unsafe` belongs in a `sys` module");
        }
    }
}

fn printing(source: &Source<'_>, report: &mut Report<'_>) {
    if !is_silent(report.path) {
        return;
    }
    for (number, code) in source.code.iter().enumerate() {
        for name in ["print", "println", "eprint", "eprintln"] {
            if !source.in_test[number] && calls_macro(code, name) {
                let message =
                    format!("`{name}!` in a library: emit an event or return it; only the cli prints");
                report.add(number + 1, "silent-library", message);
            }
        }
    }
}

/// Sources of the library crates, their tests left out: a test says why it was skipped.
fn is_silent(path: &Path) -> bool {
    let in_library = SILENT_CRATES.iter().any(|name| path.starts_with(Path::new(name).join("src")));
    in_library && !path.iter().any(|part| part == "tests" || part == "tests.rs")
}

#[cfg(test)]
mod tests {
    use crate::tidy::tests::findings;

    #[test]
    fn each_rule_finds_its_line() {
        let unfinished = "[unfinished] `todo!` may not stay";
        let ignored = "[ignored-test] a test may not be switched off: mend it or take it away";
        let placed = "[unsafe] `unsafe` belongs in a `sys` module";
        let silent =
            "[silent-library] `println!` in a library: emit an event or return it; only the cli prints";
        let contract = "[contract] the file must open with `//!` and what the module promises";
        let cases = [
            ("store/src/a.rs", "//! A.\nfn f() { todo!() }\n", vec![format!("2: {unfinished}")]),
            ("store/src/a.rs", "//! A, without todo!().\n", vec![]),
            ("store/src/a.rs", "//! A.\n    #[ignore = \"slow\"]\n", vec![format!("2: {ignored}")]),
            ("store/src/a.rs", "//! A.\n#[cfg_attr(not(x), ignore)]\n", vec![format!("2: {ignored}")]),
            ("store/src/a.rs", "//! A.\nunsafe fn f() {}\n", vec![format!("2: {placed}")]),
            ("store/src/sys.rs", "//! A.\nunsafe fn f() {}\n", vec![]),
            ("store/src/sys/mount.rs", "//! A.\nunsafe fn f() {}\n", vec![]),
            ("store/src/a.rs", "//! A.\nfn f() { println!() }\n", vec![format!("2: {silent}")]),
            ("store/src/a.rs", "//! A.\n#[cfg(test)]\nmod tests {\n    fn f() { println!() }\n}\n", vec![]),
            ("store/tests/a.rs", "//! A.\nfn f() { println!() }\n", vec![]),
            ("cli/src/a.rs", "//! A.\nfn f() { println!() }\n", vec![]),
            ("cli/src/a.rs", "fn f() {}\n", vec![format!("1: {contract}")]),
            ("cli/src/a.rs", "//! Placeholder.\n", vec![format!("1: {contract}")]),
            ("cli/src/a.rs", "", vec![format!("1: {contract}")]),
        ];
        for (path, text, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|line| format!("{path}:{line}")).collect();
            assert_eq!(findings(path, text), expected, "{path}: {text}");
        }
    }

    #[test]
    fn long_files_are_split() {
        let text = format!("//! A.\n{}", "\n".repeat(600));
        assert_eq!(
            findings("cli/src/a.rs", &text),
            ["cli/src/a.rs:601: [length] 601 lines; over 600 a file must be split by idea"]
        );
    }
}
