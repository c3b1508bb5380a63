//! The git repositories of our ComfyUI: the core, custom nodes, and the library that one node has as a submodule.
//!
//! They are made from the templates in `tests/comfyui`. Each has the same history: `v0.1.0` (a lightweight tag), then
//! `v0.2.0` (an annotated one) at `master`, and one commit more on the branch `develop`. Every commit changes the
//! version number where the template has it and `CHANGES.md`. The same templates give the same ids everywhere.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::git::Git;

/// The core's repository.
pub const CORE: &str = "ComfyUI";

/// The nodes' repositories; what is special about each says the head of its `__init__.py`.
pub const NODES: [&str; 8] = [
    "plain",
    "patterns",
    "self-writing",
    "needs-package",
    "broken",
    "prestartup",
    "installer",
    "slow-import",
];

/// The repository that is a submodule of the node `patterns`, at `vendor/pattern-lib`.
pub const LIBRARY: &str = "pattern-lib";

const SUBMODULE_PATH: &str = "vendor/pattern-lib";
const FIRST_VERSION: &str = "0.1.0";

/// How `.gitmodules` names the library.
#[derive(Clone, Debug)]
pub enum SubmoduleUrl {
    /// `../pattern-lib.git`, which works from wherever the node itself was cloned.
    Relative,
    /// `BASE/pattern-lib.git`; the base must be known before the repositories are made.
    Absolute(String),
}

/// All repositories, bare, below one directory that a server can serve.
pub struct Repositories {
    git: Git,
    served: PathBuf,
    pub(crate) work: PathBuf,
}

