//! The texts in a file that ComfyUI has saved, where it writes what the file was made by: PNG text chunks, the EXIF of a
//! WebP, the metadata of videos, sounds, meshes and tensors.
//!
//! *Promises.* Every parser is total: bytes of a stranger never make it panic, loop or allocate beyond a bound. A file
//! that ends too early, or whose lengths lie, has the texts that come before that; one with more texts than are read has
//! those that are.

pub(crate) mod documents;
pub(crate) mod streams;

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::document;

pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// What all texts of a file may have, as they are written and as they unpack. The largest workflows have a few MiB.
pub(crate) const TOTAL: usize = 16 << 20;
/// How many texts a file may have.
const COUNT: usize = 4096;
/// The longest name of a text (PNG specification, 11.3.3.1).
const NAME: usize = 79;
/// Boxes within boxes; real files nest six.
const DEPTH: usize = 16;
/// Fields of one directory of EXIF, and keys of one MP4, that are looked at.
const FIELDS: usize = 4096;

/// What was found in a file.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// Names and texts.
    pub(crate) list: Vec<(String, String)>,
    /// Their bytes.
    size: usize,
    /// There is more than is read.
    pub(crate) cut: bool,
}

impl Texts {
    /// How many bytes more a text may have.
    fn left(&self) -> usize {
        TOTAL.saturating_sub(self.size)
    }

    /// Takes a text in. `bytes` is how long it is at least, so that too much is not even copied.
    fn take(&mut self, bytes: usize, text: impl FnOnce() -> (String, String)) {
        if bytes > self.left() || self.list.len() >= COUNT {
            self.cut = true;
            return;
        }
        let (name, text) = text();
        match name.len() + text.len() {
            size if size > self.left() => self.cut = true,
            size => {
                self.size += size;
                self.list.push((name, text));
            }
        }
    }
}

/// The texts of a file by their names; none when the bytes are of no kind that ComfyUI writes texts into.
pub fn texts(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    look(bytes).map(|texts| texts.list)
}

/// As [`texts`], and whether there are more than are read.
pub(crate) fn look(bytes: &[u8]) -> Option<Texts> {
    let mut texts = Texts::default();
    if let Some(rest) = bytes.strip_prefix(PNG) {
        png(rest, &mut texts);
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        webp(bytes.get(12..).unwrap_or_default(), &mut texts);
    } else if bytes.get(4..8) == Some(b"ftyp") {
        boxes(bytes, 0, &mut Vec::new(), &mut texts);
    } else if let Some(rest) = bytes.strip_prefix(streams::FLAC) {
        streams::flac(rest, &mut texts);
    } else if bytes.starts_with(streams::OGG) {
        streams::ogg(bytes, &mut texts);
    } else if bytes.starts_with(streams::ID3) {
        streams::id3(bytes, &mut texts);
    } else if bytes.starts_with(streams::MATROSKA) {
        streams::matroska(bytes, 0, &mut texts);
    } else if bytes.starts_with(documents::GLB) {
        documents::glb(bytes, &mut texts);
    } else if documents::is_svg(bytes) {
        documents::svg(bytes, &mut texts);
    } else if documents::safetensors_head(bytes).is_some() {
        documents::safetensors(bytes, &mut texts);
    } else {
        return None;
    }
    texts.list = unwrapped(texts.list);
    Some(texts)
}

/// Takes apart what holds several: a `comment` that is an object of them, and a field that begins with its name.
fn unwrapped(texts: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, text) in texts {
        let known = ["prompt", "workflow"];
        let lower = name.to_ascii_lowercase();
        if let Some((inner, rest)) = text.split_once(':').filter(|(inner, _)| known.contains(&inner.trim())) {
            out.push((inner.trim().to_owned(), rest.to_owned()));
        } else if known.contains(&lower.as_str()) {
            out.push((lower, text));
        } else if text.trim_start().starts_with('{')
            && known.iter().any(|key| text.contains(&format!("\"{key}\"")))
            && let Ok(serde_json::Value::Object(mut map)) = document::json(&text)
        {
            drop(text);
            for key in known {
                match map.remove(key) {
                    Some(serde_json::Value::String(text)) => out.push((key.to_owned(), text)),
                    Some(value @ serde_json::Value::Object(_)) => {
                        out.push((key.to_owned(), value.to_string()))
                    }
                    _ => {}
                }
            }
        } else {
            out.push((name, text));
        }
    }
    out
}

