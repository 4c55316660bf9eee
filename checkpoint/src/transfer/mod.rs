//! A checkpoint as one file for another machine or another engine, and back.
//!
//! ```text
//! directory, archive ─► Source ─┬─► archive  ours: restored in place
//!                               └─► podman   the tar of `podman container checkpoint --export`
//! ours, Podman's, CRI-O's or the kubelet's file ─► import ─► an archive of ours
//! ```
//!
//! A new file is written in one pass to an open file without a name, and the caller
//! publishes it when it is complete ([`crate::format::publish::NewFile`]). A new archive of
//! ours is read once more before that, with all digests, so damage of the source is found
//! here and not at the restore.
//!
//! ```text
//! source        a checkpoint that is open
//! archive       an archive of it
//! new           the archive that is being written
//! frames        memory, compressed by all cores
//! verify        the new archive, read once more
//! podman        Podman's format, written
//! podman_config the container that Podman creates for it
//! root_mode     what Podman's file systems differ in
//! import        a foreign file, read
//! engine_files  the names of an engine's own files in an archive of ours
//! ```

mod archive;
mod engine_files;
mod error;
mod frames;
mod import;
mod new;
mod podman;
mod podman_config;
mod root_mode;
mod source;
mod verify;

use std::path::Path;

use crate::format::manifest::{Key, Manifest};
use crate::format::pages::Compression;
use crate::progress::Observer;

pub use archive::archive;
pub use error::Error;
pub use import::import;
pub use podman::{Compress, PodmanOptions, podman};
pub use source::Source;

/// What every transfer needs.
pub struct Context<'a> {
    /// How memory is stored in an archive of ours.
    pub compression: Compression,
    /// The node's store.
    pub store: &'a Path,
    /// Signs an archive of a checkpoint that this key has signed.
    pub key: Option<Key>,
    /// Whether the caller has gone away.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Is told how far it is.
    pub observer: &'a Observer,
}

/// A complete file.
#[derive(Debug, Clone)]
pub struct Report {
    /// Bytes of memory.
    pub raw_bytes: u64,
    /// The same as stored.
    pub stored_bytes: u64,
    /// What is in it. Of Podman's format that of the source, or of one like it.
    pub manifest: Manifest,
}

#[cfg(test)]
mod tests;
