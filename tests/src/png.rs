//! Reading of what tests ask of a PNG: its size and its text chunks.

use std::collections::BTreeMap;

/// A PNG's size and texts.
#[derive(Debug, PartialEq, Eq)]
pub struct Png {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The tEXt chunks by keyword; ComfyUI writes `prompt` and `workflow`.
    pub texts: BTreeMap<String, String>,
}

impl Png {
    /// Panics when the bytes are no PNG.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Png {
        let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n").expect("a PNG signature");
        let mut png = Png { width: 0, height: 0, texts: BTreeMap::new() };
        // A chunk is length, type, data, CRC (PNG specification, 5.3).
        while let Some((head, tail)) = rest.split_at_checked(8) {
            let length = number(&head[..4]) as usize;
            let (data, tail) = tail.split_at_checked(length).expect("a whole chunk");
            match &head[4..] {
                b"IHDR" => (png.width, png.height) = (number(&data[..4]), number(&data[4..8])),
                b"tEXt" => {
                    let text = String::from_utf8_lossy(data);
                    let (keyword, text) = text.split_once('\0').expect("a keyword before the text");
                    png.texts.insert(keyword.to_owned(), text.to_owned());
                }
                b"IEND" => return png,
                _ => {}
            }
            rest = tail.get(4..).expect("the CRC of a chunk");
        }
        panic!("a PNG without its end");
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}
