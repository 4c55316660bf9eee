//! The directory from which CRIU restores.
//!
//! ```text
//! manifest ─► machine compatible? files verified? ─┐
//! no manifest: a stock runtime took it ─► opened? ─┴► FUSE: what was verified or opened
//! without FUSE: ours is unpacked, and removed afterwards; a stock one is used itself
//! ```
//!
//! The FUSE mount ends with this process. The unpacked copy is in the place of an
//! incomplete checkpoint, within the checkpoint's directory, so the next checkpoint
//! or restore removes the copy of a killed one. If that directory is not writable,
//! the copy is in the directory for temporary files.
//!
//! Everything that this process learns from the checkpoint comes from the same contents
//! ([`ImagesView::images`]), and not from the directory, which may change meanwhile.

mod accept;

use std::io;
use std::iter::successors;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::contents::{self, Contents, Directory};
use crate::format::manifest::{self, Machine, Manifest};
use crate::format::pages::Damage;
use crate::format::publish::{self, Durability, Staging};
use crate::format::{self, Unfit, unpack};
use crate::fuse::{Root, Server, Unavailable};
use crate::images;
use crate::opened::OpenedDir;
use nix::errno::Errno;
use tempfile::TempDir;

use crate::host::sys;
pub use accept::Accept;

/// Why a checkpoint can't be restored from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What a killed run left can't be completed.
    #[error(transparent)]
    Recover(#[from] publish::Error),
    /// It is damaged or can't be read.
    #[error(transparent)]
    Images(#[from] format::Error),
    /// This machine can't run it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The node does not accept it.
    #[error(transparent)]
    Refused(#[from] accept::Refused),
    /// An archive without a manifest.
    #[error("{} is not an archive of cedana: it has no {}", dir.display(), manifest::NAME)]
    NoManifest {
        /// The archive.
        dir: PathBuf,
    },
    /// A container's checkpoint, for a process.
    #[error(
        "it is the checkpoint of a container, not of a process; restore it with its container's engine"
    )]
    IsContainer,
    /// A process's checkpoint, for a container.
    #[error("it is the checkpoint of a process, not of a container; restore it with cedana")]
    IsProcess,
    /// This machine's properties can't be read.
    #[error("cannot read this machine's properties: {0}")]
    Machine(io::Error),
    /// There is no directory to unpack to.
    #[error(
        "the checkpoint's files cannot be mounted with FUSE ({unavailable}), and no directory to unpack them can be made: {source}"
    )]
    NoDirectory {
        /// Why there is no FUSE mount.
        unavailable: Unavailable,
        /// The system's error.
        source: io::Error,
    },
    /// They can't be unpacked either.
    #[error(
        "the checkpoint's files cannot be mounted with FUSE ({unavailable}), and unpacking them failed: {source}"
    )]
    Unpack {
        /// Why there is no FUSE mount.
        unavailable: Unavailable,
        /// The reason.
        source: unpack::Error,
    },
}

/// The bytes that are decoded ahead in a lazy restore. CRIU then reads little, such
/// as stacks and the data of libraries, which are in a few frames of a page file.
const LAZY_READ_AHEAD: u64 = 1 << 20;

/// A checkpoint's images in CRIU's own format, until this is dropped.
pub struct ImagesView {
    source: Source,
    /// The checkpoint's directory, or its archive.
    opened: OwnedFd,
    contents: Contents,
    /// The manifest's fingerprint; `None` if a stock runtime took the checkpoint.
    fingerprint: Option<String>,
    is_archive: bool,
}

enum Source {
    /// The directory of a stock checkpoint.
    Stock,
    Fuse(Server),
    /// CRIU leaves the lazy pages to a page source.
    FuseLazy(Server),
    UnpackedWithin(Staging),
    UnpackedElsewhere(TempDir),
}

