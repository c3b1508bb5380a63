//! `python_packages`: requirements only. A pip flag is refused by name, with what to write instead.

/// The flag that a requirement is or carries, if any.
pub(crate) fn flag(item: &str) -> Option<&str> {
    item.split_whitespace()
        .find(|word| {
            word.starts_with("--") || (word.starts_with('-') && word[1..].starts_with(char::is_alphabetic))
        })
        .map(|word| word.split('=').next().unwrap_or(word))
}

/// What to write in place of `flag`.
pub(super) fn instead_of(flag: &str) -> String {
    let advice = match flag {
        "--force-reinstall" | "--ignore-installed" | "-I" => "an environment is always built anew",
        "--upgrade" | "-U" | "--upgrade-strategy" => {
            "pin a version (`name==1.2`), or lock again for newer ones"
        }
        "--index-url" | "-i" | "--extra-index-url" | "--find-links" | "-f" | "--trusted-host" => {
            "give the package by its address (`name @ https://…/name-1.2-….whl`)"
        }
        "--requirement" | "-r" | "--constraint" | "-c" => "write the packages themselves",
        "--editable" | "-e" => "write `name @ git+https://…`",
        "--pre" => "pin the pre-release (`name==1.2rc1`)",
        "--no-cache-dir" | "--quiet" | "-q" | "--verbose" | "-v" | "--user" | "--break-system-packages" => {
            "it means nothing here"
        }
        _ => "options of pip are not read",
    };
    format!("a requirement such as `name==1.2`; leave `{flag}` out: {advice}")
}

/// True when `flag` stands alone as `item` and its value is the next item.
pub(super) fn takes_next(item: &str, flag: &str) -> bool {
    const WITH_VALUE: &[&str] = &[
        "--index-url",
        "-i",
        "--extra-index-url",
        "--find-links",
        "-f",
        "--trusted-host",
        "--requirement",
        "-r",
        "--constraint",
        "-c",
        "--editable",
        "-e",
        "--upgrade-strategy",
    ];
    item.trim() == flag && WITH_VALUE.contains(&flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_from_requirements() {
        for (item, expected) in [
            ("--force-reinstall", Some("--force-reinstall")),
            ("torch --index-url https://x", Some("--index-url")),
            ("--index-url=https://x", Some("--index-url")),
            (" -U", Some("-U")),
            ("onnxruntime-gpu", None),
            ("a>=1, <2; python_version < '3.12' and x == '-1'", None),
            ("x @ https://h/a-b--c.whl", None),
        ] {
            assert_eq!(flag(item), expected, "{item}");
        }
        assert_eq!(
            instead_of("--force-reinstall"),
            "a requirement such as `name==1.2`; leave `--force-reinstall` out: an environment is always built anew"
        );
        assert!(takes_next("-r", "-r") && !takes_next("-r x", "-r") && !takes_next("--pre", "--pre"));
    }
}
