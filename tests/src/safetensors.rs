//! Model files: the safetensors layout, eight bytes of header length, a JSON header, the tensors' bytes.

use serde_json::json;

/// A file with one F32 tensor, `weight`, of `length` values that depend on `seed`: another seed, another model.
pub fn safetensors(seed: u64, length: usize) -> Vec<u8> {
    let header = json!({ "weight": { "dtype": "F32", "shape": [length], "data_offsets": [0, length * 4] } })
        .to_string();
    // Readers map the tensors in place, so they are aligned to eight bytes.
    let header = format!("{header:width$}", width = header.len().next_multiple_of(8));
    let mut file = Vec::with_capacity(8 + header.len() + length * 4);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.as_bytes());
    let mut state = seed;
    for _ in 0..length {
        // Knuth's MMIX generator; the upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.extend(((state >> 40) as f32 / (1 << 24) as f32).to_le_bytes());
    }
    file
}
