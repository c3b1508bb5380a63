//! What a file says of itself, read without its pixels, sounds and tensors: the chunks and boxes that hold texts, in
//! their places, so that the result is a small file of its kind to those who look for texts in it.

use std::io::{self, Read, Seek, SeekFrom};

use super::embedded::documents::{GLB, is_svg, safetensors_head};
use super::embedded::streams::{COMMENTS, FLAC, ID3, MATROSKA, OGG, SEGMENT, TAGS, element_head, syncsafe};
use super::embedded::{PNG, TOTAL};

/// Chunks or boxes that are passed: each is a step, and no picture has more.
const STEPS: usize = 100_000;
/// The longest head of a part, a page of Ogg with the lengths of its segments.
const HEAD: usize = 27 + 255;

/// A part of a file that says its kind and length.
struct Part {
    /// All of it, head and tail included.
    length: u64,
    /// It may hold texts.
    speaks: bool,
}

/// Reads the head of a part.
type Reader = fn(&[u8]) -> Option<Part>;

/// The parts of `file` that hold texts, as many as are read; none when it is of no kind that is known to hold any. Also,
/// whether there are more.
pub(crate) fn read(file: &mut (impl Read + Seek)) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut head = [0; HEAD];
    file.rewind()?;
    let count = read_up_to(file, &mut head)?;
    let (part, start): (Reader, u64) = match &head[..count] {
        head if head.starts_with(PNG) => (chunk, PNG.len() as u64),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => (webp, 12),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => (movie, 0),
        head if head.starts_with(FLAC) => (flac, FLAC.len() as u64),
        head if head.starts_with(OGG) => (page, 0),
        head if head.starts_with(ID3) => (id3, 0),
        head if head.starts_with(MATROSKA) => (element, 0),
        head if head.starts_with(GLB) => (mesh, 12),
        head if is_svg(head) => (whole, 0),
        head if safetensors_head(head).is_some() => (tensors, 0),
        _ => return Ok(None),
    };
    let end = file.seek(SeekFrom::End(0))?;
    let (mut kept, mut cut) = (head[..count.min(start as usize)].to_vec(), false);
    let mut at = start;
    for _ in 0..STEPS {
        let mut head = [0; HEAD];
        file.seek(SeekFrom::Start(at))?;
        let count = read_up_to(file, &mut head)?;
        let Some(Part { length, speaks }) = part(&head[..count]) else { break };
        let length = length.min(end.saturating_sub(at));
        // Packed texts are counted again when they are unpacked.
        if speaks && kept.len() as u64 + length <= TOTAL as u64 {
            file.seek(SeekFrom::Start(at))?;
            file.by_ref().take(length).read_to_end(&mut kept)?;
        } else {
            cut |= speaks;
        }
        at = at.saturating_add(length);
        if at >= end {
            break;
        }
    }
    Ok(Some((kept, cut)))
}

/// Length, type, data, CRC.
fn chunk(head: &[u8]) -> Option<Part> {
    let (&[a, b, c, d, ref kind @ ..], _) = head.split_first_chunk::<8>()?;
    let length = u64::from(u32::from_be_bytes([a, b, c, d])) + 12;
    Some(Part { length, speaks: matches!(kind, b"tEXt" | b"zTXt" | b"iTXt" | b"comf") })
}

/// Type, length, data, and a byte more where the length is odd.
fn webp(head: &[u8]) -> Option<Part> {
    let (&[ref kind @ .., a, b, c, d], _) = head.split_first_chunk::<8>()?;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    Some(Part { length: length + length % 2 + 8, speaks: kind == b"EXIF" })
}

/// Length, type, content; a length of 1 says that a longer one follows, 0 that it goes to the end.
fn movie(head: &[u8]) -> Option<Part> {
    let (&[a, b, c, d, ref kind @ ..], rest) = head.split_first_chunk::<8>()?;
    let length = match u32::from_be_bytes([a, b, c, d]) {
        0 => u64::MAX,
        1 => u64::from_be_bytes(*rest.first_chunk::<8>()?),
        length => u64::from(length),
    };
    (length >= 8).then_some(Part { length, speaks: matches!(kind, b"ftyp" | b"moov") })
}

/// Kind, length, content. Sound, which comes last, has a first byte that no kind has.
fn flac(head: &[u8]) -> Option<Part> {
    let &[kind, a, b, c] = head.first_chunk::<4>()?;
    let length = u64::from(u32::from_be_bytes([0, a, b, c])) + 4;
    (kind != u8::MAX).then_some(Part { length, speaks: kind & 0x7f == COMMENTS })
}

/// The pages of heads are at the time 0, or at none where no packet ends on them.
fn page(head: &[u8]) -> Option<Part> {
    let (page, lengths) = head.split_at_checked(27).filter(|(page, _)| page.starts_with(OGG))?;
    let lengths = lengths.get(..usize::from(page[26]))?;
    let data: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    let time = page.get(6..14)?;
    Some(Part {
        length: 27 + lengths.len() as u64 + data,
        speaks: [[0; 8], [0xff; 8]].iter().any(|no| time == no),
    })
}

/// All tags are one part; what follows is sound.
fn id3(head: &[u8]) -> Option<Part> {
    let (_, length) =
        head.first_chunk::<10>().filter(|head| head.starts_with(ID3))?.split_last_chunk::<4>()?;
    Some(Part { length: syncsafe(*length) as u64 + 10, speaks: true })
}

