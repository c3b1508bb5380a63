//! What a realize would do, decided before anything is touched.
//!
//! At each path there may be what the last complete realize wrote (the *base*), what one that was interrupted wrote
//! (*begun*), or what a program or a person put there. The first two are ours to replace. The last stays wherever the
//! version itself did not change since the base, as it would in an overlay; where it did, it is *in the way*.

use std::collections::{BTreeMap, BTreeSet};

use cvs_store::RelPath;
use rayon::prelude::*;

use super::error::{Change, ChangeKind, RealizeError};
use super::listing::{FileNode, Listing, Node};
use super::place::{Eye, Found, OWN, Target};

/// Directories that belong to programs: what they put there is nobody's concern.
pub(super) const MUTABLE: [&[u8]; 4] = [b"input", b"output", b"user", b"temp"];

/// One file to write.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) path: RelPath,
    pub(super) file: FileNode,
}

/// Everything to do, in the order in which it is done.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Moved to where nobody reads it.
    pub(super) aside: Vec<RelPath>,
    /// Files and symlinks of ours that go.
    pub(super) unlink: Vec<RelPath>,
    /// Directories of ours that go when nothing is left in them, parents first.
    pub(super) rmdir: Vec<RelPath>,
    /// Parents first.
    pub(super) mkdir: Vec<RelPath>,
    pub(super) symlinks: Vec<(RelPath, Vec<u8>)>,
    pub(super) copies: Vec<Write>,
    pub(super) links: Vec<Write>,
    /// Differences that stay as they are.
    pub(super) kept: Vec<Change>,
    /// Differences that keep the version from being realized.
    pub(super) in_the_way: Vec<Change>,
}

impl Steps {
    pub(super) fn bytes(&self) -> u64 {
        self.copies.iter().map(|write| write.file.size).sum()
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.aside.is_empty()
            && self.unlink.is_empty()
            && self.rmdir.is_empty()
            && self.mkdir.is_empty()
            && self.symlinks.is_empty()
            && self.copies.is_empty()
            && self.links.is_empty()
    }
}

/// What the plan is made from.
pub(super) struct Planner<'a> {
    pub(super) eye: Eye<'a>,
    /// None while there is no such directory.
    pub(super) target: Option<&'a Target>,
    pub(super) next: &'a Listing,
    pub(super) base: Option<&'a Listing>,
    /// Views that were begun; with true, in a boot that is over, so that only their bytes say whether they are there.
    pub(super) begun: &'a [(Listing, bool)],
    pub(super) force: bool,
}

/// What the views say of one path.
struct Candidate<'a> {
    path: &'a RelPath,
    next: Option<&'a Node>,
    base: Option<&'a Node>,
}

