//! Fault points: places at which the process that serves a mount dies, for tests that want to see what is left.
//!
//! There only with debug assertions, so never in a release: a build of its own would be a second build of everything
//! for one test. `CVS_FAULT` names a file that holds a number. So many points are passed, each counted down in the file,
//! and at the next one the process ends as by `kill -9`. Without the file every point is passed: a test makes it when
//! the moment has come, and knows by what it finds in it whether a point was left.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use rustix::process::{Signal, getpid, kill_process};

/// The variable.
const VARIABLE: &str = "CVS_FAULT";

/// A point: the process goes on, or it ends here.
pub(crate) fn point() {
    static PLAN: OnceLock<Option<Mutex<PathBuf>>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| std::env::var_os(VARIABLE).map(|path| Mutex::new(path.into())));
    let Some(plan) = plan else { return };
    let path = plan.lock().unwrap_or_else(|e| e.into_inner());
    let Ok(text) = std::fs::read_to_string(&*path) else { return };
    match text.trim().parse::<u32>() {
        Ok(0) => {
            // To this process itself: it does not return from the call.
            let _ = kill_process(getpid(), Signal::KILL);
        }
        Ok(left) => {
            let _ = std::fs::write(&*path, (left - 1).to_string());
        }
        Err(_) => {}
    }
}
