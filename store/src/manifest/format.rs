//! The byte layout, and nothing else. All integers are little-endian.
//!
//! ```text
//! header    0  magic "cvsmanif"
//!           8  u32 version (1)
//!          12  u32 features (0)
//!          16  u32 entries
//!          20  u32 blobs
//!          24  u32 heap bytes
//!          28  u32 hard links: entries whose file has more than one name here
//!          32  u64 content bytes: sum of the sizes of all files, each hard-linked file once
//!          40  24 zero bytes
//! entry     0  u64 size         file: bytes; symlink: bytes of the target; directory: 0
//!           8  u32 name         offset in the heap
//!          12  u32 parent       index of the directory that holds it (the root: 0)
//!          16  u32 target       directory: index of its first child; file: index in the blob table; symlink: offset in the heap
//!          20  u32 count        directory: number of children; file: index of the first entry of its link group; symlink: 0
//!          24  u16 mode         permission bits (07777)
//!          26  u8  name length
//!          27  u8  kind         0 directory, 1 file, 2 symlink
//!          28  u32 links        file: names of the file in this manifest; directory: number of sub-directories; symlink: 1
//! ```

pub(crate) const MAGIC: &[u8; 8] = b"cvsmanif";
pub(crate) const VERSION: u32 = 1;
pub(crate) const FEATURES: u32 = 0;
pub(crate) const HEADER: usize = 64;
pub(crate) const RECORD: usize = 32;
pub(crate) const ID: usize = 32;

pub(crate) const KIND_DIR: u8 = 0;
pub(crate) const KIND_FILE: u8 = 1;
pub(crate) const KIND_SYMLINK: u8 = 2;

/// One entry, field by field as it lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) size: u64,
    pub(crate) name: u32,
    pub(crate) parent: u32,
    pub(crate) target: u32,
    pub(crate) count: u32,
    pub(crate) mode: u16,
    pub(crate) name_len: u8,
    pub(crate) kind: u8,
    pub(crate) links: u32,
}

impl Record {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.name.to_le_bytes());
        out.extend_from_slice(&self.parent.to_le_bytes());
        out.extend_from_slice(&self.target.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.mode.to_le_bytes());
        out.extend_from_slice(&[self.name_len, self.kind]);
        out.extend_from_slice(&self.links.to_le_bytes());
    }

    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Self {
        let (size, rest) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let word = |at: usize| u32_at(rest, at).unwrap_or(0);
        let packed = word(16).to_le_bytes();
        Self {
            size: u64::from_le_bytes(*size),
            name: word(0),
            parent: word(4),
            target: word(8),
            count: word(12),
            mode: u16::from_le_bytes([packed[0], packed[1]]),
            name_len: packed[2],
            kind: packed[3],
            links: word(20),
        }
    }
}

/// The little-endian word at `at`, if the bytes reach that far.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// The little-endian double word at `at`, if the bytes reach that far.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}