impl Planner<'_> {
    pub(super) fn plan(&self) -> Result<Steps, RealizeError> {
        let candidates = self.candidates();
        let found = match self.target {
            Some(target) => {
                target.look(&candidates.iter().map(|candidate| candidate.path).collect::<Vec<_>>())?
            }
            None => vec![Found::Absent; candidates.len()],
        };
        let torn = self.torn(&candidates, &found)?;
        let mut steps = Steps::default();
        let mut made: BTreeSet<&RelPath> = BTreeSet::new();
        // Directories of ours where something else must lie: they have to be empty by then.
        let mut vacated: Vec<&RelPath> = Vec::new();
        for ((candidate, found), torn) in candidates.iter().zip(&found).zip(&torn) {
            let Candidate { path, next, base } = *candidate;
            let mut found = found.clone();
            if let Found::Below(above) = &found {
                if is_mutable(path) {
                    continue;
                }
                // It is set aside before anything is written, or it goes because the view has a directory there now.
                let goes =
                    self.force || self.target_shows(above)?.is_some_and(|found| self.is_ours(above, &found));
                if !goes {
                    if next.is_some() && !self.same_as_base(next, base) {
                        note(&mut steps.in_the_way, above, ChangeKind::Changed);
                    }
                    continue;
                }
                found = Found::Absent;
            }
            let Some(node) = next else {
                self.leave(path, &found, &mut steps);
                continue;
            };
            let unchanged = self.same_as_base(next, base);
            match &found {
                found if !torn && self.eye.fits(found, node) => continue,
                Found::Absent | Found::Nowhere => {
                    // One that was interrupted may have removed it.
                    if unchanged && !self.force && !self.was_begun_otherwise(path, node) {
                        if found == Found::Absent {
                            note(&mut steps.kept, path, ChangeKind::Removed);
                        }
                        continue;
                    }
                    let parent = path.parent().unwrap_or_default();
                    if found == Found::Nowhere && self.target.is_some() && !made.contains(&parent) {
                        // Half of a directory that somebody removed is of no use to anybody.
                        note(&mut steps.in_the_way, &parent, ChangeKind::Removed);
                        continue;
                    }
                }
                _ if *torn => {}
                found if self.is_ours_by_begun(path, found) || self.eye.knows(found, node) => {}
                _ if unchanged && !self.force => {
                    note(&mut steps.kept, path, ChangeKind::Changed);
                    continue;
                }
                found if base.is_some_and(|base| self.eye.knows(found, base)) => {}
                // A person may have put the directory of outputs on another disk.
                Found::Symlink(_) if *node == Node::Dir && is_mutable(path) => {
                    note(&mut steps.kept, path, ChangeKind::Changed);
                    continue;
                }
                _ if self.force => steps.aside.push(path.clone()),
                _ => {
                    let kind = if base.is_some() { ChangeKind::Changed } else { ChangeKind::Added };
                    note(&mut steps.in_the_way, path, kind);
                    continue;
                }
            }
            let is_aside = steps.aside.last() == Some(path);
            match (&found, node) {
                _ if is_aside => {}
                (Found::Dir, Node::Dir) | (Found::Absent | Found::Nowhere, _) => {}
                (Found::Dir, _) => {
                    vacated.push(path);
                    steps.rmdir.push(path.clone());
                }
                // A file takes the place of a file or a symlink by its rename.
                (_, Node::Dir) => steps.unlink.push(path.clone()),
                _ => {}
            }
            if *node == Node::Dir {
                made.insert(path);
            }
            self.make(path, node, &mut steps);
        }
        for path in vacated {
            self.check_vacated(path, &mut steps)?;
        }
        self.order_links(&mut steps)?;
        highest(&mut steps.in_the_way);
        highest(&mut steps.kept);
        Ok(steps)
    }

    /// The paths at which something may have to be done: all of them, when everything is to be as the version has it.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let mut all: BTreeMap<&RelPath, Candidate<'_>> = BTreeMap::new();
        let listings =
            std::iter::once(self.next).chain(self.base).chain(self.begun.iter().map(|(listing, _)| listing));
        for listing in listings {
            for (path, node) in listing.iter() {
                let base = self.base.and_then(|base| base.get(path));
                if !self.force && base == Some(node) {
                    // Another listing may have something else there.
                    continue;
                }
                all.entry(path).or_insert_with(|| Candidate { path, next: self.next.get(path), base });
            }
        }
        // What the base had and one of the others has not.
        for (path, node) in self.base.iter().flat_map(|base| base.iter()) {
            let next = self.next.get(path);
            if next != Some(node) || self.was_begun_otherwise(path, node) {
                all.entry(path).or_insert(Candidate { path, next, base: Some(node) });
            }
        }
        all.into_values().collect()
    }

    /// Which files look right and may have lost their bytes in a crash of the machine. They are read.
    fn torn(&self, candidates: &[Candidate<'_>], found: &[Found]) -> Result<Vec<bool>, RealizeError> {
        let (Some(target), true) = (self.target, self.begun.iter().any(|(_, over)| *over)) else {
            return Ok(vec![false; candidates.len()]);
        };
        let pairs: Vec<_> = candidates.iter().zip(found).collect();
        pairs
            .par_iter()
            .map(|(candidate, found)| match (candidate.next, found) {
                (Some(node @ Node::File(file)), Found::File(_))
                    if self.eye.knows(found, node) && candidate.base != Some(node) =>
                {
                    Ok(!target.has_content(candidate.path, &file.blob)?)
                }
                _ => Ok(false),
            })
            .collect()
    }

    fn same_as_base(&self, next: Option<&Node>, base: Option<&Node>) -> bool {
        base.is_some() && next == base
    }

    /// True when a view was begun that has something else there, or nothing.
    fn was_begun_otherwise(&self, path: &RelPath, node: &Node) -> bool {
        self.begun.iter().any(|(listing, _)| listing.get(path) != Some(node))
    }

    fn is_ours_by_begun(&self, path: &RelPath, found: &Found) -> bool {
        self.begun.iter().filter_map(|(listing, _)| listing.get(path)).any(|node| self.eye.knows(found, node))
    }

    fn is_ours(&self, path: &RelPath, found: &Found) -> bool {
        let base = self.base.and_then(|base| base.get(path));
        base.is_some_and(|node| self.eye.knows(found, node)) || self.is_ours_by_begun(path, found)
    }

    fn target_shows(&self, path: &RelPath) -> Result<Option<Found>, RealizeError> {
        let Some(target) = self.target else { return Ok(None) };
        Ok(target.look(&[path])?.pop())
    }

    /// A path that the version does not have any more: ours goes, anything else stays.
    fn leave(&self, path: &RelPath, found: &Found, steps: &mut Steps) {
        match found {
            Found::Absent | Found::Nowhere | Found::Below(_) => {}
            found if !self.is_ours(path, found) => note(&mut steps.kept, path, ChangeKind::Changed),
            Found::Dir => steps.rmdir.push(path.clone()),
            _ => steps.unlink.push(path.clone()),
        }
    }

    fn make(&self, path: &RelPath, node: &Node, steps: &mut Steps) {
        let path = path.clone();
        match node {
            Node::Dir => steps.mkdir.push(path),
            Node::Symlink(target) => steps.symlinks.push((path, target.to_vec())),
            Node::File(file) if file.linked => {
                use std::os::unix::ffi::OsStrExt;
                let object = self.eye.store.blob_path(&file.blob);
                steps.symlinks.push((path, object.as_os_str().as_bytes().to_vec()));
            }
            Node::File(file) => {
                let write = Write { path, file: file.clone() };
                if file.link.is_some() { steps.links.push(write) } else { steps.copies.push(write) }
            }
        }
    }

    /// A directory that must make way can, when all that is in it goes too.
    fn check_vacated(&self, path: &RelPath, steps: &mut Steps) -> Result<(), RealizeError> {
        let Some(target) = self.target else { return Ok(()) };
        let going: BTreeSet<RelPath> =
            steps.unlink.iter().chain(&steps.rmdir).chain(&steps.aside).cloned().collect();
        let mut pending = vec![path.clone()];
        while let Some(dir) = pending.pop() {
            for (inside, is_dir) in target.list(&dir)? {
                if is_bytecode(&inside) {
                    continue;
                }
                if is_dir {
                    pending.push(inside);
                } else if !going.contains(&inside) {
                    if self.force {
                        steps.aside.push(path.clone());
                    } else {
                        note(&mut steps.in_the_way, &inside, ChangeKind::Added);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A name of a file with several can only be linked to the first when that is as the view has it.
    fn order_links(&self, steps: &mut Steps) -> Result<(), RealizeError> {
        if steps.links.is_empty() {
            return Ok(());
        }
        let written: BTreeSet<RelPath> = steps.copies.iter().map(|write| write.path.clone()).collect();
        let mut links = Vec::new();
        for write in std::mem::take(&mut steps.links) {
            let Some(first) = write.file.link.clone() else { continue };
            let fits = written.contains(&*first)
                || match (self.target_shows(&first)?, self.next.get(&first)) {
                    (Some(found), Some(node)) => self.eye.fits(&found, node),
                    _ => false,
                };
            if fits { links.push(write) } else { steps.copies.push(write) }
        }
        steps.links = links;
        Ok(())
    }
}

/// Of what lies in each other, the highest says it all.
fn highest(changes: &mut Vec<Change>) {
    let all: BTreeSet<RelPath> = changes.iter().map(|change| change.path.clone()).collect();
    let above = |path: &RelPath| std::iter::successors(path.parent(), RelPath::parent);
    changes.retain(|change| !above(&change.path).any(|path| all.contains(&path)));
}

fn note(changes: &mut Vec<Change>, path: &RelPath, kind: ChangeKind) {
    // One directory is often found by many that lie in it.
    if changes.last().is_none_or(|last| last.path != *path) {
        changes.push(Change { path: path.clone(), kind });
    }
}

/// True in a directory that belongs to programs, and for that directory itself.
pub(super) fn is_mutable(path: &RelPath) -> bool {
    path.names().next().is_some_and(|first| MUTABLE.contains(&first) || first == OWN.as_bytes())
}

/// True for what Python leaves beside its sources and makes again at will.
pub(super) fn is_bytecode(path: &RelPath) -> bool {
    let parent = path.parent().unwrap_or_default();
    parent.file_name() == Some(b"__pycache__") && path.as_bytes().ends_with(b".pyc")
        || path.file_name() == Some(b"__pycache__")
}
