//! Bad input, and what it gets: the right code, a message that names the place, a store without a trace of it.

use std::path::Path;

use cvs_tests::{CvsCommand, Git, Missing, available};

use crate::cli_world::{CHECKPOINT, World, model, sha256};

/// A command that fails with `code`, says each of `words` on stderr, publishes nothing and leaves nothing half-done.
#[track_caller]
fn refused(world: &World, command: CvsCommand, code: i32, words: &[&str]) {
    let output = command.code(code);
    let said = world.env.redact(&output.stderr);
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {output}");
    }
    assert_eq!(output.stdout, "", "{output}");
    assert!(!world.spec_file("bad").exists(), "{output}");
    world.assert_staging_is_clean();
}

/// Also where a variable stands for an option, as CVS_HOME does here.
#[test]
fn without_a_command_the_help_is_shown() {
    let world = World::new();
    let output = world.cvs(&[]).code(2);
    assert_eq!(output.stdout, "", "{output}");
    assert!(output.stderr.starts_with("Keeps versions of ComfyUI"), "{output}");
    assert!(!output.stderr.contains("confine"), "{output}");
}

#[test]
fn an_unknown_version_is_told_by_every_command() {
    let world = World::new();
    for args in [
        &["show", "nope"][..],
        &["lock", "nope"],
        &["validate", "nope"],
        &["delete", "nope"],
        &["clone", "nope", "bad"],
        &["du", "nope"],
    ] {
        refused(
            &world,
            world.cvs(args),
            1,
            &[
                "error: there is no version \"nope\" in $TEST/cvs/versions\n",
                "hint: `cvs list` shows the versions that there are\n",
            ],
        );
    }
}

#[test]
fn a_wrong_command_line_is_usage() {
    let world = World::new();
    for args in [
        &["create", "../x", "--repo", "/r"][..],
        &["create", "x"],
        &["frobnicate"],
        &["gc", "--grace", "soon"],
        &["lock", "x", "--locked", "--update"],
        &["clone", "x", "x"],
        &["fsck", "--offline"],
        &[],
    ] {
        world.cvs(args).code(2);
    }
    assert!(!world.env.home().join("versions").exists());
}

