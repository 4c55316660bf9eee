//! Errors of writing and publishing a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

use crate::opened::{Insecure, Refused};

/// The reason that a checkpoint could not be written or published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// Its file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another checkpoint is being written there.
    #[error("another checkpoint is being written to {}; wait for it to end, or choose another directory", dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
    /// Other users could read or change a checkpoint there.
    #[error(transparent)]
    Insecure(#[from] Insecure),
    /// An entry has a name of this program, and is not a directory of this program.
    #[error("{} is not what an interrupted checkpoint leaves: {why}; remove it, or use another copy of the checkpoint", path.display())]
    Leftover {
        /// The entry.
        path: PathBuf,
        /// What it is instead.
        why: Refused,
    },
    /// The earlier checkpoint is not beside the new one.
    #[error("{why}")]
    Parent {
        /// The fault of its path.
        why: Refused,
    },
}

impl Error {
    /// Whether the disk, or the user's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => is_full(source),
            _ => false,
        }
    }
}

/// Whether an error means that the disk, or the user's share of it, is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Names the operation and the file of an error.
pub(super) fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File {
        what,
        path: path.clone(),
        source,
    }
}
