//! Writes page files: any number of threads encode frames, one writes the file.

use std::io::{self, Cursor, Write};

use super::digest::Digest;
use super::frame::{Compression, MAX_FRAME};
use super::table::{self, Entry};

/// An encoder of frames. It holds zstd's working memory, so each thread has its own.
pub struct Encoder(Option<zstd::bulk::Compressor<'static>>);

impl Encoder {
    /// Creates an encoder.
    ///
    /// # Errors
    /// The level is invalid, or there is no memory.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => None,
            Compression::Zstd { level } => Some(zstd::bulk::Compressor::new(level)?),
        }))
    }

    /// Appends the frame for `raw` to `out` and returns its digest.
    ///
    /// # Errors
    /// There is no memory.
    pub fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<Digest> {
        let start = out.len();
        match &mut self.0 {
            None => out.extend_from_slice(raw),
            Some(zstd) => {
                let bound = zstd::zstd_safe::compress_bound(raw.len());
                out.try_reserve(bound).map_err(io::Error::other)?;
                let mut end = Cursor::new(std::mem::take(out));
                end.set_position(start as u64);
                let result = zstd.compress_to_buffer(raw, &mut end);
                *out = end.into_inner();
                result?;
            }
        }
        Ok(Digest::of(&out[start..]))
    }
}

/// A summary of a page file, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file that CRIU wrote.
    pub raw_bytes: u64,
    /// Bytes of the page file, with its trailer.
    pub stored_bytes: u64,
    /// Raw bytes of every frame but the last.
    pub frame_size: u32,
    /// Number of frames.
    pub frames: u64,
    /// BLAKE3 of the trailer, which has the digests of all frames.
    pub table_digest: blake3::Hash,
}

/// A builder of trailers. A [`Writer`] has one. For an uncompressed page file it is
/// used alone.
pub struct TableBuilder {
    frame_size: u32,
    entries: Vec<Entry>,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl TableBuilder {
    /// Creates a table whose frames but the last have `frame_size` raw bytes.
    #[must_use]
    pub fn new(frame_size: u32) -> Self {
        Self {
            frame_size,
            entries: Vec::new(),
            raw_bytes: 0,
            stored_bytes: 0,
        }
    }

    /// Adds the next frame: its raw and stored length, and its digest.
    ///
    /// # Errors
    /// One of the lengths is invalid, or there are too many frames.
    pub fn frame(&mut self, raw_len: u32, stored_len: u32, digest: Digest) -> io::Result<()> {
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if self.frame_size == 0
            || self.frame_size > MAX_FRAME
            || !self.frame_size.is_multiple_of(4096)
        {
            return wrong("the frame size is not a multiple of 4096 up to 16 MiB");
        }
        if raw_len == 0 || raw_len > self.frame_size {
            return wrong("a frame of no bytes or of more than the frame size");
        }
        if !self.raw_bytes.is_multiple_of(u64::from(self.frame_size)) {
            return wrong("a frame after one that is shorter than the frame size");
        }
        if stored_len > table::stored_bound(raw_len) {
            return wrong("a frame whose stored length exceeds the limit of zstd");
        }
        if self.entries.len() >= table::MAX_FRAMES {
            return wrong("more frames than a page file can have");
        }
        self.entries.push(Entry { stored_len, digest });
        self.raw_bytes += u64::from(raw_len);
        self.stored_bytes += u64::from(stored_len);
        Ok(())
    }

    /// Returns the trailer, and the summary of the page file.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Summary) {
        let trailer = table::render(self.frame_size, self.raw_bytes, &self.entries);
        let summary = Summary {
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes + trailer.len() as u64,
            frame_size: self.frame_size,
            frames: self.entries.len() as u64,
            table_digest: blake3::hash(&trailer),
        };
        (trailer, summary)
    }
}

/// A writer of a page file, frame by frame in the order of their raw bytes.
pub struct Writer<W: Write> {
    out: W,
    table: TableBuilder,
}

impl<W: Write> Writer<W> {
    /// Creates a page file whose frames but the last have `frame_size` raw bytes.
    pub fn new(out: W, frame_size: u32) -> Self {
        Self {
            out,
            table: TableBuilder::new(frame_size),
        }
    }

    /// Writes a frame that an [`Encoder`] encoded from `raw_len` bytes.
    ///
    /// # Errors
    /// One of the lengths is invalid, or the frame can't be written.
    pub fn frame(&mut self, raw_len: u32, stored: &[u8], digest: Digest) -> io::Result<()> {
        let stored_len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        self.table.frame(raw_len, stored_len, digest)?;
        self.out.write_all(stored)
    }

    /// Writes the trailer, without syncing the file.
    ///
    /// # Errors
    /// The trailer can't be written.
    pub fn finish(mut self) -> io::Result<(W, Summary)> {
        let (trailer, summary) = self.table.finish();
        self.out.write_all(&trailer)?;
        self.out.flush()?;
        Ok((self.out, summary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(raw: &[u8], frame: u32) -> (Vec<u8>, Summary) {
        let mut encoder = Encoder::new(Compression::Zstd { level: 1 }).expect("encoder");
        let mut writer = Writer::new(Vec::new(), frame);
        for chunk in raw.chunks(frame as usize) {
            let mut stored = Vec::new();
            let digest = encoder.encode(chunk, &mut stored).expect("encode");
            writer
                .frame(chunk.len() as u32, &stored, digest)
                .expect("frame");
        }
        writer.finish().expect("finish")
    }

    #[test]
    fn plain_zstd_decodes_a_page_file() {
        let raw: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        for raw in [&raw[..], &raw[..8192], &raw[..0]] {
            let (stored, summary) = file(raw, 8192);
            assert_eq!(summary.raw_bytes, raw.len() as u64);
            assert_eq!(summary.stored_bytes, stored.len() as u64);
            assert_eq!(summary.frames, raw.len().div_ceil(8192) as u64);
            assert_eq!(zstd::decode_all(&stored[..]).expect("decode"), raw);
        }
    }

    #[test]
    fn encoder_appends() {
        let mut encoder = Encoder::new(Compression::Zstd { level: -3 }).expect("encoder");
        let mut out = b"before".to_vec();
        let digest = encoder.encode(&[7; 4096], &mut out).expect("encode");
        assert_eq!(&out[..6], b"before");
        assert_eq!(digest, Digest::of(&out[6..]));
        assert_eq!(zstd::decode_all(&out[6..]).expect("decode"), [7; 4096]);
        let mut plain = Encoder::new(Compression::None).expect("encoder");
        let start = out.len();
        plain.encode(b"as it is", &mut out).expect("encode");
        assert_eq!(&out[start..], b"as it is");
    }

    #[test]
    fn frames_of_invalid_length_are_refused() {
        let digest = Digest::of(b"");
        let mut table = TableBuilder::new(4096);
        assert!(table.frame(4097, 1, digest).is_err());
        assert!(table.frame(0, 1, digest).is_err());
        assert!(table.frame(4096, 1 << 20, digest).is_err());
        table.frame(100, 50, digest).expect("short");
        assert!(table.frame(100, 50, digest).is_err());
        assert!(TableBuilder::new(1000).frame(100, 50, digest).is_err());
    }
}
