//! What is said of a realization that failed.

use cvs_versions::realize::RealizeError;

use super::{Exit, hint, of_store};

pub(super) fn exit(error: &RealizeError) -> Exit {
    match error {
        RealizeError::Store(error) => of_store(error),
        RealizeError::Busy { .. } => Exit::Busy,
        RealizeError::Unfit { .. } => Exit::Usage,
        RealizeError::Cancelled => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

pub(super) fn hint(error: &RealizeError) -> Option<String> {
    let text = match error {
        RealizeError::Store(error) => return hint::of_store(error),
        RealizeError::Io { source, .. } => return hint::of_io(source),
        RealizeError::NotEmpty { .. } | RealizeError::Unfit { .. } => {
            "name an empty directory, or one that does not exist yet, with --target DIR"
        }
        RealizeError::Foreign { .. } => {
            "remove it there (`cvs --home HOME realize VERSION --target DIR --remove`), or name another --target"
        }
        RealizeError::Unknown { .. } => "`cvs realize VERSION --target DIR` makes one",
        RealizeError::Busy { .. } => "wait until it is done, or stop what runs from there",
        RealizeError::InTheWay { .. } => {
            "nothing was written; --force moves these to .cvs/aside in the target, or name another --target"
        }
        RealizeError::NoRoom { .. } => "make room there, or name a --target on another filesystem",
        RealizeError::Record { .. } => {
            "gc refuses to run while it cannot be read: mend it, or move it away and realize again elsewhere"
        }
        RealizeError::Cancelled => "run the command again to go on where it stopped",
        _ => return None,
    };
    Some(text.to_owned())
}
