//! Rust source as the rules see it: the same lines and columns, with everything that is not code blanked out.
//!
//! This is a lexer for exactly what can hide or fake a token (comments, strings, characters), not a parser.

/// A source file, line by line, in two forms.
pub(super) struct Source<'a> {
    /// The lines as they stand.
    pub(super) text: Vec<&'a str>,
    /// The lines with comments, strings and characters blanked.
    pub(super) code: Vec<String>,
    /// For each line, whether it belongs to a `#[cfg(test)]` item.
    pub(super) in_test: Vec<bool>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Source<'a> {
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let in_test = test_lines(&code);
        Source { text: text.lines().collect(), code, in_test }
    }
}

/// Whether `code` has `word` as a whole identifier (`unsafe` is not in `unsafe_code`).
pub(super) fn has_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

/// Whether `code` calls the macro `name!` (`println!` is not in `eprintln!`).
pub(super) fn calls_macro(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && code[at + name.len()..].trim_start().starts_with('!')
    })
}

fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (len, is_code) = token(rest, out.chars().next_back());
        let (part, tail) = rest.split_at(len);
        if is_code {
            out.push_str(part);
        } else {
            out.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = tail;
    }
    out
}

/// The length of what `rest` starts with, and whether it is code.
fn token(rest: &str, before: Option<char>) -> (usize, bool) {
    let first = rest.chars().next().map_or(0, char::len_utf8);
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_name && let Some(len) = raw_string(rest) {
        return (len, false);
    }
    if rest.starts_with('"') {
        return (quoted(rest, '"'), false);
    }
    if let Some(after) = rest.strip_prefix('\'') {
        // A lifetime has no closing quote right after its first character; a character literal does, or an escape.
        let mut chars = after.chars();
        let is_char = match (chars.next(), chars.next()) {
            (Some('\\'), _) => true,
            (Some(_), Some(second)) => second == '\'',
            _ => false,
        };
        return if is_char { (quoted(rest, '\''), false) } else { (1, true) };
    }
    (first, true)
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` and their byte and C forms.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|p| rest.starts_with(p))?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if !after[hashes..].starts_with('"') {
        return None;
    }
    let open = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len()))
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Marks the lines from each `#[cfg(test)]` to the end of the item that it stands on.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut marks = vec![false; code.len()];
    let mut number = 0;
    while number < code.len() {
        if !code[number].contains("#[cfg(test)]") {
            number += 1;
            continue;
        }
        let mut depth = 0i32;
        let mut ended = false;
        while number < code.len() && !ended {
            marks[number] = true;
            let attribute_end = code[number].find("#[cfg(test)]").map_or(0, |at| at + "#[cfg(test)]".len());
            for c in code[number][attribute_end..].chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                ended |= depth == 0 && (c == '}' || c == ';');
            }
            number += 1;
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_code_is_blanked() {
        let cases = [
            ("a // todo!", "a         "),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("un\"safe", 'x')"#, "f(          ,    )"),
            ("r#\"a\"b\"# c", "         c"),
            (r"'\'' 'a &'static str", "     'a &'static str"),
            ("b\"x\" c", "b    c"),
            ("\"a\nb\" c", "  \n   c"),
        ];
        for (text, code) in cases {
            assert_eq!(blank(text), code, "{text}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("    unsafe { x }", "unsafe"));
        assert!(!has_word("#![deny(unsafe_op_in_unsafe_fn)]", "unsafe"));
        assert!(calls_macro("eprintln!(\"\")", "eprintln"));
        assert!(!calls_macro("eprintln!(\"\")", "println"));
        assert!(!calls_macro("let println = 1;", "println"));
    }

    #[test]
    fn test_items_are_known_by_their_braces() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod other;\nfn d() {}\n";
        let source = Source::new(text);
        assert_eq!(source.in_test, [false, true, true, true, true, false, true, true, false]);
    }
}
