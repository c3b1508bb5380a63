//! Reading a manifest in place.

use std::collections::VecDeque;
use std::ops::{Deref, Range};

use super::format::{self, Record};
use crate::error::ManifestError;
use crate::id::{BlobId, ManifestId};
use crate::relpath::RelPath;
use crate::sys::Mapped;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// One entry of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub(super) index: u32,
    pub(super) kind: EntryKind,
    pub(super) record: Record,
}

impl Entry {
    /// The place of the entry in its manifest; 0 is the root.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What it is.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Permission bits (07777).
    pub fn mode(&self) -> u32 {
        u32::from(self.record.mode)
    }

    /// File: bytes. Symlink: bytes of the target. Directory: 0.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// File: names of this file in the manifest. Directory: number of sub-directories. Symlink: 1.
    pub fn links(&self) -> u32 {
        self.record.links
    }

    /// Index of the directory that holds the entry (the root's is 0).
    pub fn parent(&self) -> u32 {
        self.record.parent
    }

    /// File: index of the first entry that names the same file; anything else: its own index.
    pub fn link_group(&self) -> u32 {
        if self.kind == EntryKind::File { self.record.count } else { self.index }
    }
}

/// An encoding, in memory or where it lies on disk.
pub(crate) enum Encoding {
    Read(Vec<u8>),
    Mapped(Mapped),
}

impl Deref for Encoding {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Encoding::Read(bytes) => bytes,
            Encoding::Mapped(mapped) => mapped,
        }
    }
}

impl From<Vec<u8>> for Encoding {
    fn from(bytes: Vec<u8>) -> Self {
        Encoding::Read(bytes)
    }
}

impl From<Mapped> for Encoding {
    fn from(mapped: Mapped) -> Self {
        Encoding::Mapped(mapped)
    }
}

/// A manifest, read where it lies.
pub struct Manifest {
    id: ManifestId,
    pub(super) bytes: Encoding,
    pub(super) entries: u32,
    pub(super) blobs: u32,
    pub(super) heap: usize,
}

impl Manifest {
    /// Takes `bytes` as the manifest `id`, whose hash the caller has verified, after checking the header.
    pub(crate) fn from_verified(id: ManifestId, bytes: impl Into<Encoding>) -> Result<Self, ManifestError> {
        let bytes = bytes.into();
        if bytes.get(..8) != Some(format::MAGIC) {
            return Err(ManifestError::Malformed("it does not begin as a manifest"));
        }
        let word = |at| format::u32_at(&bytes, at).ok_or(ManifestError::Malformed("the header is cut"));
        let (version, features) = (word(8)?, word(12)?);
        if version != format::VERSION || features != format::FEATURES {
            return Err(ManifestError::UnknownFormat { version, features });
        }
        let (entries, blobs, heap_len) = (word(16)?, word(20)?, word(24)?);
        let heap = format::HEADER + entries as usize * format::RECORD + blobs as usize * format::ID;
        if entries == 0 || heap + heap_len as usize != bytes.len() {
            return Err(ManifestError::Malformed("its length is not what the header says"));
        }
        Ok(Self { id, bytes, entries, blobs, heap })
    }

    /// Takes `bytes` of anybody as a manifest by their own hash. What it says may break every other rule of the format,
    /// which [`Manifest::check`] tells.
    #[doc(hidden)]
    pub fn decode(bytes: Vec<u8>) -> Result<Self, ManifestError> {
        Self::from_verified(ManifestId::of(&bytes), bytes)
    }

    /// Its identity.
    pub fn id(&self) -> ManifestId {
        self.id
    }

    /// The encoding.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of entries, the root included.
    pub fn entry_count(&self) -> u32 {
        self.entries
    }

    /// The length of the encoding in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The sum of the sizes of all files, each hard-linked file once.
    pub fn content_bytes(&self) -> u64 {
        format::u64_at(&self.bytes, 32).unwrap_or(0)
    }

    /// True when some file has more than one name.
    pub fn has_hard_links(&self) -> bool {
        format::u32_at(&self.bytes, 28).unwrap_or(0) > 0
    }

    /// The entry at `index`.
    pub fn entry(&self, index: u32) -> Option<Entry> {
        if index >= self.entries {
            return None;
        }
        let at = format::HEADER + index as usize * format::RECORD;
        let record = Record::decode(self.bytes.get(at..)?.first_chunk()?);
        let kind = match record.kind {
            format::KIND_DIR => EntryKind::Dir,
            format::KIND_FILE => EntryKind::File,
            format::KIND_SYMLINK => EntryKind::Symlink,
            _ => return None,
        };
        Some(Entry { index, kind, record })
    }

