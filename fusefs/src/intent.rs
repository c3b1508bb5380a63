//! Intents: the notes that make a change of two steps one.
//!
//! An intent is a file in `work/` whose name begins with `intent-`: length-prefixed fields and, at the end, the first
//! eight bytes of their BLAKE3. It is on disk before the first step and removed after the last. One that is torn was
//! never acted on.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::FsError;
use crate::upper::{Upper, keeping_mtime, system};

const PREFIX: &str = "intent-";

/// An entry of the upper layer: the path of its directory below `upper/`, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) dir: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

/// A change that takes two steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Intent {
    /// `from` takes the place of `to`, which goes. The first step is the rename, or an exchange with what is at `to`.
    Replace {
        from: At,
        to: At,
        /// Inode of what moves: it tells whether the first step was made.
        moved: u64,
        /// Inode of what goes, when it is in the upper layer: the first step leaves it at `from`.
        replaced: Option<u64>,
        /// `from` hides something of the view and needs a whiteout.
        whiteout: bool,
    },
    /// The file of inode `copy` at `from`, copied up, gets the other names that it has in the view.
    Link { from: At, copy: u64, others: Vec<At> },
}

impl Intent {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut field = |bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        fn at(at: &At, field: &mut impl FnMut(&[u8])) {
            field(&at.dir);
            field(&at.name);
        }
        match self {
            Self::Replace { from, to, moved, replaced, whiteout } => {
                field(b"replace");
                at(from, &mut field);
                at(to, &mut field);
                field(&moved.to_le_bytes());
                // No inode has the number 0.
                field(&replaced.unwrap_or(0).to_le_bytes());
                field(&[u8::from(*whiteout)]);
            }
            Self::Link { from, copy, others } => {
                field(b"link");
                at(from, &mut field);
                field(&copy.to_le_bytes());
                others.iter().for_each(|other| at(other, &mut field));
            }
        }
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..8]);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if blake3::hash(body).as_bytes()[..8] != sum[..] {
            return None;
        }
        let mut rest = body;
        let mut fields = std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (field, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = tail;
            Some(field.to_vec())
        });
        let number = |field: Vec<u8>| Some(u64::from_le_bytes(field.try_into().ok()?));
        let kind = fields.next()?;
        let from = At { dir: fields.next()?, name: fields.next()? };
        match &kind[..] {
            b"replace" => Some(Self::Replace {
                from,
                to: At { dir: fields.next()?, name: fields.next()? },
                moved: number(fields.next()?)?,
                replaced: Some(number(fields.next()?)?).filter(|&inode| inode != 0),
                whiteout: fields.next()? == [1],
            }),
            b"link" => {
                let copy = number(fields.next()?)?;
                let mut others = Vec::new();
                while let Some(dir) = fields.next() {
                    others.push(At { dir, name: fields.next()? });
                }
                Some(Self::Link { from, copy, others })
            }
            _ => None,
        }
    }

    /// Writes the intent down. It holds until the returned name is discarded from `work/`.
    pub(crate) fn write(&self, upper: &Upper) -> Result<String, FsError> {
        let (name, temporary) = (format!("{PREFIX}{}", upper.temporary()), upper.temporary());
        let failed = FsError::upper("write an intent");
        let written = (|| {
            let file = disk::create(&upper.work, &*temporary, Mode::from_raw_mode(0o600)).map_err(&failed)?;
            let mut file = std::fs::File::from(file);
            disk::write_all(&mut file, &self.encode()).map_err(system("write an intent"))?;
            if upper.durable {
                disk::fsync(&file).map_err(&failed)?;
            }
            disk::renameat(&upper.work, &*temporary, &upper.work, &*name).map_err(&failed)?;
            if upper.durable {
                disk::fsync(&upper.work).map_err(&failed)?;
            }
            Ok(())
        })();
        match written {
            Ok(()) => Ok(name),
            Err(error) => {
                upper.retire(&temporary);
                upper.retire(&name);
                Err(error)
            }
        }
    }

    /// Makes the steps that are still to be made. May be called any number of times. When it fails, what is shown is
    /// what was shown after the first step.
    pub(crate) fn complete(&self, upper: &Upper) -> Result<(), FsError> {
        let open = |dir: &[u8]| open_dir(upper, dir);
        match self {
            Self::Replace { from, to, moved, replaced, whiteout } => {
                let (from_dir, to_dir) = (open(&from.dir)?, open(&to.dir)?);
                if inode(&to_dir, &to.name)? != Some(*moved) {
                    return Ok(());
                }
                match inode(&from_dir, &from.name)? {
                    found @ Some(_) if found != *replaced => {}
                    Some(_) if *whiteout => upper.whiteout_instead(&from_dir, &from.name)?,
                    Some(_) => {
                        let old = upper.temporary();
                        disk::renameat(&from_dir, &*from.name, &upper.work, &*old)
                            .map_err(FsError::upper("remove"))?;
                        upper.retire(&old);
                    }
                    None if *whiteout => upper.link_whiteout(&from_dir, &from.name)?,
                    None => {}
                }
            }
            Self::Link { from, copy, others } => {
                let from_dir = open(&from.dir)?;
                if inode(&from_dir, &from.name)? != Some(*copy) {
                    return Ok(());
                }
                for other in others {
                    let dir = open(&other.dir)?;
                    keeping_mtime(&dir, || {
                        match disk::linkat(&from_dir, &*from.name, &dir, &*other.name, AtFlags::empty()) {
                            Ok(()) | Err(Errno::EXIST) => Ok(()),
                            Err(errno) => Err(FsError::upper("link")(errno)),
                        }
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Takes the first step back, after [`Self::complete`] has failed.
    pub(crate) fn undo(&self, upper: &Upper) -> Result<(), FsError> {
        match self {
            Self::Replace { from, to, moved, replaced, .. } => {
                let (from_dir, to_dir) = (open_dir(upper, &from.dir)?, open_dir(upper, &to.dir)?);
                if inode(&to_dir, &to.name)? != Some(*moved) {
                    return Ok(());
                }
                let flags = if replaced.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
                disk::renameat_with(&to_dir, &*to.name, &from_dir, &*from.name, flags)
                    .map_err(FsError::upper("undo a rename"))
            }
            Self::Link { from, copy, others } => {
                for at in others.iter().chain([from]) {
                    let dir = open_dir(upper, &at.dir)?;
                    if inode(&dir, &at.name)? == Some(*copy) {
                        keeping_mtime(&dir, || {
                            disk::unlinkat(&dir, &*at.name, AtFlags::empty())
                                .map_err(FsError::upper("undo a link"))
                        })?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes the intent down, makes `first`, the first step, and the others. Either all are made or none.
    pub(crate) fn carry_out(
        &self,
        upper: &Upper,
        first: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let note = self.write(upper)?;
        let done = first().and_then(|()| self.complete(upper));
        if done.is_err()
            && let Err(error) = self.undo(upper)
        {
            // The note stays: whoever opens the overlay next completes the change.
            tracing::error!(%error, intent = ?self, "a change of the overlay is half done");
            return done;
        }
        upper.retire(&note);
        done
    }
}

/// True for the name of an intent in `work/`.
pub(crate) fn is_intent(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// Completes every intent that a killed process left.
pub(crate) fn recover(upper: &Upper) -> Result<(), FsError> {
    let names = std::fs::read_dir(&upper.work_path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, _>>())
        .map_err(system("list work"))?;
    for name in names.iter().filter(|name| is_intent(name.as_encoded_bytes())) {
        let bytes = std::fs::read(upper.work_path.join(name)).map_err(system("read an intent"))?;
        if let Some(intent) = Intent::decode(&bytes) {
            tracing::info!(?intent, "completing a change that was interrupted");
            match intent.complete(upper) {
                // Its directories are not there any more: the note is older than what is.
                Err(FsError::Upper { errno: Errno::NOENT | Errno::NOTDIR, .. }) => {}
                done => done?,
            }
        }
        upper.discard(name.as_encoded_bytes())?;
    }
    Ok(())
}

/// Opens a directory of the upper layer name by name, so that its path may have any length.
fn open_dir(upper: &Upper, path: &[u8]) -> Result<OwnedFd, FsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |dir: &OwnedFd, name: &[u8]| {
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(FsError::upper("open a directory"))
    };
    let mut at = open(&upper.root, b".")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        at = open(&at, name)?;
    }
    Ok(at)
}

fn inode(dir: &OwnedFd, name: &[u8]) -> Result<Option<u64>, FsError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(FsError::upper("look at")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_survive_their_encoding_and_torn_ones_do_not() {
        let at = |name: &str| At { dir: b"a/b".to_vec(), name: name.as_bytes().to_vec() };
        for intent in [
            Intent::Replace { from: at("x"), to: at("y"), moved: 7, replaced: None, whiteout: true },
            Intent::Replace { from: at("x"), to: at("y"), moved: 7, replaced: Some(8), whiteout: false },
            Intent::Link { from: at("x"), copy: 9, others: vec![at("y"), at("z")] },
        ] {
            let bytes = intent.encode();
            assert_eq!(Intent::decode(&bytes), Some(intent));
            for cut in 0..bytes.len() {
                assert_eq!(Intent::decode(&bytes[..cut]), None);
            }
        }
    }
}
