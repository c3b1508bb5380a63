//! The directory of specs: publishing, lost updates, listing, and roots that fail closed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cvs_store::{ManifestId, RootRef, RootSource};
use cvs_versions::SpecError;
use cvs_versions::spec::{
    Lock, LockedRepo, NewSpec, PythonSpec, ReadOptions, SpecDocument, VersionId, VersionsDir,
};
use serde_json::json;

fn id(text: &str) -> VersionId {
    VersionId::new(text).unwrap()
}

fn new(name: &str) -> SpecDocument {
    SpecDocument::build(NewSpec {
        version_id: id(name),
        repo: "https://h/o/ComfyUI@v1".to_owned(),
        custom_nodes: vec![json!({ "repo": "https://h/o/N" })],
        models: Vec::new(),
        python_packages: vec!["numpy<2".to_owned(), "--pre".to_owned()],
        python: PythonSpec { version: Some("3.12".to_owned()), ..PythonSpec::default() },
        skip_python: false,
        env: vec![("A".to_owned(), "1".to_owned())],
        options: ReadOptions { lenient: true },
    })
    .unwrap()
}

fn read(dir: &VersionsDir, name: &str) -> SpecDocument {
    dir.read(&id(name), ReadOptions::default()).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_version_is_made_read_edited_cloned_and_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let dir = VersionsDir::new(temp.path().join("versions"));
    assert_eq!(dir.list().unwrap(), []);
    dir.publish(&mut new("a")).unwrap();
    let text = r#"{
  "schema_version": 2,
  "version_id": "a",
  "comfy": {
    "repo": "https://h/o/ComfyUI",
    "ref": "v1"
  },
  "custom_nodes": [
    {
      "repo": "https://h/o/N"
    }
  ],
  "models": [],
  "python_packages": [
    "numpy<2"
  ],
  "python": {
    "version": "3.12"
  },
  "env": {
    "A": "1"
  },
  "options": {}
}
"#;
    assert_eq!(fs::read_to_string(dir.file_of(&id("a"))).unwrap(), text);

    let mut document = read(&dir, "a");
    document.edit(|root| root["comfy"]["ref"] = json!("v2")).unwrap();
    dir.publish(&mut document).unwrap();
    // A published document counts as read: it can be edited on.
    document.edit(|root| root["comfy"]["ref"] = json!("v3")).unwrap();
    dir.publish(&mut document).unwrap();
    assert_eq!(fs::read_to_string(dir.file_of(&id("a"))).unwrap(), text.replace("v1", "v3"));

    let mut copy = document.clone_as(&id("b")).unwrap();
    dir.publish(&mut copy).unwrap();
    assert_eq!(dir.list().unwrap(), [id("a"), id("b")]);
    assert_eq!(names(dir.path()), [".cvs-lock", "a.json", "b.json"]);

    dir.delete(&id("a")).unwrap();
    assert_eq!(dir.list().unwrap(), [id("b")]);
    let missing = format!("there is no version \"a\" in {}", dir.path().display());
    assert_eq!(dir.delete(&id("a")).unwrap_err().to_string(), missing);
    assert_eq!(dir.read(&id("a"), ReadOptions::default()).unwrap_err().to_string(), missing);
}

