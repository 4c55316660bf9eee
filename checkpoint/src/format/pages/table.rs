//! The trailer of a page file: positions, lengths and digests of its frames.
//!
//! A trailer is untrusted input. Its size is known before it is read, which limits
//! allocations, and every number is checked before it is used.

use super::digest::Digest;
use super::frame::{FRAME, MAX_FRAME};

/// Magic numbers of the skippable frames. zstd's format reserves 0x184D2A50 to
/// 0x184D2A5F for applications; the seekable format defines the seek table's.
const DIGESTS_MAGIC: u32 = 0x184D_2A5C;
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;

/// The last word of a file in the seekable format.
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;

/// Length of a skippable frame's header: magic and length.
const HEADER: usize = 8;

/// Length of the seek table's footer: number of entries, a byte of flags,
/// [`FOOTER_MAGIC`].
pub(super) const FOOTER: usize = 9;

/// The beginning of the digests frame: name and version, raw bytes per frame, zero.
const TAG: [u8; 8] = *b"cedana\0\x01";
const DIGESTS_HEAD: usize = TAG.len() + 8;

const DIGEST: usize = size_of::<Digest>();

/// Length of an entry: a frame's stored and raw length.
const ENTRY: usize = 8;

/// Maximum number of frames of a file, and of a checkpoint's files: 4 TiB of raw bytes in frames of the default size.
/// Their trailer has 400 MiB, which is the most that a reader loads.
pub(in crate::format) const MAX_FRAMES: usize = (4 << 40) / FRAME as usize;

/// One frame of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stored_len: u32,
    pub(super) digest: Digest,
}

/// Maximum stored length of a frame of `raw_len` bytes: zstd stores incompressible bytes
/// uncompressed, with headers.
pub(super) fn stored_bound(raw_len: u32) -> u32 {
    let bound = zstd::zstd_safe::compress_bound(raw_len as usize);
    u32::try_from(bound).unwrap_or(u32::MAX)
}

/// Length of a trailer for this number of frames, which may exceed [`MAX_FRAMES`].
fn length(frames: u64) -> u64 {
    let digests = HEADER + DIGESTS_HEAD;
    let seek_table = HEADER + ENTRY + FOOTER;
    (digests + seek_table) as u64 + frames.saturating_mul((DIGEST + ENTRY) as u64)
}

pub(super) fn render(frame_size: u32, raw_bytes: u64, entries: &[Entry]) -> Vec<u8> {
    // The casts fit, because the builder limits the number of frames.
    let word = |number: usize| (number as u32).to_le_bytes();
    let digests = DIGESTS_HEAD + entries.len() * DIGEST;
    let seek_table = (entries.len() + 1) * ENTRY + FOOTER;
    let mut bytes = Vec::with_capacity(2 * HEADER + digests + seek_table);

    bytes.extend(DIGESTS_MAGIC.to_le_bytes());
    bytes.extend(word(digests));
    bytes.extend(TAG);
    bytes.extend(frame_size.to_le_bytes());
    bytes.extend([0; 4]);
    for entry in entries {
        bytes.extend(entry.digest.0);
    }

    bytes.extend(SEEK_TABLE_MAGIC.to_le_bytes());
    bytes.extend(word(seek_table));
    let mut left = raw_bytes;
    for entry in entries {
        let raw_len = left.min(u64::from(frame_size));
        left -= raw_len;
        bytes.extend(entry.stored_len.to_le_bytes());
        bytes.extend(word(raw_len as usize));
    }
    bytes.extend(word(HEADER + digests));
    bytes.extend(word(0));
    bytes.extend(word(entries.len() + 1));
    bytes.push(0);
    bytes.extend(FOOTER_MAGIC.to_le_bytes());
    bytes
}

/// The reason that bytes are not a valid trailer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

impl Malformed {
    /// A valid trailer of another file, or of a file that was truncated.
    pub(super) const LENGTH: Self = Self("its length is not what its seek table says");
}

/// A parsed trailer: positions, lengths and digests of the frames of a page file.
#[derive(Debug, Clone)]
pub struct Table {
    frame_size: u32,
    raw_bytes: u64,
    /// The offset of each frame, and the end of the last one.
    starts: Vec<u64>,
    digests: Vec<Digest>,
}

impl Table {
    /// Returns the length of the trailer that ends with these bytes.
    pub(super) fn length(footer: [u8; FOOTER]) -> Result<u64, Malformed> {
        let [n0, n1, n2, n3, flags, magic @ ..] = footer;
        if u32::from_le_bytes(magic) != FOOTER_MAGIC {
            return Err(Malformed("it does not end with a seek table"));
        }
        if flags != 0 {
            return Err(Malformed("its seek table has unknown flags"));
        }
        let entries = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        if entries == 0 || entries - 1 > MAX_FRAMES {
            return Err(Malformed("its seek table has an impossible length"));
        }
        Ok(length(entries as u64 - 1))
    }

    /// Returns the length of a trailer for this number of frames.
    pub(super) fn length_of(frames: u64) -> u64 {
        length(frames)
    }

