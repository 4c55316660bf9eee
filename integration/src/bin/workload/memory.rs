//! Memory whose pages all differ and are known.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};

/// Anonymous memory filled from a seed.
pub(crate) struct Pattern {
    seed: u64,
    words: Vec<u64>,
}

impl Pattern {
    pub(crate) fn fill(seed: u64, bytes: usize) -> Self {
        let words = (0..bytes as u64 / 8).map(|i| word(seed, i)).collect();
        Self { seed, words }
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let wrong = (0..)
            .zip(&self.words)
            .filter(|&(i, &w)| w != word(self.seed, i))
            .count();
        match wrong {
            0 => Ok(()),
            n => Err(format!("{n} of {} words differ", self.words.len())),
        }
    }
}

/// Memory that compresses well, filled from a seed.
pub(crate) struct Compressible {
    seed: u64,
    words: Vec<u64>,
}

impl Compressible {
    pub(crate) fn fill(seed: u64, bytes: usize) -> Self {
        let words = (0..bytes as u64 / 8).map(|i| sparse(seed, i)).collect();
        Self { seed, words }
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let wrong = (0..)
            .zip(&self.words)
            .filter(|&(i, &w)| w != sparse(self.seed, i))
            .count();
        match wrong {
            0 => Ok(()),
            n => Err(format!("{n} of {} words differ", self.words.len())),
        }
    }
}

/// The same word of `seed` everywhere, except for every 64th, which is random.
fn sparse(seed: u64, i: u64) -> u64 {
    word(seed, if i.is_multiple_of(64) { i } else { 1 })
}

/// A deleted file of /dev/shm: shared memory as databases use it.
pub(crate) struct Shared {
    seed: u64,
    bytes: usize,
    file: File,
}

impl Shared {
    pub(crate) fn fill(seed: u64, bytes: usize) -> io::Result<Self> {
        let path = format!("/dev/shm/segment-{}", std::process::id());
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)?;
        file.write_all(&content(seed, bytes))?;
        fs::remove_file(path)?;
        Ok(Self { seed, bytes, file })
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        same_content(&self.file, self.seed, self.bytes)
    }
}

/// The bytes a file of `size` derived from `seed` must have.
pub(crate) fn content(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64 / 8)
        .flat_map(|i| word(seed, i).to_ne_bytes())
        .collect()
}

/// Reads `file` through its own descriptor, from the start.
pub(crate) fn same_content(mut file: &File, seed: u64, size: usize) -> Result<(), String> {
    let mut found = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut found))
        .map_err(|e| e.to_string())?;
    if found == content(seed, size) {
        Ok(())
    } else {
        Err(format!(
            "{} bytes read, not the {size} that were written",
            found.len()
        ))
    }
}

/// SplitMix64: each word can be computed alone, and none repeats.
pub(crate) fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
