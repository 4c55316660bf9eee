//! Reads the images in a checkpoint's contents, or those that its manifest lists.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use super::contents::{Contents, Node};
use super::manifest::{self, Manifest};
use super::pages::{Decoder, Reader, Stored};
use crate::images::Images;
use crate::images::source::is_criu;
use crate::opened::OpenedDir;

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
                reader: reader.clone(),
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
            Node::Pages { reader, .. } => Some(reader.table().raw_bytes()),
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

/// A file that is verified in frames, from its beginning.
struct Frames {
    reader: Arc<Reader>,
    decoder: Decoder,
    at: u64,
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read_at(self.at, &mut self.decoder, out);
        let read = read.map_err(io::Error::other)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The stored files of a checkpoint, none of them verified: those that its manifest
/// lists, and the manifest, or those with names of CRIU's.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    dir: &'a OpenedDir,
    names: Option<BTreeSet<&'a str>>,
}

impl<'a> Listed<'a> {
    pub(crate) fn new(dir: &'a OpenedDir, manifest: Option<&'a Manifest>) -> Self {
        let names = manifest.map(|manifest| {
            let files = manifest.files.iter().map(|entry| entry.name.as_str());
            files.chain([manifest::NAME]).collect()
        });
        Self { dir, names }
    }

    fn has(&self, name: &str) -> bool {
        match &self.names {
            Some(names) => names.contains(name),
            None => is_criu(name),
        }
    }
}

impl Images for Listed<'_> {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn image(&self, name: &str) -> io::Result<Box<dyn Read>> {
        match self.has(name) {
            true => Ok(Box::new(self.dir.file(name)?)),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        // Without a manifest the sizes of all files count, but only CRIU's are read.
        self.dir
            .files(|name| self.names.is_none() || self.has(name))
    }
}
