//! What a person reads when something is wrong, word by word: the errors that no other test meets.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cvs_tests::{Missing, Output, TestEnvironment, available};
use nix::unistd::geteuid;

use crate::cli_world::{World, damage, files_below};
use crate::mounted::fuse;
use crate::ordinary::{Ordinary, open_to_all, program};
use crate::running::LONG;

#[test]
fn every_command_says_what_is_wrong_and_what_to_do() {
    let world = World::new();
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0")]).ok();
    let nowhere = world.env.path("nowhere");
    for (args, stderr) in [
        (&["stop", "v"][..], "error: v does not run\nhint: `cvs ps` shows what runs\n"),
        (&["restart", "v"], "error: v does not run\nhint: `cvs ps` shows what runs\n"),
        (
            &["logs", "v"],
            "error: v has never run here\nhint: `cvs run-ui v` runs it; `cvs list` shows the versions that there are\n",
        ),
        (
            &["run-ui", "v", "--port", "0"],
            "error: v has no Python environment, and names no interpreter\nhint: name one in the spec: \
             `python.version`, or `env.COMFY_PYTHON` with a path\n",
        ),
        (
            &["realize", "v", "--remove"],
            "error: there is no realization at $TEST/cvs/realized/v\nhint: `cvs realize VERSION --target DIR` makes one\n",
        ),
        (
            &["run-handler", "v"],
            "error: v has no workflow of its own, and none was named\nhint: name one with --workflow FILE, or as \
             `workflow` in the spec\n",
        ),
        (
            &["run-handler", "v", "-w", "nowhere"],
            "error: cannot read nowhere: No such file or directory (os error 2)\n",
        ),
        (
            &["run-handler", "v", "-o", "s3://"],
            "error: \"s3://\" is no bucket: expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX\n",
        ),
        (
            &["export", "v", "--format", "spec", "-o", "nowhere/x"],
            "error: cannot write nowhere/x: No such file or directory (os error 2)\n",
        ),
        (
            &["model", "show", "--file", "nowhere"],
            "error: cannot read nowhere: No such file or directory (os error 2)\n",
        ),
        (
            &["confine", "cvs", "nowhere"],
            "error: cannot start nowhere: No such file or directory (os error 2)\n",
        ),
        (&["model", "rm", "v", "x"], "error: version v has no part \"x\"; it has no part of that kind\n"),
        (
            &["fetch", "gs://b/x"],
            "error: gs://b/x: cannot use gs://b: Generic GCS error: GCP credential error: Unable to open service account \
             file from $TEST/nowhere: No such file or directory (os error 2)\nhint: docs/models.md names the variables that \
             hold the settings and credentials of buckets\n",
        ),
        (
            &["fetch", "ftp://h/x"],
            "error: the source: found \"ftp://h/x\"; expected `https://…`, `http://…`, `hf://ORG/REPO/PATH`, \
             `civitai://…`, `s3://…`, `gs://…`, `az://…`, `file://…` or an absolute path\nhint: docs/spec-v2.md says \
             how a spec is written\n",
        ),
        (&["import", "/dev/null", "--as", "x"], "error: /dev/null: neither a file nor a directory\n"),
    ] {
        let output = world.cvs(args).env("GOOGLE_SERVICE_ACCOUNT", &nowhere).fails();
        assert_eq!(world.env.redact(&output.stderr), stderr, "{args:?}");
        assert_eq!(output.stdout, "", "{args:?}");
    }
    let output = world.cvs(&["export", "v", "--format", "extra-model-paths"]).code(2);
    assert!(output.stderr.contains("--at <DIR>"), "{output}");
    world.write_spec("young", r#"{"schema_version": 2, "version_id": "young", "comfy": {"repo": "o/r"}}"#);
    let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/srv/\xff");
    let output = world.cvs(&["export", "v", "--format", "extra-model-paths", "--at"]).arg(bytes).code(1);
    assert_eq!(output.stderr, "error: version v cannot be exported: the path of the version is no UTF-8\n");
    let output = world.cvs(&["export", "young", "--format", "manager-snapshot"]).code(1);
    assert_eq!(
        output.stderr,
        "error: version young cannot be exported: it was never locked\nhint: `cvs lock young` locks it\n"
    );

    world.env.write("home/.config/cvs/config.json", "{");
    let output = world.cvs(&["list"]).code(1);
    assert_eq!(
        world.env.redact(&output.stderr),
        "error: cannot use the configuration file $TEST/home/.config/cvs/config.json: EOF while parsing an object at line \
         1 column 1\nhint: it is a JSON object with the keys `home` and `versions_dir`, both optional\n"
    );
}

#[test]
fn what_is_wrong_with_an_install_is_named() {
    let world = World::new();
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &[]);
    let source = root.to_str().expect("temporary directories are UTF-8");
    let extra = world.env.path("extra.yaml");
    let extra = extra.to_str().expect("temporary directories are UTF-8");
    let import = ["import", source, "--as", "x", "--environment", "skip"];
    for (text, reason) in [
        ("[", "not valid YAML: unclosed bracket '[' at line 1, column 1"),
        ("- a", "a mapping of sections is expected"),
        ("m: 5", "m: a mapping of folders is expected"),
        ("m: {base_path: 5}", "m.base_path: a path is expected"),
        ("m: {loras: 5}", "m.loras: a path, or several on lines of their own, is expected"),
        ("m: {../x: ComfyUI}", "m.../x: no name of a folder"),
    ] {
        world.env.write("extra.yaml", text);
        let output = world.cvs(&import).args(["--extra-model-paths-config", extra]).code(1);
        let said = world.env.redact(&output.stderr);
        assert_eq!(said, format!("error: $TEST/extra.yaml: {reason}\n"), "{text}");
    }
    let output = world.cvs(&["import", source, "--as", "x", "--python", extra]).code(1);
    assert_eq!(
        world.env.redact(&output.stderr),
        "error: $TEST/extra.yaml is no Python environment: there is no site-packages in it\n"
    );
    assert!(!world.spec_file("x").exists());
}