/// A chunk is length, type, data, CRC (PNG specification, 5.3).
fn png(mut rest: &[u8], texts: &mut Texts) {
    while let Some((&[a, b, c, d, ref kind @ ..], tail)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some((data, tail)) = tail.split_at_checked(length) else { break };
        match (kind, split(data)) {
            // The second is ComfyUI's own, in pictures that move.
            (b"tEXt" | b"comf", Some((keyword, text))) => {
                texts.take(text.len(), || (latin(keyword), latin(text)));
            }
            (b"zTXt", Some((keyword, [0, packed @ ..]))) => {
                if let Some(text) = inflated(packed, texts) {
                    texts.take(text.len(), || (latin(keyword), latin(&text)));
                }
            }
            (b"iTXt", Some((keyword, rest))) => international(keyword, rest, texts),
            _ => {}
        }
        rest = tail.get(4..).unwrap_or_default();
    }
}

/// After the keyword: compressed?, method, language, NUL, translated keyword, NUL, text in UTF-8.
fn international(keyword: &[u8], rest: &[u8], texts: &mut Texts) {
    let Some((&[packed, method], rest)) = rest.split_first_chunk::<2>() else { return };
    let Some((_, text)) = ended(rest).and_then(|(_, rest)| ended(rest)) else { return };
    let unpacked;
    let text = match (packed, method) {
        (0, _) => text,
        (1, 0) => match inflated(text, texts) {
            Some(text) => {
                unpacked = text;
                &unpacked
            }
            None => return,
        },
        _ => return,
    };
    texts.take(text.len(), || (latin(keyword), String::from_utf8_lossy(text).into_owned()));
}

/// A keyword, and what comes behind its NUL.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    ended(data).filter(|(keyword, _)| keyword.len() <= NAME)
}

fn ended(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|byte| *byte == 0)?;
    Some((data.get(..end)?, data.get(end + 1..)?))
}

/// What `packed` unpacks to; none when that is more than there may be. After one such nothing is unpacked any more, and
/// what breaks counts as far as it went: many small bombs are no better than a large one.
fn inflated(packed: &[u8], texts: &mut Texts) -> Option<Vec<u8>> {
    let limit = texts.left();
    if texts.cut {
        return None;
    }
    let mut text = Vec::new();
    let whole = ZlibDecoder::new(packed).take(limit as u64 + 1).read_to_end(&mut text).is_ok();
    texts.cut = text.len() > limit;
    if !whole {
        texts.size += text.len();
    }
    (whole && !texts.cut).then_some(text)
}

/// Texts are in Latin-1.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A chunk is type, length (little-endian), data, and a byte more where the length is odd.
fn webp(mut rest: &[u8], texts: &mut Texts) {
    while let Some((&[ref kind @ .., a, b, c, d], tail)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some((data, tail)) = tail.split_at_checked(length) else { break };
        if kind == b"EXIF" {
            exif(data.strip_prefix(b"Exif\0\0").unwrap_or(data), texts);
        }
        rest = tail.get(length % 2..).unwrap_or_default();
    }
}

