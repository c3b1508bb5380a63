//! Civitai's API in small.

use cvs_tests::{Fault, HttpServer, Response};
use serde_json::{Value, json};

use super::*;
use crate::source::digest::hex;
use crate::source::event::NetworkLimits;
use crate::spec::ModelSource;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn file(name: &str, kind: &str, format: &str, fp: &str, primary: bool, bytes: &[u8], query: &str) -> Value {
    json!({
        "id": 1, "name": name, "type": kind, "primary": primary, "sizeKB": 1.5,
        "metadata": {"format": format, "size": null, "fp": fp},
        "hashes": {"SHA256": hex(&sha256(bytes)).to_uppercase(), "AutoV2": "AB"},
        "downloadUrl": format!("https://civitai.com/api/download/models/12{query}"),
    })
}

/// Model 7 with version 12, which has these files.
struct World {
    web: HttpServer,
    dir: tempfile::TempDir,
}

impl World {
    fn new(files: &[Value]) -> Self {
        let web = HttpServer::start();
        let version = json!({"id": 12, "modelId": 7, "files": files});
        let model = json!({"id": 7, "modelVersions": [version, {"id": 11, "files": []}]});
        web.route("/api/v1/model-versions/12", move |_| Response::json(&version));
        web.route("/api/v1/models/7", move |_| Response::json(&model));
        Self { web, dir: tempfile::tempdir().unwrap() }
    }

    fn fetch(
        &self,
        source: &str,
        name: Option<&str>,
        expected: Expected,
        token: &str,
    ) -> Result<(u64, Vec<u8>), SourceError> {
        let ModelSource::Civitai(file) = ModelSource::parse(source).unwrap() else { panic!("{source}") };
        let hosts = Hosts::of(&[("CIVITAI_ENDPOINT", &self.web.url("")), ("CIVITAI_TOKEN", token)]).unwrap();
        let store = Store::open(&self.dir.path().join("home")).unwrap();
        let transaction = store.begin("test").unwrap();
        let wanted = Wanted { file: &file, pinned: None, name, expected: &expected };
        let limits = NetworkLimits { attempts: 1, ..NetworkLimits::default() };
        let options = SourceOptions { limits, ..SourceOptions::default() };
        let found = fetch(&store, &transaction, &wanted, &hosts, &options)?;
        transaction.commit().unwrap();
        Ok((found.version, std::fs::read(store.blob_path(&found.file.blob)).unwrap()))
    }
}

fn several() -> World {
    let world = World::new(&[
        file("full.safetensors", "Model", "SafeTensor", "fp32", false, b"full", "?size=full"),
        file("pruned.safetensors", "Pruned Model", "SafeTensor", "fp16", true, b"pruned", "?size=pruned"),
        file("old.ckpt", "Model", "PickleTensor", "fp32", false, b"old", "?format=PickleTensor"),
    ]);
    world.web.route("/api/download/models/12", |request| match request.query.as_str() {
        "size=full" => Response::new(200, "full"),
        "size=pruned" => Response::new(200, "pruned"),
        "format=PickleTensor" => Response::new(200, "old"),
        _ => Response::new(404, ""),
    });
    world
}

#[test]
fn a_file_is_chosen_by_query_name_checksum_or_because_it_is_the_primary_one() {
    let world = several();
    let none = Expected::default();
    let old = Expected { sha256: Some(sha256(b"old")), ..none };
    for (source, name, expected, bytes) in [
        ("civitai://models/7", None, none, "pruned"),
        ("civitai://api/download/models/12", None, none, "pruned"),
        ("civitai://api/download/models/12?type=Model&format=SafeTensor", None, none, "full"),
        ("https://civitai.com/api/download/models/12?format=pickletensor", None, none, "old"),
        ("civitai://api/download/models/12?name=full.safetensors", None, none, "full"),
        ("civitai://api/download/models/12", Some("full.safetensors"), none, "full"),
        ("civitai://api/download/models/12", Some("renamed.safetensors"), none, "pruned"),
        ("https://civitai.com/models/7/title?modelVersionId=12", None, old, "old"),
    ] {
        let found = world.fetch(source, name, expected, "").unwrap();
        assert_eq!(found, (12, bytes.as_bytes().to_vec()), "{source}");
    }
}

