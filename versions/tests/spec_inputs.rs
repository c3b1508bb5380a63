//! Nodes and models as arguments: strings, JSON, and lists in files.

use std::fs;

use cvs_versions::SpecError;
use cvs_versions::spec::inputs;
use serde_json::{Value, json};

type Read = fn(&str, &std::path::Path) -> Result<Vec<Value>, SpecError>;

#[test]
fn strings_become_entries() {
    let temp = tempfile::tempdir().unwrap();
    let cwd = temp.path();
    let here = cwd.display();
    fs::create_dir(cwd.join("repo@1")).unwrap();
    fs::write(cwd.join("a=b.pth"), "x").unwrap();
    let commit = "f54d0d102d0b6f3a9e08b07117fae8b9d189219d";
    let dollar = "$MODELS_DIR/loras/x.safetensors";
    let query = "civitai://api/download/models/1?type=Model&format=SafeTensor";
    for (read, text, expected) in [
        (inputs::read_nodes as Read, "https://h/o/r".to_owned(), json!({ "repo": "https://h/o/r" })),
        (
            inputs::read_nodes,
            "https://h/o/r@main".to_owned(),
            json!({ "repo": "https://h/o/r", "ref": "main" }),
        ),
        (
            inputs::read_nodes,
            format!("git@h:o/r.git@{commit}"),
            json!({ "repo": "git@h:o/r.git", "commit": commit }),
        ),
        (inputs::read_nodes, "./repo@v1".to_owned(), json!({ "repo": format!("{here}/repo"), "ref": "v1" })),
        (inputs::read_nodes, "./repo@1".to_owned(), json!({ "repo": format!("{here}/repo@1") })),
        (inputs::read_models, "https://h/x.pth".to_owned(), json!({ "source": "https://h/x.pth" })),
        (
            inputs::read_models,
            "https://h/x.pth=models/vae/".to_owned(),
            json!({ "source": "https://h/x.pth", "target_path": "models/vae/" }),
        ),
        (inputs::read_models, format!("{query}={dollar}"), json!({ "source": query, "target_path": dollar })),
        (
            inputs::read_models,
            "https://h/x.pth?sig=a/b".to_owned(),
            json!({ "source": "https://h/x.pth?sig=a/b" }),
        ),
        (
            inputs::read_models,
            "https://h/config.yaml".to_owned(),
            json!({ "source": "https://h/config.yaml" }),
        ),
        (inputs::read_models, "sub/../x.pth".to_owned(), json!({ "source": format!("{here}/x.pth") })),
        (inputs::read_models, "a=b.pth".to_owned(), json!({ "source": format!("{here}/a=b.pth") })),
    ] {
        assert_eq!(read(&text, cwd).unwrap(), [expected], "{text}");
    }
    assert_eq!(inputs::repo_from_arg("../c@v1", cwd), format!("{}/c@v1", cwd.parent().unwrap().display()));
    assert_eq!(inputs::repo_from_arg("https://h/o/r", cwd), "https://h/o/r");
}

