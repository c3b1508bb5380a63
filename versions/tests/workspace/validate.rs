//! Validation: every state of every part.

use std::fs;

use cvs_versions::{PartState, ValidateOptions};
use serde_json::json;

use super::{Bench, blob_of, damage, vid};

/// `PART: STATE (DETAIL)` for each part.
fn states(bench: &Bench, options: &ValidateOptions<'_>) -> Vec<String> {
    let report = bench.ws.validate(&vid("v"), options).unwrap();
    assert_eq!(report.is_ok(), report.parts.iter().all(|part| part.state == PartState::Present));
    let line = |part: &cvs_versions::PartReport| match &part.detail {
        Some(detail) => format!("{}: {} ({detail})", part.part, part.state),
        None => format!("{}: {}, {} files, {} bytes", part.part, part.state, part.files, part.bytes),
    };
    // The spec's size is of no interest here.
    report.parts.iter().skip(1).map(line).collect()
}

const SHALLOW: fn() -> ValidateOptions<'static> = ValidateOptions::default;

fn deep() -> ValidateOptions<'static> {
    ValidateOptions { deep: true, ..Default::default() }
}

fn version() -> Bench {
    let bench = Bench::new();
    let model = json!({"source": bench.file("m.pth", b"model"), "target_path": "models/vae/m.pth"});
    bench.create("v", &["alpha"], vec![model]).unwrap();
    bench
}

const SOUND: [&str; 4] = [
    "core: present, 2 files, 25 bytes",
    "node alpha: present, 2 files, 15 bytes",
    "model models/vae/m.pth: present, 1 files, 5 bytes",
    "view: present, 5 files, 45 bytes",
];

#[test]
fn missing_and_damaged_blobs_are_told_and_brought_when_asked() {
    let bench = version();
    assert_eq!(states(&bench, &SHALLOW()), SOUND);
    assert_eq!(states(&bench, &deep()), SOUND);

    fs::remove_file(blob_of(&bench.ws, b"shared\n")).unwrap();
    let found = states(&bench, &SHALLOW());
    assert_eq!(found[1], "node alpha: missing (1 of 2 files: shared.py (missing))");
    assert_eq!((&found[0][..], &found[2][..]), (SOUND[0], SOUND[2]));
    assert_eq!(states(&bench, &ValidateOptions { fetch: true, ..deep() }), SOUND);

    damage(&blob_of(&bench.ws, b"model"));
    damage(&blob_of(&bench.ws, b"core nodes\n"));
    assert_eq!(states(&bench, &SHALLOW()), SOUND);
    let found = states(&bench, &deep());
    assert_eq!(found[0], "core: damaged (1 of 2 files: nodes.py (damaged))");
    let model = cvs_store::BlobId::of(b"model");
    assert_eq!(found[2], format!("model models/vae/m.pth: damaged (blob {model})"));
    assert!(bench.ws.validate(&vid("v"), &deep()).unwrap().is_damaged());
}

#[test]
fn what_was_edited_or_never_fetched_is_told() {
    let bench = version();
    bench.edit("v", |spec| {
        spec["custom_nodes"][0]["ref"] = "master".into();
        let beta = json!({"name": "beta", "repo": bench.url("beta")});
        spec["custom_nodes"].as_array_mut().unwrap().push(beta);
    });
    assert_eq!(
        states(&bench, &SHALLOW()),
        [
            SOUND[0],
            "node alpha: stale (at master, was HEAD)",
            "node beta: stale (added)",
            SOUND[2],
            "view: stale (parts of it are stale)",
        ]
    );
    bench.edit("v", |spec| drop(spec.as_object_mut().unwrap().remove("lock")));
    assert_eq!(
        states(&bench, &SHALLOW()),
        [
            "core: missing (never locked)",
            "node alpha: missing (never locked)",
            "node beta: missing (never locked)",
            "model models/vae/m.pth: missing (never locked)",
            "python: missing (never locked)",
            "view: missing (never locked)",
        ]
    );
}

#[test]
fn a_missing_or_damaged_manifest_is_told() {
    let bench = version();
    let id = bench.locked("v").comfy.manifest.unwrap();
    let hex = id.to_string();
    let path = bench.ws.store().home().join("objects/manifest").join(&hex[..2]).join(&hex[2..]);
    damage(&path);
    let damaged = format!("manifest {id} is damaged: its bytes have another hash");
    let found = states(&bench, &SHALLOW());
    assert_eq!(
        (&found[0], &found[3]),
        (&format!("core: damaged ({damaged})"), &format!("view: damaged ({damaged})"))
    );
    fs::remove_file(path).unwrap();
    let missing = format!("manifest {id} is not in the store");
    let found = states(&bench, &SHALLOW());
    assert_eq!(
        (&found[0], &found[3]),
        (&format!("core: missing ({missing})"), &format!("view: missing ({missing})"))
    );
    // A damaged manifest is put anew without a word.
    assert!(bench.lock("v").unwrap().unchanged);
    assert_eq!(states(&bench, &deep()), SOUND);
}

#[test]
fn a_spec_that_cannot_be_read_is_a_damaged_part() {
    let bench = version();
    fs::write(bench.spec_file("v"), "{").unwrap();
    let report = bench.ws.validate(&vid("v"), &SHALLOW()).unwrap();
    assert_eq!(report.parts.len(), 1);
    assert_eq!(
        (report.parts[0].part.to_string(), report.parts[0].state),
        ("spec".to_owned(), PartState::Damaged)
    );
    assert!(bench.ws.validate(&vid("w"), &SHALLOW()).is_err());
}
