//! What callers may set, and what they get back.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cvs_store::{Graft, Intake, View, ViewId};

use super::event::{Events, Why};
use super::install::Sandbox;
use crate::source::NetworkLimits;
use crate::spec::{Lock, Part, Spec, VersionId, Warning};

static NEVER: AtomicBool = AtomicBool::new(false);

/// How a version is created.
#[derive(Clone, Copy)]
pub struct CreateOptions<'a> {
    /// Brings everything, so that the version can be mounted right after. Otherwise commits are resolved and pinned,
    /// and nothing else.
    pub fetch: bool,
    /// Replaces a version of the same name. What its lock has pinned and the new spec asks for as well stays pinned.
    pub replace: bool,
    /// Uses no network.
    pub offline: bool,
    /// How models that are files of this machine enter the store.
    pub intake: Intake,
    /// A directory of Python packages, taken besides the indexes.
    pub wheels: Option<&'a Path>,
    /// Where the `install.py` of a node is run, if the spec wants one to be.
    pub sandbox: Option<&'a dyn Sandbox>,
    /// Hears of progress.
    pub events: Events<'a>,
    /// Set to true, by anyone at any time, to stop.
    pub cancel: &'a AtomicBool,
    /// Timeouts and retries.
    pub limits: NetworkLimits,
}

impl Default for CreateOptions<'_> {
    fn default() -> Self {
        Self {
            fetch: true,
            replace: false,
            offline: false,
            intake: Intake::Copy,
            wheels: None,
            sandbox: None,
            events: &|_| {},
            cancel: &NEVER,
            limits: NetworkLimits::default(),
        }
    }
}

/// How a lock is brought up to date.
#[derive(Clone, Copy)]
pub struct LockOptions<'a> {
    /// Uses no network: what the store does not have is an error.
    pub offline: bool,
    /// Refuses to change the lock. What it pins is still brought where the store lacks it.
    pub locked: bool,
    /// Looks for every blob even when the lock is up to date. Otherwise it is enough then that every manifest is
    /// there and whole, because nothing but damage takes a blob away from under a published lock.
    pub thorough: bool,
    /// What is resolved anew although nobody edited it.
    pub update: Update<'a>,
    /// How models that are files of this machine enter the store.
    pub intake: Intake,
    /// A directory of Python packages, taken besides the indexes.
    pub wheels: Option<&'a Path>,
    /// Where the `install.py` of a node is run, if the spec wants one to be.
    pub sandbox: Option<&'a dyn Sandbox>,
    /// Hears of progress.
    pub events: Events<'a>,
    /// Set to true, by anyone at any time, to stop.
    pub cancel: &'a AtomicBool,
    /// Timeouts and retries.
    pub limits: NetworkLimits,
}

impl Default for LockOptions<'_> {
    fn default() -> Self {
        Self {
            offline: false,
            locked: false,
            thorough: false,
            update: Update::Nothing,
            intake: Intake::Copy,
            wheels: None,
            sandbox: None,
            events: &|_| {},
            cancel: &NEVER,
            limits: NetworkLimits::default(),
        }
    }
}

/// Which pins are given up, as by `cargo update`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update<'a> {
    /// None.
    Nothing,
    /// Those of these parts: `core`, the name or path of a node, or the path of a model.
    Parts(&'a [String]),
    /// All.
    Everything,
}

/// A part that was worked on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refreshed {
    /// Which part.
    pub part: Part,
    /// Why.
    pub why: Why,
}

/// What [`Workspace::lock`](super::Workspace::lock) did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LockReport {
    /// The version.
    pub id: VersionId,
    /// The parts that were resolved or brought, in the order of the spec; then those that are gone or only moved.
    pub refreshed: Vec<Refreshed>,
    /// Objects that the store did not have.
    pub new_objects: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// The view; none when nothing was to be fetched.
    pub view: Option<ViewId>,
    /// True when the lock in the spec was right as it stood. Parts may have been brought all the same.
    pub unchanged: bool,
    /// What is odd in the spec.
    pub warnings: Vec<Warning>,
}

/// What [`Workspace::create`](super::Workspace::create) did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CreateReport {
    /// The spec.
    #[serde(serialize_with = "cvs_store::path_json::serialize")]
    pub path: PathBuf,
    /// What became of its lock.
    pub lock: LockReport,
    /// The overlay of an earlier version of this name, which the new one shows.
    #[serde(serialize_with = "cvs_store::path_json::option::serialize")]
    pub kept_overlay: Option<PathBuf>,
}

/// A version that can be mounted.
pub struct Ready {
    /// The spec.
    pub spec: Spec,
    /// Its lock, which answers the spec.
    pub lock: Lock,
    /// What the view is composed from, in order.
    pub grafts: Vec<Graft>,
    /// The view's identity, which is that of the lock.
    pub view_id: ViewId,
    /// The view itself, composed.
    pub view: View,
    /// What had to be done.
    pub report: LockReport,
}
