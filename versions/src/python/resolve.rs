//! From requirements to exact packages, with `uv pip compile`.
//!
//! Core comes first: where it or the spec asks for PyTorch, both are resolved alone, and the versions of PyTorch's family
//! that this gives are constraints for the whole. A node that wants another PyTorch is a conflict then, never a silent
//! replacement. What an earlier lock has stays as long as the requirements allow it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::classify::{self, Unresolved};
use super::conflict;
use super::error::PythonError;
use super::event::{PythonEvent, PythonOptions};
use super::interpreter::Interpreter;
use super::lock;
use super::requirements::{Requirements, Role, name_of};
use super::text::Names;
use super::uv::Uv;

/// What is built for one version of PyTorch, so that nodes must not replace it.
const TORCH: [&str; 4] = ["torch", "torchvision", "torchaudio", "xformers"];
/// Where uv writes the lock; uv wants this name.
const OUTPUT: &str = "pylock.toml";
const BASE: &str = "environment.txt";
const PINS: &str = "pins.txt";

/// What is to be resolved.
#[derive(Clone, Copy)]
pub struct ResolveRequest<'a> {
    /// For whom.
    pub interpreter: &'a Interpreter,
    /// Core, `python_packages` and nodes, in this order.
    pub requirements: &'a [Requirements],
    /// The index in place of the default one.
    pub index_url: Option<&'a str>,
    /// Further indexes. The best version of all counts, as for pip.
    pub extra_index_urls: &'a [String],
    /// For which hardware PyTorch is taken, as uv names them: `cpu`, `cu128`, `auto`, …
    pub torch_backend: Option<&'a str>,
    /// A directory of wheels; offline, it and uv's cache are the only places.
    pub wheels: Option<&'a Path>,
    /// An earlier lock, whose versions are kept where the requirements allow it.
    pub previous: Option<&'a Value>,
    /// Network, events, cancel.
    pub options: PythonOptions<'a>,
}

impl ResolveRequest<'_> {
    /// Tells `command` where packages come from.
    fn places(&self, command: &mut Command) {
        places(command, self.index_url, self.extra_index_urls, self.wheels);
        if let Some(backend) = self.torch_backend {
            command.env("UV_TORCH_BACKEND", backend);
        }
    }
}

/// Tells `command` where packages come from: by its environment, since an address can hold a password, and arguments
/// can be seen by everyone.
pub(super) fn places(
    command: &mut Command,
    index_url: Option<&str>,
    extra_index_urls: &[String],
    wheels: Option<&Path>,
) {
    if let Some(index) = index_url {
        command.env_remove("UV_INDEX_URL").env("UV_DEFAULT_INDEX", index);
    }
    if !extra_index_urls.is_empty() {
        command.env("UV_INDEX", extra_index_urls.join(" ")).env("UV_INDEX_STRATEGY", "unsafe-best-match");
    }
    if let Some(wheels) = wheels {
        command.arg("--find-links").arg(std::path::absolute(wheels).unwrap_or_else(|_| wheels.to_owned()));
    }
}

/// A list that takes part in a resolution.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) label: String,
    pub(super) kind: Kind,
    /// Its requirements, for people.
    pub(super) lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A list of the version, with its file below the directory of the work.
    List(Role, PathBuf),
    /// Versions that an earlier step decided.
    Pins,
}

/// A resolution at work.
pub(super) struct Resolver<'a> {
    uv: &'a Uv,
    request: &'a ResolveRequest<'a>,
    directory: PathBuf,
}

/// Resolves `request` in a directory of its own below `scratch`. The outcome is a PEP 751 document as JSON.
///
/// # Errors
/// [`PythonError::Conflict`] names the lists that disagree; [`PythonError::Offline`], [`PythonError::Unreachable`] and
/// [`PythonError::BuildFailed`] are what they say.
pub fn resolve(uv: &Uv, scratch: &Path, request: &ResolveRequest<'_>) -> Result<Value, PythonError> {
    let directory = scratch.join("resolve");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(|source| PythonError::io("make", &directory, source))?;
    let resolver = Resolver { uv, request, directory };
    let done = resolver.run();
    let _ = fs::remove_dir_all(&resolver.directory);
    done
}

