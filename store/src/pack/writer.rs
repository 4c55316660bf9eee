//! Writes a pack from its beginning to its end.

use std::io::{self, BufWriter, Write};

use super::index::{Entry, Index};
use crate::chunk::{Name, PageDigest};

/// Where a pack's bytes go. The engine writes past the page cache.
pub trait Sink: Write + Send {
    /// Ends the file. Its bytes may reach it later: the owner of the sinks waits for that.
    ///
    /// # Errors
    /// The bytes can't be handed over.
    fn end(self: Box<Self>) -> io::Result<()>;
}

impl<W: Write + Send> Sink for BufWriter<W> {
    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.flush()
    }
}

/// A pack that is being written.
pub struct PackWriter {
    sink: Box<dyn Sink>,
    index: Index,
    offset: u64,
}

impl PackWriter {
    /// A writer of an empty file.
    #[must_use]
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            sink,
            index: Index::default(),
            offset: 0,
        }
    }

    /// Writes a frame, and returns its offset.
    ///
    /// # Errors
    /// The sink's.
    pub fn add(
        &mut self,
        name: Name,
        base: Option<Name>,
        pages: &[PageDigest],
        frame: &[u8],
    ) -> io::Result<u64> {
        let offset = self.offset;
        self.sink.write_all(frame)?;
        self.offset += frame.len() as u64;
        let digests = pages.iter().filter(|_| base.is_none());
        self.index.entries.push(Entry {
            name,
            base,
            offset,
            stored: u32::try_from(frame.len()).map_err(io::Error::other)?,
            pages: u32::try_from(pages.len()).map_err(io::Error::other)?,
            digests: digests
                .filter_map(|digest| digest.first_chunk().copied())
                .collect(),
        });
        Ok(offset)
    }

    /// The bytes of the frames so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Writes the index, and returns the bytes of the whole file and the digest of its end.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        let end = self.index.render();
        self.sink.write_all(&end)?;
        self.sink.end()?;
        let digest = *blake3::hash(&end).as_bytes();
        Ok((self.offset + end.len() as u64, digest))
    }
}

/// A sink that is a file, written through the page cache.
pub struct FileSink(std::fs::File);

impl FileSink {
    /// The sink of an empty file.
    ///
    /// # Errors
    /// None.
    pub fn open(file: std::fs::File, _path: &std::path::Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(Self(file)))
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for FileSink {
    fn end(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}