/// A model that is written to all the time cannot be taken: neither of its contents is one.
#[test]
fn a_model_that_changes_all_the_time_is_told() {
    let world = World::new();
    let root = world.env.path("ComfyUI");
    world.repositories.check_out(&root, "v0.2.0", &[]);
    let path = root.join("models/loras/busy.safetensors");
    fs::write(&path, vec![1; 64 << 20]).expect("writing a model");
    let (file, is_over) =
        (File::options().write(true).open(&path).expect("opening a model"), AtomicBool::new(false));
    let source = root.to_str().expect("temporary directories are UTF-8");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut count = 0_u64;
            let end = Instant::now() + LONG;
            while !is_over.load(Ordering::Relaxed) && Instant::now() < end {
                count += 1;
                file.write_all_at(&count.to_le_bytes(), 1 << 20).expect("writing into a model");
                // Often within the time that it takes to read so much, and no burden.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let output = world.cvs(&["import", source, "--as", "x", "--environment", "skip"]).output();
        is_over.store(true, Ordering::Relaxed);
        output
    });
    assert_eq!(
        (output.code(), world.env.redact(&output.stderr).lines().collect::<Vec<_>>()),
        (
            Some(1),
            vec![
                "error: $TEST/ComfyUI/models/loras/busy.safetensors changed while it was read, twice",
                "hint: end what writes there, and run the command again: it goes on where it stopped",
            ]
        )
    );
    assert!(!world.spec_file("x").exists());
}

/// What a shell does before it becomes cvs.
fn behind(env: &TestEnvironment, script: &str, args: &[&str]) -> Output {
    env.cvs_behind(&["sh", "-c", &format!("{script}; exec \"$@\""), "sh"], args).output()
}

#[test]
fn what_a_process_is_not_given_is_named() {
    let world = World::new();
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0")]).ok();
    let gone = "mkdir gone && cd gone && rmdir ../gone";
    for (script, args, stderr) in [
        (
            gone,
            &["node", "add", "v", "./x"][..],
            "error: cannot tell the working directory: No such file or directory (os error 2)\nhint: the directory that \
             the command was given in is gone: go to another one\n",
        ),
        (
            "exec </",
            &["run-handler", "v", "-w", "-"],
            "error: cannot read the standard input: Is a directory (os error 21)\n",
        ),
        (
            "exec >/dev/full",
            &["list"],
            "error: cannot write to standard output: No space left on device (os error 28)\n",
        ),
    ] {
        let output = behind(&world.env, script, args);
        assert_eq!((output.code(), output.stderr.as_str()), (Some(1), stderr), "{args:?}");
    }
}

