//! What each format becomes.

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SHA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn spec(value: &Value) -> Value {
    let format = detect(value).expect("a known format");
    let draft = read(format, value, None).expect("a sound file");
    Value::Object(draft.finish(&crate::spec::VersionId::new("x").unwrap()).0)
}

#[test]
fn every_format_is_known_by_its_content() {
    let manager = json!({ "comfyui": COMMIT, "git_custom_nodes": {}, "pips": {} });
    for (value, format) in [
        (manager.clone(), Some(Format::ManagerSnapshot)),
        (json!({ "custom_nodes": manager }), Some(Format::ManagerSnapshot)),
        (json!({ "basics": {}, "models": [], "custom_nodes": manager }), Some(Format::ComfyLock)),
        (json!({ "models": [], "custom_nodes": manager }), Some(Format::ComfyLock)),
        (json!({ "type": "comfyui-desktop-2-snapshot", "snapshots": [] }), Some(Format::DesktopSnapshot)),
        (json!({ "schema": "distribution-definition/0" }), Some(Format::BuildDefinition)),
        (json!({ "schema": "comfy-build/1", "definition": {} }), Some(Format::BuildDefinition)),
        (json!({ "schema_version": 1, "comfyui": {} }), Some(Format::LockV1)),
        (json!({ "schema_version": 2, "comfy": {} }), Some(Format::Spec)),
        (json!({ "nodes": [], "links": [] }), Some(Format::Workflow)),
        (json!({ "1": { "class_type": "A", "inputs": {} } }), Some(Format::Workflow)),
        (json!({ "x": 1 }), None),
        (json!([]), None),
    ] {
        assert_eq!(detect(&value), format, "{value}");
    }
}