#[test]
fn a_spec_that_is_wrong_names_the_place() {
    let world = World::new();
    for (text, place) in [
        ("{", "bad-spec.json:1:1: not valid JSON"),
        ("[]", "bad-spec.json: found an empty list"),
        (r#"{"schema_version": 2, "version_id": "other"}"#, "version_id: found \"other\""),
        (
            r#"{"schema_version": 2, "version_id": "bad-spec", "comfy": {"repo": "/r"}, "models": [{}]}"#,
            "models[0].source: found nothing",
        ),
        (
            r#"{"schema_version": 2, "version_id": "bad-spec", "comfy": {"repo": 5}}"#,
            "comfy.repo: found the number 5",
        ),
        (
            r#"{"schema_version": 7, "version_id": "bad-spec"}"#,
            "schema_version: found the number 7; expected 2",
        ),
    ] {
        world.write_spec("bad-spec", text);
        for command in ["lock", "validate", "show"] {
            refused(&world, world.cvs(&[command, "bad-spec"]), 1, &["error: ", place]);
        }
        // What keeps nothing alive may be wrong in any way; what cannot be told stops the collection.
        if serde_json::from_str::<serde_json::Map<_, _>>(text).is_err() {
            refused(&world, world.cvs(&["gc"]), 1, &["bad-spec.json", "nothing was done"]);
        }
    }
}

#[test]
fn arguments_that_are_wrong_name_the_place() {
    let world = World::new();
    let core = world.core("v0.2.0");
    world.env.write("nodes.yml", "custom_nodes:\n  - name: [\n");
    for (args, word) in [
        (["--models", r#"[{"source": 5}]"#], "--models: [0].source: found the number 5"),
        (["--models", r#"{"models": 1}"#], "--models: models: found the number 1"),
        (["--nodes", "nodes.yml"], "$TEST/nodes.yml:"),
        (["--nodes", "absent.json"], "cannot read $TEST/absent.json"),
        (["--node", "owner/repo/more"], "`OWNER/REPO`"),
        (["--model", "https://h/x.bin=../../x"], "a path with `..`"),
        (["--model", "https://h/x.bin=/etc/passwd"], "\"/etc/passwd\""),
        (["--model", "ftp://h/x.bin"], "found \"ftp://h/x.bin\""),
        (["--package=--force-reinstall", "--no-fetch"], "python_packages[0]"),
    ] {
        refused(&world, world.cvs(&["create", "bad", "--repo", &core]).args(args), 1, &["error: ", word]);
    }
    world.cvs(&["create", "lenient", "--repo", &core, "--package=--force-reinstall", "--lenient"]).ok();
}

#[test]
fn sources_that_do_not_answer_are_told() {
    let world = World::new();
    let unknown = world.core("no-such-branch");
    refused(
        &world,
        world.cvs(&["create", "bad", "--repo", &unknown]),
        1,
        &["comfy: ", "has no branch, tag or commit `no-such-branch`", "the default branch is `master`"],
    );
    let port = cvs_tests::free_port();
    let nobody = format!("http://127.0.0.1:{port}/x.git");
    refused(&world, world.cvs(&["create", "bad", "--repo", &nobody]), 1, &["127.0.0.1", "hint: "]);
    let no_repository = world.git.url("no-such-repository");
    refused(&world, world.cvs(&["create", "bad", "--repo", &no_repository]), 1, &["repository not found"]);
    let missing = format!("{}=models/x.bin", world.web.url("/missing.bin"));
    let core = world.core("v0.2.0");
    refused(
        &world,
        world.cvs(&["create", "bad", "--repo", &core, "--model", &missing]),
        1,
        &["models[0].source: ", "/missing.bin: not found (HTTP 404)"],
    );
    refused(
        &world,
        world.cvs(&["create", "bad", "--repo", &core, "--model", "absent.bin=models/x.bin"]),
        1,
        &["models[0].source: ", "$TEST/absent.bin"],
    );
    refused(
        &world,
        world.cvs(&["create", "bad", "--repo", &core, "--model", "hf://o/r/x.bin"]),
        1,
        &["models[0].source: "],
    );
    let offline = world.core("v0.1.0");
    refused(&world, world.cvs(&["create", "bad", "--repo", &offline, "--offline"]), 1, &["offline"]);
}

#[test]
fn a_checksum_that_does_not_match_shows_both_and_stores_nothing() {
    let world = World::new();
    let expected = sha256(b"something else");
    let found = sha256(&model());
    let command = world
        .cvs(&["create", "bad", "--repo", &world.core("v0.2.0")])
        .args(["--models", &world.models_list(&expected)]);
    refused(
        &world,
        command,
        1,
        &[
            "models[0].source: ",
            "sha256 mismatch",
            &format!("expected {expected}\n"),
            &format!("found    {found}\n"),
            "hint: nothing was stored",
        ],
    );
    assert!(!holds(&world, &model()));
}

/// Whether the store has a blob of that size.
fn holds(world: &World, bytes: &[u8]) -> bool {
    let objects = world.env.home().join("objects");
    let size = |name: &String| std::fs::metadata(objects.join(name)).map_or(0, |metadata| metadata.len());
    world.objects().iter().any(|name| size(name) == bytes.len() as u64)
}

#[test]
fn two_things_at_one_path_are_both_named() {
    let world = World::new();
    let core = world.core("v0.2.0");
    world.env.write("x.bin", b"x");
    world.env.write("y.bin", b"y");
    let plain = world.git.url("plain");
    let at = |target: &str| {
        serde_json::json!([{ "repo": plain, "target_dir": format!("$COMFY_HOME/{target}") }]).to_string()
    };
    for (args, words) in [
        (vec!["--model", "x.bin=main.py"], ["core and models both have main.py", "hint: "]),
        (vec!["--model", "x.bin=main.py/x.bin"], ["core and models both have main.py", "hint: "]),
        (vec!["--model", "x.bin=models/z.bin", "--model", "y.bin=models/z.bin"], ["models[0]", "models[1]"]),
        (vec!["--node", &plain, "--node", &plain], ["custom_nodes[0]", "custom_nodes[1]"]),
        (vec!["--nodes", &at("comfy/utils.py")], ["core and node plain both have comfy/utils.py", "hint: "]),
    ] {
        refused(&world, world.cvs(&["create", "bad", "--repo", &core]).args(args), 1, &words);
    }
}

#[test]
fn a_link_in_a_repository_leads_no_model_out_of_the_view() {
    let world = World::new();
    let repository = world.env.path("linked");
    std::fs::create_dir(&repository).expect("making a directory");
    std::os::unix::fs::symlink("/tmp", repository.join("models")).expect("making a link");
    commit_all(&Git::new(), &repository);
    world.env.write("x.bin", b"x");
    let command =
        world.cvs(&["create", "bad", "--repo"]).arg(&repository).args(["--model", "x.bin=models/x.bin"]);
    refused(&world, command, 1, &["core and models both have models"]);
}

#[test]
fn names_in_a_tree_that_no_checkout_may_have_are_refused() {
    let world = World::new();
    let git = Git::new();
    let repository = world.env.path("hostile");
    std::fs::create_dir(&repository).expect("making a directory");
    std::fs::write(repository.join("x"), "x").expect("writing a file");
    commit_all(&git, &repository);
    let blob = git.run(&repository, &["rev-parse", "HEAD:x"]);
    for name in ["..", ".", ".git", "a/b"] {
        let tree = hostile_tree(&world, &git, &repository, name, &blob);
        let commit = git.run(&repository, &["commit-tree", "-m", "x", &tree]);
        git.run(&repository, &["update-ref", "refs/heads/master", &commit]);
        let command = world.cvs(&["create", "bad", "--repo"]).arg(&repository);
        refused(&world, command, 1, &["error: ", "version bad: comfy: ", &commit]);
    }
}

/// A tree with one file of that name, which git itself would refuse to make.
fn hostile_tree(world: &World, git: &Git, repository: &Path, name: &str, blob: &str) -> String {
    let mut bytes = format!("100644 {name}\0").into_bytes();
    bytes.extend((0..40).step_by(2).filter_map(|at| u8::from_str_radix(&blob[at..at + 2], 16).ok()));
    let file = world.env.write("tree", bytes);
    let file = file.to_str().expect("temporary directories are UTF-8");
    git.run(repository, &["hash-object", "--literally", "-t", "tree", "-w", file])
}

fn commit_all(git: &Git, repository: &Path) {
    git.run(repository, &["init", "-q"]);
    git.run(repository, &["add", "-A"]);
    git.commit(repository, "x");
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let world = World::new();
    world.create("portrait");
    let home = world.env.home();
    let format = std::fs::read_dir(&home)
        .expect("listing the home")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.is_file() && std::fs::read_to_string(path).is_ok_and(|t| t.contains("\"format\":1"))
        })
        .expect("a file that says the format");
    std::fs::write(&format, "{\"format\":9,\"features\":[]}\n").expect("writing the format");
    for command in ["list", "gc", "fsck", "du"] {
        let output = world.cvs(&[command]).code(1);
        assert!(output.stderr.contains("has format 9, this program knows format 1"), "{output}");
        assert!(output.stderr.contains("hint: "), "{output}");
    }
    let output = world.cvs(&["doctor"]).code(1);
    assert!(output.stdout.contains("has format 9"), "{output}");
}

#[test]
fn a_full_disk_says_what_was_needed_and_keeps_the_store() {
    let world = World::new();
    let mount = "mount -t tmpfs -o size=2m none";
    let namespace = |script: &str| {
        let mut command = world.env.command("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script]);
        command
    };
    std::fs::create_dir_all(world.env.home()).expect("making the home");
    let probe = namespace(&format!("{mount} \"$CVS_HOME\"")).output();
    let able = match probe {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Missing("unshare with user namespaces, to fill a small disk".to_owned())),
    };
    let Some(()) = available(able) else { return };

    world.web.serve("/large.bin", vec![7; 8 << 20]);
    world.env.write("large.bin", vec![7; 8 << 20]);
    let cvs = world.cvs(&[]).into_command().get_program().to_string_lossy().into_owned();
    let core = world.core("v0.2.0");
    for source in [world.web.url("/large.bin"), "large.bin".to_owned()] {
        // The store is empty and whole afterwards, and a version that fits goes in.
        let script = format!(
            "{mount} \"$CVS_HOME\"; code=0; \
             '{cvs}' create bad --repo '{core}' --model '{source}=models/large.bin' || code=$?; \
             echo \"code $code\"; ls \"$CVS_HOME/versions\" 2>/dev/null || true; \
             '{cvs}' fsck >&2; '{cvs}' create good --repo '{core}' >&2; '{cvs}' validate good --deep >&2"
        );
        let output = namespace(&script).output().expect("starting unshare");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        assert_eq!(stdout, "code 1\n", "{stderr}");
        assert!(stderr.contains("models[0].source: "), "{stderr}");
        assert!(stderr.contains("needed") && stderr.contains("are free"), "{stderr}");
        assert!(stderr.contains("hint: make room"), "{stderr}");
    }
}

#[test]
fn what_is_there_already_is_not_overwritten() {
    let world = World::new();
    world.create("portrait");
    let before = std::fs::read(world.spec_file("portrait")).expect("reading a spec");
    let output = world.cvs(&["create", "portrait", "--repo", &world.core("v0.1.0")]).code(1);
    assert!(output.stderr.contains("version \"portrait\" exists already"), "{output}");
    assert_eq!(std::fs::read(world.spec_file("portrait")).expect("reading a spec"), before);
    world.cvs(&["create", "portrait", "--repo", &world.core("v0.1.0"), "--force"]).ok();
    let shown = world.cvs(&["show", "portrait", "--json"]).ok().json();
    assert_eq!(shown["summary"]["models"], 0);
    assert!(!shown.to_string().contains(CHECKPOINT));
}

#[test]
fn gc_says_the_way_out_when_a_spec_came_without_its_content() {
    let world = World::new();
    let other = world.env.path("other");
    let home = other.to_str().expect("a path that is text");
    world.cvs(&["--home", home, "create", "guest", "--repo", &world.core("v0.1.0")]).ok();
    let spec = std::fs::read_to_string(other.join("versions/guest.json")).expect("reading a spec");
    world.write_spec("guest", &spec);
    let said = world.env.redact(&world.cvs(&["gc"]).code(3).stderr);
    assert!(said.starts_with("error: cannot tell what guest keeps alive: manifest "), "{said}");
    assert!(
        said.ends_with(
            " is not in the store\n\
             hint: nothing was removed: `cvs lock guest` brings what it needs, `cvs delete guest` gives it up\n"
        ),
        "{said}"
    );
    world.cvs(&["lock", "guest"]).ok();
    world.cvs(&["gc"]).ok();
}