/// Neither variable nor the list of users names a home directory, as in containers that are given any number as a user.
#[test]
fn without_a_home_directory_the_store_must_be_named() {
    let root = if geteuid().is_root() { Ok(()) } else { Err(Missing("root, to be nobody known".to_owned())) };
    let Some(()) = available(root.and_then(|()| program("setpriv"))) else { return };
    let env = TestEnvironment::new();
    open_to_all(&env);
    let binary = env.path("cvs-program");
    fs::copy(env.cvs([""]).into_command().get_program(), &binary).expect("copying cvs");
    let unknown = Ordinary::in_this_namespace(0x7000_0001);
    let cvs = |words: &[&str]| {
        let output = unknown.run(&env, "env", &[&["-u", "HOME", "-u", "CVS_HOME"], words].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(
        cvs(&["./cvs-program", "list"]),
        (
            Some(1),
            "error: nothing says where to put the store: HOME is not set, and this user has no home directory\n\
             hint: name a directory with --home DIR or CVS_HOME\n"
                .to_owned()
        )
    );
    let there = env.path("there");
    fs::create_dir(&there).expect("making a directory");
    fs::set_permissions(&there, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("changing a mode");
    let (code, said) = cvs(&["CVS_HOME=there/cvs", "./cvs-program", "list"]);
    assert_eq!((code, said.as_str()), (Some(0), "there are no versions; `cvs create` makes one\n"));
}

/// However few files a process may open, it ends with an error that says so.
#[test]
fn too_few_descriptors_are_told() {
    let world = World::new();
    world.cvs(&["list"]).ok();
    let hint = "hint: this process may open no more files: `ulimit -n` tells and sets how many\n";
    let mut met = Vec::new();
    for (args, runtime) in [
        (&["fetch", "http://127.0.0.1:1/x"][..], "starting the network client: "),
        (&["run-handler", "v", "-w", "http://127.0.0.1:1/x"], "cannot set up the network client: "),
    ] {
        for limit in 6..64 {
            let output = behind(&world.env, &format!("ulimit -n {limit}"), args);
            let said = output.stderr.as_str();
            assert!(matches!(output.code(), Some(1 | 127)), "{limit}: {output}");
            if !said.contains("Too many open files") && output.code() == Some(1) {
                break;
            }
            assert!(output.code() == Some(127) || said.ends_with(hint), "{limit}: {output}");
            if said == format!("error: {runtime}Too many open files (os error 24)\n{hint}") {
                met.push(runtime);
            }
        }
    }
    met.dedup();
    assert_eq!(met.len(), 2, "{met:?}");
}

#[test]
fn a_film_without_a_workflow_is_told_however_long_it_is() {
    let world = World::new();
    let film = world.env.path("film.mp4");
    let head = [&b"\0\0\0\x08ftyp\0\0\0\x01mdat"[..], &(3_u64 << 30).to_be_bytes()].concat();
    fs::write(&film, head).expect("writing a film");
    File::options().write(true).open(&film).and_then(|f| f.set_len(4 << 30)).expect("making it long");
    // It could not be in memory.
    for args in [&["run-handler", "v", "-w", "film.mp4"][..], &["import", "film.mp4", "--as", "x"]] {
        let output = behind(&world.env, "ulimit -v 3500000", args);
        let said =
            "film.mp4: not a workflow: found a file that could hold a workflow, and holds none; expected ";
        let said = if args[0] == "import" { &said[..9] } else { said };
        assert!(output.code() == Some(1) && output.stderr.contains(said), "{output}");
    }
    let output = behind(&world.env, "ulimit -v 3500000", &["run-handler", "v", "-w", "/dev/zero"]);
    assert_eq!(output.stderr, "error: /dev/zero: the workflow has more than 268435456 bytes\n");
}

/// The lock has no password: what opens a repository is in the spec, or where git finds it.
#[test]
fn a_private_repository_is_opened_to_repair_as_it_was_to_create() {
    let world = World::new();
    let address = world.git.url(cvs_tests::CORE);
    let open = address.replacen("http://", "http://person:secret@", 1);
    world.git.close("Basic cGVyc29uOnNlY3JldA==");
    let refused = world.cvs(&["create", "w", "--repo", &address]).code(1);
    let hint = "hint: look at the address; a private repository opens by a user and token in the spec's address, the ssh \
                agent, ~/.ssh/id_ed25519, id_ecdsa or id_rsa, or a credential helper of git (`git config \
                credential.helper`)\n";
    let reason = format!(
        "{address}: access refused; the repository is private or does not exist, and neither the ssh agent, the default \
         keys nor a git credential helper opened it (no credentials left to offer)"
    );
    assert_eq!(refused.stderr, format!("error: version w: comfy: {reason}\n{hint}"));

    world.cvs(&["create", "v", "--repo", &format!("{open}@v0.2.0")]).ok();
    let object = || {
        let mut found = Vec::new();
        let blobs = world.env.home().join("objects/blob");
        files_below(&blobs, &blobs, &mut found);
        let is_main =
            |path: &std::path::PathBuf| fs::read_to_string(path).is_ok_and(|t| t.contains("quick-test"));
        found.into_iter().map(|name| blobs.join(name)).find(is_main).expect("a file of the core")
    };
    damage(&object());
    world.cvs(&["fsck", "--repair"]).ok();

    // Whoever has only the lock is told what would open it.
    world.edit_spec("v", &open, &address);
    let path = object();
    damage(&path);
    let lost = world.cvs(&["fsck", "--repair"]).code(3);
    assert!(lost.stdout.contains(&format!("  lost\n    core: {reason}\n")), "{lost}");
    assert_eq!(
        lost.stderr,
        format!(
            "core: not in the store\n{hint}hint: mend the sources that are named, or restore them from a backup, and run it again\n"
        )
    );
    let helper = "[credential]\n\thelper = \"!f() { echo username=person; echo password=secret; }; f\"\n";
    world.env.write("home/.gitconfig", helper);
    let whole = world.cvs(&["fsck", "--repair"]).ok();
    assert!(whole.stdout.contains("  brought back\n") && path.exists(), "{whole}");
}

#[test]
fn what_lies_in_the_way_of_a_directory_is_named() {
    let Some(()) = available(fuse()) else { return };
    let world = World::new();
    let env = &world.env;
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0")]).ok();
    let in_place_of = |below: &str| {
        let path = env.home().join(below);
        let _ = fs::remove_dir_all(&path);
        env.write(format!("cvs/{below}"), "a file")
    };
    env.write("file", "a file");
    for (place, args, code, stderr) in [
        (
            None,
            &["import", "nowhere", "--as", "x"][..],
            1,
            "error: cannot read nowhere: No such file or directory (os error 2)\n",
        ),
        (None, &["mount", "v", "file/x"], 1, "error: cannot create file/x: Not a directory (os error 20)\n"),
        (
            None,
            &["realize", "v", "--target", "file/x"],
            1,
            "error: cannot resolve $TEST/file/x: Not a directory (os error 20)\n",
        ),
        (
            Some("overlays/v"),
            &["mount", "v", "mnt"],
            1,
            "error: cannot create $TEST/cvs/overlays/v: File exists (os error 17)\nerror: the mount of v did not come up: \
             its process ended (exit status: 1); its log is $TEST/cvs/run/log/mount-v.log\n",
        ),
        (Some("run/ui"), &["ps"], 1, "error: cannot list $TEST/cvs/run/ui: Not a directory (os error 20)\n"),
    ] {
        let path = place.map(in_place_of);
        let output = world.cvs(args).code(code);
        assert_eq!(env.redact(&output.stderr), stderr, "{args:?}");
        if let Some(path) = path {
            fs::remove_file(path).expect("removing a file");
        }
    }
    in_place_of("objects/blob");
    let said = env.redact(&world.cvs(&["lock", "v"]).code(1).stderr);
    let words = "error: version v: cannot keep its objects: cannot look at $TEST/cvs/objects/blob/";
    assert!(said.starts_with(words) && said.ends_with(": Not a directory (os error 20)\n"), "{said}");
}

#[test]
fn a_disk_without_room_for_a_realization_is_named() {
    let world = World::new();
    world.cvs(&["create", "v", "--repo", &world.core("v0.2.0")]).ok();
    let Some(disk) = available(world.env.small_disk("small", 64 << 10)) else { return };
    let output = world.cvs(&["realize", "v", "--target"]).arg(disk.join("x")).code(1);
    let said = world.env.redact(&output.stderr);
    let (first, hint) = said.split_once('\n').expect("two lines");
    let words = first.strip_prefix("error: no room at $TEST/small: ").expect("what is said first");
    let (needed, free) = words.split_once(" bytes are needed, ").expect("two numbers");
    let free = free.strip_suffix(" are free").expect("two numbers");
    assert!(needed.parse::<u64>().expect("a number") > free.parse::<u64>().expect("a number"), "{first}");
    assert_eq!(hint, "hint: make room there, or name a --target on another filesystem\n");
    assert_eq!(fs::read_dir(&disk).expect("listing a disk").count(), 0);
}
