//! Intents: the notes that make a change of two steps one.
//!
//! An intent is a file in `work/` whose name begins with `intent-`: length-prefixed fields and, at the end, the first
//! eight bytes of their BLAKE3. It is on disk before the first step and removed after the last. One that is torn was
//! never acted on.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::FsError;
use crate::upper::{Upper, system};

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
        /// `from` hides something of the view and needs a whiteout.
        whiteout: bool,
    },
    /// The file at `from`, copied up, gets further names that the view has for it.
    Link { from: At, others: Vec<At> },
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
            Self::Replace { from, to, moved, whiteout } => {
                field(b"replace");
                at(from, &mut field);
                at(to, &mut field);
                field(&moved.to_le_bytes());
                field(&[u8::from(*whiteout)]);
            }
            Self::Link { from, others } => {
                field(b"link");
                at(from, &mut field);
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
        let kind = fields.next()?;
        let from = At { dir: fields.next()?, name: fields.next()? };
        match &kind[..] {
            b"replace" => Some(Self::Replace {
                from,
                to: At { dir: fields.next()?, name: fields.next()? },
                moved: u64::from_le_bytes(fields.next()?.try_into().ok()?),
                whiteout: fields.next()? == [1],
            }),
            b"link" => {
                let mut others = Vec::new();
                while let Some(dir) = fields.next() {
                    others.push(At { dir, name: fields.next()? });
                }
                Some(Self::Link { from, others })
            }
            _ => None,
        }
    }

    /// Writes the intent down. It holds until the returned name is discarded from `work/`.
    pub(crate) fn write(&self, upper: &Upper) -> Result<String, FsError> {
        let (name, temporary) = (format!("{PREFIX}{}", upper.temporary()), upper.temporary());
        let failed = FsError::upper("write an intent");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&upper.work, &*temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(&failed)?;
        let mut file = std::fs::File::from(file);
        std::io::Write::write_all(&mut file, &self.encode()).map_err(system("write an intent"))?;
        if upper.durable {
            file.sync_all().map_err(system("sync an intent"))?;
        }
        rustix::fs::renameat(&upper.work, &*temporary, &upper.work, &*name).map_err(&failed)?;
        if upper.durable {
            rustix::fs::fsync(&upper.work).map_err(&failed)?;
        }
        Ok(name)
    }

    /// Makes the steps that are still to be made. May be called any number of times.
    pub(crate) fn complete(&self, upper: &Upper) -> Result<(), FsError> {
        let open = |dir: &[u8]| open_dir(upper, dir);
        match self {
            Self::Replace { from, to, moved, whiteout } => {
                let (from_dir, to_dir) = (open(&from.dir)?, open(&to.dir)?);
                if inode(&to_dir, &to.name)? != Some(*moved) {
                    return Ok(());
                }
                match inode(&from_dir, &from.name)? {
                    Some(_) if *whiteout => {
                        let stat = rustix::fs::statat(&from_dir, &*from.name, AtFlags::SYMLINK_NOFOLLOW)
                            .map_err(FsError::upper("look at"))?;
                        if !upper.is_whiteout(&from_dir, &from.name, &stat)? {
                            let old = upper.whiteout_instead(&from_dir, &from.name)?;
                            upper.discard(old.as_bytes())?;
                        }
                    }
                    Some(_) => {
                        let old = upper.temporary();
                        rustix::fs::renameat(&from_dir, &*from.name, &upper.work, &*old)
                            .map_err(FsError::upper("remove"))?;
                        upper.discard(old.as_bytes())?;
                    }
                    None if *whiteout => upper.link_whiteout(&from_dir, &from.name)?,
                    None => {}
                }
            }
            Self::Link { from, others } => {
                let from_dir = open(&from.dir)?;
                if inode(&from_dir, &from.name)?.is_none() {
                    return Ok(());
                }
                for other in others {
                    let dir = open(&other.dir)?;
                    match rustix::fs::linkat(&from_dir, &*from.name, &dir, &*other.name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(FsError::upper("link")(errno)),
                    }
                }
            }
        }
        Ok(())
    }

    /// The first step of a replacement.
    pub(crate) fn exchange(
        upper_from: impl std::os::fd::AsFd,
        from: &[u8],
        upper_to: impl std::os::fd::AsFd,
        to: &[u8],
    ) -> Result<(), FsError> {
        rustix::fs::renameat_with(upper_from, from, upper_to, to, RenameFlags::EXCHANGE)
            .map_err(FsError::upper("rename"))
    }
}

/// Completes every intent that a killed process left.
pub(crate) fn recover(upper: &Upper) -> Result<(), FsError> {
    for entry in std::fs::read_dir(&upper.work_path).map_err(system("list work"))? {
        let entry = entry.map_err(system("list work"))?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let bytes = std::fs::read(entry.path()).map_err(system("read an intent"))?;
        if let Some(intent) = Intent::decode(&bytes) {
            tracing::info!(?intent, "completing a change that was interrupted");
            intent.complete(upper)?;
        }
        upper.discard(entry.file_name().as_encoded_bytes())?;
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
            Intent::Replace { from: at("x"), to: at("y"), moved: 7, whiteout: true },
            Intent::Link { from: at("x"), others: vec![at("y"), at("z")] },
        ] {
            let bytes = intent.encode();
            assert_eq!(Intent::decode(&bytes), Some(intent));
            for cut in 0..bytes.len() {
                assert_eq!(Intent::decode(&bytes[..cut]), None);
            }
        }
    }
}