/// The texts of the first directory of a TIFF: ComfyUI writes `prompt:…` and `workflow:…` to fields that cameras use for
/// their names.
fn exif(tiff: &[u8], texts: &mut Texts) {
    let little = tiff.starts_with(b"II");
    if !little && !tiff.starts_with(b"MM") {
        return;
    }
    let short = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk::<2>()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk::<4>()?;
        let number = if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
        usize::try_from(number).ok()
    };
    let Some(directory) = long(4) else { return };
    let Some(count) = short(directory) else { return };
    for index in 0..usize::from(count).min(FIELDS) {
        let at = directory.saturating_add(2 + 12 * index);
        let (Some(tag), Some(kind), Some(length)) =
            (short(at), short(at.saturating_add(2)), long(at.saturating_add(4)))
        else {
            return;
        };
        // Texts only, and those of four bytes and less say nothing.
        if kind != 2 || length <= 4 {
            continue;
        }
        let Some(start) = long(at.saturating_add(8)) else { return };
        let end = start.saturating_add(length).min(tiff.len());
        let Some(text) = tiff.get(start..end) else { continue };
        // Many fields may name the same bytes.
        texts.take(text.len(), || {
            let text = String::from_utf8_lossy(text);
            (format!("{tag:#06x}"), text.trim_end_matches('\0').to_owned())
        });
    }
}

/// A box is length, type, content; length 1 means that a longer one follows, 0 that it goes to the end (ISO/IEC
/// 14496-12, 4.2). Names of `keys` are those of the numbered entries of the `ilst` that follows.
fn boxes(mut rest: &[u8], depth: usize, keys: &mut Vec<String>, texts: &mut Texts) {
    while let Some((kind, content, tail)) = next_box(rest) {
        match &kind {
            _ if depth >= DEPTH => return,
            b"moov" | b"udta" | b"trak" => boxes(content, depth + 1, keys, texts),
            // A box of its own in QuickTime, one with a version in MP4.
            b"meta" => match content.get(4..8) {
                Some(b"hdlr") => boxes(content, depth + 1, keys, texts),
                _ => boxes(content.get(4..).unwrap_or_default(), depth + 1, keys, texts),
            },
            b"keys" => *keys = names(content.get(8..).unwrap_or_default()),
            b"ilst" => items(content, keys, texts),
            _ => {}
        }
        rest = tail;
    }
}

fn next_box(bytes: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let (&[a, b, c, d, ref kind @ ..], after) = bytes.split_first_chunk::<8>()?;
    let kind: [u8; 4] = *kind.first_chunk()?;
    let (content, length) = match u32::from_be_bytes([a, b, c, d]) {
        0 => (after, after.len()),
        1 => {
            let (long, after) = after.split_first_chunk::<8>()?;
            (after, usize::try_from(u64::from_be_bytes(*long).checked_sub(16)?).ok()?)
        }
        length => (after, usize::try_from(length.checked_sub(8)?).ok()?),
    };
    let (content, tail) = content.split_at_checked(length)?;
    Some((kind, content, tail))
}

/// The names of `keys`: each is length, namespace, name.
fn names(mut rest: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((_, name, tail)) = next_box(rest) {
        if names.len() >= FIELDS {
            break;
        }
        names.push(String::from_utf8_lossy(&name[..name.len().min(NAME)]).into_owned());
        rest = tail;
    }
    names
}

