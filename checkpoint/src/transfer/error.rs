//! Why a checkpoint can't be exported or imported.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::Fault;
use crate::format;
use crate::format::publish::is_full;

/// A failed transfer. There is no new file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint is damaged, or is none.
    #[error(transparent)]
    Format(#[from] format::Error),
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The new file can't be written.
    #[error("cannot write {}: {source}{}", path.display(), remedy(source))]
    Write {
        /// The new file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A foreign file is not read.
    #[error("{} is not an archive of a checkpoint that can be imported: {fault}{}", path.display(), advice(fault))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        fault: Fault,
    },
    /// The file is something else.
    #[error("{} cannot be imported: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        why: String,
    },
    /// Its memory is in two directories.
    #[error(
        "{} cannot be exported: part of its memory is in an earlier pre-dump, and one file has only one checkpoint; take the checkpoint without --parent-path or --with-previous", path.display()
    )]
    Parent {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Podman's format has no place for it, or needs more than is known.
    #[error("{} cannot be exported for Podman: {why}", path.display())]
    Podman {
        /// The checkpoint.
        path: PathBuf,
        /// The reason and the remedy.
        why: String,
    },
    /// The caller has gone away.
    #[error("cancelled; no file was written")]
    Cancelled,
}

impl Error {
    /// Whether the disk, or the user's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Write { source, .. } if is_full(source))
    }
}

fn advice(fault: &Fault) -> &'static str {
    match fault {
        Fault::Entry { .. } => {
            "; only plain files and directories are imported: export the checkpoint again, without an earlier pre-checkpoint"
        }
        _ => "",
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::InvalidFilename => {
            "; the name of one of its files is longer than an archive's names"
        }
        _ if is_full(error) => "; make room or choose another directory",
        _ => "",
    }
}

pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Read {
        path: path.clone(),
        source,
    }
}

pub(super) fn write(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Write {
        path: path.clone(),
        source,
    }
}
