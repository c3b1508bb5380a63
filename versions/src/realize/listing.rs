//! What a view puts at every path, flat and sorted, so that two views can be laid side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use cvs_store::{BlobId, EntryKind, RelPath, Store, StoreError};

use super::error::RealizeError;
use super::record::Written;

/// What lies at one path of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(FileNode),
    Symlink(Box<[u8]>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileNode {
    pub(super) blob: BlobId,
    pub(super) size: u64,
    pub(super) mode: u32,
    /// It comes from the manifest of models, and may be a link into the store.
    pub(super) model: bool,
    /// It is to be one.
    pub(super) linked: bool,
    /// For a file with several names, the first of them; none for that one itself.
    pub(super) link: Option<Arc<RelPath>>,
}

/// All paths of a view, parents before children.
#[derive(Debug, Default)]
pub(super) struct Listing {
    nodes: BTreeMap<RelPath, Node>,
}

impl Listing {
    /// Lists what was or is to be written.
    pub(super) fn of(store: &Store, written: &Written) -> Result<Self, RealizeError> {
        let mut nodes = BTreeMap::new();
        for placed in &written.grafts {
            let at = placed
                .rel_path()
                .map_err(|reason| RealizeError::Record { path: placed.path.clone(), reason })?;
            let manifest = store.manifest(&placed.manifest)?;
            let damaged = || StoreError::DamagedManifest(placed.manifest);
            // The directories on the way to a graft need not be in another one.
            let mut above = at.clone();
            while !above.is_root() {
                nodes.entry(above.clone()).or_insert(Node::Dir);
                above = above.parent().unwrap_or_default();
            }
            let mut groups: BTreeMap<u32, Arc<RelPath>> = BTreeMap::new();
            for (inside, entry) in manifest.walk() {
                let path = at.join_path(&inside).map_err(|source| StoreError::Path {
                    context: placed.path.display().to_string(),
                    source,
                })?;
                let node = match entry.kind() {
                    EntryKind::Dir => Node::Dir,
                    EntryKind::Symlink => {
                        Node::Symlink(manifest.symlink_target(&entry).ok_or_else(damaged)?.into())
                    }
                    EntryKind::File => {
                        let mut link = None;
                        if entry.links() > 1 {
                            match groups.get(&entry.link_group()) {
                                Some(first) => link = Some(first.clone()),
                                None => drop(groups.insert(entry.link_group(), Arc::new(path.clone()))),
                            }
                        }
                        let blob = manifest.blob(&entry).ok_or_else(damaged)?;
                        let (size, mode, model) = (entry.size(), entry.mode(), placed.models);
                        let linked = model && !written.copied_models;
                        Node::File(FileNode { blob, size, mode, model, linked, link })
                    }
                };
                nodes.insert(path, node);
            }
        }
        Ok(Self { nodes })
    }

    /// Forgets that models are linked, so that no link counts as being as it must be.
    pub(super) fn unlink_models(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.linked = false;
            }
        }
    }

    pub(super) fn get(&self, path: &RelPath) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&RelPath, &Node)> {
        self.nodes.iter()
    }
}
