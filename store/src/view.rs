//! Views: the read-only tree composed from a version's grafts.
//!
//! A directory that comes from one graft alone is used as it lies in that manifest. Only directories to which several
//! grafts contribute, and those on the way to a deeper graft, get a listing of their own, so that composing costs
//! nothing for what is not shared.
//!
//! Entries are numbered densely ([`LowerId`]): first the merged directories (the root is 0), then the entries of each
//! manifest in turn.

use std::collections::{BTreeMap, HashMap};

use crate::error::{PathError, StoreError};
use crate::id::{BlobId, ManifestId, VIEW_CONTEXT, ViewId};
use crate::manifest::{Entry, EntryKind, Manifest};
use crate::relpath::RelPath;
use crate::store::Store;

/// A manifest placed at a path of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graft {
    /// Where its root appears.
    pub path: RelPath,
    /// What appears there.
    pub manifest: ManifestId,
    /// What it is, for messages: "core", "node ComfyUI-GGUF", "models". Not part of the view's identity.
    pub label: String,
}

/// Why grafts do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Two grafts have something at one path, and not both a directory.
    #[error("{first} and {second} both have {path}")]
    Conflict {
        /// Where.
        path: RelPath,
        /// The label of the graft that comes first.
        first: String,
        /// The label of the other.
        second: String,
    },
    /// A path becomes too long by its graft.
    #[error("in {label}: {source}")]
    Path {
        /// The graft.
        label: String,
        /// What is wrong.
        source: PathError,
    },
    /// More entries than a view can number.
    #[error("the view has more than 2³² entries")]
    TooLarge,
    /// A manifest cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The number of an entry in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LowerId(pub u32);

/// What a view says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowerEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// File: bytes. Symlink: bytes of the target. Directory: 0.
    pub size: u64,
    /// File: names of the file. Directory: 2 and one for each sub-directory. Symlink: 1.
    pub links: u32,
    /// Seconds and nanoseconds since 1970: a function of the content alone (see [`content_mtime`]).
    pub mtime: (i64, u32),
    /// The content of a file.
    pub blob: Option<BlobId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Merged(u32),
    Entry { graft: u32, index: u32 },
}

struct Merged {
    parent: u32,
    name: Box<[u8]>,
    mode: u32,
    mtime: (i64, u32),
    links: u32,
    /// Sorted by name.
    children: Vec<(Box<[u8]>, Place)>,
}

/// A graft, and an entry of its manifest.
type Layer = (u32, u32);
/// A graft, and the names that lead to its root from here.
type Deeper = (u32, Vec<Box<[u8]>>);

/// What lies at one name: entries of grafts, and grafts that lie deeper.
type Slot = (Vec<Layer>, Vec<Deeper>);

/// A directory that is still to be merged.
#[derive(Default)]
struct Queued {
    parent: u32,
    path: RelPath,
    layers: Vec<Layer>,
    deeper: Vec<Deeper>,
}

/// A composed view.
pub struct View {
    id: ViewId,
    grafts: Vec<Graft>,
    manifests: Vec<Manifest>,
    /// The number of each manifest's root; one more for the end.
    bases: Vec<u32>,
    merged: Vec<Merged>,
}

/// The modification time that every view shows for a file with this content: between 2020 and 2024, so that it is
/// never in the future, and different for different content, so that HTTP ETags and bytecode checks see a change.
pub fn content_mtime(blob: &BlobId) -> (i64, u32) {
    stamp(blob.as_bytes())
}

fn stamp(hash: &[u8; 32]) -> (i64, u32) {
    const BASE: i64 = 1_577_836_800;
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    let seconds = u32::from_le_bytes([a, b, c, d]) & ((1 << 27) - 1);
    (BASE + i64::from(seconds), u32::from_le_bytes([e, f, g, h]) % 1_000_000_000)
}

