//! The lock in its document: written into the person's text, read back, kept whole, and compared with the spec.

use cvs_store::{BlobId, ManifestId, RelPath, ViewId};
use cvs_versions::spec::{
    Lock, LockedModel, LockedNode, LockedPython, LockedRepo, LockedSource, PythonRequest, ReadOptions, Spec,
    SpecDocument, VersionId,
};
use cvs_versions::{Origin, SpecError};
use serde_json::{Map, Value, json};

const TEXT: &str = r#"{
    "version_id": "v",   "schema_version": 2,
    "comfy": {"ref": "master", "repo": "https://h/o/ComfyUI"},
    "custom_nodes": [
        {"repo": "https://h/o/A"},
        {"repo": "https://h/o/B", "commit": "main"}
    ],
    "models": [ { "source": "hf://o/r/vae/x.pth", "my-note": 1.50 } ],
    "note": "caf\u00e9"
}
"#;

fn parse(text: &str) -> Result<SpecDocument, SpecError> {
    SpecDocument::parse(text.to_owned(), Origin::Named("v.json".to_owned()), None, ReadOptions::default())
}

fn repo(repo: &str, requested: Option<&str>, digit: &str) -> LockedRepo {
    LockedRepo {
        repo: repo.to_owned(),
        requested: requested.map(str::to_owned),
        commit: Some(digit.repeat(40)),
        manifest: Some(ManifestId::from_bytes([1; 32])),
        ..LockedRepo::default()
    }
}

fn lock() -> Lock {
    let node = |name: &str, locked: LockedRepo| LockedNode {
        installed: None,
        name: name.to_owned(),
        path: RelPath::new(format!("custom_nodes/{name}")).unwrap(),
        locked,
    };
    let mut lock = Lock::new(repo("https://h/o/ComfyUI", Some("master"), "a"));
    lock.custom_nodes = vec![
        node("A", repo("https://h/o/A", None, "b")),
        node("B", repo("https://h/o/B", Some("main"), "c")),
    ];
    lock.models = vec![LockedModel {
        path: RelPath::new("models/vae/x.pth").unwrap(),
        source: "hf://o/r/vae/x.pth".to_owned(),
        revision: None,
        size: 3,
        sha256: [2; 32],
        blake3: BlobId::from_bytes([3; 32]),
        md5: None,
        etag: Some("\"e\"".to_owned()),
        extra: Map::new(),
    }];
    lock.models_manifest = Some(ManifestId::from_bytes([4; 32]));
    lock.python = Some(LockedPython {
        request: PythonRequest::default(),
        sources: ["core", "custom_nodes/A", "custom_nodes/B"].map(source).to_vec(),
        interpreter: None,
        pylock: Some(json!({ "packages": [{ "name": "numpy", "version": "2.0" }] })),
        manifest: Some(ManifestId::from_bytes([6; 32])),
        extra: Map::new(),
    });
    lock.view = Some(ViewId::from_bytes([5; 32]));
    lock
}

fn source(name: &str) -> LockedSource {
    LockedSource {
        source: name.to_owned(),
        installs: true,
        requirements: None,
        bytecode: Some(ManifestId::from_bytes([7; 32])),
    }
}

#[test]
fn the_lock_goes_into_the_text_and_nothing_else_moves() {
    let mut document = parse(TEXT).unwrap();
    assert_eq!(stale(document.spec()), ["the lock: missing"]);
    document.set_lock(Some(&lock())).unwrap();
    let kept = TEXT.strip_suffix("\n}\n").unwrap();
    let written = document.text().strip_prefix(kept).expect("the rest of the text has moved");
    assert!(
        written.starts_with(",\n    \"lock\": {\n        \"format\": 2,\n        \"comfy\": {\n"),
        "{written}"
    );
    let read = parse(document.text()).unwrap();
    assert_eq!(read.spec().lock, Some(lock()));
    assert_eq!(stale(read.spec()), [""; 0]);

    let with_lock = document.text().to_owned();
    let mut relocked = lock();
    relocked.custom_nodes[0].locked.commit = Some("d".repeat(40));
    document.set_lock(Some(&relocked)).unwrap();
    assert_eq!(document.text(), with_lock.replace(&"b".repeat(40), &"d".repeat(40)));
    document.set_lock(None).unwrap();
    assert_eq!(document.text(), TEXT);
}

