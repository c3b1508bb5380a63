//! The texts in a PNG (its `tEXt` chunks), where ComfyUI writes what a picture was made by.

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The texts of a PNG by their keywords; none when the bytes are no PNG. One that ends too early has those before.
pub(super) fn texts(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut rest = bytes.strip_prefix(SIGNATURE)?;
    let mut texts = Vec::new();
    // A chunk is length, type, data, CRC (PNG specification, 5.3).
    while let Some((&[a, b, c, d, ref kind @ ..], tail)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some((data, tail)) = tail.split_at_checked(length) else { break };
        if kind == b"tEXt"
            && let Some(end) = data.iter().position(|byte| *byte == 0)
        {
            let (keyword, text) = data.split_at(end);
            texts.push((latin(keyword), latin(text.get(1..).unwrap_or_default())));
        }
        rest = tail.get(4..).unwrap_or_default();
    }
    Some(texts)
}

/// Texts are in Latin-1.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::{Document, WorkflowError};

    fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        for (kind, data) in chunks {
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*kind);
            bytes.extend(*data);
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn texts_are_found_between_other_chunks() {
        let whole = png(&[
            (b"IHDR", &[0; 13]),
            (b"tEXt", b"k\0caf\xe9"),
            (b"tEXt", b"odd"),
            (b"IDAT", &[7; 9]),
            (b"IEND", b""),
        ]);
        assert_eq!(texts(&whole), Some(vec![("k".to_owned(), "caf\u{e9}".to_owned())]));
        for end in SIGNATURE.len()..whole.len() {
            assert!(texts(&whole[..end]).is_some_and(|texts| texts.len() <= 1), "cut at {end}");
        }
        assert_eq!(texts(b"{}"), None);
    }

    #[test]
    fn a_picture_is_a_workflow() {
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
    }
}
