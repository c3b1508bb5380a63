//! What is asked of an open handle.

use cvs_fusefs::{Kind, SetAttr};
use rustix::io::Errno;

use super::{Done, Model, Open, mtime};
use crate::sequences::ops::{BLOCK, Op, filled};
use crate::sequences::outcome::Seen;
use crate::trees::bytes;

impl Model {
    pub(super) fn run_held(&mut self, who: usize, op: &Op) -> Option<Done> {
        let slots = &self.processes[who].slots;
        let slot = filled(op.slot()?, |slot| slots[slot].is_some());
        let Some(open) = &slots[slot] else { return Some(Ok(Seen::Idle)) };
        match op {
            Op::CopyRange(_, at, to, to_at, len) => {
                let to = slots[filled(*to, |slot| slots[slot].is_some())].as_ref()?;
                Some(self.copy_range(open, *at, to, *to_at, *len))
            }
            Op::LinkHandle(_, path) => Some(self.attr(open.ino).and_then(|node| self.link(who, &node, path))),
            Op::Fstat(_) => Some(self.attr(open.ino).map(|attr| self.seen(who, &attr))),
            _ => {
                let mut open = self.processes[who].slots[slot].take()?;
                let done = self.run_open(&mut open, op);
                self.processes[who].slots[slot] = Some(open);
                done
            }
        }
    }

    fn run_open(&self, open: &mut Open, op: &Op) -> Option<Done> {
        let ino = open.ino;
        if open.how.has("path") {
            let idle = matches!(op, Op::Seek(..)) && open.kind != Kind::File
                || matches!(op, Op::Rewind(_)) && !matches!(open.kind, Kind::File | Kind::Dir);
            return Some(if idle { Ok(Seen::Idle) } else { Err(Errno::BADF) });
        }
        let reads = !open.how.has("w");
        let writes = open.how.has("w") || open.how.has("rw");
        Some(match *op {
            Op::Write(_, len) => self.write(open, writes, None, &bytes(len, usize::from(len))),
            Op::Pwrite(_, at, len) => {
                self.write(open, writes, Some(u64::from(at)), &bytes(at as u16, usize::from(len)))
            }
            Op::Read(_, len) => self.read(open, reads, open.position, len).map(|bytes| {
                open.position += bytes.len() as u64;
                Seen::bytes(&bytes)
            }),
            Op::Pread(_, at, len) => {
                self.read(open, reads, u64::from(at), len).map(|bytes| Seen::bytes(&bytes))
            }
            Op::Seek(..) if open.kind != Kind::File => Ok(Seen::Idle),
            Op::Seek(_, whence, by) => self.seek(open, whence, by.into()),
            Op::Ftruncate(..) if !writes => Err(Errno::INVAL),
            Op::Ftruncate(_, size) => {
                self.set(ino, SetAttr { size: Some(u64::from(size)), ..SetAttr::default() })
            }
            Op::Fallocate(_, kind, at, len) => {
                let modes = [0, 0x1, 0x3, 0x10, 0x8, 0x20];
                let (at, len) = if kind > 3 { (at & !(BLOCK - 1), len & !(BLOCK - 1)) } else { (at, len) };
                if len == 0 {
                    return Some(Err(Errno::INVAL));
                }
                if !writes {
                    return Some(Err(Errno::BADF));
                }
                let mode = modes[usize::from(kind)];
                self.ask(|overlay| overlay.fallocate(ino, at.into(), len.into(), mode, false))
                    .map(|()| Seen::Done)
            }
            Op::Fsync(_, data) => match open.kind {
                Kind::Dir => self.ask(|overlay| overlay.fsync_dir(ino)),
                _ => self.ask(|overlay| overlay.fsync(ino, data)),
            }
            .map(|()| Seen::Done),
            Op::Fchmod(_, mode) => self.set(ino, SetAttr { perm: Some(mode.0), ..SetAttr::default() }),
            Op::Fchown(_, user) => {
                self.set(ino, SetAttr { uid: Some(user), gid: Some(user), ..SetAttr::default() })
            }
            Op::Futimens(_, time) => self.set(ino, mtime(time)),
            Op::Fsetxattr(_, name, len) => self
                .attr(ino)
                .and_then(|node| self.set_attribute(&node, name, &bytes(9, usize::from(len)), 0)),
            Op::ReadDir(..) if open.kind != Kind::Dir => Err(Errno::NOTDIR),
            Op::ReadDir(_, room) => self.read_dir(open, usize::from(room) / 24),
            Op::Rewind(_) => {
                (open.listing, open.cookie, open.position) = Default::default();
                Ok(Seen::Number(0))
            }
            _ => return None,
        })
    }