    /// The root directory.
    pub fn root(&self) -> Option<Entry> {
        self.entry(0)
    }

    /// The name of an entry; empty for the root.
    pub fn name(&self, entry: &Entry) -> Option<&[u8]> {
        let at = self.heap + entry.record.name as usize;
        self.bytes.get(at..at + entry.record.name_len as usize)
    }

    /// The indices of a directory's children, sorted by name; empty for anything else.
    pub fn children(&self, entry: &Entry) -> Range<u32> {
        let first = entry.record.target;
        match entry.kind {
            EntryKind::Dir if first > entry.index => {
                first..first.saturating_add(entry.record.count).min(self.entries)
            }
            _ => 0..0,
        }
    }

    /// The index of the first child of `dir` whose name is not below `name`.
    pub fn lower_bound(&self, dir: &Entry, name: &[u8]) -> u32 {
        let Range { mut start, mut end } = self.children(dir);
        while start < end {
            let middle = start + (end - start) / 2;
            let found = self.entry(middle).and_then(|entry| self.name(&entry).map(|found| found < name));
            if found.unwrap_or(false) {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        start
    }

    /// The child of `dir` called `name`.
    pub fn child(&self, dir: &Entry, name: &[u8]) -> Option<Entry> {
        let index = self.lower_bound(dir, name);
        if !self.children(dir).contains(&index) {
            return None;
        }
        self.entry(index).filter(|entry| self.name(entry) == Some(name))
    }

    /// The content of a file.
    pub fn blob(&self, entry: &Entry) -> Option<BlobId> {
        (entry.kind == EntryKind::File).then(|| self.blob_at(entry.record.target))?
    }

    /// The target of a symlink.
    pub fn symlink_target(&self, entry: &Entry) -> Option<&[u8]> {
        if entry.kind != EntryKind::Symlink {
            return None;
        }
        let at = self.heap + entry.record.target as usize;
        self.bytes.get(at..at.checked_add(usize::try_from(entry.record.size).ok()?)?)
    }

    /// The path of the entry at `index`.
    pub fn path(&self, index: u32) -> Option<RelPath> {
        let mut names = Vec::new();
        let mut entry = self.entry(index)?;
        while entry.index != 0 {
            names.push(self.name(&entry)?);
            // A parent stands before its child; anything else would be a loop.
            entry = self.entry(entry.record.parent).filter(|parent| parent.index < entry.index)?;
        }
        names.reverse();
        RelPath::new(names.join(&b'/')).ok()
    }

    /// The distinct blobs, sorted.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = BlobId> + '_ {
        (0..self.blobs).map(|index| self.blob_at(index).unwrap_or(BlobId::from_bytes([0; 32])))
    }

    /// The distinct blobs, sorted, with the sizes of their files.
    pub(crate) fn blob_sizes(&self) -> Vec<(BlobId, u64)> {
        let mut all: Vec<_> = self.blobs().map(|blob| (blob, 0)).collect();
        for entry in (0..self.entries).filter_map(|index| self.entry(index)) {
            if entry.kind == EntryKind::File
                && let Some((_, size)) = all.get_mut(entry.record.target as usize)
            {
                *size = entry.record.size;
            }
        }
        all
    }

    fn blob_at(&self, index: u32) -> Option<BlobId> {
        if index >= self.blobs {
            return None;
        }
        let at = format::HEADER + self.entries as usize * format::RECORD + index as usize * format::ID;
        Some(BlobId::from_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    /// All entries but the root, parents before children, with their paths.
    pub fn walk(&self) -> Walk<'_> {
        Walk { manifest: self, next: 1, parents: VecDeque::from([(0, RelPath::root())]) }
    }
}

/// Iterator of [`Manifest::walk`].
pub struct Walk<'a> {
    manifest: &'a Manifest,
    next: u32,
    /// Directories whose children are still to come, in order, with their paths.
    parents: VecDeque<(u32, RelPath)>,
}

impl Iterator for Walk<'_> {
    type Item = (RelPath, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.manifest.entry(self.next)?;
        self.next += 1;
        while self.parents.front().is_some_and(|(index, _)| *index != entry.record.parent) {
            self.parents.pop_front();
        }
        let (_, parent) = self.parents.front()?;
        let path = parent.join(self.manifest.name(&entry)?).ok()?;
        if entry.kind == EntryKind::Dir {
            self.parents.push_back((entry.index, path.clone()));
        }
        Some((path, entry))
    }
}
