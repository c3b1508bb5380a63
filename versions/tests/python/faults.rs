//! What goes wrong, and how it is said.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cvs_store::Store;
use cvs_tests::{Fault, Missing, PackageIndex, Sdist, Wheel, available};
use cvs_versions::python::{
    BuildOptions, Interpreter, PythonError, PythonEvent, PythonOptions, ResolveRequest, Role, Uv, build,
    find_interpreter,
};

use super::{Bench, list};

#[test]
fn uv_that_is_missing_or_too_old_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("uv");
    let error = Uv::find(Some(&gone), dir.path()).unwrap_err();
    assert!(matches!(&error, PythonError::UvMissing { looked } if *looked == gone), "{error}");
    std::fs::write(&gone, "#!/bin/sh\necho 'uv 0.2.1 (old)'\n").unwrap();
    std::fs::set_permissions(&gone, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Uv::find(Some(&gone), dir.path()).unwrap_err();
    assert!(error.to_string().contains("is uv 0.2.1, and 0."), "{error}");
    assert!(error.to_string().contains("pip install --upgrade uv"), "{error}");
}

#[test]
fn a_program_that_is_no_python_is_said_so() {
    for (program, reason) in [
        ("/gone/python", "No such file or directory (os error 2)"),
        ("/bin/true", "EOF while parsing a value at line 1 column 0"),
    ] {
        let error = Interpreter::ask(Path::new(program)).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot ask {program} what it is: {reason}"));
    }
}

#[test]
fn an_interpreter_that_is_missing_is_said_with_those_there_are() {
    let Some(bench) = Bench::new() else { return };
    let options = PythonOptions { offline: true, ..PythonOptions::default() };
    for request in ["3.4", "/gone/bin/python"] {
        match find_interpreter(&bench.uv, Some(request), &options) {
            Err(PythonError::NoInterpreter { request: asked, found }) => {
                assert_eq!(asked, request);
                assert!(found.iter().any(|one| one.starts_with("3.")), "{found:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // A virtual environment leads to its base.
    let venv = bench.dir.path().join("venv");
    let made = Command::new(bench.uv.program())
        .args(["venv", "-q", "--python"])
        .arg(&bench.interpreter.path)
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    let program = venv.join("bin/python");
    let found = find_interpreter(&bench.uv, program.to_str(), &options).unwrap();
    assert_eq!(found, bench.interpreter);
}

#[test]
fn an_index_that_does_not_answer_or_refuses() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0")]);
    let lists = [list("core", Role::Core, "alpha\n")];
    bench.index.require_authorization("Basic secret");
    let error = bench.resolve(&lists).unwrap_err();
    assert!(matches!(error, PythonError::Denied { .. }), "{error:?}");

    let Some(other) = Bench::new() else { return };
    let nowhere = PackageIndex::empty().stop().replace("http://", "http://me:password@");
    let request = ResolveRequest { index_url: Some(&nowhere), ..other.request(&lists) };
    let error = other.resolve_as(&request).unwrap_err();
    assert!(matches!(error, PythonError::Unreachable { .. }), "{error:?}");
    assert!(!error.to_string().contains("password"), "{error}");

    let options = PythonOptions { offline: true, ..PythonOptions::default() };
    let error = other.resolve_as(&ResolveRequest { options, ..other.request(&lists) }).unwrap_err();
    assert!(matches!(&error, PythonError::Offline { what } if what.contains("alpha")), "{error:?}");
}

#[test]
fn a_build_that_cannot_have_what_was_locked() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0")]);
    let pylock = bench.resolve(&[list("core", Role::Core, "alpha\n")]).unwrap();
    let options = PythonOptions { offline: true, ..PythonOptions::default() };
    let offline = BuildOptions { options, ..bench.how() };
    let error = bench.build_as(&pylock, &offline).unwrap_err();
    assert!(matches!(&error, PythonError::Offline { what } if what.contains("alpha")), "{error:?}");

    let mut local = pylock.clone();
    let wheel = local["packages"][0]["wheels"][0].as_object_mut().unwrap();
    wheel.remove("url");
    wheel.insert("path".to_owned(), "alpha-1.0-py3-none-any.whl".into());
    let error = bench.build(&local).unwrap_err();
    assert_eq!(
        error.to_string(),
        "alpha-1.0-py3-none-any.whl of alpha was locked from a directory of wheels, and is in none that was given"
    );

    bench.wheels([Wheel::new("alpha", "1.0").module("alpha/new.py", "")]);
    let error = bench.build(&pylock).unwrap_err().to_string();
    assert!(
        error.starts_with("alpha==1.0 is not what was locked: expected ") && error.ends_with(" bytes"),
        "{error}"
    );
    bench.wheels([Wheel::new("alpha", "1.0").module("alpha/__init__.py", "VERSION = \"1,0\"\n")]);
    let error = bench.build(&pylock).unwrap_err();
    match &error {
        PythonError::HashMismatch { package, expected, found } => {
            let locked = pylock["packages"][0]["wheels"][0]["hashes"]["sha256"].as_str().unwrap();
            assert_eq!((package.as_str(), expected.as_str()), ("alpha==1.0", &*format!("sha256:{locked}")));
            assert!(found.starts_with("sha256:") && found != expected, "{found}");
        }
        other => panic!("{other:?}"),
    }
    // Nothing is left of a failure, and the next build works.
    bench.wheels([Wheel::new("alpha", "1.0")]);
    bench.build(&pylock).unwrap();
}

#[test]
fn a_source_distribution_that_does_not_build() {
    let Some(bench) = Bench::new() else { return };
    let sdist = Sdist::of(Wheel::new("broken", "1.0")).failing("the compiler is not at home");
    bench.index.add_sdist(&sdist);
    let lists = [list("core", Role::Core, "broken\n")];
    let error = bench.resolve(&lists).and_then(|pylock| bench.build(&pylock).map(|_| ())).unwrap_err();
    match &error {
        PythonError::BuildFailed { package, tail } => {
            assert!(package.starts_with("broken"), "{package}");
            assert!(tail.contains("the compiler is not at home"), "{tail}");
            assert!(!tail.contains(&*bench.dir.path().to_string_lossy()), "{tail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancelled_run_ends_at_once_and_with_all_that_it_started() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0")]);
    let page = bench.index.page("alpha");
    bench.index.server().fault(&page, Fault::Hang);
    let cancel = AtomicBool::new(false);
    let lists = [list("core", Role::Core, "alpha\n")];
    let options = PythonOptions { cancel: &cancel, ..PythonOptions::default() };
    let request = ResolveRequest { options, ..bench.request(&lists) };
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cvs_tests::wait_until(Duration::from_secs(20), "uv asks", || {
                bench.index.server().requests().iter().any(|request| request.path == page)
            });
            cancel.store(true, Ordering::Relaxed);
        });
        assert!(matches!(bench.resolve_as(&request), Err(PythonError::Cancelled)));
    });
    assert!(started.elapsed() < Duration::from_secs(20));
    let cancelled = BuildOptions { options, ..bench.how() };
    assert!(matches!(
        bench.build_as(&serde_json::json!({"lock-version": "1.0"}), &cancelled),
        Err(PythonError::Cancelled)
    ));
}

