//! Files of each format, whole and broken, built byte by byte.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn look(bytes: &[u8], name: &str) -> ModelInfo {
    inspect(&mut Cursor::new(bytes), name).unwrap()
}

fn says(bytes: &[u8], name: &str) -> Vec<String> {
    look(bytes, name).findings.iter().map(ToString::to_string).collect()
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;

#[test]
fn safetensors_are_read_with_their_bounds() {
    let info = look(&safetensors(GOOD, 16), "x.safetensors");
    assert_eq!((info.format, info.metadata["format"].as_str()), (ModelFormat::Safetensors, "pt"));
    let tensors: Vec<String> =
        info.tensors.iter().map(|t| format!("{} {} {:?} {:?}", t.name, t.dtype, t.shape, t.bytes)).collect();
    assert_eq!(tensors, ["b F16 [2, 3] Some(12)", "a F32 [] Some(4)"]);
    assert_eq!(info.findings, []);

    let one = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
    };
    for (header, data, text) in [
        (GOOD.to_owned(), 15, "tensor \"b\" has the bytes 4 to 16 of 15"),
        (GOOD.to_owned(), 17, "its tensors have 16 bytes, and the file has 17 for them"),
        (one("F32", "[2]", 0, 4), 4, "tensor \"a\" of F32 [2] has 4 bytes"),
        (one("F32", "[1]", 4, 0), 4, "tensor \"a\" has the bytes 4 to 0 of 4"),
        (one("F32", "[1]", 4, 8), 8, "tensor \"a\" comes after a gap"),
        (
            one("F64", "[4294967296,4294967296]", 0, 8),
            8,
            "tensor \"a\" of F64 [4294967296, 4294967296] has 8 bytes",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#
                .to_owned(),
            2,
            "its header cannot be read: the name \"a\" stands twice at line 1 column 56",
        ),
        (
            "{\"a\":1}".to_owned(),
            0,
            "its header cannot be read: invalid type: integer `1`, expected struct Entry at line 1 column 6",
        ),
    ] {
        assert_eq!(says(&safetensors(&header, data), "x.safetensors"), [text], "{header}");
    }
    // A type of tomorrow is taken at its word.
    assert_eq!(says(&safetensors(&one("F2_NEW", "[9]", 0, 3), 3), "x.safetensors"), [""; 0]);
    let mut long = safetensors(GOOD, 16);
    long[..8].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0]);
    let size = long.len();
    assert_eq!(says(&long, "x.safetensors"), [format!("its header has 255 bytes, and the file only {size}")]);
}

#[test]
fn what_is_no_model_is_told_by_its_beginning() {
    for (bytes, name, text) in [
        (
            &b"<!DOCTYPE html><html>"[..],
            "x.safetensors",
            "it is no safetensors file: it begins with \"<!DOCTYPE html><\"",
        ),
        (b"", "x.gguf", "it is no GGUF file: it is empty"),
        (b"\x80\x02.", "x.safetensors", "it is named like a safetensors file, and is a pickle"),
    ] {
        assert_eq!(says(bytes, name), [text]);
    }
    assert_eq!(look(b"anything", "notes.txt"), ModelInfo::default());
}

