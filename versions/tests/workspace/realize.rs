//! Versions as plain files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cvs_store::{BlobId, Gc, content_mtime};
use cvs_versions::realize::{
    ChangeKind, CheckOptions, RealizeError, RealizeOptions, RealizeReport, TargetReport,
};
use cvs_versions::{DeleteOptions, LockOptions, Update, VersionsError};
use serde_json::{Value, json};

use super::{Bench, blob_of, vid};

const MODEL: &[u8] = b"a model that is large enough to be one";

impl Bench {
    /// A version of the core, one node and one model.
    fn version(&self, id: &str) {
        let model = self.file("m.safetensors", MODEL);
        let url = format!("file://{}", model.display());
        let models = vec![json!({ "source": url, "target_path": "models/vae/m.safetensors" })];
        self.create(id, &["alpha"], models).unwrap();
    }

    fn realize(&self, id: &str, options: &RealizeOptions<'_>) -> Result<RealizeReport, VersionsError> {
        let ready = self.ws.ensure(&vid(id), &LockOptions::default()).unwrap();
        self.ws.realize(&ready, Some(&self.path("target")), options)
    }

    fn realized(&self, id: &str) -> RealizeReport {
        self.realize(id, &RealizeOptions::default()).unwrap()
    }

    fn update(&self, id: &str) {
        let options = LockOptions { update: Update::Everything, ..LockOptions::default() };
        self.ws.lock(&vid(id), &options).unwrap();
    }

    fn target(&self, path: &str) -> PathBuf {
        self.path("target").join(path)
    }

    fn check(&self) -> TargetReport {
        let options = CheckOptions { deep: false, events: &|_| {}, cancel: &AtomicBool::new(false) };
        self.ws.check_realization(&self.path("target"), &options).unwrap()
    }

    /// What differs, as `PATH (KIND)`.
    fn changes(&self) -> Vec<String> {
        self.check().changes.iter().map(ToString::to_string).collect()
    }

    fn edit_record(&self, edit: impl FnOnce(&mut Value)) {
        let dir = self.path("home/realizations");
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let path = names.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "json")).unwrap();
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    }

    fn collect(&self) {
        let gc = Gc::new(self.ws.store(), self.ws.roots(), Duration::ZERO);
        gc.execute(&gc.plan().unwrap()).unwrap();
    }
}

fn forced() -> RealizeOptions<'static> {
    RealizeOptions { force: true, ..RealizeOptions::default() }
}

fn in_the_way(result: Result<RealizeReport, VersionsError>) -> Vec<String> {
    match result.unwrap_err() {
        VersionsError::Realize(RealizeError::InTheWay { changes, .. }) => {
            changes.iter().map(ToString::to_string).collect()
        }
        error => panic!("{error}"),
    }
}

/// Everything below a directory but `.cvs`: links as `-> TARGET`, files as their mode and content.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let metadata = path.symlink_metadata().unwrap();
            if name == ".cvs" {
                continue;
            }
            let text = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                walk(root, &path, all);
                "directory".to_owned()
            } else {
                format!("{:o} {}", metadata.mode() & 0o777, fs::read_to_string(&path).unwrap())
            };
            all.insert(name, text);
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

