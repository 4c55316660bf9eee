//! The archive that a capture writes in one pass ([`crate::archive`]).
//!
//! ```text
//! page files, in the order in which CRIU closes them ─┐
//! small images, when CRIU is done ────────────────────┼─► Tar ─► Stream ─► disk
//! manifest ───────────────────────────────────────────┘    │
//!                          headers, when all is written ◄──┘
//! ```
//!
//! A tar has one entry after the other. CRIU writes its page files one after the other,
//! too, so the workers take pieces of the first unfinished file only, and the tar moves
//! from one file to the next ([`Turns`]). All pieces of the earlier file have been taken
//! by then, so a piece of the next one that is ready too early waits for pieces that
//! need no other's memory.
//!
//! A header precedes its content, and its size is known at the end. So zeros are written
//! in its place, and [`ArchiveWriter::finish`] writes the headers when everything else
//! is in the file. An archive without headers is empty: one that was not finished can't
//! be mistaken for a checkpoint.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::disk::{Disk, Queue, Stream};
use super::error::{Error, at};
use super::page_file::PageFile;
use crate::archive::{BLOCK, Header, padding};
use crate::format::manifest::{Entry, Kind};
use crate::format::publish::Scratch;

/// A tar that is being written.
pub(super) struct Tar {
    stream: Stream,
    at: u64,
    /// The entry that is being written, and the offset of its header.
    entry: (String, u64),
    /// The entries that are written, and the offsets of their headers.
    headers: Vec<(Header, u64)>,
}

impl Tar {
    pub(super) fn new(file: Arc<File>, path: &Path, queue: Option<Queue>) -> Self {
        Self {
            stream: Stream::over(file, path, queue),
            at: 0,
            entry: (String::new(), 0),
            headers: Vec::new(),
        }
    }

    /// Begins an entry, to which bytes are then written.
    pub(super) fn begin(&mut self, name: &str) -> io::Result<()> {
        self.entry = (name.to_owned(), self.at);
        self.zeros(BLOCK)
    }

    /// Ends the entry, and returns the length of its content.
    pub(super) fn end(&mut self) -> io::Result<u64> {
        let (name, begun) = std::mem::take(&mut self.entry);
        let size = self.at - begun - BLOCK;
        self.zeros(padding(size))?;
        self.headers.push((Header { name, size }, begun));
        Ok(size)
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        // At most a few blocks.
        self.write_all(&vec![0; count as usize])
    }
}

impl Write for Tar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The tar between two page files, and whose turn is next.
pub(super) struct Turns {
    /// `None` while a page file has it.
    pub(super) tar: Option<Tar>,
    /// The number of the page file that may take it.
    pub(super) turn: usize,
    /// Page files by number, until they are finished.
    pub(super) opened: BTreeMap<usize, Arc<PageFile>>,
}

/// An archive with all page files, to which the other files are added.
pub struct ArchiveWriter {
    tar: Tar,
    disk: Option<Disk>,
    file: Arc<File>,
    path: PathBuf,
}

impl std::fmt::Debug for ArchiveWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ArchiveWriter {
    pub(super) fn new(tar: Tar, disk: Option<Disk>, file: Arc<File>, path: PathBuf) -> Self {
        Self {
            tar,
            disk,
            file,
            path,
        }
    }

    /// Adds a file, and returns its length and its digest.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn add(
        &mut self,
        name: &str,
        content: &mut impl Read,
    ) -> Result<(u64, blake3::Hash), Error> {
        let failed = at("write", &self.path);
        let mut hasher = blake3::Hasher::new();
        self.tar.begin(name).map_err(&failed)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            hasher.update(&buffer[..read]);
            self.tar.write_all(&buffer[..read]).map_err(&failed)?;
        }
        let size = self.tar.end().map_err(&failed)?;
        Ok((size, hasher.finalize()))
    }

    /// Adds all files of CRIU's directory but the log, and returns the manifest's list of
    /// files. `pages` are the entries of page files, which are in the archive already, or of
    /// their lists, which are not.
    ///
    /// # Errors
    /// One can't be read or written.
    pub fn add_images(&mut self, dir: &Scratch, pages: Vec<Entry>) -> Result<Vec<Entry>, Error> {
        let mut entries = pages;
        let files = dir.files().map_err(at("read", dir.shown()))?;
        for (name, _) in files {
            // CRIU writes to the log until it exits.
            if name.ends_with(".log") {
                continue;
            }
            let file = dir.file(&name);
            let mut file = file.map_err(at("read", &dir.shown().join(&name)))?;
            let (size, digest) = self.add(&name, &mut file)?;
            // A list of chunks, which has an entry.
            if entries.iter().any(|entry| entry.name == name) {
                continue;
            }
            let kind = match name.ends_with(".img") {
                true => Kind::Image,
                false => Kind::Other,
            };
            entries.push(Entry::whole(&name, kind, size, digest));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Writes the end and the headers. The caller syncs the file.
    ///
    /// # Errors
    /// Something can't be written.
    pub fn finish(mut self) -> Result<(), Error> {
        let failed = at("write", &self.path);
        self.tar.zeros(2 * BLOCK).map_err(&failed)?;
        let written = self.tar.stream.end();
        // The disk's own error is the reason of others.
        self.disk.take().map_or(Ok(()), Disk::join)?;
        written.map_err(&failed)?;
        // Headers are no aligned blocks, so they go through the page cache.
        fcntl(&self.file, FcntlArg::F_SETFL(OFlag::empty()))
            .map_err(|errno| failed(errno.into()))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        for (header, offset) in &self.tar.headers {
            let bytes = header
                .render(now)
                .ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
            self.file.write_all_at(&bytes, *offset).map_err(&failed)?;
        }
        Ok(())
    }
}
