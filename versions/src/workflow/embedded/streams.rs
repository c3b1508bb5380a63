//! Sounds, and videos in Matroska: comments of FLAC and Ogg, the tags of MP3, and those of WebM.

use super::{DEPTH, Texts, latin};

pub(crate) const FLAC: &[u8] = b"fLaC";
pub(crate) const OGG: &[u8] = b"OggS";
pub(crate) const ID3: &[u8] = b"ID3";
pub(crate) const MATROSKA: &[u8] = b"\x1a\x45\xdf\xa3";
/// The kind of a FLAC block with comments (RFC 9639, 8.1).
pub(crate) const COMMENTS: u8 = 4;
/// Elements of Matroska (RFC 9559, 5.1).
pub(crate) const SEGMENT: u32 = 0x1853_8067;
pub(crate) const TAGS: u32 = 0x1254_C367;
const TAG: u32 = 0x7373;
const SIMPLE_TAG: u32 = 0x67C8;
const TAG_NAME: u32 = 0x45A3;
const TAG_STRING: u32 = 0x4487;

/// After its name: blocks of kind, length, content; the first bit of a kind says that it is the last (RFC 9639, 8).
pub(super) fn flac(mut rest: &[u8], texts: &mut Texts) {
    while let Some((&[kind, a, b, c], tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some((data, tail)) = tail.split_at_checked(length) else { return };
        match kind {
            COMMENTS => comments(data, texts),
            _ if kind == COMMENTS | 0x80 => return comments(data, texts),
            0x80.. => return,
            _ => {}
        }
        rest = tail;
    }
}

/// The second packet of the first stream. A page has a head of 27 bytes, the lengths of its segments, and these; a
/// segment of less than 255 bytes ends a packet (RFC 3533, 6).
pub(super) fn ogg(mut rest: &[u8], texts: &mut Texts) {
    let (mut first, mut packet, mut number) = (None, Vec::new(), 0);
    while rest.starts_with(OGG) {
        let Some((head, tail)) = rest.split_at_checked(27) else { return };
        let Some((lengths, mut data)) = tail.split_at_checked(usize::from(head[26])) else { return };
        let stream = &head[14..18];
        let is_first = *first.get_or_insert(stream) == stream;
        for &length in lengths {
            let Some((segment, tail)) = data.split_at_checked(usize::from(length)) else { return };
            data = tail;
            if is_first && number == 1 {
                packet.extend_from_slice(segment);
            }
            if is_first && length < 255 {
                number += 1;
            }
        }
        if number > 1 {
            break;
        }
        rest = data;
    }
    for start in [b"OpusTags".as_slice(), b"\x03vorbis"] {
        if let Some(list) = packet.strip_prefix(start) {
            comments(list, texts);
        }
    }
}

/// Who wrote it, a count, and as many times `NAME=TEXT`, each after its length (RFC 9639, 8.6).
fn comments(bytes: &[u8], texts: &mut Texts) {
    let next = |bytes: &mut &[u8]| -> Option<String> {
        let (&length, tail) = bytes.split_first_chunk::<4>()?;
        let (text, tail) = tail.split_at_checked(u32::from_le_bytes(length) as usize)?;
        *bytes = tail;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let mut rest = bytes;
    if next(&mut rest).is_none() {
        return;
    }
    rest = rest.get(4..).unwrap_or_default();
    while let Some(comment) = next(&mut rest).filter(|_| !texts.cut) {
        if let Some((name, text)) = comment.split_once('=') {
            texts.take(text.len(), || (name.to_owned(), text.to_owned()));
        }
    }
}

/// A head of ten bytes, then frames of name, length, flags, content; of these, texts with a name of their own
/// (ID3v2.3 and 2.4, 3.3 and 4).
pub(super) fn id3(bytes: &[u8], texts: &mut Texts) {
    let Some((&[_, _, _, version, _, flags, ref length @ ..], tail)) = bytes.split_first_chunk::<10>() else {
        return;
    };
    let size = |length: [u8; 4]| match version {
        4.. => syncsafe(length),
        _ => u32::from_be_bytes(length) as usize,
    };
    let mut rest = tail.get(..syncsafe(*length)).unwrap_or(tail);
    if flags & 0x40 != 0 {
        // A head that goes on: its length counts itself from 2.4 on.
        let Some(&more) = rest.first_chunk::<4>() else { return };
        let more = size(more) + if version < 4 { 4 } else { 0 };
        rest = rest.get(more..).unwrap_or_default();
    }
    while let Some((&[ref name @ .., a, b, c, d, _, _], tail)) = rest.split_first_chunk::<10>() {
        let Some((data, tail)) = tail.split_at_checked(size([a, b, c, d])) else { return };
        if name == b"TXXX"
            && let Some((&encoding, text)) = data.split_first()
        {
            texts.take(text.len(), || named(encoding, text));
        }
        rest = tail;
    }
}

/// A number of which each byte has seven bits.
pub(crate) fn syncsafe(bytes: [u8; 4]) -> usize {
    bytes.iter().fold(0, |all, byte| all << 7 | usize::from(byte & 0x7f))
}

/// A name, its end, and a text, in one of four encodings.
fn named(encoding: u8, bytes: &[u8]) -> (String, String) {
    let text = match encoding {
        1 | 2 => {
            let big = encoding == 2 || bytes.starts_with(&[0xfe, 0xff]);
            let units = bytes.chunks_exact(2).map(|pair| match big {
                true => u16::from_be_bytes([pair[0], pair[1]]),
                false => u16::from_le_bytes([pair[0], pair[1]]),
            });
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        3 => String::from_utf8_lossy(bytes).into_owned(),
        _ => latin(bytes),
    };
    let (name, text) = text.split_once('\0').unwrap_or((&text, ""));
    // Both begin with a mark of their order in UTF-16.
    let plain = |text: &str| text.trim_start_matches('\u{feff}').trim_end_matches('\0').to_owned();
    (plain(name), plain(text))
}

/// The texts of all tags.
pub(super) fn matroska(mut rest: &[u8], depth: usize, texts: &mut Texts) {
    while let Some((id, content, tail)) = element(rest) {
        match id {
            _ if depth >= DEPTH => return,
            SEGMENT | TAGS | TAG => matroska(content, depth + 1, texts),
            SIMPLE_TAG => tag(content, texts),
            _ => {}
        }
        rest = tail;
    }
}

fn tag(mut rest: &[u8], texts: &mut Texts) {
    let (mut name, mut text) = (None, None);
    while let Some((id, content, tail)) = element(rest) {
        match id {
            TAG_NAME => name = Some(content),
            TAG_STRING => text = Some(content),
            _ => {}
        }
        rest = tail;
    }
    if let (Some(name), Some(text)) = (name, text) {
        let whole = |bytes| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        texts.take(text.len(), || (whole(name), whole(text)));
    }
}

/// An id, a length, content. What does not say its length goes to the end (RFC 8794, 5 and 6).
fn element(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (id, length, head) = element_head(bytes)?;
    let rest = bytes.get(head..)?;
    let (content, tail) = match length {
        Some(length) => rest.split_at_checked(usize::try_from(length).ok()?)?,
        None => (rest, &rest[rest.len()..]),
    };
    Some((id, content, tail))
}

/// The id of an element, the length of its content, and that of both these numbers.
pub(crate) fn element_head(bytes: &[u8]) -> Option<(u32, Option<u64>, usize)> {
    let wide = bytes.first()?.leading_zeros() as usize + 1;
    if wide > 4 {
        return None;
    }
    let big = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let id = big(bytes.get(..wide)?);
    let rest = bytes.get(wide..)?;
    let long = rest.first()?.leading_zeros() as usize + 1;
    if long > 8 {
        return None;
    }
    let ones = (1 << (7 * long)) - 1;
    let length = big(rest.get(..long)?) & ones;
    Some((u32::try_from(id).ok()?, (length != ones).then_some(length), wide + long))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn comment_list(texts: &[(&str, &str)]) -> Vec<u8> {
        let sized = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let mut list = sized("who wrote it");
        list.extend((texts.len() as u32).to_le_bytes());
        list.extend(texts.iter().flat_map(|(name, text)| sized(&format!("{name}={text}"))));
        list
    }

    pub(crate) fn flac_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let list = comment_list(texts);
        let block =
            |kind: u8, data: &[u8]| [&[kind][..], &(data.len() as u32).to_be_bytes()[1..], data].concat();
        [FLAC, &block(0, &[0; 34]), &block(COMMENTS | 0x80, &list), b"\xff\xf8sound"].concat()
    }

    /// Pages of 255 segments, as the list needs; then one with sound.
    pub(crate) fn ogg_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let list = [b"OpusTags".to_vec(), comment_list(texts)].concat();
        let page = |sound: u64, lengths: &[u8], data: &[u8]| {
            let rest = [0; 8];
            let head = [OGG, &[0, 0], &sound.to_le_bytes(), b"1234", &rest, &[lengths.len() as u8]].concat();
            [&head, lengths, data].concat()
        };
        let mut bytes = page(0, &[8], b"OpusHead");
        let mut lengths = vec![255; list.len() / 255];
        lengths.push((list.len() % 255) as u8);
        let (mut lengths, mut data) = (&lengths[..], &list[..]);
        while !lengths.is_empty() {
            let (now, later) = lengths.split_at(lengths.len().min(255));
            let (part, rest) = data.split_at(now.iter().map(|length| usize::from(*length)).sum());
            bytes.extend(page(if later.is_empty() { 0 } else { u64::MAX }, now, part));
            (lengths, data) = (later, rest);
        }
        [bytes, page(960, &[5], b"sound")].concat()
    }

    pub(crate) fn mp3_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let safe = |length: usize| [21, 14, 7, 0].map(|bits| (length >> bits & 0x7f) as u8);
        let mut frames = Vec::new();
        for (name, text) in texts {
            let data = format!("\u{3}{name}\0{text}\0");
            frames.extend([&b"TXXX"[..], &safe(data.len()), &[0, 0], data.as_bytes()].concat());
        }
        [&b"ID3\x04\0\0"[..], &safe(frames.len()), &frames, b"\xff\xfbsound"].concat()
    }

    pub(crate) fn webm_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let one = |id: u32, content: &[u8]| {
            let id = id.to_be_bytes();
            let start = id.iter().position(|byte| *byte != 0).unwrap_or(3);
            let length = (content.len() as u64 | 1 << 56).to_be_bytes();
            [&id[start..], &length, content].concat()
        };
        let simple = |(name, text): &(&str, &str)| {
            one(SIMPLE_TAG, &[one(TAG_NAME, name.as_bytes()), one(TAG_STRING, text.as_bytes())].concat())
        };
        let tags = one(TAGS, &one(TAG, &texts.iter().flat_map(simple).collect::<Vec<u8>>()));
        let cluster = one(0x1F43_B675, &[9; 4000]);
        let head = one(0x1A45_DFA3, b"\x42\x82\x84webm");
        // A segment that does not say its length, as one that is written to a pipe.
        let segment = [&b"\x18\x53\x80\x67\xff"[..], &cluster, &tags].concat();
        [head, segment].concat()
    }

    #[test]
    fn tags_of_mp3_are_read_in_all_their_encodings() {
        let utf16 = |text: &str, big: bool| -> Vec<u8> {
            text.encode_utf16().flat_map(|c| if big { c.to_be_bytes() } else { c.to_le_bytes() }).collect()
        };
        for (encoding, text, expected) in [
            (0, b"n\0caf\xe9".to_vec(), "caf\u{e9}"),
            (1, utf16("\u{feff}n\0\u{feff}é", false), "é"),
            (1, utf16("\u{feff}n\0\u{feff}é", true), "é"),
            (2, utf16("n\0é\0", true), "é"),
            (3, "n\0é\0".as_bytes().to_vec(), "é"),
        ] {
            assert_eq!(named(encoding, &text), ("n".to_owned(), expected.to_owned()), "{encoding}");
        }
        // The length of a frame in 2.3, behind a head that goes on.
        let frame = [&b"TXXX"[..], &200u32.to_be_bytes(), &[0, 0], b"\0n\0", &[b'x'; 197]].concat();
        let head = [&b"ID3\x03\0\x40\0\0\x01\x60"[..], &6u32.to_be_bytes(), &[0; 6], &frame].concat();
        let mut texts = Texts::default();
        id3(&head, &mut texts);
        assert_eq!(texts.list, [("n".to_owned(), "x".repeat(197))]);
    }
}