#[test]
fn what_formats_say_becomes_a_spec() {
    let desktop = spec(&json!({ "type": "comfyui-desktop-2-snapshot", "version": 2, "snapshots": [{
        "comfyui": { "ref": "master", "commit": COMMIT, "releaseTag": "v0.3.0" },
        "customNodes": [
            { "type": "cnr", "id": "tidy", "dirName": "Tidy", "version": "1.2.3", "enabled": true },
            { "type": "git", "id": "n", "dirName": "n", "url": "https://h/o/n", "commit": COMMIT, "enabled": false },
            { "type": "file", "id": "one.py" },
        ],
        "pipPackages": { "torch": "2.5.1+cu124", "mine": "file:///x" }, "pythonVersion": "3.12.7" }] }));
    assert_eq!(desktop["comfy"], json!({ "repo": crate::import::draft::CORE, "commit": COMMIT }));
    assert_eq!(
        desktop["custom_nodes"],
        json!([
            { "repo": "registry:tidy", "ref": "1.2.3", "name": "Tidy", "install_requirements": false },
            { "repo": "https://h/o/n", "commit": COMMIT, "name": "n",
              "target_dir": "$COMFY_HOME/custom_nodes/n.disabled", "install_requirements": false },
        ])
    );
    assert_eq!(desktop["python"], json!({ "version": "3.12", "torch_backend": "cu124" }));
    assert_eq!(desktop["python_packages"], json!(["torch==2.5.1+cu124"]));
    assert_eq!(desktop["questions"][0]["name"], "one.py");
    let tag = json!({ "type": "comfyui-desktop-2-snapshot", "snapshots": [{ "comfyui": { "baseTag": "v0.3.64" } }] });
    assert_eq!(spec(&tag)["comfy"]["ref"], "v0.3.64");

    let built = spec(&json!({ "schema": "distribution-definition/0", "baseComfyVersion": "0.3.64",
        "customNodes": [{ "name": "n", "repository": "https://h/o/n", "gitRef": "main" },
            { "name": "t", "id": "tidy", "registryVersion": "1.0.0" }],
        "models": [{ "type": "lora", "filename": "l.safetensors", "sha256": SHA, "sourceUri": "https://h/l" },
            { "type": "vae", "filename": "v.safetensors", "sha256": SHA }],
        "pipDependencies": ["numpy==1.26.4"], "environment": { "pythonVersion": "3.11" } }));
    assert_eq!(built["comfy"]["ref"], "v0.3.64");
    assert_eq!(built["custom_nodes"][1]["repo"], "registry:tidy");
    assert_eq!(
        built["models"],
        json!([{ "source": "https://h/l", "target_path": "models/loras/l.safetensors",
            "checksum": format!("sha256:{SHA}") }])
    );
    assert_eq!(built["questions"][0]["sha256"], SHA);
    // As comfy-cli keeps it, with the folder as the type and a whole `pip freeze`.
    let kept = spec(
        &json!({ "schema": "comfy-build/1", "id": null, "name": "n", "description": "", "definition": {
        "schema": "distribution-definition/0", "baseComfyVersion": "v0.3.64",
        "models": [{ "type": "loras/Sub", "filename": "l.safetensors", "sourceUri": "https://h/l", "source": "link" }],
        "customNodes": [{ "gitRef": COMMIT, "localPath": "n", "name": "n", "repository": "https://h/o/n", "source": "git" }],
        "pipDependencies": "# Captured by comfy-cli.\n\ntorch==2.8.0+cu128\nb @ https://h/b.whl\n-e /x\n",
        "environment": { "os": "Linux", "arch": "x86_64", "pythonVersion": "3.12.7", "torch": "2.8.0" } } }),
    );
    assert_eq!(kept["comfy"]["ref"], "v0.3.64");
    assert_eq!(kept["models"][0]["target_path"], "models/loras/Sub/l.safetensors");
    assert_eq!(kept["custom_nodes"][0]["commit"], COMMIT);
    assert_eq!(kept["python"], json!({ "version": "3.12", "torch_backend": "cu128" }));
    assert_eq!(kept["python_packages"], json!(["torch==2.8.0+cu128", "b @ https://h/b.whl"]));
    assert_eq!(kept.get("questions"), None);

    let manager = spec(&json!({ "comfyui": COMMIT,
        "file_custom_nodes": [{ "filename": "websocket_image_save.py" }, { "filename": "one.py" }],
        "pips": { "a==1": "", "b": "git+https://h/b@v1", "c": "file:///x" } }));
    assert_eq!(manager["python_packages"], json!(["a==1", "b @ git+https://h/b@v1"]));
    assert_eq!(manager["questions"].as_array().map(Vec::len), Some(1));
    assert_eq!(manager["questions"][0]["name"], "one.py");

    let lock = spec(&json!({ "basic": {}, "models": [
        { "model": "c.safetensors", "url": "https://h/c", "paths": [{ "path": "models/checkpoints/c.safetensors" }],
          "hashes": [{ "hash": "0123456789", "type": "AutoV2" }, { "hash": SHA, "type": "SHA256" }], "type": "checkpoint" }],
        "custom_nodes": { "comfyui": COMMIT, "git_custom_nodes": { "?": { "hash": COMMIT } }, "cnr_custom_nodes": { "t": "nightly" } } }));
    assert_eq!(lock["models"][0]["target_path"], "models/checkpoints/c.safetensors");
    assert_eq!(lock["models"][0]["checksum"], format!("sha256:{SHA}"));
    assert_eq!(lock["questions"].as_array().map(Vec::len), Some(2));
    // As comfy-cli begins one.
    let bare = spec(&json!({ "basics": { "name": null, "updated_at": "2026-08-21T20:16:02" }, "models": [
        { "model": "v", "url": "https://h/v", "paths": [], "hash": null, "type": "vae" }], "custom_nodes": [] }));
    assert_eq!(bare["models"], json!([{ "source": "https://h/v", "target_path": "models/vae/v" }]));

    let old = spec(
        &json!({ "schema_version": 1, "version_name": "x", "comfyui": { "repo": "https://h/o/c", "commit": COMMIT },
        "custom_nodes": [{ "name": "N", "repo": "https://h/o/n", "commit": COMMIT, "path": "/old/custom_nodes/n-dir" }],
        "models": [{ "name": "m", "source": "https://h/m.bin", "target_path": "/old/models/vae/m.bin", "checksum": format!("sha256:{SHA}") }],
        "python": { "version": "3.11.9", "packages": [{ "name": "a", "version": "1" }, { "name": "b", "url": "https://h/b.whl" }] } }),
    );
    assert_eq!(old["comfy"], json!({ "repo": "https://h/o/c", "commit": COMMIT }));
    assert_eq!(old["custom_nodes"][0]["name"], "n-dir");
    assert_eq!(old["models"][0]["target_path"], "models/vae/m.bin");
    assert_eq!(old["python_packages"], json!(["a==1", "b @ https://h/b.whl"]));
}

