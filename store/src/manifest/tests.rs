//! The format against a plain map, and against damage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{EntryKind, Manifest, ManifestBuilder};
use crate::error::ManifestError;
use crate::id::{BlobId, ManifestId};
use crate::relpath::RelPath;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir(u32),
    File(u32, u8),
    Symlink(String),
    Link(String),
}

type Model = BTreeMap<String, Node>;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn content(byte: u8) -> Vec<u8> {
    vec![byte; usize::from(byte)]
}

/// Any tree: what does not fit into what came before is left out.
fn model() -> impl Strategy<Value = Model> {
    let name = prop::sample::select(vec!["a", "b", "ab", "z", "é", "B"]);
    let item = (prop::collection::vec(name, 1..5), 0..5u8, any::<u8>(), 0..0o10000u32);
    prop::collection::vec(item, 0..40).prop_map(|items| {
        let mut model = Model::new();
        for (names, kind, byte, mode) in items {
            let path = names.join("/");
            let below = format!("{path}/");
            let above = (1..names.len()).map(|n| names[..n].join("/"));
            let blocked =
                above.map(|dir| model.get(&dir)).any(|node| !matches!(node, None | Some(Node::Dir(_))));
            if blocked || model.contains_key(&path) || model.keys().any(|key| key.starts_with(&below)) {
                continue;
            }
            let files: Vec<_> = model.iter().filter(|(_, node)| matches!(node, Node::File(..))).collect();
            let node = match kind {
                0 => Node::Dir(mode),
                1 => Node::Symlink(format!("../{byte}")),
                2 if !files.is_empty() => Node::Link(files[usize::from(byte) % files.len()].0.clone()),
                _ => Node::File(mode, byte),
            };
            model.insert(path, node);
        }
        model
    })
}

fn encode<'a>(model: impl Iterator<Item = (&'a String, &'a Node)>) -> Vec<u8> {
    let mut builder = ManifestBuilder::new();
    for (at, node) in model {
        match node {
            Node::Dir(mode) => builder.dir(&path(at), *mode),
            Node::File(mode, byte) => {
                builder.file(&path(at), *mode, u64::from(*byte), BlobId::of(&content(*byte)))
            }
            Node::Symlink(target) => builder.symlink(&path(at), target.as_bytes()),
            Node::Link(to) => builder.hard_link(&path(at), &path(to)),
        }
        .unwrap();
    }
    builder.encode().unwrap()
}

