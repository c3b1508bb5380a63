//! Reads `.gitmodules` and `.lfsconfig` as they lie in a commit. libgit2's own reader would follow `[include]` to
//! files of this machine, which a stranger's repository must not cause.

/// One `section.subsection.key = value`, in file order. Section and key are lower case, the rest as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) section: String,
    pub(super) subsection: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// The settings of a file in git's configuration syntax. A line that is not in it is skipped: a damaged file then
/// lacks settings, which its reader reports by name.
pub(super) fn parse(text: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let (mut section, mut subsection) = (String::new(), String::new());
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim();
        if line.starts_with('[') {
            let Some((head, rest)) = header(line) else { continue };
            (section, subsection) = head;
            line = rest.trim();
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (key, raw) = line.split_once('=').unwrap_or((line, "true"));
        settings.push(Setting {
            section: section.clone(),
            subsection: subsection.clone(),
            key: key.trim().to_ascii_lowercase(),
            value: value(raw.trim_start(), &mut lines),
        });
    }
    settings
}

/// `[section]`, `[section "subsection"]` or the old `[section.subsection]`, and what follows on the line.
fn header(line: &str) -> Option<((String, String), &str)> {
    let line = line.strip_prefix('[')?;
    if let Some(quote) = line.find('"').filter(|&quote| line.find(']').is_none_or(|end| quote < end)) {
        let section = line[..quote].trim().to_ascii_lowercase();
        let mut subsection = String::new();
        let mut chars = line[quote + 1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    let rest = line[quote + 1 + at + 1..].trim_start().strip_prefix(']')?;
                    return Some(((section, subsection), rest));
                }
                '\\' => subsection.push(chars.next()?.1),
                _ => subsection.push(c),
            }
        }
        return None;
    }
    let (head, rest) = line.split_once(']')?;
    let (section, subsection) = head.trim().split_once('.').unwrap_or((head.trim(), ""));
    Some(((section.to_ascii_lowercase(), subsection.to_owned()), rest))
}

/// Quotes, escapes, comments and continued lines of a value.
fn value<'a>(first: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let (mut quoted, mut keep) = (false, 0);
    let mut chars = first.chars();
    loop {
        match chars.next() {
            Some('"') => {
                quoted = !quoted;
                keep = text.len();
            }
            Some('\\') => {
                match chars.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('b') => text.push('\u{8}'),
                    Some(other) => text.push(other),
                    None => match lines.next() {
                        Some(next) => {
                            chars = next.chars();
                            continue;
                        }
                        None => break,
                    },
                }
                keep = text.len();
            }
            Some('#' | ';') if !quoted => break,
            Some(c) => {
                text.push(c);
                if quoted || !c.is_whitespace() {
                    keep = text.len();
                }
            }
            None => break,
        }
    }
    text.truncate(keep);
    text
}

/// The last value of `section.*.url` whose `section.*.path` is `path`.
pub(super) fn submodule_url<'a>(settings: &'a [Setting], path: &str) -> Option<&'a str> {
    let of = |setting: &Setting, key: &str| setting.section == "submodule" && setting.key == key;
    let named = settings
        .iter()
        .rev()
        .find(|setting| of(setting, "path") && setting.value.trim_end_matches('/') == path)?;
    settings
        .iter()
        .rev()
        .find(|setting| of(setting, "url") && setting.subsection == named.subsection)
        .map(|setting| setting.value.as_str())
        .filter(|url| !url.is_empty())
}

/// `lfs.url`, if set.
pub(super) fn lfs_url(settings: &[Setting]) -> Option<&str> {
    let is_url = |setting: &&Setting| {
        setting.section == "lfs" && setting.subsection.is_empty() && setting.key == "url"
    };
    settings.iter().rev().find(is_url).map(|setting| setting.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submodules_as_git_writes_them() {
        let settings = parse(
            "[submodule \"a\"]\n\tpath = libs/a\n\turl = ../a.git\n\
             [submodule \"odd \\\"name\\\"\"] # comment\n\tPath = \"with space/b\" ; comment\n\tURL = https://host/b#c\n\
             [submodule.old]\npath=old\nurl=x\\\ny\n\
             [submodule \"no-url\"]\n\tpath = c\n[broken\n",
        );
        for (path, url) in [
            ("libs/a", Some("../a.git")),
            ("with space/b", Some("https://host/b")),
            ("old", Some("xy")),
            ("c", None),
            ("d", None),
        ] {
            assert_eq!(submodule_url(&settings, path), url, "{path}");
        }
    }

    #[test]
    fn values_keep_what_is_quoted() {
        let settings =
            parse("\u{feff}[lfs]\n  url = \" https://host/x;y \"  \n flag\n[lfs \"x\"]\nurl = other");
        assert_eq!(lfs_url(&settings), Some(" https://host/x;y "));
        assert_eq!(settings[1].value, "true");
    }
}