fn gguf(alignment: Option<u32>, offset: u64, data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    bytes.extend_from_slice(&1u64.to_le_bytes());
    bytes.extend_from_slice(&(2 + u64::from(alignment.is_some())).to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend_from_slice(&8u32.to_le_bytes());
    text(&mut bytes, "flux");
    text(&mut bytes, "list");
    bytes.extend_from_slice(&9u32.to_le_bytes());
    bytes.extend_from_slice(&4u32.to_le_bytes());
    bytes.extend_from_slice(&2u64.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    if let Some(alignment) = alignment {
        text(&mut bytes, "general.alignment");
        bytes.extend_from_slice(&4u32.to_le_bytes());
        bytes.extend_from_slice(&alignment.to_le_bytes());
    }
    text(&mut bytes, "w");
    bytes.extend_from_slice(&2u32.to_le_bytes());
    bytes.extend_from_slice(&32u64.to_le_bytes());
    bytes.extend_from_slice(&2u64.to_le_bytes());
    bytes.extend_from_slice(&8u32.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    let start = bytes.len().next_multiple_of(alignment.unwrap_or(32).max(1) as usize);
    bytes.resize(start + data, 1);
    bytes
}

#[test]
fn gguf_is_read_with_its_bounds() {
    let info = look(&gguf(None, 0, 68), "x.gguf");
    assert_eq!((info.format, info.metadata["general.architecture"].as_str()), (ModelFormat::Gguf, "flux"));
    assert_eq!(info.metadata["list"], "2 values");
    let tensor =
        Tensor { name: "w".to_owned(), dtype: "Q8_0".to_owned(), shape: vec![32, 2], bytes: Some(68) };
    assert_eq!((info.tensors, info.findings), (vec![tensor], vec![]));
    assert_eq!(says(&gguf(Some(64), 0, 68), "x.gguf"), [""; 0]);
    for (bytes, text) in [
        (gguf(None, 0, 67), "tensor \"w\" begins at 0 and does not fit into 67 bytes"),
        (
            gguf(None, u64::MAX, 68),
            "tensor \"w\" begins at 18446744073709551615 and does not fit into 68 bytes",
        ),
        (gguf(Some(3), 0, 68), "its alignment is 3"),
        (gguf(None, 0, 68)[..60].to_vec(), "it ends too early"),
        (
            b"GGUF\0\0\0\x03".to_vec(),
            "it is written for big-endian machines, and those for little-endian ones are read",
        ),
        (b"GGUF\x09\0\0\0".to_vec(), "it has version 9 of the format; 2 and 3 are read"),
    ] {
        assert_eq!(says(&bytes, "x.gguf"), [text]);
    }
}

#[test]
fn a_pickle_is_judged_by_what_it_imports() {
    let runs = |import: &str| format!("loading it runs code: it imports {import}");
    let named = |module: &str, name: &str| {
        let mut bytes = vec![0x80, 4, 0x95, 9, 0, 0, 0, 0, 0, 0, 0];
        for text in [module, name] {
            bytes.extend_from_slice(&[0x8c, text.len() as u8]);
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0x94);
        }
        bytes.extend_from_slice(&[0x93, b')', b'R', b'.']);
        bytes
    };
    for (bytes, expected) in [
        (b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\x01.".to_vec(), vec![]),
        (b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.".to_vec(), vec![runs("os.system")]),
        (b"c__builtin__\neval\n(S'1'\ntR.".to_vec(), vec![runs("__builtin__.eval")]),
        (b"(S'id'\nios\npopen\n.".to_vec(), vec![runs("os.popen")]),
        (named("subprocess", "Popen"), vec![runs("subprocess.Popen")]),
        (named("torch._utils", "_rebuild_tensor_v2"), vec![]),
        (
            named("my.node", "Thing"),
            vec!["it imports my.node.Thing, which is not known to be harmless".to_owned()],
        ),
        // By way of the memo: both names were stored before, in another order.
        (b"\x80\x04\x8c\x06system\x940\x8c\x05posix\x940h\x01h\0\x93.".to_vec(), vec![runs("posix.system")]),
        // Joined at run time.
        // An entry that is written again is no new one for those that count.
        (
            b"\x80\x04\x8c\x0bcollectionsq\x01q\x010\x8c\x05posix\x940\x8c\x0bOrderedDictq\x020\x8c\x06getpid\x940h\x01h\x02\x93."
                .to_vec(),
            vec![runs("posix.getpid")],
        ),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x85\x93.".to_vec(), vec![runs("a name that it computes")]),
        (b"\x80\x04V\\u006fs\nVsystem\n\x93.".to_vec(), vec![runs("a name that it computes")]),
        (
            b"\x80\x02\x82\x07.".to_vec(),
            vec!["it imports the extension 7, which is not known to be harmless".to_owned()],
        ),
        // Python has run the import by the time it meets what it does not understand.
        (
            b"\x80\x02cos\nsystem\n\xff".to_vec(),
            vec![runs("os.system"), "it has the unknown opcode 0xff in its pickle".to_owned()],
        ),
        // They may begin like any text.
        (b"N0cos\nsystem\n.".to_vec(), vec![runs("os.system")]),
        (b"K\x010X\x01\0\0\0ncos\nsystem\n)R.".to_vec(), vec![runs("os.system")]),
        // Several in a row: one that breaks after its import has run it, and raw numbers are none.
        (b"N.N.cos\nsystem\n\xff".to_vec(), vec![runs("os.system")]),
        (b"N.c\xff\xfe\n\xfd\n\xff".to_vec(), vec![]),
        ([&b"N."[..]; 9].concat().into_iter().chain(*b"\x80\x02cos\nsystem\n.").collect(), vec![runs("os.system")]),
        // The second of several pickles.
        (b"\x80\x02N.\x80\x02cos\nsystem\n.raw".to_vec(), vec![runs("os.system")]),
        (b"\x80\x02X\xff\xff\0\0short".to_vec(), vec!["it ends too early".to_owned()]),
    ] {
        assert_eq!(says(&bytes, "x.pt"), expected, "{}", String::from_utf8_lossy(&bytes));
    }
}

/// A number, a version, the machine; the object, the names of its storages; then the storages.
#[test]
fn all_five_pickles_of_torch_are_walked() {
    let number = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let text = b"L119547037146038801333356L\n.";
    for (first, rest) in [(&number[..], &b"\x80\x02M\xe9\x03.\x80\x02}."[..]), (text, b"I1001\n.(d.")] {
        for object in [&b"\x80\x02cos\nsystem\n)R."[..], b"cos\nsystem\n)R."] {
            // What looks like a sixth is raw numbers.
            let file = [first, rest, object, b"(l.", b"\x80\x02cposix\ngetpid\n."].concat();
            let info = look(&file, "x.pt");
            assert_eq!((info.format, info.imports), (ModelFormat::Pickle, vec!["os.system".to_owned()]));
        }
    }
}

#[test]
fn what_cannot_be_looked_into_is_told() {
    let mut tar = b"N.\0pickle".to_vec();
    tar.resize(512, 0);
    let sum: u32 = tar.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar[155] = b' ';
    for (bytes, name, text) in [
        (&b""[..], "x.bin", "it is no pickle (it ends too early) and no zip file; it is empty"),
        (
            b"<html>a login</html>",
            "x.ckpt",
            "it is no pickle (it has the unknown opcode 0x3c in its pickle) and no zip file; it begins with \
             \"<html>a login</h\"",
        ),
        (&tar, "x.pt", "it is a tar archive"),
    ] {
        let info = look(bytes, name);
        assert_eq!(info.format, ModelFormat::Unknown, "{name}");
        assert_eq!(says(bytes, name), [format!("it could not be looked into: {text}")]);
    }
}

/// Files that are much larger than any of their kind, or unpack to much more.
#[test]
fn what_is_hostile_meets_a_limit() {
    // A text of 500 bytes, and then as many memo entries as there may be with it.
    let mut memo = b"\x80\x04\x8d\xf4\x01\0\0\0\0\0\0".to_vec();
    memo.resize(memo.len() + 500, b'm');
    memo.resize(memo.len() + 100_000, 0x94);
    memo.extend(b"j\x9f\x86\x01\0j\x9f\x86\x01\0\x93.");
    let names: Vec<u8> = (0..2000).flat_map(|number| format!("cmine\nname{number}\n").into_bytes()).collect();
    let names = [&names[..], b"cos\nsystem\n."].concat();
    // What runs code is listed among any number of others.
    assert!(look(&names, "x.pt").imports.contains(&"os.system".to_owned()));

    let mut texts = b"GGUF\x03\0\0\0".to_vec();
    texts.extend([0u64.to_le_bytes(), 18u64.to_le_bytes()].concat());
    for index in 0..18u8 {
        texts.extend(1u64.to_le_bytes());
        texts.push(b'a' + index);
        texts.extend(8u32.to_le_bytes());
        texts.extend((1u64 << 20).to_le_bytes());
        texts.resize(texts.len() + (1 << 20), b't');
    }
    let mut many = b"GGUF\x03\0\0\0".to_vec();
    many.extend([1u64 << 17, 0].map(u64::to_le_bytes).concat());

    let tensors = |count: usize| {
        let one = |index| format!(r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
        safetensors(&format!("{{{}}}", (0..count).map(one).collect::<Vec<_>>().join(",")), 0)
    };
    let pairs: Vec<String> = (0..70_000).map(|index| format!(r#""{index}":"""#)).collect();
    let pairs = safetensors(&format!(r#"{{"__metadata__":{{{}}}}}"#, pairs.join(",")), 0);
    let shape = format!(r#"{{"a":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "0,".repeat(100));
    let opcodes = [&b"\x80\x02"[..], &vec![b'N'; 1 << 24], b"cos\nsystem\n."].concat();
    for (bytes, name, said) in [
        (opcodes, "x.pt", "it has more than 16777216 opcodes in its pickles"),
        (names, "x.pt", "it imports more names than the 513 that are listed"),
        (texts, "x.gguf", "its texts have more than 1048576 bytes, or 16777216 all together"),
        (many, "x.gguf", "it announces 131072 tensors and 0 pairs of metadata, and 65536 are read"),
        (
            tensors(70_000),
            "x.safetensors",
            "its header has more than are read: 65536 tensors at line 1 column",
        ),
        (
            pairs,
            "x.safetensors",
            "its header has more than are read: 65536 pairs of metadata at line 1 column",
        ),
        (
            safetensors(&shape, 0),
            "x.safetensors",
            "its header has more than are read: a tensor with 64 dimensions",
        ),
        (
            safetensors(&format!("{{{}", " ".repeat(17 << 20)), 0),
            "x.safetensors",
            "its header has 17825793 bytes, and 16777216 are read",
        ),
    ] {
        let found = says(&bytes, name);
        let told = found.iter().any(|text| text.starts_with(&format!("it could not be looked into: {said}")));
        assert!(told, "{said}: {}", found.last().cloned().unwrap_or_default());
    }
    // What is not kept counts as computed.
    assert_eq!(says(&memo, "x.pt"), ["loading it runs code: it imports a name that it computes"]);
}

#[test]
fn pickles_in_a_zip_are_read_within_limits() {
    let small = pickle::Limits { opcodes: 20, unpacked: 100, directory: 2000 };
    let long = "x".repeat(3000);
    for (name, bytes, said) in [
        ("a.pkl", vec![b'N'; 21], Some("it has more than 20 opcodes in its pickles")),
        ("a.pkl", vec![b' '; 0], Some("it ends too early")),
        (
            "a.pkl",
            [&b"C\x7f"[..], &[0; 0x7f], b"."].concat(),
            Some("the pickles in its zip have more than 100 bytes"),
        ),
        (long.as_str(), b"N.".to_vec(), Some("the directory of its zip has more than 2000 bytes")),
        ("a.pkl", b"N.".to_vec(), None),
    ] {
        let mut info = ModelInfo::default();
        let read = pickle::read_zip(&mut Cursor::new(zipped(name, &bytes)), &small, &mut info);
        match (read, said) {
            (Err(Broken::Limit(reason) | Broken::Rule(reason)), Some(said)) => assert_eq!(reason, said),
            (read, said) => assert!(read.is_ok() && said.is_none(), "{name}: {read:?}"),
        }
    }
}

fn zipped(name: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file(name, stored).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn a_pickle_in_a_zip_file_is_found() {
    let bad = zipped("archive/data.pkl", b"\x80\x02cos\nsystem\n.");
    let info = look(&bad, "x.pth");
    assert_eq!((info.format, info.imports), (ModelFormat::TorchZip, vec!["os.system".to_owned()]));
    assert_eq!(says(&bad, "x.pth"), ["loading it runs code: it imports os.system"]);
    assert_eq!(says(&zipped("archive/data.pkl", b"\x80\x02N."), "x.pth"), [""; 0]);
    assert_eq!(says(&zipped("notes.txt", b""), "x.pth"), ["it is a zip file without a pickle"]);
    assert_eq!(says(&bad[..bad.len() / 2], "x.pth").len(), 1);
    // What does not unpack is a fault of the file, not of the disk.
    let larger = include_bytes!("../../../tests/fuzz/corpus/pickle/zip-larger-than-declared");
    let said = says(larger, "x.pth");
    assert!(said.iter().any(|text| text.starts_with("it cannot be unpacked: ")), "{said:?}");
}

proptest! {
    /// Whatever the bytes are, they are described.
    #[test]
    fn nothing_breaks_the_readers(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        start in prop::sample::select(vec![&b"GGUF\x03\0\0\0"[..], b"\x80\x04", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{", b""]),
        name in prop::sample::select(vec!["x.safetensors", "x.gguf", "x.pt", "x"]),
    ) {
        look(&[start, &bytes].concat(), name);
    }

    /// A good file with one byte changed.
    #[test]
    fn nor_does_a_slip(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (mut bytes, name) in [(safetensors(GOOD, 16), "x.safetensors"), (gguf(Some(64), 0, 68), "x.gguf")] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            look(&bytes, name);
        }
    }
}
