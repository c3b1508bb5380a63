//! The Python environment of an install: where it is, and what it holds, by exact version.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::import::error::ImportError;
use crate::import::report::ImportReport;
use crate::python::unfit;
use crate::source::without_secrets;

/// Where environments are, from the directory of ComfyUI: by hand, by the launcher scripts, by comfy-cli, and in the
/// portable packages of Windows.
const PLACES: [&str; 8] = [
    ".venv",
    "venv",
    "../.venv",
    "../venv",
    "../python_embeded",
    "../python_embedded",
    "python_embeded",
    "python_embedded",
];

/// An environment that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) root: PathBuf,
    pub(super) site_packages: PathBuf,
    /// `3.12`, where it can be told.
    pub(super) version: Option<String>,
}

/// What is installed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Packages {
    /// Requirements, `name==1.2` or `name @ https://…`, sorted.
    pub(super) requirements: Vec<String>,
    /// The build of PyTorch as uv names it, where its version tells.
    pub(super) torch_backend: Option<String>,
}

/// The first environment that is there; `named` alone, if the caller knows better.
pub(super) fn find(comfy: &Path, named: Option<&Path>) -> Option<Environment> {
    let places: Vec<PathBuf> = match named {
        Some(path) => vec![path.to_owned()],
        None => PLACES.iter().map(|place| comfy.join(place)).collect(),
    };
    places.into_iter().find_map(|root| at(&root))
}

fn at(root: &Path) -> Option<Environment> {
    let configured = fs::read_to_string(root.join("pyvenv.cfg")).ok();
    let of_config = configured.as_deref().and_then(configured_version);
    let libraries = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut named: Vec<(String, PathBuf)> = libraries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = minor(name.strip_prefix("python")?)?;
            let path = entry.path().join("site-packages");
            path.is_dir().then_some((version, path))
        })
        .collect();
    named.sort();
    if let Some((version, site_packages)) = named.pop() {
        let root = fs::canonicalize(root).ok()?;
        return Some(Environment { root, site_packages, version: of_config.or(Some(version)) });
    }
    let windows = root.join("Lib/site-packages");
    let version = of_config.or_else(|| {
        // `python312._pth` lies beside the program of an embeddable Python.
        let entries = fs::read_dir(root).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digits = name.strip_prefix("python3")?.strip_suffix("._pth")?;
            digits.parse::<u32>().is_ok().then(|| format!("3.{digits}"))
        })
    });
    let root = fs::canonicalize(root).ok()?;
    windows.is_dir().then_some(Environment { root, site_packages: windows, version })
}

/// The version that a `pyvenv.cfg` names.
pub(super) fn configured_version(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        matches!(key.trim(), "version" | "version_info").then(|| minor(value.trim()))?
    })
}

/// `3.12` of `3.12.7`.
fn minor(version: &str) -> Option<String> {
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    let plain = |text: &str| text.parse::<u32>().is_ok();
    (plain(major) && plain(minor)).then(|| format!("{major}.{minor}"))
}

/// Every package of an environment. What came from a directory of that machine cannot be had again, and is told.
pub(super) fn installed(
    environment: &Environment,
    report: &mut ImportReport,
) -> Result<Packages, ImportError> {
    let dir = &environment.site_packages;
    let failed = |error| ImportError::io("list", dir, error);
    let mut packages = Packages::default();
    let mut found: BTreeMap<String, (Option<SystemTime>, String, PathBuf)> = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let metadata = match () {
            () if name.ends_with(".dist-info") => path.join("METADATA"),
            () if name.ends_with(".egg-info") && path.is_dir() => path.join("PKG-INFO"),
            () if name.ends_with(".egg-link") => {
                report.leave_out(&path, "a package that is installed from a directory (editable)");
                continue;
            }
            () => continue,
        };
        let direct = fs::read(path.join("direct_url.json")).ok();
        let Package { name, version, requirement } =
            match fs::read(&metadata).ok().and_then(|bytes| package(&bytes, direct.as_deref())) {
                None => {
                    report.leave_out(&path, "it does not say which package it is");
                    continue;
                }
                Some(Err(reason)) => {
                    report.leave_out(&path, reason);
                    continue;
                }
                Some(Ok(package)) => package,
            };
        // What an interrupted upgrade leaves. What was installed last, Python finds in the files themselves.
        let time = fs::metadata(&metadata).and_then(|metadata| metadata.modified()).ok();
        let key = name.to_ascii_lowercase().replace(['_', '.'], "-");
        let this = (time, requirement, path.clone());
        match found.remove(&key) {
            Some(known) => {
                let (kept, other) = if this > known { (this, known) } else { (known, this) };
                report.leave_out(&other.2, format!("{} is there as well, and was installed later", kept.1));
                found.insert(key, kept);
            }
            None => drop(found.insert(key, this)),
        }
        if name.eq_ignore_ascii_case("torch") {
            let build = version.split_once('+').map(|(_, build)| build.to_owned());
            let known = |build: &String| {
                build == "cpu" || ["cu", "rocm", "xpu"].iter().any(|kind| build.starts_with(kind))
            };
            packages.torch_backend = build.filter(known);
        }
    }
    packages.requirements = found.into_values().map(|(_, requirement, _)| requirement).collect();
    packages.requirements.sort_by_key(|requirement| requirement.to_ascii_lowercase());
    Ok(packages)
}

