//! The repositories that everything is made from.

use std::os::unix::fs::PermissionsExt;

use cvs_tests::{CORE, LIBRARY, NODES, Repositories, SubmoduleUrl};

#[test]
fn the_same_templates_give_the_same_commits() {
    let dir = tempfile::tempdir().unwrap();
    let built = ["a", "b"].map(|name| Repositories::build(&dir.path().join(name), &SubmoduleUrl::Relative));
    for name in NODES.into_iter().chain([CORE, LIBRARY]) {
        let commits = ["v0.1.0", "v0.2.0", "develop"].map(|revision| built[0].commit_id(name, revision));
        assert_eq!(
            commits,
            ["v0.1.0", "v0.2.0", "develop"].map(|revision| built[1].commit_id(name, revision))
        );
        assert_eq!(built[0].commit_id(name, "master"), commits[1], "{name}");
        assert!(commits[0] != commits[1] && commits[1] != commits[2], "{name}");
    }
}

#[test]
fn trees_hold_links_modes_and_submodules() {
    let dir = tempfile::tempdir().unwrap();
    let repositories =
        Repositories::build(dir.path(), &SubmoduleUrl::Absolute("https://example.com/x".into()));
    let git = repositories.git();
    for (name, path, expected) in [
        ("plain", "data/current.json", "120000 blob"),
        ("plain", "scripts/count.sh", "100755 blob"),
        ("plain", "nodes.py", "100644 blob"),
        ("patterns", "vendor/pattern-lib", "160000 commit"),
        (CORE, "models/vae/put_vae_here", "100644 blob"),
        (CORE, "input/example.png", "100644 blob"),
        (CORE, ".gitignore", "100644 blob"),
    ] {
        let listed = git.run(&repositories.path(name), &["ls-tree", "v0.2.0", path]);
        assert_eq!(listed.get(..expected.len()), Some(expected), "{name} {path}");
    }
    let gitmodules = git.run(&repositories.path("patterns"), &["show", "master:.gitmodules"]);
    assert!(gitmodules.ends_with("url = https://example.com/x/pattern-lib.git"), "{gitmodules}");
    for (revision, version) in [("v0.1.0", "0.1.0"), ("v0.2.0", "0.2.0"), ("develop", "0.3.0-dev")] {
        let text = git.run(&repositories.path(CORE), &["show", &format!("{revision}:comfyui_version.py")]);
        assert_eq!(text, format!("__version__ = \"{version}\""));
        let link = git
            .run(&repositories.path("patterns"), &["rev-parse", &format!("{revision}:vendor/pattern-lib")]);
        assert_eq!(link, repositories.commit_id(LIBRARY, revision), "{revision}");
    }
}

#[test]
fn an_upstream_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let repositories = Repositories::build(dir.path(), &SubmoduleUrl::Relative);
    let before = repositories.commit_id("plain", "master");
    let id = repositories.commit("plain", "master", &[("new/file.txt", Some(b"text")), ("nodes.py", None)]);
    assert_eq!(repositories.commit_id("plain", "master"), id);
    assert_eq!(repositories.commit_id("plain", "master~1"), before);
    let target = dir.path().join("out");
    repositories.check_out(&target, "master", &["plain", "patterns"]);
    let node = target.join("custom_nodes/plain");
    assert_eq!(std::fs::read(node.join("new/file.txt")).unwrap(), b"text");
    assert!(!node.join("nodes.py").exists());
    let mode = std::fs::metadata(node.join("scripts/count.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
    assert!(target.join("custom_nodes/patterns/vendor/pattern-lib/pattern_lib/__init__.py").exists());
}
