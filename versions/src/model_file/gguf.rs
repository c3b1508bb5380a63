//! `GGUF`, the version, how many tensors and how many pairs of metadata; the pairs; the tensors' names, shapes, types
//! and places; then, aligned, their bytes.

use std::io::{BufReader, Read, Seek};

use super::{Broken, ModelInfo, Tensor, broken, limit};

/// No file has as many tensors or pairs.
const COUNT_MAX: u64 = 1 << 16;
/// The longest text that is read; vocabularies are lists of short ones.
const TEXT_MAX: u64 = 1 << 20;
/// Bytes of all texts that are kept.
const KEPT_MAX: u64 = 16 << 20;
/// Bytes of everything before the tensors.
const HEADER_MAX: u64 = 256 << 20;
/// Lists within lists.
const DEPTH_MAX: u32 = 4;
const DIMENSIONS_MAX: u32 = 8;
const ALIGNMENT: u64 = 32;
/// The number of the type of texts.
const TEXT: u32 = 8;

pub(super) fn read(file: &mut (impl Read + Seek), size: u64, info: &mut ModelInfo) -> Result<(), Broken> {
    let mut input = Input { reader: BufReader::with_capacity(1 << 16, file), at: 0, kept: 0, size };
    input.bytes::<4>()?;
    let version = input.u32()?;
    if (2..=3).contains(&version.swap_bytes()) {
        return broken("it is written for big-endian machines, and those for little-endian ones are read");
    }
    if !(2..=3).contains(&version) {
        return broken(format!("it has version {version} of the format; 2 and 3 are read"));
    }
    let (tensors, pairs) = (input.u64()?, input.u64()?);
    if tensors > COUNT_MAX || pairs > COUNT_MAX {
        return limit(format!(
            "it announces {tensors} tensors and {pairs} pairs of metadata, and {COUNT_MAX} are read"
        ));
    }
    let mut alignment = ALIGNMENT;
    for _ in 0..pairs {
        let key = input.text()?;
        let kind = input.u32()?;
        let value = input.value(kind, 0)?;
        if key == "general.alignment" {
            alignment = value.parse().unwrap_or(0);
        }
        info.metadata.insert(key, value);
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return broken(format!("its alignment is {alignment}"));
    }
    let mut ends = Vec::new();
    for _ in 0..tensors {
        let name = input.text()?;
        let dimensions = input.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return broken(format!("tensor {name:?} has {dimensions} dimensions"));
        }
        let shape: Vec<u64> = (0..dimensions).map(|_| input.u64()).collect::<Result<_, _>>()?;
        let (kind, offset) = (input.u32()?, input.u64()?);
        let (dtype, block) = type_of(kind);
        let Some(count) = shape.iter().try_fold(1u64, |all, side| all.checked_mul(*side)) else {
            return broken(format!("tensor {name:?} has the shape {shape:?}"));
        };
        let bytes = block.and_then(|(numbers, bytes)| count.div_ceil(numbers).checked_mul(bytes));
        ends.push((offset, offset.checked_add(bytes.unwrap_or(0))));
        info.tensors.push(Tensor { name, dtype, shape, bytes });
    }
    let data = size.saturating_sub(input.at.next_multiple_of(alignment));
    for ((start, end), Tensor { name, .. }) in ends.into_iter().zip(&info.tensors) {
        if end.is_none_or(|end| end > data) {
            return broken(format!("tensor {name:?} begins at {start} and does not fit into {data} bytes"));
        }
    }
    Ok(())
}

struct Input<R> {
    reader: R,
    at: u64,
    /// Bytes of texts that were kept.
    kept: u64,
    size: u64,
}