    fn write(&self, open: &mut Open, writes: bool, at: Option<u64>, data: &[u8]) -> Done {
        if !writes {
            return Err(Errno::BADF);
        }
        if data.is_empty() {
            return Ok(Seen::Number(0));
        }
        let start = match open.how.has("append") {
            true => self.attr(open.ino)?.size,
            false => at.unwrap_or(open.position),
        };
        let written = self.ask(|overlay| overlay.write_at(open.ino, start, data, false))?;
        if at.is_none() {
            open.position = start + written as u64;
        }
        Ok(Seen::Number(written as u64))
    }

    fn read(&self, open: &Open, reads: bool, at: u64, len: u16) -> Done<Vec<u8>> {
        if !reads {
            return Err(Errno::BADF);
        }
        if open.kind == Kind::Dir {
            return Err(Errno::ISDIR);
        }
        let mut buffer = vec![0; usize::from(len)];
        let read = self.ask(|overlay| overlay.read_at(open.ino, at, &mut buffer))?;
        buffer.truncate(read);
        Ok(buffer)
    }

    fn seek(&self, open: &mut Open, whence: u8, by: i64) -> Done {
        let size = self.attr(open.ino)?.size;
        let start = by.max(0) as u64;
        open.position = match whence {
            0 => start,
            1 => open.position.checked_add_signed(by).ok_or(Errno::INVAL)?,
            2 => size.checked_add_signed(by).ok_or(Errno::INVAL)?,
            _ if start >= size => return Err(Errno::NXIO),
            _ => self.ask(|overlay| overlay.seek(open.ino, start, whence == 3))?,
        };
        Ok(Seen::Number(open.position))
    }

    fn copy_range(&self, from: &Open, from_at: u32, to: &Open, to_at: u32, len: u16) -> Done {
        if from.how.has("path") || to.how.has("path") {
            return Err(Errno::BADF);
        }
        if from.kind == Kind::Dir || to.kind == Kind::Dir {
            return Err(Errno::ISDIR);
        }
        let writes = (to.how.has("w") || to.how.has("rw")) && !to.how.has("append");
        if from.how.has("w") || !writes {
            return Err(Errno::BADF);
        }
        let (from_at, to_at) = (u64::from(from_at), u64::from(to_at));
        let len = u64::from(len).min(self.attr(from.ino)?.size.saturating_sub(from_at));
        if from.ino == to.ino && to_at + len > from_at && to_at < from_at + len {
            return Err(Errno::INVAL);
        }
        if len == 0 {
            return Ok(Seen::Number(0));
        }
        self.ask(|overlay| overlay.copy_range(from.ino, from_at, to.ino, to_at, len, false)).map(Seen::Number)
    }

    fn read_dir(&self, open: &mut Open, most: usize) -> Done {
        let attr = self.attr(open.ino)?;
        open.listing.see(self.names(&attr)?);
        let entries = self.ask(|overlay| overlay.list(open.ino, open.cookie))?;
        if entries.is_empty() {
            return Ok(open.listing.ended());
        }
        for entry in entries.into_iter().take(most) {
            open.cookie = entry.cookie;
            if let Some(broken) = open.listing.tell(&entry.name) {
                return Ok(broken);
            }
        }
        Ok(Seen::Done)
    }
}
