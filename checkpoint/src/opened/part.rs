//! An open file of a checkpoint: a whole file, or a range of an archive.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module's documentation. Reads never leave the range.
#[derive(Debug)]
pub struct Part {
    file: Arc<File>,
    start: u64,
    /// `None` for a whole file, which may grow.
    length: Option<u64>,
    /// The position of [`Read`].
    at: AtomicU64,
}

impl Part {
    pub(super) fn of(file: Arc<File>, start: u64, length: u64) -> Self {
        Self {
            file,
            start,
            length: Some(length),
            at: AtomicU64::new(0),
        }
    }

    /// Its length.
    ///
    /// # Errors
    /// fstat(2) fails.
    pub fn length(&self) -> io::Result<u64> {
        match self.length {
            Some(length) => Ok(length),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    /// The status of the file that it is in: its owner and mode.
    ///
    /// # Errors
    /// fstat(2) fails.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Reads at an offset, and returns the number of bytes: fewer at the end.
    ///
    /// # Errors
    /// pread(2) fails.
    pub fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(length) = self.length else {
            return self.file.read_at(out, at);
        };
        let left = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = out.len().min(left);
        self.file.read_at(&mut out[..wanted], self.start + at)
    }

    /// Fills `out` from an offset.
    ///
    /// # Errors
    /// pread(2) fails, or the end is reached.
    pub fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(out.len() as u64);
        match self.length {
            Some(length) if end.is_none_or(|end| end > length) => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Some(_) => self.file.read_exact_at(out, self.start + at),
            None => self.file.read_exact_at(out, at),
        }
    }

    /// The file that it is in.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl From<File> for Part {
    fn from(file: File) -> Self {
        Self {
            file: Arc::new(file),
            start: 0,
            length: None,
            at: AtomicU64::new(0),
        }
    }
}

impl Read for &Part {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(out, self.at.load(Ordering::Relaxed))?;
        self.at.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (&*self).read(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn reads_stay_within_the_range() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"before, content, after").expect("write");
        file.rewind().expect("rewind");
        let file = Arc::new(file);
        let mut part = Part::of(Arc::clone(&file), 8, 7);
        let mut text = String::new();
        part.read_to_string(&mut text).expect("read");
        assert_eq!(text, "content");
        let mut out = [0; 4];
        assert_eq!(part.read_at(&mut out, 5).expect("read"), 2);
        assert_eq!(part.read_at(&mut out, 9).expect("read"), 0);
        part.read_exact_at(&mut out, 3).expect("read");
        assert_eq!(&out, b"tent");
        for at in [4, 7, u64::MAX] {
            part.read_exact_at(&mut out, at).expect_err("the end");
        }
        assert_eq!(part.length().expect("length"), 7);
    }
}
