//! Files with a text of their own inside: SVG, GLB and safetensors.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Texts, document};

pub(crate) const GLB: &[u8] = b"glTF";
/// How SVG files begin.
const SVG: [&[u8]; 3] = [b"<svg", b"<?xml", b"<!DOCTYPE svg"];
/// No safetensors file has a longer head: the format's own programs refuse it.
const LONGEST: u64 = 100_000_000;

pub(crate) fn is_svg(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    SVG.iter().any(|start| bytes.starts_with(start))
}

/// The length of the head of a safetensors file, which is an object. No text begins so.
pub(crate) fn safetensors_head(bytes: &[u8]) -> Option<u64> {
    let (&length, rest) = bytes.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(length);
    (rest.first() == Some(&b'{') && length <= LONGEST).then_some(length)
}

/// Each `<metadata>` that is an object of JSON, in a CDATA section.
pub(super) fn svg(bytes: &[u8], texts: &mut Texts) {
    let text = String::from_utf8_lossy(bytes);
    for part in text.split("<metadata").skip(1) {
        let Some((_, part)) = part.split_once('>') else { continue };
        let part = part.split("</metadata>").next().unwrap_or(part).trim();
        let inner = part.strip_prefix("<![CDATA[").and_then(|part| part.strip_suffix("]]>")).unwrap_or(part);
        if inner.trim_start().starts_with('{') {
            texts.take(inner.len(), || ("metadata".to_owned(), inner.trim().to_owned()));
        }
    }
}

/// After its name, version and length: chunks of length, kind, content; the first is the document (glTF 2.0, 4.4).
pub(super) fn glb(bytes: &[u8], texts: &mut Texts) {
    let Some((&[a, b, c, d, b'J', b'S', b'O', b'N'], rest)) =
        bytes.get(12..).unwrap_or_default().split_first_chunk::<8>()
    else {
        return;
    };
    let Some(text) = rest.get(..u32::from_le_bytes([a, b, c, d]) as usize) else { return };
    let Ok(scene) = document::json(&String::from_utf8_lossy(text)) else { return };
    if let Some(extras) = scene.pointer("/asset/extras") {
        let text = extras.to_string();
        texts.take(text.len(), || ("extras".to_owned(), text));
    }
}

/// What the head says besides its tensors.
pub(super) fn safetensors(bytes: &[u8], texts: &mut Texts) {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "__metadata__", default)]
        metadata: BTreeMap<String, String>,
    }
    let Some(length) = safetensors_head(bytes).and_then(|length| usize::try_from(length).ok()) else {
        return;
    };
    let Some(text) = bytes.get(8..).and_then(|rest| rest.get(..length)) else { return };
    let Ok(head) = serde_json::from_slice::<Head>(text) else { return };
    for (name, text) in head.metadata {
        texts.take(name.len() + text.len(), || (name, text));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    /// As ComfyUI saves one: the texts are values.
    pub(crate) fn svg_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let values = texts.iter().map(|(name, text)| {
            ((*name).to_owned(), serde_json::from_str(text).unwrap_or(Value::String((*text).to_owned())))
        });
        let all = Value::Object(values.collect::<Map<_, _>>());
        format!(
            "<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\">\n  <metadata>\n    \
             <![CDATA[\n{all:#}\n    ]]>\n  </metadata>\n<path d=\"M0 0\"/></svg>"
        )
        .into_bytes()
    }

    pub(crate) fn glb_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let extras: Map<String, Value> =
            texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
        let scene = json!({ "asset": { "version": "2.0", "extras": extras }, "nodes": [] }).to_string();
        let chunk =
            |kind: &[u8; 4], data: &[u8]| [&(data.len() as u32).to_le_bytes()[..], kind, data].concat();
        [b"glTF\x02\0\0\0\0\0\0\0", &chunk(b"JSON", scene.as_bytes())[..], &chunk(b"BIN\0", &[0; 8])].concat()
    }

    pub(crate) fn safetensors_of(texts: &[(&str, &str)]) -> Vec<u8> {
        let metadata: BTreeMap<&str, &str> = texts.iter().copied().collect();
        let tensor = json!({ "dtype": "F32", "shape": [1], "data_offsets": [0, 4] });
        let head = json!({ "__metadata__": metadata, "t": tensor }).to_string();
        [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &[0; 4]].concat()
    }

    #[test]
    fn texts_are_not_taken_for_tensors() {
        assert_eq!(safetensors_head(b"\x02\0\0\0\0\0\0\0{}"), Some(2));
        for text in [
            &b"{\"nodes\": {}}"[..],
            b"12345678{}",
            b"\x02\0\0\0\0\0\0\0[]",
            b"",
            b"\0\xe1\xf5\x05\x01\0\0\0{",
        ] {
            assert_eq!(safetensors_head(text), None, "{text:?}");
        }
        assert!(is_svg(b"\xef\xbb\xbf \n<svg>") && !is_svg(b"<html>") && !is_svg(b"svg"));
    }
}
