//! Building a manifest: entries come in any order, the encoding is canonical.

use std::collections::HashMap;

use super::format::{self, Record};
use super::read::{EntryKind, Manifest};
use crate::error::ManifestError;
use crate::id::BlobId;
use crate::relpath::RelPath;

enum Node {
    Dir { mode: u16, explicit: bool, children: Vec<u32> },
    File { mode: u16, size: u64, blob: BlobId },
    Symlink { target: Box<[u8]> },
    Link { to: RelPath },
}

/// Collects entries and encodes them. Parents that nobody adds appear as directories with mode 0755.
pub struct ManifestBuilder {
    nodes: Vec<(Box<[u8]>, u32, Node)>,
    dirs: HashMap<RelPath, u32>,
}

impl Default for ManifestBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ManifestBuilder {
    /// A builder that holds an empty root of mode 0755.
    pub fn new() -> Self {
        let root = Node::Dir { mode: 0o755, explicit: false, children: Vec::new() };
        Self { nodes: vec![(Box::default(), 0, root)], dirs: HashMap::from([(RelPath::root(), 0)]) }
    }

    /// A builder that holds what a checked manifest says of itself.
    #[doc(hidden)]
    pub fn of(manifest: &Manifest) -> Result<Self, ManifestError> {
        let unchecked = || ManifestError::Malformed("an entry that is not whole");
        let mut builder = Self::new();
        builder.dir(&RelPath::root(), manifest.root().ok_or_else(unchecked)?.mode())?;
        for (path, entry) in manifest.walk() {
            match entry.kind() {
                EntryKind::Dir => builder.dir(&path, entry.mode())?,
                EntryKind::Symlink => {
                    builder.symlink(&path, manifest.symlink_target(&entry).ok_or_else(unchecked)?)?;
                }
                EntryKind::File if entry.link_group() != entry.index() => {
                    builder.hard_link(&path, &manifest.path(entry.link_group()).ok_or_else(unchecked)?)?;
                }
                EntryKind::File => {
                    let blob = manifest.blob(&entry).ok_or_else(unchecked)?;
                    builder.file(&path, entry.mode(), entry.size(), blob)?;
                }
            }
        }
        Ok(builder)
    }

    /// Adds a directory, or sets the mode of one that exists as a parent of something.
    pub fn dir(&mut self, path: &RelPath, mode: u32) -> Result<(), ManifestError> {
        let index = self.ensure_dir(path)?;
        match &mut self.nodes[index as usize].2 {
            Node::Dir { mode: old, explicit, .. } if !*explicit => {
                *old = (mode & 0o7777) as u16;
                *explicit = true;
                Ok(())
            }
            _ => Err(ManifestError::Duplicate { path: path.to_string() }),
        }
    }

    /// Adds a file of `size` bytes whose content is `blob`.
    pub fn file(&mut self, path: &RelPath, mode: u32, size: u64, blob: BlobId) -> Result<(), ManifestError> {
        self.add(path, Node::File { mode: (mode & 0o7777) as u16, size, blob })
    }

    /// Adds a symlink. The target is kept byte by byte and never followed here.
    pub fn symlink(&mut self, path: &RelPath, target: &[u8]) -> Result<(), ManifestError> {
        if target.is_empty() || target.contains(&0) {
            return Err(ManifestError::Malformed("an empty symlink target, or one with a NUL byte"));
        }
        self.add(path, Node::Symlink { target: target.into() })
    }

    /// Adds another name of the file at `to`, which may be added before or after.
    pub fn hard_link(&mut self, path: &RelPath, to: &RelPath) -> Result<(), ManifestError> {
        self.add(path, Node::Link { to: to.clone() })
    }