impl Resolver<'_> {
    fn run(&self) -> Result<Value, PythonError> {
        let mut sources = self.lay_out()?;
        self.request.options.event(PythonEvent::Resolving { sources: sources.len() });
        // Where there is no pip to be had, an environment without it is better than none.
        let mut base = true;
        if let Some(pins) = self.pins(&sources, &mut base)? {
            sources.push(pins);
        }
        let all: Vec<&Source> = sources.iter().collect();
        match self.compile_with_base(&all, &mut base)? {
            Ok(document) => Ok(document),
            Err(explanation) => Err(conflict::find(self, &sources, explanation)),
        }
    }

    /// Writes the lists to files.
    fn lay_out(&self) -> Result<Vec<Source>, PythonError> {
        let mut taken = HashSet::new();
        let mut sources = Vec::new();
        for list in self.request.requirements {
            let mut name: String = list
                .label
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
                .collect();
            while name.is_empty() || name == OUTPUT || !taken.insert(name.clone()) {
                name.push('+');
            }
            for (path, text) in list.laid_out() {
                let file = self.directory.join(&name).join(path);
                let parent = file.parent().unwrap_or(&self.directory);
                let written = fs::create_dir_all(parent).and_then(|()| fs::write(&file, text));
                written.map_err(|source| PythonError::io("write", &file, source))?;
            }
            let kind = Kind::List(list.role, Path::new(&name).join(&list.entry));
            sources.push(Source { label: list.label.clone(), kind, lines: list.requirements().collect() });
        }
        let mut base = "pip\n".to_owned();
        if self.request.interpreter.minor() < (3, 12) {
            base.push_str("setuptools\n");
        }
        self.write(BASE, &base)?;
        Ok(sources)
    }

    fn write(&self, name: &str, content: &str) -> Result<(), PythonError> {
        let file = self.directory.join(name);
        fs::write(&file, content).map_err(|source| PythonError::io("write", file, source))
    }

    /// The versions of PyTorch's family that core and `python_packages` have without the nodes; none when they ask for
    /// none, or there are no nodes.
    fn pins(&self, sources: &[Source], base: &mut bool) -> Result<Option<Source>, PythonError> {
        let node = |source: &Source| matches!(source.kind, Kind::List(Role::Node, _));
        let (nodes, own): (Vec<&Source>, Vec<&Source>) = sources.iter().partition(|source| node(source));
        let asks = |source: &&Source| source.lines.iter().any(|line| TORCH.contains(&name_of(line).as_str()));
        if nodes.is_empty() || !own.iter().any(asks) {
            return Ok(None);
        }
        // Core and the spec disagree without any node: the whole says so as well, and names them.
        let Ok(document) = self.compile_with_base(&own, base)? else { return Ok(None) };
        let pin = |package: lock::LockedPackage| {
            let version = package.version.filter(|_| TORCH.contains(&package.name.as_str()))?;
            Some(format!("{}=={version}", package.name))
        };
        let lines: Vec<String> = lock::packages(&document)?.into_iter().filter_map(pin).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        self.write(PINS, &lines.join("\n"))?;
        let labels: Vec<&str> = own.iter().filter(|s| asks(s)).map(|source| source.label.as_str()).collect();
        Ok(Some(Source { label: labels.join(" with "), kind: Kind::Pins, lines }))
    }

    /// One run, with pip while there is one; a conflict's explanation is the inner error.
    fn compile_with_base(
        &self,
        sources: &[&Source],
        base: &mut bool,
    ) -> Result<Result<Value, String>, PythonError> {
        loop {
            let (explanation, failed) = match self.compile(sources, *base, self.request.options.offline) {
                Ok(document) => return Ok(Ok(document)),
                Err(Unresolved::Conflict(explanation)) => (explanation.clone(), Ok(Err(explanation))),
                Err(Unresolved::Failed(error)) => (error.to_string(), Err(error)),
            };
            let without = |name: &str| explanation.contains(&format!(" {name} was not found in"));
            if !*base || !(without("pip") || without("setuptools")) {
                return failed;
            }
            *base = false;
        }
    }

    /// One run of uv over some of the lists.
    pub(super) fn compile(
        &self,
        sources: &[&Source],
        base: bool,
        offline: bool,
    ) -> Result<Value, Unresolved> {
        let request = self.request;
        let output = self.directory.join(OUTPUT);
        let prepared = match request.previous.map(preferences).transpose() {
            Ok(Some(text)) => fs::write(&output, text),
            Ok(None) => match fs::remove_file(&output) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Err(error) => return Err(Unresolved::Failed(error)),
        };
        prepared.map_err(|source| Unresolved::Failed(PythonError::io("write", &output, source)))?;
        let mut command = self.uv.command(&self.directory, offline);
        command.args(["pip", "compile", "--quiet", "--format", "pylock.toml", "--output-file", OUTPUT]);
        command.arg("--python").arg(&request.interpreter.path);
        request.places(&mut command);
        if base {
            command.arg(BASE);
        }
        for source in sources {
            match &source.kind {
                Kind::List(_, file) => command.arg(file),
                Kind::Pins => command.args(["--constraints", PINS]),
            };
        }
        if !base && sources.iter().all(|source| source.kind == Kind::Pins) {
            return lock::from_toml("lock-version = \"1.0\"").map_err(Unresolved::Failed);
        }
        let run = self.uv.run("resolve the requirements", &mut command, &request.options);
        let run = run.map_err(Unresolved::Failed)?;
        if !run.status.success() {
            return Err(classify::resolution(&run.stderr, &self.names()));
        }
        let text = fs::read_to_string(&output);
        let text = text.map_err(|source| Unresolved::Failed(PythonError::io("read", &output, source)))?;
        lock::from_toml(&text).map_err(Unresolved::Failed)
    }

    fn names(&self) -> Names {
        let mut names = Names::new();
        names.add(&self.directory.join(""), "");
        names.add(self.uv.state(), "uv");
        names
    }

    pub(super) fn options(&self) -> &PythonOptions<'_> {
        &self.request.options
    }
}

/// An earlier lock as far as uv reads it for the versions to prefer.
fn preferences(previous: &Value) -> Result<String, PythonError> {
    let pin = |package: lock::LockedPackage| Some(json!({"name": package.name, "version": package.version?}));
    let packages: Vec<Value> = lock::packages(previous)?.into_iter().filter_map(pin).collect();
    lock::to_toml(&json!({"lock-version": "1.0", "packages": packages}), None)
}