#[test]
fn no_choice_lists_what_there_is() {
    let list = "\n  full.safetensors (type=Model&format=SafeTensor&fp=fp32)";
    let old = "\n  old.ckpt (type=Model&format=PickleTensor&fp=fp32)";
    let pruned = "\n  pruned.safetensors (type=Pruned Model&format=SafeTensor&fp=fp16, primary)";
    let world = several();
    let url = world.web.url("/api/v1/model-versions/12");
    let says = "version 12 has no one file that is meant; its files are";
    let unknown = Expected { sha256: Some([0; 32]), ..Expected::default() };
    for (source, expected, text) in [
        (
            "civitai://api/download/models/12?type=Model",
            Expected::default(),
            format!("{url}: {says}{list}{old}"),
        ),
        (
            "civitai://api/download/models/12?fp=bf16",
            Expected::default(),
            format!("{url}: {says}{list}{pruned}{old}"),
        ),
        ("civitai://api/download/models/12", unknown, format!("{url}: {says}{list}{pruned}{old}")),
    ] {
        let error = world.fetch(source, None, expected, "").unwrap_err();
        assert_eq!(error.to_string(), text, "{source}");
    }
    let error = World::new(&[]).fetch("civitai://models/7", None, Expected::default(), "").unwrap_err();
    assert!(error.to_string().ends_with("/api/v1/models/7: version 12 has no file"), "{error}");
}

#[test]
fn a_version_id_is_told_from_a_model_id() {
    let world = several();
    let error = world.fetch("civitai://models/12", None, Expected::default(), "").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: 12 is no model, but a model version: `civitai://api/download/models/12`",
            world.web.url("/api/v1/models/12")
        )
    );
    let error = world.fetch("civitai://models/99", None, Expected::default(), "").unwrap_err();
    assert_eq!(error.to_string(), format!("{}: not found (HTTP 404)", world.web.url("/api/v1/models/99")));
}

#[test]
fn a_token_opens_civitai_and_goes_nowhere_else() {
    let cdn = HttpServer::start();
    cdn.serve("/signed", b"one".to_vec());
    let world = World::new(&[file("a.safetensors", "Model", "SafeTensor", "fp16", true, b"one", "")]);
    let path = "/api/download/models/12";
    world.web.fault(path, Fault::Require("authorization", "Bearer civ_good".to_owned(), 401));
    world.web.fault(path, Fault::Redirect(307, cdn.url("/signed?sig=s")));
    let source = "civitai://api/download/models/12";
    for (token, says) in [("", "no token was sent"), ("civ_bad", "the token that was sent does not open it")]
    {
        let error = world.fetch(source, None, Expected::default(), token).unwrap_err();
        let SourceError::Closed { page, variable, .. } = &error else { panic!("{error}") };
        assert_eq!((page, *variable), (&world.web.url("/models/7?modelVersionId=12"), "CIVITAI_TOKEN"));
        assert_eq!(error.to_string(), format!("{}: access refused (HTTP 401); {says}", world.web.url(path)));
    }
    assert_eq!(world.fetch(source, None, Expected::default(), "civ_good").unwrap(), (12, b"one".to_vec()));
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(cdn.requests().len(), 1);
}

#[test]
fn an_answer_that_is_no_answer_is_told() {
    let world = World::new(&[]);
    world.web.route("/api/v1/model-versions/13", |_| Response::new(200, "<html>"));
    world.web.route("/api/v1/model-versions/14", |_| Response::json(&json!({"files": []})));
    for (id, reason) in [(13, "not JSON: expected value at line 1 column 1"), (14, "missing field `id`")] {
        let source = format!("civitai://api/download/models/{id}");
        let error = world.fetch(&source, None, Expected::default(), "").unwrap_err();
        let url = world.web.url(&format!("/api/v1/model-versions/{id}"));
        assert_eq!(error.to_string(), format!("{url}: unusable answer: {reason}"));
    }
}
