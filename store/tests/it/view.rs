//! Views: what grafts become together.

use cvs_store::{
    BlobId, ComposeError, EntryKind, Graft, LowerId, ManifestBuilder, RelPath, Transaction, View,
    content_mtime,
};

use crate::support::{Home, path};

/// `a/b` is a file with its own path as content, `a/b/` a directory, `a/b@` a symlink.
fn graft(txn: &Transaction, at: &str, label: &str, entries: &[&str]) -> Graft {
    let mut builder = ManifestBuilder::new();
    for entry in entries {
        if let Some(dir) = entry.strip_suffix('/') {
            builder.dir(&path(dir), 0o755).unwrap();
        } else if let Some(link) = entry.strip_suffix('@') {
            builder.symlink(&path(link), b"target").unwrap();
        } else {
            let blob = txn.put_bytes(entry.as_bytes()).unwrap();
            builder.file(&path(entry), 0o644, entry.len() as u64, blob).unwrap();
        }
    }
    Graft { path: path(at), manifest: txn.put_manifest(builder).unwrap(), label: label.to_owned() }
}

/// Walks a view by position, and checks on the way that all that it says of an entry agrees.
fn walk(view: &View, dir: LowerId, at: &RelPath, found: &mut Vec<String>) {
    let mut previous = None;
    let mut dirs = 0;
    for position in 0..view.child_count(dir) {
        let (name, id) = view.child_at(dir, position).unwrap();
        assert!(previous < Some(name), "{at}: sorted and unique");
        previous = Some(name);
        let inside = at.join(name).unwrap();
        assert_eq!(view.lookup(dir, name), Some(id));
        assert_eq!(view.lower_bound(dir, name), position);
        assert_eq!(view.path(id), Some(inside.clone()));
        assert_eq!(view.parent(id), Some(dir), "{inside}");
        assert_eq!(view.resolve(&inside), Some(id));
        assert!(id.0 < view.id_limit());
        let entry = view.entry(id).unwrap();
        match entry.kind {
            EntryKind::Dir => {
                dirs += 1;
                found.push(format!("{inside}/"));
                walk(view, id, &inside, found);
            }
            EntryKind::File => {
                assert_eq!(entry.mtime, content_mtime(&entry.blob.unwrap()));
                found.push(inside.to_string());
            }
            EntryKind::Symlink => {
                assert_eq!(view.symlink_target(id), Some(&b"target"[..]));
                found.push(format!("{inside}@"));
            }
        }
    }
    assert_eq!(view.child_at(dir, view.child_count(dir)), None);
    assert_eq!(view.entry(dir).unwrap().links, dirs + 2, "{at}");
}

fn list(view: &View) -> Vec<String> {
    let mut found = Vec::new();
    walk(view, view.root(), &RelPath::root(), &mut found);
    found
}

