//! Reads the images in a checkpoint's contents.

use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use super::contents::{Contents, Node, Part};
use super::pages::{Decoder, Stored};
use crate::images::Images;

impl Images for Contents {
    fn path(&self) -> &Path {
        self.dir()
    }

    fn image(&self, name: &str) -> io::Result<Box<dyn Read>> {
        match self.directory.get(name) {
            Some(Node::File { bytes, .. }) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Some(Node::Stock { stored, .. }) => Ok(Box::new(StockFile {
                stored: stored.clone(),
                at: 0,
            })),
            Some(Node::Pages { reader, .. }) => Ok(Box::new(Frames {
                part: Part {
                    reader: reader.clone(),
                    offset: 0,
                    size: reader.raw_bytes(),
                },
                decoder: Decoder::default(),
                at: 0,
            })),
            Some(Node::Packed(part)) => Ok(Box::new(Frames {
                part: part.clone(),
                decoder: Decoder::default(),
                at: 0,
            })),
            Some(Node::Directory(_)) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let size = |node: &Node| match node {
            Node::File { bytes, .. } => Some(bytes.len() as u64),
            Node::Stock { metadata, .. } => Some(metadata.len()),
            Node::Pages { reader, .. } => Some(reader.raw_bytes()),
            Node::Packed(part) => Some(part.size),
            Node::Directory(_) => None,
        };
        let files = self.directory.iter();
        Ok(files
            .filter_map(|(name, node)| Some((name.clone(), size(node)?)))
            .collect())
    }
}

/// A file without digests, from its beginning. Its descriptor is shared, so it has a
/// position of its own.
pub(super) struct StockFile {
    pub(super) stored: Arc<Stored>,
    pub(super) at: u64,
}

impl Read for StockFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.stored.file.read_at(out, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file or a part of one that is verified in frames, from its beginning.
struct Frames {
    part: Part,
    decoder: Decoder,
    at: u64,
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.part.read_at(self.at, &mut self.decoder, out);
        let read = read.map_err(io::Error::other)?;
        self.at += read as u64;
        Ok(read)
    }
}