/// A package as its metadata tells it.
pub(super) struct Package {
    name: String,
    version: String,
    /// As a spec may have it.
    pub(super) requirement: String,
}

/// What `METADATA` and `direct_url.json` say; none without a name and a version, an error with the reason for what
/// cannot be had again from anywhere else.
pub(super) fn package(metadata: &[u8], direct: Option<&[u8]>) -> Option<Result<Package, String>> {
    let (name, version) = head(&String::from_utf8_lossy(metadata))?;
    let direct = direct.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let requirement = match direct.as_ref().map(origin) {
        None => format!("{name}=={version}"),
        Some(Ok(address)) => format!("{name} @ {address}"),
        Some(Err(from)) => {
            return Some(Err(format!("{name} {version} was installed from {from} of this machine")));
        }
    };
    Some(match unfit(&requirement) {
        Some(reason) => Err(format!("{name} {version}: {reason}")),
        None => Ok(Package { name, version, requirement }),
    })
}

/// Name and version, from the head of a `METADATA`.
fn head(text: &str) -> Option<(String, String)> {
    let field = |name: &str| {
        let lines = text.lines().take_while(|line| !line.is_empty());
        lines
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let plain = |text: &String| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+!".contains(&b))
    };
    Some((field("Name").filter(plain)?, field("Version").filter(plain)?))
}

/// Where a package came from that came from no index (PEP 610); the error is a directory or file of that machine.
fn origin(direct: &Value) -> Result<String, String> {
    let url = without_secrets(direct.get("url").and_then(Value::as_str).unwrap_or_default());
    if url.starts_with("file:") || direct.get("dir_info").is_some() || url.is_empty() {
        return Err(url.into_owned());
    }
    match direct.get("vcs_info") {
        Some(vcs) => {
            let text = |key| vcs.get(key).and_then(Value::as_str);
            let commit = text("commit_id").or_else(|| text("requested_revision"));
            let kind = text("vcs").unwrap_or("git");
            Ok(format!("{kind}+{url}{}", commit.map(|commit| format!("@{commit}")).unwrap_or_default()))
        }
        None => Ok(url.into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_versions_and_where_they_came_from() {
        let temp = tempfile::tempdir().unwrap();
        let site = temp.path().join("venv/lib/python3.12/site-packages");
        let add = |dir: &str, metadata: &str, direct: Option<&str>| {
            let dir = site.join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("METADATA"), metadata).unwrap();
            if let Some(direct) = direct {
                fs::write(dir.join("direct_url.json"), direct).unwrap();
            }
        };
        add(
            "torch-2.5.1+cu124.dist-info",
            "Metadata-Version: 2.1\nName: torch\nVersion: 2.5.1+cu124\n\nName: x",
            None,
        );
        add("NumPy-1.26.4.dist-info", "Name: NumPy\nVersion: 1.26.4\n", None);
        add(
            "a-1.dist-info",
            "Name: a\nVersion: 1\n",
            Some(r#"{"url":"https://h/a.git","vcs_info":{"vcs":"git","commit_id":"abc"}}"#),
        );
        add(
            "b-1.dist-info",
            "Name: b\nVersion: 1\n",
            Some(r#"{"url":"file:///b","dir_info":{"editable":true}}"#),
        );
        add("d-1.dist-info", "Name: d\nVersion: 1\n", Some(r#"{"url":"https://h/d.whl\n-e /srv/d"}"#));
        add("e-1.dist-info", "Name: e\nVersion: 1\n", Some(r#"{"url":"https://h/${HF_TOKEN}/e.whl"}"#));
        // An upgrade that was cut short.
        add("NumPy-1.25.0.dist-info", "Name: numpy\nVersion: 1.25.0\n", None);
        let older =
            fs::File::options().write(true).open(site.join("NumPy-1.25.0.dist-info/METADATA")).unwrap();
        older.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        add("c.dist-info", "Name: c\nVersion: $(x)\n", None);
        let mut report = ImportReport::default();
        let environment = find(temp.path(), None).unwrap();
        assert_eq!(environment.version.as_deref(), Some("3.12"));
        let packages = installed(&environment, &mut report).unwrap();
        assert_eq!(
            packages.requirements,
            ["a @ git+https://h/a.git@abc", "NumPy==1.26.4", "torch==2.5.1+cu124"]
        );
        assert_eq!(packages.torch_backend.as_deref(), Some("cu124"));
        let mut reasons: Vec<_> = report.left_out.iter().map(|left| left.reason.as_str()).collect();
        reasons.sort_unstable();
        assert_eq!(
            reasons,
            [
                "NumPy==1.26.4 is there as well, and was installed later",
                "b 1 was installed from file:///b of this machine",
                "d 1: it has control characters, and a requirement is one line",
                "e 1: a variable of this machine's environment cannot be part of a version",
                "it does not say which package it is"
            ]
        );
    }
}
