//! The index as pip's successor sees it, and its pages as they are.

use std::path::Path;
use std::process::{Command, Output};

use super::{JSON, PackageIndex, Sdist, Wheel};
use crate::{Fault, available, get, send, tool};

/// `uv pip install --target DIR/site NAME` from the index alone, in a cache of its own.
fn install(index: &str, dir: &Path, requirement: &str) -> Option<Output> {
    let uv = available(tool("uv"))?;
    let mut command = Command::new(uv);
    command.args(["pip", "install", "--no-config", "--default-index", index, "--target"]);
    command.arg(dir.join("site")).arg(requirement);
    command.env("UV_CACHE_DIR", dir.join("cache")).env("UV_HTTP_RETRIES", "0");
    Some(command.output().expect("starting a program that was found"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pages() {
    let index = PackageIndex::empty();
    index.add(&Wheel::new("My.Package", "1.0").requires_python(">=3.10"));
    index.add_sdist(&Sdist::of(Wheel::new("my-package", "1.1")));
    let url = index.server().url(&index.page("My_Package"));
    let json = send("GET", &url, &[("Accept", JSON)], b"").unwrap();
    assert_eq!(json.headers.get("content-type"), Some(JSON));
    let page = json.json();
    assert_eq!(page["name"], "my-package");
    assert_eq!(page["files"][0]["filename"], "my_package-1.0-py3-none-any.whl");
    assert_eq!(page["files"][0]["requires-python"], ">=3.10");
    assert_eq!(page["files"][1]["core-metadata"], false);
    let html = String::from_utf8(get(&url).body).unwrap();
    assert!(
        html.contains("data-requires-python=\"&gt;=3.10\">my_package-1.0-py3-none-any.whl</a>"),
        "{html}"
    );
    let metadata = get(&index.server().url("/files/my_package-1.0-py3-none-any.whl.metadata"));
    assert_eq!(
        String::from_utf8(metadata.body).unwrap(),
        "Metadata-Version: 2.2\nName: My.Package\nVersion: 1.0\nRequires-Python: >=3.10\n"
    );
    index.remove("my_package-1.0-py3-none-any.whl");
    assert_eq!(get(&index.server().url("/files/my_package-1.0-py3-none-any.whl")).status, 404);
    assert_eq!(get(&format!("{}/nothing/", index.url())).status, 404);
}

#[test]
fn wheels_and_sdists_are_installed_with_what_they_require() {
    let index = PackageIndex::empty();
    index.add(&Wheel::new("other", "1.5"));
    index.add(&Wheel::new("other", "2.0"));
    index.add_sdist(&Sdist::of(Wheel::new("built", "3.0").requires("other<2")));
    let script = "def main():\n    print('hello')\n";
    index.add(
        &Wheel::new("top", "1.0")
            .requires("built")
            .module("top/cli.py", script)
            .console_script("top", "top.cli:main"),
    );
    let dir = tempfile::tempdir().unwrap();
    let Some(output) = install(&index.url(), dir.path(), "top") else { return };
    assert!(output.status.success(), "{}", said(&output));
    let site = dir.path().join("site");
    for (path, text) in [
        ("other/__init__.py", "VERSION = \"1.5\"\n"),
        ("built/__init__.py", "VERSION = \"3.0\"\n"),
        ("top/cli.py", script),
    ] {
        assert_eq!(std::fs::read_to_string(site.join(path)).unwrap(), text, "{path}");
    }
    let program = Command::new(site.join("bin/top")).env("PYTHONPATH", &site).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&program.stdout), "hello\n", "{}", said(&program));
    assert_eq!(index.server().requests_of("/files/other-1.5-py3-none-any.whl").len(), 1);
    assert_eq!(index.server().requests_of("/files/other-2.0-py3-none-any.whl").len(), 0);
}

#[test]
fn the_downloaded_wheels_are_served() {
    let Some(index) = available(PackageIndex::start()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(output) = install(&index.url(), dir.path(), "sortedcontainers") else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert!(dir.path().join("site/sortedcontainers/sorteddict.py").is_file());
}

#[test]
fn faults() {
    let file = "other-1.0-py3-none-any.whl";
    type Break = fn(&PackageIndex);
    let cases: [(&str, Break, &str); 4] = [
        (
            "a wrong hash",
            |index| index.list_wrong_hash("other-1.0-py3-none-any.whl"),
            "Hash mismatch for `other==1.0`",
        ),
        (
            "a lost file",
            |index| index.server().remove(&index.file("other-1.0-py3-none-any.whl")),
            "404 Not Found",
        ),
        ("a login", |index| index.require_authorization("Basic dTpw"), "credentials"),
        (
            "a broken page",
            |index| index.server().fault(&index.page("other"), Fault::Status(503, Vec::new())),
            "503 Service Unavailable",
        ),
    ];
    for (name, break_it, words) in cases {
        let index = PackageIndex::empty();
        let wheel = Wheel::new("other", "1.0");
        assert_eq!(wheel.file_name(), file);
        index.add(&wheel);
        break_it(&index);
        let dir = tempfile::tempdir().unwrap();
        let Some(output) = install(&index.url(), dir.path(), "other") else { return };
        assert!(!output.status.success() && said(&output).contains(words), "{name}: {}", said(&output));
    }
    let index = PackageIndex::empty();
    index.add_sdist(&Sdist::of(Wheel::new("built", "1.0")).failing("no compiler here"));
    let dir = tempfile::tempdir().unwrap();
    let Some(output) = install(&index.url(), dir.path(), "built") else { return };
    assert!(said(&output).contains("RuntimeError: no compiler here"), "{}", said(&output));
    let nowhere = index.stop();
    let Some(output) = install(&nowhere, dir.path(), "built") else { return };
    assert!(!output.status.success(), "{}", said(&output));
}