impl Repositories {
    /// Makes `DIR/served/NAME.git` for each, by way of work trees in `DIR/work/NAME`.
    pub fn build(dir: &Path, submodule: &SubmoduleUrl) -> Repositories {
        let repositories =
            Repositories { git: Git::new(), served: dir.join("served"), work: dir.join("work") };
        for path in [&repositories.served, &repositories.work] {
            fs::create_dir_all(path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        }
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("comfyui");
        repositories.make(LIBRARY, &templates.join("libraries").join(LIBRARY), None);
        repositories.make(CORE, &templates.join("core"), None);
        for name in NODES {
            let url = match submodule {
                _ if name != "patterns" => None,
                SubmoduleUrl::Relative => Some(format!("../{LIBRARY}.git")),
                SubmoduleUrl::Absolute(base) => Some(format!("{base}/{LIBRARY}.git")),
            };
            repositories.make(name, &templates.join("nodes").join(name), url.as_deref());
        }
        repositories
    }

    /// The directory to serve: every repository is `NAME.git` in it.
    pub fn served(&self) -> &Path {
        &self.served
    }

    /// One bare repository.
    pub fn path(&self, name: &str) -> PathBuf {
        self.served.join(format!("{name}.git"))
    }

    /// The commit that a branch, tag or expression stands for.
    #[track_caller]
    pub fn commit_id(&self, name: &str, revision: &str) -> String {
        self.git.run(&self.path(name), &["rev-parse", "--verify", &format!("{revision}^{{commit}}")])
    }

    /// The runner, for what no method here does.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// A commit on top of a branch, as an upstream's next push: files written, or removed where `None`.
    #[track_caller]
    pub fn commit(&self, name: &str, branch: &str, files: &[(&str, Option<&[u8]>)]) -> String {
        let tree = self.work.join(name);
        self.git.run(&tree, &["checkout", "-q", branch]);
        for (path, bytes) in files {
            let full = tree.join(path);
            match bytes {
                Some(bytes) => {
                    fs::create_dir_all(full.parent().expect("a path in a tree has a parent"))
                        .and_then(|()| fs::write(&full, bytes))
                        .unwrap_or_else(|error| panic!("writing {}: {error}", full.display()));
                    self.git.run(&tree, &["add", "-f", "--", path]);
                }
                None => drop(self.git.run(&tree, &["rm", "-q", "-r", "-f", "--", path])),
            }
        }
        let id = self.git.commit(&tree, "Change as asked");
        self.git.run(&tree, &["push", "-q", "origin", branch]);
        id
    }

    /// An ordinary checkout: the core at `dir` and these nodes in its `custom_nodes`, all at `revision`.
    #[track_caller]
    pub fn check_out(&self, dir: &Path, revision: &str, nodes: &[&str]) {
        self.clone_to(CORE, revision, dir);
        for name in nodes {
            self.clone_to(name, revision, &dir.join("custom_nodes").join(name));
        }
    }

    #[track_caller]
    fn clone_to(&self, name: &str, revision: &str, dir: &Path) {
        let target = dir.to_str().expect("temporary directories are UTF-8");
        let source = self.path(name);
        let source = source.to_str().expect("temporary directories are UTF-8");
        self.git.run(Path::new("/"), &["clone", "-q", "--branch", revision, source, target]);
        self.git.run(dir, &["submodule", "--quiet", "update", "--init", "--recursive"]);
    }

    fn make(&self, name: &str, template: &Path, submodule: Option<&str>) {
        let tree = self.work.join(name);
        copy_template(template, &tree)
            .unwrap_or_else(|error| panic!("copying {}: {error}", template.display()));
        self.git.run(&tree, &["init", "-q"]);
        let mut version = FIRST_VERSION;
        self.release(&tree, version, submodule);
        self.git.run(&tree, &["tag", "v0.1.0"]);
        for (next, then) in
            [("0.2.0", ["tag", "-a", "-m", "Release 0.2.0", "v0.2.0"].as_slice()), ("0.3.0-dev", &[])]
        {
            if then.is_empty() {
                self.git.run(&tree, &["checkout", "-q", "-b", "develop"]);
            }
            set_version(&tree, version, next)
                .unwrap_or_else(|error| panic!("changing {}: {error}", tree.display()));
            version = next;
            self.release(&tree, version, submodule);
            if !then.is_empty() {
                self.git.run(&tree, then);
            }
        }
        self.git.run(&tree, &["checkout", "-q", "master"]);
        let bare = self.path(name);
        let target = bare.to_str().expect("temporary directories are UTF-8");
        self.git.run(&tree, &["clone", "-q", "--bare", ".", target]);
        self.git.run(&bare, &["remote", "remove", "origin"]);
        self.git.run(&tree, &["remote", "add", "origin", target]);
    }

    fn release(&self, tree: &Path, version: &str, submodule: Option<&str>) {
        let changes = tree.join("CHANGES.md");
        let before = fs::read_to_string(&changes).unwrap_or_default();
        fs::write(&changes, format!("- {version}\n{before}")).expect("writing CHANGES.md");
        // The templates hold files that the repository itself ignores, models/*/put_*_here among them.
        self.git.run(tree, &["add", "-A", "-f", "."]);
        if let Some(url) = submodule {
            let key = format!("submodule.{SUBMODULE_PATH}");
            self.git.run(tree, &["config", "-f", ".gitmodules", &format!("{key}.path"), SUBMODULE_PATH]);
            self.git.run(tree, &["config", "-f", ".gitmodules", &format!("{key}.url"), url]);
            self.git.run(tree, &["add", ".gitmodules"]);
            let revision = if version == "0.3.0-dev" { "develop".to_owned() } else { format!("v{version}") };
            let link = format!("160000,{},{SUBMODULE_PATH}", self.commit_id(LIBRARY, &revision));
            self.git.run(tree, &["update-index", "--add", "--cacheinfo", &link]);
        }
        self.git.commit(tree, &format!("Release {version}"));
    }
}

/// Copies a template, links as links, modes kept. `gitignore` becomes `.gitignore`: under its own name it would hide
/// the template's files from the repository that this crate is in.
fn copy_template(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(if name == "gitignore" { ".gitignore".as_ref() } else { name.as_os_str() });
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_template(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Replaces the version number in every text of the tree.
fn set_version(tree: &Path, from: &str, to: &str) -> io::Result<()> {
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != ".git" {
            set_version(&entry.path(), from, to)?;
        } else if kind.is_file()
            && entry.file_name() != "CHANGES.md"
            && let Ok(text) = String::from_utf8(fs::read(entry.path())?)
            && text.contains(from)
        {
            fs::write(entry.path(), text.replace(from, to))?;
        }
    }
    Ok(())
}
