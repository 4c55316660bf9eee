//! Decodes chunks, and compares them with their names.

use std::io;

use super::encode::{OWN, ZERO};
use super::{PackId, stored_bound};
use crate::chunk::{MAX, Name, PAGE, Pages};
use crate::place::Object;

/// A decoder of frames, with buffers for reuse. Each thread has its own.
#[derive(Default)]
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    stored: Vec<u8>,
    patch: Vec<u8>,
    pages: Pages,
    /// The base that was decoded last: neighbours often have the same.
    base: Vec<u8>,
    base_name: Option<Name>,
}

/// Where a frame is, and what it must decode to.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The pack.
    pub pack: &'a dyn Object,
    /// Its ID, for messages.
    pub id: PackId,
    /// The frame's offset.
    pub offset: u64,
    /// The frame's bytes.
    pub stored: u32,
    /// The chunk.
    pub name: Name,
    /// The number of its pages.
    pub pages: u32,
}

/// A chunk can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The pack can't be read.
    #[error("pack {pack} of the store cannot be read: {source}")]
    Read {
        /// The pack.
        pack: PackId,
        /// The system's error.
        source: io::Error,
    },
    /// The bytes are not those that were stored.
    #[error("pack {pack} of the store is damaged: bytes {start} to {end} are not chunk {name}")]
    Damaged {
        /// The pack.
        pack: PackId,
        /// The beginning of the frame.
        start: u64,
        /// Its end.
        end: u64,
        /// What should be there.
        name: Name,
    },
}

impl Frame<'_> {
    fn damaged(&self) -> Fault {
        Fault::Damaged {
            pack: self.id,
            start: self.offset,
            end: self.offset + u64::from(self.stored),
            name: self.name,
        }
    }
}

impl Decoder {
    /// Decodes a chunk, which is a patch if it has a base, into a buffer of its length.
    /// What is in the buffer after an error must not be used.
    ///
    /// # Errors
    /// It can't be read, or is not the chunk of that name.
    ///
    /// # Panics
    /// `out` has another length than the chunk.
    pub fn decode(
        &mut self,
        frame: &Frame<'_>,
        base: Option<&Frame<'_>>,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        assert_eq!(out.len(), frame.pages as usize * PAGE, "the chunk's length");
        let Some(base) = base else {
            self.plain(frame, out)?;
            return self.verify(frame, out);
        };
        if self.base_name != Some(base.name) {
            self.base_name = None;
            let mut bytes = std::mem::take(&mut self.base);
            bytes.resize(base.pages as usize * PAGE, 0);
            let decoded = self.plain(base, &mut bytes);
            let verified = decoded.and_then(|()| self.verify(base, &bytes));
            self.base = bytes;
            verified?;
            self.base_name = Some(base.name);
        }
        self.read(frame)?;
        let most = frame.pages as usize * (PAGE + 4);
        self.patch.resize(most, 0);
        let length = self
            .zstd
            .decompress_to_buffer(&self.stored, &mut self.patch[..])
            .map_err(|_| frame.damaged())?;
        apply(&self.patch[..length], &self.base, out).ok_or_else(|| frame.damaged())?;
        self.verify(frame, out)
    }

    fn plain(&mut self, frame: &Frame<'_>, out: &mut [u8]) -> Result<(), Fault> {
        self.read(frame)?;
        match self.zstd.decompress_to_buffer(&self.stored, out) {
            Ok(written) if written == out.len() => Ok(()),
            _ => Err(frame.damaged()),
        }
    }

    fn read(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let length = (frame.stored as usize).min(stored_bound());
        self.stored.resize(length, 0);
        let read = frame.pack.read_exact_at(&mut self.stored, frame.offset);
        read.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => frame.damaged(),
            _ => Fault::Read {
                pack: frame.id,
                source,
            },
        })
    }

    fn verify(&mut self, frame: &Frame<'_>, bytes: &[u8]) -> Result<(), Fault> {
        self.pages.set(bytes);
        match self.pages.name() == frame.name {
            true => Ok(()),
            false => Err(frame.damaged()),
        }
    }
}

/// Puts a chunk together; `None` if the patch is none.
fn apply(patch: &[u8], base: &[u8], out: &mut [u8]) -> Option<()> {
    debug_assert!(out.len() <= MAX);
    let pages = out.len() / PAGE;
    let (sources, mut own) = patch.split_at_checked(4 * pages)?;
    let sources = sources.as_chunks::<4>().0;
    for (number, (page, source)) in out.chunks_exact_mut(PAGE).zip(sources).enumerate() {
        match u32::from_le_bytes(*source) {
            ZERO => page.fill(0),
            OWN => {
                let (first, rest) = own.split_at_checked(PAGE)?;
                page.copy_from_slice(first);
                own = rest;
            }
            moved => {
                let place = (number as u32).wrapping_add(moved) & 0x7FFF_FFFF;
                let start = (place as usize).checked_mul(PAGE)?;
                page.copy_from_slice(base.get(start..start.checked_add(PAGE)?)?);
            }
        }
    }
    own.is_empty().then_some(())
}