#[test]
fn a_realization_is_what_a_mount_shows() {
    let bench = Bench::new();
    let core = bench.served().join("core.git");
    fs::write(core.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(core.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("main.py", core.join("start")).unwrap();
    bench.push("core", &[]);
    bench.version("v");
    let plan = RealizeOptions { dry_run: true, ..RealizeOptions::default() };
    let planned = bench.realize("v", &plan).unwrap();
    assert!(!bench.path("target").exists());
    let report = bench.realized("v");
    assert_eq!(report, planned);
    let linked = !report.cloned;
    assert_eq!((report.files, report.written_files), (6, if linked { 5 } else { 6 }));
    let mut found = tree(&bench.path("target"));
    let model = found.remove("models/vae/m.safetensors").unwrap();
    if linked {
        assert_eq!(model, format!("-> {}", blob_of(&bench.ws, MODEL).display()));
    }
    let expected = [
        ("custom_nodes", "directory"),
        ("custom_nodes/alpha", "directory"),
        ("custom_nodes/alpha/__init__.py", "644 alpha 1\n"),
        ("custom_nodes/alpha/shared.py", "644 shared\n"),
        ("main.py", "644 print('core')\n"),
        ("models", "directory"),
        ("models/vae", "directory"),
        ("nodes.py", "644 core nodes\n"),
        ("run.sh", "755 #!/bin/sh\n"),
        ("start", "-> main.py"),
    ];
    assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    let metadata = fs::metadata(bench.target("main.py")).unwrap();
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec() as u32),
        content_mtime(&BlobId::of(b"print('core')\n"))
    );
    assert_eq!(fs::read_dir(bench.target(".cvs")).unwrap().count(), 1);
    let again = bench.realized("v");
    assert_eq!((again.unchanged, again.written_files, again.linked_models), (true, 0, 0));
    assert_eq!(bench.changes(), [""; 0]);
    assert_eq!(bench.ws.store().leases().unwrap(), []);
}

#[test]
fn another_version_writes_the_difference() {
    let bench = Bench::new();
    bench.version("v");
    bench.create("w", &["beta"], Vec::new()).unwrap();
    bench.push("core", &[("nodes.py", "core nodes 2\n"), ("deep/er/new.py", "new\n")]);
    bench.update("w");
    bench.realized("v");
    let inode = |path: &str| fs::metadata(bench.target(path)).unwrap().ino();
    let before = inode("main.py");
    // What programs leave: bytecode goes with its sources, anything else stays.
    fs::create_dir(bench.target("custom_nodes/alpha/__pycache__")).unwrap();
    fs::write(bench.target("custom_nodes/alpha/__pycache__/shared.cpython-312.pyc"), "").unwrap();
    fs::create_dir(bench.target("output")).unwrap();
    fs::write(bench.target("output/image.png"), "png").unwrap();
    let report = bench.realized("w");
    // The model went with its directories, alpha with its own.
    assert_eq!((report.written_files, report.removed), (4, 3));
    assert_eq!(inode("main.py"), before);
    fs::remove_dir_all(bench.path("fresh")).ok();
    let ready = bench.ws.ensure(&vid("w"), &LockOptions::default()).unwrap();
    bench.ws.realize(&ready, Some(&bench.path("fresh")), &RealizeOptions::default()).unwrap();
    let mut found = tree(&bench.path("target"));
    assert_eq!(found.remove("output/image.png").unwrap(), "644 png");
    found.remove("output");
    assert_eq!(found, tree(&bench.path("fresh")));
}

#[test]
fn what_somebody_changed_is_never_lost() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    let path = bench.target("custom_nodes/alpha/__init__.py");
    fs::write(&path, "mine\n").unwrap();
    fs::remove_file(bench.target("nodes.py")).unwrap();
    fs::write(bench.target("custom_nodes/alpha/new.py"), "also mine\n").unwrap();
    fs::write(bench.target("custom_nodes/alpha/data.json"), "{}").unwrap();
    // The version stays as it was: so do the changes.
    assert!(bench.realized("v").unchanged);
    bench.push("core", &[("main.py", "print('core 2')\n")]);
    bench.update("v");
    let report = bench.realized("v");
    assert_eq!(report.written_files, 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine\n");
    assert!(!bench.target("nodes.py").exists());
    // The version changes in the same places: refused, and nothing is written.
    bench.push("alpha", &[("__init__.py", "alpha 2\n"), ("new.py", "new\n")]);
    bench.update("v");
    let before = tree(&bench.path("target"));
    let expected = ["custom_nodes/alpha/__init__.py (changed)", "custom_nodes/alpha/new.py (added)"];
    assert_eq!(in_the_way(bench.realize("v", &RealizeOptions::default())), expected);
    assert_eq!(tree(&bench.path("target")), before);
    // By force, all is as the version has it; what was there lies aside, what nobody else has a claim to stays.
    let report = bench.realize("v", &forced()).unwrap();
    assert_eq!(report.set_aside.len(), 2);
    assert_eq!(bench.changes(), ["custom_nodes/alpha/data.json (added)"]);
    let aside = fs::read_dir(bench.target(".cvs/aside")).unwrap().next().unwrap().unwrap().path();
    let aside = tree(&aside);
    assert_eq!(aside["custom_nodes/alpha/__init__.py"], "644 mine\n");
    assert_eq!(aside["custom_nodes/alpha/new.py"], "644 also mine\n");
}

