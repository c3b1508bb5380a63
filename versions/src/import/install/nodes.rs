//! The nodes of an install: directories in `custom_nodes` and where `extra_model_paths.yaml` says, and files that lie in
//! `custom_nodes` itself. What is there and is not taken is told.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use cvs_store::{Intake, ManifestBuilder, RelPath, StoreError};
use serde_json::{Value, json};

use super::models::{self, ModelFile};
use super::repos::{self, Found, Repo};
use super::{Importer, join, list, name, no_directory};
use crate::import::error::ImportError;
use crate::import::left_out_of_trees;
use crate::import::report::{ImportReport, Taken};

/// What model files are called.
const MODEL_ENDS: [&str; 8] = [".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"];
/// From this size on such a file in the directory of a node is a model of its own.
const MODEL_SIZE: u64 = 10 << 20;

/// A directory of a node.
pub(super) struct NodeDir {
    pub(super) found: Found,
    /// Where it goes in the view.
    pub(super) path: RelPath,
    /// Model files in it that its commit does not have.
    pub(super) models: Vec<ModelFile>,
}

impl Importer<'_> {
    /// The directories of nodes, in the order of names.
    pub(super) fn nodes(&mut self, elsewhere: &[PathBuf]) -> Result<Vec<NodeDir>, ImportError> {
        let mut nodes: Vec<NodeDir> = Vec::new();
        let home = name("custom_nodes");
        let mut places = vec![(self.root.join("custom_nodes"), home.clone())];
        places.push((self.root.join("custom_nodes/.disabled"), join(&home, ".disabled")?));
        places.extend(elsewhere.iter().map(|dir| (dir.clone(), home.clone())));
        for (index, (place, target)) in places.into_iter().enumerate() {
            for entry in list(&place)? {
                let path = entry.path();
                let file_name = entry.file_name();
                if matches!(file_name.to_str(), Some(".git" | "__pycache__" | ".disabled")) && path.is_dir() {
                    continue;
                }
                if !path.is_dir() {
                    // Files of the first two places are taken by themselves.
                    match path.is_file() {
                        true if index < 2 => {}
                        true => self.report.leave_out(
                            path,
                            "a file of a directory of nodes elsewhere, of which directories are taken",
                        ),
                        false => self.report.leave_out(&path, no_directory(&path)),
                    }
                    continue;
                }
                let Some(file_name) = file_name.to_str() else {
                    self.report.leave_out(path, "its name is not UTF-8");
                    continue;
                };
                let target = join(&target, file_name)?;
                if nodes.iter().any(|node| node.path == target) {
                    self.report.leave_out(path, format!("another directory is {target} already"));
                    continue;
                }
                // Where a link leads, the node is.
                let dir = fs::canonicalize(&path).map_err(|error| ImportError::io("open", &path, error))?;
                let found = Found { repo: Repo::of(&dir), dir, commit: None, tree: None };
                nodes.push(NodeDir { found, path: target, models: Vec::new() });
            }
        }
        Ok(nodes)
    }

    pub(super) fn node_tree(&mut self, node: &mut NodeDir) -> Result<(), ImportError> {
        let tracked = match node.found.commit {
            Some(commit) => repos::paths(&self.manifest(&commit)?),
            None => BTreeSet::new(),
        };
        let is_model =
            |name: &str, size: u64| size >= MODEL_SIZE && MODEL_ENDS.iter().any(|end| name.ends_with(end));
        let mut models: BTreeSet<RelPath> = BTreeSet::new();
        let mut files: Vec<ModelFile> = Vec::new();
        let (dir, path) = (&node.found.dir, &node.path);
        // What is told of this walk, is told by the one that takes the rest.
        let mut ignored = ImportReport::default();
        models::walk(dir, path, &mut Vec::new(), &mut ignored, &mut |source, target, size, _| {
            let Some(inside) = target.strip_prefix(path) else { return };
            let linked = source.is_symlink() || !source.starts_with(dir);
            if !linked && !tracked.contains(&inside) && is_model(&inside.to_string(), size) {
                files.push(ModelFile { source: source.to_owned(), target: target.clone(), size });
                models.insert(inside);
            }
        })?;
        let exclude = |path: &RelPath| left_out_of_trees(path) || models.contains(path);
        let options = self.source_options();
        let (tree, special) = repos::read_tree(self.transaction, dir, &exclude, &options)?;
        if let Some(first) = special.first() {
            self.report.leave_out_special(dir, dir.join(first.as_path()), special.len());
        }
        node.found.tree = Some(tree);
        node.models = files;
        Ok(())
    }

    /// Files that lie in `place` itself, most of them nodes of one file: an entry that has just them.
    pub(super) fn loose_files(&mut self, place: &RelPath) -> Result<Option<(Taken, Value)>, ImportError> {
        let dir = self.root.join(place.as_path());
        let (mut builder, mut names) = (ManifestBuilder::new(), Vec::new());
        for entry in list(&dir)? {
            let (path, file_name) = (entry.path(), entry.file_name());
            if !path.is_file() {
                continue;
            }
            let file_name = file_name.as_encoded_bytes();
            let (Ok(file), Ok(target)) = (RelPath::new(file_name), place.join(file_name)) else {
                self.report.leave_out(path, "its name cannot stand in a version");
                continue;
            };
            if self.tracked.contains(&target) {
                continue;
            }
            let stored = self.transaction.put_file(&path, Intake::Copy).map_err(ImportError::store)?;
            let listed = builder.file(&file, 0o644, stored.size, stored.id);
            listed.map_err(|source| StoreError::Manifest { context: dir.display().to_string(), source })?;
            names.push(file.to_string());
        }
        if names.is_empty() {
            return Ok(None);
        }
        let tree = self.transaction.put_manifest(builder).map_err(ImportError::store)?;
        let from = dir.display().to_string();
        let part = format!("files in {place}");
        let entry = json!({
            "repo": from,
            "name": part,
            "target_dir": format!("$COMFY_HOME/{place}"),
            "tree": { "manifest": tree.to_string(), "from": from },
            "install_requirements": false,
        });
        let how = format!("as they were found: {}", names.join(", "));
        Ok(Some((Taken { part, from, how, changes: Vec::new(), bytes: None }, entry)))
    }

    pub(super) fn node_entry(&mut self, node: &NodeDir) -> Result<Value, ImportError> {
        let mut fields = self.entry(&node.found, format!("node {}", node.path), &[])?;
        let name = String::from_utf8_lossy(node.path.file_name().unwrap_or_default()).into_owned();
        let usual = name_path(&name).as_ref() == Some(&node.path);
        fields.insert("name".to_owned(), name.into());
        if !usual {
            fields.insert("target_dir".to_owned(), format!("$COMFY_HOME/{}", node.path).into());
        }
        // The packages of the environment are known exactly, those of nodes among them.
        fields.insert("install_requirements".to_owned(), false.into());
        Ok(fields.into())
    }
}

/// Where a node of this name goes by itself.
fn name_path(text: &str) -> Option<RelPath> {
    name("custom_nodes").join(text).ok()
}