/// The tags lie in the segment, beside what it shows: of the segment itself, only the head is passed.
fn element(head: &[u8]) -> Option<Part> {
    let (id, length, own) = element_head(head)?;
    let content = if id == SEGMENT { 0 } else { length.unwrap_or(u64::MAX) };
    let speaks = id == TAGS || head.starts_with(MATROSKA);
    Some(Part { length: content.saturating_add(own as u64), speaks })
}

/// Length, kind, content.
fn mesh(head: &[u8]) -> Option<Part> {
    let (&[a, b, c, d, ref kind @ ..], _) = head.split_first_chunk::<8>()?;
    Some(Part { length: u64::from(u32::from_le_bytes([a, b, c, d])) + 8, speaks: kind == b"JSON" })
}

fn whole(_: &[u8]) -> Option<Part> {
    Some(Part { length: u64::MAX, speaks: true })
}

/// The head; tensors follow.
fn tensors(head: &[u8]) -> Option<Part> {
    Some(Part { length: safetensors_head(head)? + 8, speaks: true })
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::workflow::embedded::{documents, streams};
    use crate::workflow::{Document, embedded};

    fn gist(bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        read(&mut file).unwrap()
    }

    fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut bytes = PNG.to_vec();
        for (kind, data) in chunks {
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*kind);
            bytes.extend(data);
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn pixels_are_left_out_and_texts_are_not() {
        let text = || (b"tEXt", b"k\0v".to_vec());
        let picture = png(&[(b"IHDR", vec![0; 13]), (b"IDAT", vec![1; 5000]), text(), (b"IEND", vec![])]);
        let (kept, cut) = gist(&picture).unwrap();
        assert_eq!((kept, cut), (png(&[text()]), false));
        let long = png(&[(b"tEXt", [&b"k\0"[..], &vec![b'v'; TOTAL]].concat()), (b"IDAT", vec![]), text()]);
        let (kept, cut) = gist(&long).unwrap();
        assert_eq!((kept, cut), (png(&[text()]), true));
        for end in PNG.len()..picture.len() {
            let (kept, _) = gist(&picture[..end]).unwrap();
            assert!(embedded::texts(&kept).is_some_and(|texts| texts.len() <= 1), "cut at {end}");
        }
        let exif = [&b"RIFF\0\0\0\0WEBPVP8 \x03\0\0\0abc\0EXIF\x01\0\0\0x\0"[..]].concat();
        assert_eq!(gist(&exif).unwrap().0, b"RIFF\0\0\0\0WEBPEXIF\x01\0\0\0x\0");
        let film = [&b"\0\0\0\x08ftyp\0\0\0\x01mdat\0\0\0\0\0\0\0\x14data\0\0\0\0moov"[..]].concat();
        assert_eq!(gist(&film).unwrap().0, b"\0\0\0\x08ftyp\0\0\0\0moov");
        assert_eq!(gist(b"{}"), None);
        // What says something is the same, and what is shown or heard is gone.
        let long = "x".repeat(1 << 17);
        let said = [("workflow", long.as_str())];
        for make in [
            streams::tests::flac_of,
            streams::tests::ogg_of,
            streams::tests::mp3_of,
            streams::tests::webm_of,
            documents::tests::glb_of,
            documents::tests::safetensors_of,
        ] {
            let bytes = make(&said);
            let (kept, cut) = gist(&bytes).unwrap();
            assert!(kept.len() < bytes.len() && !cut);
            assert_eq!(embedded::texts(&kept), embedded::texts(&bytes));
            assert!(embedded::texts(&kept).is_some_and(|texts| texts.iter().any(|(_, text)| *text == long)));
        }
    }

    /// A file, and how much of it is read.
    struct Counted(std::fs::File, u64);

    impl Read for Counted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1 += count as u64;
            Ok(count)
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn of_a_long_film_only_what_it_says_is_read() {
        const FRAMES: u64 = 3 << 30;
        let data = b"\0\0\0\x01\0\0\0\0{\"workflow\": {\"nodes\": [], \"links\": []}}";
        let meta = [&[0; 4][..], &atom(b"ilst", &atom(b"\xa9cmt", &atom(b"data", data)))].concat();
        let movie = atom(b"moov", &atom(b"udta", &atom(b"meta", &meta)));
        let head = [&b"\0\0\0\x08ftyp\0\0\0\x01mdat"[..], &(FRAMES + 16).to_be_bytes()].concat();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&head).unwrap();
        file.seek(SeekFrom::Current(FRAMES as i64)).unwrap();
        file.write_all(&movie).unwrap();
        let mut counted = Counted(file, 0);
        let read = Document::read_file(&mut counted, 1 << 20).unwrap();
        assert!(matches!(read, Ok(Document::Graph(_))), "{read:?}");
        assert!(counted.1 < 2000, "{} bytes are read", counted.1);

        let mut long = tempfile::tempfile().unwrap();
        long.set_len(FRAMES).unwrap();
        let read = Document::read_file(&mut long, 1 << 20).unwrap();
        assert_eq!(read.unwrap_err().to_string(), "the workflow has more than 1048576 bytes");
    }

    fn atom(kind: &[u8], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap().to_be_bytes();
        [&length[..], kind, content].concat()
    }
}
