//! Checksums as a person writes them: `sha256:…`, `md5:…`, `blake3:…`, or bare hexadecimal digits, which are SHA-256.

use std::fmt;

/// What a model's bytes must hash to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// SHA-256.
    Sha256([u8; 32]),
    /// MD5.
    Md5([u8; 16]),
    /// BLAKE3.
    Blake3([u8; 32]),
}

impl Checksum {
    /// Reads a checksum; the error says what would be accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let (kind, digits) = trimmed.split_once(':').unwrap_or(("sha256", trimmed));
        match kind.to_ascii_lowercase().as_str() {
            "sha256" => hex("sha256", digits).map(Self::Sha256),
            "md5" => hex("md5", digits).map(Self::Md5),
            "blake3" => hex("blake3", digits).map(Self::Blake3),
            _ => {
                Err("`sha256:`, `md5:` or `blake3:` and the digits, or the bare digits of a SHA-256"
                    .to_owned())
            }
        }
    }

    /// The name of the hash function: `sha256`, `md5` or `blake3`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Md5(_) => "md5",
            Self::Blake3(_) => "blake3",
        }
    }

    /// The bytes of the digest.
    pub fn digest(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) | Self::Blake3(bytes) => bytes,
            Self::Md5(bytes) => bytes,
        }
    }

    /// The digest in lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        to_hex(self.digest())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.to_hex())
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `2 * N` hexadecimal digits of either case.
pub(super) fn hex<const N: usize>(kind: &str, digits: &str) -> Result<[u8; N], String> {
    let wanted = || format!("{} hexadecimal digits after `{kind}:`", 2 * N);
    if digits.len() != 2 * N || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wanted());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(pair).map_err(|_| wanted())?;
        *byte = u8::from_str_radix(text, 16).map_err(|_| wanted())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_in_every_form() {
        let sha = "AB".repeat(32);
        let md5 = "0f".repeat(16);
        let lower = sha.to_lowercase();
        for (text, expected) in [
            (sha.clone(), format!("sha256:{lower}")),
            (format!("sha256:{sha}"), format!("sha256:{lower}")),
            (format!(" SHA256:{sha} "), format!("sha256:{lower}")),
            (format!("blake3:{sha}"), format!("blake3:{lower}")),
            (format!("md5:{md5}"), format!("md5:{md5}")),
        ] {
            assert_eq!(Checksum::parse(&text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn wrong_lengths_digits_and_kinds_say_what_is_wanted() {
        let md5 = "0f".repeat(16);
        for (bad, expected) in [
            ("", "64 hexadecimal digits after `sha256:`"),
            (md5.as_str(), "64 hexadecimal digits after `sha256:`"),
            ("md5:xy", "32 hexadecimal digits after `md5:`"),
            (&format!("blake3:{}", "g".repeat(64)), "64 hexadecimal digits after `blake3:`"),
            (&format!("sha256:{}", "é".repeat(32)), "64 hexadecimal digits after `sha256:`"),
            ("sha1:00", "`sha256:`, `md5:` or `blake3:` and the digits, or the bare digits of a SHA-256"),
        ] {
            assert_eq!(Checksum::parse(bad).unwrap_err(), expected, "{bad}");
        }
    }
}
