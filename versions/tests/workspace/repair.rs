//! What a check found damaged comes back from its sources, or is told lost.

use std::fs;
use std::sync::atomic::AtomicBool;

use cvs_store::{Fsck, FsckReport};
use cvs_versions::{RepairOptions, Repaired, Workspace};
use serde_json::json;

use super::{Bench, blob_of, damage};

fn fsck(ws: &Workspace, quarantine: bool) -> FsckReport {
    let fsck = Fsck {
        store: ws.store(),
        roots: ws.roots(),
        quarantine,
        clear_index: false,
        progress: &|_| {},
        cancel: &AtomicBool::new(false),
    };
    fsck.run().unwrap()
}

#[test]
fn every_object_has_its_own_fate() {
    let bench = Bench::new();
    let (kept, gone) = (bench.file("kept.pth", b"kept"), bench.file("gone.pth", b"gone"));
    let models = vec![
        json!({"source": kept, "target_path": "models/vae/kept.pth"}),
        json!({"source": gone, "target_path": "models/vae/gone.pth"}),
    ];
    bench.create("v", &["alpha"], models).unwrap();
    bench.create("w", &["beta"], Vec::new()).unwrap();
    let stray = bench.ws.store().begin("stray").unwrap();
    stray.put_bytes(b"stray").unwrap();
    stray.commit().unwrap();
    drop(stray);
    bench.push("alpha", &[("__init__.py", "alpha 2\n")]);
    fs::remove_file(&gone).unwrap();
    let before = fs::read(bench.spec_file("v")).unwrap();
    for bytes in [b"kept".as_slice(), b"gone", b"alpha 1\n", b"core nodes\n", b"stray"] {
        damage(&blob_of(&bench.ws, bytes));
    }
    let hex = bench.locked("w").custom_nodes[0].locked.manifest.unwrap().to_string();
    damage(&bench.ws.store().home().join("objects/manifest").join(&hex[..2]).join(&hex[2..]));

    let found = fsck(&bench.ws, false);
    let report = bench.ws.repair(&found, &RepairOptions::default()).unwrap();
    let lost = report.objects.iter().filter(|o| matches!(o.outcome, Repaired::Lost { .. })).count();
    assert_eq!((found.damage.len(), lost), (6, 5), "what was not set aside is not brought");

    let found = fsck(&bench.ws, true);
    let report = bench.ws.repair(&found, &RepairOptions::default()).unwrap();
    assert!(!report.is_whole() && report.new_bytes > 0);
    for repaired in &report.objects {
        let expected = match repaired.object {
            cvs_store::ObjectRef::Blob(id) if id == cvs_store::BlobId::of(b"gone") => Repaired::Lost {
                reasons: vec![format!(
                    "model models/vae/gone.pth: opening {}: No such file or directory (os error 2)",
                    gone.display()
                )],
            },
            cvs_store::ObjectRef::Blob(id) if id == cvs_store::BlobId::of(b"stray") => Repaired::Unneeded,
            _ => Repaired::Restored,
        };
        assert_eq!(repaired.outcome, expected, "{}", repaired.object);
    }
    assert_eq!(fs::read(bench.spec_file("v")).unwrap(), before);

    // The file is back: the next round brings the last one.
    bench.file("gone.pth", b"gone");
    let found = fsck(&bench.ws, true);
    assert_eq!(found.damage.len(), 1);
    assert!(bench.ws.repair(&found, &RepairOptions::default()).unwrap().is_whole());
    assert_eq!(fsck(&bench.ws, false).damage, []);
}
