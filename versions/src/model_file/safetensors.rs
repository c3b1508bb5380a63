//! `u64` length of the header, little-endian; the header, a JSON object; the tensors, without gaps.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Broken, ModelInfo, Tensor, broken, limit};

/// The format's own limit.
const HEADER_MAX: u64 = 100_000_000;
/// What is read of it; the largest that there are have a tenth of it.
const READ_MAX: u64 = 16 << 20;
/// Tensors, and pairs of metadata, that are read.
const COUNT_MAX: usize = 1 << 16;
const DIMENSIONS_MAX: usize = 64;
/// How the parser is told that a limit was met: what its error begins with.
const LIMIT: &str = "more than are read: ";
const METADATA: &str = "__metadata__";

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// At most [`DIMENSIONS_MAX`] numbers.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Shape;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Shape, S::Error> {
                let mut shape = Vec::new();
                while let Some(side) = list.next_element()? {
                    if shape.len() == DIMENSIONS_MAX {
                        return Err(Error::custom(format!(
                            "{LIMIT}a tensor with {DIMENSIONS_MAX} dimensions"
                        )));
                    }
                    shape.push(side);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Read)
    }
}

/// At most [`COUNT_MAX`] pairs.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Metadata;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Metadata, M::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if pairs.len() == COUNT_MAX {
                        return Err(Error::custom(format!("{LIMIT}{COUNT_MAX} pairs of metadata")));
                    }
                    pairs.insert(name, value);
                }
                Ok(Metadata(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// The header in the order of the file. A name that stands twice is refused, as the format asks.
struct Header {
    metadata: Metadata,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut header = Header { metadata: Metadata::default(), tensors: Vec::new() };
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(Error::custom(format!("the name {name:?} stands twice")));
                    }
                    if seen.len() > COUNT_MAX {
                        return Err(Error::custom(format!("{LIMIT}{COUNT_MAX} tensors")));
                    }
                    if name == METADATA {
                        header.metadata = map.next_value()?;
                    } else {
                        let entry = map.next_value()?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

pub(super) fn read(file: &mut impl Read, size: u64, info: &mut ModelInfo) -> Result<(), Broken> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let Some(data) = size.checked_sub(8).and_then(|rest| rest.checked_sub(length)) else {
        return broken(format!("its header has {length} bytes, and the file only {size}"));
    };
    if length > HEADER_MAX {
        return broken(format!("its header has {length} bytes, more than the format allows"));
    }
    if length > READ_MAX {
        return limit(format!("its header has {length} bytes, and {READ_MAX} are read"));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    if text.len() as u64 != length {
        return broken("it ends within its header");
    }
    let header: Header = match serde_json::from_slice(&text) {
        Ok(header) => header,
        Err(error) => {
            let said = error.to_string();
            return match said.starts_with(LIMIT) {
                true => limit(format!("its header has {said}")),
                false => broken(format!("its header cannot be read: {said}")),
            };
        }
    };
    info.metadata = header.metadata.0;
    let mut spans = Vec::with_capacity(header.tensors.len());
    for (name, Entry { dtype, shape: Shape(shape), data_offsets: (start, end) }) in header.tensors {
        if start > end || end > data {
            return broken(format!("tensor {name:?} has the bytes {start} to {end} of {data}"));
        }
        let bits = bits(&dtype);
        let wanted = bits.map(|bits| {
            let all = shape.iter().try_fold(bits, |all, side| all.checked_mul(*side));
            all.filter(|all| all % 8 == 0).map(|all| all / 8)
        });
        match wanted {
            Some(Some(bytes)) if bytes == end - start => {}
            None => {}
            Some(_) => {
                let found = end - start;
                return broken(format!("tensor {name:?} of {dtype} {shape:?} has {found} bytes"));
            }
        }
        spans.push((start, end, name.clone()));
        info.tensors.push(Tensor { name, dtype, shape, bytes: Some(end - start) });
    }
    spans.sort_unstable();
    let mut at = 0;
    for (start, end, name) in spans {
        if start != at {
            let what = if start < at { "overlaps another" } else { "comes after a gap" };
            return broken(format!("tensor {name:?} {what}"));
        }
        at = end;
    }
    if at != data {
        return broken(format!("its tensors have {at} bytes, and the file has {data} for them"));
    }
    Ok(())
}

fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E4M3FNUZ" | "F8_E5M2" | "F8_E5M2FNUZ" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}