impl<R: Read + Seek> Input<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.on(N as u64)?;
        Ok(bytes)
    }

    fn on(&mut self, bytes: u64) -> Result<(), Broken> {
        self.at += bytes;
        match self.at {
            ..=HEADER_MAX => Ok(()),
            _ => limit(format!("it has more than {HEADER_MAX} bytes before its tensors")),
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Broken> {
        if bytes > self.size.saturating_sub(self.at) {
            return broken("it ends too early");
        }
        self.on(bytes)?;
        Ok(self.reader.seek_relative(i64::try_from(bytes).unwrap_or(i64::MAX))?)
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, Broken> {
        let length = self.u64()?;
        if length > self.size.saturating_sub(self.at) {
            return broken(format!("it has a text of {length} bytes"));
        }
        self.kept += length;
        if length > TEXT_MAX || self.kept > KEPT_MAX {
            return limit(format!("its texts have more than {TEXT_MAX} bytes, or {KEPT_MAX} all together"));
        }
        let mut bytes = Vec::new();
        self.reader.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return broken("it ends too early");
        }
        self.on(length)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A value as text; of a list, how long it is.
    fn value(&mut self, kind: u32, depth: u32) -> Result<String, Broken> {
        Ok(match kind {
            0 => self.bytes::<1>()?[0].to_string(),
            1 => self.bytes().map(i8::from_le_bytes)?.to_string(),
            2 => self.bytes().map(u16::from_le_bytes)?.to_string(),
            3 => self.bytes().map(i16::from_le_bytes)?.to_string(),
            4 => self.u32()?.to_string(),
            5 => self.bytes().map(i32::from_le_bytes)?.to_string(),
            6 => self.bytes().map(f32::from_le_bytes)?.to_string(),
            7 => (self.bytes::<1>()?[0] != 0).to_string(),
            TEXT => self.text()?,
            9 => {
                let (of, length) = (self.u32()?, self.u64()?);
                if depth >= DEPTH_MAX || length > self.size.saturating_sub(self.at) {
                    return broken(format!("it has a list of {length} values"));
                }
                match width(of) {
                    Some(width) => self.skip(length.saturating_mul(width))?,
                    None if of == TEXT => {
                        for _ in 0..length {
                            let bytes = self.u64()?;
                            self.skip(bytes)?;
                        }
                    }
                    None => {
                        for _ in 0..length {
                            self.value(of, depth + 1)?;
                        }
                    }
                }
                format!("{length} values")
            }
            10 => self.u64()?.to_string(),
            11 => self.bytes().map(i64::from_le_bytes)?.to_string(),
            12 => self.bytes().map(f64::from_le_bytes)?.to_string(),
            kind => return broken(format!("it has a value of the unknown type {kind}")),
        })
    }
}

/// The bytes of a value of this type, where all have as many.
fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// The name of a type, and how many numbers of it take how many bytes.
fn type_of(kind: u32) -> (String, Option<(u64, u64)>) {
    let (name, numbers, bytes) = match kind {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        10 => ("Q2_K", 256, 84),
        11 => ("Q3_K", 256, 110),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        15 => ("Q8_K", 256, 292),
        16 => ("IQ2_XXS", 256, 66),
        17 => ("IQ2_XS", 256, 74),
        18 => ("IQ3_XXS", 256, 98),
        19 => ("IQ1_S", 256, 50),
        20 => ("IQ4_NL", 32, 18),
        21 => ("IQ3_S", 256, 110),
        22 => ("IQ2_S", 256, 82),
        23 => ("IQ4_XS", 256, 136),
        24 => ("I8", 1, 1),
        25 => ("I16", 1, 2),
        26 => ("I32", 1, 4),
        27 => ("I64", 1, 8),
        28 => ("F64", 1, 8),
        29 => ("IQ1_M", 256, 56),
        30 => ("BF16", 1, 2),
        34 => ("TQ1_0", 256, 54),
        35 => ("TQ2_0", 256, 66),
        39 => ("MXFP4", 32, 17),
        other => return (format!("type {other}"), None),
    };
    (name.to_owned(), Some((numbers, bytes)))
}
