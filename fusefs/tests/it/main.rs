//! Tests of the overlay as its callers see it, and of real mounts. Each has its own store and directories.

mod deep;
mod mounted;
mod mounts;
mod passthrough;
mod semantics;
mod sequences;
mod support;
mod sys;
mod threads;
mod trees;