/// What a restore needs of its view.
pub struct Needs {
    /// The most bytes that are decoded ahead.
    pub memory: u64,
    /// The files are readable for the container's root.
    pub root: Root,
    /// The caller, too, reads or writes the files of a stock checkpoint.
    pub shares_files: bool,
    /// The checkpoints that the node accepts.
    pub accept: Accept,
    /// The directory of the node's store, which may have the memory.
    pub store: PathBuf,
    /// What is restored.
    pub subject: Subject,
}

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A container. A checkpoint without a manifest counts as one.
    Container,
    /// A process and its children.
    Process,
}

impl ImagesView {
    /// Checks a checkpoint, a directory or an archive, and mounts it. `lazy` decides whether CRIU leaves lazy pages
    /// unread; `warn` is called if the checkpoint is unpacked and so takes space on disk.
    pub fn new(
        dir: &Path,
        needs: &Needs,
        lazy: impl FnOnce(&Manifest, &Contents) -> bool,
        warn: impl Fn(&str),
    ) -> Result<Self, Error> {
        let opened = OpenedDir::open_any(dir).map_err(|source| {
            let dir = dir.to_owned();
            format::Error::from(images::Error::Directory { dir, source })
        })?;
        if !opened.is_archive() {
            publish::recover(&opened)?;
        }
        Self::of(&opened, needs, lazy, warn)
    }

    /// As [`Self::new`], of a checkpoint that is open: a directory or an archive.
    ///
    /// # Errors
    /// It is damaged, refused, of another kind, or of another machine.
    pub fn of(
        opened: &OpenedDir,
        needs: &Needs,
        lazy: impl FnOnce(&Manifest, &Contents) -> bool,
        warn: impl Fn(&str),
    ) -> Result<Self, Error> {
        let dir = opened.path();
        let manifest = Manifest::identified(opened).map_err(format::Error::from)?;
        accept::check(
            needs.accept,
            manifest.as_ref().map(|(manifest, _)| manifest),
        )?;
        let Some((manifest, fingerprint)) = manifest else {
            if opened.is_archive() {
                let dir = dir.to_owned();
                return Err(Error::NoManifest { dir });
            }
            return Self::stock(opened, needs);
        };
        match (&manifest.process, needs.subject) {
            (None, Subject::Process) => return Err(Error::IsContainer),
            (Some(_), Subject::Container) => return Err(Error::IsProcess),
            _ => {}
        }
        let here = Machine::here().map_err(Error::Machine)?;
        manifest.machine.check(&here)?;
        let mut contents = with_descriptors(|| contents::open(opened, &manifest, &needs.store))?;
        let free = sys::free_memory().map_err(Error::Machine)?;
        format::reserve(&mut contents.directory, free);
        let lazy = lazy(&manifest, &contents);
        let memory = if lazy { LAZY_READ_AHEAD } else { needs.memory };
        let source = match Server::start(contents.directory.clone(), memory, needs.root) {
            Ok(server) if lazy => Source::FuseLazy(server),
            Ok(server) => Source::Fuse(server),
            Err(unavailable) => unpacked(
                dir,
                opened.is_archive(),
                &contents.directory,
                unavailable,
                warn,
            )?,
        };
        Ok(Self {
            source,
            opened: descriptor(opened)?,
            contents,
            fingerprint: Some(fingerprint),
            is_archive: opened.is_archive(),
        })
    }

    /// Mounts the same contents for CRIU to read all memory, after a lazy attempt. They
    /// are not opened again, so what was checked of them still holds.
    pub fn serve_all(&mut self, needs: &Needs, warn: impl Fn(&str)) -> Result<(), Error> {
        let directory = &self.contents.directory;
        self.source = match Server::start(directory.clone(), needs.memory, needs.root) {
            Ok(server) => Source::Fuse(server),
            Err(unavailable) => unpacked(
                self.contents.dir(),
                self.is_archive,
                directory,
                unavailable,
                warn,
            )?,
        };
        Ok(())
    }