#[test]
fn a_directory_that_somebody_removed_stays_away() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    fs::remove_dir_all(bench.target("custom_nodes/alpha")).unwrap();
    bench.push("core", &[("main.py", "print('core 2')\n")]);
    bench.update("v");
    bench.realized("v");
    assert!(!bench.target("custom_nodes/alpha").exists());
    bench.push("alpha", &[("__init__.py", "alpha 2\n"), ("sub/new.py", "new\n")]);
    bench.update("v");
    assert_eq!(in_the_way(bench.realize("v", &RealizeOptions::default())), ["custom_nodes/alpha (removed)"]);
    bench.realize("v", &forced()).unwrap();
    assert_eq!(bench.changes(), [""; 0]);
}

#[test]
fn one_kind_of_thing_takes_the_place_of_another() {
    let bench = Bench::new();
    bench.repo("a", &[("x/inside.py", "1\n"), ("y", "file\n"), ("z", "file\n")]);
    bench.repo("b", &[("x", "file\n"), ("y/inside.py", "2\n")]);
    symlink("y", bench.served().join("b.git/z")).unwrap();
    bench.push("b", &[]);
    for (id, node) in [("v", "a"), ("w", "b")] {
        let mut spec = bench.spec(id, &[], Vec::new());
        spec.repo = bench.url(node);
        bench.ws.create(spec, &Default::default()).unwrap();
    }
    let fresh = |id: &str| {
        let ready = bench.ws.ensure(&vid(id), &LockOptions::default()).unwrap();
        bench.ws.realize(&ready, Some(&bench.path(id)), &RealizeOptions::default()).unwrap();
        tree(&bench.path(id))
    };
    let trees = [("v", fresh("v")), ("w", fresh("w"))];
    for round in 0..2 {
        for (id, expected) in &trees {
            bench.realized(id);
            assert_eq!(tree(&bench.path("target")), *expected, "{round} {id}");
        }
    }
    bench.realized("v");
    fs::write(bench.target("x/mine.txt"), "").unwrap();
    assert_eq!(in_the_way(bench.realize("w", &RealizeOptions::default())), ["x/mine.txt (added)"]);
    bench.realize("w", &forced()).unwrap();
    assert_eq!(tree(&bench.path("target")), trees[1].1);
}

#[test]
fn a_directory_on_another_disk_stays_there() {
    let bench = Bench::new();
    bench.push("core", &[("output/.keep", ""), ("input/example.png", "1")]);
    bench.version("v");
    bench.realized("v");
    for name in ["output", "custom_nodes"] {
        fs::rename(bench.target(name), bench.path(name)).unwrap();
        symlink(bench.path(name), bench.target(name)).unwrap();
    }
    bench.push("core", &[("output/.keep", "2"), ("input/example.png", "2")]);
    bench.update("v");
    bench.realized("v");
    assert_eq!(fs::read_to_string(bench.path("output/.keep")).unwrap(), "");
    assert_eq!(fs::read_to_string(bench.target("input/example.png")).unwrap(), "2");
    // A node would be written wherever that link leads.
    bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    bench.update("v");
    assert_eq!(in_the_way(bench.realize("v", &RealizeOptions::default())), ["custom_nodes (changed)"]);
    bench.realize("v", &forced()).unwrap();
    assert!(bench.target("output").is_symlink() && !bench.target("custom_nodes").is_symlink());
    assert_eq!(fs::read_to_string(bench.path("custom_nodes/alpha/__init__.py")).unwrap(), "alpha 1\n");
}

