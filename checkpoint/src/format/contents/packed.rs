//! Images that are parts of an archive of TCP connections.
//!
//! An archive that fits into memory is read once, and each of its images becomes a file in
//! memory. Images of a larger one are read from the archive, whose frames are verified
//! again: connections may have megabytes of unread data.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Directory, Node, Opening, Verified, insert};
use crate::format::Error;
use crate::format::manifest::Entry;
use crate::format::pages::{Damage, Decoder, Reader};
use crate::format::streams::{self, Packed};
use crate::opened::OpenedDir;

/// A part of a file that is verified in frames.
#[derive(Debug, Clone)]
pub struct Part {
    /// The reader of the file.
    pub reader: Arc<Reader>,
    /// The offset of its first byte in the file.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Part {
    /// Fills `out` from `at`, up to the part's end, and returns the number of bytes.
    ///
    /// # Errors
    /// A frame is damaged or can't be read; the error names it.
    pub fn read_at(&self, at: u64, decoder: &mut Decoder, out: &mut [u8]) -> Result<usize, Damage> {
        let left = self.size.saturating_sub(at);
        let wanted = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        let from = self.offset.saturating_add(at);
        self.reader.read_at(from, decoder, &mut out[..wanted])
    }
}

impl Opening {
    /// Adds the images in an archive of connections.
    pub(super) fn streams(
        &mut self,
        dir: &OpenedDir,
        entry: &Entry,
        directory: &mut Directory,
    ) -> Result<(), Error> {
        match self.verified(dir, entry)? {
            Verified::InMemory(stored, metadata, bytes) => {
                let path = stored.path;
                for Packed { name, offset, size } in in_memory(&path, &bytes)? {
                    let image = part(&bytes, offset, size as usize);
                    let node = Node::File {
                        path: path.clone(),
                        metadata: metadata.clone(),
                        bytes: image.unwrap_or_default().into(),
                    };
                    insert(directory, dir, &name, node)?;
                }
            }
            Verified::Framed(reader) => {
                let reader = Arc::new(reader);
                for Packed { name, offset, size } in in_frames(&reader)? {
                    let reader = reader.clone();
                    let part = Part {
                        reader,
                        offset,
                        size,
                    };
                    insert(directory, dir, &name, Node::Packed(part))?;
                }
            }
        }
        Ok(())
    }
}

fn in_memory(path: &Path, bytes: &[u8]) -> Result<Vec<Packed>, Error> {
    let found = streams::list(bytes.len() as u64, |at, out| {
        let part = part(bytes, at, out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    });
    found.map_err(|fault| Error::Streams {
        file: path.to_owned(),
        fault,
    })
}

fn in_frames(reader: &Reader) -> Result<Vec<Packed>, Error> {
    let mut decoder = Decoder::default();
    // A header is much smaller than a frame, so the last frame is kept.
    let mut last = (u64::MAX, Vec::new());
    let found = streams::list(reader.raw_bytes(), |at, out| {
        let mut done = 0;
        while done < out.len() {
            let at = at + done as u64;
            if at >= reader.raw_bytes() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let frame = reader.frame_at(at);
            let start = reader.range(frame).start;
            if last.0 != start {
                last.0 = u64::MAX;
                let decoded = reader.decode(frame, &mut decoder, &mut last.1);
                decoded.map_err(io::Error::other)?;
                last.0 = start;
            }
            let rest = &last.1[(at - start) as usize..];
            let length = rest.len().min(out.len() - done);
            out[done..done + length].copy_from_slice(&rest[..length]);
            done += length;
        }
        Ok(())
    });
    found.map_err(|fault| Error::Streams {
        file: reader.path().to_owned(),
        fault,
    })
}

fn part(bytes: &[u8], at: u64, length: usize) -> Option<&[u8]> {
    bytes
        .get(usize::try_from(at).ok()?..)
        .and_then(|rest| rest.get(..length))
}

#[cfg(test)]
pub(crate) mod tests;
