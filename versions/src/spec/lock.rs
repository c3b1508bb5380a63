//! The `lock` of a spec: what the request resolved to, written by cvs and never by hand. It names every manifest that
//! the version needs, which makes it the root of garbage collection.
//!
//! ```text
//! lock.format           2; a new kind of reference raises it, so that an older cvs refuses rather than collects
//! lock.comfy            {repo, requested?, commit?, tree?, manifest?}
//! lock.custom_nodes[]   {name, path, repo, requested?, commit?, version?, archive?, tree?, manifest?, installed?}
//!                       in the order of the spec
//! lock.models[]         {path, source, revision?, size, sha256, blake3, md5?, etag?}    in the order of the spec
//! lock.models_manifest  the manifest of all models, grafted at the root
//! lock.python           the Python environment, see `locked_python`; absent under `options.skip_python`
//! lock.view             the view of all of it
//! ```
//!
//! `requested` is the ref or commit as the spec had it, absent for the remote's HEAD. A missing `manifest` means pinned,
//! but not fetched. Unknown keys are kept at every level, so that later fields survive an older program.

use cvs_store::{BlobId, ManifestId, RelPath, ViewId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::checksum::{hex, to_hex};
use super::locked_python::LockedPython;
use super::model::TreeSpec;
use super::reader::Findings;

/// The format of the lock that this program writes. It also reads 1, which had no `python`.
pub const LOCK_FORMAT: u64 = 2;
const OLDEST_FORMAT: u64 = 1;

/// What a spec resolved to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// [`LOCK_FORMAT`], or an older one.
    pub format: u64,
    /// The core.
    pub comfy: LockedRepo,
    /// The nodes, in the order of the spec.
    #[serde(default)]
    pub custom_nodes: Vec<LockedNode>,
    /// The models, in the order of the spec.
    #[serde(default)]
    pub models: Vec<LockedModel>,
    /// The manifest of all models; none when there are none, or not all are fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_manifest: Option<ManifestId>,
    /// The Python environment; none before it is resolved, or when the spec wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<LockedPython>,
    /// The view; none before everything is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewId>,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A repository at one commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LockedRepo {
    /// The address as the spec has it.
    pub repo: String,
    /// The ref or commit as the spec has it; none for the remote's HEAD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// The commit, 40 lower-case digits. None of what has no commit: a version of the Registry, or files that were
    /// found without a repository.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "commit_id")]
    pub commit: Option<String>,
    /// The version, of a node of the Registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What that version was unpacked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<LockedArchive>,
    /// The files that are taken in place of the commit's, as the spec has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeSpec>,
    /// Its content; none while it is pinned, but not fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestId>,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An archive of the Registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedArchive {
    /// Where it was.
    pub url: String,
    /// Its SHA-256, as it was when it was first fetched: the Registry tells none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_digits")]
    pub sha256: Option<[u8; 32]>,
}

impl LockedRepo {
    /// What it is pinned to, in a word: the commit, the version, or the files that were found.
    pub fn pin(&self) -> String {
        match (&self.commit, &self.version, &self.tree) {
            (Some(commit), _, _) => commit.clone(),
            (None, Some(version), _) => version.clone(),
            (None, None, Some(tree)) => tree.manifest.to_string(),
            (None, None, None) => String::new(),
        }
    }
}

/// A node at one commit, and where it lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedNode {
    /// The name for people.
    pub name: String,
    /// Its directory in the view.
    #[serde(with = "rel_path")]
    pub path: RelPath,
    /// What its `install.py` made of it, where the spec has that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<Installed>,
    /// Address, request, commit and content.
    #[serde(flatten)]
    pub locked: LockedRepo,
}

impl LockedNode {
    /// What is grafted: the commit's content, or what became of that.
    pub fn content(&self) -> Option<ManifestId> {
        self.installed.as_ref().map(|installed| installed.manifest).or(self.locked.manifest)
    }
}

/// A node after its `install.py`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The content that the script was run in.
    pub of: ManifestId,
    /// The content after that; the same when there is no such script.
    pub manifest: ManifestId,
}