/// The entries of `ilst`: each is named by its type, or by its number among the keys, and has its text in a `data`.
fn items(mut rest: &[u8], keys: &[String], texts: &mut Texts) {
    let mut seen = 0;
    while let Some((kind, content, tail)) = next_box(rest) {
        seen += 1;
        if seen > FIELDS {
            return;
        }
        let number = usize::try_from(u32::from_be_bytes(kind)).unwrap_or(0);
        let name = number.checked_sub(1).and_then(|number| keys.get(number)).cloned();
        let name = name.unwrap_or_else(|| latin(&kind));
        if let Some((kind, data, _)) = next_box(content)
            && &kind == b"data"
            && let Some(text) = data.get(8..)
        {
            texts.take(text.len(), || (name, String::from_utf8_lossy(text).into_owned()));
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::workflow::{Document, WorkflowError, gist};

    fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = PNG.to_vec();
        for (kind, data) in chunks {
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*kind);
            bytes.extend(*data);
            bytes.extend([0; 4]);
        }
        bytes
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn webp() -> Vec<u8> {
        let text = b"workflow:{\"nodes\": [], \"links\": []}\0";
        let mut tiff = b"II*\0\x08\0\0\0\x01\0".to_vec();
        tiff.extend([0x0f, 0x01, 2, 0]);
        tiff.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        tiff.extend(26u32.to_le_bytes());
        tiff.extend([0; 4]);
        tiff.extend(text);
        let mut bytes = b"RIFF\0\0\0\0WEBPVP8 \x03\0\0\0abc\0EXIF".to_vec();
        bytes.extend(u32::try_from(tiff.len()).unwrap().to_le_bytes());
        bytes.extend(tiff);
        bytes
    }

    fn atom(kind: &[u8], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap().to_be_bytes();
        [&length[..], kind, content].concat()
    }

    fn mp4() -> Vec<u8> {
        let key = atom(b"mdta", b"workflow");
        let keys = atom(b"keys", &[&[0, 0, 0, 0, 0, 0, 0, 1][..], &key].concat());
        let data = atom(b"data", b"\0\0\0\x01\0\0\0\0{\"nodes\": [], \"links\": []}");
        let list = atom(b"ilst", &atom(&[0, 0, 0, 1], &data));
        let meta = atom(b"meta", &[atom(b"hdlr", &[0; 24]), keys, list].concat());
        [atom(b"ftyp", b"isom"), atom(b"mdat", &[9; 40]), atom(b"moov", &meta)].concat()
    }

    /// Every other kind of file with these texts.
    fn others(texts: &[(&str, &str)]) -> [Vec<u8>; 7] {
        use super::documents::tests::{glb_of, safetensors_of, svg_of};
        use super::streams::tests::{flac_of, mp3_of, ogg_of, webm_of};
        [flac_of, ogg_of, mp3_of, webm_of, svg_of, glb_of, safetensors_of].map(|make| make(texts))
    }

    #[test]
    fn texts_are_found_between_other_chunks() {
        let whole = png(&[
            (b"IHDR", &[0; 13]),
            (b"tEXt", b"k\0caf\xe9"),
            (b"tEXt", b"odd"),
            (b"zTXt", &[b"z\0\0".to_vec(), packed(b"packed")].concat()),
            (b"iTXt", "i\0\0\0\0\0é".as_bytes()),
            (b"iTXt", &[b"j\0\x01\0de\0x\0".to_vec(), packed("ü".as_bytes())].concat()),
            (b"IDAT", &[7; 9]),
            (b"IEND", b""),
        ]);
        let expected = [("k", "caf\u{e9}"), ("z", "packed"), ("i", "é"), ("j", "ü")];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
        assert_eq!(texts(&whole), Some(expected));
        for end in PNG.len()..whole.len() {
            assert!(texts(&whole[..end]).is_some_and(|texts| texts.len() <= 4), "cut at {end}");
        }
        assert_eq!(texts(b"{}"), None);
    }

    #[test]
    fn a_text_that_unpacks_to_too_much_is_none() {
        let bomb = packed(&vec![b'a'; TOTAL + 1]);
        assert!(bomb.len() < 1 << 20);
        let (bomb, half) = ([b"z\0\0".to_vec(), bomb].concat(), packed(&vec![b'a'; TOTAL / 3]));
        let half = [b"z\0\0".to_vec(), half].concat();
        let broken = [&half[..half.len() - 4], b"\0\0\0\0"].concat();
        let many = vec![(b"tEXt", &b"k\0v"[..]); COUNT + 1];
        let long = [vec![b'k'; NAME + 1], b"\0v".to_vec()].concat();
        for (chunks, count, cut) in [
            (vec![(b"zTXt", &bomb[..]), (b"tEXt", b"k\0v")], 1, true),
            (vec![(b"zTXt", &half[..]); 4], 2, true),
            // What breaks at its end has been unpacked all the same.
            ([vec![(b"zTXt", &broken[..]); 4], vec![(b"zTXt", &half[..])]].concat(), 0, true),
            (many, COUNT, true),
            (vec![(b"tEXt", &long[..])], 0, false),
        ] {
            let found = look(&png(&chunks)).unwrap();
            assert_eq!((found.list.len(), found.cut), (count, cut));
        }
        let error = Document::read(&png(&[(b"zTXt", &bomb)])).unwrap_err().to_string();
        assert!(error.contains("whose texts have more than 16777216 bytes"), "{error}");
        // A few MiB of text would be hundreds in memory.
        let dense = format!("workflow\0{{\"nodes\": [{}0], \"links\": []}}", "0,".repeat(document::VALUES));
        let error = Document::read(&png(&[(b"tEXt", dense.as_bytes())])).unwrap_err().to_string();
        assert!(error.contains("a document of more than 524288 values"), "{error}");
    }

    #[test]
    fn pictures_and_videos_are_workflows() {
        let prompt = b"prompt\0{\"1\": {\"class_type\": \"A\", \"inputs\": {}}}";
        let not_json = b"prompt\0{\"1\": {\"class_type\": \"A\", \"inputs\": {}, \"is_changed\": [NaN]}}";
        let graph = b"workflow\0{\"nodes\": [], \"links\": []}";
        let read = |chunks: &[&[u8]]| {
            let chunks: Vec<_> = chunks.iter().map(|data| (b"tEXt", *data)).collect();
            Document::read(&png(&chunks))
        };
        assert!(matches!(read(&[graph, prompt]), Ok(Document::Prompt(_))));
        assert!(matches!(read(&[not_json, graph]), Ok(Document::Graph(_))));
        assert!(matches!(read(&[not_json]), Err(WorkflowError::Syntax { .. })));
        assert!(matches!(read(&[]), Err(WorkflowError::Unrecognised { .. })));
        assert!(matches!(Document::read(&webp()), Ok(Document::Graph(_))));
        assert!(matches!(Document::read(&mp4()), Ok(Document::Graph(_))));
        let own = png(&[(b"IDAT", b""), (b"comf", graph)]);
        assert!(matches!(Document::read(&own), Ok(Document::Graph(_))));
        for (which, one) in others(&[
            ("TITLE", "x"),
            ("workflow", &format!("{:#}", json!({ "nodes": [], "links": [], "x": "é".repeat(70_000) }))),
        ])
        .into_iter()
        .enumerate()
        {
            assert!(matches!(Document::read(&one), Ok(Document::Graph(_))), "{which}");
        }
        let comment = atom(b"data", b"\0\0\0\x01\0\0\0\0{\"workflow\": {\"nodes\": [], \"links\": []}}");
        let list = atom(b"ilst", &atom(b"\xa9cmt", &comment));
        let meta = atom(b"meta", &[vec![0; 4], atom(b"hdlr", &[0; 24]), list].concat());
        let video = [atom(b"ftyp", b"isom"), atom(b"moov", &atom(b"udta", &meta))].concat();
        assert!(matches!(Document::read(&video), Ok(Document::Graph(_))));
    }

    proptest! {
        /// Whatever a byte is changed to, and wherever the file ends, there is an answer.
        #[test]
        fn damaged_files_have_an_answer(
            which in 0..10usize,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = match which {
                0 => png(&[(b"zTXt", &[b"z\0\0".to_vec(), packed(b"text")].concat()), (b"iTXt", b"i\0\0\0\0\0x")]),
                1 => webp(),
                2 => mp4(),
                other => others(&[("workflow", "{\"nodes\": []}"), ("PROMPT", "{}")])[other - 3].clone(),
            };
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            let (kept, _) = gist::read(&mut Cursor::new(&bytes)).unwrap().unwrap_or_default();
            prop_assert!(kept.len() <= bytes.len());
            let all: usize = texts(&bytes).unwrap_or_default().iter().map(|(_, text)| text.len()).sum();
            prop_assert!(all <= 3 * bytes.len() + 64);
        }
    }
}
