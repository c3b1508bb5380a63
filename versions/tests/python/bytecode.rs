//! Bytecode: valid in a view, the same whoever compiles it, and never stale.

use std::process::Command;

use cvs_store::Manifest;
use cvs_versions::python::{PythonOptions, bytecode};

use super::{Bench, contents, show};

const FILES: [(&str, &[u8]); 6] = [
    ("__init__.py", b"from .deep import value\nNAMES = {'a', 'b', 'c', 'a.b', 1, 2.5}\n"),
    (
        "deep/__init__.py",
        b"def value(x, *, y=(1, 2, 'text')):\n    return [lambda: x in {'p', 'q', 'r'} for _ in y]\n",
    ),
    (
        "deep/again.py",
        b"def value(x, *, y=(1, 2, 'text')):\n    return [lambda: x in {'p', 'q', 'r'} for _ in y]\n",
    ),
    ("old.py", b"print 'a Python of long ago'\n"),
    ("latin.py", b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\n"),
    ("notes.txt", b"nothing to compile\n"),
];

#[test]
fn it_is_valid_where_the_view_shows_it_and_not_after_an_edit() {
    let Some(bench) = Bench::new() else { return };
    let source = bench.tree(&FILES);
    let transaction = bench.store.begin("test").unwrap();
    let options = PythonOptions::default();
    let report = bytecode(&transaction, &bench.interpreter, &source, &options).unwrap().unwrap();
    transaction.commit().unwrap();
    assert_eq!((report.files, report.compiled), (4, 5));
    let at = bench.dir.path().join("package");
    show(&bench.store, &source, &at);
    show(&bench.store, &bench.store.manifest(&report.manifest).unwrap(), &at);
    let import = || {
        let mut command = Command::new(&bench.interpreter.path);
        command.args(["-B", "-v", "-c", "import package, package.deep.again, package.latin; print(package.value.__code__.co_filename, len(package.value(1)))"]);
        let output = command.current_dir(bench.dir.path()).env_clear().output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let used = said.lines().filter(|line| line.contains("matches") && line.contains("package/")).count();
        (used, String::from_utf8(output.stdout).unwrap())
    };
    // Tracebacks show where the file is, although the bytecode was made elsewhere.
    assert_eq!(import(), (4, format!("{}/deep/__init__.py 3\n", at.display())));
    std::fs::write(at.join("deep/__init__.py"), "def value(x):\n    return []\n").unwrap();
    assert_eq!(import(), (3, format!("{}/deep/__init__.py 0\n", at.display())));
}

#[test]
fn who_compiles_it_does_not_matter() {
    let Some(bench) = Bench::new() else { return };
    let long = "def f(a, b):\n    return {'k': (a, b, 'text', 1.5, 10 ** 30, b'x', None, ...)}\n".repeat(50);
    let many: Vec<(String, String)> = (0..60)
        .map(|i| {
            (
                format!("m{i}.py"),
                format!("import os, sys\nNAME = 'n{}'\n{}", i % 7, &long[..long.len() / (i + 1) / 76 * 76]),
            )
        })
        .collect();
    let mut files: Vec<(&str, &[u8])> =
        many.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
    files.extend(FILES);
    let source = bench.tree(&files);
    let options = PythonOptions::default();
    let compile = |bench: &Bench, source: &Manifest| {
        let transaction = bench.store.begin("test").unwrap();
        let report = bytecode(&transaction, &bench.interpreter, source, &options).unwrap();
        transaction.commit().unwrap();
        report
    };
    let together = compile(&bench, &source).unwrap();
    // One after the other in other homes, so that each process sees other sources before it.
    let expected = contents(&bench, &together.manifest);
    let other = Bench::new().unwrap();
    let mut found = std::collections::BTreeMap::new();
    for part in files.rchunks(9) {
        let tree = other.tree(part);
        if let Some(part) = compile(&other, &tree) {
            found.extend(contents(&other, &part.manifest));
        }
    }
    let differing: Vec<_> = expected
        .iter()
        .filter(|(path, bytes)| found.get(*path) != Some(bytes))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(differing, [""; 0]);
    assert_eq!(expected.len(), found.len());
    // The second time, in one step and with nothing to compile, what cannot be compiled included.
    let again = compile(&bench, &source).unwrap();
    assert_eq!((again.manifest, again.compiled), (together.manifest, 0));
}

#[test]
fn bytecode_that_a_tree_has_stays_and_a_tree_without_sources_has_none() {
    let Some(bench) = Bench::new() else { return };
    let options = PythonOptions::default();
    let transaction = bench.store.begin("test").unwrap();
    let own = format!("__pycache__/a.{}.pyc", bench.interpreter.cache_tag);
    let tree = bench.tree(&[
        ("a.py", b"x = 1\n"),
        ("b.py", b"x = 2\n"),
        (&own, b"theirs"),
        ("c/__pycache__", b"a file"),
        ("c/d.py", b""),
    ]);
    let report = bytecode(&transaction, &bench.interpreter, &tree, &options).unwrap().unwrap();
    transaction.commit().unwrap();
    let found = contents(&bench, &report.manifest);
    let expected = format!("__pycache__/b.{}.pyc", bench.interpreter.cache_tag);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&expected]);
    let none = bench.tree(&[("old.py", b"print 1\n"), ("readme", b"")]);
    assert_eq!(bytecode(&transaction, &bench.interpreter, &none, &options).unwrap(), None);
}