#[test]
fn lists_are_read_in_every_shape() {
    let temp = tempfile::tempdir().unwrap();
    let cwd = temp.path();
    let write = |name: &str, text: &str| fs::write(cwd.join(name), text).unwrap();
    let two = [json!({ "repo": "https://h/a" }), json!({ "repo": "https://h/b", "ref": "dev" })];
    write("nodes.json", r#"{"nodes": [{"repo": "https://h/a"}, "https://h/b@dev"]}"#);
    write("nodes.yml", "- repo: https://h/a\n- https://h/b@dev\n");
    write("nodes.YAML", "nodes:\n  - {repo: 'https://h/a'}\n  - &x\n    repo: https://h/b\n    ref: dev\n");
    write(
        "spec.json",
        r#"{"models": [], "custom_nodes": [{"repo": "https://h/a"}, {"repo": "https://h/b", "ref": "dev"}]}"#,
    );
    for text in
        ["nodes.json", "nodes.yml", "nodes.YAML", "spec.json", r#" ["https://h/a", "https://h/b@dev"]"#]
    {
        assert_eq!(inputs::read_nodes(text, cwd).unwrap(), two, "{text}");
    }
    assert_eq!(inputs::read_nodes(r#"{"repo": "https://h/a"}"#, cwd).unwrap(), two[..1]);
    write("models.yaml", "models:\n");
    assert_eq!(inputs::read_models("models.yaml", cwd).unwrap(), [Value::Null; 0]);
    // Relative sources start at the list, not at the working directory.
    fs::create_dir(cwd.join("lists")).unwrap();
    write("lists/m.yml", "- ./x.pth\n- {source: y.pth, target_subdir: vae}\n");
    let at = |name: &str| format!("{}/lists/{name}", cwd.display());
    assert_eq!(
        inputs::read_models("lists/m.yml", cwd).unwrap(),
        [json!({ "source": at("x.pth") }), json!({ "source": at("y.pth"), "target_subdir": "vae" })]
    );
}

#[test]
fn bad_lists_name_the_file_and_the_place() {
    let temp = tempfile::tempdir().unwrap();
    let cwd = temp.path();
    let named = |name: &str| cwd.join(name).display().to_string();
    let list =
        "a list of nodes, an object with the list under `custom_nodes` or `nodes`, or one node with `repo`";
    for (name, text, expected) in [
        (
            "a.json",
            "[{}, {\"repo\": 1}]",
            vec![
                ": 2 problems\n  [0].repo: found nothing; expected ",
                "\n  [1].repo: found the number 1; expected ",
            ],
        ),
        (
            "b.yml",
            "nodes:\n  - repo: https://h/a\n    commit: 1e7\n",
            vec![": nodes[0].commit: found the number ", ", in quotes: "],
        ),
        ("c.yml", "nodes: x\n", vec![": nodes: found \"x\"; expected a list"]),
        ("d.yml", "models: []\n", vec![": found an object; expected ", list]),
        ("e.yml", "nodes:\n  - [\n", vec![":", ": not valid YAML: "]),
        ("f.yml", "a: 1\na: 2\n", vec![":2:1: not valid YAML: "]),
        ("g.json", "[\n1,]", vec![":2:3: not valid JSON: trailing comma"]),
    ] {
        fs::write(cwd.join(name), text).unwrap();
        let error = inputs::read_nodes(name, cwd).unwrap_err().to_string();
        let rest = error.strip_prefix(&named(name)).unwrap_or_else(|| panic!("{error}"));
        assert!(rest.starts_with(expected[0]), "{error}");
        assert!(expected.iter().all(|part| rest.contains(part)), "{error}");
    }
    let missing = inputs::read_models("missing.yml", cwd).unwrap_err();
    assert_eq!(missing.to_string(), format!("cannot read {}", named("missing.yml")));
    let string = inputs::node_from_arg("https://h/a@", cwd).unwrap_err().to_string();
    assert_eq!(
        string,
        "the node \"https://h/a@\": ref: found \"\"; expected a branch, a tag, a full ref name or a commit id"
    );
    let json =
        inputs::read_models("[{\"source\": \"/x.pth\", \"path\": \"/etc/x\"}]", cwd).unwrap_err().to_string();
    assert!(json.starts_with("--models: [0].path: found \"/etc/x\", an absolute path; expected "), "{json}");
    // A document that grows without bound is refused, not expanded.
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in ('a'..'j').zip('b'..='j') {
        bomb += &format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(", "));
    }
    fs::write(cwd.join("bomb.yml"), bomb).unwrap();
    let error = inputs::read_nodes("bomb.yml", cwd).unwrap_err();
    assert!(matches!(error, SpecError::Syntax { format: "YAML", .. }), "{error}");
}
