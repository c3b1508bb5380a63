//! Rules of Cargo.toml files: every version stands once, in the workspace's manifest, and crates depend on each other
//! along the arrows only.
//!
//! A crate that is not in [`CRATES`] is an error, so that a new one is given its place here first.

use std::path::Path;

use super::Report;

/// A crate's place: its directory, and the crates of ours that it may depend on.
struct Crate {
    dir: &'static str,
    may_use: &'static [&'static str],
    may_use_in_tests: &'static [&'static str],
}

const CRATES: &[Crate] = &[
    Crate { dir: "store", may_use: &[], may_use_in_tests: &["cvs-tests"] },
    Crate { dir: "fusefs", may_use: &["cvs-store"], may_use_in_tests: &["cvs-tests"] },
    Crate { dir: "versions", may_use: &["cvs-store"], may_use_in_tests: &["cvs-tests"] },
    Crate {
        dir: "cli",
        may_use: &["cvs-store", "cvs-fusefs", "cvs-versions"],
        may_use_in_tests: &["cvs-tests"],
    },
    Crate { dir: "tests", may_use: &[], may_use_in_tests: &[] },
    Crate { dir: "tests/fuzz", may_use: &["cvs-store", "cvs-versions"], may_use_in_tests: &[] },
    Crate { dir: "xtask", may_use: &[], may_use_in_tests: &[] },
];

/// Dependencies that one crate alone may have: the network and git stay in one place.
const RESERVED: [(&str, &str); 3] = [("tokio", "versions"), ("reqwest", "versions"), ("git2", "versions")];

pub(super) fn look_at(text: &str, report: &mut Report<'_>) {
    let Some(dir) = report.path.parent().filter(|dir| *dir != Path::new("")) else { return };
    let Some(place) = CRATES.iter().find(|c| Path::new(c.dir) == dir) else {
        return report.add(
            1,
            "arrows",
            "this crate has no place among the arrows: add it to xtask/src/tidy/manifest.rs",
        );
    };
    for dependency in dependencies(text) {
        check(place, &dependency, report);
    }
    if !text.contains("[lints]\nworkspace = true\n") {
        report.add(
            1,
            "workspace-lints",
            "a member takes the workspace's lints: `[lints]`, `workspace = true`",
        );
    }
}

fn check(place: &Crate, dependency: &Dependency<'_>, report: &mut Report<'_>) {
    let Dependency { name, line, in_tests, from_workspace } = *dependency;
    if place.dir == "xtask" {
        report.add(
            line,
            "arrows",
            format!("`{name}`: xtask has no dependencies, it must build on a bare machine"),
        );
    } else if name.starts_with("cvs-") {
        let allowed = place.may_use.contains(&name) || in_tests && place.may_use_in_tests.contains(&name);
        if !allowed {
            report.add(line, "arrows", format!("{} may not depend on {name}", place.dir));
        }
    }
    if let Some((_, owner)) =
        RESERVED.iter().find(|(reserved, owner)| *reserved == name && *owner != place.dir)
    {
        report.add(line, "arrows", format!("only {owner} may depend on {name}"));
    }
    if !from_workspace {
        let message =
            format!("`{name}`: its version belongs in the root Cargo.toml; here `{name}.workspace = true`");
        report.add(line, "workspace-dependencies", message);
    }
}

#[derive(Clone, Copy)]
struct Dependency<'a> {
    name: &'a str,
    line: usize,
    in_tests: bool,
    from_workspace: bool,
}

/// The entries of every dependency table. This reads the forms that cargo's own tools write (one entry a line, or a
/// table of its own); an inline table broken over lines is not valid TOML 1.0.
fn dependencies(text: &str) -> Vec<Dependency<'_>> {
    let mut found: Vec<Dependency<'_>> = Vec::new();
    let mut table = Table::Other;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            table = Table::of(header);
            if let Table::One { name, in_tests } = table {
                found.push(Dependency { name, line: number + 1, in_tests, from_workspace: false });
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let (key, value) = (key.trim(), value.trim());
        match table {
            Table::Many { in_tests } => {
                let (name, rest) = key.split_once('.').unwrap_or((key, ""));
                let dotted = rest == "workspace" && value == "true";
                let inline = value.replace(' ', "").contains("workspace=true");
                found.push(Dependency { name, line: number + 1, in_tests, from_workspace: dotted || inline });
            }
            Table::One { .. } => {
                if let Some(last) = found.last_mut() {
                    last.from_workspace |= key == "workspace" && value == "true";
                }
            }
            Table::Other => {}
        }
    }
    found
}

