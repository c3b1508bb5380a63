//! Files of the view with several names. They stay one file when one of the names is written to, and after the next
//! mount: copying up gives the copy all names that are still shown.

use std::collections::HashMap;

use cvs_store::LowerId;

use crate::error::FsError;
use crate::overlay::Overlay;
use crate::tree::{Name, Node, Tree};
use crate::types::{Ino, Kind};

/// The names of every file of the view that has several, by the node that stands for all of them.
pub(crate) type LinkGroups = HashMap<LowerId, Vec<LowerId>>;

impl Overlay {
    /// The files of the view with several names.
    pub(crate) fn link_groups(&self) -> &LinkGroups {
        self.link_groups.get_or_init(|| self.view.link_groups())
    }

    /// Enters the node of a hard-linked file of the view, with those of its names that are shown.
    pub(crate) fn enter_link_group(&self, tree: &mut Tree, id: LowerId) -> Result<(), FsError> {
        // A directory of the view may have been renamed to anywhere in the upper layer.
        self.load_all(tree)?;
        let groups = self.link_groups();
        let mut node = Node::new(Kind::File);
        node.lower = Some(id);
        for member in groups.get(&id).into_iter().flatten() {
            let name = self.lower_name(*member)?;
            if self.is_shown(tree, &name) {
                node.names.push(name);
            }
        }
        tree.nodes.insert(Ino::of_lower(id), node);
        Ok(())
    }

    /// True when a name of the view leads to its node still.
    fn is_shown(&self, tree: &Tree, name: &Name) -> bool {
        let (mut dir, mut name) = name.clone();
        loop {
            if let Some(node) = tree.nodes.get(&dir) {
                return !node.dir.entries.contains_key(&name) && (dir == Ino::ROOT || !node.names.is_empty());
            }
            match self.name_of(tree, dir) {
                Ok(parent) => (dir, name) = parent,
                Err(_) => return false,
            }
        }
    }

    /// Reads every directory of the upper layer.
    fn load_all(&self, tree: &mut Tree) -> Result<(), FsError> {
        let mut pending: Vec<Ino> = vec![Ino::ROOT];
        while let Some(dir) = pending.pop() {
            self.load(tree, dir)?;
            let Some(node) = tree.nodes.get(&dir) else { continue };
            for slot in node.dir.entries.values() {
                if let crate::tree::Slot::Node(child) = slot
                    && tree.nodes.get(child).is_some_and(|node| node.kind == Kind::Dir && node.upper)
                {
                    pending.push(*child);
                }
            }
        }
        Ok(())
    }
}
