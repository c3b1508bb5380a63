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
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::LazyLock;

use cvs_store::{Manifest, ManifestBuilder, Store, check_name};
use cvs_versions::import::{self, Format};
use cvs_versions::model_file::{Finding, ModelFormat, ModelInfo};
use cvs_versions::python::{self, Role};
use cvs_versions::source::answers::Answer;
use cvs_versions::source::{self as source, SourceError, SourceOptions, archive as unpacking};
use cvs_versions::spec::{ModelSource, ReadOptions, SpecDocument, VersionId};
use cvs_versions::workflow::{Document, ObjectInfo};
use cvs_versions::{Origin, model_file};
use serde_json::{Map, Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A parser as a function of bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its program and of its directory in `corpus/`.
pub const TARGETS: [(&str, Target); 16] = [
    ("answers", answers),
    ("archive", archive),
    ("extra-paths", extra_paths),
    ("gguf", gguf),
    ("install", install),
    ("lock", lock),
    ("manifest", manifest),
    ("pickle", pickle),
    ("picture", picture),
    ("repository", repository),
    ("requirements", requirements),
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

/// A lock of cvs, of any format, in a spec that has no more.
pub fn lock(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let begin = r#"{"schema_version": 2, "version_id": "v", "comfy": {"repo": "https://h/o/c"}, "lock": "#;
    spec(format!("{begin}{text}}}").as_bytes());
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

/// A checkpoint of torch, plain or in a zip file. What the pickle of a zip file imports, it imports without the zip.
pub fn pickle(bytes: &[u8]) {
    let plain = model(bytes, "model.ckpt");
    if plain.format != ModelFormat::Pickle {
        return;
    }
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let written = zip.start_file("archive/data.pkl", stored).and_then(|()| Ok(zip.write_all(bytes)?));
    written.expect("writing to memory");
    let zipped = model(zip.finish().expect("writing to memory").get_ref(), "model.ckpt");
    assert_eq!(zipped.format, ModelFormat::TorchZip);
    let told =
        |info: &ModelInfo| info.findings.iter().any(|found| matches!(found, Finding::NotLookedInto { .. }));
    for import in zipped.imports {
        assert!(plain.imports.contains(&import) || told(&plain), "{import} is in the zip file alone");
    }
}

fn model(bytes: &[u8], name: &str) -> ModelInfo {
    let info = model_file::inspect(&mut Cursor::new(bytes), name)
        .expect("bytes in memory can be read; what is wrong with them is a finding");
    let shown: usize = info.findings.iter().map(|finding| finding.to_string().len()).sum();
    let listed = serde_json::to_string(&info).map_or(0, |text| text.len());
    assert!(shown.max(listed) <= MEMORY / 4, "{} bytes are described by {listed}", bytes.len());
    info
}

/// A file that ComfyUI has saved, which may hold a workflow.
pub fn picture(bytes: &[u8]) {
    let _ = Document::read(bytes);
    described(bytes);
}

/// A snapshot, a lock or a definition of another tool, in JSON or YAML.
pub fn snapshot(bytes: &[u8]) {
    described(bytes);
}

fn described(bytes: &[u8]) {
    let Ok((format, document)) = import::describe(&mut Cursor::new(bytes), &id("imported")) else { return };
    // A spec keeps what its person wrote, with a warning.
    let root = Value::Object(document.root().clone());
    assert!(format == Format::Spec || import::is_public(&root), "a secret is kept: {root}");
    let origin = document.origin().clone();
    let again = SpecDocument::parse(document.text().to_owned(), origin, None, ReadOptions::default());
    let again = again.expect("a spec that was made can be read");
    assert_eq!(again.root(), document.root(), "a spec is read as it was made");
}

/// The files of an install that say what it is: a `METADATA`, a `direct_url.json`, a `pyvenv.cfg` and a `FETCH_HEAD`,
/// with NUL bytes between them.
pub fn install(bytes: &[u8]) {
    let mut parts = bytes.split(|&byte| byte == 0);
    let mut next = || parts.next();
    let (metadata, direct, configuration, fetched) = (next(), next(), next(), next());
    if let Some(requirement) = import::files::package(metadata.unwrap_or_default(), direct) {
        assert!(!requirement.contains(char::is_control), "{requirement:?} is no line");
        assert!(!requirement.contains("${"), "{requirement:?} names a variable");
        let spec = json!({
            "schema_version": 2, "version_id": "a", "comfy": { "repo": "https://h/o/c" },
            "python_packages": [requirement],
        });
        let origin = Origin::Named("a spec".to_owned());
        let spec = spec.as_object().cloned().unwrap_or_default();
        let read = SpecDocument::from_root(spec, origin, &id("a"), ReadOptions::default());
        let read = read.expect("a requirement that was made can stand in a spec");
        assert_eq!(read.spec().python_packages, [requirement]);
    }
    let text = |part: Option<&[u8]>| String::from_utf8_lossy(part.unwrap_or_default()).into_owned();
    let _ = (import::files::python(&text(configuration)), import::files::fetched(&text(fetched)));
}

/// An `extra_model_paths.yaml`.
pub fn extra_paths(bytes: &[u8]) {
    let Ok(found) = import::files::extra_paths(bytes, Path::new("/srv/comfy/extra.yaml")) else { return };
    for (dir, target) in found {
        assert!(dir.is_absolute(), "{} depends on where it is read", dir.display());
        let folder = target.strip_prefix("models/").unwrap_or("custom_nodes");
        assert!(check_name(folder.as_bytes()).is_ok(), "{target:?} is no folder of models");
    }
}

/// The `requirements.txt` of a node and the lists that it names, with NUL bytes between them.
pub fn requirements(bytes: &[u8]) {
    let names = ["requirements.txt", "a.txt", "b/c.txt", "b/d.txt"];
    let files: BTreeMap<&str, &[u8]> = names.into_iter().zip(bytes.split(|&byte| byte == 0)).collect();
    let gather =
        |read: &dyn Fn(&str) -> Option<Vec<u8>>| python::gather("node n", Role::Node, &|path| Ok(read(path)));
    let Ok(Some(list)) = gather(&|path| files.get(path).map(|bytes| bytes.to_vec())) else { return };
    // What uv is given is read as it was taken, line by line.
    let laid_out: BTreeMap<String, String> =
        list.laid_out().map(|(path, text)| (path.to_owned(), text)).collect();
    let again = gather(&|path| laid_out.get(path).map(|text| text.clone().into_bytes()));
    let again = again.ok().flatten().expect("what was taken is taken again");
    assert_eq!(again.laid_out().collect::<Vec<_>>(), list.laid_out().collect::<Vec<_>>());
    for line in laid_out.values().flat_map(|text| text.split(['\r', '\n'])) {
        let bad = ["-e", "--editable", "file:", "git+file:", "/", ".", " ", "\t", "#"];
        assert!(!bad.iter().any(|bad| line.starts_with(bad)), "{line:?} was taken");
        assert!(!line.contains("${") && !line.ends_with('\\'), "{line:?} was taken");
    }
}

/// What a server says where something is: the first byte says which. An answer that came over https leads to no file of
/// this machine, and nowhere that others can read along. Headers of the hub contradict no checksum.
pub fn answers(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let answer = match kind {
        b'v' => Answer::RegistryVersion,
        b'n' => Answer::RegistryNode,
        b'c' => Answer::Civitai,
        b'l' => Answer::Lfs,
        _ => {
            let asked = Some([1; 32]);
            let (sha256, size) = source::answers::hub(body, asked).unwrap_or((asked, None));
            assert_eq!(sha256, asked);
            let alone = source::answers::hub(body, None);
            assert!(size.is_none() || alone.is_some_and(|(_, alone)| alone == size));
            return;
        }
    };
    for address in source::answers::addresses(answer, body) {
        // What a node's repository is, a spec has yet to take.
        assert!(answer == Answer::RegistryNode || address.starts_with("https://"), "{address:?}");
    }
}

/// The files of a stranger's repository that are read as git and Git LFS do: `.gitmodules`, `.lfsconfig`,
/// `.gitattributes`, a pointer. None leads from a remote to a path of this machine, or to a program.
pub fn repository(bytes: &[u8]) {
    for base in ["https://h/o/r.git", "git@h:o/r.git", "ssh://git@h:22/o/r"] {
        for address in source::answers::repository(bytes, base) {
            let scheme = address.split_once("://").map(|(scheme, _)| scheme);
            let is_scp = address.split_once(':').is_some_and(|(host, path)| {
                !host.is_empty() && !host.contains('/') && !path.is_empty() && !path.starts_with('-')
            });
            assert!(
                matches!(scheme, Some("https" | "http" | "ssh" | "git")) || (scheme.is_none() && is_scp),
                "{base} leads to {address:?}"
            );
            assert!(!address.starts_with('-'), "{base} leads to {address:?}");
            assert!(scheme.is_some() || !address.contains("::"), "{base} leads to {address:?}");
        }
    }
    let _ = source::answers::repository(bytes, "/srv/o/r");
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
        match unpacking::unpack(&transaction, file, url, &SourceOptions::default()) {
            Ok(_) | Err(SourceError::Archive { .. }) => {}
            Err(error) => panic!("no fault of the archive: {error}"),
        }
    });
}

fn id(name: &str) -> VersionId {
    VersionId::new(name).expect("a plain name")
}
