//! What is in a directory, as the kernel asks for it: names alone, or with all that a lookup of each would tell.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{FileAttr, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::Adapter;
use crate::convert::{file_type, no_entry};
use crate::form::Form;
use crate::reply::{GENERATION, guard, guard_part};

impl<F: Form> Adapter<F> {
    pub(super) fn list(&self, ino: INodeNo, offset: u64, mut reply: ReplyDirectory) {
        match guard("readdir", ino.0, || self.overlay.list(self.form.dir(ino)?, offset)) {
            Ok(entries) => {
                for entry in entries {
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(self.form.number(entry.ino), entry.cookie, file_type(entry.kind), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn list_and_look_up(&self, ino: INodeNo, offset: u64, mut reply: ReplyDirectoryPlus) {
        let entries = match guard("readdirplus", ino.0, || self.overlay.list(self.form.dir(ino)?, offset)) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        for entry in entries {
            // What cannot be looked at, or has gone meanwhile, is listed by its name alone.
            let attr = match guard_part("readdirplus", entry.ino.0, || self.overlay.getattr(entry.ino)) {
                Ok(attr) => self.attr(&attr),
                Err(_) => FileAttr { kind: file_type(entry.kind), ..no_entry() },
            };
            let counts = attr.ino.0 != 0 && &*entry.name != b"." && &*entry.name != b"..";
            // Counted before the kernel can have it, and taken back when it did not fit.
            if counts {
                self.form.count_lookup(entry.ino);
            }
            let (number, name) = (self.form.number(entry.ino), OsStr::from_bytes(&entry.name));
            let keep = self.form.keep(entry.ino);
            if reply.add(number, entry.cookie, name, &keep, &attr, GENERATION) {
                if counts {
                    self.form.forget(entry.ino, 1);
                }
                break;
            }
        }
        reply.ok();
    }
}
