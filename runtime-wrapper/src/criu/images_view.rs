//! The directory from which the runtime and CRIU restore.
//!
//! ```text
//! no manifest ─► the checkpoint itself: a stock runtime took it
//! manifest ─► machine fits? files whole? ─► served, decoded while CRIU reads
//!                                      └──► no FUSE here: unpacked, and removed afterwards
//! ```
//!
//! Served files vanish with this process. An unpacked copy stands where an
//! unfinished checkpoint would stand, within the checkpoint's directory, and so
//! the next checkpoint or restore clears away what a killed one left; where that
//! can't be written to, it stands in the directory for temporary files.

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

/// Why there is nothing to restore from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Recover(#[from] publish::Error),
    #[error(transparent)]
    Images(#[from] format::Error),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("cannot tell what machine this is: {0}")]
    Machine(io::Error),
    #[error(
        "the checkpoint's files cannot be served ({unavailable}), and there is no place to unpack them: {source}"
    )]
    NoPlace {
        unavailable: Unavailable,
        source: io::Error,
    },
    #[error("the checkpoint's files cannot be served ({unavailable}), nor unpacked: {source}")]
    Unpack {
        unavailable: Unavailable,
        source: unpack::Error,
    },
}

/// What is decoded ahead where most is never read: stacks and the data of
/// libraries are scattered over a page file, a few frames of it.
const LAZY: u64 = 1 << 20;

/// A checkpoint as CRIU wants to see it, until this is dropped.
pub(crate) struct Shown(How);

enum How {
    Itself,
    Served(Server),
    /// What may come later is never read.
    ServedInPart(Server),
    Within(Staging),
    Temporary(TempDir),
}

impl Shown {
    /// Checks a checkpoint and shows it, with up to `memory` bytes for what is
    /// decoded ahead. `lazy` says whether most of it will not be read; `tell` is
    /// told if this takes space on disk. The files are readable for `root`.
    pub(crate) fn new(
        dir: &Path,
        memory: u64,
        root: Root,
        lazy: impl FnOnce(&Manifest) -> bool,
        tell: impl Fn(&str),
    ) -> Result<Self, Error> {
        publish::recover(dir)?;
        let manifest = Manifest::read(dir).map_err(format::Error::from)?;
        let Some(manifest) = manifest else {
            images::verify(dir).map_err(format::Error::from)?;
            return Ok(Self(How::Itself));
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
        let memory = if lazy { LAZY } else { memory };
        match Server::start(served, memory, root) {
            Ok(server) if lazy => Ok(Self(How::ServedInPart(server))),
            Ok(server) => Ok(Self(How::Served(server))),
            Err(unavailable) => Self::unpacked(dir, &directory()?, unavailable, tell),
        }
    }

    fn unpacked(
        dir: &Path,
        directory: &Directory,
        unavailable: Unavailable,
        tell: impl Fn(&str),
    ) -> Result<Self, Error> {
        let place = match Staging::prepare(dir, Durability::Copied) {
            Ok(store) => How::Within(store),
            // Read-only, full, or in use: whatever it is, there is another.
            Err(_) => match tempfile::Builder::new()
                .prefix("cedana-unpacked-")
                .tempdir()
            {
                Ok(place) => How::Temporary(place),
                Err(source) => {
                    return Err(Error::NoPlace {
                        unavailable,
                        source,
                    });
                }
            },
        };
        let shown = Self(place);
        let path = shown.path().unwrap_or_default();
        tell(&format!(
            "the checkpoint in {} is unpacked to {} for this restore, because its files cannot be served: {unavailable}",
            dir.display(),
            path.display()
        ));
        match unpack::unpack(directory, &path) {
            Ok(()) => Ok(shown),
            Err(source) => Err(Error::Unpack {
                unavailable,
                source,
            }),
        }
    }

    /// The directory to restore from, if it is not the checkpoint's own.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match &self.0 {
            How::Itself => None,
            How::Served(server) | How::ServedInPart(server) => Some(server.path()),
            How::Within(store) => Some(store.place().to_owned()),
            How::Temporary(dir) => Some(dir.path().to_owned()),
        }
    }

    /// Whether its lazy pages can be left to a page source.
    pub(crate) fn is_in_part(&self) -> bool {
        matches!(self.0, How::ServedInPart(_))
    }

    /// Whether a stock runtime took it.
    pub(crate) fn is_stock(&self) -> bool {
        matches!(self.0, How::Itself)
    }

    /// What turned out to be damaged while CRIU read it.
    pub(crate) fn damage(&self) -> Option<Arc<Damage>> {
        match &self.0 {
            How::Served(server) | How::ServedInPart(server) => server.damage(),
            _ => None,
        }
    }
}