/// Calls everything there is with everything there could be.
fn exercise(manifest: &Manifest) {
    let count = manifest.entry_count();
    for index in (0..count.min(300)).chain([count, u32::MAX]) {
        let Some(entry) = manifest.entry(index) else { continue };
        let _ = (manifest.name(&entry), manifest.blob(&entry), manifest.symlink_target(&entry));
        let _ = (manifest.path(index), manifest.child(&entry, b"a"), manifest.lower_bound(&entry, b"b"));
        let _ = (manifest.children(&entry), entry.link_group(), entry.parent());
    }
    let _ = (manifest.walk().count(), manifest.blobs().take(300).count(), manifest.blob_sizes().len());
    let _ = (manifest.content_bytes(), manifest.has_hard_links(), manifest.encoded_len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_says_what_was_put_in(model in model(), seed in any::<u64>()) {
        let bytes = encode(model.iter());
        // In whatever order the entries come, the encoding is the same.
        let mut shuffled: Vec<_> = model.iter().collect();
        shuffled.sort_by_key(|(at, _)| blake3::keyed_hash(&[seed as u8; 32], at.as_bytes()).to_hex());
        prop_assert_eq!(&encode(shuffled.into_iter()), &bytes);

        let manifest = Manifest::decode(bytes.clone()).unwrap();
        manifest.check().unwrap();
        prop_assert_eq!(ManifestBuilder::of(&manifest).unwrap().encode().unwrap(), bytes);

        let mut expected = model.clone();
        for at in model.keys() {
            for (slash, _) in at.match_indices('/') {
                expected.entry(at[..slash].to_owned()).or_insert(Node::Dir(0o755));
            }
        }
        let mut found = Model::new();
        let (mut sum, mut blobs) = (0, Vec::new());
        for (at, entry) in manifest.walk() {
            prop_assert_eq!(manifest.path(entry.index()).unwrap(), at.clone());
            let parent = manifest.entry(entry.parent()).unwrap();
            prop_assert_eq!(manifest.child(&parent, at.file_name().unwrap()), Some(entry));
            let first = manifest.path(entry.link_group()).unwrap().to_string();
            let node = match (entry.kind(), &expected[&at.to_string()]) {
                (EntryKind::Dir, _) => Node::Dir(entry.mode()),
                (EntryKind::Symlink, _) => {
                    let target = manifest.symlink_target(&entry).unwrap();
                    Node::Symlink(String::from_utf8_lossy(target).into_owned())
                }
                (EntryKind::File, node) => {
                    let to = if let Node::Link(to) = node { to.clone() } else { at.to_string() };
                    let names = 1 + model.values().filter(|node| **node == Node::Link(to.clone())).count();
                    prop_assert_eq!(entry.links() as usize, names);
                    let Some(Node::File(mode, byte)) = model.get(&to) else { panic!("{to} is no file") };
                    prop_assert_eq!((entry.mode(), entry.size()), (*mode, u64::from(*byte)));
                    prop_assert_eq!(manifest.blob(&entry), Some(BlobId::of(&content(*byte))));
                    // All names of a file agree on which of them stands for it.
                    let other = manifest.walk().find(|(other, _)| other.to_string() == to).unwrap().1;
                    prop_assert_eq!(manifest.path(other.link_group()).unwrap().to_string(), first);
                    if entry.link_group() == entry.index() {
                        sum += entry.size();
                        blobs.push(manifest.blob(&entry).unwrap());
                    }
                    node.clone()
                }
            };
            found.insert(at.to_string(), node);
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(manifest.content_bytes(), sum);
        blobs.sort();
        blobs.dedup();
        prop_assert_eq!(manifest.blobs().collect::<Vec<_>>(), blobs);
    }

    #[test]
    fn damage_is_refused_and_never_panics(
        model in model(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let sound = encode(model.iter());
        let mut bytes = sound.clone();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(manifest) = Manifest::decode(bytes.clone()) {
            exercise(&manifest);
            // What passes is another tree in its one encoding, not a second encoding of some tree.
            if manifest.check().is_ok() {
                prop_assert_eq!(ManifestBuilder::of(&manifest).unwrap().encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn small_changes_of_numbers_never_panic(
        model in model(),
        at in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![0u32, 1, 2, 3, 255, 0x7fff_ffff, u32::MAX - 1, u32::MAX]),
    ) {
        let mut bytes = encode(model.iter());
        let word = 2 + at.index(bytes.len() / 4 - 2);
        bytes[word * 4..][..4].copy_from_slice(&value.to_le_bytes());
        if let Ok(manifest) = Manifest::decode(bytes.clone()) {
            exercise(&manifest);
            if manifest.check().is_ok() {
                prop_assert_eq!(ManifestBuilder::of(&manifest).unwrap().encode().unwrap(), bytes);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = |builder: &mut ManifestBuilder, at: &str| builder.file(&path(at), 0o644, 1, BlobId::of(b"x"));
    let twice = |at: &str| ManifestError::Duplicate { path: at.to_owned() };
    let mut builder = ManifestBuilder::new();
    builder.dir(&path("d"), 0o700).unwrap();
    assert_eq!(builder.dir(&path("d"), 0o700), Err(twice("d")));
    assert_eq!(file(&mut builder, ""), Err(twice("the root")));

    type Entries = fn(&mut ManifestBuilder) -> Result<(), ManifestError>;
    let table: [(Entries, ManifestError); 5] = [
        (
            |b| b.file(&path("f"), 0o644, 1, BlobId::of(b"x")).and_then(|()| b.symlink(&path("f"), b"t")),
            twice("f"),
        ),
        (
            |b| b.symlink(&path("d"), b"t").and_then(|()| b.file(&path("d/f"), 0o644, 1, BlobId::of(b"x"))),
            ManifestError::NotADirectory { path: "d".to_owned() },
        ),
        (|b| b.hard_link(&path("l"), &path("f")), ManifestError::DanglingLink { path: "l".to_owned() }),
        (
            |b| b.dir(&path("d"), 0o755).and_then(|()| b.hard_link(&path("l"), &path("d"))),
            ManifestError::DanglingLink { path: "l".to_owned() },
        ),
        (
            |b| b.symlink(&path("s"), b"t").and_then(|()| b.hard_link(&path("l"), &path("s"))),
            ManifestError::DanglingLink { path: "l".to_owned() },
        ),
    ];
    for (fill, expected) in table {
        let mut builder = ManifestBuilder::new();
        fill(&mut builder).unwrap();
        assert_eq!(builder.encode(), Err(expected));
    }
    for target in [&b""[..], b"a\0b"] {
        assert!(ManifestBuilder::new().symlink(&path("s"), target).is_err());
    }
}

#[test]
fn an_unknown_version_or_feature_is_refused() {
    for (at, version, features) in [(8, 9, 0), (12, 1, 9)] {
        let mut bytes = ManifestBuilder::new().encode().unwrap();
        bytes[at] = 9;
        assert_eq!(Manifest::decode(bytes).err(), Some(ManifestError::UnknownFormat { version, features }));
    }
}

/// The bytes of a small tree: whoever changes them changes the format, and every id with it.
#[test]
fn the_format_stays_what_it_is() {
    let model = Model::from([
        ("bin".to_owned(), Node::Dir(0o755)),
        ("bin/run".to_owned(), Node::File(0o755, 3)),
        ("bin/again".to_owned(), Node::Link("bin/run".to_owned())),
        ("link".to_owned(), Node::Symlink("bin/run".to_owned())),
    ]);
    let bytes = encode(model.iter());
    assert_eq!(
        bytes.len(),
        64 + 5 * 32 + 32 + "bin".len() + "link".len() + "bin/run".len() + "againrun".len()
    );
    assert_eq!(
        ManifestId::of(&bytes).to_hex(),
        "7682f583f433f4a81ee904b3396870de4aff26b1fcf67e96303a7df21ea66a1b"
    );
}