#[test]
fn an_interruption_anywhere_is_completed() {
    let bench = Bench::new();
    bench.version("v");
    bench.create("w", &["beta"], Vec::new()).unwrap();
    bench.push("core", &[("nodes.py", "2\n"), ("a.py", "a\n"), ("b.py", "b\n")]);
    bench.update("w");
    let fresh = |id: &str| {
        let ready = bench.ws.ensure(&vid(id), &LockOptions::default()).unwrap();
        bench.ws.realize(&ready, Some(&bench.path(id)), &RealizeOptions::default()).unwrap();
        tree(&bench.path(id))
    };
    let (v, w) = (fresh("v"), fresh("w"));
    for first in 0.. {
        // From nothing to v, on to w, and from there, half-way, back to v.
        fs::remove_dir_all(bench.path("target")).ok();
        let mut interrupted = 0;
        for (id, stop, expected) in [("v", first, None), ("w", first, None), ("v", usize::MAX, Some(&v))] {
            let (cancel, heard) = (AtomicBool::new(false), AtomicU64::new(0));
            let events = |event: cvs_versions::Event<'_>| {
                if matches!(
                    event,
                    cvs_versions::Event::Realizing { .. } | cvs_versions::Event::Realized { .. }
                ) && heard.fetch_add(1, Ordering::Relaxed) as usize >= stop
                {
                    cancel.store(true, Ordering::Relaxed);
                }
            };
            let options = RealizeOptions { events: &events, cancel: &cancel, ..RealizeOptions::default() };
            match bench.realize(id, &options) {
                Ok(_) => {}
                Err(VersionsError::Realize(RealizeError::Cancelled)) => interrupted += 1,
                Err(error) => panic!("{id}, {first}: {error}"),
            }
            if let Some(expected) = expected {
                assert_eq!(tree(&bench.path("target")), *expected, "{first}");
            }
        }
        bench.realized("w");
        assert_eq!(tree(&bench.path("target")), w, "{first}");
        assert_eq!(bench.changes(), [""; 0]);
        if interrupted == 0 {
            assert!(first > 3, "it was never interrupted");
            return;
        }
    }
}

/// After a crash of the machine a file may have its size and its time, and not its bytes.
#[test]
fn what_a_power_cut_took_is_written_again() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    bench.edit_record(|record| {
        let mut complete = record["complete"].take();
        complete["boot"] = "an earlier one".into();
        record["writing"] = json!([complete]);
        record["complete"] = Value::Null;
    });
    let path = bench.target("main.py");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "\0".repeat("print('core')\n".len())).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(bench.realized("v").written_files, 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), "print('core')\n");
}

#[test]
fn places_that_are_not_ours_are_refused() {
    let bench = Bench::new();
    bench.version("v");
    let ready = bench.ws.ensure(&vid("v"), &LockOptions::default()).unwrap();
    fs::create_dir(bench.path("full")).unwrap();
    fs::write(bench.path("full/file"), "").unwrap();
    fs::create_dir_all(bench.path("other/.cvs")).unwrap();
    let mark = json!({ "format": 1, "id": "0", "home": "/elsewhere" });
    fs::write(bench.path("other/.cvs/realization.json"), mark.to_string()).unwrap();
    let home = bench.path("home");
    for (target, expected) in [
        (bench.path("full"), "is not empty, and not a realization"),
        (bench.path("full/file"), "cannot be a target: it is not a directory"),
        (bench.path("other"), "is a realization that belongs to /elsewhere"),
        (home.join("objects/x"), "cannot be a target: it lies in the home directory of cvs"),
        (home.join("realized"), "cannot be a target: it lies in the home directory of cvs"),
        (bench.path(""), "cannot be a target: the home directory of cvs lies in it"),
    ] {
        let error = bench.ws.realize(&ready, Some(&target), &RealizeOptions::default()).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    assert_eq!(bench.ws.realizations().unwrap(), []);
    bench.realized("v");
    let _held = bench.ws.hold_realization(&bench.path("target")).unwrap();
    let _shared = bench.ws.hold_realization(&bench.path("target")).unwrap();
    for result in [
        bench.realize("v", &RealizeOptions::default()).map(drop),
        bench.ws.delete(&vid("v"), &DeleteOptions::default()).map(drop),
    ] {
        match result.unwrap_err() {
            VersionsError::Realize(RealizeError::Busy { pid, .. }) => {
                assert_eq!(pid, Some(std::process::id()));
            }
            error => panic!("{error}"),
        }
    }
    assert!(bench.spec_file("v").exists());
}

#[test]
fn a_realization_is_a_root() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    bench.push("core", &[("main.py", "print('core 2')\n")]);
    bench.update("v");
    bench.collect();
    assert!(blob_of(&bench.ws, b"print('core')\n").exists());
    assert_eq!(bench.changes(), [""; 0]);
    bench.realized("v");
    bench.collect();
    assert!(!blob_of(&bench.ws, b"print('core')\n").exists());
    bench.edit_record(|record| record["format"] = 2.into());
    let gc = Gc::new(bench.ws.store(), bench.ws.roots(), Duration::ZERO);
    let error = gc.plan().unwrap_err().to_string();
    assert!(error.contains("it has format 2, this program knows format 1"), "{error}");
}

