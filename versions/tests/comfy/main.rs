//! Starting our ComfyUI, speaking to it, and what happens when either goes wrong.

mod launch;
mod support;
