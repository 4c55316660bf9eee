//! Packs the images of many TCP connections into one file ([`streams`]).
//!
//! ```text
//! tcp-stream-N.img ── read, hashed ──► tcp-streams.tar, whole ──► the images are removed
//! ```
//!
//! All of this is in the staging directory, and CRIU has closed the images. A process
//! that is killed leaves the staging directory, which the next run removes.

use std::io::BufWriter;

use super::error::{Error, at};
use super::staging::Staging;
use super::steps::{create, list, remove};
use crate::format::manifest::{Entry, Kind};
use crate::format::streams::{self, MAX_FILES, is_stream};

/// Bytes that are written at once: an image and its header have one KiB.
const BUFFER: usize = 256 << 10;

impl Staging {
    /// Packs the images of TCP connections if there are more than [`MAX_FILES`], and
    /// returns the archive's entry in the manifest.
    ///
    /// # Errors
    /// An image can't be read or removed, or the archive can't be written.
    pub fn pack_streams(&self) -> Result<Option<Entry>, Error> {
        let within = self.within();
        let mut images = list(within)?;
        images.retain(|name| is_stream(name));
        if images.len() <= MAX_FILES {
            return Ok(None);
        }
        let unwritten = at("write", &within.path().join(streams::NAME));
        let out = create(within, streams::NAME).map_err(&unwritten)?;
        let mut archive = streams::Writer::new(BufWriter::with_capacity(BUFFER, out));
        for name in &images {
            let unread = at("read", &within.path().join(name));
            let image = within.file(name).map_err(&unread)?;
            let size = image.metadata().map_err(&unread)?.len();
            archive.append(name, size, &image).map_err(&unwritten)?;
        }
        let (_, size, digest) = archive.finish().map_err(&unwritten)?;
        for name in &images {
            remove(within, name)?;
        }
        let entry = Entry::whole(streams::NAME, Kind::Streams, size, digest);
        Ok(Some(entry))
    }
}