impl View {
    /// The identity of a view with these grafts, whether or not they fit together.
    pub fn id_of(grafts: &[Graft]) -> ViewId {
        let mut hasher = blake3::Hasher::new_derive_key(VIEW_CONTEXT);
        for graft in grafts {
            let path = graft.path.as_bytes();
            hasher.update(&(path.len() as u32).to_le_bytes()).update(path).update(graft.manifest.as_bytes());
        }
        ViewId::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Lays the grafts over each other. Directories merge; anything else twice at one path is a conflict.
    pub fn compose(store: &Store, grafts: &[Graft]) -> Result<Self, ComposeError> {
        let manifests = grafts
            .iter()
            .map(|graft| store.mapped_manifest(&graft.manifest))
            .collect::<Result<Vec<_>, _>>()?;
        let mut view = Self {
            id: Self::id_of(grafts),
            grafts: grafts.to_vec(),
            manifests,
            bases: Vec::new(),
            merged: Vec::new(),
        };
        let (mut layers, mut deeper) = (Vec::new(), Vec::new());
        for (number, graft) in grafts.iter().enumerate() {
            let number = number as u32;
            if graft.path.is_root() {
                layers.push((number, 0));
            } else {
                deeper.push((number, graft.path.names().map(Box::from).collect::<Vec<Box<[u8]>>>()));
            }
        }
        view.merge(layers, deeper)?;
        let mut next = u32::try_from(view.merged.len()).map_err(|_| ComposeError::TooLarge)?;
        for manifest in &view.manifests {
            view.bases.push(next);
            next = next.checked_add(manifest.entry_count()).ok_or(ComposeError::TooLarge)?;
        }
        view.bases.push(next);
        Ok(view)
    }

    /// Makes the root out of `layers` (directories) and the grafts that lie deeper, and whatever is merged below it.
    fn merge(&mut self, layers: Vec<Layer>, deeper: Vec<Deeper>) -> Result<(), ComposeError> {
        // The directory that is queued as the nth becomes `merged[n]`.
        let mut queue = vec![Queued { parent: 0, path: RelPath::root(), layers, deeper }];
        while let Some(queued) = queue.get_mut(self.merged.len()).map(std::mem::take) {
            let merged = self.merge_one(queued, &mut queue)?;
            self.merged.push(merged);
        }
        Ok(())
    }

    fn merge_one(&self, directory: Queued, queue: &mut Vec<Queued>) -> Result<Merged, ComposeError> {
        let this = self.merged.len() as u32;
        let Queued { parent, path, layers, deeper } = directory;
        let (mut mode, mut hash) = (0o755, blake3::Hasher::new());
        let mut slots: BTreeMap<Box<[u8]>, Slot> = BTreeMap::new();
        for (position, &(graft, index)) in layers.iter().enumerate() {
            let manifest = &self.manifests[graft as usize];
            let Some(dir) = manifest.entry(index) else { continue };
            if position == 0 {
                mode = dir.mode();
            }
            hash.update(manifest.id().as_bytes()).update(&index.to_le_bytes());
            for child in manifest.children(&dir) {
                let Some(entry) = manifest.entry(child) else { continue };
                let name = manifest.name(&entry).unwrap_or_default();
                slots.entry(name.into()).or_default().0.push((graft, child));
            }
        }
        for (graft, names) in deeper {
            let Some((first, rest)) = names.split_first() else { continue };
            hash.update(self.grafts[graft as usize].manifest.as_bytes());
            hash.update(&(first.len() as u32).to_le_bytes()).update(first);
            let slot = slots.entry(first.clone()).or_default();
            if rest.is_empty() {
                slot.0.push((graft, 0));
            } else {
                slot.1.push((graft, rest.to_vec()));
            }
        }
        let name = path.file_name().unwrap_or_default().into();
        let mtime = stamp(hash.finalize().as_bytes());
        let mut merged =
            Merged { parent, name, mode, mtime, links: 2, children: Vec::with_capacity(slots.len()) };
        for (name, (mut layers, deeper)) in slots {
            layers.sort_by_key(|(graft, _)| *graft);
            let inside = path.join(&name).map_err(|source| {
                let graft = layers.first().map(|layer| layer.0).or(deeper.first().map(|d| d.0));
                let graft = graft.and_then(|graft| self.grafts.get(graft as usize));
                ComposeError::Path { label: graft.map(|g| g.label.clone()).unwrap_or_default(), source }
            })?;
            self.check_conflict(&inside, &layers, &deeper)?;
            let place = match (&layers[..], &deeper[..]) {
                (&[layer], []) => {
                    merged.links += u32::from(self.is_dir(layer));
                    Place::Entry { graft: layer.0, index: layer.1 }
                }
                _ => {
                    merged.links += 1;
                    let place = Place::Merged(queue.len() as u32);
                    queue.push(Queued { parent: this, path: inside, layers, deeper });
                    place
                }
            };
            merged.children.push((name, place));
        }
        Ok(merged)
    }

    /// What is not a directory must be alone at its path.
    fn check_conflict(
        &self,
        path: &RelPath,
        layers: &[Layer],
        deeper: &[Deeper],
    ) -> Result<(), ComposeError> {
        let Some(&(plain, _)) = layers.iter().find(|layer| !self.is_dir(**layer)) else { return Ok(()) };
        let mut contributors = layers.iter().map(|layer| layer.0).chain(deeper.iter().map(|deep| deep.0));
        if layers.len() + deeper.len() < 2 {
            return Ok(());
        }
        let other = contributors.find(|graft| *graft != plain).unwrap_or(plain);
        let label = |graft: u32| self.grafts[graft as usize].label.clone();
        let (first, second) = (label(plain.min(other)), label(plain.max(other)));
        Err(ComposeError::Conflict { path: path.clone(), first, second })
    }

    fn is_dir(&self, (graft, index): Layer) -> bool {
        self.manifests[graft as usize].entry(index).is_some_and(|entry| entry.kind() == EntryKind::Dir)
    }

    /// Its identity.
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// The grafts it was composed from.
    pub fn grafts(&self) -> &[Graft] {
        &self.grafts
    }

    /// The number of entries; every [`LowerId`] is below it. Directories that were merged count more than once.
    pub fn id_limit(&self) -> u32 {
        self.bases.last().copied().unwrap_or(0)
    }

    /// The sum of the sizes of all files in bytes.
    pub fn content_bytes(&self) -> u64 {
        self.manifests.iter().fold(0, |sum, manifest| sum.saturating_add(manifest.content_bytes()))
    }

    /// The root directory.
    pub fn root(&self) -> LowerId {
        LowerId(0)
    }

    fn place(&self, id: LowerId) -> Option<Place> {
        if (id.0 as usize) < self.merged.len() {
            return Some(Place::Merged(id.0));
        }
        let graft = self.bases.partition_point(|&base| base <= id.0).checked_sub(1)?;
        let index = id.0 - self.bases.get(graft)?;
        (graft < self.manifests.len()).then_some(Place::Entry { graft: graft as u32, index })
    }

    fn number(&self, place: Place) -> Option<LowerId> {
        Some(match place {
            Place::Merged(index) => LowerId(index),
            Place::Entry { graft, index } => {
                let (base, end) = (self.bases.get(graft as usize)?, self.bases.get(graft as usize + 1)?);
                LowerId(base.checked_add(index).filter(|number| number < end)?)
            }
        })
    }

    fn manifest_entry(&self, id: LowerId) -> Option<(&Manifest, Entry)> {
        match self.place(id)? {
            Place::Merged(_) => None,
            Place::Entry { graft, index } => {
                let manifest = self.manifests.get(graft as usize)?;
                Some((manifest, manifest.entry(index)?))
            }
        }
    }

    /// What the view says of an entry. `None` means that the number is not one of this view, or a damaged manifest.
    pub fn entry(&self, id: LowerId) -> Option<LowerEntry> {
        if let Place::Merged(index) = self.place(id)? {
            let dir = self.merged.get(index as usize)?;
            return Some(LowerEntry {
                kind: EntryKind::Dir,
                mode: dir.mode,
                size: 0,
                links: dir.links,
                mtime: dir.mtime,
                blob: None,
            });
        }
        let (manifest, entry) = self.manifest_entry(id)?;
        let blob = manifest.blob(&entry);
        let (mtime, links) = match entry.kind() {
            EntryKind::File => (content_mtime(&blob?), entry.links()),
            EntryKind::Symlink => {
                (stamp(blake3::hash(manifest.symlink_target(&entry)?).as_bytes()), entry.links())
            }
            // A directory's time is that of its whole source: cheap, and it moves whenever the listing does.
            EntryKind::Dir => {
                let mut hash = *manifest.id().as_bytes();
                for (byte, index) in
                    hash.iter_mut().zip(entry.index().wrapping_mul(0x9e37_79b1).to_le_bytes())
                {
                    *byte ^= index;
                }
                (stamp(&hash), entry.links().saturating_add(2))
            }
        };
        Some(LowerEntry { kind: entry.kind(), mode: entry.mode(), size: entry.size(), links, mtime, blob })
    }

    /// The entry called `name` in the directory `dir`.
    pub fn lookup(&self, dir: LowerId, name: &[u8]) -> Option<LowerId> {
        match self.place(dir)? {
            Place::Merged(index) => {
                let children = &self.merged.get(index as usize)?.children;
                let at = children.binary_search_by(|(found, _)| (**found).cmp(name)).ok()?;
                self.number(children.get(at)?.1)
            }
            Place::Entry { graft, index } => {
                let manifest = self.manifests.get(graft as usize)?;
                let child = manifest.child(&manifest.entry(index)?, name)?;
                self.number(Place::Entry { graft, index: child.index() })
            }
        }
    }

    /// The number of entries in a directory; 0 for anything else.
    pub fn child_count(&self, dir: LowerId) -> u32 {
        match self.place(dir) {
            Some(Place::Merged(index)) => {
                self.merged.get(index as usize).map_or(0, |dir| dir.children.len() as u32)
            }
            _ => {
                self.manifest_entry(dir).map_or(0, |(manifest, entry)| manifest.children(&entry).len() as u32)
            }
        }
    }

    /// The `position`th entry of a directory by name, from 0.
    pub fn child_at(&self, dir: LowerId, position: u32) -> Option<(&[u8], LowerId)> {
        match self.place(dir)? {
            Place::Merged(index) => {
                let (name, place) = self.merged.get(index as usize)?.children.get(position as usize)?;
                Some((name, self.number(*place)?))
            }
            Place::Entry { graft, .. } => {
                let (manifest, entry) = self.manifest_entry(dir)?;
                let children = manifest.children(&entry);
                let index = children.start.checked_add(position).filter(|i| children.contains(i))?;
                let child = manifest.entry(index)?;
                Some((manifest.name(&child)?, self.number(Place::Entry { graft, index })?))
            }
        }
    }

    /// The position of the first entry of `dir` whose name is not below `name`.
    pub fn lower_bound(&self, dir: LowerId, name: &[u8]) -> u32 {
        match self.place(dir) {
            Some(Place::Merged(index)) => self
                .merged
                .get(index as usize)
                .map_or(0, |dir| dir.children.partition_point(|(found, _)| **found < *name) as u32),
            _ => self.manifest_entry(dir).map_or(0, |(manifest, entry)| {
                manifest.lower_bound(&entry, name).saturating_sub(manifest.children(&entry).start)
            }),
        }
    }

    /// The target of a symlink.
    pub fn symlink_target(&self, id: LowerId) -> Option<&[u8]> {
        let (manifest, entry) = self.manifest_entry(id)?;
        manifest.symlink_target(&entry)
    }

    /// The entry that stands for all names of a hard-linked file; the entry itself for anything else.
    pub fn link_group(&self, id: LowerId) -> LowerId {
        match (self.place(id), self.manifest_entry(id)) {
            (Some(Place::Entry { graft, .. }), Some((_, entry))) => {
                self.number(Place::Entry { graft, index: entry.link_group() }).unwrap_or(id)
            }
            _ => id,
        }
    }

    /// Every file with several names: the node that stands for all of them, and the nodes of the names.
    pub fn link_groups(&self) -> HashMap<LowerId, Vec<LowerId>> {
        let mut groups: HashMap<LowerId, Vec<LowerId>> = HashMap::new();
        for (manifest, &base) in self.manifests.iter().zip(&self.bases) {
            for index in (0..manifest.entry_count()).filter(|_| manifest.has_hard_links()) {
                let Some(entry) = manifest.entry(index) else { continue };
                if entry.kind() == EntryKind::File && entry.links() > 1 {
                    groups.entry(LowerId(base + entry.link_group())).or_default().push(LowerId(base + index));
                }
            }
        }
        groups
    }

    /// The directory that holds an entry; the root holds itself. Costs a walk from the root: the directory may be one
    /// that several grafts share.
    pub fn parent(&self, id: LowerId) -> Option<LowerId> {
        match self.place(id)? {
            Place::Merged(index) => Some(LowerId(self.merged.get(index as usize)?.parent)),
            Place::Entry { .. } => self.resolve(&self.path(id)?.parent()?),
        }
    }

    fn own_path(&self, graft: u32, index: u32) -> Option<RelPath> {
        let inside = self.manifests.get(graft as usize)?.path(index)?;
        self.grafts.get(graft as usize)?.path.join_path(&inside).ok()
    }

    /// The path of an entry.
    pub fn path(&self, id: LowerId) -> Option<RelPath> {
        match self.place(id)? {
            Place::Entry { graft, index } => self.own_path(graft, index),
            Place::Merged(mut index) => {
                let mut names: Vec<&[u8]> = Vec::new();
                while index != 0 {
                    let dir = self.merged.get(index as usize)?;
                    names.push(&dir.name);
                    index = dir.parent;
                }
                names.reverse();
                RelPath::new(names.join(&b'/')).ok()
            }
        }
    }

    /// The entry at `path`. Symlinks are not followed.
    pub fn resolve(&self, path: &RelPath) -> Option<LowerId> {
        path.names().try_fold(self.root(), |dir, name| self.lookup(dir, name))
    }
}