#[test]
fn the_format_of_the_lock_is_this() {
    let repo = |repo: &str, digit: &str| (repo.to_owned(), digit.repeat(40), "01".repeat(32));
    let (comfy, a, b) =
        (repo("https://h/o/ComfyUI", "a"), repo("https://h/o/A", "b"), repo("https://h/o/B", "c"));
    assert_eq!(
        serde_json::to_value(lock()).unwrap(),
        json!({
            "format": 2,
            "comfy": { "repo": comfy.0, "requested": "master", "commit": comfy.1, "manifest": comfy.2 },
            "custom_nodes": [
                { "name": "A", "path": "custom_nodes/A", "repo": a.0, "commit": a.1, "manifest": a.2 },
                { "name": "B", "path": "custom_nodes/B", "repo": b.0, "requested": "main", "commit": b.1, "manifest": b.2 },
            ],
            "models": [{
                "path": "models/vae/x.pth", "source": "hf://o/r/vae/x.pth", "size": 3,
                "sha256": "02".repeat(32), "blake3": "03".repeat(32), "etag": "\"e\"",
            }],
            "models_manifest": "04".repeat(32),
            "python": {
                "request": {},
                "sources": [
                    { "source": "core", "bytecode": "07".repeat(32) },
                    { "source": "custom_nodes/A", "bytecode": "07".repeat(32) },
                    { "source": "custom_nodes/B", "bytecode": "07".repeat(32) },
                ],
                "pylock": { "packages": [{ "name": "numpy", "version": "2.0" }] },
                "manifest": "06".repeat(32),
            },
            "view": "05".repeat(32),
        })
    );
    let manifests: Vec<ManifestId> = lock().manifests().collect();
    let expected = [1, 1, 1, 4, 7, 7, 7, 6].map(|byte| ManifestId::from_bytes([byte; 32]));
    assert_eq!(manifests, expected);
}

#[test]
fn unknown_keys_of_a_lock_are_kept_at_every_level() {
    let mut value = serde_json::to_value(lock()).unwrap();
    value["describe"] = json!({ "manifest": "x" });
    value["comfy"]["describe"] = json!("v0.3");
    value["custom_nodes"][0]["pack"] = json!(7);
    value["models"][0]["mirror"] = json!(null);
    let text = TEXT.replace("\"note\"", &format!("\"lock\": {value},\n    \"note\""));
    let read = parse(&text).unwrap();
    let lock = read.spec().lock.clone().unwrap();
    assert_eq!(lock.custom_nodes[0].locked.extra["pack"], 7);
    assert_eq!(serde_json::to_value(lock).unwrap(), value);
}

