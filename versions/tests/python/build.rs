//! Building: the normal form, the same manifest every time, and environments that work wherever they are.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use cvs_tests::{PackageIndex, Sdist, Wheel, available};
use cvs_versions::python::{BuildOptions, EnvironmentProblem, PythonOptions, Role, check};

use super::{Bench, contents, list, versions};

fn packages(bench: &Bench) {
    bench.wheels([
        Wheel::new("alpha", "1.0").requires("built").console_script("alpha", "alpha.tool:main").module(
            "alpha/tool.py",
            "import sys, alpha, built\n\ndef main():\n    print(sys.prefix, alpha.VERSION, built.VERSION, sys.argv[1:])\n",
        ),
        Wheel::new("extra", "1.0"),
    ]);
    let built = Wheel::new("built", "2.0").module("built/old.py", "print 'not for this Python'\n");
    bench.index.add_sdist(&Sdist::of(built));
}

#[test]
fn one_lock_gives_one_manifest_in_every_home() {
    let Some(bench) = Bench::new() else { return };
    packages(&bench);
    let pylock = bench.resolve(&[list("core", Role::Core, "alpha\n")]).unwrap();
    let first = bench.build(&pylock).unwrap();
    assert_eq!(first.packages, 2);
    let here = contents(&bench, &first.manifest);
    let paths: Vec<&str> =
        here.keys().map(String::as_str).filter(|path| !path.starts_with("bin/act")).collect();
    let site =
        format!("lib/python{}.{}/site-packages", bench.interpreter.minor().0, bench.interpreter.minor().1);
    let tag = &bench.interpreter.cache_tag;
    let expected: BTreeSet<String> = [
        "alpha-1.0.dist-info/INSTALLER",
        "alpha-1.0.dist-info/METADATA",
        "alpha-1.0.dist-info/RECORD",
        "alpha-1.0.dist-info/REQUESTED",
        "alpha-1.0.dist-info/WHEEL",
        "alpha-1.0.dist-info/entry_points.txt",
        "alpha/__init__.py",
        "alpha/__pycache__/__init__.TAG.pyc",
        "alpha/__pycache__/tool.TAG.pyc",
        "alpha/tool.py",
        "built-2.0.dist-info/INSTALLER",
        "built-2.0.dist-info/METADATA",
        "built-2.0.dist-info/RECORD",
        "built-2.0.dist-info/REQUESTED",
        "built-2.0.dist-info/WHEEL",
        "built/__init__.py",
        "built/__pycache__/__init__.TAG.pyc",
        "built/old.py",
    ]
    .iter()
    .map(|path| format!("{site}/{}", path.replace("TAG", tag)))
    .chain(["bin/alpha", "pyvenv.cfg"].map(str::to_owned))
    .collect();
    assert_eq!(paths.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    let home = bench.dir.path().to_string_lossy().into_owned();
    for (path, content) in &here {
        let text = String::from_utf8_lossy(content);
        assert!(!text.contains(&home) && !text.contains("staging"), "{path} names the place it was built at");
    }

    // From the cache of the same home, where every file is an object already, and in another home.
    let again = bench.build(&pylock).unwrap();
    assert_eq!((again.manifest, again.compiled), (first.manifest, 0));
    let other = bench.elsewhere();
    let pylock = other.resolve(&[list("core", Role::Core, "alpha\n")]).unwrap();
    let there = other.build(&pylock).unwrap();
    let shown = contents(&other, &there.manifest);
    let differing: Vec<_> = here.iter().filter(|(path, content)| shown.get(*path) != Some(content)).collect();
    assert_eq!(differing, []);
    assert_eq!(there.manifest, first.manifest);
}

#[test]
fn it_runs_wherever_it_is() {
    let Some(bench) = Bench::new() else { return };
    packages(&bench);
    let environment = bench.environment("alpha\n");
    for name in ["one", "two"] {
        let at = bench.dir.path().join(name);
        bench.show(&environment.manifest, &at);
        let output = Command::new(at.join("bin/alpha")).args(["x", "y"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, format!("{} 1.0 2.0 ['x', 'y']\n", at.display()), "{output:?}");
    }
}

#[test]
fn pip_works_in_it() {
    let Some(index) = available(PackageIndex::start()) else { return };
    let Some(bench) = Bench::with(index) else { return };
    bench.wheels([Wheel::new("alpha", "1.0"), Wheel::new("extra", "1.0")]);
    let environment = bench.environment("alpha\n");
    let at = bench.dir.path().join("venv");
    bench.show(&environment.manifest, &at);
    let pip = |args: &[&str]| {
        let mut command = Command::new(at.join("bin/pip"));
        command.args(["--isolated", "--disable-pip-version-check", "--no-cache-dir"]).args(args);
        let output = command.env_remove("PIP_FIND_LINKS").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let url = bench.url.as_str();
    pip(&["install", "--index-url", url, "--trusted-host", "127.0.0.1", "extra"]);
    let listed = pip(&["list", "--format", "freeze"]);
    assert!(listed.contains("alpha==1.0") && listed.contains("extra==1.0"), "{listed}");
    pip(&["uninstall", "-y", "alpha"]);
    let listed = pip(&["list", "--format", "freeze"]);
    assert!(!listed.contains("alpha") && listed.contains("extra==1.0"), "{listed}");
}

#[test]
fn objects_and_the_cache_are_one_file_and_programs_stay_programs() {
    let Some(bench) = Bench::new() else { return };
    packages(&bench);
    let environment = bench.environment("alpha\n");
    let manifest = bench.store.manifest(&environment.manifest).unwrap();
    let find = |end: &str| manifest.walk().find(|(path, _)| path.to_string().ends_with(end)).unwrap().1;
    let tool = manifest.blob(&find("alpha/tool.py")).unwrap();
    let object = std::fs::metadata(bench.store.blob_path(&tool)).unwrap();
    assert_eq!((object.nlink(), object.mode() & 0o777), (2, 0o444));
    assert_eq!(find("bin/alpha").mode(), 0o755);
    assert_eq!(find("alpha/tool.py").mode(), 0o644);
}

#[test]
fn a_second_environment_brings_only_what_is_new() {
    let Some(bench) = Bench::new() else { return };
    packages(&bench);
    let first = bench.environment("alpha\n");
    let second = bench.environment("alpha\nextra\n");
    assert_eq!(second.compiled, 0, "the modules of extra are those of other packages, or were compiled");
    let blobs = |id| bench.store.manifest(id).unwrap().blobs().collect::<BTreeSet<_>>();
    let (one, two) = (blobs(&first.manifest), blobs(&second.manifest));
    assert!(two.difference(&one).count() <= 4, "{} of {}", two.difference(&one).count(), two.len());
}

#[test]
fn wheels_at_hand_take_the_place_of_the_index() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0")]);
    let pylock = bench.resolve(&[list("core", Role::Core, "alpha\n")]).unwrap();
    let online = bench.build(&pylock).unwrap();
    let other = bench.elsewhere();
    let wheels = other.directory([Wheel::new("alpha", "1.0")]);
    let options = PythonOptions { offline: true, ..PythonOptions::default() };
    let how = BuildOptions { wheels: Some(&wheels), options, ..BuildOptions::default() };
    assert_eq!(other.build_as(&pylock, &how).unwrap().manifest, online.manifest);
}

#[test]
fn a_check_names_what_is_missing() {
    let Some(bench) = Bench::new() else { return };
    packages(&bench);
    let pylock = bench.resolve(&[list("core", Role::Core, "alpha\nextra\n")]).unwrap();
    assert_eq!(versions(&pylock), ["alpha 1.0", "built 2.0", "extra 1.0"]);
    let whole = bench.store.manifest(&bench.build(&pylock).unwrap().manifest).unwrap();
    assert_eq!(check(&bench.store, &bench.interpreter, &pylock, &whole).unwrap(), []);

    // Without one file, without one package.
    let transaction = bench.store.begin("damage").unwrap();
    let mut builder = cvs_store::ManifestBuilder::new();
    for (path, entry) in whole.walk() {
        let name = path.to_string();
        if name.contains("extra") || name.ends_with("alpha/tool.py") {
            continue;
        }
        match (whole.blob(&entry), whole.symlink_target(&entry)) {
            (Some(blob), _) => {
                transaction.has_blob(&blob).unwrap();
                builder.file(&path, entry.mode(), entry.size(), blob).unwrap();
            }
            (None, Some(target)) => builder.symlink(&path, target).unwrap(),
            (None, None) => builder.dir(&path, entry.mode()).unwrap(),
        }
    }
    let damaged = transaction.put_manifest(builder).unwrap();
    transaction.commit().unwrap();
    let damaged = bench.store.manifest(&damaged).unwrap();
    let mut other = bench.interpreter.clone();
    other.version = "3.0.1".to_owned();
    let found = check(&bench.store, &other, &pylock, &damaged).unwrap();
    let (major, minor) = bench.interpreter.minor();
    let said: Vec<String> = found.iter().map(ToString::to_string).skip(1).collect();
    assert!(matches!(&found[0], EnvironmentProblem::InterpreterChanged { .. }), "{found:?}");
    let lost =
        format!("package alpha lacks 1 of its files: lib/python{major}.{minor}/site-packages/alpha/tool.py");
    assert_eq!(said, [lost, "package extra 1.0 is locked, and not in the environment".to_owned()]);
    other.path = "/gone/python".into();
    let found = check(&bench.store, &other, &pylock, &whole).unwrap();
    assert!(matches!(&found[..], [EnvironmentProblem::InterpreterGone { .. }]), "{found:?}");
}
