//! Writes an archive of files that exist already, in one pass.
//!
//! The headers are written last, as those of a capture are, so an archive that was not
//! finished is empty.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use super::{BLOCK, Header, padding};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// An archive that is being written. Dropping it leaves an empty one.
#[derive(Debug)]
pub(crate) struct Writer {
    out: BufWriter<File>,
    at: u64,
    /// The name of the entry that is being written, and the offset of its header.
    entry: (String, u64),
    headers: Vec<(Header, u64)>,
}

impl Writer {
    /// Begins an archive in an empty file.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, file.try_clone()?),
            at: 0,
            entry: (String::new(), 0),
            headers: Vec::new(),
        })
    }

    /// Begins an entry, to which bytes are then written.
    ///
    /// # Errors
    /// The name is no plain one, or too long for a header.
    pub(crate) fn begin(&mut self, name: &str) -> io::Result<()> {
        let name = name.to_owned();
        let header = Header { name, size: 0 };
        if header.render(0).is_none() {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        self.entry = (header.name, self.at);
        self.write_all(&[0; BLOCK as usize])
    }

    /// Ends the entry, and returns the length of its content.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn end(&mut self) -> io::Result<u64> {
        let (name, begun) = std::mem::take(&mut self.entry);
        let size = self.at - begun - BLOCK;
        self.write_all(&[0; BLOCK as usize][..padding(size) as usize])?;
        self.headers.push((Header { name, size }, begun));
        Ok(size)
    }

    /// Adds a file that is in memory, and returns its digest.
    ///
    /// # Errors
    /// As for [`Self::begin`] and [`Self::end`].
    pub(crate) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<blake3::Hash> {
        self.begin(name)?;
        self.write_all(content)?;
        self.end()?;
        Ok(blake3::hash(content))
    }

    /// Writes the end and the headers. `time` is that of all entries, in seconds since 1970.
    /// The caller syncs the file.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn finish(mut self, time: u64) -> io::Result<()> {
        self.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()?;
        for (header, offset) in &self.headers {
            let bytes = header.render(time).ok_or(io::ErrorKind::InvalidFilename)?;
            self.out.get_ref().write_all_at(&bytes, *offset)?;
        }
        Ok(())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Index;
    use super::*;

    #[test]
    fn an_archive_is_empty_until_it_is_finished() {
        let file = tempfile::tempfile().expect("a file");
        let mut writer = Writer::new(&file).expect("a writer");
        let digest = writer.add("a.img", b"content").expect("add");
        assert_eq!(digest, blake3::hash(b"content"));
        writer.begin("b").expect("begin");
        writer.write_all(&[3; 1000]).expect("write");
        assert_eq!(writer.end().expect("end"), 1000);
        writer.flush().expect("flush");
        assert!(Index::read(&file).is_err());
        writer.finish(9).expect("finish");
        let index = Index::read(&file).expect("an archive");
        assert_eq!(index.get("a.img"), Some((512, 7)));
        assert_eq!(index.get("b"), Some((1536, 1000)));
    }

    #[test]
    fn only_flat_names_that_fit_are_written() {
        let file = tempfile::tempfile().expect("a file");
        let mut writer = Writer::new(&file).expect("a writer");
        for name in ["", "..", "a/b", &"a".repeat(101)] {
            let error = writer.begin(name).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
        }
    }
}
