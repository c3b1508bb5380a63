//! Mounts of this machine: which there are, who uses them, how one is started, served and taken down.
//!
//! A mount is known by two things: its lease in the store, which its daemon holds, and its line in
//! `/proc/self/mountinfo`, which have the filesystem's device in common. Where the daemon was killed the store keeps the
//! lease as that of a dead mount, as long as the line is there: every access to it ends with "transport endpoint is not
//! connected". A line without either is of another store.
//!
//! A mount may have a second line, `cvs:VERSION/models` at `models/` below it: its models connection. It comes after the
//! other and is taken down before it, and is no mount of its own.

mod control;
mod error;
mod fill;
mod mountinfo;
mod sandbox;
mod serve;
mod spawn;
mod table;
mod unmount;
mod users;

pub(crate) use control::{DamagedObject, Figures, Report};
pub(crate) use error::MountsError;
pub(crate) use fill::{Fill, Filled};
pub(crate) use sandbox::MountedSandbox;
pub(crate) use serve::{Serve, say_ready, serve};
pub(crate) use spawn::{Daemon, launch};
pub(crate) use table::{Models, MountEntry, MountState, find, forget_gone, how, list, prepare};
pub(crate) use unmount::{How, take_down};
