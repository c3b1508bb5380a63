//! What a spec may not say, and what it is told: one table, exact.

use cvs_versions::spec::{ReadOptions, SpecDocument};
use cvs_versions::{Origin, SpecError};
use serde_json::{Map, Value, json};

/// A spec with some keys replaced; `null` removes one.
fn spec(change: Value) -> String {
    let mut root = json!({
        "schema_version": 2, "version_id": "v", "comfy": { "repo": "https://h/o/ComfyUI" },
    });
    for (key, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(root.as_object_mut().unwrap().remove(key)),
            value => root[key] = value.clone(),
        }
    }
    root.to_string()
}

fn parse(text: String) -> Result<SpecDocument, SpecError> {
    SpecDocument::parse(text, Origin::Named("v.json".to_owned()), None, ReadOptions::default())
}

fn problems(change: Value) -> Vec<String> {
    match parse(spec(change.clone())) {
        Err(SpecError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{change}: {other:?}"),
    }
}

const REVISION: &str = "a branch, a tag, a full ref name or a commit id";
const TARGET: &str = "a path in the view: `$COMFY_HOME/…`, `$MODELS_DIR/…` or relative, without `..`";
const SOURCE: &str = "`https://…`, `http://…`, `hf://ORG/REPO/PATH`, `civitai://…`, `s3://…`, `gs://…`, `az://…`, `file://…` or an absolute path";

#[test]
fn every_problem_has_its_place_what_was_found_and_what_is_accepted() {
    let node = |extra: Value| with(json!({ "repo": "https://h/o/N" }), extra, "custom_nodes");
    let model = |extra: Value| with(json!({ "source": "https://h/x.pth" }), extra, "models");
    for (change, expected) in [
        (json!({"schema_version": null}), "schema_version: found nothing; expected 2, the only schema that is read".to_owned()),
        (json!({"schema_version": 3}), "schema_version: found the number 3; expected 2, the only schema that is read".to_owned()),
        (json!({"schema_version": "2"}), "schema_version: found \"2\"; expected 2, the only schema that is read".to_owned()),
        (json!({"version_id": null}), "version_id: found nothing; expected the name of the version".to_owned()),
        (json!({"version_id": 5}), "version_id: found the number 5; expected the name of the version, in quotes: \"5\"".to_owned()),
        (
            json!({"version_id": "../x"}),
            "version_id: found \"../x\"; expected a name of a version, but it must start with a letter or digit (ASCII)"
                .to_owned(),
        ),
        (
            json!({"id": "w"}),
            "id: found \"w\"; expected the same as `version_id` (\"v\"), or only one of the two".to_owned(),
        ),
        (json!({"comfy": null}), "comfy: found nothing; expected an object with `repo`, and `ref` or `commit`".to_owned()),
        (json!({"comfy": "https://h/x"}), "comfy: found \"https://h/x\"; expected an object".to_owned()),
        (
            json!({"comfy": {"repo": "o/r@main"}}),
            "comfy.repo: found \"o/r@main\"; expected `https://…`, `http://…`, `ssh://…`, `git@host:path`, `git://…`, \
             `file://…`, `OWNER/REPO`, `registry:ID` or an absolute path; a revision belongs in `ref`"
                .to_owned(),
        ),
        (json!({"custom_nodes": {}}), "custom_nodes: found an empty object; expected a list of nodes".to_owned()),
        (json!({"custom_nodes": ["x"]}), "custom_nodes[0]: found \"x\"; expected an object".to_owned()),
        (
            node(json!({"ref": "a b"})),
            format!("custom_nodes[0].ref: found \"a b\"; expected {REVISION}"),
        ),
        (
            node(json!({"commit": 1234567})),
            format!("custom_nodes[0].commit: found the number 1234567; expected {REVISION}, in quotes: \"1234567\""),
        ),
        (
            node(json!({"name": "a/b"})),
            "custom_nodes[0].name: found \"a/b\", a `/` within a name; expected the name of one directory, or a \
             `target_dir`"
                .to_owned(),
        ),
        (
            node(json!({"repo": "https://h/o/.."})),
            "custom_nodes[0].repo: found \"..\", the names `.` and `..` are not allowed; expected a repository whose last \
             segment can name the node, or a `name`"
                .to_owned(),
        ),
        (
            node(json!({"target_dir": "$COMFY_HOME/../x"})),
            format!("custom_nodes[0].target_dir: found \"$COMFY_HOME/../x\", a path with `..`; expected {TARGET}"),
        ),
        (
            node(json!({"target_dir": "/opt/x"})),
            format!("custom_nodes[0].target_dir: found \"/opt/x\", an absolute path; expected {TARGET}"),
        ),
        (
            node(json!({"target_dir": "$COMFY_HOME"})),
            "custom_nodes[0].target_dir: found \"$COMFY_HOME\", the whole view; expected a directory below it".to_owned(),
        ),
        (
            node(json!({"install_requirements": "yes"})),
            "custom_nodes[0].install_requirements: found \"yes\"; expected true or false".to_owned(),
        ),
        (json!({"models": [{}]}), format!("models[0].source: found nothing; expected {SOURCE}")),
        (json!({"models": [{"source": "x.pth"}]}), format!("models[0].source: found \"x.pth\"; expected {SOURCE}")),
        (
            model(json!({"target_path": "$HOME/x"})),
            format!("models[0].target_path: found \"$HOME/x\", the unknown variable $HOME; expected {TARGET}"),
        ),
        (
            model(json!({"path": "../x"})),
            format!("models[0].path: found \"../x\", a path with `..`; expected {TARGET}"),
        ),
        (
            model(json!({"target_path": "$MODELS_DIR"})),
            "models[0].target_path: found \"$MODELS_DIR\"; expected the path of a file, or of a directory with `/` at \
             its end"
                .to_owned(),
        ),
        (
            model(json!({"target_path": "$MODELS_DIR/vae/x", "target_subdir": "loras"})),
            "models[0].target_subdir: found \"models/loras\"; expected nothing, or the folder of `target_path`, \
             models/vae/x"
                .to_owned(),
        ),
        (
            model(json!({"source": "civitai://models/7", "target_subdir": "loras", "name": "lora"})),
            "models[0].target_path: found nothing; expected the path of the file, because its source does not name one"
                .to_owned(),
        ),
        (
            model(json!({"source": "https://h/api/download", "name": "a/b.pth"})),
            "models[0].source: found the file name \"a/b.pth\", a `/` within a name; expected a source whose file name \
             is fit, or a `target_path`"
                .to_owned(),
        ),
        (
            model(json!({"checksum": "sha256:00"})),
            "models[0].checksum: found \"sha256:00\"; expected 64 hexadecimal digits after `sha256:`".to_owned(),
        ),
        (json!({"python": "3.11"}), "python: found \"3.11\"; expected an object".to_owned()),
        (
            json!({"python": {"version": 3.11}}),
            "python.version: found the number 3.11; expected a version such as \"3.11\", in quotes: \"3.11\"".to_owned(),
        ),
        (
            json!({"python": {"version": "/usr/bin/python3"}}),
            "python.version: found \"/usr/bin/python3\"; expected a version such as \"3.11\"; a program is named by \
             `COMFY_PYTHON` in `env`"
                .to_owned(),
        ),
        (
            json!({"python_packages": ["-r", "requirements.txt"]}),
            "python_packages[0]: found \"-r\"; expected a requirement such as `name==1.2`; leave `-r` out: write the \
             packages themselves"
                .to_owned(),
        ),
        (json!({"env": {"A B": 1}}), "env[\"A B\"]: found the number 1; expected a string: \"1\"".to_owned()),
        (json!({"env": {"A=": "1"}}), "env[\"A=\"]: found the name \"A=\"; expected a name without `=`".to_owned()),
        (json!({"options": {"offline": 1}}), "options.offline: found the number 1; expected true or false".to_owned()),
        (
            json!({"workflow": 1}),
            "workflow: found the number 1; expected the path of a workflow, or the workflow as an object".to_owned(),
        ),
        (json!({"args": [8188]}), "args[0]: found the number 8188; expected an argument of ComfyUI, in quotes".to_owned()),
        (
            json!({"lock": {"format": 3}}),
            "lock.format: found 3; expected 2; this lock is of a newer cvs".to_owned(),
        ),
    ] {
        assert_eq!(problems(change), [expected]);
    }
}

#[test]
fn two_things_at_one_path_name_both_places() {
    let at = |repo: &str, name: &str| json!({ "repo": repo, "name": name });
    let nodes = json!({"custom_nodes": [at("https://h/a", "X"), at("https://h/b", "X")]});
    assert_eq!(
        problems(nodes),
        [
            "custom_nodes[1]: found the directory custom_nodes/X, which custom_nodes[0] has already; expected another `name` \
          or `target_dir`, or one entry less"
        ]
    );
    let model = |source: &str, path: &str| json!({ "source": source, "target_path": path });
    assert_eq!(
        problems(
            json!({"models": [model("https://h/a", "models/x"), model("https://h/b", "$MODELS_DIR/x")]})
        ),
        [
            "models[1]: found models/x, the target of models[0] too, with another source; expected another target, or one \
          entry less"
        ]
    );
    assert_eq!(
        problems(json!({"models": [model("https://h/a", "models/x/y"), model("https://h/b", "models/x")]})),
        [
            "models[0]: found models/x/y, below the file models/x of models[1]; expected a path that is not below another \
          model"
        ]
    );
    assert_eq!(
        problems(json!({
            "custom_nodes": [at("https://h/a", "X")],
            "models": [model("https://h/a", "custom_nodes/X")],
        })),
        [
            "models[0]: found custom_nodes/X, where custom_nodes[0] has its directory custom_nodes/X; expected a path that is \
          not a directory of a node"
        ]
    );
    let sums = |a: &str, b: &str| {
        let entry =
            |sum: &str| json!({ "source": "https://h/x", "target_path": "models/x", "checksum": sum });
        json!({ "models": [entry(a), entry(b)] })
    };
    let (zero, one) = (format!("md5:{}", "0".repeat(32)), format!("md5:{}", "1".repeat(32)));
    assert_eq!(
        problems(sums(&zero, &one)),
        [format!(
            "models[1].checksum: found {one} for models/x, for which models[0] says {zero}; expected the same \
                  content, or another target"
        )]
    );
    // Sums of two kinds hold together; equal sums make two sources one content.
    let document = parse(spec(sums(&zero, &"a".repeat(64)))).unwrap();
    assert_eq!(document.spec().models[0].checksums.len(), 2);
    let mirrors = ["https://h/x", "https://mirror/x"]
        .map(|source| json!({ "source": source, "target_path": "models/x", "checksum": zero }));
    assert_eq!(parse(spec(json!({ "models": mirrors }))).unwrap().spec().models.len(), 1);
}

#[test]
fn oddities_are_warned_of_and_kept() {
    let text = spec(json!({
        "note": "mine",
        "comfy": { "repo": "https://tok@h/x", "commit": "main", "ref": "dev" },
        "custom_nodes": [{ "repo": "https://h/N", "target_dir": "$COMFY_HOME/nodes/N", "branch": "x" }],
        "models": [
            { "source": "https://h/x.pth?token=t" },
            { "source": "https://h/y.pth", "target_path": "vae/y.pth" },
            { "source": "/m/z.pth", "target_path": "$COMFY_HOME/nodes/N/z.pth" },
        ],
        "env": { "COMFY_PYTHON": "python3.10" },
        "python": { "version": "3.11" },
    }));
    let document = parse(text.clone()).unwrap();
    let warnings: Vec<String> = document.warnings().iter().map(ToString::to_string).collect();
    let secret = "the address carries a password or token, which everyone who reads the spec will have";
    assert_eq!(
        warnings,
        [
            format!("comfy.repo: {secret}"),
            "comfy.commit: \"main\" is not a whole commit id; it is taken as a ref and pinned in the lock".to_owned(),
            "comfy.ref: not used, because `commit` says \"main\"".to_owned(),
            "custom_nodes[0].branch: unknown key, kept and not used (known here: commit, install_requirements, name, \
             ref, repo, run_install, target_dir, tree)"
                .to_owned(),
            format!("models[0].source: {secret}"),
            "models[0].source: no folder given, so it goes to models/checkpoints/x.pth; `target_subdir` sets another"
                .to_owned(),
            "custom_nodes[0]: ComfyUI loads only what lies directly in custom_nodes/, not nodes/N".to_owned(),
            "models[1]: vae/y.pth lies neither in models/ nor in a node; `$MODELS_DIR/…` is usual".to_owned(),
            "env.COMFY_PYTHON: not used, because `python.version` says \"3.11\"".to_owned(),
            "note: unknown key, kept and not used (known here: $schema, args, comfy, custom_nodes, directories, env, id, lock, models, \
             options, python, python_packages, questions, schema_version, version_id, workflow)"
                .to_owned(),
        ]
    );
    assert_eq!(document.spec().python.version.as_deref(), Some("3.11"));
    assert_eq!(document.text(), text);
}

#[test]
fn malformed_text_has_line_and_column() {
    for (text, expected) in [
        ("", "v.json:1:1: not valid JSON: EOF while parsing a value"),
        ("{\n  \"a\": }", "v.json:2:8: not valid JSON: expected value"),
        (
            "{\n  \"a\": 1,\n  \"b\": {\"x\": 1, \"x\": 2}\n}",
            "v.json:3:17: not valid JSON: the key \"x\" stands twice in one object",
        ),
        (
            "[]",
            "v.json: found an empty list; expected a spec: an object with `schema_version`, `version_id` and `comfy`",
        ),
        (
            "\u{feff}null",
            "v.json: found null; expected a spec: an object with `schema_version`, `version_id` and `comfy`",
        ),
    ] {
        assert_eq!(parse(text.to_owned()).unwrap_err().to_string(), expected);
    }
}

fn with(mut entry: Value, extra: Value, key: &str) -> Value {
    for (name, value) in extra.as_object().unwrap() {
        entry[name] = value.clone();
    }
    Value::Object(Map::from_iter([(key.to_owned(), json!([entry]))]))
}
