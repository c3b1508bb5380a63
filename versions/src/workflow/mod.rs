//! Workflows: reading them in any of their formats, making of them what a server runs, and changing values in them.
//! Pure: what is asked of a server or fetched comes in as an argument, nothing is written, and the same input gives
//! the same prompt (the choices in texts are made by a function that the caller brings).
//!
//! A [`Document`] is a [`Prompt`] (the API format), or a [`Graph`] (the format of the editor), which
//! [`Graph::convert`] makes a prompt of.

mod choices;
mod convert;
pub(crate) mod document;
mod edit;
pub mod embedded;
mod error;
mod files;
mod frames;
pub(crate) mod gist;
mod graph;
mod info;
mod prompt;
mod resolve;
mod widgets;

pub use convert::{Conversion, Note};
pub use document::Document;
pub use error::{NodeRef, UnknownClass, WorkflowError};
pub use files::FileInput;
pub use graph::Graph;
pub use info::ObjectInfo;
pub use prompt::{Prompt, PromptNode, Seed};
