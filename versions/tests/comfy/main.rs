//! Starting our ComfyUI, speaking to it, and what happens when either goes wrong.

mod faults;
mod jobs;
mod launch;
mod serve;
mod support;