type Grafts = &'static [(&'static str, &'static str, &'static [&'static str])];

#[test]
fn directories_merge() {
    let table: [(Grafts, &[&str]); 6] = [
        (&[], &[]),
        (
            &[("", "core", &["main.py", "models/vae/put_here"])],
            &["main.py", "models/", "models/vae/", "models/vae/put_here"],
        ),
        (
            &[("", "core", &["custom_nodes/x.py", "main.py"]), ("custom_nodes/N", "N", &["n.py", "lib/"])],
            &[
                "custom_nodes/",
                "custom_nodes/N/",
                "custom_nodes/N/lib/",
                "custom_nodes/N/n.py",
                "custom_nodes/x.py",
                "main.py",
            ],
        ),
        (&[("a/b/c", "deep", &["f"])], &["a/", "a/b/", "a/b/c/", "a/b/c/f"]),
        (
            &[("", "core", &["m/a/1"]), ("m/b", "N", &["2"]), ("", "models", &["m/a/3", "m/b/4", "m/c@"])],
            &["m/", "m/a/", "m/a/1", "m/a/3", "m/b/", "m/b/2", "m/b/4", "m/c@"],
        ),
        (&[("", "one", &["d/"]), ("", "two", &["d/"]), ("d", "three", &["e/f"])], &["d/", "d/e/", "d/e/f"]),
    ];
    for (grafts, expected) in table {
        let home = Home::new();
        let txn = home.store.begin("view").unwrap();
        let grafts: Vec<Graft> =
            grafts.iter().map(|(at, label, entries)| graft(&txn, at, label, entries)).collect();
        txn.commit().unwrap();
        let view = View::compose(&home.store, &grafts).unwrap();
        assert_eq!(list(&view), expected);
        assert_eq!(view.id(), View::id_of(&grafts));
        assert_eq!(view.parent(view.root()), Some(view.root()));
        for wrong in [view.id_limit(), u32::MAX] {
            assert_eq!(view.entry(LowerId(wrong)), None);
            assert_eq!(view.child_count(LowerId(wrong)), 0);
        }
    }
}

#[test]
fn anything_else_twice_is_a_conflict_of_two_labels() {
    let table: [(Grafts, &str); 6] = [
        (&[("", "core", &["f"]), ("", "models", &["f"])], "core and models both have f"),
        (&[("", "core", &["d/f"]), ("", "models", &["d/f/g"])], "core and models both have d/f"),
        (&[("", "core", &["n"]), ("n", "node N", &["x"])], "core and node N both have n"),
        (&[("", "core", &["n@"]), ("n/deep", "node N", &["x"])], "core and node N both have n"),
        (&[("n", "node A", &["x"]), ("n", "node B", &["x"])], "node A and node B both have n/x"),
        (&[("n/x/y", "late", &["z"]), ("n", "early", &["x"])], "late and early both have n/x"),
    ];
    for (grafts, expected) in table {
        let home = Home::new();
        let txn = home.store.begin("view").unwrap();
        let grafts: Vec<Graft> =
            grafts.iter().map(|(at, label, entries)| graft(&txn, at, label, entries)).collect();
        txn.commit().unwrap();
        let conflict = View::compose(&home.store, &grafts).err().unwrap();
        assert!(matches!(conflict, ComposeError::Conflict { .. }));
        assert_eq!(conflict.to_string(), expected);
    }
}

#[test]
fn the_time_of_a_directory_moves_with_its_entries() {
    let home = Home::new();
    let txn = home.store.begin("view").unwrap();
    let core = graft(&txn, "", "core", &["custom_nodes/x.py"]);
    let node = graft(&txn, "custom_nodes/A", "A", &["a.py"]);
    let renamed = Graft { path: path("custom_nodes/B"), ..node.clone() };
    txn.commit().unwrap();
    let time = |grafts: &[Graft]| {
        let view = View::compose(&home.store, grafts).unwrap();
        view.entry(view.resolve(&path("custom_nodes")).unwrap()).unwrap().mtime
    };
    let times = [
        time(std::slice::from_ref(&core)),
        time(&[core.clone(), node.clone()]),
        time(&[core.clone(), renamed]),
    ];
    assert!(times[0] != times[1] && times[1] != times[2] && times[0] != times[2], "{times:?}");
    assert_eq!(times[1], time(&[core, node]));
}

#[test]
fn hard_links_stay_one_file() {
    let home = Home::new();
    let txn = home.store.begin("view").unwrap();
    let blob = txn.put_bytes(b"x").unwrap();
    let mut builder = ManifestBuilder::new();
    builder.file(&path("a"), 0o644, 1, blob).unwrap();
    builder.hard_link(&path("d/b"), &path("a")).unwrap();
    let manifest = txn.put_manifest(builder).unwrap();
    txn.commit().unwrap();
    let grafts = ["one", "two"].map(|at| Graft { path: path(at), manifest, label: at.to_owned() });
    let view = View::compose(&home.store, &grafts).unwrap();
    let id = |at: &str| view.resolve(&path(at)).unwrap();
    assert_eq!(view.link_group(id("one/d/b")), view.link_group(id("one/a")));
    assert_ne!(view.link_group(id("one/a")), view.link_group(id("two/a")));
    assert_eq!(view.entry(id("one/a")).unwrap().links, 2);
    assert_eq!(view.entry(id("two/d/b")).unwrap().blob, Some(BlobId::of(b"x")));
}
