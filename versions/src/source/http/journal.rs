//! Which pieces of a file are on disk: one byte each in `<key>.map` beside the partial, `1` once all bytes of the piece
//! are written. A piece counts only from then on, so a kill costs no more than the pieces in flight. After a power cut
//! the map may speak of bytes that never reached the disk; [`super::partial::Origin::boot`] and the checksum tell.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::source::error::{IoContext, SourceError};

const DONE: u8 = b'1';

/// The pieces of one file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    piece: u64,
    pieces: Vec<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Taken,
    Done,
}

impl Journal {
    /// A new one at `path`, with nothing done.
    pub(super) fn create(path: &Path, length: u64, piece: u64) -> Result<Self, SourceError> {
        let count = usize::try_from(length.div_ceil(piece)).unwrap_or(usize::MAX);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(path);
        let file = file.at("creating", path)?;
        file.set_len(count as u64).at("extending", path)?;
        Ok(Self { file, length, piece, pieces: vec![State::Open; count] })
    }

    /// What an earlier process left; none when it does not fit the file.
    pub(super) fn open(path: &Path, length: u64, piece: u64) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if piece == 0 || file.metadata()?.len() != length.div_ceil(piece) {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(length.div_ceil(piece)).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        let state = |byte: u8| if byte == DONE { State::Done } else { State::Open };
        Ok(Some(Self { file, length, piece, pieces: bytes.into_iter().map(state).collect() }))
    }

    /// Where a piece begins and ends in the file.
    fn bytes(&self, pieces: Range<usize>) -> Range<u64> {
        pieces.start as u64 * self.piece..(pieces.end as u64 * self.piece).min(self.length)
    }

    /// Takes the first bytes that nobody has or brings, at most `most` pieces of them.
    pub(super) fn claim(&mut self, most: usize) -> Option<Range<u64>> {
        let start = self.pieces.iter().position(|state| *state == State::Open)?;
        let open = self.pieces[start..].iter().take(most).take_while(|state| **state == State::Open).count();
        self.pieces[start..start + open].fill(State::Taken);
        Some(self.bytes(start..start + open))
    }

    /// Gives back what was taken and is not done.
    pub(super) fn release(&mut self, bytes: &Range<u64>) {
        let (first, last) = (bytes.start / self.piece, bytes.end.div_ceil(self.piece));
        for index in first..last {
            if let Some(state) = self.pieces.get_mut(index as usize).filter(|state| **state == State::Taken) {
                *state = State::Open;
            }
        }
    }

    /// All of `bytes` are written: every piece that lies within is done.
    pub(super) fn written(&mut self, bytes: Range<u64>) -> io::Result<()> {
        let mut index = bytes.start.div_ceil(self.piece) as usize;
        while index < self.pieces.len() && self.bytes(index..index + 1).end <= bytes.end {
            if self.pieces[index] != State::Done {
                self.file.write_all_at(&[DONE], index as u64)?;
                self.pieces[index] = State::Done;
            }
            index += 1;
        }
        Ok(())
    }

    /// How many bytes from the start are there without a gap, at least `from` of them.
    pub(super) fn frontier(&self, from: u64) -> u64 {
        let start = (from / self.piece) as usize;
        let done =
            self.pieces[start.min(self.pieces.len())..].iter().take_while(|s| **s == State::Done).count();
        ((start + done) as u64 * self.piece).min(self.length)
    }

    /// Bytes in pieces that are done.
    pub(super) fn present(&self) -> u64 {
        let done = self.pieces.iter().enumerate().filter(|(_, state)| **state == State::Done);
        done.map(|(index, _)| self.bytes(index..index + 1)).map(|bytes| bytes.end - bytes.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_once_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let mut journal = Journal::create(&path, 95, 10).unwrap();
        assert_eq!(journal.claim(3), Some(0..30));
        assert_eq!(journal.claim(4), Some(30..70));
        assert_eq!(journal.claim(9), Some(70..95));
        assert_eq!(journal.claim(1), None);
        journal.written(70..95).unwrap();
        journal.written(0..19).unwrap();
        assert_eq!((journal.frontier(0), journal.present()), (10, 35));
        journal.release(&(0..30));
        assert_eq!(journal.claim(9), Some(10..30));
        journal.written(10..70).unwrap();
        assert_eq!((journal.frontier(10), journal.frontier(95), journal.present()), (95, 95, 95));

        let mut journal = Journal::create(&path, 95, 10).unwrap();
        journal.claim(9);
        journal.written(20..45).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path, 95, 10).unwrap().unwrap();
        assert_eq!((journal.present(), journal.claim(9), journal.claim(9)), (20, Some(0..20), Some(40..95)));
        assert!(Journal::open(&path, 101, 10).unwrap().is_none());
        assert!(Journal::open(&dir.path().join("none"), 95, 10).unwrap().is_none());
    }
}