    fn add(&mut self, path: &RelPath, node: Node) -> Result<(), ManifestError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ManifestError::Duplicate { path: "the root".to_owned() });
        };
        let parent = self.ensure_dir(&parent)?;
        self.push(parent, name, node)?;
        Ok(())
    }

    fn push(&mut self, parent: u32, name: &[u8], node: Node) -> Result<u32, ManifestError> {
        let index = u32::try_from(self.nodes.len())
            .map_err(|_| ManifestError::TooLarge { what: "number of entries" })?;
        self.nodes.push((name.into(), parent, node));
        if let Node::Dir { children, .. } = &mut self.nodes[parent as usize].2 {
            children.push(index);
        }
        Ok(index)
    }

    fn ensure_dir(&mut self, path: &RelPath) -> Result<u32, ManifestError> {
        if let Some(&index) = self.dirs.get(path) {
            return Ok(index);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(0);
        };
        let parent = self.ensure_dir(&parent)?;
        let node = Node::Dir { mode: 0o755, explicit: false, children: Vec::new() };
        let index = self.push(parent, name, node)?;
        self.dirs.insert(path.clone(), index);
        Ok(index)
    }

    /// The path of a node, for messages.
    fn path_of(&self, mut index: u32) -> String {
        let mut names = Vec::new();
        while index != 0 {
            let (name, parent, _) = &self.nodes[index as usize];
            names.push(String::from_utf8_lossy(name).into_owned());
            index = *parent;
        }
        names.reverse();
        names.join("/")
    }

    /// Encodes the listing.
    ///
    /// # Errors
    /// Two entries at one path, an entry below a file, a link to nothing, or more than 2³² entries or name bytes.
    pub fn encode(mut self) -> Result<Vec<u8>, ManifestError> {
        let order = self.breadth_first()?;
        let mut place = vec![0u32; self.nodes.len()];
        for (at, &node) in order.iter().enumerate() {
            place[node as usize] = at as u32;
        }
        let links = self.link_groups(&place)?;
        let mut blobs: Vec<BlobId> = self
            .nodes
            .iter()
            .filter_map(|(_, _, node)| if let Node::File { blob, .. } = node { Some(*blob) } else { None })
            .collect();
        blobs.sort_unstable();
        blobs.dedup();

        let mut records = Vec::with_capacity(order.len() * format::RECORD);
        let mut heap = Vec::new();
        let mut next_child = 1u32;
        let (mut content, mut hard_links) = (0u64, 0u32);
        for &index in &order {
            let (name, parent, node) = &self.nodes[index as usize];
            let mut record = Record {
                size: 0,
                name: offset(&heap)?,
                parent: place[*parent as usize],
                target: 0,
                count: 0,
                mode: 0o777,
                name_len: name.len() as u8,
                kind: format::KIND_SYMLINK,
                links: 1,
            };
            heap.extend_from_slice(name);
            match node {
                Node::Dir { mode, children, .. } => {
                    let dirs =
                        children.iter().filter(|&&c| matches!(self.nodes[c as usize].2, Node::Dir { .. }));
                    record.kind = format::KIND_DIR;
                    record.mode = *mode;
                    record.target = next_child;
                    record.count = children.len() as u32;
                    record.links = dirs.count() as u32;
                    next_child += record.count;
                }
                Node::Symlink { target } => {
                    record.size = target.len() as u64;
                    record.target = offset(&heap)?;
                    heap.extend_from_slice(target);
                }
                Node::File { .. } | Node::Link { .. } => {
                    let group = links.get(&index);
                    let file = group.map_or(index, |group| group.file);
                    if let Node::File { mode, size, blob } = &self.nodes[file as usize].2 {
                        record.kind = format::KIND_FILE;
                        record.mode = *mode;
                        record.size = *size;
                        record.target = blobs.binary_search(blob).unwrap_or_default() as u32;
                    }
                    record.count = group.map_or(place[index as usize], |group| group.first);
                    record.links = group.map_or(1, |group| group.names);
                    hard_links += u32::from(record.links > 1);
                    if record.count == place[index as usize] {
                        content = content
                            .checked_add(record.size)
                            .ok_or(ManifestError::TooLarge { what: "content bytes" })?;
                    }
                }
            }
            record.encode(&mut records);
        }
        let mut out =
            Vec::with_capacity(format::HEADER + records.len() + blobs.len() * format::ID + heap.len());
        out.extend_from_slice(format::MAGIC);
        for word in [
            format::VERSION,
            format::FEATURES,
            order.len() as u32,
            blobs.len() as u32,
            offset(&heap)?,
            hard_links,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&content.to_le_bytes());
        out.resize(format::HEADER, 0);
        out.extend_from_slice(&records);
        for blob in &blobs {
            out.extend_from_slice(blob.as_bytes());
        }
        out.extend_from_slice(&heap);
        Ok(out)
    }

    /// Sorts the children of every directory and lists all nodes, parents first.
    fn breadth_first(&mut self) -> Result<Vec<u32>, ManifestError> {
        let mut order = vec![0u32];
        let mut at = 0;
        while let Some(&index) = order.get(at) {
            at += 1;
            let Node::Dir { children, .. } = &mut self.nodes[index as usize].2 else { continue };
            let mut children = std::mem::take(children);
            children.sort_by(|&a, &b| self.nodes[a as usize].0.cmp(&self.nodes[b as usize].0));
            for pair in children.windows(2) {
                let (a, b) = (pair[0], pair[1]);
                if self.nodes[a as usize].0 != self.nodes[b as usize].0 {
                    continue;
                }
                let path = self.path_of(a);
                let dir = |i: u32| matches!(&self.nodes[i as usize].2, Node::Dir { .. });
                return Err(if dir(a) != dir(b) {
                    ManifestError::NotADirectory { path }
                } else {
                    ManifestError::Duplicate { path }
                });
            }
            order.extend_from_slice(&children);
            if let Node::Dir { children: slot, .. } = &mut self.nodes[index as usize].2 {
                *slot = children;
            }
        }
        Ok(order)
    }

    /// Finds, for every name of a file with several names, its file node and the group's first place in the order.
    fn link_groups(&self, place: &[u32]) -> Result<HashMap<u32, Group>, ManifestError> {
        let links: Vec<(u32, &RelPath)> = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(
                |(i, (_, _, node))| if let Node::Link { to } = node { Some((i as u32, to)) } else { None },
            )
            .collect();
        if links.is_empty() {
            return Ok(HashMap::new());
        }
        let mut files = HashMap::new();
        for (i, (name, parent, node)) in self.nodes.iter().enumerate() {
            if matches!(node, Node::File { .. }) {
                files.insert((*parent, &**name), i as u32);
            }
        }
        let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
        for (link, to) in links {
            let parent = to.parent().and_then(|dir| self.dirs.get(&dir).copied());
            let file = parent.zip(to.file_name()).and_then(|key| files.get(&key));
            let file = *file.ok_or_else(|| ManifestError::DanglingLink { path: self.path_of(link) })?;
            members.entry(file).or_insert_with(|| vec![file]).push(link);
        }
        let mut groups = HashMap::new();
        for (file, names) in members {
            let first = names.iter().map(|&n| place[n as usize]).min().unwrap_or_default();
            for &name in &names {
                groups.insert(name, Group { file, first, names: names.len() as u32 });
            }
        }
        Ok(groups)
    }
}

struct Group {
    file: u32,
    first: u32,
    names: u32,
}

fn offset(heap: &[u8]) -> Result<u32, ManifestError> {
    u32::try_from(heap.len()).map_err(|_| ManifestError::TooLarge { what: "bytes of names" })
}
