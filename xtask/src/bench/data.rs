//! Data for benchmarks: made from a seed, the same on every machine, made once and kept.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::failure::{Doing, Outcome};
use crate::lab::Lab;

/// A tree of `files` small files, shaped like what nodes and Python packages hold: directories of about thirty
/// files, sizes up to 58 KiB, most of them below 8 KiB, no two of the same content.
pub(super) fn tree(lab: &Lab, files: u64) -> Outcome<PathBuf> {
    keep(lab, &format!("tree-{files}"), |dir| {
        let mut random = Random::new(files);
        for number in 0..files {
            let parent = dir.join(format!("part{:02}/mod{:03}", number / 30 % 40, number / 1200));
            if number % 30 == 0 {
                fs::create_dir_all(&parent)?;
            }
            // A product of uniform numbers: many small, few large. The least size keeps contents apart.
            let size = 16 + random.below(40) * random.below(40) * random.below(40);
            fs::write(parent.join(format!("file{number:06}.py")), random.bytes(size as usize))?;
        }
        Ok(())
    })
}

/// A directory that holds one file, `model.safetensors`, of `size` bytes that do not compress.
pub(super) fn model(lab: &Lab, size: u64) -> Outcome<PathBuf> {
    keep(lab, &format!("model-{size}"), |dir| incompressible(&dir.join(MODEL), size))
}

/// The same file in a directory `models/`.
pub(super) fn models(lab: &Lab, size: u64) -> Outcome<PathBuf> {
    keep(lab, &format!("models-{size}"), |dir| {
        let models = dir.join("models");
        fs::create_dir_all(&models)?;
        incompressible(&models.join(MODEL), size)
    })
}

/// Writes `size` bytes that do not compress; files of other sizes have other bytes. One block stands again and again,
/// under its number: no packer that looks back less than that finds it, and 20 GiB are there in no more time than the
/// disk takes.
pub(super) fn incompressible(file: &Path, size: u64) -> std::io::Result<()> {
    let mut block = Random::new(size).bytes(size.min(BLOCK) as usize);
    let mut file = File::create(file)?;
    let mut left = size as usize;
    for number in 0u64.. {
        let part = left.min(block.len());
        if part == 0 {
            break;
        }
        let stamp = part.min(8);
        block[..stamp].copy_from_slice(&number.to_le_bytes()[..stamp]);
        file.write_all(&block[..part])?;
        left -= part;
    }
    file.sync_all()
}

const BLOCK: u64 = 16 << 20;

/// The name of the file in [`model`]'s directory.
pub(super) const MODEL: &str = "model.safetensors";

/// Makes `name` below the laboratory's data unless it is there whole: it is made under another name and renamed, so
/// that what an interrupted run left is never taken for it.
fn keep(lab: &Lab, name: &str, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> Outcome<PathBuf> {
    keep_made(lab, name, |dir| fill(dir).doing(|| format!("making {}", dir.display())))
}

/// The same with commands that say what went wrong.
pub(super) fn keep_made(lab: &Lab, name: &str, fill: impl FnOnce(&Path) -> Outcome) -> Outcome<PathBuf> {
    let dir = lab.data().join(name);
    if dir.is_dir() {
        return Ok(dir);
    }
    let draft = lab.data().join(format!("{name}.draft"));
    lab.empty(&draft)?;
    fill(&draft)?;
    fs::rename(&draft, &dir).doing(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// A xorshift generator: fast, seeded, and good enough not to compress or repeat.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
