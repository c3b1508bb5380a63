//! The BLAKE3 of files. They are read, never mapped: a file that is cut short or fails while it is hashed is an error
//! here, where a mapping would kill the process.

use std::fs::File;
use std::io::{self, Read};

use crate::id::BlobId;

/// Files from this size on are hashed by all cores, while the next piece is read.
const LARGE: u64 = 1 << 20;
/// Bytes read at once from a large file; enough for BLAKE3 to use all cores.
pub(crate) const PIECE: usize = 4 << 20;
/// Bytes read at once from a small file.
const SMALL_PIECE: usize = 64 << 10;

/// Hashes all that `file` holds from its position on; returns how much that was, too. `len` is what it is expected to
/// hold. `tell` hears of every piece, and stops the hashing by an error.
pub(crate) fn hash_file(
    file: &mut File,
    len: u64,
    buffer: &mut Vec<u8>,
    tell: &(dyn Fn(u64) -> io::Result<()> + Sync),
) -> io::Result<(BlobId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    if len < LARGE {
        buffer.resize(SMALL_PIECE, 0);
        loop {
            let n = fill(file, buffer)?;
            hasher.update(&buffer[..n]);
            size += n as u64;
            tell(n as u64)?;
            // One read that finds less than expected is the end; a file that grew is read on.
            if n < buffer.len() {
                break;
            }
        }
    } else {
        in_pieces(file, |piece| {
            hasher.update_rayon(piece);
            size += piece.len() as u64;
            tell(piece.len() as u64)
        })?;
    }
    Ok((BlobId::from_bytes(*hasher.finalize().as_bytes()), size))
}

/// Calls `work` with one piece of `file` after the other, and reads the next one meanwhile.
pub(crate) fn in_pieces(
    file: &mut File,
    mut work: impl FnMut(&[u8]) -> io::Result<()> + Send,
) -> io::Result<()> {
    // Only a hint; filesystems that do not know it read as they please.
    let _ = rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::Sequential);
    let (mut current, mut next) = (vec![0; PIECE], vec![0; PIECE]);
    let mut n = fill(file, &mut current)?;
    while n > 0 {
        let (worked, read) = rayon::join(|| work(&current[..n]), || fill(file, &mut next));
        worked?;
        n = read?;
        std::mem::swap(&mut current, &mut next);
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
fn fill(source: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let piece = PIECE as u64;
        for len in
            [0, 1, 65_535, 65_536, 65_537, LARGE - 1, LARGE, piece - 1, piece, 2 * piece, 2 * piece + 7]
        {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            // What is expected is only a hint: the file may have grown or shrunk since.
            for expected in [0, len, LARGE] {
                let mut file = File::open(&path).unwrap();
                let found = hash_file(&mut file, expected, &mut Vec::new(), &|_| Ok(())).unwrap();
                assert_eq!(found, (BlobId::of(&bytes), len), "{len} expected {expected}");
            }
        }
    }
}
