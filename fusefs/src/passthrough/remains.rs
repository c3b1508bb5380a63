//! What is left of a connection that has ended. When it was ended by force, the kernel goes on reading and writing by
//! itself what is open and mapped, and tells nobody.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks, at first and at most.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A filesystem, which is there until nothing of it is open or mapped any more.
pub(crate) struct Remains {
    /// Its entry in sysfs, open: a file of that name may be that of the next filesystem which got its number.
    entry: Option<File>,
}

impl Remains {
    /// Of the filesystem that `root` is in, and that is served already. Where sysfs does not show it, nothing is known
    /// to be left.
    pub(super) fn of(root: impl AsFd) -> Self {
        let entry = rustix::fs::fstat(root).map_err(Into::into).and_then(|stat| {
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            File::open(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"))
        });
        if let Err(error) = &entry {
            tracing::debug!(%error, "the end of the second connection is taken for the end of its files");
        }
        Self { entry: entry.ok() }
    }

    fn are_there(&self) -> bool {
        // ENODEV after the end.
        self.entry.as_ref().is_some_and(|entry| entry.read_at(&mut [0], 0).is_ok())
    }

    /// Waits until nothing is left, or nobody wants to know.
    pub(crate) fn wait_for_end(&self, over: &AtomicBool) {
        let mut pause = PAUSE;
        while self.are_there() && !over.load(Ordering::Relaxed) {
            std::thread::sleep(pause);
            // The kernel tells of an ordinary end a moment before it.
            if pause < LONGEST_PAUSE && pause * 2 >= LONGEST_PAUSE {
                tracing::warn!("the second connection was ended by force: who has files open is waited for");
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}
