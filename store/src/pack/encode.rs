//! Compresses chunks.
//!
//! The content of a frame that is a patch:
//!
//! ```text
//! u32 for each page of the chunk:  OWN, ZERO, or the number of the base's page minus
//!                                  this page's (wrapping), which is 0 for most
//! the pages that are OWN
//! ```

use std::io;

use crate::chunk::{PAGE, is_zero};

/// A page that follows.
pub(super) const OWN: u32 = 0x8000_0000;

/// A page of zeros.
pub(super) const ZERO: u32 = 0x8000_0001;

/// A patch has at most this part of its pages itself; else the chunk is stored as it is,
/// which makes it a base for others.
const OWN_AT_MOST: (usize, usize) = (1, 2);

/// Compresses frames, with buffers for reuse. Each thread has its own.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    patch: Vec<u8>,
}

impl Encoder {
    /// An encoder with zstd's level.
    ///
    /// # Errors
    /// zstd refuses the level.
    pub fn new(level: i32) -> io::Result<Self> {
        Ok(Self {
            zstd: zstd::bulk::Compressor::new(level)?,
            patch: Vec::new(),
        })
    }

    /// Appends the frame of a chunk to `out`.
    ///
    /// # Errors
    /// zstd fails.
    pub fn plain(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        append(&mut self.zstd, chunk, out)
    }

    /// Appends the frame of a chunk that is a patch on another: `sources` are the pages of
    /// the other that the chunk's pages are. False, and nothing is appended, if the two
    /// share too little.
    ///
    /// # Errors
    /// zstd fails.
    pub fn patch(
        &mut self,
        chunk: &[u8],
        sources: &[Option<u32>],
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let patch = &mut self.patch;
        patch.clear();
        let mut own = 0;
        for (number, source) in sources.iter().enumerate() {
            let source = match source {
                // 31 bits: places and numbers are below 256.
                Some(place) => place.wrapping_sub(number as u32) & 0x7FFF_FFFF,
                None if is_zero(page(chunk, number)) => ZERO,
                None => {
                    own += 1;
                    OWN
                }
            };
            patch.extend(source.to_le_bytes());
        }
        if own * OWN_AT_MOST.1 > sources.len() * OWN_AT_MOST.0 {
            return Ok(false);
        }
        for number in 0..sources.len() {
            let source = patch[4 * number..4 * number + 4].first_chunk();
            if source.is_some_and(|source| u32::from_le_bytes(*source) == OWN) {
                patch.extend_from_slice(page(chunk, number));
            }
        }
        append(&mut self.zstd, patch, out)?;
        Ok(true)
    }
}

fn page(chunk: &[u8], number: usize) -> &[u8] {
    &chunk[number * PAGE..(number + 1) * PAGE]
}

fn append(
    zstd: &mut zstd::bulk::Compressor<'static>,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let before = out.len();
    out.resize(before + zstd::zstd_safe::compress_bound(bytes.len()), 0);
    match zstd.compress_to_buffer(bytes, &mut out[before..]) {
        Ok(written) => {
            out.truncate(before + written);
            Ok(())
        }
        Err(error) => {
            out.truncate(before);
            Err(error)
        }
    }
}
