//! Running versions: where they run, who sees to them, which there are, and how they end.
//!
//! A run is one ComfyUI in one `Place`, with a process of ours that sees to it: the command itself, or a supervisor
//! that it leaves behind. That process has a lock and a record below `CVS_HOME/run/ui/` ([`record`]) for as long as it
//! lives, and takes down at the end what it made. When it is killed instead, ComfyUI is killed with it by the kernel,
//! and the next who comes across the record clears the rest away: processes by the run's tag, the mount by its place.
//!
//! *Order.* Lock, record, mount, ComfyUI; the end goes the other way round. What is in the record is written before it
//! is made, so that nothing is ever there that nobody can find.

mod detached;
mod error;
mod flags;
mod interpreter;
mod interrupts;
pub(crate) mod log;
mod notify;
mod options;
mod place;
mod processes;
mod record;
mod status;
mod stop;
mod supervise;

pub(crate) use detached::{
    Keep, Running, acquire, check_free, leave_session, log_path, say_failed, say_ready, start,
    stop_with_starter,
};
pub(crate) use error::RunsError;
pub(crate) use interpreter::interpreter;
pub(crate) use interrupts::Interrupts;
pub(crate) use notify::{ready as notify_ready, stopping as notify_stopping};
pub(crate) use options::{DEFAULT_HOST, DEFAULT_PORT, RunOptions};
pub(crate) use record::{Found, Phase, Record, Records, Role, name_of};
pub(crate) use status::{RunState, RunStatus, all};
pub(crate) use stop::{Stopped, stop};
pub(crate) use supervise::{Checked, End, Run, SeenTo};
