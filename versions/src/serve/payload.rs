//! What a job asks for: the body of `/run` and `/runsync`.
//!
//! ```json
//! {"input": {"workflow": {}, "workflow_url": "", "input_images": {"NAME": "URL"}, "images": [{"name": "", "image": ""}],
//!            "output_mode": "", "version_id": "", "allow_partial": false},
//!  "policy": {"executionTimeout": 1000, "ttl": 1000}}
//! ```

use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use url::Url;

use super::Config;
use super::error::Refusal;
use crate::workflow::Document;

const BODY: [&str; 3] = ["input", "policy", "id"];
const POLICY: [&str; 3] = ["executionTimeout", "ttl", "lowPriority"];
const INPUT: [&str; 7] =
    ["workflow", "workflow_url", "input_images", "images", "output_mode", "version_id", "allow_partial"];

/// How results are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMode {
    /// In the answer.
    Base64,
    /// In a directory of the server; the answer names the paths.
    Directory,
}

impl OutputMode {
    /// By its name.
    pub fn parse(name: &str) -> Option<OutputMode> {
        match name {
            "base64" => Some(Self::Base64),
            "directory" | "dir" => Some(Self::Directory),
            _ => None,
        }
    }
}

/// A job as it was sent.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) workflow: Workflow,
    pub(super) files: Vec<InputFile>,
    pub(super) output_mode: OutputMode,
    pub(super) allow_partial: bool,
    /// How long it may run.
    pub(super) timeout: Duration,
    /// How long it may wait and run, all in all.
    pub(super) ttl: Option<Duration>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Workflow {
    Here(Box<Document>),
    At(Url),
}

#[derive(Debug, PartialEq)]
pub(super) struct InputFile {
    pub(super) name: String,
    pub(super) content: Content,
}

#[derive(Debug, PartialEq)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    At(Url),
}

/// Reads and checks a body.
pub(super) fn parse(body: &[u8], config: &Config) -> Result<Input, Refusal> {
    let body: Value = serde_json::from_slice(body).map_err(|error| Refusal::Syntax(error.to_string()))?;
    let body = object("the body", Some(&body))?;
    known("", body, &BODY)?;
    let input = object("input", body.get("input"))?;
    known("input.", input, &INPUT)?;
    let version = given(input, "version_id").map(|value| string("input.version_id", value)).transpose()?;
    if version.is_some_and(|version| version != config.version) {
        return Err(Refusal::Version { here: config.version.clone() });
    }
    let output_mode = match given(input, "output_mode") {
        None => config.output_mode,
        Some(value) => value
            .as_str()
            .and_then(OutputMode::parse)
            .ok_or_else(|| wrong("input.output_mode", value, "\"base64\" or \"directory\""))?,
    };
    let allow_partial = match given(input, "allow_partial") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| wrong("input.allow_partial", value, "true or false"))?,
    };
    let policy = match given(body, "policy") {
        None => &Map::new(),
        Some(policy) => object("policy", Some(policy))?,
    };
    known("policy.", policy, &POLICY)?;
    let timeout = milliseconds(policy, "executionTimeout")?.unwrap_or(config.job_timeout);
    let ttl = milliseconds(policy, "ttl")?;
    let (workflow, files) = (workflow(input, config)?, files(input)?);
    Ok(Input { workflow, files, output_mode, allow_partial, timeout, ttl })
}

fn workflow(input: &Map<String, Value>, config: &Config) -> Result<Workflow, Refusal> {
    let document = |value: &Value| {
        Document::from_value(value.clone())
            .map(|document| Workflow::Here(Box::new(document)))
            .map_err(|error| Refusal::Workflow(error.to_string()))
    };
    match (given(input, "workflow"), given(input, "workflow_url")) {
        (Some(value), None) => document(value),
        (None, Some(value)) => Ok(Workflow::At(address("input.workflow_url", value)?)),
        (Some(_), Some(value)) => {
            Err(wrong("input.workflow_url", value, "one of workflow and workflow_url, not both"))
        }
        (None, None) => {
            let document = config.workflow.clone().ok_or(Refusal::NoWorkflow)?;
            Ok(Workflow::Here(Box::new(document)))
        }
    }
}

fn files(input: &Map<String, Value>) -> Result<Vec<InputFile>, Refusal> {
    let mut files = Vec::new();
    if let Some(images) = given(input, "input_images") {
        for (name, value) in object("input.input_images", Some(images))? {
            let content = content(&format!("input.input_images.{name}"), value)?;
            files.push(InputFile { name: name.clone(), content });
        }
    }
    if let Some(images) = given(input, "images") {
        let list = images.as_array().ok_or_else(|| wrong("input.images", images, "a list"))?;
        for (number, image) in list.iter().enumerate() {
            let place = format!("input.images[{number}]");
            let image = object(&place, Some(image))?;
            known(&format!("{place}."), image, &["name", "image"])?;
            let field = |key: &str| (format!("{place}.{key}"), image.get(key).unwrap_or(&Value::Null));
            let (place, value) = field("name");
            let name = string(&place, value)?.to_owned();
            let (place, value) = field("image");
            files.push(InputFile { name, content: content(&place, value)? });
        }
    }
    Ok(files)
}

/// A file's content: an address, a `data:` URL, or base64.
fn content(place: &str, value: &Value) -> Result<Content, Refusal> {
    const EXPECTED: &str = "an http(s) URL, or the file in base64";
    // Whether there are `=` at the end depends on who wrote it.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = string(place, value)?;
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(Content::At(address(place, value)?));
    }
    let encoded = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map(|(_, encoded)| encoded),
        None => Some(text),
    };
    let encoded: String = encoded.unwrap_or("?").split_ascii_whitespace().collect();
    match LENIENT.decode(encoded) {
        Ok(bytes) if !bytes.is_empty() => Ok(Content::Bytes(bytes)),
        _ => Err(wrong(place, value, EXPECTED)),
    }
}

