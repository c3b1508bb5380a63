//! What a listing must tell while entries come and go: each that is there from beginning to end exactly once, and none
//! twice.

use std::collections::BTreeSet;

use super::outcome::Seen;

#[derive(Default)]
pub(crate) struct Listing {
    begun: bool,
    told: BTreeSet<Vec<u8>>,
    /// There at every step, and there at one of them.
    always: BTreeSet<Vec<u8>>,
    ever: BTreeSet<Vec<u8>>,
}

impl Listing {
    /// What is there now. A name that went and came back in between counts as one that stayed: it is told at the place
    /// of its name, whoever has it.
    pub(crate) fn see(&mut self, present: BTreeSet<Vec<u8>>) {
        self.always = if self.begun { &self.always & &present } else { present.clone() };
        self.ever.extend(present);
        self.begun = true;
    }

    /// A name was told; what is wrong with that.
    pub(crate) fn tell(&mut self, name: &[u8]) -> Option<Seen> {
        if name == b"." || name == b".." || self.told.insert(name.to_vec()) {
            return None;
        }
        Some(Seen::Broken(format!("{} is told twice", name.escape_ascii())))
    }

    /// The listing is over.
    pub(crate) fn ended(&self) -> Seen {
        match self.always.difference(&self.told).chain(self.told.difference(&self.ever)).next() {
            Some(name) => Seen::Broken(format!("{} is told wrongly", name.escape_ascii())),
            None => Seen::Done,
        }
    }
}
