//! Requests that wait for the copy of a large file. The threads that serve are few, and a copy takes as long as the disk
//! takes: were it made by one of them, and waited for by the others, nobody else would be answered.

use std::sync::{Arc, Mutex, PoisonError};

use fuser::{ReplyAttr, ReplyWrite};

use super::Adapter;
use crate::form::Form;
use crate::reply::guard;
use crate::types::{Caller, Ino, SetAttr};

/// A smaller file is copied in no time worth a thread.
const LARGE: u64 = 16 << 20;

impl<F: Form> Adapter<F> {
    /// True when a change of this node copies a large file up first.
    fn is_long(&self, ino: Ino) -> bool {
        !self.overlay.is_read_only()
            && matches!(self.overlay.lower_content(ino), Ok(Some((_, size))) if size >= LARGE)
    }

    pub(super) fn change_attributes(&self, ino: Ino, change: SetAttr, caller: Caller, reply: ReplyAttr) {
        self.change(ino, reply, move |this, reply| {
            match guard("setattr", ino.0, || this.form.setattr(ino, change, caller)) {
                Ok(attr) => reply.attr(&this.form.keep(ino), &this.attr(&attr)),
                Err(errno) => this.form.setattr_failed(ino, errno, reply),
            }
        });
    }

    pub(super) fn write_data(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        unprivileged: bool,
        reply: ReplyWrite,
    ) {
        let answer = move |this: &Self, data: &[u8], reply: ReplyWrite| {
            let write = || this.overlay.write_at(ino, offset, data, unprivileged);
            match guard("write", ino.0, write) {
                Ok(written) => reply.written(written as u32),
                Err(errno) => reply.error(errno),
            }
        };
        if self.is_long(ino) {
            let data = data.to_vec();
            self.aside(reply, move |this, reply| answer(this, &data, reply));
        } else {
            answer(self, data, reply);
        }
    }

    /// Answers a request that changes a node: on a thread of its own when that can take long.
    pub(super) fn change<R: Send + 'static>(
        &self,
        ino: Ino,
        reply: R,
        answer: impl FnOnce(&Self, R) + Send + 'static,
    ) {
        if self.is_long(ino) { self.aside(reply, answer) } else { answer(self, reply) }
    }

    /// Answers a request on a thread of its own.
    fn aside<R: Send + 'static>(&self, reply: R, answer: impl FnOnce(&Self, R) + Send + 'static) {
        let adapter = self.clone();
        let answer = move |on: &Self| answer(on, reply);
        aside(answer, move |answer| answer(&adapter), |answer| answer(self));
    }
}

/// Does `work` on a thread of its own; where there is none to be had, `otherwise` here.
pub(crate) fn aside<T: Send + 'static>(
    on: T,
    work: impl FnOnce(T) + Send + 'static,
    otherwise: impl FnOnce(T),
) {
    fn take<T>(on: &Mutex<Option<T>>) -> Option<T> {
        on.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    // What a thread that does not come into being was given is gone.
    let on = Arc::new(Mutex::new(Some(on)));
    let theirs = Arc::clone(&on);
    let spawned = std::thread::Builder::new().name("aside".to_owned()).spawn(move || {
        if let Some(on) = take(&theirs) {
            work(on);
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "there is no thread for what may take long");
        if let Some(on) = take(&on) {
            otherwise(on);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::mounts::{Lower, Mounted, THREADS};
    use crate::support::at;
    use crate::{Connections, requests};

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn who_waits_for_the_copy_of_a_large_file_keeps_nobody_else_waiting() {
        let large: Vec<String> = (0..=THREADS).map(|n| format!("large{n}")).collect();
        let lower = Lower::new(|dir| {
            fs::create_dir(dir.join("models")).unwrap();
            for name in large.iter().map(String::as_str).chain(["models/large"]) {
                File::create(dir.join(name)).unwrap().set_len(LARGE).unwrap();
            }
            fs::write(dir.join("models/small"), "small").unwrap();
        });
        let overlay = Arc::new(lower.world.overlay(lower.world.view(&[("", lower.manifest)]), "overlay"));
        let at_work = || overlay.copying.lock().unwrap();
        let names = large.iter().map(String::as_str).chain(["models/large"]);
        let numbers: Vec<Ino> = names.map(|name| at(&overlay, name).ino).collect();
        let Some(mounted) = Mounted::with(Arc::clone(&overlay), lower.world.beside("mnt"), Some("models"))
        else {
            return;
        };
        let two = mounted.connections == Connections::Two;
        let model = mounted.path("models/large");
        let before = requests::work().waiting;
        let (end, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Copies that get on and do not end.
            let (working, overlay) = (numbers.clone(), &overlay);
            at_work().extend(working.iter().map(|ino| (*ino, Instant::now())));
            scope.spawn(move || {
                while ended
                    .recv_timeout(Duration::from_millis(5))
                    .is_err_and(|e| e == mpsc::RecvTimeoutError::Timeout)
                {
                    working.iter().for_each(|ino| overlay.copy_gets_on(*ino));
                }
                overlay.copying.lock().unwrap().clear();
                overlay.copied.notify_all();
            });
            let readers = two.then(|| [(); 3].map(|()| File::open(&model).unwrap()));
            // Dropped first when this fails: closing files is answered when the copies end.
            let end = end;
            let mut wait = 0;
            for name in &large {
                let path = mounted.path(name);
                scope.spawn(move || fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap());
                wait += 1;
            }
            for _ in 0..if two { 2 * THREADS } else { 0 } {
                scope.spawn(|| drop(File::options().write(true).open(&model).unwrap()));
                wait += 1;
            }
            let deadline = Instant::now() + SOON;
            while requests::work().waiting < before + wait {
                assert!(Instant::now() < deadline, "all are worked on: {:?}", requests::work());
                std::thread::yield_now();
            }
            let (tell, told) = mpsc::channel();
            let others = scope.spawn(|| {
                let tell = tell;
                fs::read_dir(&mounted.at).unwrap().for_each(drop);
                assert_eq!(fs::read(mounted.path("models/small")).unwrap(), b"small");
                // Who reads the model opens and closes it meanwhile.
                drop(readers);
                assert_eq!(fs::read(&model).unwrap().len() as u64, LARGE);
                tell.send(()).unwrap();
            });
            let done = told.recv_timeout(SOON);
            drop(end);
            others.join().unwrap();
            assert_eq!(done, Ok(()), "others are not answered");
        });
        assert!(at_work().is_empty());
        assert_eq!(fs::metadata(mounted.path(&large[0])).unwrap().mode(), 0o100_600);
        drop((mounted, overlay));
        // All that was worked on has let go of the overlay.
        drop(lower.mount().unwrap());
    }
}
