//! Manifests: the complete, sorted listing of one source.
//!
//! The encoding is canonical (the same tree always gives the same bytes, hence the same id) and is used as it lies on
//! disk: nothing is parsed when a manifest is opened, and an entry takes the 32 bytes of its record and its name.
//!
//! ```text
//! header   64 bytes   magic, version, features, counts (see `format`)
//! entries  32 × E     the tree in breadth-first order: children of a directory are adjacent, sorted by name
//! blobs    32 × B     the distinct blob ids, sorted
//! heap     H bytes    names and symlink targets, in the order of the entries
//! ```
//!
//! A child always stands behind its parent, so that a walk ends whatever the bytes say. Every accessor checks its
//! bounds and answers `None` where the bytes make no sense; a verified manifest never does.

mod build;
mod check;
mod format;
mod read;

#[cfg(test)]
mod tests;

pub use build::ManifestBuilder;
pub use read::{Entry, EntryKind, Manifest, Walk};