/// A model with its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedModel {
    /// Its file in the view.
    #[serde(with = "rel_path")]
    pub path: RelPath,
    /// The source that it came from, as the spec has it, but without secrets.
    pub source: String,
    /// What the source's name stood for then: the commit of a hub's repository, the version of a Civitai model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// In bytes.
    pub size: u64,
    /// SHA-256.
    #[serde(with = "digits")]
    pub sha256: [u8; 32],
    /// The blob, which is also its BLAKE3.
    pub blake3: BlobId,
    /// MD5, where the spec gives one: it has been verified.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_digits")]
    pub md5: Option<[u8; 16]>,
    /// The server's tag of the file at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Keys that this program does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Lock {
    /// A lock that holds the core alone; the rest is filled in.
    pub fn new(comfy: LockedRepo) -> Self {
        Self {
            format: LOCK_FORMAT,
            comfy,
            custom_nodes: Vec::new(),
            models: Vec::new(),
            models_manifest: None,
            python: None,
            view: None,
            extra: Map::new(),
        }
    }

    /// Every manifest that the lock refers to. All that a version keeps alive is reachable from them.
    pub fn manifests(&self) -> impl Iterator<Item = ManifestId> + '_ {
        let nodes = self.custom_nodes.iter().flat_map(|node| {
            [node.locked.manifest, node.installed.as_ref().map(|installed| installed.manifest)]
        });
        let python = self.python.iter().flat_map(LockedPython::manifests);
        std::iter::once(self.comfy.manifest)
            .chain(nodes)
            .chain([self.models_manifest])
            .flatten()
            .chain(python)
    }

    /// Every blob that the lock names by itself: the models. They are also reachable from `models_manifest` once that
    /// exists.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        self.models.iter().map(|model| model.blake3)
    }

    /// Reads the value of the key `lock`, reporting every problem below that place.
    pub(super) fn read(value: &Value, findings: &mut Findings) -> Option<Self> {
        let advice = "what cvs wrote; remove the key `lock` to resolve anew";
        let Value::Object(map) = value else {
            findings.problem("lock", super::reader::describe(value), advice);
            return None;
        };
        let before = findings.problems.len();
        match map.get("format").and_then(Value::as_u64) {
            Some(OLDEST_FORMAT..=LOCK_FORMAT) => {}
            Some(newer) if newer > LOCK_FORMAT => {
                findings.problem(
                    "lock.format",
                    newer.to_string(),
                    format!("{LOCK_FORMAT}; this lock is of a newer cvs"),
                );
                return None;
            }
            _ => {
                let found = map.get("format").map_or("nothing".to_owned(), super::reader::describe);
                findings.problem("lock.format", found, LOCK_FORMAT.to_string());
                return None;
            }
        }
        // A repository without any pin is no answer to anything.
        let pinned = |repo: &Value| ["commit", "version", "tree"].iter().any(|key| repo.get(key).is_some());
        let repos = items(map, "custom_nodes").enumerate();
        let repos = repos.map(|(index, node)| (format!("lock.custom_nodes[{index}]"), node));
        for (place, repo) in
            map.get("comfy").map(|repo| ("lock.comfy".to_owned(), repo)).into_iter().chain(repos)
        {
            if repo.is_object() && !pinned(repo) {
                findings.problem(place, "a damaged entry (missing field `commit`)", advice);
            }
        }
        // Entry by entry first, only to name the place: serde alone would say "a string" of a file of 100 models.
        if let Some(comfy) = map.get("comfy") {
            entry::<LockedRepo>(comfy, "lock.comfy".to_owned(), findings);
        }
        for (index, node) in items(map, "custom_nodes").enumerate() {
            entry::<LockedNode>(node, format!("lock.custom_nodes[{index}]"), findings);
        }
        for (index, model) in items(map, "models").enumerate() {
            entry::<LockedModel>(model, format!("lock.models[{index}]"), findings);
        }
        if let Some(python) = map.get("python") {
            entry::<LockedPython>(python, "lock.python".to_owned(), findings);
        }
        if findings.problems.len() > before {
            return None;
        }
        entry(value, "lock".to_owned(), findings)
    }
}

fn items<'a>(map: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    map.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

fn entry<T: DeserializeOwned>(value: &Value, place: String, findings: &mut Findings) -> Option<T> {
    match T::deserialize(value) {
        Ok(entry) => Some(entry),
        Err(error) => {
            let expected = "what cvs wrote; remove the key `lock` to resolve anew";
            findings.problem(place, format!("a damaged entry ({error})"), expected);
            None
        }
    }
}

fn commit_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let fits = text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits { Ok(Some(text)) } else { Err(serde::de::Error::custom(format!("{text:?} is not a commit id"))) }
}

/// Paths come from UTF-8 specs, so the text holds them whole.
mod rel_path {
    use super::{Deserialize, RelPath};

    pub(super) fn serialize<S: serde::Serializer>(path: &RelPath, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(path.as_bytes()) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Err(serde::ser::Error::custom(format!("{path} is not UTF-8"))),
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<RelPath, D::Error> {
        let path = RelPath::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
        if path.is_root() { Err(serde::de::Error::custom("an empty path")) } else { Ok(path) }
    }
}

mod digits {
    use super::{Deserialize, hex, to_hex};

    pub(super) fn serialize<S: serde::Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        hex("", &text)
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is not {} hexadecimal digits", 2 * N)))
    }
}

mod optional_digits {
    use super::{Deserialize, hex, to_hex};

    pub(super) fn serialize<S: serde::Serializer, const N: usize>(
        bytes: &Option<[u8; N]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&to_hex(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(None),
            Some(text) => hex("", &text).map(Some).map_err(|_| {
                serde::de::Error::custom(format!("{text:?} is not {} hexadecimal digits", 2 * N))
            }),
        }
    }
}