#[test]
fn progress_is_told() {
    let Some(bench) = Bench::new() else { return };
    bench.wheels([Wheel::new("alpha", "1.0")]);
    let told = std::sync::Mutex::new(Vec::new());
    let events = |event: PythonEvent<'_>| told.lock().unwrap().push(format!("{event:?}"));
    let options = PythonOptions { events: &events, ..PythonOptions::default() };
    let lists = [list("core", Role::Core, "alpha\n")];
    let pylock = bench.resolve_as(&ResolveRequest { options, ..bench.request(&lists) }).unwrap();
    bench.build_as(&pylock, &BuildOptions { options, ..bench.how() }).unwrap();
    let told = told.into_inner().unwrap();
    for expected in
        ["Resolving { sources: 1 }", "Installing { packages: 1 }", "Compiling { done: 1, total: 1 }"]
    {
        assert!(told.iter().any(|event| event == expected), "{told:?}");
    }
    assert!(told.iter().any(|event| event.starts_with("Uv") && event.contains("alpha==1.0")), "{told:?}");
    assert!(Path::new(&bench.uv.state().join("cache")).is_dir());
}

struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Result<Self, Missing> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(at).stderr(Stdio::null());
        match mount.status() {
            Ok(status) if status.success() => Ok(Self(at.to_owned())),
            _ => Err(Missing("the right to mount a small tmpfs (root)".to_owned())),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let Some(disk) = available(SmallDisk::new(&bench.dir.path().join("disk"))) else { return };
    bench.wheels([Wheel::new("alpha", "1.0").module("alpha/data.bin", vec![7; 16 << 20])]);
    let pylock = bench.resolve(&[list("core", Role::Core, "alpha\n")]).unwrap();
    let store = Store::open(&disk.0.join("home")).unwrap();
    let uv = Uv::find(Some(bench.uv.program()), store.home()).unwrap();
    let transaction = store.begin("test").unwrap();
    let error = build(&uv, &transaction, &bench.interpreter, &pylock, &bench.how()).unwrap_err();
    assert!(matches!(error, PythonError::NoSpace { .. }), "{error:?}");
    let left: Vec<_> = std::fs::read_dir(transaction.scratch_dir().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
