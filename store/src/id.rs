//! Typed identities. A [`BlobId`] is the plain BLAKE3 of a file's bytes, so `b3sum FILE` prints it; every other
//! identity is BLAKE3 in derive-key mode under a context of its own, so that no blob can pose as a manifest.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseIdError;

/// The derive-key context of manifest ids (store format 1).
pub(crate) const MANIFEST_CONTEXT: &str = "cvs 2026 store manifest v1";
/// The derive-key context of view ids (store format 1).
pub(crate) const VIEW_CONTEXT: &str = "cvs 2026 store view v1";

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The identity with these 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// 64 lower-case hexadecimal digits.
            pub fn to_hex(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let lower_hex = text.len() == 64
                    && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                match blake3::Hash::from_hex(text) {
                    Ok(hash) if lower_hex => Ok(Self(*hash.as_bytes())),
                    _ => Err(ParseIdError { kind: stringify!($name), found: text.to_owned() }),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_hex())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type! {
    /// The BLAKE3 of one file's bytes.
    BlobId
}
id_type! {
    /// The identity of one manifest: BLAKE3 of its encoding, in derive-key mode.
    ManifestId
}
id_type! {
    /// The identity of a view: BLAKE3 of its ordered graft list, in derive-key mode.
    ViewId
}

impl BlobId {
    /// The identity of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ManifestId {
    /// The identity of an encoded manifest.
    pub fn of(encoding: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(MANIFEST_CONTEXT);
        // On this thread alone: gc hashes while others wait for its lock, on the threads that would have to help.
        hasher.update(encoding);
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_id_is_what_b3sum_prints() {
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(BlobId::of(b"").to_hex(), empty);
        assert_eq!(empty.parse::<BlobId>().unwrap(), BlobId::of(b""));
    }

    #[test]
    fn manifest_ids_are_domain_separated() {
        assert_ne!(ManifestId::of(b"x").as_bytes(), BlobId::of(b"x").as_bytes());
    }

    #[test]
    fn only_64_lower_case_digits_parse() {
        let upper = BlobId::of(b"").to_hex().to_uppercase();
        for bad in ["", "af", upper.as_str(), &"g".repeat(64)] {
            assert!(bad.parse::<BlobId>().is_err(), "{bad:?} parsed");
        }
    }
}
