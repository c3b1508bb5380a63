//! The rules of the format. What passes is the encoding that [`ManifestBuilder`](super::ManifestBuilder) gives for the
//! same tree, byte by byte: there is one manifest for one tree.

use super::format::{self, Record};
use super::read::{Entry, EntryKind, Manifest};
use crate::error::ManifestError;
use crate::relpath::{self, PATH_LIMIT};

/// How far the check has come.
struct State {
    /// The first child of the next directory.
    next_child: u32,
    /// Where the next name or target lies in the heap.
    heap: usize,
    /// The length of each directory's path; 0 for anything else.
    path_len: Vec<u16>,
    /// The size of each blob's files, once one is seen.
    blob_size: Vec<Option<u64>>,
    /// Names of each file that were seen, at the place of its first.
    names: Vec<u32>,
    content: u64,
    hard_links: u32,
}

impl Manifest {
    /// Checks every rule of the format, as is done once when a manifest enters the store and again by fsck.
    pub fn check(&self) -> Result<(), ManifestError> {
        let bad = |what| Err(ManifestError::Malformed(what));
        let mut state = State {
            next_child: 1,
            heap: 0,
            path_len: vec![0; self.entries as usize],
            blob_size: vec![None; self.blobs as usize],
            names: vec![0; self.entries as usize],
            content: 0,
            hard_links: 0,
        };
        let mut previous: Option<Entry> = None;
        for index in 0..self.entries {
            let Some(entry) = self.entry(index) else { return bad("an entry of unknown kind") };
            if entry.record.mode > 0o7777 {
                return bad("a mode of more than permission bits");
            }
            self.check_name_and_place(&entry, previous.as_ref(), &mut state)?;
            match entry.kind {
                EntryKind::Dir => self.check_dir(&entry, &mut state)?,
                EntryKind::File => self.check_file(&entry, &mut state)?,
                EntryKind::Symlink => self.check_symlink(&entry, &mut state)?,
            }
            previous = Some(entry);
        }
        if state.next_child != self.entries || self.heap + state.heap != self.bytes.len() {
            return bad("entries or names that belong to nothing");
        }
        // A link group is counted where it begins; the entries that point there say how long it is.
        for index in 0..self.entries {
            let Some(Entry { kind: EntryKind::File, record, .. }) = self.entry(index) else { continue };
            if state.names.get(record.count as usize) != Some(&record.links) {
                return bad("a wrong number of hard links");
            }
        }
        let sorted = self.blobs().zip(self.blobs().skip(1)).all(|(a, b)| a < b);
        if !sorted || state.blob_size.contains(&None) {
            return bad("a blob table out of order");
        }
        let reserved = self.bytes.get(40..format::HEADER).is_some_and(|rest| rest.iter().all(|&b| b == 0));
        let hard_links = format::u32_at(&self.bytes, 28);
        if !reserved || hard_links != Some(state.hard_links) || self.content_bytes() != state.content {
            return bad("a header that does not fit the entries");
        }
        Ok(())
    }

    fn check_name_and_place(
        &self,
        entry: &Entry,
        previous: Option<&Entry>,
        state: &mut State,
    ) -> Result<(), ManifestError> {
        let bad = |what| Err(ManifestError::Malformed(what));
        let Record { parent, name: at, .. } = entry.record;
        let Some(name) = self.name(entry) else { return bad("a name outside the heap") };
        if at as usize != state.heap {
            return bad("names out of order in the heap");
        }
        state.heap += name.len();
        if entry.index == 0 {
            return match entry.kind == EntryKind::Dir && name.is_empty() && parent == 0 {
                true => Ok(()),
                false => bad("the first entry is not a root directory"),
            };
        }
        if relpath::check_name(name).is_err() {
            return bad("a name that is not allowed");
        }
        let holder = self.entry(parent).filter(|holder| holder.index < entry.index);
        if !holder.is_some_and(|holder| self.children(&holder).contains(&entry.index)) {
            return bad("an entry that its parent does not hold");
        }
        if let Some(before) = previous.filter(|before| before.index > 0 && before.record.parent == parent)
            && self.name(before) >= Some(name)
        {
            return bad("children out of order");
        }
        let above = state.path_len.get(parent as usize).map_or(0, |len| usize::from(*len));
        let len = above + usize::from(above > 0) + name.len();
        if len > PATH_LIMIT {
            return bad("a path longer than 3072 bytes");
        }
        if let Some(slot) = state.path_len.get_mut(entry.index as usize) {
            *slot = len as u16;
        }
        Ok(())
    }

    fn check_dir(&self, entry: &Entry, state: &mut State) -> Result<(), ManifestError> {
        let Record { size, target, count, links, .. } = entry.record;
        if size != 0 || target != state.next_child || count > self.entries - state.next_child {
            return Err(ManifestError::Malformed("a directory whose children are elsewhere"));
        }
        state.next_child += count;
        let dir = |index: &u32| self.entry(*index).is_some_and(|child| child.kind == EntryKind::Dir);
        if (target..state.next_child).filter(dir).count() != links as usize {
            return Err(ManifestError::Malformed("a wrong number of sub-directories"));
        }
        Ok(())
    }

    fn check_file(&self, entry: &Entry, state: &mut State) -> Result<(), ManifestError> {
        let bad = |what| Err(ManifestError::Malformed(what));
        let Record { size, target, count, links, .. } = entry.record;
        match state.blob_size.get_mut(target as usize) {
            Some(known) if known.is_none_or(|known| known == size) => *known = Some(size),
            Some(_) => return bad("one blob with two sizes"),
            None => return bad("a file without a blob"),
        }
        let first = self.entry(count).filter(|first| first.index <= entry.index);
        let same = |first: Entry| {
            let one = |r: Record| (r.kind, r.size, r.target, r.count, r.mode, r.links);
            one(first.record) == one(entry.record)
        };
        if !first.is_some_and(same) {
            return bad("a hard link to something else");
        }
        if let Some(names) = state.names.get_mut(count as usize) {
            *names += 1;
        }
        state.hard_links += u32::from(links > 1);
        if count == entry.index {
            let content = state.content.checked_add(size);
            state.content = content.ok_or(ManifestError::TooLarge { what: "content bytes" })?;
        }
        Ok(())
    }

    fn check_symlink(&self, entry: &Entry, state: &mut State) -> Result<(), ManifestError> {
        let Record { target, count, mode, links, .. } = entry.record;
        let found = self.symlink_target(entry).filter(|bytes| !bytes.is_empty() && !bytes.contains(&0));
        match found {
            Some(bytes) if target as usize == state.heap && (count, mode, links) == (0, 0o777, 1) => {
                state.heap += bytes.len();
                Ok(())
            }
            _ => Err(ManifestError::Malformed("a symlink whose target is elsewhere")),
        }
    }
}
