//! End-to-end tests, one binary for all: the built `cvs` on real input, and the ComfyUI that it is tested with.

mod browser;
mod chance;
mod cli_bad_input;
mod cli_versions;
mod cli_world;
mod comfyui_loading;
mod comfyui_prompts;
mod comfyui_repositories;
mod crash_model;
mod faults;
mod fsx;
mod kills;
mod mounted;
mod mounts;
mod python_env;
mod run_handler;
mod running;
mod runs_check;
mod runs_detached;
mod runs_faults;
mod runs_service;
mod runs_ui;
mod story;
mod support;
mod unmounting;
mod users;