#[derive(Clone, Copy)]
enum Table<'a> {
    /// `[dependencies]`, also of a target.
    Many {
        in_tests: bool,
    },
    /// `[dependencies.NAME]`.
    One {
        name: &'a str,
        in_tests: bool,
    },
    Other,
}

impl<'a> Table<'a> {
    fn of(header: &'a str) -> Table<'a> {
        for (kind, in_tests) in
            [("dev-dependencies", true), ("build-dependencies", false), ("dependencies", false)]
        {
            if header == kind || header.ends_with(&format!(".{kind}")) {
                return Table::Many { in_tests };
            }
            if let Some((_, name)) = header.split_once(&format!("{kind}.")) {
                return Table::One { name, in_tests };
            }
        }
        Table::Other
    }
}

#[cfg(test)]
mod tests {
    use crate::tidy::tests::findings;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn versions_stand_in_the_workspace_alone() {
        let good = "[dependencies]\n# why = \"1\"\na.workspace = true\nb = { workspace = true, features = [\"x\"] }\n\
                    \n[dev-dependencies.c]\nworkspace = true\n";
        assert!(findings("store/Cargo.toml", &format!("{LINTS}{good}")).is_empty());
        let bad = "[dependencies]\na = \"1\"\n[target.'cfg(unix)'.dependencies]\nb = { version = \"1\" }\n\
                   [build-dependencies.c]\nversion = \"1\"\n";
        let say = |line: u32, name: &str| {
            format!(
                "store/Cargo.toml:{line}: [workspace-dependencies] `{name}`: its version belongs in the root \
                 Cargo.toml; here `{name}.workspace = true`"
            )
        };
        assert_eq!(
            findings("store/Cargo.toml", &format!("{LINTS}{bad}")),
            [say(4, "a"), say(6, "b"), say(7, "c")]
        );
    }

    #[test]
    fn arrows_go_one_way() {
        let cases = [
            (
                "store",
                "[dependencies]\ncvs-versions.workspace = true\n",
                "store may not depend on cvs-versions",
            ),
            (
                "fusefs",
                "[dependencies]\ncvs-versions.workspace = true\n",
                "fusefs may not depend on cvs-versions",
            ),
            (
                "versions",
                "[dependencies]\ncvs-tests.workspace = true\n",
                "versions may not depend on cvs-tests",
            ),
            ("cli", "[dependencies]\ntokio.workspace = true\n", "only versions may depend on tokio"),
            ("tests", "[dev-dependencies]\ngit2.workspace = true\n", "only versions may depend on git2"),
            (
                "xtask",
                "[dependencies]\nlibc.workspace = true\n",
                "`libc`: xtask has no dependencies, it must build on a bare machine",
            ),
        ];
        for (dir, text, message) in cases {
            let path = format!("{dir}/Cargo.toml");
            let expected = format!("{path}:4: [arrows] {message}");
            assert_eq!(findings(&path, &format!("{LINTS}{text}")), [expected]);
        }
        let allowed =
            "[dependencies]\ncvs-store.workspace = true\n[dev-dependencies]\ncvs-tests.workspace = true\n";
        assert!(findings("versions/Cargo.toml", &format!("{LINTS}{allowed}")).is_empty());
    }

    #[test]
    fn members_take_the_lints_and_have_a_place() {
        let lints = "cli/Cargo.toml:1: [workspace-lints] a member takes the workspace's lints: `[lints]`, \
                     `workspace = true`";
        assert_eq!(findings("cli/Cargo.toml", "[package]\nname = \"cvs-cli\"\n"), [lints]);
        let place = "gui/Cargo.toml:1: [arrows] this crate has no place among the arrows: add it to \
                     xtask/src/tidy/manifest.rs";
        assert_eq!(findings("gui/Cargo.toml", LINTS), [place]);
        assert!(findings("Cargo.toml", "[workspace]\n").is_empty());
    }
}
