//! The stored files of a checkpoint as images, none of them verified.
//!
//! For a look at a checkpoint of any size: with a manifest, the files that it lists, and
//! the images in its archive of TCP connections; without one, files with names of CRIU's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::manifest::{self, Manifest};
use super::pages::Stored;
use super::reading::StockFile;
use super::streams::{self, Packed};
use crate::images::source::is_criu;
use crate::images::{self, Images};
use crate::opened::OpenedDir;

/// The stored files that a checkpoint's manifest lists, and the manifest, or those with
/// names of CRIU's.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    dir: &'a OpenedDir,
    names: Option<BTreeSet<&'a str>>,
    archive: Option<Archive>,
}

/// An archive of connections, opened once.
#[derive(Debug)]
struct Archive {
    stored: Arc<Stored>,
    /// The offset and the size of each image.
    images: BTreeMap<String, (u64, u64)>,
}

impl<'a> Listed<'a> {
    /// Lists the files, and reads the headers in the archive of connections.
    ///
    /// # Errors
    /// The archive can't be read, is damaged, or has an image that is a file, too.
    pub(crate) fn new(dir: &'a OpenedDir, manifest: Option<&'a Manifest>) -> Result<Self, Error> {
        let names: Option<BTreeSet<&str>> = manifest.map(|manifest| {
            let files = manifest.files.iter().map(|entry| entry.name.as_str());
            files.chain([manifest::NAME]).collect()
        });
        let archive = match &names {
            Some(names) if names.contains(streams::NAME) => {
                let archive = Archive::open(dir)?;
                if let Some(name) = archive.images.keys().find(|name| names.contains(&***name)) {
                    return Err(Error::Twice {
                        dir: dir.path().to_owned(),
                        name: name.clone(),
                    });
                }
                Some(archive)
            }
            _ => None,
        };
        Ok(Self {
            dir,
            names,
            archive,
        })
    }

    /// The bytes of the images in the archive; `None` without an archive.
    pub(crate) fn packed_bytes(&self) -> Option<u64> {
        let images = self.archive.as_ref()?.images.values();
        Some(images.fold(0, |sum: u64, (_, size)| sum.saturating_add(*size)))
    }

    fn has(&self, name: &str) -> bool {
        match &self.names {
            Some(names) => names.contains(name),
            None => is_criu(name),
        }
    }
}

impl Archive {
    fn open(dir: &OpenedDir) -> Result<Self, Error> {
        let path = dir.path().join(streams::NAME);
        let unreadable = |source| images::Error::File {
            file: path.clone(),
            source,
        };
        let file = dir.file(streams::NAME).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let found = streams::list(length, |at, out| file.read_exact_at(out, at));
        let found = found.map_err(|fault| Error::Streams {
            file: path.clone(),
            fault,
        })?;
        let images = found
            .into_iter()
            .map(|Packed { name, offset, size }| (name, (offset, size)));
        Ok(Self {
            images: images.collect(),
            stored: Arc::new(Stored { path, file }),
        })
    }
}

impl Images for Listed<'_> {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn image(&self, name: &str) -> io::Result<Box<dyn Read>> {
        if let Some(archive) = &self.archive
            && let Some(&(offset, size)) = archive.images.get(name)
        {
            let stored = archive.stored.clone();
            return Ok(Box::new(StockFile { stored, at: offset }.take(size)));
        }
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