fn address(place: &str, value: &Value) -> Result<Url, Refusal> {
    let url = value.as_str().and_then(|text| Url::parse(text).ok());
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| wrong(place, value, "an http(s) URL"))
}

fn milliseconds(map: &Map<String, Value>, key: &str) -> Result<Option<Duration>, Refusal> {
    let Some(value) = given(map, key) else { return Ok(None) };
    match value.as_u64().filter(|length| *length > 0) {
        Some(length) => Ok(Some(Duration::from_millis(length))),
        None => Err(wrong(&format!("policy.{key}"), value, "a number of milliseconds")),
    }
}

/// A field that is there and not null.
fn given<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn object<'a>(place: &str, value: Option<&'a Value>) -> Result<&'a Map<String, Value>, Refusal> {
    match value {
        Some(Value::Object(map)) => Ok(map),
        found => Err(wrong(place, found.unwrap_or(&Value::Null), "an object")),
    }
}

fn string<'a>(place: &str, value: &'a Value) -> Result<&'a str, Refusal> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| wrong(place, value, "a text"))
}

fn known(place: &str, map: &Map<String, Value>, names: &[&str]) -> Result<(), Refusal> {
    match map.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(Refusal::Unknown { place: format!("{place}{key}"), known: names.join(", ") }),
        None => Ok(()),
    }
}

fn wrong(place: &str, value: &Value, expected: &'static str) -> Refusal {
    let found = match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > 60 => {
            format!("{:?} and more", text.chars().take(60).collect::<String>())
        }
        other => other.to_string(),
    };
    Refusal::Field { place: place.to_owned(), found, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Config {
        Config::new("wan", "/out".into())
    }

    #[test]
    fn bodies_are_read() {
        let prompt = json!({ "1": { "class_type": "SaveImage", "inputs": {} } });
        let parse = |value: Value| parse(value.to_string().as_bytes(), &config()).unwrap();
        for workflow in [prompt.clone(), json!(prompt.to_string())] {
            let input = parse(json!({ "input": { "workflow": workflow, "version_id": "wan" } }));
            let Workflow::Here(document) = input.workflow else { panic!("it is here") };
            assert_eq!(*document, Document::from_value(prompt.clone()).unwrap());
            assert_eq!((input.output_mode, input.allow_partial), (OutputMode::Base64, false));
            assert_eq!((input.timeout, input.ttl), (Duration::from_secs(600), None));
        }
        let input = parse(json!({
            "input": {
                "workflow_url": "https://host/w.json", "output_mode": "directory", "allow_partial": true,
                "input_images": { "a.png": "http://host/a.png" },
                "images": [{ "name": "b.png", "image": "data:image/png;base64,AAEC" }, { "name": "c", "image": "AA" }],
            },
            "policy": { "executionTimeout": 5000, "ttl": 9000, "lowPriority": true },
        }));
        assert_eq!(input.workflow, Workflow::At("https://host/w.json".parse().unwrap()));
        let file = |name: &str, content| InputFile { name: name.to_owned(), content };
        assert_eq!(
            input.files,
            [
                file("a.png", Content::At("http://host/a.png".parse().unwrap())),
                file("b.png", Content::Bytes(vec![0, 1, 2])),
                file("c", Content::Bytes(vec![0])),
            ]
        );
        assert_eq!((input.timeout, input.ttl), (Duration::from_secs(5), Some(Duration::from_secs(9))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, said) in [
            ("{", "the body is not JSON: EOF while parsing an object at line 1 column 1"),
            ("[]", "the body: found a list; expected an object"),
            ("{}", "input: found nothing; expected an object"),
            (r#"{"input":{}}"#, "there is no workflow: give input.workflow or input.workflow_url"),
            (r#"{"input":{},"webhook":"x"}"#, "webhook is not known here; known are input, policy, id"),
            (
                r#"{"input":{"version_id":"other"}}"#,
                "input.version_id: this is \"wan\", and no other version is served",
            ),
            (
                r#"{"input":{"output_mode":"gcs"}}"#,
                "input.output_mode: found \"gcs\"; expected \"base64\" or \"directory\"",
            ),
            (
                r#"{"input":{"workflow_url":"file:///etc/passwd"}}"#,
                "input.workflow_url: found \"file:///etc/passwd\"; expected an http(s) URL",
            ),
            (
                r#"{"input":{"workflow":"{}","workflow_url":"http://x"}}"#,
                "input.workflow_url: found \"http://x\"; expected one of workflow and workflow_url, not both",
            ),
            (
                r#"{"input":{"workflow_url":"http://x","images":[{"name":"a","image":"?"}]}}"#,
                "input.images[0].image: found \"?\"; expected an http(s) URL, or the file in base64",
            ),
            (
                r#"{"input":{"workflow_url":"http://x","images":[{"image":"AA=="}]}}"#,
                "input.images[0].name: found nothing; expected a text",
            ),
            (
                r#"{"input":{"workflow_url":"http://x"},"policy":{"ttl":0}}"#,
                "policy.ttl: found 0; expected a number of milliseconds",
            ),
        ] {
            assert_eq!(parse(body.as_bytes(), &config()).unwrap_err().to_string(), said, "{body}");
        }
        let said = parse(br#"{"input":{"workflow":{"a":1}}}"#, &config()).unwrap_err().to_string();
        assert!(said.starts_with("input.workflow: "), "{said}");
    }
}
