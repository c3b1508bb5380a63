//! Tests of the overlay as its callers see it. Each has its own store and directories.

mod differential;
mod support;
