//! Writes an archive of TCP connections.

use std::io::{self, Read, Write};

use super::{BLOCK, END, header, is_stream, padding};

/// Writes an archive, and its digest meanwhile.
pub struct Writer<W> {
    out: W,
    hasher: blake3::Hasher,
    size: u64,
    last: String,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            hasher: blake3::Hasher::new(),
            size: 0,
            last: String::new(),
        }
    }

    /// Appends an image of `size` bytes.
    ///
    /// # Errors
    /// It can't be read or written, has another size, or its name is not one of a
    /// connection or not greater than the last one.
    pub fn append(&mut self, name: &str, size: u64, image: impl Read) -> io::Result<()> {
        if !is_stream(name) || self.last.as_str() >= name {
            return Err(io::Error::other(format!("{name} does not come next")));
        }
        name.clone_into(&mut self.last);
        self.write(header(name, size).as_bytes())?;
        let begin = self.size;
        // One byte more shows an image that is longer.
        let mut image = image.take(size.saturating_add(1));
        io::copy(&mut image, &mut Hashing(self))?;
        if self.size - begin != size {
            return Err(io::Error::other(format!("{name} is being changed")));
        }
        self.write(&[0; BLOCK][..padding(size)])
    }

    /// Ends the archive, and returns its file, size and digest.
    ///
    /// # Errors
    /// It can't be written.
    pub fn finish(mut self) -> io::Result<(W, u64, blake3::Hash)> {
        self.write(&[0; END as usize])?;
        self.out.flush()?;
        Ok((self.out, self.size, self.hasher.finalize()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Passes on what `io::copy` copies.
struct Hashing<'a, W>(&'a mut Writer<W>);

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
