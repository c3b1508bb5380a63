//! A workflow as a description of what it needs. Nodes are named by `cnr_id`, `aux_id` and `ver`; models by the
//! addresses that the editor embeds, or found among the versions of this store by their hash or name. What neither
//! tells is asked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::classes;
use super::draft::{Draft, sha256};
use crate::source::hex;
use crate::spec::{LockedModel, Revision};

/// What model files are called.
const ENDS: [&str; 9] = [".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".pt2"];
/// What the editor calls ComfyUI itself.
const CORE: &str = "comfy-core";
/// Graphs within graphs.
const DEPTH: usize = 16;

/// What the workflow documents of one file need. `known` are the models of all versions; `repository` asks the Registry
/// where a node's repository is.
pub(super) fn read(
    documents: &[Value],
    known: &[LockedModel],
    repository: &dyn Fn(&str) -> Option<String>,
) -> Draft {
    let mut draft = Draft::default();
    let mut found = Found::default();
    for document in documents {
        found.document(document, &BTreeSet::new(), 0);
        found.versions(document);
    }
    let core = found.core.iter().max_by_key(|version| numbers(version)).map(|version| format!("v{version}"));
    let editor = found.editor.as_ref().map_or("It is not said".to_owned(), |version| {
        format!("It is said only that the editor was comfyui-frontend-package {version}, which the requirements of ComfyUI name")
    });
    draft.core_or(None, core.as_deref(), &editor);
    for (id, Pack { version, repo }) in &found.packs {
        let is_commit = version.as_ref().is_some_and(|text| is_commit(text));
        match (repo, version) {
            (Some(repo), version) => draft.git_node(repo, version.as_deref(), None, true),
            (None, Some(version)) if is_commit => match repository(id) {
                Some(url) => draft.git_node(&url, Some(version), None, true),
                None => draft.ask(
                    json!({ "about": "node", "name": id, "commit": version }),
                    &format!("where is the repository of the node {id}? The workflow was made with its commit {version}"),
                ),
            },
            (None, version) => draft.registry_node(id, version.as_deref(), None, true),
        }
    }
    for (class, node) in found.classes.iter().filter(|(class, _)| !found.answered.contains(*class)) {
        draft.ask(
            json!({ "about": "node", "class": class }),
            &format!("which node has the class {class}? Node {node} of the workflow does not say"),
        );
    }
    models(&found, known, &mut draft);
    // What ran is what runs again: the prompt, where there are both.
    let is_prompt = |value: &&Value| value.get("nodes").is_none_or(|nodes| !nodes.is_array());
    draft.workflow = documents.iter().find(is_prompt).or(documents.first()).cloned();
    draft
}

/// What a workflow says it needs.
#[derive(Default)]
struct Found {
    core: BTreeSet<String>,
    /// The version of the editor.
    editor: Option<String>,
    packs: BTreeMap<String, Pack>,
    /// Classes that nobody answers for where they stand, and the first node that has each.
    classes: BTreeMap<String, String>,
    /// Classes of which a node says where it is from: they are no question of another node, or of another document.
    answered: BTreeSet<String>,
    models: Vec<Embedded>,
    /// Names of model files in inputs, and who has them.
    names: BTreeMap<String, String>,
}

struct Pack {
    version: Option<String>,
    /// `OWNER/REPO`, where it came from GitHub.
    repo: Option<String>,
}

struct Embedded {
    name: String,
    url: Option<String>,
    directory: Option<String>,
    sha256: Option<String>,
}

impl Found {
    /// What editors of early 2025 wrote once for all nodes.
    fn versions(&mut self, document: &Value) {
        let extra = &document["extra"];
        self.editor = self.editor.take().or(extra["frontendVersion"].as_str().map(str::to_owned));
        for (id, version) in extra["node_versions"].as_object().into_iter().flatten() {
            let Some(version) = version.as_str().map(without_v).filter(|version| !version.is_empty()) else {
                continue;
            };
            if id == CORE {
                self.core.extend((!is_commit(&version)).then_some(version));
            } else if let Some(pack) = self.packs.get_mut(id) {
                pack.version.get_or_insert(version);
            }
        }
    }

    /// `outer` are the graphs of the documents around it, whose instances count as nodes.
    fn document(&mut self, document: &Value, outer: &BTreeSet<&str>, depth: usize) {
        let Some(map) = document.as_object().filter(|_| depth < DEPTH) else { return };
        self.embedded(map);
        if let Some(nodes) = map.get("nodes").and_then(Value::as_array) {
            let graphs = document.pointer("/definitions/subgraphs").and_then(Value::as_array);
            let graphs: &[Value] = graphs.map(Vec::as_slice).unwrap_or_default();
            let own = graphs.iter().filter_map(|graph| graph["id"].as_str());
            let own: BTreeSet<&str> = own.chain(outer.iter().copied()).collect();
            for node in nodes {
                self.node(node, &own);
            }
            // Groups that were made into nodes lie beside the graph.
            let groups = document.pointer("/extra/groupNodes").and_then(Value::as_object);
            for graph in graphs.iter().chain(groups.into_iter().flat_map(Map::values)) {
                self.document(graph, &own, depth + 1);
            }
        } else {
            for (id, node) in map {
                let Some(class) = node.get("class_type").and_then(Value::as_str) else { continue };
                // The document of the editor, where there is one, says more of the same nodes.
                if !classes::is_known(class) {
                    self.classes.entry(class.to_owned()).or_insert_with(|| id.clone());
                }
                let inputs = node.get("inputs").and_then(Value::as_object);
                for (input, value) in inputs.into_iter().flatten() {
                    self.name(value, &format!("{class} {id}, input {input}"));
                }
            }
        }
    }

    fn node(&mut self, node: &Value, own: &BTreeSet<&str>) {
        let class = node["type"].as_str().unwrap_or_default();
        let properties = node.get("properties").unwrap_or(&Value::Null);
        let text = |key: &str| properties[key].as_str().map(str::trim).filter(|text| !text.is_empty());
        let version = text("ver").map(without_v);
        match (text("cnr_id"), text("aux_id")) {
            (Some(CORE), _) => self.core.extend(version.filter(|version| !is_commit(version))),
            (Some(id), repo) => self.pack(id, version, repo),
            (None, Some(repo)) => self.pack(repo, version, Some(repo)),
            (None, None) if class.is_empty() || own.contains(class) || classes::is_known(class) => {}
            (None, None) => {
                // Nodes of a group have a number in it alone.
                let id = node.get("id").or(node.get("index")).unwrap_or(&Value::Null).to_string();
                self.classes.entry(class.to_owned()).or_insert(id);
            }
        }
        if let Some(properties) = properties.as_object() {
            self.embedded(properties);
        }
        let values: Vec<&Value> = match &node["widgets_values"] {
            Value::Array(values) => values.iter().collect(),
            Value::Object(values) => values.values().collect(),
            _ => Vec::new(),
        };
        for value in values {
            self.name(value, &format!("{class} {}", node["id"]));
        }
        if text("cnr_id").or(text("aux_id")).is_some() {
            self.answered.insert(class.to_owned());
        }
    }

    fn pack(&mut self, id: &str, version: Option<String>, repo: Option<&str>) {
        let plain = |text: &&str| text.split('/').count() == 2 && !text.contains("://");
        let repo = repo.filter(plain).map(str::to_owned);
        let pack = self.packs.entry(id.to_owned()).or_insert(Pack { version: None, repo: None });
        pack.repo = pack.repo.take().or(repo);
        // Nodes of one pack that were made with several versions of it want the newest.
        let newer = |new: &String| pack.version.as_ref().is_none_or(|old| numbers(new) > numbers(old));
        if let Some(version) = version.filter(newer) {
            pack.version = Some(version);
        }
    }

    fn embedded(&mut self, map: &Map<String, Value>) {
        for model in map.get("models").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| model[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
            let Some(name) = text("name") else { continue };
            let kind = text("hash_type").unwrap_or_default().to_ascii_lowercase().replace('-', "");
            let hash =
                text("hash").filter(|hash| matches!(kind.as_str(), "sha256" | "") && sha256(hash).is_some());
            if self.models.iter().any(|known| known.name == name) {
                continue;
            }
            self.models.push(Embedded { name, url: text("url"), directory: text("directory"), sha256: hash });
        }
    }

    fn name(&mut self, value: &Value, whose: &str) {
        let Some(text) = value.as_str() else { return };
        let is_model =
            ENDS.iter().any(|end| text.ends_with(end)) && !text.contains(['\n', '\0']) && text.len() < 256;
        if is_model && !text.contains("://") {
            self.names.entry(text.replace('\\', "/")).or_insert_with(|| whose.to_owned());
        }
    }
}

/// True for an address that a stranger's workflow may have fetched. It may not name files of this machine, nor buckets that
/// this person has the keys of.
fn is_public(url: &str) -> bool {
    ["https://", "http://", "hf://", "huggingface://", "civitai://"]
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

fn models(found: &Found, known: &[LockedModel], draft: &mut Draft) {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut answered = BTreeSet::new();
    for Embedded { name, url, directory, sha256 } in &found.models {
        let same = |model: &&LockedModel| {
            sha256.as_ref().is_some_and(|hash| hex(&model.sha256).eq_ignore_ascii_case(hash))
        };
        let here = known.iter().find(same);
        answered.insert(base(name));
        match (url, directory, here) {
            (Some(url), Some(folder), _) if is_public(url) => {
                draft.model(url, &format!("models/{folder}/{name}"), sha256.as_deref());
            }
            (None, _, Some(model)) => take(model, draft),
            _ => draft.ask(
                json!({ "about": "model", "name": name }),
                &format!("where does the model {name} come from, and in which folder does it belong? The workflow does not say"),
            ),
        }
    }
    for (name, whose) in &found.names {
        if answered.contains(&base(name)) {
            continue;
        }
        let fits = |model: &&LockedModel| {
            let path = model.path.to_string();
            path == *name || path.ends_with(&format!("/{name}"))
        };
        let mut candidates: Vec<&LockedModel> = Vec::new();
        for model in known.iter().filter(fits) {
            if !candidates.iter().any(|other| other.sha256 == model.sha256) {
                candidates.push(model);
            }
        }
        match candidates[..] {
            [only] => take(only, draft),
            [] => draft.ask(
                json!({ "about": "model", "name": name }),
                &format!(
                    "where does the model {name} come from? {whose} names it, and no version here has it"
                ),
            ),
            _ => {
                let which: Vec<String> = candidates
                    .iter()
                    .map(|model| format!("{} (sha256 {})", model.source, hex(&model.sha256)))
                    .collect();
                draft.ask(
                    json!({ "about": "model", "name": name }),
                    &format!(
                        "which model is {name}? {whose} names it, and versions here have {}",
                        which.join(", ")
                    ),
                );
            }
        }
    }
}

fn take(model: &LockedModel, draft: &mut Draft) {
    draft.model(&model.source, &model.path.to_string(), Some(&hex(&model.sha256)));
}

fn without_v(version: &str) -> String {
    version.strip_prefix('v').unwrap_or(version).to_owned()
}

fn is_commit(version: &str) -> bool {
    version.len() >= 7
        && !version.contains('.')
        && version.bytes().all(|b| b.is_ascii_hexdigit())
        && Revision::parse(version).is_ok()
}

/// The numbers of a version, to compare it by.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::VersionId;

    /// The document is kept whole, and nothing in it that opens a host.
    #[test]
    fn no_secret_of_a_workflow_is_kept_or_told() {
        let url = |host: &str| format!("https://{host}/m.bin?token=S3CRET&a=1");
        let model =
            |host: &str| json!({ "name": format!("{host}.bin"), "url": url(host), "directory": "vae" });
        let document = json!({
            "models": [model("top")],
            "nodes": [
                { "id": 1, "type": "VAELoader", "properties": { "cnr_id": "comfy-core", "ver": "0.3.60", "models": [
                    { "name": "a.bin", "directory": "vae", "url": "https://huggingface.co/o/r/resolve/main/a.bin?token=S3CRET" },
                    { "name": "b.bin", "directory": "vae", "url": "https://me:S3CRET@civitai.com/api/download/models/1" },
                    { "name": "https://h/x?token=S3CRET", "directory": "vae" },
                ] } },
                { "id": 2, "type": "MarkdownNote", "properties": {},
                    "widgets_values": ["get [it](https://h/it?token=S3CRET) first"] },
                { "id": 3, "type": "sub", "properties": {}, "widgets_values": { "from": url("input") } },
            ],
            "definitions": { "subgraphs": [{ "id": "sub", "nodes": [
                { "id": 4, "type": "VAELoader", "properties": { "models": [model("inner")] } },
            ] }] },
        });
        let draft = read(std::slice::from_ref(&document), &[], &|_| None);
        let (spec, report) = draft.finish(&VersionId::new("x").unwrap());
        let kept = &spec["workflow"];
        assert_eq!(kept["models"][0]["url"], "https://top/m.bin?a=1");
        assert_eq!(kept["nodes"][1]["widgets_values"][0], "get [it](https://h/it first");
        assert_eq!(kept["nodes"][2]["widgets_values"]["from"], "https://input/m.bin?a=1");
        let inner = &kept["definitions"]["subgraphs"][0]["nodes"][0]["properties"]["models"][0];
        assert_eq!(inner["url"], "https://inner/m.bin?a=1");
        let reason = "the password or token in its address: specs have none; ";
        let told = report.left_out.iter().map(|left| {
            format!("{}: {}", left.path.display(), left.reason.strip_prefix(reason).unwrap_or(&left.reason))
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "https://top/m.bin?a=1: add yours by hand where nothing else opens it",
                "https://huggingface.co/o/r/resolve/main/a.bin: set HF_TOKEN to yours",
                "https://civitai.com/api/download/models/1: set CIVITAI_TOKEN to yours",
                "https://inner/m.bin?a=1: add yours by hand where nothing else opens it",
                "https://h/x: add yours by hand where nothing else opens it",
                "a text of \"widgets_values\": add yours by hand where nothing else opens it",
                "https://input/m.bin?a=1: add yours by hand where nothing else opens it",
                "a text of \"question\": add yours by hand where nothing else opens it",
            ]
        );
        let all = format!("{spec:?} {report:?}");
        assert!(!all.contains("S3CRET"), "{all}");
        assert!(document.to_string().contains("S3CRET"));
    }

    fn described(document: Value) -> (Map<String, Value>, Vec<String>) {
        let draft = read(&[document], &[], &|_| None);
        let (spec, report) = draft.finish(&VersionId::new("x").unwrap());
        (spec, report.questions)
    }

    #[test]
    fn what_says_a_version_is_found_wherever_editors_write_it() {
        let node = |id: u32, kind: &str, properties: Value| json!({ "id": id, "type": kind, "properties": properties });
        // Of the whole document, as editors of early 2025 did.
        let (spec, questions) = described(json!({ "links": [],
            "nodes": [node(1, "KSampler", json!({})), node(2, "A", json!({ "cnr_id": "a" }))],
            "extra": { "frontendVersion": "1.17.1", "node_versions": { "comfy-core": "v0.3.14", "a": "1.2.0", "gone": "1.0" } } }));
        assert_eq!(spec["comfy"]["ref"], "v0.3.14");
        assert_eq!(spec["custom_nodes"], json!([{ "repo": "registry:a", "ref": "1.2.0" }]));
        assert_eq!(questions, [""; 0]);

        // In a group; and an instance, within one subgraph, of another.
        let (spec, questions) = described(json!({ "links": [],
            "nodes": [node(1, "workflow>mine", json!({})), node(2, "one", json!({}))],
            "definitions": { "subgraphs": [
                { "id": "one", "nodes": [node(3, "other", json!({})), node(4, "Lost", json!({}))] },
                { "id": "other", "nodes": [] },
            ] },
            "extra": { "frontendVersion": "1.45.0", "groupNodes": { "mine": { "nodes": [
                { "index": 7, "type": "B", "properties": { "cnr_id": "b", "ver": "2.0.0" } },
                { "index": 8, "type": "Unheard" },
            ] } } } }));
        assert_eq!(spec["custom_nodes"], json!([{ "repo": "registry:b", "ref": "2.0.0" }]));
        assert_eq!(
            questions,
            [
                "which commit of ComfyUI? It is said only that the editor was comfyui-frontend-package 1.45.0, which the \
                 requirements of ComfyUI name; until `comfy.ref` or `comfy.commit` says it, it is the newest",
                "which node has the class Lost? Node 4 of the workflow does not say",
                "which node has the class Unheard? Node 8 of the workflow does not say",
            ]
        );
    }

    #[test]
    fn a_pack_that_two_nodes_name_differently_is_one() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let nodes: Vec<Value> = [
            json!({ "cnr_id": "comfyui-tidy", "ver": "1.0.0" }),
            json!({ "aux_id": "someone/ComfyUI-Tidy", "ver": commit }),
            json!({ "aux_id": "other/ComfyUI-Tidy", "ver": commit }),
        ]
        .into_iter()
        .map(|properties| json!({ "id": 1, "type": "A", "properties": properties }))
        .collect();
        let draft = read(&[json!({ "nodes": nodes, "links": [] })], &[], &|_| None);
        let (spec, report) = draft.finish(&VersionId::new("x").unwrap());
        assert_eq!(spec["custom_nodes"], json!([{ "repo": "registry:comfyui-tidy", "ref": "1.0.0" }]));
        let told: Vec<_> = report.left_out.iter().map(|left| left.reason.as_str()).collect();
        assert_eq!(told, ["registry:comfyui-tidy comes before it at the same place"; 2]);
    }
}