    fn stock(opened: &OpenedDir, needs: &Needs) -> Result<Self, Error> {
        let contents = with_descriptors(|| contents::stock(opened, &needs.store))?;
        images::verify(&contents).map_err(format::Error::from)?;
        let served = match needs.shares_files {
            true => None,
            // Without FUSE CRIU opens the files again, as a stock runtime has it.
            false => Server::start(contents.directory.clone(), needs.memory, needs.root).ok(),
        };
        Ok(Self {
            source: served.map_or(Source::Stock, Source::Fuse),
            opened: descriptor(opened)?,
            contents,
            fingerprint: None,
            is_archive: false,
        })
    }

    /// The open directory or archive that was checked, for a page source.
    pub fn opened(&self) -> &OwnedFd {
        &self.opened
    }

    /// What CRIU reads.
    pub fn images(&self) -> &Contents {
        &self.contents
    }

    /// The digest of the manifest's text; `None` if a stock runtime took the checkpoint.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// The directory to restore from; `None` if it is the checkpoint's own.
    pub fn path(&self) -> Option<PathBuf> {
        self.source.path()
    }

    /// Whether its lazy pages are left to a page source.
    pub fn is_lazy(&self) -> bool {
        matches!(self.source, Source::FuseLazy(_))
    }

    /// Whether a stock runtime took it.
    pub fn is_stock(&self) -> bool {
        self.fingerprint.is_none()
    }

    /// The damage that was found while CRIU read the images, `None` if none was.
    pub fn damage(&self) -> Option<Arc<Damage>> {
        match &self.source {
            Source::Fuse(server) | Source::FuseLazy(server) => server.damage(),
            _ => None,
        }
    }
}

/// Opens a checkpoint, which takes a descriptor for each page file and pack. The limit is only
/// raised if it is too low: CRIU inherits it, and restored processes would get tables of
/// descriptors of that length.
///
/// # Errors
/// Those of `open`.
pub fn with_descriptors(
    open: impl Fn() -> Result<Contents, format::Error>,
) -> Result<Contents, format::Error> {
    match open() {
        Err(error) if is_out_of_descriptors(&error) => {
            sys::raise_descriptor_limit();
            open()
        }
        contents => contents,
    }
}

fn is_out_of_descriptors(error: &format::Error) -> bool {
    let sources = successors(std::error::Error::source(error), |error| error.source());
    let mut errors = sources.filter_map(|source| source.downcast_ref::<io::Error>());
    errors.any(|error| error.raw_os_error() == Some(Errno::EMFILE as i32))
}

/// Unpacks a checkpoint whose files can't be mounted.
fn unpacked(
    dir: &Path,
    is_archive: bool,
    directory: &Directory,
    unavailable: Unavailable,
    warn: impl Fn(&str),
) -> Result<Source, Error> {
    let within = match is_archive {
        true => None,
        false => Staging::prepare(dir, Durability::Copied).ok(),
    };
    let place = match within {
        Some(store) => Source::UnpackedWithin(store),
        // An archive, read-only, full, in use, or not this user's alone.
        None => match tempfile::Builder::new()
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
    let path = place.path().unwrap_or_default();
    warn(&format!(
        "the checkpoint in {} is unpacked to {} for this restore, because its files cannot be mounted with FUSE: {unavailable}",
        dir.display(),
        path.display()
    ));
    match unpack::unpack(directory, &path) {
        Ok(()) => Ok(place),
        Err(source) => Err(Error::Unpack {
            unavailable,
            source,
        }),
    }
}

fn descriptor(opened: &OpenedDir) -> Result<OwnedFd, Error> {
    let copied = opened.as_fd().try_clone_to_owned();
    copied.map_err(|source| {
        let dir = opened.path().to_owned();
        format::Error::from(images::Error::Directory { dir, source }).into()
    })
}

impl Source {
    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Stock => None,
            Self::Fuse(server) | Self::FuseLazy(server) => Some(server.path()),
            Self::UnpackedWithin(store) => Some(store.place().to_owned()),
            Self::UnpackedElsewhere(dir) => Some(dir.path().to_owned()),
        }
    }
}
