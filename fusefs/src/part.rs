//! Parting: a file that is about to change gives its names to a copy under a number of its own, and stays, without a
//! name, what it was for those who have it open. It is for readers whom the kernel lets read the object itself, and who
//! so cannot see what is written.

use crate::error::FsError;
use crate::overlay::Overlay;
use crate::tree::{Name, Node, Slot, Tree};
use crate::types::{Ino, Kind};

impl Overlay {
    /// Gives the names of an upper file to a node of its own; `ino` is what it was in the view. Returns the new number
    /// and its names. The caller alone has the table.
    pub(crate) fn renumber(&self, tree: &mut Tree, ino: Ino) -> Result<(Ino, Vec<Name>), FsError> {
        let id = self.lower_of_number(ino).ok_or(FsError::BadView)?;
        let names = tree.nodes.get(&ino).map(|node| node.names.clone()).unwrap_or_default();
        if names.is_empty() {
            // Unlinked meanwhile.
            return Ok((ino, names));
        }
        let mut copy = tree.nodes.remove(&ino).ok_or(FsError::BadView)?;
        copy.lower = None;
        let mut old = Node::new(Kind::File);
        old.lower = Some(id);
        old.parted = true;
        let new = tree.insert(copy);
        tree.nodes.insert(ino, old);
        for (dir, name) in &names {
            self.set_slot(tree, *dir, name, Some(Slot::Node(new)));
        }
        self.close(ino);
        self.drop_if_unused(tree, ino);
        Ok((new, names))
    }

    /// True for what is in the upper layer: it was made or changed there.
    pub fn is_written(&self, ino: Ino) -> bool {
        self.read().nodes.get(&ino).is_some_and(|node| node.upper)
    }

    /// True for a file whose content is in the upper layer.
    pub(crate) fn is_upper_file(&self, ino: Ino) -> bool {
        self.read().nodes.get(&ino).is_some_and(|node| node.upper && node.kind == Kind::File)
    }

    /// True for what has been unlinked and is in use.
    pub(crate) fn has_no_name(&self, ino: Ino) -> bool {
        self.name_of(&self.read(), ino).is_err()
    }

    /// True when the names of a file lead to a copy of it.
    pub(crate) fn is_parted(&self, ino: Ino) -> bool {
        self.read().nodes.get(&ino).is_some_and(|node| node.parted)
    }
}