#[test]
fn a_check_names_what_was_touched() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    let path = bench.target("main.py");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    // As large and as old as before.
    fs::write(&path, "print('c0re')\n").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    fs::remove_dir_all(bench.target("custom_nodes/alpha")).unwrap();
    fs::create_dir_all(bench.target("output/a")).unwrap();
    fs::create_dir_all(bench.target("new/directory")).unwrap();
    // Touched, but the same.
    fs::set_permissions(bench.target("nodes.py"), fs::Permissions::from_mode(0o600)).unwrap();
    let expected = ["custom_nodes/alpha (removed)", "main.py (changed)", "new (added)"];
    assert_eq!(bench.changes(), expected);
    assert_eq!(bench.check().damaged, []);
    assert!(bench.check().changes.iter().any(|change| change.kind == ChangeKind::Added));
    if bench.target("models/vae/m.safetensors").is_symlink() {
        let object = blob_of(&bench.ws, MODEL);
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(bench.check().damaged, []);
        let mut other = MODEL.to_vec();
        other[0] ^= 1;
        fs::write(bench.target("models/vae/m.safetensors"), other).unwrap();
        let damaged = bench.check().damaged;
        assert_eq!(damaged.len(), 1);
        assert_eq!((damaged[0].blob, damaged[0].present), (BlobId::of(MODEL), true));
        fs::remove_file(object).unwrap();
        assert!(!bench.check().damaged[0].present);
    }
}

#[test]
fn models_are_links_or_copies_as_asked() {
    let bench = Bench::new();
    bench.version("v");
    if bench.realized("v").cloned {
        return;
    }
    let copied = RealizeOptions { copy_models: Some(true), ..RealizeOptions::default() };
    let report = bench.realize("v", &copied).unwrap();
    assert_eq!((report.written_files, report.written_bytes), (1, MODEL.len() as u64));
    let path = bench.target("models/vae/m.safetensors");
    assert!(!path.is_symlink());
    assert_eq!(fs::read(&path).unwrap(), MODEL);
    assert!(bench.realized("v").unchanged);
    let linked = RealizeOptions { copy_models: Some(false), ..RealizeOptions::default() };
    assert_eq!(bench.realize("v", &linked).unwrap().linked_models, 1);
    assert!(path.is_symlink());
}

/// Links are absolute: they are made anew when the home has moved.
#[test]
fn a_home_that_moved_keeps_its_realizations() {
    let bench = Bench::new();
    bench.version("v");
    if bench.realized("v").cloned {
        return;
    }
    fs::rename(bench.path("home"), bench.path("house")).unwrap();
    let ws = super::open(&bench.path("house"));
    let ready = ws.ensure(&vid("v"), &LockOptions::default()).unwrap();
    let report = ws.realize(&ready, Some(&bench.path("target")), &RealizeOptions::default()).unwrap();
    assert_eq!((report.linked_models, report.written_files), (1, 0));
    assert_eq!(fs::read(bench.target("models/vae/m.safetensors")).unwrap(), MODEL);
}