#[test]
fn a_damaged_lock_names_the_entry() {
    for (path, bad, place) in [
        ("/comfy/commit", json!("main"), "lock.comfy"),
        ("/comfy/manifest", json!("AA"), "lock.comfy"),
        ("/custom_nodes/1/path", json!("../x"), "lock.custom_nodes[1]"),
        ("/models/0/sha256", json!("00"), "lock.models[0]"),
        ("/models/0/size", json!(-1), "lock.models[0]"),
        ("/models_manifest", json!(1), "lock"),
        ("/format", json!("1"), "lock.format"),
    ] {
        let mut value = serde_json::to_value(lock()).unwrap();
        *value.pointer_mut(path).unwrap() = bad;
        let text = TEXT.replace("\"note\"", &format!("\"lock\": {value},\n    \"note\""));
        match parse(&text) {
            Err(SpecError::Invalid { problems, .. }) => {
                let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
                assert_eq!(places, [place]);
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn an_edit_makes_stale_what_it_touches_and_no_more() {
    let sums = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let node = |index: usize, key: &'static str, value: Value| {
        move |root: &mut Map<String, Value>| root["custom_nodes"][index][key] = value
    };
    let model =
        |key: &'static str, value: Value| move |root: &mut Map<String, Value>| root["models"][0][key] = value;
    type Edit = Box<dyn FnOnce(&mut Map<String, Value>)>;
    let table: Vec<(Edit, Vec<String>)> = vec![
        (Box::new(|root| root["note"] = json!("else")), vec![]),
        (
            Box::new(|root| root["comfy"]["ref"] = json!("dev")),
            vec!["ComfyUI: at dev, was master".to_owned()],
        ),
        (
            Box::new(|root| root["comfy"]["repo"] = json!("https://h/fork")),
            vec!["ComfyUI: from https://h/fork, was https://h/o/ComfyUI".to_owned()],
        ),
        // A name in `commit` and the same name in `ref` are one request.
        (
            Box::new(|root| {
                let node = root["custom_nodes"][1].as_object_mut().unwrap();
                node.shift_remove("commit");
                node.insert("ref".to_owned(), json!("main"));
            }),
            vec![],
        ),
        (
            Box::new(node(1, "commit", json!("c".repeat(40)))),
            vec![format!("node custom_nodes/B: at {}, was main", "c".repeat(40))],
        ),
        (Box::new(node(0, "ref", json!("x"))), vec!["node custom_nodes/A: at x, was HEAD".to_owned()]),
        (
            Box::new(node(0, "name", json!("N"))),
            vec![
                "node custom_nodes/N: moved from custom_nodes/A".to_owned(),
                "node custom_nodes/A: removed".to_owned(),
            ],
        ),
        (
            Box::new(|root| {
                root["custom_nodes"][0]["name"] = json!("N");
                root["custom_nodes"][0]["target_dir"] = json!("custom_nodes/A");
            }),
            vec!["node custom_nodes/A: renamed from A".to_owned()],
        ),
        (
            Box::new(|root| root["custom_nodes"].as_array_mut().unwrap().reverse()),
            vec!["the view: in another order".to_owned()],
        ),
        (
            Box::new(|root| drop(root["custom_nodes"].as_array_mut().unwrap().pop())),
            vec!["node custom_nodes/B: removed".to_owned()],
        ),
        (
            Box::new(|root| {
                root["custom_nodes"].as_array_mut().unwrap().push(json!({"repo": "https://h/C"}))
            }),
            vec!["node custom_nodes/C: added".to_owned()],
        ),
        (Box::new(model("source", json!("https://huggingface.co/o/r/resolve/main/vae/x.pth"))), vec![]),
        (
            Box::new(model("source", json!("hf://o/other/vae/x.pth"))),
            vec!["model models/vae/x.pth: from hf://o/other/vae/x.pth, was hf://o/r/vae/x.pth".to_owned()],
        ),
        (Box::new(model("checksum", json!("02".repeat(32)))), vec![]),
        (
            Box::new(model("checksum", json!("0".repeat(64)))),
            vec![format!("model models/vae/x.pth: {} to be verified", sums("0"))],
        ),
        (
            Box::new(model("target_subdir", json!("loras"))),
            vec![
                "model models/loras/x.pth: moved from models/vae/x.pth".to_owned(),
                "model models/vae/x.pth: removed".to_owned(),
            ],
        ),
        (
            Box::new(|root| drop(root.insert("options".to_owned(), json!({"skip_models": true})))),
            vec!["model models/vae/x.pth: removed".to_owned()],
        ),
        (
            Box::new(|root| drop(root.insert("python_packages".to_owned(), json!(["numpy<2", "six"])))),
            vec!["the Python environment: packages numpy<2, six, was no packages".to_owned()],
        ),
        (
            Box::new(|root| drop(root.insert("env".to_owned(), json!({"COMFY_PYTHON": "python3.12"})))),
            vec!["the Python environment: Python python3.12, was no Python".to_owned()],
        ),
        (
            Box::new(node(1, "install_requirements", json!(false))),
            vec!["the Python environment: other requirements count".to_owned()],
        ),
        (
            Box::new(node(1, "run_install", json!(true))),
            vec!["node custom_nodes/B: install.py was not run".to_owned()],
        ),
        (
            Box::new(|root| drop(root.insert("options".to_owned(), json!({"skip_python": true})))),
            vec!["the Python environment: removed".to_owned()],
        ),
    ];
    for (edit, expected) in table {
        let mut document = parse(TEXT).unwrap();
        document.set_lock(Some(&lock())).unwrap();
        document.edit(edit).unwrap();
        assert_eq!(stale(document.spec()), expected, "{}", document.text());
    }
}

#[test]
fn what_is_pinned_but_not_fetched_is_stale_and_reusable() {
    let mut document = parse(TEXT).unwrap();
    let mut pinned = lock();
    pinned.custom_nodes[0].locked.manifest = None;
    pinned.models.clear();
    pinned.models_manifest = None;
    pinned.python = None;
    pinned.view = None;
    document.set_lock(Some(&pinned)).unwrap();
    let spec = document.spec();
    assert_eq!(
        stale(spec),
        [
            "node custom_nodes/A: not fetched yet",
            "model models/vae/x.pth: added",
            "the models: not fetched yet",
            "the Python environment: not fetched yet",
            "the view: not fetched yet",
        ]
    );
    assert!(!pinned.is_current(spec));
    assert_eq!(pinned.reusable_comfy(&spec.comfy), Some(&pinned.comfy));
    assert_eq!(pinned.reusable_node(&spec.custom_nodes[0]), Some(&pinned.custom_nodes[0]));
    assert_eq!(pinned.reusable_model(&spec.models[0]), None);
    assert_eq!(lock().reusable_model(&spec.models[0]).map(|model| model.size), Some(3));
}

#[test]
fn a_bad_edit_changes_nothing() {
    let mut document = parse(TEXT).unwrap();
    let error = document.edit(|root| root["models"][0]["source"] = json!("nowhere")).unwrap_err();
    assert!(
        error.to_string().starts_with("v.json: models[0].source: found \"nowhere\"; expected "),
        "{error}"
    );
    assert_eq!(document.text(), TEXT);
    // The name of a version changes by cloning it, not by an edit.
    assert!(document.edit(|root| root["version_id"] = json!("w")).is_err());
    let copy = document.clone_as(&VersionId::new("w").unwrap()).unwrap();
    assert_eq!(copy.text(), TEXT.replace("\"version_id\": \"v\"", "\"version_id\": \"w\""));
}

fn stale(spec: &Spec) -> Vec<String> {
    spec.stale().iter().map(ToString::to_string).collect()
}
