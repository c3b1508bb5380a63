//! Versions of ComfyUI: what a person asks for (the spec), what it resolved to (the lock), and where it comes from
//! (the sources). This crate knows nothing of FUSE, and prints nothing.

mod error;
pub mod source;
pub mod spec;

pub use error::{Origin, Problem, SpecError};