/// A copy of a home has copies of its records: what they name belongs to the first one.
#[test]
fn a_home_that_was_copied_leaves_the_realizations_of_the_other() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    fs::write(bench.target("mine"), "").unwrap();
    let before = tree(&bench.path("target"));
    let copied =
        std::process::Command::new("cp").arg("-a").args([bench.path("home"), bench.path("copy")]).status();
    assert!(copied.unwrap().success());
    let copy = super::open(&bench.path("copy"));
    let ready = copy.ensure(&vid("v"), &LockOptions::default()).unwrap();
    let error = copy.realize(&ready, Some(&bench.path("target")), &forced()).unwrap_err();
    assert!(matches!(error, VersionsError::Realize(RealizeError::Foreign { .. })), "{error}");
    copy.delete(&vid("v"), &DeleteOptions { overlay: true, dry_run: false }).unwrap();
    assert_eq!(tree(&bench.path("target")), before);
    assert_eq!(copy.realizations().unwrap(), []);
    assert!(bench.realized("v").unchanged);
}

#[test]
fn no_realization_lies_in_another() {
    let bench = Bench::new();
    bench.version("v");
    bench.realized("v");
    let ready = bench.ws.ensure(&vid("v"), &LockOptions::default()).unwrap();
    let realize = |target: &Path| bench.ws.realize(&ready, Some(target), &RealizeOptions::default());
    let error = realize(&bench.target("output/w")).unwrap_err();
    assert!(
        error.to_string().ends_with("cannot be a target: another version is realized in it, or around it"),
        "{error}"
    );
    assert!(!bench.target("output/w").exists());
    // One that is not there any more is in nobody's way.
    fs::remove_dir_all(bench.path("target")).unwrap();
    realize(&bench.target("output/w")).unwrap();
}

/// Its `tmp` would be somebody else's, and is emptied.
#[test]
fn our_directory_is_no_link_to_another() {
    let bench = Bench::new();
    bench.version("v");
    fs::create_dir_all(bench.path("precious/tmp/photos")).unwrap();
    fs::create_dir(bench.path("target")).unwrap();
    symlink(bench.path("precious"), bench.target(".cvs")).unwrap();
    let error = bench.realize("v", &forced()).unwrap_err();
    assert!(error.to_string().ends_with("cannot be a target: its .cvs is not a directory"), "{error}");
    assert!(bench.path("precious/tmp/photos").exists());
}

#[test]
fn a_deletion_takes_what_cvs_wrote() {
    let bench = Bench::new();
    bench.version("v");
    bench.ws.clone_version(&vid("v"), &vid("w")).unwrap();
    bench.realized("v");
    fs::create_dir_all(bench.target("output")).unwrap();
    fs::write(bench.target("output/image.png"), "png").unwrap();
    fs::write(bench.target("nodes.py"), "mine\n").unwrap();
    let plan = DeleteOptions { overlay: false, dry_run: true };
    let planned = bench.ws.delete(&vid("v"), &plan).unwrap();
    assert_eq!((planned.realizations[0].removed, planned.realizations[0].others), (4, 2));
    let done = bench.ws.delete(&vid("v"), &DeleteOptions::default()).unwrap();
    assert_eq!(done.realizations, planned.realizations);
    let left: Vec<String> = tree(&bench.path("target")).into_keys().collect();
    assert_eq!(left, ["nodes.py", "output", "output/image.png"]);
    assert_eq!(bench.ws.realizations().unwrap(), []);
    // What is left is ours all the same, and can be realized again; not over what was changed.
    assert_eq!(in_the_way(bench.realize("w", &RealizeOptions::default())), ["nodes.py (added)"]);
    bench.realize("w", &forced()).unwrap();
    let all = DeleteOptions { overlay: true, dry_run: false };
    bench.ws.delete(&vid("w"), &all).unwrap();
    assert!(!bench.path("target").exists());
    assert_eq!(bench.garbage(), bench.ws.store().leases().unwrap().len() as u64 + garbage_of_all(&bench));
}

/// Every object, when no version is left.
fn garbage_of_all(bench: &Bench) -> u64 {
    fn count(dir: &Path) -> u64 {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| if path.is_dir() { count(&path) } else { 1 })
            .sum()
    }
    count(&bench.path("home/objects"))
}
