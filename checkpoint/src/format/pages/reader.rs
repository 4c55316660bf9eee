//! Reads any part of a page file, from any number of threads at once.
//!
//! All content is verified before it is used: the trailer's digest is compared with the
//! manifest when the file is opened, a frame's digest with the trailer before the frame
//! is decoded. So zstd only decodes bytes that a [`super::Writer`] wrote.

use std::fs::Metadata;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cedana_store::memory::Memory;
use cedana_store::pack;

use super::damage::Damage;
use super::table::Table;
use crate::opened::Part;

/// A decoder of frames and chunks, with buffers for reuse. Each thread has its own. It
/// takes memory for what it decodes.
#[derive(Default)]
pub struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    stored: Vec<u8>,
    /// Buffer for a frame of which only a part is requested.
    raw: Vec<u8>,
    chunks: Option<Box<pack::Decoder>>,
}

/// The form in which the frames of a file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Zstd,
    AsItIs,
}

/// Where the memory is.
#[derive(Debug)]
pub(super) enum Content {
    /// In the file, in frames of one size.
    Frames { table: Table, form: Form },
    /// In the store. The file is a list, and its windows are the frames.
    Chunks(Memory),
}

/// A page file, open for reading.
#[derive(Debug)]
pub struct Reader {
    pub(super) file: Part,
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

impl Reader {
    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's metadata.
    ///
    /// # Errors
    /// fstat(2) fails.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Returns the bytes of the raw file.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        match &self.content {
            Content::Frames { table, .. } => table.raw_bytes(),
            Content::Chunks(memory) => memory.raw_bytes(),
        }
    }

    /// Returns the bytes of all stored frames without the trailer, or of the chunks in the
    /// store and their list.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        match &self.content {
            Content::Frames { table, .. } => table.stored_bytes(),
            Content::Chunks(memory) => memory.stored_bytes(),
        }
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        match &self.content {
            Content::Frames { table, .. } => table.frames(),
            Content::Chunks(memory) => memory.windows(),
        }
    }

    /// Returns the number of the frame with an offset, which is below
    /// [`Self::raw_bytes`].
    #[must_use]
    pub fn frame_at(&self, offset: u64) -> usize {
        match &self.content {
            // The cast fits: the number of frames is below 2^32.
            Content::Frames { table, .. } => (offset / u64::from(table.frame_size())) as usize,
            Content::Chunks(memory) => memory.window_at(offset),
        }
    }

    /// Returns a frame's range in the raw file. Beyond the last frame it is empty.
    #[must_use]
    pub fn range(&self, frame: usize) -> Range<u64> {
        match &self.content {
            Content::Frames { table, .. } => {
                let start = frame as u64 * u64::from(table.frame_size());
                start..start + table.raw_len(frame) as u64
            }
            Content::Chunks(memory) => memory.range(frame),
        }
    }

    /// Returns whether a frame is known to have nothing but zeros, without reading it.
    #[must_use]
    pub fn is_zeros(&self, frame: usize) -> bool {
        match &self.content {
            Content::Frames { .. } => false,
            Content::Chunks(memory) => memory.is_zeros(frame),
        }
    }

    /// Returns whether no frame ends within a page of this size, a power of two.
    #[must_use]
    pub fn is_aligned(&self, page: u64) -> bool {
        let unit = match &self.content {
            Content::Frames { table, .. } => table.frame_size(),
            Content::Chunks(memory) => memory.page_size(),
        };
        u64::from(unit).is_multiple_of(page)
    }

    /// Verifies and decodes a frame. `out` gets the length of the raw bytes.
    ///
    /// # Errors
    /// The frame is damaged or can't be read; the error names it.
    ///
    /// # Panics
    /// The file has no such frame.
    pub fn decode(
        &self,
        frame: usize,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        out.resize(self.length(frame), 0);
        self.decode_into(frame, decoder, out)
    }

    /// Verifies and decodes a frame into a buffer of exactly its length.
    ///
    /// # Errors
    /// The frame is damaged or can't be read; the error names it.
    ///
    /// # Panics
    /// The file has no such frame, or `out` has another length.
    pub fn decode_into(
        &self,
        frame: usize,
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<(), Damage> {
        assert_eq!(out.len(), self.length(frame), "the frame's length");
        match &self.content {
            Content::Frames { table, form } => self.frame(frame, table, *form, decoder, out),
            Content::Chunks(memory) => {
                let chunks = decoder.chunks.get_or_insert_default();
                memory
                    .decode(frame, chunks, out)
                    .map_err(|source| self.bad_chunk(frame, source))
            }
        }
    }

    fn frame(
        &self,
        frame: usize,
        table: &Table,
        form: Form,
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<(), Damage> {
        let (start, length) = table.stored(frame).expect("a frame of this file");
        let damaged = || Damage::Frame {
            file: self.path.clone(),
            frame,
            start,
            end: start + length as u64,
        };
        let stored: &[u8] = match form {
            Form::AsItIs => {
                self.read(start, out)?;
                out
            }
            Form::Zstd => {
                decoder.stored.resize(length, 0);
                self.read(start, &mut decoder.stored)?;
                &decoder.stored
            }
        };
        if !table
            .digest(frame)
            .is_some_and(|digest| digest.matches(stored))
        {
            return Err(damaged());
        }
        if form == Form::Zstd {
            let zstd = decoder.zstd.get_or_insert_default();
            match zstd.decompress_to_buffer(&decoder.stored, out) {
                Ok(written) if written == out.len() => {}
                _ => return Err(damaged()),
            }
        }
        Ok(())
    }

    fn bad_chunk(&self, frame: usize, source: pack::Fault) -> Damage {
        let Range { start, end } = self.range(frame);
        Damage::Chunk {
            file: self.path.clone(),
            start,
            end,
            source: Box::new(source),
        }
    }

    /// The raw bytes of a frame.
    fn length(&self, frame: usize) -> usize {
        let Range { start, end } = self.range(frame);
        // Fits: the size of a frame is below 2^32.
        (end - start) as usize
    }

    /// Fills `out` from the raw file at `offset`, up to the file's end, and returns the
    /// number of bytes. A frame that fits into `out` is decoded in place.
    ///
    /// # Errors
    /// A frame is damaged or can't be read; the error names it.
    pub fn read_at(
        &self,
        offset: u64,
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<usize, Damage> {
        let mut done = 0;
        while done < out.len() {
            let at = offset.saturating_add(done as u64);
            if at >= self.raw_bytes() {
                break;
            }
            let frame = self.frame_at(at);
            let range = self.range(frame);
            // Both casts fit: the size of a frame is below 2^32.
            let skip = (at - range.start) as usize;
            let length = (range.end - range.start) as usize;
            let wanted = (out.len() - done).min(length - skip);
            let place = &mut out[done..done + wanted];
            if wanted == length {
                self.decode_into(frame, decoder, place)?;
            } else {
                let mut raw = std::mem::take(&mut decoder.raw);
                let result = self.decode(frame, decoder, &mut raw);
                if result.is_ok() {
                    place.copy_from_slice(&raw[skip..skip + wanted]);
                }
                decoder.raw = raw;
                result?;
            }
            done += wanted;
        }
        Ok(done)
    }

    fn read(&self, start: u64, out: &mut [u8]) -> Result<(), Damage> {
        self.file
            .read_exact_at(out, start)
            .map_err(|source| Damage::Read {
                file: self.path.clone(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Compression, Digest, Encoder, Stored, TableBuilder, Writer};
    use super::*;
    use std::fs::{self, File};

    const FRAME: usize = 4096;

    fn raw() -> Vec<u8> {
        (0..5_000u32).flat_map(|n| (n / 30).to_le_bytes()).collect()
    }

    fn stored(dir: &Path) -> (PathBuf, blake3::Hash) {
        let path = dir.join("pages-1.img.zst");
        let file = File::create(&path).expect("create");
        let mut encoder = Encoder::new(Compression::Zstd { level: 1 }).expect("encoder");
        let mut writer = Writer::new(file, FRAME as u32);
        for chunk in raw().chunks(FRAME) {
            let mut frame = Vec::new();
            let digest = encoder.encode(chunk, &mut frame).expect("encode");
            writer
                .frame(chunk.len() as u32, &frame, digest)
                .expect("frame");
        }
        (path, writer.finish().expect("finish").1.table_digest)
    }

    #[test]
    fn any_part_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, digest) = stored(dir.path());
        let reader = Reader::open(&path, Some(digest)).expect("open");
        let raw = raw();
        let mut decoder = Decoder::default();
        for (offset, length) in [
            (0, raw.len()),
            (0, raw.len() + 100),
            (1, 1),
            (FRAME - 1, 2),
            (FRAME, FRAME),
            (100, 3 * FRAME),
            (raw.len() - 1, 10),
            (raw.len(), 10),
            (usize::MAX, 10),
        ] {
            let mut out = vec![0; length];
            let got = reader
                .read_at(offset as u64, &mut decoder, &mut out)
                .expect("read");
            let start = offset.min(raw.len());
            let expected = &raw[start..start.saturating_add(length).min(raw.len())];
            assert_eq!(&out[..got], expected, "{length} at {offset}");
        }
    }

    #[test]
    fn every_flipped_byte_is_found_and_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, digest) = stored(dir.path());
        let whole = fs::read(&path).expect("read");
        let Content::Frames { table, .. } = Reader::open(&path, None).expect("open").content else {
            panic!("a list");
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).expect("write");
            let mut out = vec![0; raw().len()];
            let result = Reader::open(&path, Some(digest))
                .and_then(|reader| reader.read_at(0, &mut Decoder::default(), &mut out));
            match result.expect_err("damage") {
                Damage::Frame {
                    frame, start, end, ..
                } => {
                    assert!((start..end).contains(&(at as u64)));
                    assert_eq!(table.stored(frame).map(|(start, _)| start), Some(start));
                }
                Damage::Foreign { .. } | Damage::Trailer { .. } => {
                    assert!(at as u64 >= table.stored_bytes());
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, _) = stored(dir.path());
        let whole = fs::read(&path).expect("read");
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("write");
            assert!(Reader::open(&path, None).is_err(), "cut to {end}");
        }
    }

    #[test]
    fn uncompressed_files_are_verified() {
        let dir = tempfile::tempdir().expect("tempdir");
        let [path, table] = ["pages-1.img", "pages-1.img.table"].map(|name| dir.path().join(name));
        let mut raw = raw();
        let mut builder = TableBuilder::new(FRAME as u32);
        for chunk in raw.chunks(FRAME) {
            let length = chunk.len() as u32;
            builder
                .frame(length, length, Digest::of(chunk))
                .expect("frame");
        }
        let (trailer, summary) = builder.finish();
        fs::write(&path, &raw).expect("write");
        fs::write(&table, trailer).expect("write");
        let open = || {
            let table = Stored::open(&table)?;
            let digest = Some(summary.table_digest);
            Reader::plain(Stored::open(&path)?, &table, digest, Some(summary.frames))
        };
        let mut out = vec![0; raw.len()];
        let mut decoder = Decoder::default();
        open()
            .expect("open")
            .read_at(0, &mut decoder, &mut out)
            .expect("read");
        assert!(out == raw);
        raw[FRAME] ^= 1;
        fs::write(&path, &raw).expect("write");
        let read = open().expect("open").read_at(0, &mut decoder, &mut out);
        assert!(matches!(read, Err(Damage::Frame { frame: 1, .. })));
        fs::write(&path, &raw[1..]).expect("write");
        assert!(matches!(open(), Err(Damage::Trailer { .. })));
    }
}
