//! Resolving: what is kept, what is pinned, what a conflict says.

use cvs_tests::Wheel;
use cvs_versions::python::{PythonError, PythonOptions, ResolveRequest, Role, Side};

use super::{Bench, list, versions};

#[test]
fn lists_are_resolved_together_and_an_earlier_lock_stays() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0").requires("beta"), Wheel::new("beta", "1.0")]);
    let core = list("core", Role::Core, "alpha\n");
    let first = bench.resolve(std::slice::from_ref(&core)).unwrap();
    assert_eq!(versions(&first), ["alpha 1.0", "beta 1.0"]);
    assert!(
        first.get("created-by").is_none()
            && first["packages"][0]["wheels"][0]["hashes"]["sha256"].is_string()
    );

    bench.wheels([Wheel::new("alpha", "2.0").requires("beta"), Wheel::new("beta", "2.0")]);
    let node = list("node x", Role::Node, "beta>=2\n");
    let both = [core, node];
    let request = ResolveRequest { previous: Some(&first), ..bench.request(&both) };
    assert_eq!(versions(&bench.resolve_as(&request).unwrap()), ["alpha 1.0", "beta 2.0"]);
    assert_eq!(versions(&bench.resolve(&both).unwrap()), ["alpha 2.0", "beta 2.0"]);
    // Nothing asked for is nothing, and not an error.
    assert_eq!(versions(&bench.resolve(&[]).unwrap()), [""; 0]);
}

#[test]
fn pip_comes_along_where_there_is_one() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0"), Wheel::new("pip", "30.0"), Wheel::new("setuptools", "90.0")]);
    let found = versions(&bench.resolve(&[list("core", Role::Core, "alpha\n")]).unwrap());
    let old = bench.interpreter.minor() < (3, 12);
    assert_eq!(
        found,
        if old { vec!["alpha 1.0", "pip 30.0", "setuptools 90.0"] } else { vec!["alpha 1.0", "pip 30.0"] }
    );
}

#[test]
fn a_conflict_names_who_disagrees_and_no_one_else() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([
        Wheel::new("alpha", "1.0"),
        Wheel::new("alpha", "2.0"),
        Wheel::new("carrier", "1.0").requires("alpha<2"),
        Wheel::new("other", "1.0"),
    ]);
    let lists = [
        list("core", Role::Core, "other\n"),
        list("python_packages", Role::Packages, "other==1.0\n"),
        list("node one", Role::Node, "other\n"),
        list("node two", Role::Node, "other\ncarrier # brings alpha\n"),
        list("node three", Role::Node, "other>=1\n"),
        list("node four", Role::Node, "alpha>=2\nother\n"),
        list("node five", Role::Node, "other\n"),
    ];
    let side = |label: &str, line: &str| Side { label: label.to_owned(), lines: vec![line.to_owned()] };
    match bench.resolve(&lists) {
        Err(PythonError::Conflict { sides, explanation }) => {
            assert_eq!(sides, [side("node two", "carrier"), side("node four", "alpha>=2")]);
            assert!(explanation.contains("carrier") && explanation.contains("alpha"), "{explanation}");
        }
        other => panic!("{other:?}"),
    }
    match bench.resolve(&[list("core", Role::Core, "other\n"), list("node x", Role::Node, "alpha==9\n")]) {
        Err(error @ PythonError::Conflict { .. }) => {
            let said = error.to_string();
            assert!(
                said.starts_with("the Python requirements cannot be met:\n  node x wants alpha==9\n"),
                "{said}"
            );
            assert!(!said.contains(&*bench.dir.path().to_string_lossy()), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_node_replaces_torch() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([
        Wheel::new("torch", "2.0").requires("runtime==2"),
        Wheel::new("torch", "1.0").requires("runtime==1"),
        Wheel::new("runtime", "1"),
        Wheel::new("runtime", "2"),
        Wheel::new("filter", "1.0").requires("torch<2"),
        Wheel::new("filter", "0.9").requires("torch"),
    ]);
    let core = list("core", Role::Core, "torch\n");
    // Alone, resolved together, the node would pull torch down; now it gets an older package of its own.
    let both = [core.clone(), list("node x", Role::Node, "filter\n")];
    assert_eq!(versions(&bench.resolve(&both).unwrap()), ["filter 0.9", "runtime 2", "torch 2.0"]);
    let both = [core, list("node x", Role::Node, "torch==1.0\n")];
    match bench.resolve(&both) {
        Err(PythonError::Conflict { sides, .. }) => {
            let shown: Vec<_> = sides.iter().map(|s| format!("{}: {}", s.label, s.lines.join(" "))).collect();
            assert_eq!(shown, ["node x: torch==1.0", "core: torch==2.0"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn wheels_of_a_directory_need_no_network() {
    let Some(bench) = Bench::new() else { return };
    let wheels = bench.directory([Wheel::new("alpha", "1.0").requires("beta"), Wheel::new("beta", "3.0")]);
    let lists = [list("core", Role::Core, "alpha\n")];
    let options = PythonOptions { offline: true, ..PythonOptions::default() };
    let request = ResolveRequest { wheels: Some(&wheels), options, ..bench.request(&lists) };
    let found = bench.resolve_as(&request).unwrap();
    assert_eq!(versions(&found), ["alpha 1.0", "beta 3.0"]);
    assert_eq!(found["packages"][0]["wheels"][0]["path"], "alpha-1.0-py3-none-any.whl");
    assert!(!found.to_string().contains("file:"), "{found}");
    let asked = |path: &str| bench.index.server().requests().iter().any(|request| request.path == path);
    assert!(!asked("/simple/alpha/"));
}

#[test]
fn requirements_of_a_tree_hold_what_they_name_and_nothing_outside() {
    let Some(bench) = Bench::new() else { return };
    let files: [(&str, &[u8]); 4] = [
        ("requirements.txt", b"\xef\xbb\xbfalpha\r\n-r more/all.txt\r\n"),
        ("more/all.txt", b"beta\n-c ../limits.txt\n"),
        ("limits.txt", b"beta<2\n"),
        ("other.txt", b"gamma\n"),
    ];
    let found = bench.requirements(&files).unwrap().unwrap();
    assert_eq!(found.files.keys().collect::<Vec<_>>(), ["limits.txt", "more/all.txt", "requirements.txt"]);
    bench.wheels([Wheel::new("alpha", "1.0"), Wheel::new("beta", "1.0"), Wheel::new("beta", "2.0")]);
    assert_eq!(versions(&bench.resolve(&[found]).unwrap()), ["alpha 1.0", "beta 1.0"]);

    for nothing in [&[("main.py", &b""[..])][..], &[("requirements.txt", b"# none\n\n")]] {
        assert!(bench.requirements(nothing).unwrap().is_none());
    }
    for (line, reason) in [
        ("-e .", "an editable package cannot be part of a version; name it by an address"),
        ("./x.whl", "a path of this machine cannot be part of a version; name the package by an address"),
        ("-r ../x.txt", "it is not in the source"),
        ("-r gone.txt", "the file is not in the source"),
        ("-r https://host/x.txt", "a list from an address can change at any time"),
    ] {
        let content = format!("alpha\n{line}\n");
        let error = bench.requirements(&[("requirements.txt", content.as_bytes())]).unwrap_err();
        assert_eq!(error.to_string(), format!("node x: requirements.txt:2: {reason}: {line}"));
    }
}
