//! The checksums of a source, all taken in one pass over the bytes.

use cvs_store::BlobId;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::error::SourceError;

/// Above this a buffer is hashed on several threads; below, splitting costs more than it saves.
const PARALLEL: usize = 512 << 10;

/// The checksums that a source must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The sha256, if known.
    pub sha256: Option<[u8; 32]>,
    /// The md5, if known.
    pub md5: Option<[u8; 16]>,
    /// The size in bytes, if known.
    pub size: Option<u64>,
}

impl Expected {
    /// Compares with what was found; `subject` is named in the error.
    pub(super) fn verify(&self, found: &Digests, subject: &str) -> Result<(), SourceError> {
        let mismatch = |algorithm, expected, found| {
            Err(SourceError::Checksum { subject: subject.to_owned(), algorithm, expected, found })
        };
        match (self.sha256, self.md5, found.md5) {
            (Some(sha256), ..) if sha256 != found.sha256 => {
                mismatch("sha256", hex(&sha256), hex(&found.sha256))
            }
            (_, Some(md5), Some(other)) if md5 != other => mismatch("md5", hex(&md5), hex(&other)),
            _ => self.verify_size(found.size, subject),
        }
    }

    pub(super) fn verify_size(&self, found: u64, subject: &str) -> Result<(), SourceError> {
        match self.size {
            Some(expected) if expected != found => {
                Err(SourceError::Size { subject: subject.to_owned(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// True when the bytes can be told right or wrong after the fact.
    pub(super) fn has_checksum(&self) -> bool {
        self.sha256.is_some() || self.md5.is_some()
    }
}

/// What was found in one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) blob: BlobId,
    pub(super) sha256: [u8; 32],
    pub(super) md5: Option<[u8; 16]>,
    pub(super) size: u64,
}

/// Takes bytes in order and gives all their checksums.
pub(super) struct Digester {
    blake3: blake3::Hasher,
    sha256: Sha256,
    md5: Option<Md5>,
    size: u64,
}

impl Digester {
    pub(super) fn new(with_md5: bool) -> Self {
        Self { blake3: blake3::Hasher::new(), sha256: Sha256::new(), md5: with_md5.then(Md5::new), size: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let Self { blake3, sha256, md5, .. } = self;
        let mut others = || {
            sha256.update(bytes);
            if let Some(md5) = md5 {
                md5.update(bytes);
            }
        };
        if bytes.len() >= PARALLEL {
            rayon::join(others, || blake3.update_rayon(bytes));
        } else {
            blake3.update(bytes);
            others();
        }
        self.size += bytes.len() as u64;
    }

    /// Bytes taken so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn finish(self) -> Digests {
        Digests {
            blob: BlobId::from_bytes(*self.blake3.finalize().as_bytes()),
            sha256: self.sha256.finalize().into(),
            md5: self.md5.map(|md5| md5.finalize().into()),
            size: self.size,
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The inverse of [`hex`]; upper case is taken too. None when it is not exactly `N` bytes.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |d: u8| char::from(d).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_gives_what_the_tools_print() {
        let mut digester = Digester::new(true);
        digester.update(b"a");
        digester.update(b"bc");
        let found = digester.finish();
        assert_eq!(found.size, 3);
        assert_eq!(found.blob, BlobId::of(b"abc"));
        assert_eq!(hex(&found.sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex(&found.md5.unwrap()), "900150983cd24fb0d6963f7d28e17f72");
    }

    #[test]
    fn the_first_wrong_checksum_is_told_with_both_sums() {
        let mut digester = Digester::new(true);
        digester.update(b"abc");
        let found = digester.finish();
        let right = Expected { sha256: Some(found.sha256), md5: found.md5, size: Some(3) };
        right.verify(&found, "x").unwrap();
        let wrong = Expected { md5: Some([0; 16]), ..right };
        assert_eq!(
            wrong.verify(&found, "x").unwrap_err().to_string(),
            "x: md5 mismatch\n  expected 00000000000000000000000000000000\n  found    900150983cd24fb0d6963f7d28e17f72"
        );
        let wrong = Expected { size: Some(4), ..right };
        assert_eq!(
            wrong.verify(&found, "x").unwrap_err().to_string(),
            "x: size mismatch: expected 4 bytes, found 3"
        );
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(unhex::<3>(&hex(&[0, 0xab, 0xff])), Some([0, 0xab, 0xff]));
        assert_eq!(unhex::<1>("AB"), Some([0xab]));
        for bad in ["", "a", "abc", "g0", "é"] {
            assert_eq!(unhex::<1>(bad), None, "{bad}");
        }
    }
}
