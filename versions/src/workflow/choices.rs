//! Choices in texts, as the editor makes them when a text of a prompt is sent: of `{red|green|blue}` one is taken,
//! at random; comments (`// …`, `/* … */`) are left out; a backslash takes its meaning from `{`, `}` and `|`.

/// A text with more braces than this is no text of a person, and stays as it is.
const MOST: usize = 500;

/// The text with its choices made. `choose` is given how many there are, and answers with the index of one.
pub(super) fn resolve(text: &str, choose: &mut dyn FnMut(usize) -> usize) -> String {
    let text = without_comments(text);
    let out = if text.matches('{').count() > MOST { text } else { choices(&text, choose) };
    ["\\{", "\\}", "\\|"].iter().fold(out, |out, escaped| out.replace(escaped, &escaped[1..]))
}

/// A part that was chosen may hold choices of its own.
fn choices(text: &str, choose: &mut dyn FnMut(usize) -> usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, character, after)) = next(rest) {
        out.push_str(before);
        rest = after;
        match (character, options(after)) {
            ('{', Some((options, after))) => {
                let chosen = options.get(choose(options.len())).copied().unwrap_or_default();
                out.push_str(&choices(chosen, choose));
                rest = after;
            }
            _ => out.push(character),
        }
    }
    out.push_str(rest);
    out
}

/// The next of `{`, `}` and `|` without a backslash, with what is before and after it.
fn next(text: &str) -> Option<(&str, char, &str)> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            '{' | '}' | '|' if !escaped => {
                return Some((text.get(..at)?, character, text.get(at + 1..)?));
            }
            _ => escaped = character == '\\' && !escaped,
        }
    }
    None
}

/// The options after an opening brace, and what follows the brace that closes it; none when nothing does.
fn options(text: &str) -> Option<(Vec<&str>, &str)> {
    let (mut depth, mut start, mut rest) = (0, 0, text);
    let mut options = Vec::new();
    while let Some((_, character, after)) = next(rest) {
        let at = text.len() - after.len() - 1;
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                options.push(text.get(start..at)?);
                return Some((options, after));
            }
            '}' => depth -= 1,
            _ if depth == 0 => {
                options.push(text.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
        rest = after;
    }
    None
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let (before, comment) = rest.split_at(at);
        out.push_str(before);
        rest = if let Some(body) = comment.strip_prefix("//") {
            body.find(['\n', '\r']).map_or("", |end| &body[end..])
        } else if let Some(end) = comment.strip_prefix("/*").and_then(|body| body.find("*/")) {
            &comment[end + 4..]
        } else {
            out.push('/');
            &comment[1..]
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn one_of_each_choice_is_taken() {
        let cases = [
            ("a {red|green|blue} cat", "a green cat"),
            ("{a|{b|c}|d}", "c"),
            ("{one}", "one"),
            ("{a|}", ""),
            ("no {end", "no {end"),
            ("no start} | here", "no start} | here"),
            ("\\{kept\\|as it is\\}", "{kept|as it is}"),
            ("a // a comment\nb /* and\nthis */ c", "a \nb  c"),
            ("1/2 /* open", "1/2 /* open"),
            ("", ""),
        ];
        for (text, expected) in cases {
            // The second of several, the first of one.
            assert_eq!(resolve(text, &mut |count| count.min(2) - 1), expected, "{text:?}");
        }
    }
}
