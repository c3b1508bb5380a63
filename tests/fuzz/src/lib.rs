//! What comes from outside, each parser as a function of bytes: it returns whatever the bytes are, or panics and has
//! found something.
//!
//! A function asks more of a parser than to return. What it takes must be what it gives again: an edit of nothing
//! leaves every byte of a spec, a manifest has one encoding, a prompt that was made can be read. What it refuses must
//! be the file's fault. And [`hold`] bounds the memory that one input may cost. The programs in `targets/` give these
//! functions to libFuzzer (`cargo xtask fuzz`); the test of this crate gives them the inputs in `corpus/`, which are
//! samples of every format and each input that ever failed.

mod sys;

use std::cell::OnceCell;
use std::io::{Cursor, Write};
use std::sync::LazyLock;

use cvs_store::{Manifest, ManifestBuilder, Store, check_name};
use cvs_versions::source::{SourceError, SourceOptions, archive as zip};
use cvs_versions::spec::{ModelSource, ReadOptions, SpecDocument, VersionId};
use cvs_versions::workflow::{Document, ObjectInfo};
use cvs_versions::{Origin, import, model_file};
use serde_json::{Map, Value, json};

/// A parser as a function of bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its program and of its directory in `corpus/`.
pub const TARGETS: [(&str, Target); 10] = [
    ("archive", archive),
    ("gguf", gguf),
    ("manifest", manifest),
    ("pickle", pickle),
    ("picture", picture),
    ("safetensors", safetensors),
    ("snapshot", snapshot),
    ("source", source),
    ("spec", spec),
    ("workflow", workflow),
];

/// Bytes that one input may have allocated at one time. An input is small; what a parser allows itself is not.
pub const MEMORY: usize = 192 << 20;

/// Runs `target`, and panics when it takes more than [`MEMORY`]. One at a time in a process.
pub fn hold(target: Target, bytes: &[u8]) {
    let before = sys::begin();
    target(bytes);
    let peak = sys::peak().saturating_sub(before);
    assert!(peak <= MEMORY, "{} bytes of input took {peak} bytes of memory", bytes.len());
}

/// A version's spec with its lock.
pub fn spec(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for lenient in [false, true] {
        let origin = Origin::Named("a spec".to_owned());
        let read = SpecDocument::parse(text.to_owned(), origin, None, ReadOptions { lenient });
        let Ok(mut document) = read else { continue };
        document.edit(|_| {}).expect("an edit of nothing leaves a valid spec");
        assert_eq!(document.text(), text, "an edit of nothing changes nothing");
        let lock = document.spec().lock.clone();
        document.set_lock(lock.as_ref()).expect("a lock that was read can be written");
        assert_eq!(document.spec().lock, lock, "a lock is read as it was written");
        let copy = document.clone_as(&id("copy")).expect("a valid spec is valid under another name");
        assert_eq!(copy.spec().lock, lock, "a clone has the same lock");
        document.set_lock(None).expect("a spec is valid without its lock");
    }
}

/// A manifest of the store.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes.to_vec()) else { return };
    let checked = manifest.check().is_ok();
    let count = manifest.entry_count();
    for index in (0..count.min(64)).chain([count, u32::MAX]) {
        let Some(entry) = manifest.entry(index) else { continue };
        let _ = (manifest.name(&entry), manifest.blob(&entry), manifest.symlink_target(&entry));
        let _ = (manifest.path(index), manifest.child(&entry, b"a"), manifest.children(&entry));
    }
    let _ = (manifest.walk().count(), manifest.blobs().take(64).count(), manifest.content_bytes());
    if checked {
        let again = ManifestBuilder::of(&manifest).and_then(ManifestBuilder::encode);
        assert_eq!(again.as_deref(), Ok(bytes), "a tree has one encoding");
    }
}

/// A model in safetensors.
pub fn safetensors(bytes: &[u8]) {
    model(bytes, "model.safetensors");
}

/// A model in GGUF.
pub fn gguf(bytes: &[u8]) {
    model(bytes, "model.gguf");
}

/// A checkpoint of torch, plain or in a zip file.
pub fn pickle(bytes: &[u8]) {
    model(bytes, "model.ckpt");
}