    /// Parses a trailer. `trailer` holds it exactly.
    ///
    /// # Errors
    /// It is invalid or inconsistent.
    pub fn parse(trailer: &[u8]) -> Result<Self, Malformed> {
        let footer = trailer
            .last_chunk::<FOOTER>()
            .ok_or(Malformed("it is shorter than an empty seek table"))?;
        if Self::length(*footer)? != trailer.len() as u64 {
            return Err(Malformed("its seek table does not fit its length"));
        }
        let frames = (trailer.len() as u64 - length(0)) as usize / (DIGEST + ENTRY);
        let mut rest = Bytes(trailer);

        let digests_len = DIGESTS_HEAD + frames * DIGEST;
        rest.expect(DIGESTS_MAGIC, "it has no digests")?;
        rest.expect(digests_len as u32, "its digests have another length")?;
        if rest.take::<8>()? != TAG {
            return Err(Malformed("its digests are of an unknown version"));
        }
        let frame_size = rest.word()?;
        if frame_size == 0 || frame_size > MAX_FRAME || !frame_size.is_multiple_of(4096) {
            return Err(Malformed("its frames have an impossible size"));
        }
        rest.expect(0, "its digests are of an unknown version")?;
        let mut digests = Vec::with_capacity(frames);
        for _ in 0..frames {
            digests.push(Digest(rest.take()?));
        }

        rest.expect(SEEK_TABLE_MAGIC, "it has no seek table")?;
        let seek_table_len = (frames + 1) * ENTRY + FOOTER;
        rest.expect(seek_table_len as u32, "its seek table has another length")?;
        let mut starts = Vec::with_capacity(frames + 1);
        let mut start = 0;
        let mut raw_bytes = 0;
        for frame in 0..frames {
            let stored_len = rest.word()?;
            let raw_len = rest.word()?;
            let full = raw_len == frame_size;
            let last = frame + 1 == frames && raw_len > 0 && raw_len < frame_size;
            if !full && !last {
                return Err(Malformed("one of its frames has an impossible raw size"));
            }
            if stored_len == 0 || stored_len > stored_bound(raw_len) {
                return Err(Malformed("one of its frames has an impossible stored size"));
            }
            starts.push(start);
            start += u64::from(stored_len);
            raw_bytes += u64::from(raw_len);
        }
        starts.push(start);
        let wrong = "its seek table does not end with the digests";
        rest.expect((HEADER + digests_len) as u32, wrong)?;
        rest.expect(0, wrong)?;
        Ok(Self {
            frame_size,
            raw_bytes,
            starts,
            digests,
        })
    }

    /// Returns the bytes of the raw file.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Returns the bytes of all stored frames, without the trailer.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Returns the raw bytes of every frame but the last.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.digests.len()
    }

    /// Returns the offset and the length of a stored frame.
    pub(super) fn stored(&self, frame: usize) -> Option<(u64, usize)> {
        let start = *self.starts.get(frame)?;
        let end = *self.starts.get(frame + 1)?;
        Some((start, (end - start) as usize))
    }

    /// Returns the digest of a frame's stored bytes.
    pub(super) fn digest(&self, frame: usize) -> Option<Digest> {
        self.digests.get(frame).copied()
    }

    /// Returns the length of a frame's raw bytes.
    pub(super) fn raw_len(&self, frame: usize) -> usize {
        let start = frame as u64 * u64::from(self.frame_size);
        let left = self.raw_bytes.saturating_sub(start);
        left.min(u64::from(self.frame_size)) as usize
    }
}

/// A reader of bytes from the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("it is truncated"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn word(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn expect(&mut self, word: u32, otherwise: &'static str) -> Result<(), Malformed> {
        if self.word()? == word {
            Ok(())
        } else {
            Err(Malformed(otherwise))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableBuilder;
    use super::*;
    use proptest::prelude::*;

    fn trailer(frames: u8) -> Vec<u8> {
        let mut table = TableBuilder::new(4096);
        for frame in 0..frames {
            let raw = if frame + 1 == frames { 100 } else { 4096 };
            table
                .frame(raw, 50 + u32::from(frame), Digest([frame; 16]))
                .expect("frame");
        }
        table.finish().0
    }

    #[test]
    fn a_rendered_trailer_is_parsed() {
        let table = Table::parse(&trailer(3)).expect("parse");
        assert_eq!((table.frames(), table.frame_size()), (3, 4096));
        assert_eq!((table.raw_bytes(), table.stored_bytes()), (8292, 153));
        assert_eq!(table.stored(2), Some((101, 52)));
        assert_eq!(table.stored(3), None);
        assert_eq!(table.digest(1), Some(Digest([1; 16])));
        assert_eq!([0, 2, 3].map(|frame| table.raw_len(frame)), [4096, 100, 0]);
        let empty = Table::parse(&trailer(0)).expect("parse");
        assert_eq!((empty.frames(), empty.raw_bytes()), (0, 0));
    }

    #[test]
    fn truncation_and_too_many_entries_are_found() {
        let whole = trailer(3);
        for end in 0..whole.len() {
            assert!(Table::parse(&whole[..end]).is_err(), "cut to {end}");
            assert!(Table::parse(&whole[end + 1..]).is_err(), "cut from {end}");
        }
        let mut many = whole.clone();
        let at = many.len() - FOOTER;
        many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Table::parse(&many).is_err());
    }

    proptest! {
        #[test]
        fn no_content_panics(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0usize..120,
            value: u8,
        ) {
            let _ = Table::parse(&bytes);
            let mut changed = trailer(2);
            if let Some(byte) = changed.get_mut(at) {
                *byte = value;
            }
            if let Ok(table) = Table::parse(&changed) {
                for frame in 0..4 {
                    let _ = (table.stored(frame), table.raw_len(frame));
                }
            }
            bytes.extend(trailer(1));
            let _ = Table::parse(&bytes);
        }
    }
}