#[test]
fn no_secret_of_a_file_is_kept_or_told() {
    let value = json!({ "comfyui": COMMIT, "git_custom_nodes": {
        "https://me:S3CRET@h/o/n": { "hash": COMMIT },
        "https://S3CRET@h/o/unpinned": {},
        "git+ssh://git:S3CRET@h/o/odd": {},
        "https://S3CRET@": { "hash": COMMIT },
    }, "pips": { "p @ git+https://S3CRET@h/p@v1": "", "-e git+https://S3CRET@h/e": "" } });
    let draft = read(Format::ManagerSnapshot, &value, None).expect("a sound file");
    let (spec, report) = draft.finish(&crate::spec::VersionId::new("x").unwrap());
    assert_eq!(spec["custom_nodes"][0]["repo"], "https://h/o/n");
    assert_eq!(spec["python_packages"], json!(["p @ git+https://h/p@v1"]));
    let told: Vec<_> = report.left_out.iter().map(|left| left.path.display().to_string()).collect();
    assert_eq!(told[0], "https://h/o/n");
    let lock = json!({ "models": [
        { "model": "m", "url": "https://h/m?token=S3CRET&a=1" }, { "model": "m", "url": "https://other/m" },
    ] });
    let lock = read(Format::ComfyLock, &lock, None).expect("a sound file");
    let (lock, more) = lock.finish(&crate::spec::VersionId::new("x").unwrap());
    assert_eq!(
        lock["models"],
        json!([{ "source": "https://h/m?a=1", "target_path": "models/checkpoints/m" }])
    );
    let old = json!({ "models": [{ "source": "https://civitai.com/api/download/models/1?token=S3CRET" }],
        "python": { "packages": [{ "name": "p", "url": "git+https://S3CRET@h/p@v1 ; python_version > '3'" }] } });
    let old = read(Format::LockV1, &old, None).expect("a sound file");
    let (old, told) = old.finish(&crate::spec::VersionId::new("x").unwrap());
    assert_eq!(
        old["models"],
        json!([{ "source": "https://civitai.com/api/download/models/1", "target_path": "models/checkpoints/1" }])
    );
    assert_eq!(old["python_packages"], json!(["p @ git+https://h/p@v1 ; python_version > '3'"]));
    let reasons: Vec<_> = told.left_out.iter().map(|left| left.reason.as_str()).collect();
    let reason = "the password or token in its address: specs have none; ";
    assert_eq!(
        reasons,
        ["set CIVITAI_TOKEN to yours", "git's credential helper is asked for yours"]
            .map(|instead| format!("{reason}{instead}"))
    );
    // What is left out is told.
    let reasons: Vec<_> = more.left_out.iter().map(|left| left.reason.as_str()).collect();
    assert_eq!(reasons[1..], ["https://h/m?a=1 comes before it at models/checkpoints/m"]);
    let all = format!("{spec:?} {report:?} {lock:?} {more:?} {old:?} {told:?}");
    assert!(!all.contains("S3CRET"), "{all}");
}

#[test]
fn what_is_wrong_is_named() {
    for (format, value, said) in [
        (
            Format::ManagerSnapshot,
            json!({ "git_custom_nodes": [] }),
            "git_custom_nodes: an object is expected",
        ),
        (
            Format::ManagerSnapshot,
            json!({ "file_custom_nodes": [{}] }),
            "file_custom_nodes: a `filename` is expected",
        ),
        (Format::ComfyLock, json!({ "models": [{}] }), "models[0]: a `model` is expected"),
        (Format::DesktopSnapshot, json!({}), "snapshots: it has none"),
        (
            Format::DesktopSnapshot,
            json!({ "snapshots": [{ "customNodes": [{ "type": "cnr" }] }] }),
            "snapshots[0].customNodes[0]: an `id` is expected",
        ),
        (
            Format::BuildDefinition,
            json!({ "customNodes": [{}] }),
            "customNodes[0]: a `repository` or an `id` is expected",
        ),
        (Format::LockV1, json!({ "custom_nodes": [{}] }), "custom_nodes[0]: a `repo` is expected"),
        (Format::LockV1, json!([]), "an object is expected"),
    ] {
        assert_eq!(read(format, &value, None).err().as_deref(), Some(said), "{value}");
    }
}
