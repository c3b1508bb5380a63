//! What the handlers have in common: who asks, and what a node is for the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use fuser::{Errno, FileAttr, INodeNo, ReplyEntry, Request};

use crate::convert::file_attr;
use crate::form::Form;
use crate::overlay::Overlay;
use crate::reply::{GENERATION, guard};
use crate::types::{Attr, Caller, Make};

/// A mounted overlay, as fuser sees it.
pub(crate) struct Adapter<F> {
    pub(super) overlay: Arc<Overlay>,
    pub(super) form: Arc<F>,
    /// Gone when the last request is answered. It is dropped after the others.
    working: Sender<()>,
}

impl<F> Clone for Adapter<F> {
    fn clone(&self) -> Self {
        Self {
            overlay: Arc::clone(&self.overlay),
            form: Arc::clone(&self.form),
            working: self.working.clone(),
        }
    }
}

impl<F: Form> Adapter<F> {
    /// `working` is held as long as anything is worked on, after the end of the session too.
    pub(crate) fn new(overlay: &Arc<Overlay>, form: F, working: Sender<()>) -> Self {
        Self { overlay: Arc::clone(overlay), form: Arc::new(form), working }
    }

    pub(super) fn caller(request: &Request) -> Caller {
        Caller { uid: request.uid(), gid: request.gid() }
    }

    pub(super) fn entry(&self, done: Result<Attr, Errno>, reply: ReplyEntry) {
        match done {
            Ok(attr) => {
                self.form.count_lookup(attr.ino);
                reply.entry(&self.form.keep(attr.ino), &self.attr(&attr), GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn attr(&self, attr: &Attr) -> FileAttr {
        FileAttr { ino: self.form.number(attr.ino), ..file_attr(attr) }
    }

    pub(super) fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        what: Make<'_>,
        mode: u32,
    ) -> Result<Attr, Errno> {
        guard("make", parent.0, || {
            let parent = self.form.dir(parent)?;
            self.overlay.make(parent, name.as_bytes(), what, mode, Self::caller(request))
        })
    }
}
