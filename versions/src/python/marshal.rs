//! One form for bytecode. What `marshal` writes depends on how many references to an object the compiling process
//! happens to hold: one that it might meet again gets a number, whether it is met again or not. Two processes that
//! compile one source can so differ in a bit. Here only what is met again keeps its number.
//!
//! The format is that of CPython's `Python/marshal.c`, versions 3.8 to 3.14. What does not parse as such is left as it is.

/// The mark of an object that has a number.
const NUMBERED: u8 = 0x80;
/// CPython refuses to read what is nested deeper than 2000.
const DEEPEST: u32 = 2100;

/// Puts the stream `bytes` of CPython 3.`minor` into its one form. Its length stays. False when it was left as it is.
pub(super) fn canonicalise(bytes: &mut [u8], minor: u32) -> bool {
    let mut scan = Scan { bytes, at: 0, old_code: minor < 11, numbered: Vec::new(), references: Vec::new() };
    if scan.object(0).is_none() || scan.at != scan.bytes.len() {
        return false;
    }
    let Scan { numbered, references, .. } = scan;
    let mut used = vec![false; numbered.len()];
    for &(_, number) in &references {
        match used.get_mut(number as usize) {
            Some(used) => *used = true,
            None => return false,
        }
    }
    let mut next = 0u32;
    let mut new_numbers = vec![0u32; numbered.len()];
    for ((&at, used), new) in numbered.iter().zip(used).zip(&mut new_numbers) {
        if used {
            *new = next;
            next += 1;
        } else if let Some(kind) = bytes.get_mut(at) {
            *kind &= !NUMBERED;
        }
    }
    for (at, number) in references {
        let new = new_numbers.get(number as usize).copied().unwrap_or_default();
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&new.to_le_bytes());
        }
    }
    true
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Code objects as they were before 3.11.
    old_code: bool,
    /// Where the objects with a number begin, in the order of the numbers.
    numbered: Vec<usize>,
    /// Where numbers of objects stand, and which.
    references: Vec<(usize, u32)>,
}

impl Scan<'_> {
    /// Passes over one object.
    fn object(&mut self, depth: u32) -> Option<u8> {
        if depth > DEEPEST {
            return None;
        }
        let start = self.at;
        let byte = self.byte()?;
        if byte & NUMBERED != 0 {
            self.numbered.push(start);
        }
        let kind = byte & !NUMBERED;
        match kind {
            b'0' | b'N' | b'F' | b'T' | b'S' | b'.' => {}
            b'i' => self.skip(4)?,
            b'I' | b'g' => self.skip(8)?,
            b'y' => self.skip(16)?,
            b'f' => self.short_text()?,
            b'x' => {
                self.short_text()?;
                self.short_text()?;
            }
            b'l' => {
                let digits = self.number()?.cast_signed().unsigned_abs();
                self.skip(digits as usize * 2)?;
            }
            b's' | b't' | b'u' | b'a' | b'A' => {
                let len = self.number()?;
                self.skip(len as usize)?;
            }
            b'z' | b'Z' => self.short_text()?,
            b'r' => {
                let at = self.at;
                let number = self.number()?;
                self.references.push((at, number));
            }
            b')' => {
                let items = self.byte()?;
                self.objects(u32::from(items), depth)?;
            }
            b'(' | b'[' | b'<' | b'>' => {
                let items = self.number()?;
                self.objects(items, depth)?;
            }
            b'{' => while self.object(depth + 1)? != b'0' {},
            b':' => self.objects(3, depth)?,
            b'c' => self.code(depth)?,
            _ => return None,
        }
        Some(kind)
    }

    fn code(&mut self, depth: u32) -> Option<()> {
        // Counts and flags, then code, constants, names and the rest; the first line; the tables of lines.
        let (numbers, objects, tables) = if self.old_code { (6, 8, 1) } else { (5, 8, 2) };
        self.skip(numbers * 4)?;
        self.objects(objects, depth)?;
        self.skip(4)?;
        self.objects(tables, depth)
    }

    fn objects(&mut self, count: u32, depth: u32) -> Option<()> {
        for _ in 0..count {
            self.object(depth + 1)?;
        }
        Some(())
    }

    fn short_text(&mut self) -> Option<()> {
        let len = self.byte()?;
        self.skip(usize::from(len))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.bytes.get(self.at..)?.first_chunk()?;
        self.at += 4;
        Some(u32::from_le_bytes(*bytes))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|&at| at <= self.bytes.len())?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_met_again_keeps_its_number() {
        // ("a", "b", the second again, 7), where all are numbered; and where only the second is.
        let mut all = b"\xa9\x04\xda\x01a\xda\x01br\x02\0\0\0\xe9\x07\0\0\0".to_vec();
        let least = b")\x04Z\x01a\xda\x01br\0\0\0\0i\x07\0\0\0".to_vec();
        assert!(canonicalise(&mut all, 11));
        assert_eq!(all, least);
        assert!(canonicalise(&mut all, 11));
        assert_eq!(all, least);
    }

    #[test]
    fn what_is_no_stream_is_left() {
        for bad in [&b""[..], b")\x02N", b"r\0\0\0\0", b"NN", b"\x7f", b"s\xff\xff\xff\xffx", b"{N"] {
            let mut bytes = bad.to_vec();
            assert!(!canonicalise(&mut bytes, 11), "{bad:?}");
            assert_eq!(bytes, bad);
        }
        let mut deep = b")\x01".repeat(5000);
        deep.push(b'N');
        assert!(!canonicalise(&mut deep, 11));
    }
}
