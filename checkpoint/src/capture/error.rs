//! Errors of a capture.

use std::io;
use std::path::{Path, PathBuf};

/// The reason that page images could not be stored.
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
    /// zstd can't be set up.
    #[error("cannot compress: {0}")]
    Encoder(io::Error),
    /// CRIU wrote to a page image after closing it.
    #[error("{} has {found} bytes, of which {read} were stored: CRIU wrote to it after closing it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// Bytes that were stored.
        read: u64,
    },
    /// The store can't take the memory.
    #[error(transparent)]
    Store(#[from] cedana_store::Error),
    /// A thread or its pipe could not be created.
    #[error("cannot start storing page images: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether the disk, or the user's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } | Self::Store(cedana_store::Error::File { source, .. }) => {
                crate::format::publish::is_full(source)
            }
            Self::Store(cedana_store::Error::Quota { .. }) => true,
            _ => false,
        }
    }
}

/// Names the operation and the file of an error.
pub(super) fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        what,
        path: path.clone(),
        source,
    }
}
