//! What the end-to-end tests stand on: a hermetic environment for the built `cvs`, real servers on loopback, and a
//! ComfyUI of our own with the git repositories that it is cloned from.
//!
//! Everything here lives in a temporary directory of its own and is gone when its value is dropped: processes are
//! killed, mounts detached, servers joined. Nothing listens but on 127.0.0.1. Helpers panic, naming what they did,
//! where a test could only fail; they return [`Missing`] where the machine lacks a program, for [`available`].

mod browser;
mod cleanup;
mod comfy_process;
mod comfyui;
mod disk_image;
mod git;
mod git_server;
mod http;
mod http_client;
mod http_server;
mod hub;
mod nginx;
mod package_index;
mod png;
mod python;
mod recorder;
mod s3;
mod safetensors;
mod sandbox;
mod tools;
mod wait;
mod wheels;
mod workflows;

pub use browser::Browser;
pub use cleanup::LET_GO;
pub use comfy_process::{ComfyProcess, Event, Finished, Launch};
pub use comfyui::{CORE, LIBRARY, NODES, Repositories, SubmoduleUrl};
pub use disk_image::DiskImage;
pub use git::Git;
pub use git_server::{GitDaemon, GitHttpServer, Wants};
pub use http::{Headers, Request};
pub use http_client::{Reply, get, post_json, send};
pub use http_server::{Body, Fault, HttpServer, Response};
pub use hub::{HUB_COMMIT, Hub};
pub use nginx::Nginx;
pub use package_index::{PackageIndex, Sdist, Wheel};
pub use png::Png;
pub use python::Python;
pub use recorder::{Event as DiskEvent, Recorder, write_disk};
pub use s3::{S3_KEY, S3_SECRET, S3Server};
pub use safetensors::safetensors;
pub use sandbox::{CvsCommand, Output, TestEnvironment};
pub use tools::tool;
pub use wait::{free_port, wait_for, wait_until};
pub use workflows::{api_workflow, read_json, ui_workflow};

use std::io::Write;

/// What a test needs and this machine lacks, in words that say how to get it.
#[derive(Debug)]
pub struct Missing(pub String);

/// The thing, or a word on stderr and `None`, so that the test can return. Under CI a lacking thing is a failure.
#[track_caller]
pub fn available<T>(thing: Result<T, Missing>) -> Option<T> {
    match thing {
        Ok(thing) => Some(thing),
        Err(Missing(what)) if std::env::var_os("CI").is_some() => panic!("needed under CI: {what}"),
        Err(Missing(what)) => {
            // Not by eprintln!, which the test runner keeps to itself for a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: {what}");
            None
        }
    }
}
