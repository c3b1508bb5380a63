//! A model of a directory tree, random operations on it, and what may be there after the process that served the tree
//! was killed: every operation that was acknowledged, and the one that was under way wholly or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::chance::Chance;

/// What a file may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// It was synced.
    Exact(Vec<u8>),
    /// It was on its way from the one to the other: each byte is of either, or was not written yet.
    Between(Vec<u8>, Vec<u8>),
}

impl Content {
    fn allows(&self, found: &[u8]) -> bool {
        match self {
            Content::Exact(bytes) => found == bytes,
            Content::Between(old, new) => {
                let lengths = old.len().min(new.len())..=old.len().max(new.len());
                let may = |(at, byte): (usize, &u8)| {
                    old.get(at) == Some(byte) || new.get(at) == Some(byte) || (at >= old.len() && *byte == 0)
                };
                lengths.contains(&found.len()) && found.iter().enumerate().all(may)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir,
    /// The number of its content: names of one file have the same.
    File(usize),
    Link(String),
}

/// The tree. A path's parent is always there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    nodes: BTreeMap<String, Node>,
    contents: Vec<Arc<Content>>,
}

/// One operation, which succeeds on the model that it was made for.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A new file, written and synced, or only written.
    Create {
        path: String,
        bytes: Vec<u8>,
        sync: bool,
    },
    /// Bytes in the middle of a file, or behind its end.
    Write {
        path: String,
        at: usize,
        bytes: Vec<u8>,
    },
    /// Cut to nothing, written anew and synced.
    Replace {
        path: String,
        bytes: Vec<u8>,
    },
    Truncate {
        path: String,
        len: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Mkdir {
        path: String,
    },
    Remove {
        path: String,
    },
}

impl Model {
    pub(crate) fn add_file(&mut self, path: &str, bytes: &[u8]) {
        for (at, _) in path.match_indices('/') {
            self.nodes.insert(path[..at].to_owned(), Node::Dir);
        }
        self.nodes.insert(path.to_owned(), Node::File(self.contents.len()));
        self.contents.push(Arc::new(Content::Exact(bytes.to_vec())));
    }

    fn below<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = &'a String> {
        self.nodes.keys().filter(move |path| is_below(path, dir))
    }

    /// The file's content, if it is certain.
    fn exact(&self, path: &str) -> Option<&Vec<u8>> {
        match self.nodes.get(path) {
            Some(Node::File(id)) => match &*self.contents[*id] {
                Content::Exact(bytes) => Some(bytes),
                Content::Between(..) => None,
            },
            _ => None,
        }
    }

    fn set(&mut self, path: &str, content: Content) {
        if let Some(Node::File(id)) = self.nodes.get(path) {
            self.contents[*id] = Arc::new(content);
        }
    }

    /// Takes a path and what is below it out.
    fn take(&mut self, path: &str) -> Vec<(String, Node)> {
        let paths: Vec<String> =
            self.below(path).cloned().chain(self.nodes.contains_key(path).then(|| path.to_owned())).collect();
        let rest = |full: &str| full[path.len()..].to_owned();
        paths.into_iter().filter_map(|full| Some((rest(&full), self.nodes.remove(&full)?))).collect()
    }

    fn put(&mut self, path: &str, nodes: Vec<(String, Node)>) {
        self.nodes.extend(nodes.into_iter().map(|(rest, node)| (format!("{path}{rest}"), node)));
    }

    /// The model after an operation that was acknowledged.
    pub(crate) fn after(&self, op: &Op) -> Model {
        let mut model = self.clone();
        match op {
            Op::Create { path, bytes, sync } => {
                model.add_file(path, bytes);
                if !sync {
                    model.set(path, Content::Between(Vec::new(), bytes.clone()));
                }
            }
            Op::Write { path, .. } | Op::Truncate { path, .. } | Op::Replace { path, .. } => {
                let new = op.changed(self.exact(path).map_or(&[], Vec::as_slice));
                model.set(path, Content::Exact(new));
            }
            Op::Rename { from, to } => {
                let nodes = model.take(from);
                model.take(to);
                model.put(to, nodes);
            }
            Op::Exchange { from, to } => {
                let (one, other) = (model.take(from), model.take(to));
                model.put(to, one);
                model.put(from, other);
            }
            Op::Link { from, to } => {
                let node = model.nodes[from].clone();
                model.nodes.insert(to.clone(), node);
            }
            Op::Symlink { path, target } => {
                drop(model.nodes.insert(path.clone(), Node::Link(target.clone())))
            }
            Op::Mkdir { path } => drop(model.nodes.insert(path.clone(), Node::Dir)),
            Op::Remove { path } => drop(model.nodes.remove(path)),
        }
        model
    }

    /// What may be there when the operation was not acknowledged.
    pub(crate) fn possible(&self, op: &Op) -> Vec<Model> {
        let mut after = self.after(op);
        match op {
            Op::Create { path, bytes, .. } => after.set(path, Content::Between(Vec::new(), bytes.clone())),
            Op::Replace { path, bytes } => after.set(path, Content::Between(Vec::new(), bytes.clone())),
            Op::Write { path, .. } | Op::Truncate { path, .. } => {
                let old = self.exact(path).cloned().unwrap_or_default();
                let new = op.changed(&old);
                after.set(path, Content::Between(old, new));
            }
            _ => {}
        }
        vec![self.clone(), after]
    }

    /// Compares with what is below `dir`; the differences in words.
    pub(crate) fn differences(&self, dir: &Path) -> Vec<String> {
        let mut found = BTreeMap::new();
        list(dir, dir, &mut found);
        let mut differences = Vec::new();
        for path in found.keys().filter(|path| !self.nodes.contains_key(*path)) {
            differences.push(format!("{path} should not be there"));
        }
        for (path, node) in &self.nodes {
            let Some(metadata) = found.get(path) else {
                differences.push(format!("{path} is missing: {node:?}"));
                continue;
            };
            let full = dir.join(path);
            let fits = match node {
                Node::Dir => metadata.is_dir(),
                Node::Link(target) => {
                    metadata.is_symlink()
                        && fs::read_link(&full).is_ok_and(|found| found == Path::new(target))
                }
                Node::File(id) => {
                    let names = self.nodes.values().filter(|other| *other == node).count() as u64;
                    metadata.is_file()
                        && metadata.nlink() == names
                        && fs::read(&full).is_ok_and(|found| self.contents[*id].allows(&found))
                }
            };
            if !fits {
                differences.push(format!("{path} is another: {metadata:?}"));
            }
        }
        differences
    }

    /// Takes what is there for certain from now on.
    pub(crate) fn settle(&mut self, dir: &Path) {
        for (path, node) in &self.nodes {
            if let Node::File(id) = node
                && matches!(*self.contents[*id], Content::Between(..))
            {
                let found = fs::read(dir.join(path)).expect("it was just read");
                self.contents[*id] = Arc::new(Content::Exact(found));
            }
        }
    }

    /// An operation that must succeed.
    pub(crate) fn random_op(&self, chance: &mut Chance) -> Op {
        loop {
            if let Some(op) = self.try_random_op(chance) {
                return op;
            }
        }
    }

    fn try_random_op(&self, chance: &mut Chance) -> Option<Op> {
        let dirs: Vec<String> = self
            .nodes
            .iter()
            .filter(|(path, node)| **node == Node::Dir && path.matches('/').count() < 4)
            .map(|(path, _)| path.clone())
            .chain([String::new()])
            .collect();
        let all: Vec<String> = self.nodes.keys().cloned().collect();
        let certain: Vec<String> = all.iter().filter(|path| self.exact(path).is_some()).cloned().collect();
        // Few names, so that what was removed comes again as something else.
        let fresh = |chance: &mut Chance| {
            let dir = chance.pick(&dirs)?;
            let name = format!("{}{}", chance.pick(&["f", "d", "s"])?, chance.below(8));
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            (!self.nodes.contains_key(&path)).then_some(path)
        };
        let len = |chance: &mut Chance| {
            if chance.below(8) == 0 { chance.below(300_000) } else { chance.below(9000) }
        };
        // The larger it is, the more is removed.
        match chance.below(16 + all.len() / 16) {
            0 | 1 => {
                let (path, len) = (fresh(chance)?, len(chance));
                Some(Op::Create { path, bytes: chance.bytes(len), sync: chance.below(4) != 0 })
            }
            2 | 3 => {
                let path = chance.pick(&certain)?;
                let at = chance.below(self.exact(&path)?.len() + 1);
                let len = 1 + len(chance);
                Some(Op::Write { path, at, bytes: chance.bytes(len) })
            }
            4 => {
                let (path, len) = (chance.pick(&certain)?, len(chance));
                Some(Op::Replace { path, bytes: chance.bytes(len) })
            }
            5 => {
                let path = chance.pick(&certain)?;
                let len = chance.below(2 * self.exact(&path)?.len() + 2);
                Some(Op::Truncate { path, len })
            }
            6 => Some(Op::Rename { from: chance.pick(&all)?, to: fresh(chance)? }),
            7 | 8 => Some(Op::Rename { from: chance.pick(&all)?, to: chance.pick(&all)? }),
            9 => Some(Op::Exchange { from: chance.pick(&all)?, to: chance.pick(&all)? }),
            10 => Some(Op::Link { from: chance.pick(&certain)?, to: fresh(chance)? }),
            11 => Some(Op::Symlink { path: fresh(chance)?, target: format!("target{}", chance.below(100)) }),
            12 | 13 => Some(Op::Mkdir { path: fresh(chance)? }),
            _ => Some(Op::Remove { path: chance.pick(&all)? }),
        }
        .filter(|op| self.is_valid(op))
    }

    fn is_valid(&self, op: &Op) -> bool {
        let is_empty = |path: &str| self.below(path).next().is_none();
        match op {
            Op::Rename { from, to } | Op::Exchange { from, to } => {
                let (one, other) = (self.nodes.get(from), self.nodes.get(to));
                let apart = from != to && !is_below(to, from) && !is_below(from, to);
                let deep = |path: &str, at: &str| {
                    let depth = |path: &str| path.matches('/').count();
                    self.below(path).all(|below| depth(below) - depth(path) + depth(at) < 6)
                };
                apart
                    && deep(from, to)
                    && match (op, one, other) {
                        (_, None, _) => false,
                        (Op::Exchange { .. }, Some(one), Some(other)) => one != other && deep(to, from),
                        (Op::Exchange { .. }, _, None) => false,
                        (_, Some(_), None) => true,
                        (_, Some(Node::Dir), Some(other)) => *other == Node::Dir && is_empty(to),
                        (_, Some(one), Some(other)) => *other != Node::Dir && one != other,
                    }
            }
            Op::Remove { path } => self.nodes.get(path) != Some(&Node::Dir) || is_empty(path),
            _ => true,
        }
    }
}

impl Op {
    /// What a file holds after this operation.
    fn changed(&self, old: &[u8]) -> Vec<u8> {
        let mut new = old.to_vec();
        match self {
            Op::Write { at, bytes, .. } => {
                new.resize(new.len().max(at + bytes.len()), 0);
                new[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Op::Truncate { len, .. } => new.resize(*len, 0),
            Op::Create { bytes, .. } | Op::Replace { bytes, .. } => new.clone_from(bytes),
            _ => {}
        }
        new
    }

    /// Does it in a real directory. Contents are synced before it returns, unless it says otherwise.
    pub(crate) fn apply(&self, dir: &Path) -> io::Result<()> {
        let full = |path: &str| -> PathBuf { dir.join(path) };
        match self {
            Op::Create { path, bytes, sync } => {
                let mut file = fs::File::create_new(full(path))?;
                file.write_all(bytes)?;
                if *sync { file.sync_all() } else { Ok(()) }
            }
            Op::Write { path, at, bytes } => {
                let file = fs::File::options().write(true).open(full(path))?;
                file.write_all_at(bytes, *at as u64)?;
                file.sync_data()
            }
            Op::Replace { path, bytes } => {
                let mut file = fs::File::create(full(path))?;
                file.write_all(bytes)?;
                file.sync_all()
            }
            Op::Truncate { path, len } => {
                let file = fs::File::options().write(true).open(full(path))?;
                file.set_len(*len as u64)?;
                file.sync_all()
            }
            Op::Rename { from, to } => fs::rename(full(from), full(to)),
            Op::Exchange { from, to } => {
                Ok(renameat_with(CWD, full(from), CWD, full(to), RenameFlags::EXCHANGE)?)
            }
            Op::Link { from, to } => fs::hard_link(full(from), full(to)),
            Op::Symlink { path, target } => symlink(target, full(path)),
            Op::Mkdir { path } => fs::create_dir(full(path)),
            Op::Remove { path } => match fs::symlink_metadata(full(path))?.is_dir() {
                true => fs::remove_dir(full(path)),
                false => fs::remove_file(full(path)),
            },
        }
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn list(root: &Path, dir: &Path, found: &mut BTreeMap<String, fs::Metadata>) {
    for entry in fs::read_dir(dir).expect("listing the mount") {
        let path = entry.expect("listing the mount").path();
        let metadata = fs::symlink_metadata(&path).expect("looking at what was listed");
        if metadata.is_dir() {
            list(root, &path, found);
        }
        let name = path.strip_prefix(root).expect("an entry lies below").to_string_lossy().into_owned();
        found.insert(name, metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On an ordinary filesystem the model is right; so what differs on the mount is the mount's.
    #[test]
    fn the_model_is_that_of_an_ordinary_filesystem() {
        let dir = tempfile::tempdir().expect("making a temporary directory");
        let mut chance = Chance::new();
        let mut model = Model::default();
        for number in 0..2000 {
            let op = model.random_op(&mut chance);
            op.apply(dir.path()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
            model = model.after(&op);
            if number % 100 == 0 {
                assert_eq!(model.differences(dir.path()), Vec::<String>::new(), "{number}");
                model.settle(dir.path());
            }
        }
        assert_eq!(model.differences(dir.path()), Vec::<String>::new());
    }
}
