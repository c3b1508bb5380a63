//! From a JSON tree to a [`Spec`]: the top level and everything that concerns one entry. What concerns entries among
//! each other is in `cross`.

use serde_json::{Map, Value};

use super::cross;
use super::entry;
use super::id::{VersionId, reason_against};
use super::lock::Lock;
use super::model::{Question, ReadOptions, Spec};
use super::packages;
use super::reader::{Fields, Findings, describe};
use super::settings;
use super::warning::Warning;

/// Reads the whole document. `expected_id` is the stem of its file. The result is none when there is a problem.
pub(super) fn spec(
    root: &Map<String, Value>,
    expected_id: Option<&VersionId>,
    options: ReadOptions,
    findings: &mut Findings,
) -> Option<Spec> {
    let mut fields = Fields::of_map(root, String::new());
    fields.get("$schema");
    match fields.get("schema_version") {
        Some(Value::Number(number)) if number.as_u64() == Some(2) => {}
        other => {
            let found = other.map_or("nothing".to_owned(), describe);
            findings.problem("schema_version", found, "2, the only schema that is read");
        }
    }
    let version_id = version_id(&mut fields, expected_id, findings);
    let comfy = match fields.get("comfy") {
        Some(value) => entry::comfy(value, "comfy".to_owned(), findings),
        None => {
            findings.problem("comfy", "nothing", "an object with `repo`, and `ref` or `commit`");
            None
        }
    };
    let nodes = fields.list("custom_nodes", "a list of nodes", findings);
    let nodes = nodes.iter().enumerate();
    let custom_nodes: Vec<_> =
        nodes.filter_map(|(i, node)| entry::node(node, format!("custom_nodes[{i}]"), findings)).collect();
    let models = fields.list("models", "a list of models", findings);
    let models = models.iter().enumerate();
    let models: Vec<_> =
        models.filter_map(|(i, model)| entry::model(model, format!("models[{i}]"), findings)).collect();
    cross::nodes(&custom_nodes, findings);
    let models = cross::models(models, &custom_nodes, findings);

    let python = settings::python(&mut fields, findings);
    let python_packages = python_packages(&mut fields, options, findings);
    let env = env(&mut fields, findings);
    let python = settings::python_of_env(python, &env, findings);
    let switches = settings::switches(&mut fields, findings);
    let directories = settings::directories(&mut fields, findings);
    let workflow = fields.get("workflow").and_then(|value| match value {
        Value::String(text) if !text.is_empty() => Some(value.clone()),
        Value::Object(_) => Some(value.clone()),
        other => {
            findings.problem(
                "workflow",
                describe(other),
                "the path of a workflow, or the workflow as an object",
            );
            None
        }
    });
    let args = strings(&mut fields, "args", "an argument of ComfyUI, in quotes", findings);
    let questions = questions(&mut fields, findings);
    let lock = fields.get("lock").and_then(|value| Lock::read(value, findings));
    fields.finish(findings);
    if !findings.problems.is_empty() {
        return None;
    }
    Some(Spec {
        version_id: version_id?,
        comfy: comfy?,
        custom_nodes,
        models,
        python,
        python_packages,
        env,
        offline: switches.offline,
        skip_models: switches.skip_models,
        skip_python: switches.skip_python,
        workflow,
        args,
        directories,
        questions,
        lock,
    })
}

fn version_id(
    fields: &mut Fields<'_>,
    expected: Option<&VersionId>,
    findings: &mut Findings,
) -> Option<VersionId> {
    let key = fields.either("version_id", "id", findings);
    let text = fields.required_text(key, "the name of the version", findings)?;
    if let Some(reason) = reason_against(text) {
        findings.problem(key, format!("{text:?}"), format!("a name of a version, but {reason}"));
        return None;
    }
    if let Some(expected) = expected.filter(|expected| expected.as_str() != text) {
        let accepted = format!(
            "{:?}, the name of its file; write that, or rename the file to {text}.json",
            expected.as_str()
        );
        findings.problem(key, format!("{text:?}"), accepted);
        return None;
    }
    VersionId::new(text).ok()
}

fn python_packages(fields: &mut Fields<'_>, options: ReadOptions, findings: &mut Findings) -> Vec<String> {
    let items = fields.list("python_packages", "a list of requirements", findings);
    let mut taken = Vec::new();
    let mut value_of_dropped = false;
    for (index, item) in items.iter().enumerate() {
        let place = format!("python_packages[{index}]");
        let Value::String(text) = item else {
            findings.problem(place, describe(item), "a requirement such as \"name==1.2\"");
            continue;
        };
        let drop_value = std::mem::take(&mut value_of_dropped);
        match packages::flag(text) {
            Some(flag) if !options.lenient => {
                findings.problem(place, format!("{text:?}"), packages::instead_of(flag));
                value_of_dropped = packages::takes_next(text, flag);
            }
            Some(flag) => {
                value_of_dropped = packages::takes_next(text, flag);
                findings.warnings.push(Warning::PipFlagDropped { place, item: text.clone() });
            }
            // Refused with its flag already, or dropped with it.
            None if drop_value && !options.lenient => {}
            None if drop_value => {
                findings.warnings.push(Warning::PipFlagDropped { place, item: text.clone() })
            }
            None if text.trim().is_empty() => {
                findings.problem(place, format!("{text:?}"), "a requirement such as \"name==1.2\"");
            }
            None if text.chars().any(char::is_control) => {
                findings.problem(
                    place,
                    format!("{text:?}"),
                    "a requirement on one line, such as \"name==1.2\"",
                );
            }
            None => taken.push(text.clone()),
        }
    }
    taken
}

fn env(fields: &mut Fields<'_>, findings: &mut Findings) -> Vec<(String, String)> {
    let Some(value) = fields.get("env") else { return Vec::new() };
    let Value::Object(map) = value else {
        findings.problem("env", describe(value), "an object of names and strings");
        return Vec::new();
    };
    let mut taken = Vec::new();
    for (key, value) in map {
        let place = super::reader::member("env", key);
        if key.is_empty() || key.contains(['=', '\0']) {
            findings.problem(place, format!("the name {key:?}"), "a name without `=`");
            continue;
        }
        match value {
            Value::String(text) if !text.contains('\0') => taken.push((key.clone(), text.clone())),
            Value::Number(_) | Value::Bool(_) => {
                findings.problem(place, describe(value), format!("a string: \"{value}\""));
            }
            other => findings.problem(place, describe(other), "a string"),
        }
    }
    taken
}

/// Reads `questions`: each is a text, or an object with one under `question` and whatever else was known.
fn questions(fields: &mut Fields<'_>, findings: &mut Findings) -> Vec<Question> {
    let items = fields.list("questions", "a list of questions", findings);
    let mut taken = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("questions[{index}]");
        match item.get("question").unwrap_or(item) {
            Value::String(text) => taken.push(Question { place, question: text.clone() }),
            other => findings.problem(place, describe(other), "a text, or an object with `question`"),
        }
    }
    taken
}

fn strings(
    fields: &mut Fields<'_>,
    key: &'static str,
    expected: &str,
    findings: &mut Findings,
) -> Vec<String> {
    let items = fields.list(key, "a list of strings", findings);
    let mut taken = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::String(text) if !text.contains('\0') => taken.push(text.clone()),
            other => findings.problem(format!("{key}[{index}]"), describe(other), expected),
        }
    }
    taken
}