#[test]
fn nobodys_edit_is_lost() {
    let temp = tempfile::tempdir().unwrap();
    let dir = VersionsDir::new(temp.path());
    dir.publish(&mut new("a")).unwrap();
    let path = dir.file_of(&id("a"));
    let exists = dir.publish(&mut new("a")).unwrap_err();
    assert_eq!(exists.to_string(), format!("version \"a\" exists already: {}", path.display()));

    let mut mine = read(&dir, "a");
    mine.edit(|root| root["comfy"]["ref"] = json!("mine")).unwrap();
    let theirs = fs::read_to_string(&path).unwrap().replace("v1", "theirs");
    for change in [Some(theirs), None] {
        match &change {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert!(matches!(dir.publish(&mut mine), Err(SpecError::Changed { path: named }) if named == path));
        assert_eq!(fs::read_to_string(&path).ok(), change);
    }

    // Replacing on purpose: there is nothing, there is a version, there is what is none.
    for (content, there) in [(None, false), (Some("{}"), true)] {
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let mut forced = new("a");
        assert_eq!(dir.replace_by(&mut forced).unwrap(), there);
        dir.publish(&mut forced).unwrap();
        assert_eq!(read(&dir, "a").text(), forced.text());
    }
}

#[test]
fn of_many_publishers_one_wins_each_round() {
    let temp = tempfile::tempdir().unwrap();
    let dir = VersionsDir::new(temp.path());
    dir.publish(&mut new("a")).unwrap();
    let rounds: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut won = 0;
                    while won < 10 {
                        let mut document = read(&dir, "a");
                        let count =
                            document.root().get("count").and_then(|count| count.as_u64()).unwrap_or(0);
                        document
                            .edit(|root| drop(root.insert("count".to_owned(), (count + 1).into())))
                            .unwrap();
                        match dir.publish(&mut document) {
                            Ok(()) => won += 1,
                            Err(SpecError::Changed { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    won
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!((rounds, read(&dir, "a").root()["count"].as_u64()), (40, Some(40)));
    assert_eq!(names(dir.path()), [".cvs-lock", "a.json"]);
}

#[test]
fn links_permissions_and_leftovers() {
    let temp = tempfile::tempdir().unwrap();
    let elsewhere = temp.path().join("elsewhere.json");
    let dir = VersionsDir::new(temp.path().join("versions"));
    dir.publish(&mut new("a")).unwrap();
    fs::rename(dir.file_of(&id("a")), &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&elsewhere, dir.file_of(&id("a"))).unwrap();
    fs::write(dir.path().join(".cvs-tmp-1-a.json"), "{").unwrap();
    // Of a killed process that had our pid, where nobody sweeps.
    let left = temp.path().join(format!(".cvs-tmp-{}-elsewhere.json", std::process::id()));
    fs::write(&left, "{").unwrap();
    let mut document = read(&dir, "a");
    document.edit(|root| root["comfy"]["ref"] = json!("v2")).unwrap();
    dir.publish(&mut document).unwrap();
    assert!(dir.file_of(&id("a")).is_symlink());
    assert!(fs::read_to_string(&elsewhere).unwrap().contains("\"v2\""));
    assert_eq!(fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(dir.path()), [".cvs-lock", "a.json"]);
    assert!(!left.exists());
}

#[test]
fn the_manifests_of_every_lock_are_roots() {
    let temp = tempfile::tempdir().unwrap();
    let dir = VersionsDir::new(temp.path());
    dir.publish(&mut new("a")).unwrap();
    let mut locked = new("b");
    let manifest = ManifestId::from_bytes([7; 32]);
    locked
        .set_lock(Some(&Lock::new(LockedRepo {
            repo: "https://h/o/ComfyUI".to_owned(),
            requested: None,
            commit: Some("a".repeat(40)),
            manifest: Some(manifest),
            ..LockedRepo::default()
        })))
        .unwrap();
    dir.publish(&mut locked).unwrap();
    let root = |name: &str, manifests: &[ManifestId]| RootRef {
        name: name.to_owned(),
        manifests: manifests.to_vec(),
    };
    assert_eq!(RootSource::roots(&dir).unwrap(), [root("a", &[]), root("b", &[manifest])]);
    fs::write(dir.file_of(&id("c")), "{").unwrap();
    assert!(RootSource::roots(&dir).unwrap_err().to_string().contains("c.json:1:1: not valid JSON"));
}

#[test]
fn roots_fail_closed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = VersionsDir::new(temp.path());
    dir.publish(&mut new("a")).unwrap();
    // What is wrong outside the lock keeps nothing alive, and need not stop a collection.
    fs::write(dir.file_of(&id("b")), "{\"models\": 5}").unwrap();
    fs::write(temp.path().join("README.md"), "mine").unwrap();
    let roots = dir.roots().unwrap();
    assert_eq!(roots.iter().map(|root| root.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);

    let path = dir.file_of(&id("b"));
    let shown = path.display();
    for (text, expected) in [
        ("{", format!("{shown}:1:1: not valid JSON: EOF while parsing an object")),
        ("\u{0}", format!("{shown}:1:1: not valid JSON: expected value")),
        (
            "[]",
            format!(
                "{shown}: found an empty list; expected a spec: an object with `schema_version`, `version_id` and `comfy`"
            ),
        ),
        (
            "{\"lock\": 1}",
            format!(
                "{shown}: lock: found the number 1; expected what cvs wrote; remove the key `lock` to resolve anew"
            ),
        ),
        (
            "{\"lock\": {\"format\": 9}}",
            format!("{shown}: lock.format: found 9; expected 2; this lock is of a newer cvs"),
        ),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(dir.roots().unwrap_err().to_string(), expected);
    }
    fs::write(&path, b"{\n\"\xff\"}").unwrap();
    assert_eq!(
        dir.roots().unwrap_err().to_string(),
        format!("{shown}:2:2: not valid JSON: a byte that is not UTF-8")
    );
    fs::remove_file(&path).unwrap();
    symlink(temp.path().join("nowhere"), &path).unwrap();
    assert_eq!(dir.roots().unwrap_err().to_string(), format!("cannot read {shown}"));
    fs::remove_file(&path).unwrap();

    let stray = temp.path().join("no good.json");
    fs::write(&stray, "{}").unwrap();
    assert_eq!(
        dir.list().unwrap_err().to_string(),
        format!(
            "{} is not a spec: \"no good\" cannot name a version: only letters, digits, `.`, `_` and `-` (ASCII) are \
             allowed; move it out of the directory of specs",
            stray.display()
        )
    );
}
