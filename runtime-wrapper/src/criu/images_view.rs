//! The directory from which the runtime and CRIU restore.
//!
//! ```text
//! no manifest ─► the checkpoint itself: a stock runtime took it
//! manifest ─► machine compatible? files valid? ─► FUSE: decoded while CRIU reads
//!                                             └─► without FUSE: unpacked, removed afterwards
//! ```
//!
//! The FUSE mount ends with this process. The unpacked copy is in the place of an
//! incomplete checkpoint, within the checkpoint's directory, so the next checkpoint
//! or restore removes the copy of a killed one. If that directory is not writable,
//! the copy is in the directory for temporary files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedana_checkpoint::format::contents::{self, Directory};
use cedana_checkpoint::format::manifest::{Machine, Manifest};
use cedana_checkpoint::format::pages::Damage;
use cedana_checkpoint::format::publish::{self, Durability, Staging};
use cedana_checkpoint::format::{self, Unfit, unpack};
use cedana_checkpoint::fuse::{Root, Server, Unavailable};
use cedana_checkpoint::images;
use tempfile::TempDir;

use crate::host::sys;

/// Why a checkpoint can't be restored from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Recover(#[from] publish::Error),
    #[error(transparent)]
    Images(#[from] format::Error),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("cannot read this machine's properties: {0}")]
    Machine(io::Error),
    #[error(
        "the checkpoint's files cannot be mounted with FUSE ({unavailable}), and no directory to unpack them can be made: {source}"
    )]
    NoDirectory {
        unavailable: Unavailable,
        source: io::Error,
    },
    #[error(
        "the checkpoint's files cannot be mounted with FUSE ({unavailable}), and unpacking them failed: {source}"
    )]
    Unpack {
        unavailable: Unavailable,
        source: unpack::Error,
    },
}

/// The bytes that are decoded ahead in a lazy restore. CRIU then reads little, such
/// as stacks and the data of libraries, which are in a few frames of a page file.
const LAZY_READ_AHEAD: u64 = 1 << 20;

/// A checkpoint's images in CRIU's own format, until this is dropped.
pub(crate) struct ImagesView(Source);

enum Source {
    /// A stock checkpoint.
    Stock,
    Fuse(Server),
    /// CRIU leaves the lazy pages to a page source.
    FuseLazy(Server),
    UnpackedWithin(Staging),
    UnpackedElsewhere(TempDir),
}

impl ImagesView {
    /// Checks a checkpoint and mounts it, with up to `memory` bytes decoded ahead.
    /// `lazy` decides whether CRIU leaves lazy pages unread; `warn` is called if the
    /// checkpoint is unpacked and so takes space on disk. The files are readable for
    /// `root`.
    pub(crate) fn new(
        dir: &Path,
        memory: u64,
        root: Root,
        lazy: impl FnOnce(&Manifest) -> bool,
        warn: impl Fn(&str),
    ) -> Result<Self, Error> {
        publish::recover(dir)?;
        let manifest = Manifest::read(dir).map_err(format::Error::from)?;
        let Some(manifest) = manifest else {
            images::verify(dir).map_err(format::Error::from)?;
            return Ok(Self(Source::Stock));
        };
        let here = Machine::here().map_err(Error::Machine)?;
        manifest.machine.check(&here)?;
        let directory = || -> Result<Directory, Error> {
            let mut directory = contents::open(dir, &manifest)?;
            format::reserve(&mut directory, sys::free_memory().map_err(Error::Machine)?);
            Ok(directory)
        };
        let served = directory()?;
        let lazy = lazy(&manifest);
        let memory = if lazy { LAZY_READ_AHEAD } else { memory };
        match Server::start(served, memory, root) {
            Ok(server) if lazy => Ok(Self(Source::FuseLazy(server))),
            Ok(server) => Ok(Self(Source::Fuse(server))),
            Err(unavailable) => Self::unpacked(dir, &directory()?, unavailable, warn),
        }
    }

    fn unpacked(
        dir: &Path,
        directory: &Directory,
        unavailable: Unavailable,
        warn: impl Fn(&str),
    ) -> Result<Self, Error> {
        let place = match Staging::prepare(dir, Durability::Copied) {
            Ok(store) => Source::UnpackedWithin(store),
            // Read-only, full, or in use.
            Err(_) => match tempfile::Builder::new()
                .prefix("cedana-unpacked-")
                .tempdir()
            {
                Ok(place) => Source::UnpackedElsewhere(place),
                Err(source) => {
                    return Err(Error::NoDirectory {
                        unavailable,
                        source,
                    });
                }
            },
        };
        let view = Self(place);
        let path = view.path().unwrap_or_default();
        warn(&format!(
            "the checkpoint in {} is unpacked to {} for this restore, because its files cannot be mounted with FUSE: {unavailable}",
            dir.display(),
            path.display()
        ));
        match unpack::unpack(directory, &path) {
            Ok(()) => Ok(view),
            Err(source) => Err(Error::Unpack {
                unavailable,
                source,
            }),
        }
    }

    /// The directory to restore from; `None` if it is the checkpoint's own.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match &self.0 {
            Source::Stock => None,
            Source::Fuse(server) | Source::FuseLazy(server) => Some(server.path()),
            Source::UnpackedWithin(store) => Some(store.place().to_owned()),
            Source::UnpackedElsewhere(dir) => Some(dir.path().to_owned()),
        }
    }

    /// Whether its lazy pages are left to a page source.
    pub(crate) fn is_lazy(&self) -> bool {
        matches!(self.0, Source::FuseLazy(_))
    }

    /// Whether a stock runtime took it.
    pub(crate) fn is_stock(&self) -> bool {
        matches!(self.0, Source::Stock)
    }

    /// The damage that was found while CRIU read the images, `None` if none was.
    pub(crate) fn damage(&self) -> Option<Arc<Damage>> {
        match &self.0 {
            Source::Fuse(server) | Source::FuseLazy(server) => server.damage(),
            _ => None,
        }
    }
}