fn model(bytes: &[u8], name: &str) {
    let info = model_file::inspect(&mut Cursor::new(bytes), name)
        .expect("bytes in memory can be read; what is wrong with them is a finding");
    let shown: usize = info.findings.iter().map(|finding| finding.to_string().len()).sum();
    let listed = serde_json::to_string(&info).map_or(0, |text| text.len());
    assert!(shown.max(listed) <= MEMORY / 4, "{} bytes are described by {listed}", bytes.len());
}

/// A picture or video that may hold a workflow.
pub fn picture(bytes: &[u8]) {
    let _ = Document::read(bytes);
    described(bytes);
}

/// A snapshot, a lock or a definition of another tool, in JSON or YAML.
pub fn snapshot(bytes: &[u8]) {
    described(bytes);
}

fn described(bytes: &[u8]) {
    let Ok(document) = import::describe(&mut Cursor::new(bytes), &id("imported")) else { return };
    let origin = document.origin().clone();
    let again = SpecDocument::parse(document.text().to_owned(), origin, None, ReadOptions::default());
    let again = again.expect("a spec that was made can be read");
    assert_eq!(again.root(), document.root(), "a spec is read as it was made");
}

/// A workflow in JSON, converted with what a server says about its classes.
pub fn workflow(bytes: &[u8]) {
    static INFO: LazyLock<ObjectInfo> = LazyLock::new(|| {
        let text = include_str!("../../../versions/tests/data/workflows/object_info.json");
        let classes: Map<String, Value> = serde_json::from_str(text).expect("the sample is an object");
        ObjectInfo::new(classes)
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut prompt = match Document::parse(text) {
        Ok(Document::Prompt(prompt)) => prompt,
        Ok(Document::Graph(graph)) => match graph.convert(&INFO, &mut |choices| choices.saturating_sub(1)) {
            Ok(conversion) => conversion.prompt,
            Err(_) => return,
        },
        Err(_) => return,
    };
    prompt.randomize_seeds(&INFO, &mut || u64::MAX);
    let _ = (prompt.file_inputs(Some(&INFO)), prompt.set("seed.seed=1", Some(&INFO)));
    if prompt.nodes().next().is_some() {
        let again = Document::from_value(Value::Object(prompt.as_object().clone()));
        assert_eq!(again.ok(), Some(Document::Prompt(prompt)), "a prompt is read as it was made");
    }
}

/// The address of a model and of a node, as they stand in a spec.
pub fn source(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(source) = ModelSource::parse(text) {
        assert_eq!(source.to_string(), source.identity());
        assert!(source.file_name().is_none_or(|name| check_name(name.as_bytes()).is_ok()));
    }
    for part in [json!({ "models": [{ "source": text }] }), json!({ "custom_nodes": [{ "repo": text }] })] {
        let mut root = json!({
            "schema_version": 2, "version_id": "a", "comfy": { "repo": "https://example.com/core" }
        });
        let (Some(root), Value::Object(part)) = (root.as_object_mut(), part) else { continue };
        root.extend(part);
        let origin = Origin::Named("a spec".to_owned());
        let read = SpecDocument::from_root(root.clone(), origin, &id("a"), ReadOptions::default());
        let Ok(document) = read else { continue };
        let spec = document.spec();
        assert!(spec.models.iter().all(|model| !model.path.is_root()));
        assert!(spec.custom_nodes.iter().all(|node| !node.path.is_root()));
    }
}

/// The archive of a node, unpacked.
pub fn archive(bytes: &[u8]) {
    thread_local! {
        static STORE: OnceCell<(tempfile::TempDir, Store)> = const { OnceCell::new() };
    }
    STORE.with(|cell| {
        let (_, store) = cell.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let store = Store::open(dir.path()).expect("a new store");
            (dir, store)
        });
        let transaction = store.begin("fuzz").expect("a transaction");
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("writing a temporary file");
        let url = "https://example.com/node.zip";
        match zip::unpack(&transaction, file, url, &SourceOptions::default()) {
            Ok(_) | Err(SourceError::Archive { .. }) => {}
            Err(error) => panic!("no fault of the archive: {error}"),
        }
    });
}

fn id(name: &str) -> VersionId {
    VersionId::new(name).expect("a plain name")
}
